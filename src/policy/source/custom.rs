//! What the sources that are kinds of their own have in common: where a kind is served, and what is known of its objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Answer, Doubt};
use crate::policy::{facts::Installed, json::null_is_default, reason::Unread};

/// A kind that a cluster may or may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    /// In lower case, as URLs have it.
    pub plural: &'static str,
    pub name: &'static str,
}

/// By which medik8s says what node a remediation is about, where that is not its name.
pub const NODE_NAME: &str = "remediation.medik8s.io/node-name";
/// By which a BareMetalHost is left alone by its operator.
pub const PAUSED: &str = "baremetalhost.metal3.io/paused";
/// By which a BareMetalHost is given away by its operator.
pub const DETACHED: &str = "baremetalhost.metal3.io/detached";

/// `metadata` of an object of such a kind: only annotations that a source reads are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectMeta {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "only_read_annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn only_read_annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations: BTreeMap<String, String> = null_is_default(deserializer)?;
    annotations.retain(|key, _| [NODE_NAME, PAUSED, DETACHED].contains(&key.as_str()));
    Ok(annotations)
}

impl ObjectMeta {
    /// The node that a medik8s remediation is about.
    pub fn remediated_node(&self) -> &str {
        self.annotations.get(NODE_NAME).unwrap_or(&self.name)
    }

    /// `namespace/name`, or the name alone.
    pub fn told(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// Asks every object about the node: the answer of the one that vouches for the latest fence, else why the first does not. A fence
/// without a time counts as the earliest.
pub(super) fn ask_each<T>(kind: Kind, read: Result<&Installed<T>, &str>, ask: impl Fn(&T) -> Answer) -> Answer {
    let objects = match read {
        Ok(Some(objects)) => objects,
        Ok(None) => return Err("not installed".to_owned().into()),
        Err(why) => {
            let what = format!("{}.{}", kind.plural, kind.group);
            return Err(Doubt::Unread(Unread { what, why: why.to_owned() }));
        }
    };
    let answers: Vec<Answer> = objects.iter().map(ask).collect();
    match answers.iter().filter_map(|answer| answer.as_ref().ok()).max() {
        Some(latest) => Ok(*latest),
        None => {
            answers.into_iter().next().unwrap_or_else(|| Err(format!("there is no {} for the node", kind.name).into()))
        }
    }
}
