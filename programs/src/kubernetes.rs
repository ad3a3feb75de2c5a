//! Kubernetes' API server and kubectl: the user's own, or built once from their sources.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::go::Program;

/// The environment variable that names the API server's binary.
pub const KUBE_APISERVER: &str = "KUBE_APISERVER";

/// The environment variable that names the binary of kubectl.
pub const KUBECTL: &str = "KUBECTL";

/// What is built here. Of a version not set `kubectl version` says v0.0.0, and control planes look at it.
pub const PROGRAMS: [Program<'static>; 2] =
    [program("k8s.io/kubernetes/cmd/kube-apiserver"), program("k8s.io/kubernetes/cmd/kubectl")];

const fn program(package: &'static str) -> Program<'static> {
    Program {
        module: "kubernetes",
        package,
        version_variables: &["k8s.io/component-base/version.gitVersion"],
        purpose: "an API server of Kubernetes",
    }
}

/// Both programs, each as the variable that names it and where it is. Neither is built when the user names it.
pub fn obtain(checkout: &Checkout) -> Result<[(&'static str, PathBuf); 2]> {
    let obtain = |variable, program: Program<'_>| -> Result<PathBuf> {
        match named(variable) {
            Some(path) => std::path::absolute(path).context(variable),
            None => program.obtain(checkout),
        }
    };
    let [server, client] = PROGRAMS;
    Ok([(KUBE_APISERVER, obtain(KUBE_APISERVER, server)?), (KUBECTL, obtain(KUBECTL, client)?)])
}

/// The binary that one of the variables names.
pub fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_and_its_client_have_one_pinned_version() -> Result<()> {
        let checkout = Checkout::locate()?;
        let [server, client] = PROGRAMS.map(|program| program.version(&checkout));
        let server = server?;
        assert!(server.starts_with("v1."), "{server}");
        assert_eq!(server, client?);
        Ok(())
    }
}
