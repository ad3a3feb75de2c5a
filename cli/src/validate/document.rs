//! What is in a file: YAML or JSON documents as trees, whose every value knows its place and its path.

use std::fmt;
use std::rc::Rc;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

/// A document of a file.
#[derive(Debug)]
pub struct Document {
    /// The file, as it was named.
    pub file: Rc<str>,
    root: Node,
}

/// A value and where it stands.
#[derive(Debug)]
struct Node {
    place: Place,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Line and column, from 1; both 0 where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A text that is neither YAML nor JSON, and where that shows.
#[derive(Debug)]
pub struct Unreadable {
    /// Where.
    pub place: Place,
    /// Why.
    pub problem: String,
}

/// A value of a document, with the way to it.
#[derive(Clone, Debug)]
pub struct At<'d> {
    /// The document that it is in.
    pub document: &'d Document,
    /// The way from the document's root, such as `static_resources.listeners[0].name`.
    pub path: String,
    node: &'d Node,
}

/// The documents of a text.
///
/// # Errors
/// It is neither YAML nor JSON, or a name stands twice in an object.
pub fn read(file: &Rc<str>, text: &str) -> Result<Vec<Document>, Unreadable> {
    let documents = |roots: Vec<Node>| {
        let is_empty = |root: &Node| matches!(root.kind, Kind::Null);
        let roots = roots.into_iter().filter(|root| !is_empty(root));
        roots.map(|root| Document { file: Rc::clone(file), root }).collect()
    };
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_multiple_with_options::<Node>(text, options) {
        Ok(roots) => Ok(documents(roots)),
        // JSON that YAML does not take, such as one that is indented with tabs.
        Err(error) => match serde_json::from_str::<Node>(text) {
            Ok(root) => Ok(documents(vec![root])),
            Err(_) => {
                let place =
                    error.location().map_or_else(Place::default, |at| Place { line: at.line(), column: at.column() });
                Err(Unreadable { place, problem: plainly(&error.to_string()) })
            }
        },
    }
}

/// What the YAML reader says, without the place, which is shown before, and without words about its own options.
fn plainly(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let line = line.rsplit_once(" at line ").map_or(line, |(problem, _)| problem);
    match line.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split_once(", set ")) {
        Some((name, _)) => format!("{name:?} is given twice: only one of the two could count"),
        None => line.to_owned(),
    }
}

// === impl Document ===

impl Document {
    /// The whole.
    pub fn root(&self) -> At<'_> {
        At { document: self, path: String::new(), node: &self.root }
    }
}

// === impl At ===

impl<'d> At<'d> {
    /// Whether both are the same value of the same document.
    pub fn is_same(&self, other: &At<'_>) -> bool {
        self.path == other.path && std::ptr::eq(self.document, other.document)
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        self.node.place
    }

    /// A member of an object.
    pub fn get(&self, name: &str) -> Option<At<'d>> {
        let Kind::Object(members) = &self.node.kind else { return None };
        let (name, node) = members.iter().find(|(known, _)| known == name)?;
        (!matches!(node.kind, Kind::Null)).then(|| self.member(name, node))
    }

    /// A field of a message, by its name in protobuf or, as protobuf's JSON has it, in camel case.
    pub fn field(&self, name: &str) -> Option<At<'d>> {
        self.get(name).or_else(|| self.get(&camel_case(name)))
    }

    /// What a series of fields leads to.
    pub fn fields(&self, names: &[&str]) -> Option<At<'d>> {
        names.iter().try_fold(self.clone(), |at, name| at.field(name))
    }

    /// The elements of a list; none of anything else.
    pub fn elements(&self) -> Vec<At<'d>> {
        let Kind::List(elements) = &self.node.kind else { return Vec::new() };
        let element = |(place, node)| At { document: self.document, path: format!("{}[{place}]", self.path), node };
        elements.iter().enumerate().map(element).collect()
    }

    /// The elements of a list that is a field; none if it is not there.
    pub fn list(&self, name: &str) -> Vec<At<'d>> {
        self.field(name).map(|list| list.elements()).unwrap_or_default()
    }

    /// The members of an object, with their names.
    pub fn members(&self) -> Vec<(&'d str, At<'d>)> {
        let Kind::Object(members) = &self.node.kind else { return Vec::new() };
        members.iter().map(|(name, node)| (name.as_str(), self.member(name, node))).collect()
    }

    /// A text.
    pub fn text(&self) -> Option<&'d str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A field that is a text.
    pub fn text_of(&self, name: &str) -> Option<&'d str> {
        self.field(name)?.text()
    }

    /// Whether a field is `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.field(name).is_some_and(|field| matches!(field.node.kind, Kind::Bool(true)))
    }

    /// A whole number.
    pub fn number(&self) -> Option<u64> {
        match &self.node.kind {
            Kind::Number(number) => number.as_u64(),
            Kind::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.node.kind, Kind::Object(_))
    }

    /// What follows the last `/` of its `@type`, if it has one.
    pub fn type_name(&self) -> Option<&'d str> {
        let url = self.get("@type")?.text()?;
        Some(url.rsplit_once('/').map_or(url, |(_, name)| name))
    }

    /// As JSON. `whole_numbers_only`: as Envoy reads its own YAML, to which 12.5 is a text.
    pub fn json(&self, whole_numbers_only: bool) -> Value {
        self.node.json(whole_numbers_only)
    }

    /// The value that a path of the reader's leads to from here, or the last one on that way that is there.
    pub fn follow(&self, path: &str) -> At<'d> {
        let path = path.strip_prefix('.').unwrap_or(path);
        if path.is_empty() {
            return self.clone();
        }
        if let Some((place, rest)) = path.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let element = place.parse::<usize>().ok().and_then(|place| self.elements().into_iter().nth(place));
            return element.map_or_else(|| self.clone(), |element| element.follow(rest));
        }
        // A name may have dots: the longest that is there.
        let fits = |(name, member): (&str, At<'d>)| {
            let rest = path.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then_some((name.len(), rest, member))
        };
        let longest = self.members().into_iter().filter_map(fits).max_by_key(|(length, ..)| *length);
        longest.map_or_else(|| self.clone(), |(_, rest, member)| member.follow(rest))
    }

    /// The path of something in it.
    pub fn path_to(&self, path: &str) -> String {
        match (self.path.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (_, true) => self.path.clone(),
            _ if path.starts_with('[') => format!("{}{path}", self.path),
            _ => format!("{}.{path}", self.path),
        }
    }

    fn member(&self, name: &str, node: &'d Node) -> At<'d> {
        At { document: self.document, path: self.path_to(name), node }
    }
}

fn camel_case(name: &str) -> String {
    let mut camel = String::new();
    for (place, word) in name.split('_').enumerate() {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if place > 0 => camel.extend(first.to_uppercase()),
            Some(first) => camel.push(first),
            None => {}
        }
        camel.push_str(letters.as_str());
    }
    camel
}

// === impl Node ===

impl Node {
    fn json(&self, whole_numbers_only: bool) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(truth) => (*truth).into(),
            Kind::Number(number) if whole_numbers_only && number.is_f64() => number.to_string().into(),
            Kind::Number(number) => number.clone().into(),
            Kind::Text(text) => text.as_str().into(),
            Kind::List(elements) => elements.iter().map(|element| element.json(whole_numbers_only)).collect(),
            Kind::Object(members) => {
                let member = |(name, node): &(String, Self)| (name.clone(), node.json(whole_numbers_only));
                Value::Object(members.iter().map(member).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: kind, referenced, .. } = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { place: Place { line: referenced.line(), column: referenced.column() }, kind })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML or JSON")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }

            fn visit_none<E: de::Error>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Kind, E> {
                Ok(Kind::Bool(truth))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Kind, E> {
                Ok(Kind::Number(number.into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Kind, E> {
                Ok(Kind::Number(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Kind, E> {
                Ok(Number::from_f64(number).map_or_else(|| Kind::Text(number.to_string()), Kind::Number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Kind, E> {
                Ok(Kind::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Kind::List(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Kind, A::Error> {
                let mut members: Vec<(String, Node)> = Vec::new();
                while let Some(name) = object.next_key::<Spanned<String>>()? {
                    let mut node: Node = object.next_value()?;
                    if members.iter().any(|(known, _)| *known == name.value) {
                        let problem = format!("{:?} is given twice: only one of the two could count", name.value);
                        return Err(de::Error::custom(problem));
                    }
                    // What has members is found by its name.
                    if matches!(node.kind, Kind::List(_) | Kind::Object(_)) && name.referenced.line() > 0 {
                        node.place = Place { line: name.referenced.line(), column: name.referenced.column() };
                    }
                    members.push((name.value, node));
                }
                Ok(Kind::Object(members))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Document {
        read(&"f.yaml".into(), text).expect("readable").remove(0)
    }

    #[test]
    fn each_value_knows_its_line_and_its_path() {
        let document = one("a:\n  b-c:\n  - x: 1\n  - {y: [true, 2.5]}\nd: \"7\"\n");
        let y = document.root().follow("a.b-c[1].y[1]");
        assert_eq!((y.path.as_str(), y.place()), ("a.b-c[1].y[1]", Place { line: 4, column: 16 }));
        assert_eq!((y.json(false), y.json(true)), (2.5.into(), "2.5".into()));
        assert_eq!(document.root().get("d").and_then(|d| d.text()), Some("7"));
        assert_eq!(document.root().follow("a.b-c[7].z").path, "a.b-c");
        assert_eq!(document.root().get("a").map(|a| a.place()), Some(Place { line: 1, column: 1 }));
    }

    #[test]
    fn what_stands_behind_an_alias_is_found_where_it_is_used() {
        let document = one("a: &a {x: 1}\nb: *a\n");
        let b = document.root().follow("b.x");
        assert_eq!((b.path.as_str(), b.json(false)), ("b.x", 1.into()));
    }

    #[test]
    fn fields_of_messages_have_two_names() {
        let document = one("{\"clusterHeader\": \"x\"}");
        assert_eq!(document.root().text_of("cluster_header"), Some("x"));
        assert_eq!(document.root().get("cluster_header").map(|at| at.path), None);
    }

    #[test]
    fn a_file_may_have_several_documents_and_json_may_have_tabs() {
        let file = "f.yaml".into();
        assert_eq!(read(&file, "a: 1\n---\n---\nb: 2\n").expect("readable").len(), 2);
        assert_eq!(read(&file, "{\n\t\"a\": 1\n}\n").expect("readable").len(), 1);
    }

    #[test]
    fn what_is_no_yaml_and_a_name_that_stands_twice_are_told_with_their_line() {
        for (text, line, word) in [
            ("a: [1\nb: 2\n", 2, "illegal placement of ':' indicator"),
            ("a: 1\na: 2\n", 2, "\"a\" is given twice: only one of the two could count"),
        ] {
            let error = read(&"f.yaml".into(), text).expect_err(text);
            assert_eq!(error.place.line, line, "{error:?}");
            assert!(error.problem.contains(word) && !error.problem.contains("at line"), "{error:?}");
        }
    }
}
