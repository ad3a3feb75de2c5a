//! An answer, as the values of its fields.
//!
//! A field is a place in the answer's JSON, as a pointer in which `*` stands for each place of a list: `/predictions/*`. All
//! values of a field stand in one list, each with the place that it had, so that two answers are compared field by field in one
//! pass, and the order in which an object's members are written makes no difference.
//!
//! | protocol | recognised by | what is compared |
//! | --- | --- | --- |
//! | Open Inference Protocol V2 | `outputs` of objects with a `name` | of each output, by its name: `shape`, `datatype`, and `data` as one flat list |
//! | OpenAI: chat, completions | `choices` of objects | `finish_reason`; `message`: `role`, `content`, `refusal`, of `tool_calls` the names and the names of the arguments; `text` |
//! | OpenAI: embeddings | `data` of objects with an `embedding` | the vectors, as lists of numbers or base64 of little-endian 32-bit floats |
//! | MLflow, KServe V1, TensorFlow Serving, any other | | everything, save [`NEVER`] at the top |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Number;
use xxhash_rust::xxh64::xxh64;

use super::dropped::Dropped;
use crate::config::{Compare, IgnoredField};
use crate::json::{Json, Text, parse};
use crate::model::sorted_map::SortedMap;

/// What one colour answered: a status, and the values by field.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    status: u16,
    has_binary: bool,
    is_readable: bool,
    fields: SortedMap<u64, Field>,
    /// All texts, one behind the other.
    texts: String,
    /// All vectors, one behind the other.
    vectors: Vec<f64>,
}

/// The values of one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    /// Its name, at most [`LONGEST_NAME`] bytes.
    pub name: String,
    /// Its place among the fields, as they were met.
    pub order: usize,
    values: Vec<Value>,
}

/// A value: 16 bytes, since there can be half a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Stands for the places in the lists that lead to it.
    pub place: u32,
    kind: Kind,
    bits: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    True,
    False,
    Whole,
    Negative,
    Double,
    Text,
    /// A text that is no label.
    Prose,
    /// The length of a text in characters, which is measured and never disagrees.
    Length,
    Vector,
    /// A name that stands there, whatever its value.
    Name,
    EmptyList,
    EmptyObject,
}

/// What a [`Value`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Content<'a> {
    Null,
    Bool(bool),
    Whole(u64),
    Negative(i64),
    Double(f64),
    Text(&'a str),
    Prose(&'a str),
    Length(f64),
    Vector(&'a [f64]),
    Name,
    EmptyList,
    EmptyObject,
}

/// Where a walk through the JSON is.
#[derive(Clone, Copy)]
struct At {
    /// Stands for the names that lead there.
    field: u64,
    /// Stands for the places in lists that lead there.
    place: u32,
    /// How many steps lead there.
    depth: usize,
    /// The rules of `ignore` that have led there so far, a bit each.
    live: u32,
    /// How much of the walk's name leads there.
    named: usize,
}

/// Collects the fields of an answer.
struct Walk<'r> {
    ignore: &'r [IgnoredField],
    name: String,
    answer: Answer,
}

/// Members at the top of an answer that name the request, the model or the cost: they differ for models that agree.
pub const NEVER: [&str; 8] =
    ["id", "created", "model", "model_name", "model_version", "usage", "system_fingerprint", "request_id"];

/// The name of the field that is the answer as a whole.
pub(super) const WHOLE: &str = "/";

/// The name of all fields that have no place of their own.
pub(super) const OTHER: &str = "other";

/// Longer names are cut.
const LONGEST_NAME: usize = 80;

/// All further fields of an answer are one, in which the order counts.
const MOST_FIELDS: usize = 256;

/// How much memory the tree of an answer may take while it is read, in bytes.
const LARGEST_TREE: usize = 32 << 20;

/// So many values are shown before the one that counts.
const SHOWN_BEFORE: usize = 16;

/// Places that a list or an object of the tree takes at once.
const FEW: usize = 8;

/// What stands in the place of a number that JSON does not know. No text begins so that people write.
const MARK: char = '\0';

// === impl Answer ===

impl Answer {
    /// Reads an answer.
    ///
    /// `json_length` is what the header `Inference-Header-Content-Length` says: what follows so many bytes is binary. The body
    /// of an answer that is no 2xx is not looked at.
    ///
    /// # Errors
    /// [`Dropped::NotJson`], [`Dropped::TooLarge`], or [`Dropped::UnknownShape`] if there is nothing to compare in it.
    pub fn read(status: u16, body: &[u8], json_length: Option<usize>, rules: &Compare) -> Result<Self, Dropped> {
        let mut answer = Self {
            status,
            has_binary: false,
            is_readable: true,
            fields: SortedMap::default(),
            texts: String::new(),
            vectors: Vec::new(),
        };
        if !answer.is_2xx() {
            return Ok(answer);
        }
        let (json, binary) = body.split_at_checked(json_length.unwrap_or(body.len())).unwrap_or((body, b""));
        answer.has_binary = !binary.is_empty();
        if weight(json) > LARGEST_TREE {
            return Err(Dropped::TooLarge);
        }
        let mut walk = Walk { ignore: &rules.ignore, name: String::new(), answer };
        match parse(json) {
            Ok(tree) => walk.all(&tree, rules),
            Err(_) => walk.all(&parse(&with_marks(json)).map_err(|_| Dropped::NotJson)?, rules),
        }
        if walk.answer.fields.is_empty() { Err(Dropped::UnknownShape) } else { Ok(walk.answer) }
    }

    /// As [`Self::read`], for an answer that is compared with one that could be read: if it cannot, it differs from all that
    /// can, and is no reason to compare nothing.
    ///
    /// # Errors
    /// [`Dropped::TooLarge`]
    pub fn read_other(status: u16, body: &[u8], json_length: Option<usize>, rules: &Compare) -> Result<Self, Dropped> {
        match Self::read(status, body, json_length, rules) {
            Err(Dropped::NotJson | Dropped::UnknownShape) => Ok(Self {
                status,
                has_binary: false,
                is_readable: false,
                fields: SortedMap::default(),
                texts: String::new(),
                vectors: Vec::new(),
            }),
            read => read,
        }
    }

    /// The status, 100 to 599.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether a binary part was left out.
    pub const fn has_binary(&self) -> bool {
        self.has_binary
    }

    /// Whether the status is a 2xx.
    pub(super) fn is_2xx(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the body could be read.
    pub(super) const fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// The fields by what stands for their names.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&u64, &Field)> + Clone {
        self.fields.iter()
    }

    /// The field with this name.
    pub(super) fn named(&self, name: &str) -> Option<&Field> {
        self.fields.values().find(|field| field.name == name)
    }

    /// What a value of this answer is.
    pub(super) fn content(&self, value: Value) -> Content<'_> {
        let (start, length) = ((value.bits >> 32) as usize, (value.bits & 0xffff_ffff) as usize);
        let end = start.saturating_add(length);
        let text = || self.texts.get(start..end).unwrap_or_default();
        match value.kind {
            Kind::Null => Content::Null,
            Kind::True => Content::Bool(true),
            Kind::False => Content::Bool(false),
            Kind::Whole => Content::Whole(value.bits),
            Kind::Negative => Content::Negative(value.bits.cast_signed()),
            Kind::Double => Content::Double(f64::from_bits(value.bits)),
            Kind::Text => Content::Text(text()),
            Kind::Prose => Content::Prose(text()),
            Kind::Length => Content::Length(f64::from_bits(value.bits)),
            Kind::Vector => Content::Vector(self.vectors.get(start..end).unwrap_or_default()),
            Kind::Name => Content::Name,
            Kind::EmptyList => Content::EmptyList,
            Kind::EmptyObject => Content::EmptyObject,
        }
    }

    /// Keeps a text, and says where.
    fn keep(&mut self, text: &str) -> u64 {
        let start = self.texts.len();
        self.texts.push_str(text);
        packed(start, text.len())
    }
}

/// A place among the texts or vectors, which are shorter than a body.
fn packed(start: usize, length: usize) -> u64 {
    ((start as u64) << 32) | (length as u64 & 0xffff_ffff)
}

/// How much memory the tree of this JSON takes at most, in bytes.
fn weight(json: &[u8]) -> usize {
    const ELEMENT: usize = size_of::<Json<'_>>();
    const MEMBER: usize = size_of::<(Text<'_>, Json<'_>)>();
    let mut weight = 0_usize;
    outside_of_texts(json, &mut |byte, _| {
        weight = weight.saturating_add(match byte {
            b',' => MEMBER,
            b'[' => FEW.saturating_mul(ELEMENT),
            b'{' => FEW.saturating_mul(MEMBER),
            _ => 0,
        });
    });
    weight
}

/// Shows each byte that is not within a text, with its place.
fn outside_of_texts(json: &[u8], look: &mut dyn FnMut(u8, usize)) {
    let (mut within, mut escaped) = (false, false);
    for (place, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if within => escaped = true,
            b'"' => within = !within,
            _ if within => {}
            _ => look(*byte, place),
        }
    }
}

/// The same with texts in the place of the numbers that Python writes and JSON does not know.
fn with_marks(json: &[u8]) -> Vec<u8> {
    const WORDS: [(&[u8], &[u8]); 3] =
        [(b"-Infinity", b"\"\\u0000-Infinity\""), (b"Infinity", b"\"\\u0000Infinity\""), (b"NaN", b"\"\\u0000NaN\"")];
    let mut marked = Vec::with_capacity(json.len().saturating_add(64));
    let mut taken = 0_usize;
    outside_of_texts(json, &mut |byte, place| {
        if place < taken || !b"-IN".contains(&byte) {
            return;
        }
        let rest = json.get(place..).unwrap_or_default();
        if let Some((word, mark)) = WORDS.iter().find(|(word, _)| rest.starts_with(word)) {
            marked.extend_from_slice(json.get(taken..place).unwrap_or_default());
            marked.extend_from_slice(mark);
            taken = place.saturating_add(word.len());
        }
    });
    marked.extend_from_slice(json.get(taken..).unwrap_or_default());
    marked
}

/// The number, if it is one.
fn number(json: &Json<'_>) -> Option<f64> {
    match json.as_text() {
        Some(text) => text.strip_prefix(MARK)?.parse().ok(),
        None => json.as_f64(),
    }
}

fn list<'a, 'j>(json: Option<&'a Json<'j>>) -> Option<&'a [Json<'j>]> {
    if let Some(Json::List(elements)) = json { Some(elements) } else { None }
}

// === impl Walk ===

impl Walk<'_> {
    /// All that is compared of an answer.
    fn all(&mut self, tree: &Json<'_>, rules: &Compare) {
        let root = At { field: 0, place: 0, depth: 0, live: self.all_rules(), named: 0 };
        if self.ignore.iter().any(|rule| rule.steps().is_empty()) {
            return;
        }
        match &rules.pointer {
            Some(pointer) => self.pointed(root, tree, pointer.as_str()),
            None => self.protocol(root, tree),
        }
    }

    fn all_rules(&self) -> u32 {
        self.ignore.iter().enumerate().fold(0, |live, (rule, _)| live | bit(rule))
    }

    fn pointed(&mut self, mut at: At, mut json: &Json<'_>, pointer: &str) {
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let below = match json {
                Json::List(elements) => step.parse().ok().and_then(|index| {
                    let element: &Json<'_> = elements.get(index)?;
                    Some((self.element(at, index)?, element))
                }),
                _ => json.get(&step).and_then(|value| Some((self.member(at, &step)?, value))),
            };
            let Some(below) = below else { return };
            (at, json) = below;
        }
        self.value(at, json);
    }

    fn protocol(&mut self, root: At, tree: &Json<'_>) {
        let is_object = |json: &&Json<'_>| matches!(json, Json::Object(_));
        if let Some(outputs) = list(tree.get("outputs"))
            && outputs.first().is_some_and(|output| output.get("name").is_some_and(|name| name.as_text().is_some()))
        {
            self.open_inference(root, outputs);
        } else if let Some(choices) = list(tree.get("choices"))
            && choices.first().filter(is_object).is_some()
        {
            self.choices(root, choices);
        } else if let Some(data) = list(tree.get("data"))
            && data.first().is_some_and(|first| first.get("embedding").is_some())
        {
            self.embeddings(root, data);
        } else if let Json::Object(members) = tree {
            for (name, value) in members.iter().filter(|(name, _)| !NEVER.contains(&&*name.0)) {
                if let Some(at) = self.member(root, &name.0) {
                    self.value(at, value);
                }
            }
        } else {
            self.value(root, tree);
        }
    }

    /// Open Inference Protocol V2. What is in the binary part has no `data`.
    fn open_inference(&mut self, root: At, outputs: &[Json<'_>]) {
        let Some(above) = self.member(root, "outputs") else { return };
        for (index, output) in outputs.iter().enumerate() {
            let name = output.get("name").and_then(Json::as_text).unwrap_or_default();
            let Some(named) = self.named_element(above, name, index) else { continue };
            for member in ["shape", "datatype"] {
                self.part(named, output, member);
            }
            if let Some(data) = output.get("data")
                && let Some(at) = self.member(named, "data")
            {
                self.flat(at, data, &mut 0);
            }
        }
    }

    /// A tensor, nested or not, in the order of its elements.
    fn flat(&mut self, at: At, data: &Json<'_>, count: &mut u32) {
        if let Json::List(elements) = data {
            elements.iter().for_each(|element| self.flat(at, element, count));
        } else {
            *count = count.wrapping_add(1);
            self.value(At { place: *count, ..at }, data);
        }
    }

    fn choices(&mut self, root: At, choices: &[Json<'_>]) {
        let Some(above) = self.member(root, "choices") else { return };
        self.count(above, choices.len());
        for (index, choice) in choices.iter().enumerate() {
            let Some(at) = self.element(above, index) else { continue };
            self.part(at, choice, "finish_reason");
            self.prose(at, choice, "text");
            let Some(message) = choice.get("message") else { continue };
            let Some(at) = self.member(at, "message") else { continue };
            self.part(at, message, "role");
            self.prose(at, message, "content");
            self.prose(at, message, "refusal");
            if let Some(call) = message.get("function_call")
                && let Some(at) = self.member(at, "function_call")
            {
                self.call(at, call);
            }
            let Some(calls) = list(message.get("tool_calls")) else { continue };
            let Some(above) = self.member(at, "tool_calls") else { continue };
            self.count(above, calls.len());
            for (index, call) in calls.iter().enumerate() {
                let function = call.get("function").unwrap_or(&Json::Null);
                let at = self.element(above, index).and_then(|at| self.member(at, "function"));
                if let Some(at) = at {
                    self.call(at, function);
                }
            }
        }
    }

    /// A call of a function: its name, and the names of its arguments, which are JSON in a text.
    fn call(&mut self, at: At, function: &Json<'_>) {
        self.part(at, function, "name");
        let Some(text) = function.get("arguments") else { return };
        let Some(at) = self.member(at, "arguments") else { return };
        let written = text.as_text().unwrap_or_default().as_bytes();
        let arguments = if weight(written) <= LARGEST_TREE { parse(written).ok() } else { None };
        match arguments {
            Some(Json::Object(arguments)) => {
                if arguments.is_empty() {
                    self.push(at, Kind::EmptyObject, 0);
                }
                for (name, _) in &arguments {
                    if let Some(at) = self.member(at, &name.0) {
                        self.push(at, Kind::Name, 0);
                    }
                }
            }
            _ => self.value(at, text),
        }
    }

    fn embeddings(&mut self, root: At, data: &[Json<'_>]) {
        let Some(above) = self.member(root, "data") else { return };
        self.count(above, data.len());
        for (index, entry) in data.iter().enumerate() {
            let Some(embedding) = entry.get("embedding") else { continue };
            let Some(at) = self.element(above, index).and_then(|at| self.member(at, "embedding")) else { continue };
            let start = self.answer.vectors.len();
            let is_vector = match embedding {
                Json::List(elements) => elements.iter().all(|element| {
                    let number = number(element);
                    self.answer.vectors.extend(number);
                    number.is_some()
                }),
                Json::Text(text) => STANDARD.decode(text.as_bytes()).is_ok_and(|bytes| {
                    let (floats, rest) = bytes.as_chunks::<4>();
                    self.answer.vectors.extend(floats.iter().map(|float| f64::from(f32::from_le_bytes(*float))));
                    rest.is_empty()
                }),
                _ => false,
            };
            if is_vector {
                let length = self.answer.vectors.len().saturating_sub(start);
                self.push(at, Kind::Vector, packed(start, length));
            } else {
                self.answer.vectors.truncate(start);
                self.value(at, embedding);
            }
        }
    }

    /// How many there are: what is missing at the end of a list would only be seen by what is there.
    fn count(&mut self, at: At, count: usize) {
        self.push(at, Kind::Whole, count as u64);
    }

    /// A member, if it is there.
    fn part(&mut self, at: At, of: &Json<'_>, name: &str) {
        if let Some(value) = of.get(name)
            && let Some(at) = self.member(at, name)
        {
            self.value(at, value);
        }
    }

    /// A member that is a text for people, with its length.
    fn prose(&mut self, at: At, of: &Json<'_>, name: &str) {
        let Some(Json::Text(text)) = of.get(name) else { return self.part(at, of, name) };
        let Some(at) = self.member(at, name) else { return };
        let bits = self.answer.keep(text);
        self.push(at, Kind::Prose, bits);
        self.push(at, Kind::Length, (text.chars().count() as f64).to_bits());
    }

    /// Any value with all below it.
    fn value(&mut self, at: At, json: &Json<'_>) {
        match json {
            Json::Null => self.push(at, Kind::Null, 0),
            Json::Bool(true) => self.push(at, Kind::True, 0),
            Json::Bool(false) => self.push(at, Kind::False, 0),
            Json::Whole(number) => self.push(at, Kind::Whole, *number),
            Json::Negative(number) => self.push(at, Kind::Negative, number.cast_unsigned()),
            Json::Double(number) => self.push(at, Kind::Double, number.to_bits()),
            Json::Text(text) => match number(json) {
                Some(number) => self.push(at, Kind::Double, number.to_bits()),
                None => {
                    let bits = self.answer.keep(text);
                    self.push(at, Kind::Text, bits);
                }
            },
            Json::List(elements) if elements.is_empty() => self.push(at, Kind::EmptyList, 0),
            Json::Object(members) if members.is_empty() => self.push(at, Kind::EmptyObject, 0),
            Json::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    if let Some(at) = self.element(at, index) {
                        self.value(at, element);
                    }
                }
            }
            Json::Object(members) => {
                for (name, value) in members {
                    if let Some(at) = self.member(at, &name.0) {
                        self.value(at, value);
                    }
                }
            }
        }
    }

    /// The way to a member; none where it is ignored.
    fn member(&mut self, at: At, name: &str) -> Option<At> {
        let live = self.still_live(at, &mut |step| step == name)?;
        self.name.truncate(at.named);
        self.name.push('/');
        if self.name.len() <= LONGEST_NAME {
            // Whole letters: the name is cut once more where it is kept.
            self.name.extend(name.chars().take(LONGEST_NAME).flat_map(escaped));
        }
        let field = xxh64(name.as_bytes(), at.field.wrapping_add(1));
        Some(At { field, live, depth: at.depth.saturating_add(1), named: self.name.len(), ..at })
    }

    /// The way to an element of a list.
    fn element(&mut self, at: At, index: usize) -> Option<At> {
        let live = self.still_live(at, &mut |step| step.parse() == Ok(index))?;
        self.name.truncate(at.named);
        self.name.push_str("/*");
        let place = at.place.wrapping_mul(0x0100_0193).wrapping_add(index as u32).wrapping_add(1);
        Some(At {
            field: at.field.rotate_left(7) ^ 0x9e37_79b9_7f4a_7c15,
            place,
            live,
            depth: at.depth.saturating_add(1),
            named: self.name.len(),
        })
    }

    /// The way to an element of a list in which names count and not places. `ignore` may say either.
    fn named_element(&mut self, at: At, name: &str, index: usize) -> Option<At> {
        let by_place = self.still_live(at, &mut |step| step.parse() == Ok(index))?;
        let named = self.member(at, name)?;
        Some(At { live: named.live | by_place, ..named })
    }

    /// The rules of `ignore` that lead on by this step; none if one of them ends there.
    fn still_live(&self, at: At, is_step: &mut dyn FnMut(&str) -> bool) -> Option<u32> {
        let mut live = 0;
        if at.live == 0 {
            return Some(live);
        }
        for (number, rule) in self.ignore.iter().enumerate().filter(|(number, _)| at.live & bit(*number) != 0) {
            let Some((step, rest)) = rule.steps().get(at.depth..).and_then(<[String]>::split_first) else { continue };
            if step == "*" || is_step(step) {
                if rest.is_empty() {
                    return None;
                }
                live |= bit(number);
            }
        }
        Some(live)
    }

    fn push(&mut self, at: At, kind: Kind, bits: u64) {
        let fields = &mut self.answer.fields;
        let is_new = !fields.contains_key(&at.field);
        let (field, place) = if is_new && fields.len() >= MOST_FIELDS {
            (u64::MAX, (at.field as u32) ^ at.place)
        } else {
            (at.field, at.place)
        };
        if is_new && !fields.contains_key(&field) {
            let name = self.name.get(..at.named).unwrap_or_default();
            let name = if field == u64::MAX { OTHER.to_owned() } else { short_name(name, field) };
            fields.insert(field, Field { name, order: fields.len(), values: Vec::new() });
        }
        if let Some(field) = fields.get_mut(&field) {
            field.values.push(Value { place, kind, bits });
        }
    }
}

/// A letter as it stands in a JSON pointer.
fn escaped(letter: char) -> impl Iterator<Item = char> {
    let (first, second) = match letter {
        '~' => ('~', Some('0')),
        '/' => ('~', Some('1')),
        _ => (letter, None),
    };
    [first].into_iter().chain(second)
}

/// A rule's bit. There are at most 32.
const fn bit(rule: usize) -> u32 {
    match 1_u32.checked_shl(rule as u32) {
        Some(bit) => bit,
        None => 0,
    }
}

/// A name that is not too long; one that is cut ends with what stands for all of it.
fn short_name(name: &str, field: u64) -> String {
    match name {
        "" => WHOLE.to_owned(),
        _ if name.len() <= LONGEST_NAME => name.to_owned(),
        _ => {
            let kept = name.floor_char_boundary(LONGEST_NAME.saturating_sub(10));
            format!("{}…{:06x}", name.get(..kept).unwrap_or_default(), field & 0xff_ffff)
        }
    }
}

// === impl Field ===

impl Field {
    /// Its values, in the order of the answer.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Its values as JSON, in at most `most` bytes: such a part of them that the one at `counts` is shown.
    pub fn shown(&self, of: &Answer, counts: usize, most: usize) -> String {
        let values = || self.values.iter().filter(|value| value.kind != Kind::Length);
        if values().nth(1).is_none() {
            return cut(values().map(|value| of.content(*value).shown(most)).collect(), most);
        }
        let begin = |number: usize| if number == 0 { "[" } else { "[…, " }.to_owned();
        let from = counts.saturating_sub(SHOWN_BEFORE);
        let mut shown = begin(from);
        let rest = self.values.iter().enumerate().skip(from);
        for (number, value) in rest.filter(|(_, value)| value.kind != Kind::Length) {
            let written = of.content(*value).shown(most);
            // With the brackets and the mark that something is missing.
            if number <= counts && shown.len().saturating_add(written.len()).saturating_add(8) >= most {
                shown = begin(number);
            }
            if !shown.ends_with(['[', ' ']) {
                shown.push_str(", ");
            }
            shown.push_str(&written);
            if shown.len() > most {
                break;
            }
        }
        shown.push(']');
        cut(shown, most)
    }
}

/// A text of at most `most` bytes.
pub(super) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}

// === impl Content ===

impl Content<'_> {
    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Whole(number) => Some(number as f64),
            Self::Negative(number) => Some(number as f64),
            Self::Double(number) => Some(number),
            _ => None,
        }
    }

    /// As JSON, of which the first `most` bytes count.
    pub fn shown(&self, most: usize) -> String {
        match *self {
            Self::Null => "null".to_owned(),
            Self::Bool(truth) => truth.to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Negative(number) => number.to_string(),
            Self::Length(number) | Self::Double(number) => {
                Number::from_f64(number).map_or_else(|| number.to_string(), |number| number.to_string())
            }
            Self::Text(text) | Self::Prose(text) => {
                let start = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
                serde_json::to_string(start).unwrap_or_default()
            }
            Self::Vector(vector) => {
                let numbers: Vec<String> =
                    vector.iter().take(most / 8).map(|number| Content::Double(*number).shown(most)).collect();
                let more = if vector.len() > numbers.len() { ", …" } else { "" };
                format!("[{}{more}]", numbers.join(", "))
            }
            Self::Name => "present".to_owned(),
            Self::EmptyList => "[]".to_owned(),
            Self::EmptyObject => "{}".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn rules(fields: &str) -> Compare {
        let safe = r#""safe": [{"method": "POST", "path_prefix": "/"}]"#;
        json::from_str(&format!("{{{safe}{fields}}}")).expect("valid rules")
    }

    /// The fields of an answer and how their values are shown, in the order in which they were met.
    fn fields_of(answer: &Answer) -> Vec<(String, String)> {
        let mut fields: Vec<&Field> = answer.fields.values().collect();
        fields.sort_by_key(|field| field.order);
        fields.iter().map(|field| (field.name.clone(), field.shown(answer, 0, 200))).collect()
    }

    fn read(body: &str) -> Vec<(String, String)> {
        fields_of(&Answer::read(200, body.as_bytes(), None, &rules("")).expect(body))
    }

    fn expect(found: &[(String, String)], expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = found.iter().map(|(name, shown)| (name.as_str(), shown.as_str())).collect();
        assert_eq!(found, expected);
    }

    /// What MLflow 3.17.2's scoring server answered (`mlflow models serve`, run), and what its docs say about NaN.
    #[test]
    fn mlflow_predictions_are_compared_one_by_one_with_pythons_numbers_too() {
        expect(&read(r#"{"predictions": [0, 1]}"#), &[("/predictions/*", "[0, 1]")]);
        expect(
            &read(r#"{"predictions": [{"label": "setosa", "p": 0.9}]}"#),
            &[("/predictions/*/label", r#""setosa""#), ("/predictions/*/p", "0.9")],
        );
        let odd = r#"{"predictions": [NaN, -Infinity, Infinity, 1.5, "NaN \" Infinity"]}"#;
        expect(&read(odd), &[("/predictions/*", r#"[NaN, -inf, inf, 1.5, "NaN \" Infinity"]"#)]);
    }

    /// The REST APIs of TensorFlow Serving ("RESTful API", response formats) and of KServe's V1 protocol.
    #[test]
    fn kserve_v1_and_tensorflow_serving_have_predictions_in_rows_or_outputs_in_columns() {
        expect(&read(r#"{"predictions": [[0.1, 0.9], [0.5, 0.5]]}"#), &[("/predictions/*/*", "[0.1, 0.9, 0.5, 0.5]")]);
        expect(
            &read(r#"{"outputs": {"scores": [[0.1]], "classes": ["a"]}}"#),
            &[("/outputs/scores/*/*", "0.1"), ("/outputs/classes/*", r#""a""#)],
        );
        expect(&read(r#"{"outputs": [[1], [2]]}"#), &[("/outputs/*/*", "[1, 2]")]);
    }

    /// The Open Inference Protocol V2 ("Inference Response JSON Object"), and Triton's extension for binary tensors.
    #[test]
    fn outputs_of_the_open_inference_protocol_are_found_by_name_and_flat() {
        let nested = r#"{"model_name": "m", "model_version": "1", "id": "42", "outputs": [
            {"name": "a/b", "shape": [1, 2], "datatype": "FP32", "data": [[0.5, 1]]},
            {"name": "c", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}"#;
        let flat = r#"{"outputs": [
            {"name": "c", "shape": [1], "datatype": "BYTES", "data": ["x"]},
            {"name": "a/b", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}], "model_name": "n"}"#;
        let expected = [
            ("/outputs/a~1b/shape/*", "[1, 2]"),
            ("/outputs/a~1b/datatype", r#""FP32""#),
            ("/outputs/a~1b/data", "[0.5, 1]"),
            ("/outputs/c/shape/*", "1"),
            ("/outputs/c/datatype", r#""BYTES""#),
            ("/outputs/c/data", r#""x""#),
        ];
        expect(&read(nested), &expected);
        let mut found = read(flat);
        found.sort();
        expect(&found, &{
            let mut sorted = expected;
            sorted.sort_unstable();
            sorted
        });
    }

    #[test]
    fn a_binary_part_is_split_off_and_noted() {
        let json = br#"{"outputs":[{"name":"a","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#;
        let body = [json.as_slice(), b"\x00\x01\x02\x03\x04\x05\x06\x07"].concat();
        let answer = Answer::read(200, &body, Some(json.len()), &rules("")).expect("JSON in front");
        assert!(answer.has_binary());
        expect(&fields_of(&answer), &[("/outputs/a/shape/*", "2"), ("/outputs/a/datatype", r#""FP32""#)]);
        assert_eq!(Answer::read(200, &body, None, &rules("")), Err(Dropped::NotJson));
        // A length that is none leaves the whole body.
        assert!(!Answer::read(200, json, Some(usize::MAX), &rules("")).expect("JSON").has_binary());
    }

    /// Chat completions as OpenAI's API reference shows them ("The chat completion object").
    #[test]
    fn of_a_chat_the_message_is_compared_and_of_a_call_the_names_of_the_arguments() {
        let chat = r#"{"id": "chatcmpl-1", "object": "chat.completion", "created": 1741569952, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!", "refusal": null,
            "annotations": []}, "logprobs": null, "finish_reason": "stop"}],
            "usage": {"total_tokens": 29}, "system_fingerprint": "fp"}"#;
        expect(
            &read(chat),
            &[
                ("/choices", "1"),
                ("/choices/*/finish_reason", r#""stop""#),
                ("/choices/*/message/role", r#""assistant""#),
                ("/choices/*/message/content", r#""Hello!""#),
                ("/choices/*/message/refusal", "null"),
            ],
        );
        let calls = r#"{"choices": [{"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\", \"day\": 1}"}},
            {"id": "call_2", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
            {"id": "call_3", "type": "function", "function": {"name": "odd", "arguments": "{"}}]},
            "finish_reason": "tool_calls"}]}"#;
        expect(
            &read(calls),
            &[
                ("/choices", "1"),
                ("/choices/*/finish_reason", r#""tool_calls""#),
                ("/choices/*/message/role", r#""assistant""#),
                ("/choices/*/message/content", "null"),
                ("/choices/*/message/tool_calls", "3"),
                ("/choices/*/message/tool_calls/*/function/name", r#"["weather", "stop", "odd"]"#),
                ("/choices/*/message/tool_calls/*/function/arguments/city", "present"),
                ("/choices/*/message/tool_calls/*/function/arguments/day", "present"),
                ("/choices/*/message/tool_calls/*/function/arguments", r#"[{}, "{"]"#),
            ],
        );
    }

    /// Completions and embeddings as OpenAI's API reference shows them.
    #[test]
    fn completions_are_texts_and_embeddings_vectors_in_either_form() {
        let completion = r#"{"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"text": "This is a test.", "index": 0, "logprobs": null, "finish_reason": "length"}]}"#;
        expect(
            &read(completion),
            &[
                ("/choices", "1"),
                ("/choices/*/finish_reason", r#""length""#),
                ("/choices/*/text", r#""This is a test.""#),
            ],
        );
        let list = r#"{"object": "list", "data": [{"object": "embedding", "embedding": [1.0, -2], "index": 0}]}"#;
        let base64 =
            r#"{"object": "list", "data": [{"object": "embedding", "embedding": "AACAPwAAAMA=", "index": 0}]}"#;
        for body in [list, base64] {
            expect(&read(body), &[("/data", "1"), ("/data/*/embedding", "[1.0, -2.0]")]);
        }
        for broken in [r#""AACA""#, r#""???""#, r#"[1, "x"]"#, "null"] {
            let body = format!(r#"{{"data": [{{"embedding": {broken}}}]}}"#);
            assert!(Answer::read(200, body.as_bytes(), None, &rules("")).is_ok(), "{broken}");
        }
    }

    #[test]
    fn anything_else_is_compared_as_a_whole_by_field() {
        expect(
            &read(r#"{"id": 1, "score": 0.5, "tags": [{"k": "v"}, []], "deep": {"id": 7, "empty": {}}}"#),
            &[("/score", "0.5"), ("/tags/*/k", r#""v""#), ("/tags/*", "[]"), ("/deep/id", "7"), ("/deep/empty", "{}")],
        );
        expect(&read("[1, true]"), &[("/*", "[1, true]")]);
        expect(&read("[]"), &[("/", "[]")]);
        expect(&read(r#""setosa""#), &[("/", r#""setosa""#)]);
    }

    #[test]
    fn the_order_of_an_objects_members_makes_no_difference_and_that_of_a_list_does() {
        let read = |body: &str| Answer::read(200, body.as_bytes(), None, &rules("")).expect(body);
        let fields = |body| {
            let answer: Answer = read(body);
            answer.fields.iter().map(|(key, field)| (*key, field.values.clone())).collect::<Vec<_>>()
        };
        assert_eq!(fields(r#"[{"a": 1, "b": 2}]"#), fields(r#"[{"b": 2, "a": 1}]"#));
        assert_ne!(fields(r#"[{"a": 1}, {"b": 2}]"#), fields(r#"[{"b": 2}, {"a": 1}]"#));
        assert_ne!(fields("[1, [2]]"), fields("[[1], 2]"));
    }

    #[test]
    fn what_is_ignored_is_not_there_and_a_pointer_leaves_nothing_else() {
        let chat = r#"{"choices": [{"finish_reason": "stop", "message": {"role": "a", "content": "x"}}]}"#;
        let v2 = r#"{"outputs": [{"name": "a", "datatype": "FP32", "data": [1]}, {"name": "b", "data": [2]}]}"#;
        let any = r#"{"a": {"b": [10, 20, 30]}, "c/d": 4, "id": 5}"#;
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, &str, Fields<'_>); 10] = [
            (any, r#", "ignore": ["/a/b/1"]"#, &[("/a/b/*", "[10, 30]"), ("/c~1d", "4")]),
            (any, r#", "ignore": ["/*/b", "/nothing/here"]"#, &[("/c~1d", "4")]),
            (any, r#", "ignore": ["/c~1d", "/a/x"]"#, &[("/a/b/*", "[10, 20, 30]")]),
            (any, r#", "pointer": "/a/b/2""#, &[("/a/b/*", "30")]),
            (any, r#", "pointer": "/id""#, &[("/id", "5")]),
            (any, r#", "pointer": "/a", "ignore": ["/a/b/0"]"#, &[("/a/b/*", "[20, 30]")]),
            (
                chat,
                r#", "ignore": ["/choices/*/message/content"]"#,
                &[("/choices", "1"), ("/choices/*/finish_reason", r#""stop""#), ("/choices/*/message/role", r#""a""#)],
            ),
            (chat, r#", "pointer": "/choices/0/message/content""#, &[("/choices/*/message/content", r#""x""#)]),
            (v2, r#", "ignore": ["/outputs/0", "/outputs/b/shape"]"#, &[("/outputs/b/data", "2")]),
            (v2, r#", "ignore": ["/outputs/b", "/outputs/*/datatype"]"#, &[("/outputs/a/data", "1")]),
        ];
        for (body, fields, expected) in cases {
            expect(&fields_of(&Answer::read(200, body.as_bytes(), None, &rules(fields)).expect(fields)), expected);
        }
        for fields in
            [r#", "ignore": [""]"#, r#", "ignore": ["/*"]"#, r#", "pointer": "/x""#, r#", "pointer": "/a/b/03x""#]
        {
            let read = Answer::read(200, any.as_bytes(), None, &rules(fields));
            assert_eq!(read, Err(Dropped::UnknownShape), "{fields}");
        }
    }

    #[test]
    fn what_is_no_json_is_not_compared_and_what_is_no_2xx_not_read() {
        for body in ["", "<html>", r#"{"predictions": [0, 1"#, "{} {}", "NotANumber", "\u{feff}{}"] {
            assert_eq!(Answer::read(200, body.as_bytes(), None, &rules("")), Err(Dropped::NotJson), "{body}");
            let other = Answer::read_other(200, body.as_bytes(), None, &rules("")).expect("an answer all the same");
            assert!(!other.is_readable());
        }
        let refused = Answer::read(400, b"<html>", None, &rules("")).expect("a status is enough");
        assert_eq!((refused.status(), refused.fields.len()), (400, 0));
        assert_eq!(Answer::read(200, b"{}", None, &rules("")), Err(Dropped::UnknownShape));
    }

    #[test]
    fn however_an_answer_is_built_it_takes_bounded_time_and_memory() {
        let most = 1 << 20;
        let filled = |part: &str| part.repeat(most / part.len());
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let distinct: String = (0..80_000).map(|number| format!(r#""{number}":1,"#)).collect();
        let cases = [
            (format!("[{}1]", filled("1,")), Ok(1)),
            (format!("[{}[1]]", filled("[1],")), Err(Dropped::TooLarge)),
            (format!("[{}{{}}]", filled(r#"{"":1},"#)), Err(Dropped::TooLarge)),
            (format!("[\"{}\"]", filled("[{,")), Ok(1)),
            (format!("{{{distinct}\"x\":1}}"), Ok(MOST_FIELDS + 1)),
            (format!("{{\"{}\":[{deep}]}}", filled("k")), Ok(1)),
            ("[".repeat(most), Err(Dropped::TooLarge)),
            ("[".repeat(1_000), Err(Dropped::NotJson)),
        ];
        for (body, fields) in cases {
            let read = Answer::read(200, body.as_bytes(), None, &rules(""));
            assert_eq!(read.as_ref().map(|answer| answer.fields.len()).map_err(|reason| *reason), fields);
            if let Ok(answer) = read {
                assert!(answer.fields.values().all(|field| field.name.len() <= LONGEST_NAME));
                assert!(answer.fields.values().all(|field| field.shown(&answer, 0, 200).len() <= 200));
            }
        }
    }
}
