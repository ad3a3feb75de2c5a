//! Configuration that Envoy watches: a file in a folder of its own, replaced while Envoy runs.
//!
//! [`Watched::ecds`] are the shipped files under `envoy/ecds`; [`Watched::lds`] is the shipped `envoy/envoy.yaml` with
//! its listeners in a watched file, as a control plane would deliver them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bootstrap::Bootstrap;
use crate::repository;

/// The type of a listener resource.
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// A watched resource file, and the bootstrap that watches it.
#[derive(Debug)]
pub struct Watched {
    folder: TempDir,
    bootstrap: Bootstrap,
    resource: Bootstrap,
}

// === impl Watched ===

impl Watched {
    /// The shipped ECDS files: free ports, the built module.
    pub fn ecds() -> Result<Self> {
        Self::ecds_with(&repository::wasm()?)
    }

    /// The shipped ECDS files with another module.
    pub fn ecds_with(wasm: &Path) -> Result<Self> {
        let shipped = repository::root().join("envoy/ecds");
        let folder = TempDir::with_prefix("bluegreen-watched-")?;
        let path = folder.path().join("bluegreen.yaml");
        let bootstrap = Bootstrap::read(&shipped.join("envoy.yaml"))?
            .with_free_ports()
            .edit(|tree| watch_instead(tree, folder.path(), &path));
        let resource = Bootstrap::read(&shipped.join("bluegreen.yaml"))?.with_wasm(wasm);
        let watched = Self { folder, bootstrap, resource };
        watched.resource.write(&watched.path())?;
        Ok(watched)
    }

    /// The shipped configuration with its listeners in a watched file.
    pub fn lds() -> Result<Self> {
        Self::lds_of(Bootstrap::shipped()?)
    }

    /// The same with another module.
    pub fn lds_with(wasm: &Path) -> Result<Self> {
        Self::lds_of(Bootstrap::shipped()?.with_wasm(wasm))
    }

    fn lds_of(shipped: Bootstrap) -> Result<Self> {
        let folder = TempDir::with_prefix("bluegreen-watched-")?;
        let mut tree = shipped.tree().clone();
        let mut listeners = tree["static_resources"]["listeners"].take();
        for listener in listeners.as_array_mut().context("envoy.yaml has no listeners")? {
            listener["@type"] = json!(LISTENER);
        }
        let path = folder.path().join("bluegreen.yaml");
        let bootstrap = shipped.edit(|tree| {
            tree["static_resources"]["listeners"] = json!([]);
            tree["node"] = json!({"id": "bluegreen", "cluster": "bluegreen"});
            tree["dynamic_resources"]["lds_config"] = json!({"resource_api_version": "V3", "path_config_source": {}});
            watch_instead(tree, folder.path(), &path);
        });
        let resource = Bootstrap::parse(&json!({"resources": listeners}).to_string())?;
        let watched = Self { folder, bootstrap, resource };
        watched.resource.write(&watched.path())?;
        Ok(watched)
    }

    /// The bootstrap to start Envoy with.
    pub fn bootstrap(&self) -> Bootstrap {
        self.bootstrap.clone()
    }

    /// What was delivered last.
    pub fn resource(&self) -> &Bootstrap {
        &self.resource
    }

    /// Replaces the file with what `change` makes of it, as one move, and remembers it.
    pub fn deliver(&mut self, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Result<()> {
        self.resource = change(self.resource.clone());
        self.resource.write(&self.path())
    }

    /// The watched file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("bluegreen.yaml")
    }
}

/// Makes every watched path of a configuration point to `path` in `folder`.
fn watch_instead(tree: &mut Value, folder: &Path, path: &Path) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| watch_instead(item, folder, path)),
        Value::Object(members) => {
            for (name, member) in members {
                if name == "path_config_source" {
                    *member = json!({"path": path, "watched_directory": {"path": folder}});
                } else {
                    watch_instead(member, folder, path);
                }
            }
        }
        _ => {}
    }
}
