//! The line about an outage that remains on the Node: the value of the stamp
//! `fencegate.dev/last-outage`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::{
    annotation::{
        BOOT_ID, FENCED_AT, FENCED_BY, METHOD, OVERRIDDEN, OVERRIDDEN_AT, OVERRIDDEN_BY, PLACED_AT, PLACED_BY, PROOF,
        RECORDED_AT, RECORDED_BY, SOURCE,
    },
    object::node::Node,
};

/// One outage, from the fence to the release, as one line of JSON. Annotations that the Node did
/// not have are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden_at: Option<String>,
    pub released_by: String,
    pub released_at: Timestamp,
}

impl Outage {
    /// The outage that ends when `user` removes the taint from `old` at `released_at`.
    pub fn ended(old: &Node, user: &str, released_at: Timestamp) -> Self {
        let text = |key| old.annotation(key).map(str::to_owned);
        Self {
            method: text(METHOD),
            fenced_at: text(FENCED_AT),
            fenced_by: text(FENCED_BY),
            proof: text(PROOF),
            boot_id: text(BOOT_ID),
            recorded_by: text(RECORDED_BY),
            recorded_at: text(RECORDED_AT),
            source: text(SOURCE),
            placed_by: text(PLACED_BY),
            placed_at: text(PLACED_AT),
            overridden: text(OVERRIDDEN),
            overridden_by: text(OVERRIDDEN_BY),
            overridden_at: text(OVERRIDDEN_AT),
            released_by: user.to_owned(),
            released_at,
        }
    }
}
