//! Whose the record is that a write brings: the one place where this is decided.

use super::Source;
use crate::policy::{
    annotation::{PLACED_AT, SOURCE},
    object::node::Node,
    request::Write,
};

/// Who wrote the record that a write brings.
///
/// The mutating side stamps what it allows and writes out the evidence of other sources than the
/// annotations. What it wrote reaches the validating side, and the mutating side itself when it is
/// called a second time, as if the requester had written it. A stamp from an earlier outage that is
/// still on the Node says nothing about this write: only a `source` that comes with a new `source`
/// or `placed-at` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOrigin {
    /// The requester wrote whatever evidence the write brings. Every accepted source may vouch.
    Requester,
    /// The gate wrote the stamps, for this source. Only it may vouch.
    Gate(Source),
}

impl RecordOrigin {
    /// Who wrote the record that this write brings.
    pub fn of(write: &Write) -> Self {
        let places =
            write.after().is_some_and(Node::is_out_of_service) && !write.before().is_some_and(Node::is_out_of_service);
        let before = |key: &str| write.before().and_then(|node| node.annotation(key));
        let after = |key: &str| write.after().and_then(|node| node.annotation(key));
        let is_brought = [SOURCE, PLACED_AT].iter().any(|key| before(key) != after(key));
        match after(SOURCE).and_then(Source::parse) {
            Some(source) if places && is_brought => Self::Gate(source),
            _ => Self::Requester,
        }
    }

    /// The source whose word the gate wrote out as evidence. Evidence that is stamped as vouched
    /// for by the annotations is the requester's own, however rightly it is stamped.
    pub fn written_out(self) -> Option<Source> {
        match self {
            Self::Gate(source) if source.method().is_some() => Some(source),
            Self::Gate(_) | Self::Requester => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::object::node::OUT_OF_SERVICE;

    fn node(tainted: bool, annotations: &Value) -> Node {
        let taints = if tainted { json!([{"key": OUT_OF_SERVICE}]) } else { json!([]) };
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {"taints": taints}})).unwrap()
    }

    #[test]
    fn a_source_counts_that_comes_with_this_placement() {
        let cloud = json!({SOURCE: "cloud-shutdown"});
        let stamped = json!({SOURCE: "cloud-shutdown", PLACED_AT: "2026-11-22T10:20:00Z"});
        let (gate, requester) = (RecordOrigin::Gate(Source::CloudShutdown), RecordOrigin::Requester);
        for (old, new, tainted, origin) in [
            (json!({}), stamped.clone(), true, gate),
            (cloud.clone(), stamped.clone(), true, gate),
            (cloud.clone(), cloud.clone(), true, requester),
            (stamped.clone(), stamped.clone(), true, requester),
            (json!({}), json!({SOURCE: "hearsay"}), true, requester),
            (json!({}), stamped.clone(), false, requester),
        ] {
            let write = Write::Update { old: node(false, &old), new: node(tainted, &new) };
            assert_eq!(RecordOrigin::of(&write), origin, "{old} to {new}");
        }
        let kept = Write::Update { old: node(true, &json!({})), new: node(true, &stamped) };
        assert_eq!(RecordOrigin::of(&kept), requester, "nothing is placed");
    }

    #[test]
    fn only_the_word_of_another_source_is_written_out() {
        assert_eq!(RecordOrigin::Gate(Source::Annotations).written_out(), None);
        assert_eq!(RecordOrigin::Gate(Source::NetworkFence).written_out(), Some(Source::NetworkFence));
        assert_eq!(RecordOrigin::Requester.written_out(), None);
    }
}
