//! Custom resources: kinds that a cluster may or may not have, and the parts that they share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::node::Node;
use crate::policy::json::{null_is_default, readable_time};

/// Where the API server serves a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    /// In lower case, as in URLs.
    pub plural: &'static str,
    pub name: &'static str,
}

/// A custom resource that an evidence source reads.
///
/// Each implementation is a struct with the fields that its source judges. Its `spec` and `status`
/// are parsed leniently ([`object_or_nothing`](crate::policy::json::object_or_nothing)): one
/// malformed object must not make a whole list unreadable.
pub trait CustomResource: Clone + DeserializeOwned + Serialize {
    /// Where the API server serves the kind.
    const KIND: Kind;

    /// Whether the object may tell something about this node. The others are dropped when a list is
    /// read.
    fn is_about(&self, node: &Node) -> bool;

    /// The smallest list that contains all objects about a node. By default, the objects of all
    /// namespaces.
    fn scope(_node: &Node) -> Scope<'_> {
        Scope::default()
    }
}

/// Limits a list of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope<'a> {
    /// `None`: all namespaces.
    pub namespace: Option<&'a str>,
    /// `None`: objects of any name.
    pub name: Option<&'a str>,
}

/// The annotation with the name of the node that a medik8s remediation is about. Without it, the
/// remediation has the node's name.
pub const NODE_NAME: &str = "remediation.medik8s.io/node-name";
/// The annotation that makes the bare metal operator stop reconciling a BareMetalHost.
pub const PAUSED: &str = "baremetalhost.metal3.io/paused";
/// The annotation that makes the bare metal operator stop managing a BareMetalHost.
pub const DETACHED: &str = "baremetalhost.metal3.io/detached";
/// The prefix of the annotations that hold a BareMetalHost off, each until its owner removes it.
/// The bare `reboot.metal3.io` is a reboot: the operator removes it as soon as the host is off.
pub const HELD_OFF: &str = "reboot.metal3.io/";

/// `metadata` of a custom resource, with the annotations that a source reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// By the API server's clock, in whole seconds.
    #[serde(deserialize_with = "readable_time", skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the object is being deleted and waits for its finalizers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "only_read_annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn only_read_annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations: BTreeMap<String, String> = null_is_default(deserializer)?;
    annotations.retain(|key, _| [NODE_NAME, PAUSED, DETACHED].contains(&key.as_str()) || key.starts_with(HELD_OFF));
    Ok(annotations)
}

impl ObjectMeta {
    /// The name of the node that a medik8s remediation is about.
    pub fn remediated_node(&self) -> &str {
        self.annotations.get(NODE_NAME).unwrap_or(&self.name)
    }

    /// `namespace/name`, or the name alone.
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}
