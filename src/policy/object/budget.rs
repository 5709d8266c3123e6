//! The Lease `fencegate-budget`, in which the gate enters every node that it lets be put out of
//! service while `place.maxNodes` is set.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::json::{kept_entries, null_is_default, object_or_null};

/// The name of the Lease. It is in the gate's own namespace.
pub const NAME: &str = "fencegate-budget";
/// The annotation of the Lease that holds the nodes: one line of JSON, when each was entered, by
/// name.
pub const ADMITTED: &str = "fencegate.dev/admitted";

/// The Lease, with the fields that the gate judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: BudgetMetadata,
}

/// `metadata` of the Lease: only [`ADMITTED`] is kept of the annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BudgetMetadata {
    /// The version that was read; a write replaces no other.
    #[serde(deserialize_with = "null_is_default")]
    pub resource_version: String,
    #[serde(deserialize_with = "only_admitted")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Budget {
    /// When each node was entered. `None` if the annotation is not what the gate writes.
    pub fn entries(&self) -> Option<BTreeMap<String, Timestamp>> {
        let Some(text) = self.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ADMITTED)) else {
            return Some(BTreeMap::new());
        };
        let entries: BTreeMap<String, Timestamp> = serde_json::from_str(text).ok()?;
        entries.keys().all(|name| is_name(name)).then_some(entries)
    }
}

/// Whether a text can be the name of a Node. A message shows it.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

fn only_admitted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    kept_entries(deserializer, usize::MAX, |key| key == ADMITTED)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entries(annotations: &Value) -> Option<usize> {
        let lease = json!({"metadata": {"resourceVersion": "7", "annotations": annotations}, "spec": {}});
        serde_json::from_value::<Budget>(lease).unwrap().entries().map(|entries| entries.len())
    }

    #[test]
    fn a_lease_without_the_annotation_has_no_entry_and_any_other_text_is_not_understood() {
        let admitted = |text: &str| json!({ADMITTED: text, "example.com/other": "x"});
        for (annotations, expected) in [
            (Value::Null, Some(0)),
            (json!({}), Some(0)),
            (admitted("{}"), Some(0)),
            (admitted(r#"{"n1":"2026-11-22T10:20:00Z","ip-10-0-0-1.ec2.internal":"2026-11-22T10:20:00Z"}"#), Some(2)),
            (admitted(""), None),
            (admitted("n1"), None),
            (admitted(r#"["n1"]"#), None),
            (admitted(r#"{"n1":"just now"}"#), None),
            (admitted(r#"{"n1\nn2":"2026-11-22T10:20:00Z"}"#), None),
        ] {
            assert_eq!(entries(&annotations), expected, "{annotations}");
        }
    }
}
