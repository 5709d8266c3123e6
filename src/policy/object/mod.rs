//! The Kubernetes objects that the gate judges, one file for each kind. A type has only the fields
//! that the gate judges.
//!
//! The types have the JSON shape of their Kubernetes objects, so the same code parses an
//! AdmissionReview, a `kubectl get` file and an audit line.

pub mod bare_metal_host;
pub mod budget;
pub mod custom;
pub mod deleted_pod;
pub mod fence_agents_remediation;
pub mod lease;
pub mod network_fence;
pub mod node;
pub mod node_brief;
pub mod pod;
pub mod self_node_remediation;
pub mod volume;
