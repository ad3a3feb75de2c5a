//! A small stand-in for `mlflow models serve`: one of two versions of an iris classifier behind MLflow's scoring
//! protocol, so that the demo has two models that really differ and starts in milliseconds, without Python.

mod flowers;
mod model;
mod protocol;
mod server;

pub use flowers::{Flower, Observation, iris};
pub use model::Version;
pub use server::serve;
