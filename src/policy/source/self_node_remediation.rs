//! `self-node-remediation`: medik8s waited until the node must have rebooted itself.
//!
//! <https://github.com/medik8s/self-node-remediation>, `api/v1alpha1`: the time by which its watchdog has fired comes first, the
//! phase once that time is over.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Answer,
    custom::{Kind, ObjectMeta, ask_each},
};
use crate::policy::{
    evidence::quoted,
    facts::Facts,
    json::{null_is_default, object_or_nothing, object_or_null},
};

pub const KIND: Kind = Kind {
    group: "self-node-remediation.medik8s.io",
    version: "v1alpha1",
    plural: "selfnoderemediations",
    name: "SelfNodeRemediation",
};

/// The phases in which the node's reboot is over.
const REBOOTED: [&str; 2] = ["Reboot-Completed", "Fencing-Completed"];

/// A SelfNodeRemediation, as far as it is judged.
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
    pub time_assumed_rebooted: Option<Timestamp>,
}

/// Whether it is about that node.
pub fn is_about(remediation: &SelfNodeRemediation, node: &str) -> bool {
    remediation.metadata.remediated_node() == node
}

pub(super) fn vouches(facts: &Facts) -> Answer {
    ask_each(KIND, facts.self_node_remediations(), |SelfNodeRemediation { metadata, status }| {
        if REBOOTED.contains(&status.phase.as_str()) {
            return Ok(status.time_assumed_rebooted);
        }
        let [one, other] = REBOOTED;
        Err(format!("{} is in phase {}, not {one} or {other}", metadata.told(), quoted(&status.phase)).into())
    })
}
