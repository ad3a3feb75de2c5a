//! The ways to switch that are compared, each given the same command: "everything to this colour".

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bluegreen_testbed::control_plane::ControlPlane;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{Admin, Bootstrap, Envoy};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::{Lab, modify_runtime};
use crate::{gateway, lean_filter};

/// Workers of the Envoy that is switched: a switch has to reach them all.
const WORKERS: u32 = 4;

/// The prefix of the runtime keys.
const RUNTIME: &str = "bench";

/// A running Envoy and the way to switch it.
pub struct Method {
    pub envoy: Envoy,
    way: Way,
}

enum Way {
    /// bluegreen's admin API.
    Admin(Admin),
    /// Envoy's own admin interface, changing the weights of `weighted_clusters`.
    Runtime(reqwest::Client, SocketAddr),
    /// A file with the routes that Envoy watches (RDS).
    Routes { _folder: TempDir, file: Bootstrap, path: std::path::PathBuf },
    /// A file that Envoy watches, with the filter's configuration (ECDS) or the listeners with it (LDS).
    File(Box<Watched>, Push),
    /// A control plane that delivers the filter's configuration over an aggregated stream (ADS).
    ControlPlane(Box<ControlPlane>),
}

/// Makes of a resource the one that sends everything to a colour.
type Push = fn(Bootstrap, &str) -> Bootstrap;

// === impl Method ===

impl Method {
    pub async fn admin(lab: &Lab) -> Result<Self> {
        let envoy = lab.start(gateway::shipped(lab)?, WORKERS).await?;
        let way = Way::Admin(envoy.admin()?);
        Ok(Self { envoy, way })
    }

    pub async fn runtime(lab: &Lab) -> Result<Self> {
        let native = gateway::native(lab, gateway::weights(100, 0, Some(RUNTIME)))?;
        let envoy = lab.start(gateway::with_runtime(native), WORKERS).await?;
        let way = Way::Runtime(reqwest::Client::builder().no_proxy().build()?, envoy.own_admin());
        Ok(Self { envoy, way })
    }

    pub async fn routes(lab: &Lab) -> Result<Self> {
        let folder = TempDir::with_prefix("bluegreen-bench-")?;
        let path = folder.path().join("routes.json");
        let mut routes = Value::Null;
        let bootstrap = gateway::native(lab, gateway::weights(100, 0, None))?;
        let bootstrap = gateway::manager(bootstrap, |manager| {
            routes = manager["route_config"].take();
            if let Some(manager) = manager.as_object_mut() {
                manager.remove("route_config");
            }
            let source = json!({"path": path, "watched_directory": {"path": folder.path()}});
            let source = json!({"resource_api_version": "V3", "path_config_source": source});
            manager["rds"] = json!({"route_config_name": "traffic", "config_source": source});
        });
        let bootstrap = bootstrap.edit(|tree| tree["node"] = json!({"id": "bench", "cluster": "bench"}));
        routes["@type"] = json!("type.googleapis.com/envoy.config.route.v3.RouteConfiguration");
        let file = Bootstrap::parse(&json!({"resources": [routes]}).to_string())?;
        file.write(&path)?;
        let envoy = lab.start(bootstrap, WORKERS).await?;
        Ok(Self { envoy, way: Way::Routes { _folder: folder, file, path } })
    }

    pub async fn filter_file(lab: &Lab) -> Result<Self> {
        Self::file(lab, Watched::ecds_with(&lab.module)?, initially).await
    }

    pub async fn listener_file(lab: &Lab) -> Result<Self> {
        Self::file(lab, Watched::lds_with(&lab.module)?, initially).await
    }

    /// The same with a wasm filter that only reads its cluster from the configuration: what Envoy itself needs for it.
    pub async fn lean_filter_file(lab: &Lab) -> Result<Self> {
        let mut watched = Watched::ecds_with(&lab.module)?;
        // In the watched folder, because Envoy reads it again with each push.
        let module = lean_filter::configured(watched.path().parent().context("a file has a folder")?)?;
        let lean = lean_filter::filter_with(&module, lean_filter::configured_with("blue"));
        watched.deliver(|resource| resource.wasm_filters(|filter| *filter = lean.clone()))?;
        Self::file(lab, watched, lean_configuration).await
    }

    async fn file(lab: &Lab, watched: Watched, push: Push) -> Result<Self> {
        let envoy = lab.start(of_lab(watched.bootstrap(), lab), WORKERS).await?;
        Ok(Self { envoy, way: Way::File(Box::new(watched), push) })
    }

    pub async fn control_plane(lab: &Lab) -> Result<Self> {
        let control_plane = ControlPlane::start_with(&lab.module).await?;
        let bootstrap = ControlPlane::bootstrap(control_plane.address())?;
        let envoy = lab.start(of_lab(bootstrap, lab), WORKERS).await?;
        Ok(Self { envoy, way: Way::ControlPlane(Box::new(control_plane)) })
    }

    /// Sends everything to `colour`; returns when the caller has reason to believe that it is done.
    pub async fn switch(&mut self, colour: &'static str) -> Result<()> {
        match &mut self.way {
            Way::Admin(admin) => admin.patch("iris", &[("active", colour)]).await?.deployment().map(drop),
            Way::Runtime(http, address) => {
                let (blue, green) = weights(colour);
                modify_runtime(http, *address, &[("bench.blue", blue), ("bench.green", green)]).await
            }
            Way::Routes { file, path, .. } => {
                let (blue, green) = weights(colour);
                let changed = file.clone().edit(|tree| {
                    let action = &mut tree["resources"][0]["virtual_hosts"][0]["routes"][0]["route"];
                    action["weighted_clusters"] = gateway::weights(blue, green, None)["weighted_clusters"].take();
                });
                changed.write(path)
            }
            Way::File(watched, push) => watched.deliver(|resource| push(resource, colour)),
            Way::ControlPlane(control_plane) => control_plane.publish(|resource| initially(resource, colour)).map(drop),
        }
    }
}

fn of_lab(bootstrap: Bootstrap, lab: &Lab) -> Bootstrap {
    bootstrap.with_cluster("blue", lab.blue).with_cluster("green", lab.green)
}

/// What a user pushes: another `initial`.
fn initially(resource: Bootstrap, colour: &str) -> Bootstrap {
    resource.deployment("iris", |iris| iris["initial"]["active"] = json!(colour))
}

/// The same for the lean filter.
fn lean_configuration(resource: Bootstrap, colour: &str) -> Bootstrap {
    resource.wasm_filters(|filter| filter["config"]["configuration"] = lean_filter::configured_with(colour))
}

fn weights(colour: &str) -> (u32, u32) {
    if colour == "blue" { (100, 0) } else { (0, 100) }
}
