//! The objects that the gate judges, each with the fields that it judges and no others. A file of
//! its own for each kind.
//!
//! The types read and write the JSON shape of the Kubernetes objects they stand for: an
//! AdmissionReview, a `kubectl get` file and an audit line are parsed by the same code.

pub mod bare_metal_host;
pub mod custom;
pub mod fence_agents_remediation;
pub mod lease;
pub mod network_fence;
pub mod node;
pub mod pod;
pub mod self_node_remediation;
pub mod volume;
