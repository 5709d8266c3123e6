//! `fence-agents-remediation`: medik8s ran a fence agent against the machine, and the agent reported success.
//!
//! <https://github.com/medik8s/fence-agents-remediation>, `api/v1alpha1`: the condition turns true before the taint is placed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Answer,
    custom::{Kind, ObjectMeta, ask_each},
};
use crate::policy::{
    facts::Facts,
    json::{null_is_default, object_or_nothing, object_or_null, objects_or_null},
};

pub const KIND: Kind = Kind {
    group: "fence-agents-remediation.medik8s.io",
    version: "v1alpha1",
    plural: "fenceagentsremediations",
    name: "FenceAgentsRemediation",
};

/// True once the fence agent reported success.
const SUCCEEDED: &str = "FenceAgentActionSucceeded";

/// A FenceAgentsRemediation, as far as it is judged.
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

/// Whether it is about that node.
pub fn is_about(remediation: &FenceAgentsRemediation, node: &str) -> bool {
    remediation.metadata.remediated_node() == node
}

pub(super) fn vouches(facts: &Facts) -> Answer {
    ask_each(KIND, facts.fence_agents_remediations(), |FenceAgentsRemediation { metadata, status }| {
        let condition = status.conditions.iter().find(|condition| condition.kind == SUCCEEDED);
        match condition {
            Some(condition) if condition.status == "True" => Ok(condition.last_transition_time),
            Some(condition) => Err(format!("{} has {SUCCEEDED}={}", metadata.told(), condition.status).into()),
            None => Err(format!("{} has no {SUCCEEDED} yet", metadata.told()).into()),
        }
    })
}
