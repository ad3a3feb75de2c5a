//! Tells "this machine lacks something" from "something is broken": the first skips a test suite, the second fails it.

use std::fmt;

use anyhow::Error;

/// One sentence: what is not available here and what to do about it.
#[derive(Clone, Debug)]
pub struct Unavailable(String);

// === impl Unavailable ===

impl Unavailable {
    pub fn error(sentence: impl Into<String>) -> Error {
        Error::new(Self(sentence.into()))
    }

    /// Whether `error`, under whatever context, says that this machine lacks something.
    pub fn is(error: &Error) -> bool {
        error.downcast_ref::<Self>().is_some()
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

// === tests ===

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn what_is_unavailable_stays_recognisable_under_a_context() {
        let error = Err::<(), _>(Unavailable::error("install node")).context("wasm tests").unwrap_err();
        assert!(Unavailable::is(&error));
        assert!(!Unavailable::is(&anyhow!("it does not compile")));
    }
}
