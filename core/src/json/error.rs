//! What does not fit, where, in the words of a document.

use std::fmt;

use super::tree::Json;

/// What is wrong with a document, and with which of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError(Box<Misfit>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Misfit {
    /// The way to the field, innermost first.
    steps: Vec<PathStep>,
    problem: String,
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PathStep {
    Member(String),
    Place(usize),
}

/// What a text is called in a message.
pub(super) const TEXT: &str = "a text";

/// What a map is called in a message.
pub(super) const MEMBERS: &str = "an object with names and values";

/// What a section is called in a message.
pub(super) const FIELDS: &str = "an object with its fields";

// === impl FieldError ===

impl FieldError {
    /// That a value as a whole does not fit.
    #[inline(never)]
    pub fn new(problem: impl Into<String>) -> Self {
        Self(Box::new(Misfit { steps: Vec::new(), problem: problem.into() }))
    }

    /// That a rule is broken which says so itself.
    pub(super) fn shown(problem: &dyn fmt::Display) -> Self {
        Self::new(problem.to_string())
    }

    /// That a value is of another kind than `expected`.
    #[inline(never)]
    pub fn other_kind(found: &Json<'_>, expected: &str) -> Self {
        let quoted = match found {
            Json::Bool(_) | Json::Whole(_) | Json::Negative(_) | Json::Double(_) if expected == TEXT => {
                format!(": write it in quotes, \"{}\"", plain(found))
            }
            _ => String::new(),
        };
        Self::kinds(&described(found), &format!("{expected} belongs{quoted}"))
    }

    /// That the only thing which belongs somewhere is something else.
    pub(super) fn kinds(found: &str, expected: &str) -> Self {
        Self::new(format!("{found} is given where {expected}"))
    }

    /// That a value is of the right kind and not one of those that may be.
    #[inline(never)]
    pub fn unfit(found: &Json<'_>, expected: &str) -> Self {
        Self::new(format!("{} does not fit: use {expected}", described(found)))
    }

    pub(super) fn unknown_name(name: &str, known: &[&str]) -> Self {
        Self::new(format!("{name:?} is not known here: use {}", listed(known)))
    }

    pub(super) fn unknown_field(name: &str, known: &[&str]) -> Self {
        Self::new(format!("unknown field `{name}`: use {}", listed(known)))
    }

    /// The fields from the outermost in, joined by dots, with list places in brackets; empty for the whole document.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in self.0.steps.iter().rev() {
            match step {
                PathStep::Member(name) if path.is_empty() => path.push_str(name),
                PathStep::Member(name) => path.extend([".", name]),
                PathStep::Place(place) => path.push_str(&format!("[{place}]")),
            }
        }
        path
    }

    /// What is wrong.
    pub fn problem(self) -> String {
        self.0.problem
    }

    #[inline(never)]
    pub(super) fn in_member(mut self, name: &str) -> Self {
        self.0.steps.push(PathStep::Member(name.to_owned()));
        self
    }

    #[inline(never)]
    pub(super) fn in_place(mut self, place: usize) -> Self {
        self.0.steps.push(PathStep::Place(place));
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.problem)
    }
}

impl std::error::Error for FieldError {}

/// What was found, with its value if that is short by nature.
fn described(found: &Json<'_>) -> String {
    match found {
        Json::Null => "null".to_owned(),
        Json::Bool(_) => plain(found),
        Json::Whole(_) | Json::Negative(_) | Json::Double(_) => format!("the number {}", plain(found)),
        Json::Text(text) => format!("the text {text:?}"),
        Json::List(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

fn plain(found: &Json<'_>) -> String {
    match found {
        Json::Bool(truth) => truth.to_string(),
        Json::Whole(number) => number.to_string(),
        Json::Negative(number) => number.to_string(),
        Json::Double(number) => number.to_string(),
        _ => String::new(),
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
