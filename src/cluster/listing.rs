//! Lists of Nodes for people: each with what is told about it beside the fields that are judged.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use thiserror::Error;

use crate::policy::{
    json::{null_is_default, object_or_null},
    object::node::{Node, OUT_OF_SERVICE},
    text::Foreign,
};

/// A Node, with what is told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub node: Node,
    pub about: About,
}

/// What is told about a Node, and never judged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct About {
    #[serde(deserialize_with = "object_or_null")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Spec {
    /// As they are: a write replaces the whole list.
    #[serde(deserialize_with = "null_is_default")]
    taints: Vec<Value>,
    /// Whether somebody cordoned the node.
    #[serde(deserialize_with = "null_is_default")]
    unschedulable: bool,
}

impl About {
    /// `spec.unschedulable`: whether the node is cordoned.
    pub fn is_cordoned(&self) -> bool {
        self.spec.unschedulable
    }

    /// `timeAdded` of each entry of the out-of-service taint, in their order: whoever wrote the
    /// taint may have written any time.
    pub fn times_added(&self) -> impl Iterator<Item = Option<Timestamp>> {
        let entries = self.spec.taints.iter().filter(|taint| is_out_of_service(taint));
        entries.map(|taint| taint.get("timeAdded")?.as_str()?.parse().ok())
    }

    /// All other entries of `spec.taints`, as they are.
    pub fn other_taints(&self) -> impl Iterator<Item = &Value> {
        self.spec.taints.iter().filter(|taint| !is_out_of_service(taint))
    }
}

fn is_out_of_service(taint: &Value) -> bool {
    taint.get("key").and_then(Value::as_str) == Some(OUT_OF_SERVICE)
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let node = Node::deserialize(&object).map_err(D::Error::custom)?;
        let about = About::deserialize(&object).map_err(D::Error::custom)?;
        Ok(Self { node, about })
    }
}

/// Which Nodes to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    /// Those with these labels, in kubectl's notation.
    Labels(String),
    /// Those with these names, in this order.
    Names(Vec<String>),
}

/// Why Nodes cannot be listed.
#[derive(Debug, Error)]
pub enum ListError {
    #[error("the list of Nodes could not be read: {0}")]
    Unreadable(String),
    #[error("node {name:?} does not exist{}", hint(.similar.as_deref()))]
    Missing { name: String, similar: Option<String> },
    #[error("the file has no Node")]
    NotInFile,
    #[error("a file cannot be searched for labels: give the names of the nodes")]
    LabelsInFile,
}

fn hint(name: Option<&str>) -> String {
    name.map(|name| format!("; similar: {}", Foreign::from(name))).unwrap_or_default()
}

impl ListError {
    /// There is no Node of this name among these.
    pub(super) fn missing<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        /// A typing error, and not another name.
        const DISTANCE: usize = 2;
        let near = known.map(|known| (strsim::levenshtein(name, known), known));
        let nearest = near.filter(|(distance, _)| *distance <= DISTANCE).min();
        Self::Missing { name: name.to_owned(), similar: nearest.map(|(_, name)| name.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_listed_node_has_what_is_judged_and_what_is_told() {
        let taints = json!([{"key": "a"}, {"key": OUT_OF_SERVICE, "timeAdded": "2026-11-22T10:16:05Z"}, {"key": OUT_OF_SERVICE}]);
        let listed: Listed = from_value(
            json!({"metadata": {"name": "n1", "uid": "u"}, "spec": {"taints": taints, "unschedulable": true}}),
        )
        .unwrap();
        assert_eq!((listed.node.metadata.name.as_str(), listed.node.metadata.uid.as_str()), ("n1", "u"));
        assert!(listed.about.is_cordoned());
        let times: Vec<Option<Timestamp>> = listed.about.times_added().collect();
        assert_eq!(times, ["2026-11-22T10:16:05Z".parse().ok(), None]);
        assert_eq!(listed.about.other_taints().collect::<Vec<_>>(), [&json!({"key": "a"})]);
        assert!(from_value::<Listed>(json!({"spec": "n1"})).is_err());
    }

    #[test]
    fn a_name_that_is_not_there_may_be_a_typing_error() {
        let error = |name| ListError::missing(name, ["worker-2", "worker-12", "db"].into_iter()).to_string();
        assert_eq!(error("worker-22"), "node \"worker-22\" does not exist; similar: worker-12");
        assert_eq!(error("wroker-2"), "node \"wroker-2\" does not exist; similar: worker-2");
        assert_eq!(error("gpu-7"), "node \"gpu-7\" does not exist");
    }
}
