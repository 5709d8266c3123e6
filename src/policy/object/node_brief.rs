//! What counts of a Node in the list of all Nodes: its name, and whether it is out of service and
//! Ready. Nothing else of it is held in memory, and nothing that its machine may write into it can
//! make the list unreadable.

use serde::{Deserialize, Deserializer};

use super::node::{Condition, Node, OUT_OF_SERVICE, Taint};
use crate::policy::json::{kept_objects, null_is_default, object_or_null};

/// A Node in the list of all Nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeBrief {
    #[serde(deserialize_with = "object_or_null")]
    metadata: Metadata,
    #[serde(deserialize_with = "object_or_null")]
    spec: Spec,
    #[serde(deserialize_with = "object_or_null")]
    status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(deserialize_with = "null_is_default")]
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "taints", deserialize_with = "is_out_of_service")]
    is_out_of_service: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "conditions", deserialize_with = "is_ready")]
    is_ready: bool,
}

impl NodeBrief {
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Whether any taint has the guarded key.
    pub fn is_out_of_service(&self) -> bool {
        self.spec.is_out_of_service
    }

    /// Whether any `Ready` condition is `True`.
    pub fn is_ready(&self) -> bool {
        self.status.is_ready
    }
}

impl From<&Node> for NodeBrief {
    fn from(node: &Node) -> Self {
        Self {
            metadata: Metadata { name: node.metadata.name.clone() },
            spec: Spec { is_out_of_service: node.is_out_of_service() },
            status: Status { is_ready: node.ready().is_some() },
        }
    }
}

fn is_out_of_service<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let found = kept_objects(deserializer, usize::MAX, |taint: Taint| (taint.key == OUT_OF_SERVICE).then_some(()));
    Ok(!found?.is_empty())
}

fn is_ready<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let is_ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
    let found = kept_objects(deserializer, usize::MAX, |condition| is_ready(&condition).then_some(()));
    Ok(!found?.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_node_in_the_list_is_what_the_whole_node_is() {
        let oos = json!([{"key": "other"}, {"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        for (node, is_out_of_service, is_ready) in [
            (
                json!({"metadata": {"name": "n1"}, "spec": {"taints": oos}, "status": {"conditions": ready("Unknown")}}),
                true,
                false,
            ),
            (
                json!({"metadata": {"name": "n1"}, "spec": {"taints": null}, "status": {"conditions": ready("True")}}),
                false,
                true,
            ),
            (
                json!({"metadata": {"name": "n1"}, "spec": {}, "status": {"conditions": [{"type": "Disk", "status": "True"}]}}),
                false,
                false,
            ),
            (json!({"metadata": {"name": "n1"}, "spec": null}), false, false),
        ] {
            let brief: NodeBrief = from_value(node.clone()).unwrap();
            assert_eq!(brief, NodeBrief::from(&from_value::<Node>(node.clone()).unwrap()), "{node}");
            let shown = (brief.name(), brief.is_out_of_service(), brief.is_ready());
            assert_eq!(shown, ("n1", is_out_of_service, is_ready), "{node}");
        }
    }

    #[test]
    fn no_number_of_entries_makes_the_list_unreadable() {
        let many = json!({"metadata": {"name": "n1"}, "status": {"conditions": vec![json!({"type": "Ready"}); 2000]}});
        assert!(from_value::<Node>(many.clone()).is_err());
        assert!(!from_value::<NodeBrief>(many).unwrap().is_ready());
    }
}
