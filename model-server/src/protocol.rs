//! From the body of `POST /invocations` to flowers, and from species to the answer.
//!
//! The shapes are those of `mlflow models serve`, so that a client of this server is a client of MLflow's. One is
//! added: `{"data": [[…]]}`, which tutorials show and MLflow itself refuses. [`json`] and [`csv`] find columns and rows
//! in a body, [`table`] says which of them are valid.

mod csv;
mod json;
mod table;

use std::fmt::{self, Display};

use crate::flowers::Flower;

/// Why a body was refused. The text goes to the client as the `message` of a 400.
#[derive(Debug, PartialEq)]
pub struct BadRequest(String);

/// The formats of a body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Json,
    Csv,
}

/// The answer's body, spelled as Python's `json.dumps` does, because that is what MLflow's clients see.
pub fn answer(predictions: &[usize]) -> String {
    let list: Vec<String> = predictions.iter().map(ToString::to_string).collect();
    format!(r#"{{"predictions": [{}]}}"#, list.join(", "))
}

fn refuse<T>(message: impl Display) -> Result<T, BadRequest> {
    Err(BadRequest(message.to_string()))
}

// === impl Format ===

impl Format {
    /// The format of a media type. As in MLflow, it may have no parameter but `charset=utf-8`.
    pub fn of(content_type: &str) -> Option<Self> {
        let content_type = content_type.to_ascii_lowercase();
        let mut parts = content_type.split(';').map(str::trim);
        let format = match parts.next()? {
            "application/json" => Self::Json,
            "text/csv" => Self::Csv,
            _ => return None,
        };
        parts.all(|parameter| matches!(parameter, "" | "charset=utf-8")).then_some(format)
    }

    /// The flowers in a body: at least one.
    pub fn parse(self, body: &[u8]) -> Result<Vec<Flower>, BadRequest> {
        let flowers = match self {
            Self::Json => json::parse(body)?,
            Self::Csv => csv::parse(body)?,
        };
        if flowers.is_empty() { refuse("there is no row to predict") } else { Ok(flowers) }
    }
}

// === impl BadRequest ===

impl BadRequest {
    /// The refusal's body, as MLflow shapes it.
    pub fn body(&self) -> String {
        serde_json::json!({"error_code": "BAD_REQUEST", "message": self.0}).to_string()
    }

    /// The same refusal, saying which part of the body it is about.
    fn within(self, part: &str) -> Self {
        Self(format!("{part}: {}", self.0))
    }
}

impl Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_spelled_as_python_spells_it() {
        assert_eq!(answer(&[0, 1]), r#"{"predictions": [0, 1]}"#);
    }

    #[test]
    fn a_refusal_has_the_shape_of_mlflows_errors() {
        let body = BadRequest("no".to_owned()).within("inputs").body();
        assert_eq!(body, r#"{"error_code":"BAD_REQUEST","message":"inputs: no"}"#);
    }

    #[test]
    fn json_and_csv_are_known_with_no_parameter_but_utf_8() {
        assert_eq!(Format::of("application/json"), Some(Format::Json));
        assert_eq!(Format::of("Application/JSON; charset=UTF-8"), Some(Format::Json));
        assert_eq!(Format::of("text/csv"), Some(Format::Csv));
        for unknown in ["", "text/plain", "application/json; charset=latin-1", "application/json; header=present"] {
            assert_eq!(Format::of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_body_without_rows_is_refused() {
        let refusal = || refuse("there is no row to predict");
        assert_eq!(Format::Json.parse(br#"{"inputs": []}"#), refusal());
        assert_eq!(Format::Csv.parse(b"sepal_length,sepal_width,petal_length,petal_width\n"), refusal());
    }
}
