//! A BareMetalHost of Metal3: the machine behind a node, and whether its power is on.
//!
//! <https://github.com/metal3-io/baremetal-operator>, `apis/metal3.io/v1alpha1`. A Node names its
//! host in `spec.providerID`, which `cluster-api-provider-metal3` sets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta, Scope},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null};

/// A BareMetalHost.
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
    /// `None`: the operator does not know it yet.
    pub powered_on: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    pub operational_status: String,
    pub last_updated: Option<Timestamp>,
}

impl CustomResource for BareMetalHost {
    const KIND: Kind =
        Kind { group: "metal3.io", version: "v1alpha1", plural: "baremetalhosts", name: "BareMetalHost" };

    fn is_about(&self, node: &Node) -> bool {
        host_of(node) == Some((&self.metadata.namespace, &self.metadata.name))
    }

    fn scope(node: &Node) -> Scope<'_> {
        let (namespace, name) = host_of(node).unzip();
        Scope { namespace, name }
    }
}

/// The namespace and name of the host behind a node, from its `spec.providerID`:
/// `metal3://<namespace>/<host>/<machine>`.
pub fn host_of(node: &Node) -> Option<(&str, &str)> {
    let path = node.spec.provider_id.strip_prefix("metal3://")?;
    let (namespace, rest) = path.split_once('/')?;
    let (host, _) = rest.split_once('/')?;
    (!namespace.is_empty() && !host.is_empty()).then_some((namespace, host))
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
            assert_eq!(host_of(&node), named, "{id}");
        }
    }
}
