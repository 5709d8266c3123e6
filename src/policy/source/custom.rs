//! What the sources that are kinds of their own have in common: where a kind is served, and what is known of its objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Doubt;
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

/// The objects about the node, at least one; else why there is nothing to judge.
pub(super) fn about_the_node<'a, T>(kind: Kind, read: Result<&'a Installed<T>, &str>) -> Result<&'a [T], Doubt> {
    match read {
        Ok(Some(objects)) if objects.is_empty() => Err(format!("there is no {} for the node", kind.name).into()),
        Ok(Some(objects)) => Ok(objects),
        Ok(None) => Err("not installed".to_owned().into()),
        Err(why) => Err(Doubt::Unread(Unread { what: format!("{}.{}", kind.plural, kind.group), why: why.to_owned() })),
    }
}

/// Of several objects about the node the answer of the one that vouches for the latest fence, else why the first does not. A
/// fence without a time counts as the earliest.
pub(super) fn latest<T>(objects: &[T], ask: impl Fn(&T) -> super::Answer) -> super::Answer {
    let mut answers = objects.iter().map(ask);
    let first = answers.next().unwrap_or_else(|| Err(String::new().into()));
    answers.fold(first, |best, answer| match (best, answer) {
        (Ok(one), Ok(other)) => Ok(one.max(other)),
        (best @ Ok(_), Err(_)) | (Err(_), best @ Ok(_)) | (best @ Err(_), Err(_)) => best,
    })
}
