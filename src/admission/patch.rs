//! The mutating webhook's patch: a JSON patch (RFC 6902) that changes the gate's annotations,
//! removes pacemaker's mark at a release, and does nothing else.

use serde::Serialize;

use crate::policy::{object::node::Node, record::stamp::Stamps};

const ANNOTATIONS: &str = "/metadata/annotations";

/// One step of the patch.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    /// Adds a value, or replaces the old one.
    Add {
        path: String,
        value: Value,
    },
    Remove {
        path: String,
    },
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    /// An object without fields.
    Empty {},
}

/// The patch that writes these stamps to a Node, as JSON. `None` if there is nothing to change.
pub fn patch(node: &Node, stamps: &Stamps) -> Option<String> {
    if stamps.is_empty() {
        return None;
    }
    let map = || Operation::Add { path: ANNOTATIONS.to_owned(), value: Value::Empty {} };
    let missing = node.metadata.annotations.is_none().then(map);
    let steps = stamps.iter().map(|(key, value)| {
        let path = format!("{ANNOTATIONS}/{}", escaped(key));
        match value {
            Some(value) => Operation::Add { path, value: Value::Text(value.clone()) },
            None => Operation::Remove { path },
        }
    });
    serde_json::to_string(&missing.into_iter().chain(steps).collect::<Vec<_>>()).ok()
}

/// A key, escaped for a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::annotation::{METHOD, PLACED_BY};

    #[test]
    fn keys_are_escaped_and_a_missing_map_of_annotations_is_created() {
        let stamps = Stamps::from([(PLACED_BY, Some("al\"ice".to_owned())), (METHOD, None)]);
        let bare = patch(&Node::default(), &stamps).unwrap();
        let steps = json!([
            {"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "remove", "path": "/metadata/annotations/fencegate.dev~1method"},
            {"op": "add", "path": "/metadata/annotations/fencegate.dev~1placed-by", "value": "al\"ice"},
        ]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&bare).unwrap(), steps);
        let node: Node = serde_json::from_value(json!({"metadata": {"annotations": {}}})).unwrap();
        assert!(!patch(&node, &stamps).unwrap().contains("{}"), "an existing map is not replaced");
        assert_eq!(patch(&node, &Stamps::new()), None);
    }
}
