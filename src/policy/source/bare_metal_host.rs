//! `bare-metal-host`: Metal3 sees that the power of the machine behind the node is off.
//!
//! <https://github.com/metal3-io/baremetal-operator>, `apis/metal3.io/v1alpha1`. The node names its host by
//! `spec.providerID`, which `cluster-api-provider-metal3` sets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Answer,
    custom::{DETACHED, Kind, ObjectMeta, PAUSED, ask_each},
};
use crate::policy::{
    evidence::quoted,
    facts::Facts,
    json::{null_is_default, object_or_nothing, object_or_null},
    node::Node,
    request::Write,
};

pub const KIND: Kind =
    Kind { group: "metal3.io", version: "v1alpha1", plural: "baremetalhosts", name: "BareMetalHost" };

/// A BareMetalHost, as far as it is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BareMetalHost {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
}

/// `status` of a BareMetalHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// `None`: nobody looked yet.
    pub powered_on: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    pub operational_status: String,
    pub last_updated: Option<Timestamp>,
}

/// Namespace and name of the host behind a node: `metal3://<namespace>/<host>/<machine>`.
pub fn named_by(node: &Node) -> Option<(&str, &str)> {
    let path = node.spec.provider_id.strip_prefix("metal3://")?;
    let (namespace, rest) = path.split_once('/')?;
    let (host, _) = rest.split_once('/')?;
    (!namespace.is_empty() && !host.is_empty()).then_some((namespace, host))
}

/// Whether it is the host of that node.
pub fn is_about(host: &BareMetalHost, node: &Node) -> bool {
    named_by(node) == Some((&host.metadata.namespace, &host.metadata.name))
}

pub(super) fn vouches(write: &Write, facts: &Facts) -> Answer {
    let node = write.condition();
    if named_by(node).is_none() {
        return Err(format!("spec.providerID {} names no host", quoted(&node.spec.provider_id)).into());
    }
    ask_each(KIND, facts.bare_metal_hosts(), |BareMetalHost { metadata, status }| {
        let why = match (status.powered_on, status.operational_status.as_str()) {
            _ if metadata.annotations.contains_key(PAUSED) => "is paused, nobody looks at its power".to_owned(),
            _ if metadata.annotations.contains_key(DETACHED) => "is detached, nobody looks at its power".to_owned(),
            (Some(false), "OK") => return Ok(status.last_updated),
            (Some(false), status) => format!("has operationalStatus {}", quoted(status)),
            (Some(true), _) => "is powered on".to_owned(),
            (None, _) => "does not say whether it is powered on".to_owned(),
        };
        Err(format!("{} {why}", metadata.told()).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_id_names_namespace_and_host() {
        for (id, named) in [
            ("metal3://metal3/worker-2/machine-7", Some(("metal3", "worker-2"))),
            ("metal3://metal3/worker-2/", Some(("metal3", "worker-2"))),
            ("metal3://d668eb95-5df6-4c10-a01a-fc69f4299fc6", None),
            ("metal3://metal3/worker-2", None),
            ("metal3:///worker-2/m", None),
            ("metal3://metal3//m", None),
            ("aws:///us-east-1/i-0", None),
            ("", None),
        ] {
            let node: Node = serde_json::from_value(serde_json::json!({"spec": {"providerID": id}})).unwrap();
            assert_eq!(named_by(&node), named, "{id}");
        }
    }
}
