//! Which version a colour serves.

use serde::Deserialize;

use crate::config::{Served, reader};
use crate::deployment::Deployment;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{RegisteredVersion, Version};
use crate::store::{Store, source_status};

/// The part of what MLflow's registry was last seen to say that is about the colours.
#[derive(Default, Deserialize)]
struct Registered {
    colours: PerColour<Option<RegisteredVersion>>,
}

/// The version of each colour: the registry's where it is known there by an alias, else the configured one.
pub fn versions(store: &dyn Store, deployment: &Deployment) -> PerColour<Version> {
    let configured = |colour: Colour| deployment.colours.get(colour).version.clone();
    let Some(mlflow) = &deployment.mlflow else { return PerColour::from_fn(configured) };
    let status = source_status::read(store, &deployment.name, Source::Mlflow);
    let registered: Registered = status.and_then(|status| reader::read(&status.value).ok()).unwrap_or_default();
    PerColour::from_fn(|colour| match (mlflow.colours.get(colour), registered.colours.get(colour)) {
        (Served::Alias(_), Some(version)) => Version::of(version),
        _ => configured(colour),
    })
}
