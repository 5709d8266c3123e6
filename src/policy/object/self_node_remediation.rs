//! A SelfNodeRemediation of medik8s: a node that must reboot itself.
//!
//! <https://github.com/medik8s/self-node-remediation>, `api/v1alpha1`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null, readable_time};

/// A SelfNodeRemediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelfNodeRemediation {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
}

/// `status` of a SelfNodeRemediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    #[serde(deserialize_with = "null_is_default")]
    pub phase: String,
    /// The latest time at which the node's watchdog fires: minutes after the remediation began.
    #[serde(deserialize_with = "readable_time")]
    pub time_assumed_rebooted: Option<Timestamp>,
}

impl CustomResource for SelfNodeRemediation {
    const KIND: Kind = Kind {
        group: "self-node-remediation.medik8s.io",
        version: "v1alpha1",
        plural: "selfnoderemediations",
        name: "SelfNodeRemediation",
    };

    fn is_about(&self, node: &Node) -> bool {
        self.metadata.remediated_node() == node.metadata.name
    }
}
