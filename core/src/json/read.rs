//! Types that read themselves out of a tree.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};

use super::error::{FieldError, MEMBERS, TEXT};
use super::tree::{Json, parse};

/// What can be read out of a tree. `#[derive(FromJson)]` writes it.
pub trait FromJson: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// The first field, as they were written, that is unknown, of the wrong kind or against its own rules, or else the
    /// first that is missing.
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError>;

    /// What a field of this type is that is left out, if it may be.
    fn missing() -> Option<Self> {
        None
    }

    /// Reads the name of a map's entry.
    ///
    /// # Errors
    /// It cannot be one.
    fn from_name(name: &str) -> Result<Self, FieldError> {
        Self::from_json(&Json::Text(Cow::Borrowed(name)))
    }
}

/// Reads a `T` out of bytes.
///
/// # Errors
/// They are no JSON, or not that of a `T`.
pub fn from_slice<T: FromJson>(bytes: &[u8]) -> Result<T, FieldError> {
    T::from_json(&parsed(bytes)?)
}

/// As [`from_slice`], out of a text.
///
/// # Errors
/// As there.
pub fn from_str<T: FromJson>(text: &str) -> Result<T, FieldError> {
    from_slice(text.as_bytes())
}

/// As [`from_slice`], out of a value that was read before.
///
/// # Errors
/// It is not that of a `T`.
pub fn from_value<T: FromJson>(value: &Value) -> Result<T, FieldError> {
    T::from_json(&value.into())
}

/// For the types of other crates that serde reads, of JSON or anything else.
///
/// # Errors
/// It is not that of a `T`.
pub fn by_serde<'de, T: FromJson, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::from_json(&Json::deserialize(deserializer)?).map_err(Error::custom)
}

fn parsed(bytes: &[u8]) -> Result<Json<'_>, FieldError> {
    parse(bytes).map_err(|error| FieldError::shown(&error))
}

// === numbers ===

/// The whole number, if it is one in this range.
#[inline(never)]
fn whole(json: &Json<'_>, most: u64, expected: &str) -> Result<u64, FieldError> {
    match json {
        Json::Whole(number) if *number <= most => Ok(*number),
        Json::Whole(_) | Json::Negative(_) => Err(FieldError::unfit(json, expected)),
        _ => Err(FieldError::other_kind(json, expected)),
    }
}

/// The name of an entry as the number that it is.
#[inline(never)]
fn numeric(name: &str) -> Json<'_> {
    name.parse().map_or(Json::Text(Cow::Borrowed(name)), Json::Whole)
}

macro_rules! whole_numbers {
    ($($type:ty, $expected:literal;)+) => {$(
        impl FromJson for $type {
            fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
                whole(json, Self::MAX as u64, $expected).map(|number| number as Self)
            }

            fn from_name(name: &str) -> Result<Self, FieldError> {
                Self::from_json(&numeric(name))
            }
        }
    )+};
}

whole_numbers! {
    u8, "a whole number from 0 to 255";
    u16, "a whole number from 0 to 65535";
    u32, "a whole number from 0 to 4294967295";
    u64, "a whole number, 0 or more";
    usize, "a whole number, 0 or more";
}

impl FromJson for i64 {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        const EXPECTED: &str = "a whole number";
        match json {
            Json::Negative(number) => Ok(*number),
            _ => whole(json, Self::MAX.unsigned_abs(), EXPECTED).map(u64::cast_signed),
        }
    }
}

impl FromJson for f64 {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        json.as_f64().ok_or_else(|| FieldError::other_kind(json, "a number"))
    }
}

impl FromJson for bool {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        if let Json::Bool(truth) = json { Ok(*truth) } else { Err(FieldError::other_kind(json, "true or false")) }
    }
}

// === texts ===

impl Json<'_> {
    /// The text.
    ///
    /// # Errors
    /// It is none.
    #[inline(never)]
    pub fn text(&self) -> Result<&str, FieldError> {
        self.as_text().ok_or_else(|| FieldError::other_kind(self, TEXT))
    }
}

impl FromJson for String {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        json.text().map(str::to_owned)
    }
}

impl FromJson for Value {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        Ok(json.into())
    }
}

impl FromJson for Map<String, Value> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        if let Value::Object(members) = json.into() { Ok(members) } else { Err(FieldError::other_kind(json, MEMBERS)) }
    }
}

// === what holds others ===

impl<T: FromJson> FromJson for Option<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        if matches!(json, Json::Null) { Ok(None) } else { T::from_json(json).map(Some) }
    }

    fn missing() -> Option<Self> {
        Some(None)
    }
}

impl<T: FromJson> FromJson for Box<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        T::from_json(json).map(Self::new)
    }
}

impl<T: FromJson> FromJson for Arc<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        T::from_json(json).map(Self::new)
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let elements = elements(json, "a list")?;
        let mut list = Self::with_capacity(elements.len());
        for (place, element) in elements.iter().enumerate() {
            list.push(T::from_json(element).map_err(|misfit| misfit.in_place(place))?);
        }
        Ok(list)
    }
}

impl<T: FromJson> FromJson for VecDeque<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        Vec::from_json(json).map(Self::from)
    }
}

impl<T: FromJson + Ord> FromJson for BTreeSet<T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let mut set = Self::new();
        for (place, element) in elements(json, "a list")?.iter().enumerate() {
            set.insert(T::from_json(element).map_err(|misfit| misfit.in_place(place))?);
        }
        Ok(set)
    }
}

impl<N: FromJson + Ord, T: FromJson> FromJson for BTreeMap<N, T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let mut map = Self::new();
        json.each_member(|name, value| {
            map.insert(N::from_name(name)?, T::from_json(value)?);
            Ok(())
        })?;
        Ok(map)
    }
}

impl Json<'_> {
    /// Looks at the members one after the other.
    ///
    /// # Errors
    /// It is no object, or the first misfit.
    pub fn each_member(
        &self,
        mut look: impl FnMut(&str, &Json<'_>) -> Result<(), FieldError>,
    ) -> Result<(), FieldError> {
        let Json::Object(members) = self else { return Err(FieldError::other_kind(self, MEMBERS)) };
        members.iter().try_for_each(|(name, value)| look(&name.0, value).map_err(|misfit| misfit.in_member(&name.0)))
    }
}

fn elements<'a, 'j>(json: &'a Json<'j>, expected: &str) -> Result<&'a [Json<'j>], FieldError> {
    if let Json::List(elements) = json { Ok(elements) } else { Err(FieldError::other_kind(json, expected)) }
}

// === lists of a fixed length ===

/// The elements of a list that has so many.
#[inline(never)]
fn parts<'a, 'j>(json: &'a Json<'j>, count: usize) -> Result<&'a [Json<'j>], FieldError> {
    let expected = || format!("a list of {count} values");
    let Json::List(elements) = json else { return Err(FieldError::other_kind(json, &expected())) };
    if elements.len() == count { Ok(elements) } else { Err(FieldError::unfit(json, &expected())) }
}

/// One of them.
fn part<T: FromJson>(parts: &[Json<'_>], place: usize) -> Result<T, FieldError> {
    T::from_json(parts.get(place).unwrap_or(&Json::Null)).map_err(|misfit| misfit.in_place(place))
}

macro_rules! tuples {
    ($($count:literal: $($type:ident $place:literal),+;)+) => {$(
        impl<$($type: FromJson),+> FromJson for ($($type,)+) {
            fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
                let parts = parts(json, $count)?;
                Ok(($(part::<$type>(parts, $place)?,)+))
            }
        }
    )+};
}

tuples! {
    2: A 0, B 1;
    3: A 0, B 1, C 2;
    4: A 0, B 1, C 2, D 3;
    5: A 0, B 1, C 2, D 3, E 4;
    7: A 0, B 1, C 2, D 3, E 4, F 5, G 6;
}

impl<T: FromJson + Copy + Default, const COUNT: usize> FromJson for [T; COUNT] {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let parts = parts(json, COUNT)?;
        let mut array = [T::default(); COUNT];
        for (place, element) in array.iter_mut().enumerate() {
            *element = part(parts, place)?;
        }
        Ok(array)
    }
}
