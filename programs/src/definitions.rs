//! The definitions of the kinds that manifests use, out of the modules of those who define them.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::checkout::Checkout;
use crate::go;

/// The environment variable that names the files and folders with CustomResourceDefinitions, with colons between them.
pub const DEFINITIONS: &str = "BLUEGREEN_DEFINITIONS";

/// The folder under `programs/go`, the module that it requires, and where that has them. Gateway API's are those that Envoy
/// Gateway brings along.
const PLACES: [(&str, &str, &str); 4] = [
    ("istio", "istio.io/istio", "manifests/charts/base/files/crd-all.gen.yaml"),
    ("envoy-gateway", "github.com/envoyproxy/gateway", "charts/gateway-helm/charts/crds/crds"),
    (
        "prometheus-operator",
        PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    (
        "prometheus-operator",
        PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
];

const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator";

/// Where they all are, the sources fetched if they are not there yet.
///
/// # Errors
/// [`Unavailable`](crate::Unavailable) without Go, and where they cannot be had.
pub fn obtain(checkout: &Checkout) -> Result<Vec<PathBuf>> {
    let find = |(module, path, place)| {
        let found = go::sources(checkout, module, path)?.join(place);
        ensure!(found.exists(), "{path} has no {place}");
        Ok(found)
    };
    PLACES.into_iter().map(find).collect()
}
