//! `text/csv`: a line with the columns' names, then one line per flower.

use super::table::Columns;
use super::{BadRequest, refuse};
use crate::flowers::Flower;

pub(super) fn parse(body: &[u8]) -> Result<Vec<Flower>, BadRequest> {
    // Lines of differing length are not an error to the reader, so that the message is ours and names the row.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
    let columns = match reader.headers() {
        Ok(names) => Columns::named(names.iter().collect::<Vec<_>>().into_iter())?,
        Err(error) => return refuse(format_args!("the CSV header is not readable: {error}")),
    };
    let flower = |(row, record): (usize, csv::Result<csv::StringRecord>)| match record {
        Ok(record) => columns.flower(row, &record.iter().collect::<Vec<_>>()),
        Err(error) => refuse(format_args!("row {row} is not readable as CSV: {error}")),
    };
    reader.records().enumerate().map(flower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        parse(body.as_bytes()).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_header_and_rows_are_flowers() {
        let body = "sepal_length,sepal_width,petal_length,petal_width\r\n5.1,3.5,1.4,0.2\r\n6.2, 2.8, 4.8, 1.8";
        assert_eq!(parse(body.as_bytes()), Ok(vec![[5.1, 3.5, 1.4, 0.2], [6.2, 2.8, 4.8, 1.8]]));
    }

    #[test]
    fn quoted_names_and_other_columns_are_fine() {
        let body =
            "\"petal width (cm)\",petal length (cm),sepal width (cm),sepal length (cm),\"a,b\"\n0.2,1.4,3.5,5.1,x\n";
        assert_eq!(parse(body.as_bytes()), Ok(vec![[5.1, 3.5, 1.4, 0.2]]));
    }

    #[test]
    fn wrong_rows_and_cells_are_named() {
        let with = |row: &str| refusal(&format!("sepal_length,sepal_width,petal_length,petal_width\n1,2,3,4\n{row}\n"));
        assert_eq!(with("5.1,,1.4,0.2"), "row 1, column sepal_width: \"\" is not a finite number");
        assert_eq!(with("5.1,nan,1.4,0.2"), "row 1, column sepal_width: \"nan\" is not a finite number");
        assert!(with("5.1,3.5").starts_with("row 1 has 2 values for 4 columns"), "{}", with("5.1,3.5"));
    }

    #[test]
    fn a_body_without_a_header_or_in_another_encoding_is_refused() {
        assert_eq!(refusal(""), "columns sepal_length, sepal_width, petal_length, petal_width are missing");
        let bytes = b"sepal_length,sepal_width,petal_length,petal_width\n5.1,\xff,1.4,0.2\n";
        let message = parse(bytes).expect_err("it is refused").to_string();
        assert!(message.starts_with("row 0 is not readable as CSV"), "{message}");
    }
}
