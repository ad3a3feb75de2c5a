//! The two colours of a deployment, and a pair of values that has exactly one for each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::json::FromJson;

/// One of the two sides of a deployment: an Envoy cluster and the model version that it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// The side that is active when a configuration does not say otherwise.
    #[default]
    Blue,
    /// The other side.
    Green,
}

/// A value for each colour, so that no lookup by colour can miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "{T}PerColour"))]
#[serde(deny_unknown_fields)]
pub struct PerColour<T> {
    /// The value for [`Colour::Blue`].
    pub blue: T,
    /// The value for [`Colour::Green`].
    pub green: T,
}

/// The text is neither `blue` nor `green`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownColour(String);

// === impl Colour ===

impl Colour {
    /// Both colours, blue first.
    pub const ALL: [Colour; 2] = [Colour::Blue, Colour::Green];

    /// The colour that this one is not: the candidate of an active colour.
    pub const fn other(self) -> Self {
        match self {
            Colour::Blue => Colour::Green,
            Colour::Green => Colour::Blue,
        }
    }

    /// The name in configuration, API, headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Colour::Blue => "blue",
            Colour::Green => "green",
        }
    }

    /// Exactly `blue` or `green`, as a header value must spell it; anything else is `None`.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|colour| colour.as_str().as_bytes() == value)
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Colour {
    type Err = UnknownColour;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_header(text.as_bytes()).ok_or_else(|| UnknownColour(text.to_owned()))
    }
}

// === impl PerColour ===

impl<T> PerColour<T> {
    /// Makes both values, blue's first.
    pub fn from_fn(mut make: impl FnMut(Colour) -> T) -> Self {
        Self { blue: make(Colour::Blue), green: make(Colour::Green) }
    }

    /// The value for `colour`.
    pub const fn get(&self, colour: Colour) -> &T {
        match colour {
            Colour::Blue => &self.blue,
            Colour::Green => &self.green,
        }
    }

    /// The value for `colour`, to be changed.
    pub const fn get_mut(&mut self, colour: Colour) -> &mut T {
        match colour {
            Colour::Blue => &mut self.blue,
            Colour::Green => &mut self.green,
        }
    }
}

// === impl UnknownColour ===

impl fmt::Display for UnknownColour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a colour: use blue or green", self.0)
    }
}

impl std::error::Error for UnknownColour {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_other_colour_of_the_other_colour_is_the_first() {
        for colour in Colour::ALL {
            assert_ne!(colour, colour.other());
            assert_eq!(colour, colour.other().other());
        }
    }

    #[test]
    fn only_the_exact_lower_case_names_are_colours() {
        assert_eq!(Colour::from_header(b"green"), Some(Colour::Green));
        for value in ["", "Green", " green", "green ", "blue,green", "red", "gr\u{e9}en"] {
            assert_eq!(Colour::from_header(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(Colour::from_header(&[0xff, 0xfe]), None);
    }
}
