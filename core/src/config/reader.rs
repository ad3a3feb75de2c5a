//! Reading configuration types out of a document, with the path of the field that does not fit.
//!
//! The reader that serde_json has for its values forgets where it is. A tracker around it exists as a crate, which makes
//! every configuration type's code twice and the module some 140 KB larger. This reader adds the path to an error on its
//! way up, which costs next to nothing.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// What is wrong with a document, and with which of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The way to the field, innermost first.
    steps: Vec<PathStep>,
    problem: String,
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PathStep {
    Instance(String),
    Place(usize),
}

/// A value of the document.
#[derive(Clone, Copy)]
struct ValueDeserializer<'de>(&'de Value);

/// The members of an object that have not been read.
struct MapReader<'de> {
    rest: serde_json::map::Iter<'de>,
    current: Option<(&'de String, &'de Value)>,
}

/// The elements of a list that have not been read.
struct SeqReader<'de>(std::iter::Enumerate<std::slice::Iter<'de, Value>>);

/// A variant of an enum: its name alone, or an object with its name and what it holds.
struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Value>,
}

/// Reads a `T` out of a document.
///
/// # Errors
/// The first field that is missing, unknown, of the wrong kind or against its own rules.
pub fn read<T: DeserializeOwned>(document: &Value) -> Result<T, FieldError> {
    T::deserialize(ValueDeserializer(document))
}

// === impl FieldError ===

impl FieldError {
    /// The fields from the outermost in, joined by dots, with list places in brackets; empty for the whole document.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                PathStep::Instance(name) if path.is_empty() => path.push_str(name),
                PathStep::Instance(name) => path.extend([".", name]),
                PathStep::Place(place) => path.push_str(&format!("[{place}]")),
            }
        }
        path
    }

    /// What is wrong.
    pub fn problem(self) -> String {
        self.problem
    }

    fn within(mut self, step: PathStep) -> Self {
        self.steps.push(step);
        self
    }

    fn in_member(self, name: &str) -> Self {
        self.within(PathStep::Instance(name.to_owned()))
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for FieldError {}

/// What serde says of a misfit names types of Rust, which tell a user nothing: these say the same in the words of a
/// document.
impl de::Error for FieldError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { steps: Vec::new(), problem: problem.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = kind(expected);
        let quoted = match found {
            Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_)
                if expected == TEXT =>
            {
                format!(": write it in quotes, \"{}\"", found_value(found))
            }
            _ => String::new(),
        };
        Self::custom(format!("{} is given where {expected} belongs{quoted}", described(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("{} does not fit: use {}", described(found), kind(expected)))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format!("{name:?} is not known here: use {}", listed(known)))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown field `{name}`: use {}", listed(known)))
    }
}

/// What a text is called in a message.
const TEXT: &str = "a text";

/// What was found, with its value if that is short by nature.
fn described(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(_) => found_value(found),
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => {
            format!("the number {}", found_value(found))
        }
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::UnitVariant => "a name alone".to_owned(),
        Unexpected::NewtypeVariant | Unexpected::TupleVariant | Unexpected::StructVariant => "an object".to_owned(),
        Unexpected::Other(what) => what.to_owned(),
        _ => "something else".to_owned(),
    }
}

fn found_value(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(truth) => truth.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        _ => String::new(),
    }
}

/// What belongs in a place, from what a type of Rust says that it expects.
fn kind(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    let range = |most: u64| format!("a whole number from 0 to {most}");
    match text.as_str() {
        "a string" | "string" | "a borrowed string" => TEXT.to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object with names and values".to_owned(),
        "u8" => range(u8::MAX.into()),
        "u16" => range(u16::MAX.into()),
        "u32" => range(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "unit" => "nothing".to_owned(),
        _ if text.starts_with("a nonzero") => "a whole number above 0".to_owned(),
        _ if ["struct ", "tuple ", "unit "].iter().any(|word| text.starts_with(word)) => {
            "an object with its fields".to_owned()
        }
        _ if text.starts_with("enum ") => "one of its names".to_owned(),
        _ => text,
    }
}

fn listed(known: &[&str]) -> String {
    match known {
        [] => "none".to_owned(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

// === impl ValueDeserializer ===

impl<'de> Deserializer<'de> for ValueDeserializer<'de> {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(elements) => visitor.visit_seq(SeqReader(elements.iter().enumerate())),
            Value::Object(members) => visitor.visit_map(MapReader { rest: members.iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant { name, content: None }),
            Value::Object(members) => {
                let mut members = members.iter();
                match (members.next(), members.next()) {
                    (Some((name, content)), None) => visitor.visit_enum(Variant { name, content: Some(content) }),
                    _ => Err(FieldError::invalid_value(Unexpected::Map, &"exactly one of the ways to write it")),
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// Sections are written with names: a list of values without them is nobody's intention.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        if self.0.is_array() {
            Err(FieldError::invalid_type(Unexpected::Seq, &visitor))
        } else {
            self.deserialize_any(visitor)
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

// === impl MapReader ===

impl<'de> MapAccess<'de> for MapReader<'de> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, FieldError> {
        self.current = self.rest.next();
        let Some((name, _)) = self.current else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(name)).map(Some).map_err(|misfit: FieldError| misfit.in_member(name))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, FieldError> {
        let Some((name, value)) = self.current else { return Err(FieldError::custom("a value without its name")) };
        seed.deserialize(ValueDeserializer(value)).map_err(|misfit| misfit.in_member(name))
    }
}

// === impl SeqReader ===

impl<'de> SeqAccess<'de> for SeqReader<'de> {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FieldError> {
        let Some((place, element)) = self.0.next() else { return Ok(None) };
        seed.deserialize(ValueDeserializer(element)).map(Some).map_err(|misfit| misfit.within(PathStep::Place(place)))
    }
}

// === impl Variant ===

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = FieldError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), FieldError> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'de> Variant<'de> {
    fn content(&self, visitor_expects: &dyn Expected) -> Result<ValueDeserializer<'de>, FieldError> {
        self.content
            .map(ValueDeserializer)
            .ok_or_else(|| FieldError::invalid_type(Unexpected::UnitVariant, visitor_expects))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = FieldError;

    fn unit_variant(self) -> Result<(), FieldError> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(FieldError::invalid_type(Unexpected::NewtypeVariant, &"a name alone").in_member(self.name)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, FieldError> {
        seed.deserialize(self.content(&"an object with one member")?).map_err(|misfit| misfit.in_member(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, FieldError> {
        self.content(&visitor)?.deserialize_any(visitor).map_err(|misfit| misfit.in_member(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, FieldError> {
        self.content(&visitor)?.deserialize_any(visitor).map_err(|misfit| misfit.in_member(self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read into")]
    struct Outer {
        #[serde(default)]
        map: BTreeMap<String, Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        first: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read into")]
    struct Inner {
        number: std::num::NonZeroU8,
        text: Option<String>,
    }

    #[derive(Debug, Deserialize)]
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
                json!({"map": {"a": {"number": 0}}}),
                "map.a.number",
                "the number 0 does not fit: use a whole number above 0",
            ),
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
                "the number 300 does not fit: use a whole number above 0",
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
            let misfit = read::<Outer>(&document).expect_err(problem);
            assert_eq!(misfit.path(), path, "{document}: {misfit:?}");
            assert!(misfit.problem().contains(problem), "{document}: {problem}");
        }
    }

    #[test]
    fn a_document_that_fits_is_read() {
        let document = json!({"map": {"a": {"number": 1, "text": "x"}}, "list": [{"number": 2}], "first": "one"});
        let outer: Outer = read(&document).expect("fits");
        assert_eq!((outer.map["a"].number.get(), outer.list[0].number.get()), (1, 2));
        assert!(matches!(outer.first, Some(Kind::One)));
        let two: Outer = read(&json!({"first": {"two": 2}})).expect("fits");
        assert!(matches!(two.first, Some(Kind::Two(2))));
    }
}
