//! Schemathesis, which sends what fits an API's description and what does not, and a validator of descriptions. Both from
//! Python's package index.

use std::path::PathBuf;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::python::Environment;

/// The environment variable that names a Python environment with both.
pub const SCHEMATHESIS: &str = "SCHEMATHESIS";

const REQUIREMENTS: [&str; 2] = ["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"];

/// The folder of a Python environment with both, which is made now if it is not there yet.
///
/// # Errors
/// [`Unavailable`](crate::Unavailable) without Python or the package index.
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    let environment = Environment {
        name: "schemathesis-4.32.5-openapi-spec-validator-0.9.0",
        title: "Schemathesis 4.32.5",
        requirements: &REQUIREMENTS,
        purpose: "testing the API by its description",
        otherwise: "leave out --suite openapi",
    };
    environment.obtain(checkout)
}
