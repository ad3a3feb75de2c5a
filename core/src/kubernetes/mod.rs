//! What is asked of the API server of Kubernetes.

pub mod secret;
