//! What derived code is made of. Nothing here depends on the type of a field more than it must, so that a field is one call.

use std::fmt;
use std::time::Duration;

use super::error::{FIELDS, FieldError};
use super::read::FromJson;
use super::tree::{Json, Text};

/// What a type's objects look like.
#[derive(Debug)]
pub struct Shape {
    /// The names of its fields.
    pub names: &'static [&'static str],
    /// Whether no other names may stand there.
    pub strict: bool,
}

/// The members of an object, found by the places of their names in its [`Shape`], and what was wrong so far.
#[derive(Debug)]
pub struct Fields<'a, 'j> {
    members: &'a [(Text<'j>, Json<'j>)],
    shape: &'static Shape,
    /// For each field where it stands, counted from 1; 0: nowhere.
    places: &'a mut [u32],
    /// The misfit that stands first, and where that is.
    misfit: Option<(u32, FieldError)>,
}

/// A variant that is named: by its name alone, or by an object with its name and what it holds.
#[derive(Debug)]
pub struct Variant<'a, 'j> {
    /// Its place among the names.
    pub index: usize,
    name: &'static str,
    content: Option<&'a Json<'j>>,
}

/// Reads a `Raw`, of which a `T` can be made or not.
///
/// # Errors
/// It is no `Raw`, or one of which no `T` can be made.
pub fn converted<Raw: FromJson + TryInto<T, Error: fmt::Display>, T>(json: &Json<'_>) -> Result<T, FieldError> {
    Raw::from_json(json)?.try_into().map_err(|problem| FieldError::shown(&problem))
}

/// The place of the one name that is given, of an enum that has nothing but names.
///
/// # Errors
/// It is none of them.
#[inline(never)]
pub fn chosen(json: &Json<'_>, names: &'static [&'static str]) -> Result<usize, FieldError> {
    let variant = Variant::of(json, names)?;
    variant.alone().map(|()| variant.index)
}

fn place_of(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

// === impl Shape ===

impl Shape {
    /// Finds the fields of a value. What is no object is a misfit too, which stands before all others.
    #[inline(never)]
    pub fn fields<'a, 'j>(&'static self, json: &'a Json<'j>, places: &'a mut [u32]) -> Fields<'a, 'j> {
        let mut fields = Fields { members: &[], shape: self, places, misfit: None };
        let Json::Object(members) = json else {
            fields.note(0, FieldError::other_kind(json, FIELDS));
            return fields;
        };
        fields.members = members;
        // Records are written in the order of their fields.
        let mut next = 0_usize;
        for (place, (name, _)) in (1_u32..).zip(members) {
            let name = &*name.0;
            let index = if self.names.get(next) == Some(&name) { Some(next) } else { place_of(self.names, name) };
            match index.and_then(|index| fields.places.get_mut(index)) {
                Some(known) if *known == 0 => {
                    *known = place;
                    next = index.unwrap_or_default().saturating_add(1);
                }
                Some(_) => fields.note(place, FieldError::new(format!("duplicate field `{name}`"))),
                None if self.strict => {
                    fields.note(place, FieldError::unknown_field(name, self.names).in_member(name));
                }
                None => {}
            }
        }
        fields
    }
}

// === impl Fields ===

impl<'a, 'j> Fields<'a, 'j> {
    /// A field, if it is there and fits.
    pub fn find<T: FromJson>(&mut self, index: usize) -> Option<T> {
        self.find_by(index, T::from_json)
    }

    /// As [`Self::find`], read by a function.
    pub fn find_by<T>(&mut self, index: usize, read: impl FnOnce(&Json<'_>) -> Result<T, FieldError>) -> Option<T> {
        let read = read(self.member(index)?);
        self.kept(index, read)
    }

    /// A field that may be left out or null.
    pub fn optional<T: FromJson>(&mut self, index: usize) -> Option<T> {
        let json = self.member(index).filter(|json| !matches!(json, Json::Null))?;
        self.kept(index, T::from_json(json))
    }

    /// A part whose fields stand beside the others.
    pub fn beside<T: FromJson>(&mut self, json: &Json<'_>) -> Option<T> {
        T::from_json(json).map_err(|misfit| self.note(0, misfit)).ok()
    }

    /// Whether everything fits.
    pub const fn fit(&self) -> bool {
        self.misfit.is_none()
    }

    /// What does not fit, or else the first of the fields that may not be left out and is.
    #[inline(never)]
    pub fn misfit(self, required: &[usize]) -> FieldError {
        if let Some((_, misfit)) = self.misfit {
            return misfit;
        }
        let missing = required.iter().find(|index| self.places.get(**index) == Some(&0));
        let name = missing.and_then(|index| self.shape.names.get(*index)).copied().unwrap_or_default();
        FieldError::new(format!("missing field `{name}`"))
    }

    #[inline(never)]
    fn member(&self, index: usize) -> Option<&'a Json<'j>> {
        let place = usize::try_from(*self.places.get(index)?).ok()?.checked_sub(1)?;
        self.members.get(place).map(|(_, value)| value)
    }

    fn kept<T>(&mut self, index: usize, read: Result<T, FieldError>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(misfit) => {
                self.note_in(index, misfit);
                None
            }
        }
    }

    #[inline(never)]
    fn note_in(&mut self, index: usize, misfit: FieldError) {
        let name = self.shape.names.get(index).copied().unwrap_or_default();
        let place = self.places.get(index).copied().unwrap_or_default();
        self.note(place, misfit.in_member(name));
    }

    fn note(&mut self, place: u32, misfit: FieldError) {
        if self.misfit.as_ref().is_none_or(|(earlier, _)| place < *earlier) {
            self.misfit = Some((place, misfit));
        }
    }
}

// === impl Variant ===

impl<'a, 'j> Variant<'a, 'j> {
    /// Finds out which of `names` is given.
    ///
    /// # Errors
    /// None of them, or more than one.
    #[inline(never)]
    pub fn of(json: &'a Json<'j>, names: &'static [&'static str]) -> Result<Self, FieldError> {
        let (name, content) = match json {
            Json::Text(name) => (&**name, None),
            Json::Object(members) => match members.as_slice() {
                [(name, content)] => (&*name.0, Some(content)),
                _ => return Err(FieldError::unfit(json, "exactly one of the ways to write it")),
            },
            _ => return Err(FieldError::other_kind(json, "one of its names")),
        };
        let index = place_of(names, name).ok_or_else(|| FieldError::unknown_name(name, names))?;
        Ok(Self { index, name: names.get(index).copied().unwrap_or_default(), content })
    }

    /// Checks that it stands alone.
    ///
    /// # Errors
    /// Something goes with it.
    #[inline(never)]
    pub fn alone(&self) -> Result<(), FieldError> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(FieldError::kinds("an object", "a name alone belongs").in_member(self.name)),
        }
    }

    /// What it holds, of one type.
    ///
    /// # Errors
    /// Nothing goes with it, or something else.
    pub fn holding<T: FromJson>(&self) -> Result<T, FieldError> {
        T::from_json(self.content("an object with one member belongs")?).map_err(|misfit| self.within(misfit))
    }

    /// What it holds, in fields.
    ///
    /// # Errors
    /// Nothing goes with it.
    pub fn fields(&self) -> Result<&'a Json<'j>, FieldError> {
        self.content("an object with its fields belongs")
    }

    /// A misfit in what it holds.
    #[inline(never)]
    pub fn within(&self, misfit: FieldError) -> FieldError {
        misfit.in_member(self.name)
    }

    #[inline(never)]
    fn content(&self, expected: &str) -> Result<&'a Json<'j>, FieldError> {
        self.content.ok_or_else(|| FieldError::kinds("a name alone", expected))
    }
}

// === impl Duration ===

/// As serde writes it.
impl FromJson for Duration {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        static SHAPE: Shape = Shape { names: &["secs", "nanos"], strict: true };
        let mut places = [0; 2];
        let mut fields = SHAPE.fields(json, &mut places);
        match (fields.find(0), fields.find::<u32>(1), fields.fit()) {
            (Some(seconds), Some(nanos), true) => {
                Ok(Self::from_secs(seconds).saturating_add(Self::from_nanos(nanos.into())))
            }
            _ => Err(fields.misfit(&[0, 1])),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json::{FromJson, from_slice, from_str, from_value};

    #[derive(Debug, FromJson)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read into")]
    struct Outer {
        #[serde(default)]
        map: BTreeMap<String, Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        first: Option<Kind>,
    }

    #[derive(Debug, FromJson)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read into")]
    struct Inner {
        number: u8,
        text: Option<String>,
    }

    #[derive(Debug, FromJson)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
        Two(u8),
    }

    #[test]
    fn what_does_not_fit_is_reported_with_the_path_of_the_field() {
        let cases = [
            (json!([]), "", "a list is given where an object with its fields belongs"),
            (json!(7), "", "the number 7 is given where an object with its fields belongs"),
            (json!({"odd": 1}), "odd", "unknown field `odd`"),
            (json!({"map": {"a": {}}}), "map.a", "missing field `number`"),
            (json!({"map": {"a": {"text": "}{,\"\n"}}}), "map.a", "missing field `number`"),
            (json!({"map": {"a": {"number": 1}, "b": {"text": "x"}}}), "map.b", "missing field `number`"),
            (
                json!({"map": {"a": {"number": -1}}}),
                "map.a.number",
                "the number -1 does not fit: use a whole number from 0 to 255",
            ),
            (
                json!({"map": {"a": {"number": 1.5}}}),
                "map.a.number",
                "the number 1.5 is given where a whole number from 0 to 255 belongs",
            ),
            (json!({"first": null, "list": null}), "list", "null is given where a list belongs"),
            (
                json!({"map": {"a": {"number": 1, "text": 2}}}),
                "map.a.text",
                "the number 2 is given where a text belongs: write it in quotes, \"2\"",
            ),
            (
                json!({"map": {"a": {"number": 1, "text": {"number": 2}}}}),
                "map.a.text",
                "an object is given where a text belongs",
            ),
            (json!({"map": {"a": 1}}), "map.a", "the number 1 is given where"),
            (json!({"map": {"a": {"numbr": 1}}}), "map.a.numbr", "unknown field"),
            (
                json!({"list": [{"number": 1}, {"number": 300}]}),
                "list[1].number",
                "the number 300 does not fit: use a whole number from 0 to 255",
            ),
            (json!({"list": [{"number": 1}, {"number": 2}, {}]}), "list[2]", "missing field"),
            (json!({"list": {"number": 1}}), "list", "an object is given where a list belongs"),
            (json!({"first": "three"}), "first", "\"three\" is not known here: use `one` or `two`"),
            (
                json!({"first": {"two": "x"}}),
                "first.two",
                "the text \"x\" is given where a whole number from 0 to 255 belongs",
            ),
            (json!({"first": {"one": 1}}), "first.one", "a name alone"),
            (json!({"first": "two"}), "first", "an object with one member"),
            (json!({"first": {"one": 1, "two": 2}}), "first", "exactly one"),
            (json!({"first": {}}), "first", "exactly one"),
            (
                json!({"list": [{"number": 1, "text": "a"}], "map": {"x": {"number": "1"}}}),
                "map.x.number",
                "the text \"1\" is given where",
            ),
        ];
        for (document, path, problem) in cases {
            let misfit = from_value::<Outer>(&document).expect_err(problem);
            assert_eq!(misfit.path(), path, "{document}: {misfit:?}");
            assert!(misfit.problem().contains(problem), "{document}: {problem}");
        }
    }

    #[test]
    fn a_document_that_fits_is_read() {
        let document = json!({"map": {"a": {"number": 1, "text": "x"}}, "list": [{"number": 2}], "first": "one"});
        let outer: Outer = from_value(&document).expect("fits");
        assert_eq!((outer.map["a"].number, outer.list[0].number), (1, 2));
        assert!(matches!(outer.first, Some(Kind::One)));
        let two: Outer = from_value(&json!({"first": {"two": 2}})).expect("fits");
        assert!(matches!(two.first, Some(Kind::Two(2))));
    }

    #[test]
    fn the_misfit_that_stands_first_is_reported_and_what_is_missing_last() {
        let cases = [
            (r#"{"list": [{"text": 1}]}"#, "list[0].text"),
            (r#"{"list": 1, "map": 1, "odd": 1}"#, "list"),
            (r#"{"odd": 1, "map": 1}"#, "odd"),
            (r#"{"map": {"b": {}, "a": 1}}"#, "map.b"),
        ];
        for (text, path) in cases {
            assert_eq!(from_str::<Outer>(text).expect_err(path).path(), path, "{text}");
        }
    }

    #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, FromJson)]
    struct Part {
        by: String,
        forced: bool,
    }

    /// A record as it is written down, with what older and newer releases may write.
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, FromJson)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        first_one: u64,
        #[serde(flatten)]
        part: Part,
        #[serde(default)]
        numbers: BTreeMap<u32, i64>,
        #[serde(default = "seven")]
        share: f64,
        pair: (u8, Option<bool>),
        later: Option<Box<Newer>>,
        #[serde(skip)]
        kept_nowhere: u8,
        #[serde(default)]
        kinds: Vec<Held>,
        nothing: Option<[u64; 2]>,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, FromJson)]
    #[serde(default)]
    struct Newer {
        a: u8,
        value: serde_json::Value,
        span: Duration,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, FromJson)]
    #[serde(rename_all = "snake_case")]
    enum Held {
        NoMore,
        OnePart(Part),
        TwoParts(u8, u8),
        InFields { a: u8, b: Option<u8> },
    }

    fn seven() -> f64 {
        7.0
    }

    impl Default for Newer {
        fn default() -> Self {
            Self { a: 3, value: json!([1]), span: Duration::from_millis(1_500) }
        }
    }

    #[test]
    fn a_record_reads_as_serde_reads_it() {
        let part = || Part { by: "a".to_owned(), forced: true };
        let full = Record {
            first_one: u64::MAX,
            part: part(),
            numbers: [(1, -1), (70_000, i64::MIN)].into(),
            share: 0.1,
            pair: (255, Some(true)),
            later: Some(Box::default()),
            kept_nowhere: 0,
            kinds: vec![Held::NoMore, Held::OnePart(part()), Held::TwoParts(1, 2), Held::InFields { a: 1, b: None }],
            nothing: Some([1, 2]),
        };
        let full = serde_json::to_string(&full).expect("serialises");
        let small = r#"{"pair": [1, null], "by": "\u00e4\n", "forced": false, "firstOne": 2"#;
        let cases = [
            full,
            format!("{small}}}"),
            format!("{small}, \"odd\": [{{}}], \"odd\": 1}}"),
            format!("{small}, \"share\": 1, \"later\": null, \"nothing\": null}}"),
            format!("{small}, \"later\": {{\"a\": 9, \"b\": 9}}}}"),
            format!(
                "{small}, \"later\": {{\"value\": {{\"x\": [1.5, -2, null, \"\"]}}, \"span\": {{\"secs\": 1, \"nanos\": 2}}}}}}"
            ),
            // What serde refuses is refused.
            format!("{small}, \"firstOne\": 2}}"),
            format!("{small}, \"kinds\": [\"OnePart\"]}}"),
            format!("{small}, \"kinds\": [\"one_part\"]}}"),
            format!("{small}, \"kinds\": [{{\"in_fields\": {{}}}}]}}"),
            format!("{small}, \"numbers\": {{\"x\": 1}}}}"),
            format!("{small}, \"nothing\": [1]}}"),
            format!("{small}, \"share\": \"1\"}}"),
            format!("{small}, \"later\": 1}}"),
            small.to_owned(),
            "{}".to_owned(),
            "null".to_owned(),
        ];
        for text in cases {
            let (ours, serdes) = (from_slice::<Record>(text.as_bytes()), serde_json::from_str::<Record>(&text));
            assert_eq!(ours.ok(), serdes.ok(), "{text}");
        }
    }
}
