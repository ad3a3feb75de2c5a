//! How names are written in JSON.

use syn::{Error, LitStr, Result};

/// A way to write a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Case {
    /// As it stands in the code.
    #[default]
    AsIs,
    Lower,
    Upper,
    Snake,
    Camel,
    Kebab,
}

// === impl Case ===

impl Case {
    pub(crate) fn of(name: &LitStr) -> Result<Self> {
        Ok(match name.value().as_str() {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "snake_case" => Self::Snake,
            "camelCase" => Self::Camel,
            "kebab-case" => Self::Kebab,
            _ => return Err(Error::new(name.span(), "FromJson does not know this way to write names")),
        })
    }

    /// The name of a field, whose words are joined by `_` in the code.
    pub(crate) fn field(self, name: &str) -> String {
        match self {
            Self::AsIs | Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Camel => {
                let mut words = name.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                words.fold(first, |so_far, word| so_far + &capital(word))
            }
            Self::Kebab => name.replace('_', "-"),
        }
    }

    /// The name of a variant, whose words begin with capitals in the code.
    pub(crate) fn variant(self, name: &str) -> String {
        match self {
            Self::AsIs => name.to_owned(),
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Snake => joined(name, '_'),
            Self::Kebab => joined(name, '-'),
            Self::Camel => {
                let mut letters = name.chars();
                letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
            }
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn joined(name: &str, by: char) -> String {
    let mut joined = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !joined.is_empty() {
            joined.push(by);
        }
        joined.push(letter.to_ascii_lowercase());
    }
    joined
}
