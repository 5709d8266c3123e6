//! Who wrote the record that comes with a write. This is decided here and nowhere else.

use super::Source;
use crate::policy::{
    annotation::{PLACED_AT, SOURCE},
    object::node::Node,
    request::Write,
};

/// Who wrote the record that comes with a write.
///
/// The mutating webhook stamps a write that it allows, and if the source is not the annotations, it
/// writes out that source's evidence. The validating webhook, and the mutating webhook when it is
/// called a second time, see these annotations as if the requester had written them. A stamp that
/// an earlier outage left on the Node says nothing about this write. So the stamp `source` counts
/// only if this write changes `source` or `placed-at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOrigin {
    /// The requester wrote the evidence, if the write has any. Every accepted source may vouch.
    Requester,
    /// The write has the stamps that only the gate writes. If they name a source, only this source
    /// may vouch. They name none if a break-glass placed the taint and no source vouched.
    Gate(Option<Source>),
}

impl RecordOrigin {
    /// Finds out who wrote the record that comes with this write.
    pub fn of(write: &Write) -> Self {
        let places =
            write.after().is_some_and(Node::is_out_of_service) && !write.before().is_some_and(Node::is_out_of_service);
        let before = |key: &str| write.before().and_then(|node| node.annotation(key));
        let after = |key: &str| write.after().and_then(|node| node.annotation(key));
        let stamps = [SOURCE, PLACED_AT];
        let is_changed = stamps.iter().any(|key| before(key) != after(key));
        let is_stamped = stamps.iter().any(|key| after(key).is_some());
        if places && is_changed && is_stamped {
            Self::Gate(after(SOURCE).and_then(Source::parse))
        } else {
            Self::Requester
        }
    }

    /// Whether a source may vouch for this write.
    pub fn permits(self, source: Source) -> bool {
        self.named().is_none_or(|named| named == source)
    }

    /// The source that the gate's stamps name.
    pub fn named(self) -> Option<Source> {
        match self {
            Self::Gate(source) => source,
            Self::Requester => None,
        }
    }

    /// The source whose evidence the gate wrote out. `None` if the source is the annotations: that
    /// evidence is the requester's own, even if its stamps are correct.
    pub fn written_out(self) -> Option<Source> {
        self.named().filter(|source| source.method().is_some())
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
    fn the_stamp_source_counts_only_if_it_comes_with_this_placement() {
        let cloud = json!({SOURCE: "cloud-shutdown"});
        let stamped = json!({SOURCE: "cloud-shutdown", PLACED_AT: "2026-11-22T10:20:00Z"});
        let placed = json!({PLACED_AT: "2026-11-22T10:20:00Z"});
        let gate = RecordOrigin::Gate(Some(Source::CloudShutdown));
        let (nameless, requester) = (RecordOrigin::Gate(None), RecordOrigin::Requester);
        for (old, new, tainted, origin) in [
            (json!({}), stamped.clone(), true, gate),
            (cloud.clone(), stamped.clone(), true, gate),
            (cloud.clone(), cloud.clone(), true, requester),
            (stamped.clone(), stamped.clone(), true, requester),
            (json!({}), json!({SOURCE: "hearsay"}), true, nameless),
            (json!({}), placed.clone(), true, nameless),
            (placed, json!({}), true, requester),
            (json!({}), stamped.clone(), false, requester),
        ] {
            let write = Write::Update { old: node(false, &old), new: node(tainted, &new) };
            assert_eq!(RecordOrigin::of(&write), origin, "{old} to {new}");
        }
        let kept = Write::Update { old: node(true, &json!({})), new: node(true, &stamped) };
        assert_eq!(RecordOrigin::of(&kept), requester, "the write does not place the taint");
    }

    #[test]
    fn a_stamp_permits_the_source_that_it_names_and_no_other() {
        let gate = RecordOrigin::Gate(Some(Source::CloudShutdown));
        assert!(gate.permits(Source::CloudShutdown) && !gate.permits(Source::Annotations));
        for origin in [RecordOrigin::Gate(None), RecordOrigin::Requester] {
            assert!(origin.permits(Source::CloudShutdown) && origin.permits(Source::Annotations));
        }
    }

    #[test]
    fn evidence_is_written_out_for_every_source_but_the_annotations() {
        assert_eq!(RecordOrigin::Gate(Some(Source::Annotations)).written_out(), None);
        assert_eq!(RecordOrigin::Gate(Some(Source::NetworkFence)).written_out(), Some(Source::NetworkFence));
        assert_eq!(RecordOrigin::Gate(None).written_out(), None);
        assert_eq!(RecordOrigin::Requester.written_out(), None);
    }
}
