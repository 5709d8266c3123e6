//! A FenceAgentsRemediation of medik8s: one run of a fence agent against the machine of a node.
//!
//! <https://github.com/medik8s/fence-agents-remediation>, `api/v1alpha1`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null, objects_or_null};

/// A FenceAgentsRemediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FenceAgentsRemediation {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
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
