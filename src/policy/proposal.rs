//! A write together with the settings: everything that is known about it before any fact is read.

use super::{
    annotation::{
        APPLIED_BY, BOOT_ID, BREAK_GLASS, BREAK_GLASS_STAMPS, EVIDENCE, OVERRIDDEN_AT, OVERRIDDEN_BY,
        OVERRIDDEN_STAMPS, PACEMAKER, RECORD_STAMPS, STAMPS,
    },
    facts::Fact,
    object::node::{Node, Taint},
    reason::{Code, Mode},
    request::Request,
    settings::Settings,
    source::{self, RecordOrigin, Source},
    transition::{Transition, Transitions, entries_beyond},
};

/// The input of a rule's `applies` and `needs`.
#[derive(Debug)]
pub struct Proposal<'a> {
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub transitions: Transitions,
    /// Who wrote the record that comes with the write.
    pub origin: RecordOrigin,
}

impl<'a> Proposal<'a> {
    /// Derives from a request what it does. What it does through a door that is off does not count.
    pub fn new(request: &'a Request, settings: &'a Settings) -> Self {
        let write = &request.write;
        let transitions = Transitions::of(write).only(|transition| settings.mode_of(transition) != Mode::Off);
        Self { request, settings, transitions, origin: RecordOrigin::of(write) }
    }

    /// Whether the write makes this transition.
    pub fn does(&self, transition: Transition) -> bool {
        self.transitions.contains(transition)
    }

    /// The mode in which a check is applied.
    pub fn mode(&self, code: Code) -> Mode {
        let no_boot_is_recorded = self.change(BOOT_ID).0.is_none();
        match code {
            // No reboot could ever satisfy the check.
            Code::NodeNotRebooted if no_boot_is_recorded && !self.settings.modes.contains_key(&code) => Mode::Warn,
            _ => self.settings.mode(code),
        }
    }

    /// Whether the check denies the write if it fails.
    pub fn enforces(&self, code: Code) -> bool {
        self.mode(code) == Mode::Enforce
    }

    /// The facts that tell whether a source vouches for the fence.
    pub fn facts_of_sources(&self) -> Vec<Fact> {
        let may_be_refuted = |source| self.may_be_refuted(source);
        source::facts_needed(&self.request.write, self.origin, &self.settings.sources, may_be_refuted)
    }

    /// Whether a fact can refute the word of a source about a fence that has a time: it may be too
    /// old, or the node may have renewed its Lease since. For the word of the annotations about
    /// another boot, the write is enough.
    pub fn may_be_refuted(&self, source: Source) -> bool {
        let is_of_other_boot = source == Source::Annotations && self.other_boot().is_some();
        self.enforces(Code::EvidenceExpired)
            || self.enforces(Code::LeaseStillRenewed)
            || (is_of_other_boot && self.enforces(Code::EvidenceForOtherBoot))
    }

    /// The boot that was fenced and the current one, if the annotations name a boot and the node is
    /// not known to be in it.
    pub fn other_boot(&self) -> Option<(&'a str, Option<&'a str>)> {
        // On CREATE there is no stored boot to compare with.
        let current = self.request.write.before()?.boot_id();
        let fenced = self.change(BOOT_ID).1?;
        (current != Some(fenced)).then_some((fenced, current))
    }

    /// The value of an annotation before and after the write.
    pub fn change(&self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        let value = |node: Option<&'a Node>| node.and_then(|node| node.annotation(key));
        (value(self.request.write.before()), value(self.request.write.after()))
    }

    /// Whether the write changes, adds or removes this annotation.
    pub fn changes(&self, key: &str) -> bool {
        let (before, after) = self.change(key);
        before != after
    }

    /// Whether the write adds this annotation or changes its value.
    pub fn writes(&self, key: &str) -> bool {
        self.changes(key) && self.change(key).1.is_some()
    }

    /// Whether the taint is on before and after.
    pub fn stays_out_of_service(&self) -> bool {
        let write = &self.request.write;
        write.before().is_some_and(Node::is_out_of_service) && write.after().is_some_and(Node::is_out_of_service)
    }

    /// The entries of the taint, by value and effect, that the write adds: all of them on Place,
    /// the new ones on Amend.
    pub fn added_entries(&self) -> impl Iterator<Item = &'a Taint> {
        let write = &self.request.write;
        write.after().into_iter().flat_map(|node| entries_beyond(node, write.before()))
    }

    /// Whether the write adds an entry of the taint: on Place, and on some Amends.
    pub fn adds_entry(&self) -> bool {
        self.added_entries().next().is_some()
    }

    /// Whether the write gives a taint that is on already its first entry with `NoExecute`: pods
    /// that it did not evict are evicted now.
    pub fn begins_to_evict(&self) -> bool {
        let write = &self.request.write;
        let evicted = write.before().is_none_or(|node| !node.is_out_of_service() || node.evicts());
        !evicted && write.after().is_some_and(Node::evicts)
    }

    /// Whether an entry of the taint is gone after the write: on Release, on Delete, and on some
    /// Amends.
    pub fn removes_entry(&self) -> bool {
        let write = &self.request.write;
        if !write.is_to_the_node() {
            return false;
        }
        let gone = write.before().into_iter().flat_map(|node| entries_beyond(node, write.after())).next().is_some();
        gone || self.does(Transition::Delete)
    }

    /// Whether the write adds or changes evidence, and does not only remove it.
    pub fn writes_evidence(&self) -> bool {
        let changes = |key: &&str| self.changes(key) && !self.adds_boot_of_placement(key);
        EVIDENCE.iter().any(changes) && EVIDENCE.iter().any(|key| self.change(key).1.is_some())
    }

    /// Whether the requester changes an annotation of the gate. Changes by the gate's own mutating
    /// webhook do not count.
    pub fn attests(&self) -> bool {
        self.attested_keys().next().is_some()
    }

    /// The gate's annotations that the requester adds, changes or removes. A key may occur twice.
    /// Empty if the Node is deleted.
    pub fn attested_keys(&self) -> impl Iterator<Item = &'a str> {
        let sides = [self.request.write.before(), self.request.write.after()].into_iter().flatten();
        let keys = sides.filter(|_| self.does(Transition::Attest)).flat_map(Node::gate_annotations).map(|(key, _)| key);
        keys.filter(|key| self.changes(key) && !self.is_of_the_gate(key))
    }

    /// Whether this change of an annotation is one that the gate's mutating webhook makes with the
    /// write.
    fn is_of_the_gate(&self, key: &str) -> bool {
        let is_written_out = self.origin.written_out().is_some() && EVIDENCE.contains(&key);
        let is_set = self.change(key).1.is_some();
        is_written_out
            || (is_set && (STAMPS.contains(&key) || self.adds_boot_of_placement(key)))
            || (!is_set && self.obsolete(self.is_stamped_as_overridden()).contains(&key))
    }

    /// Whether this is the boot in the record of a write that places the taint, and the stored Node
    /// reports it. The gate adds it to a record without one.
    pub fn has_boot_of_placement(&self, key: &str) -> bool {
        let after = self.change(BOOT_ID).1;
        let is_stored_boot = after.is_some() && after == self.request.write.before().and_then(Node::boot_id);
        key == BOOT_ID && self.does(Transition::Place) && is_stored_boot
    }

    fn adds_boot_of_placement(&self, key: &str) -> bool {
        self.has_boot_of_placement(key) && self.change(BOOT_ID).0.is_none()
    }

    /// Whether the write comes with the stamps that the gate puts in place of a break-glass that
    /// the requester used.
    pub fn is_stamped_as_overridden(&self) -> bool {
        self.writes(OVERRIDDEN_AT) && self.change(OVERRIDDEN_BY).1 == Some(&self.request.user.name)
    }

    /// The annotations that the gate removes with this write, because what they are about ends with
    /// it. `uses_break_glass`: the write uses a break-glass.
    pub fn obsolete(&self, uses_break_glass: bool) -> Vec<&'static str> {
        let write = &self.request.write;
        let mut obsolete = Vec::new();
        if self.does(Transition::Release) {
            // Pacemaker's mark is about this outage, and a later one must not find it.
            let is_marked = write.after().is_some_and(|node| node.annotation(APPLIED_BY) == Some(PACEMAKER));
            obsolete.extend(is_marked.then_some(APPLIED_BY));
            obsolete.extend(EVIDENCE);
        }
        if self.does(Transition::Release) || self.withdraws_evidence() {
            obsolete.extend(RECORD_STAMPS);
        }
        // A break-glass that was used must not be used again.
        if self.does(Transition::Release) || uses_break_glass {
            obsolete.push(BREAK_GLASS);
        }
        if obsolete.contains(&BREAK_GLASS) || self.change(BREAK_GLASS).1.is_none() {
            obsolete.extend(BREAK_GLASS_STAMPS);
        }
        // What an earlier outage was overridden for says nothing about this one.
        if self.does(Transition::Place) && !uses_break_glass {
            obsolete.extend(OVERRIDDEN_STAMPS);
        }
        obsolete
    }

    /// Whether all evidence goes, without an outage.
    fn withdraws_evidence(&self) -> bool {
        let has_evidence = |node: &Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
        let write = &self.request.write;
        write.before().is_some_and(has_evidence)
            && write.after().is_some_and(|node| !node.is_out_of_service() && !has_evidence(node))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::policy::request::{User, Write};

    /// A placement with this boot on record, of a node that runs another one.
    fn placement(boot: &str) -> Request {
        let node = |annotations| {
            let node = json!({"metadata": {"name": "n1", "annotations": annotations}, "status": {"nodeInfo": {"bootID": "b"}}});
            from_value(node).unwrap()
        };
        let write = Write::Update { old: node(json!({})), new: node(json!({BOOT_ID: boot})) };
        Request { node: "n1".into(), user: User::default(), write }
    }

    #[test]
    fn a_word_about_a_fence_may_be_refuted_by_each_check_that_denies_for_its_time_or_its_boot() {
        let with = |enforced: &[Code], boot: &str, source: Source| {
            let mut settings = Settings::default();
            for code in [Code::EvidenceExpired, Code::LeaseStillRenewed, Code::EvidenceForOtherBoot] {
                let mode = if enforced.contains(&code) { Mode::Enforce } else { Mode::Warn };
                settings.modes.insert(code, mode);
            }
            Proposal::new(&placement(boot), &settings).may_be_refuted(source)
        };
        for source in [Source::Annotations, Source::FenceAgentsRemediation] {
            assert!(with(&[Code::EvidenceExpired], "b", source), "{source:?}");
            assert!(with(&[Code::LeaseStillRenewed], "b", source), "{source:?}");
            assert!(!with(&[Code::EvidenceForOtherBoot], "b", source), "{source:?}");
            assert!(!with(&[], "other", source), "{source:?}");
        }
        assert!(with(&[Code::EvidenceForOtherBoot], "other", Source::Annotations));
        assert!(!with(&[Code::EvidenceForOtherBoot], "other", Source::FenceAgentsRemediation));
    }
}
