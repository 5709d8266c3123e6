//! A BareMetalHost of Metal3: the machine behind a node, and whether its power is on.
//!
//! <https://github.com/metal3-io/baremetal-operator>, `apis/metal3.io/v1alpha1`. A Node names its
//! host in `spec.providerID`, which `cluster-api-provider-metal3` or OpenShift's
//! `cluster-api-provider-baremetal` sets.

use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, HELD_OFF, Kind, ObjectMeta, Scope},
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
    pub spec: Spec,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
}

/// `spec` of a BareMetalHost: the power that it shall have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// `None`: not known.
    pub online: Option<bool>,
    /// The operator reboots the host where it would switch it off.
    #[serde(deserialize_with = "null_is_default")]
    pub disable_power_off: bool,
}

/// `status` of a BareMetalHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// `None`: the operator does not know it yet.
    pub powered_on: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    pub operational_status: String,
}

impl CustomResource for BareMetalHost {
    const KIND: Kind =
        Kind { group: "metal3.io", version: "v1alpha1", plural: "baremetalhosts", name: "BareMetalHost" };

    fn is_about(&self, node: &Node) -> bool {
        let ObjectMeta { namespace, name, uid, .. } = &self.metadata;
        match HostRef::of(node) {
            Some(HostRef::Named { namespace: of_host, name: host, .. }) => (of_host, host) == (namespace, name),
            Some(HostRef::Uid(host)) => host == uid,
            None => false,
        }
    }

    fn scope(node: &Node) -> Scope<'_> {
        match HostRef::of(node) {
            Some(HostRef::Named { namespace, name, .. }) => Scope { namespace: Some(namespace), name: Some(name) },
            Some(HostRef::Uid(_)) | None => Scope::default(),
        }
    }
}

impl BareMetalHost {
    /// Whether the host stays off until somebody says otherwise. A host that is off in the middle
    /// of a reboot is not held off.
    pub fn is_held_off(&self) -> bool {
        let is_annotated = self.metadata.annotations.keys().any(|key| key.starts_with(HELD_OFF));
        !self.spec.disable_power_off && (self.spec.online == Some(false) || is_annotated)
    }
}

/// How a Node names the host behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRef<'a> {
    /// `uid`: of the host that had this name when the machine joined the cluster, if the Node
    /// tells.
    Named {
        namespace: &'a str,
        name: &'a str,
        uid: Option<&'a str>,
    },
    Uid(&'a str),
}

impl<'a> HostRef<'a> {
    /// The host that a node's `spec.providerID` names: `metal3://<namespace>/<host>/<machine>`,
    /// `metal3://<uid>` or `baremetalhost:///<namespace>/<host>/<uid>`.
    pub fn of(node: &'a Node) -> Option<Self> {
        let named = |path: &'a str| {
            let (namespace, rest) = path.split_once('/')?;
            let (name, last) = rest.split_once('/')?;
            (!namespace.is_empty() && !name.is_empty()).then_some((namespace, name, last))
        };
        let id = &node.spec.provider_id;
        if let Some(path) = id.strip_prefix("baremetalhost:///") {
            let (namespace, name, uid) = named(path)?;
            return Some(Self::Named { namespace, name, uid: Some(uid).filter(|uid| !uid.is_empty()) });
        }
        let path = id.strip_prefix("metal3://").filter(|path| !path.is_empty())?;
        if !path.contains('/') {
            return Some(Self::Uid(path));
        }
        named(path).map(|(namespace, name, _)| Self::Named { namespace, name, uid: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_provider_id_names_a_host_by_namespace_and_name_or_by_uid() {
        let metal3 = |uid| Some(HostRef::Named { namespace: "metal3", name: "worker-2", uid });
        for (id, named) in [
            ("metal3://metal3/worker-2/machine-7", metal3(None)),
            ("metal3://metal3/worker-2/", metal3(None)),
            ("metal3://d668eb95-5df6-4c10", Some(HostRef::Uid("d668eb95-5df6-4c10"))),
            ("baremetalhost:///metal3/worker-2/d668eb95-5df6-4c10", metal3(Some("d668eb95-5df6-4c10"))),
            ("baremetalhost:///metal3/worker-2/", metal3(None)),
            ("baremetalhost:///metal3/worker-2", None),
            ("baremetalhost:///d668eb95-5df6-4c10", None),
            ("baremetalhost://metal3/worker-2/d668eb95", None),
            ("metal3://metal3/worker-2", None),
            ("metal3:///worker-2/m", None),
            ("metal3://metal3//m", None),
            ("metal3://", None),
            ("aws:///us-east-1/i-0", None),
            ("", None),
        ] {
            let node: Node = serde_json::from_value(json!({"spec": {"providerID": id}})).unwrap();
            assert_eq!(HostRef::of(&node), named, "{id}");
        }
    }

    #[test]
    fn a_host_is_held_off_by_its_spec_or_by_an_annotation_with_a_key() {
        for (annotation, spec, held_off) in [
            ("reboot.metal3.io/capm3", json!({"online": true}), true),
            ("reboot.metal3.io", json!({"online": true}), false),
            ("reboot.metal3.io", json!({"online": false}), true),
            ("reboot.metal3.iox/key", json!({"online": true}), false),
            ("reboot.metal3.io/capm3", json!({"online": true, "disablePowerOff": true}), false),
            ("other", json!({"online": null}), false),
            ("other", Value::Null, false),
        ] {
            let host = json!({"metadata": {"annotations": {annotation: ""}}, "spec": spec});
            let host: BareMetalHost = serde_json::from_value(host).unwrap();
            assert_eq!(host.is_held_off(), held_off, "{annotation} {spec}");
        }
    }

    #[test]
    fn only_the_host_that_the_node_names_is_read() {
        let scope = |id: &str| {
            let node: Node = serde_json::from_value(json!({"spec": {"providerID": id}})).unwrap();
            let Scope { namespace, name } = BareMetalHost::scope(&node);
            (namespace.map(str::to_owned), name.map(str::to_owned))
        };
        let named = (Some("metal3".to_owned()), Some("worker-2".to_owned()));
        assert_eq!(scope("metal3://metal3/worker-2/machine-7"), named);
        assert_eq!(scope("metal3://d668eb95-5df6-4c10"), (None, None));
    }
}
