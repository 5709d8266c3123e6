//! A FenceAgentsRemediation of medik8s: one run of a fence agent against the machine of a node.
//!
//! <https://github.com/medik8s/fence-agents-remediation>, `api/v1alpha1`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null, objects_or_null, readable_time};

/// A FenceAgentsRemediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FenceAgentsRemediation {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub spec: Spec,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
}

/// `spec` of a FenceAgentsRemediation: of the agent's parameters, only `--action` is kept. Others
/// are passwords.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    #[serde(rename = "sharedparameters", deserialize_with = "object_or_nothing")]
    pub shared: SharedParameters,
    #[serde(rename = "nodeparameters", deserialize_with = "object_or_nothing")]
    pub of_nodes: NodeParameters,
}

/// `spec.sharedparameters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedParameters {
    #[serde(rename = "--action", skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// `spec.nodeparameters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeParameters {
    /// By the name of the node.
    #[serde(rename = "--action", deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub action: BTreeMap<String, String>,
}

/// `status` of a FenceAgentsRemediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    #[serde(deserialize_with = "objects_or_null")]
    pub conditions: Vec<Condition>,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    #[serde(deserialize_with = "readable_time")]
    pub last_transition_time: Option<Timestamp>,
}

impl CustomResource for FenceAgentsRemediation {
    const KIND: Kind = Kind {
        group: "fence-agents-remediation.medik8s.io",
        version: "v1alpha1",
        plural: "fenceagentsremediations",
        name: "FenceAgentsRemediation",
    };

    fn is_about(&self, node: &Node) -> bool {
        self.metadata.remediated_node() == node.metadata.name
    }
}

impl FenceAgentsRemediation {
    /// What the agent does to the machine. The node's own parameter takes precedence over the
    /// shared one, and FAR adds `reboot` where neither is there
    /// (`api/v1alpha1/fenceagentsremediation_params.go`, v0.7.0). FAR refuses to run an agent whose
    /// action comes from a parameter and from a Secret; where it comes from a Secret alone, the
    /// gate does not see it.
    pub fn action(&self) -> &str {
        let Spec { shared, of_nodes } = &self.spec;
        of_nodes.action.get(self.metadata.remediated_node()).or(shared.action.as_ref()).map_or("reboot", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_nodes_own_action_comes_before_the_shared_one_and_the_default_is_a_reboot() {
        for (shared, of_nodes, action) in [
            (json!({}), json!({}), "reboot"),
            (json!({"--action": "off"}), json!({}), "off"),
            (json!({"--action": "off"}), json!({"--action": {"n2": "reboot"}}), "off"),
            (json!({"--action": "off"}), json!({"--action": {"n1": "reboot"}}), "reboot"),
            (json!({"--action": "reboot"}), json!({"--action": {"n1": "off", "n2": "reboot"}}), "off"),
            (json!({"action": "off", "-o": "off"}), Value::Null, "reboot"),
            (json!({"--action": ""}), json!({}), ""),
            (json!({"--action": null}), json!({"--action": null}), "reboot"),
            (json!({"--action": ["off"]}), json!({"--action": "off"}), "reboot"),
        ] {
            let spec = json!({"sharedparameters": shared, "nodeparameters": of_nodes});
            let far = json!({"metadata": {"name": "n1"}, "spec": spec});
            let far: FenceAgentsRemediation = serde_json::from_value(far).unwrap();
            assert_eq!(far.action(), action, "{spec}");
        }
    }

    #[test]
    fn no_other_parameter_of_the_agent_is_kept() {
        let parameters = json!({"--action": "off", "--password": "s3cret"});
        let of_nodes = json!({"--password": {"n1": "s3cret"}, "--action": {"n1": "off"}});
        let spec = json!({"agent": "fence_ipmilan", "sharedparameters": parameters, "nodeparameters": of_nodes});
        let far: FenceAgentsRemediation = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert!(!serde_json::to_string(&far).unwrap().contains("s3cret"));
    }
}
