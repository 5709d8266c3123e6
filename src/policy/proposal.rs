//! A write together with the settings: everything that is known about it before any fact is read.

use super::{
    annotation::{BOOT_ID, BREAK_GLASS, EVIDENCE, OVERRIDDEN, STAMPS},
    evidence,
    object::node::{Node, Taint},
    reason::{Code, Mode},
    request::Request,
    settings::Settings,
    source::{RecordOrigin, Source},
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
    /// Derives from a request what it does.
    pub fn new(request: &'a Request, settings: &'a Settings) -> Self {
        let write = &request.write;
        Self { request, settings, transitions: Transitions::of(write), origin: RecordOrigin::of(write) }
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

    /// Whether an entry of the taint is gone after the write: on Release, on Delete, and on some
    /// Amends.
    pub fn removes_entry(&self) -> bool {
        let write = &self.request.write;
        let gone = write.before().into_iter().flat_map(|node| entries_beyond(node, write.after())).next().is_some();
        gone || self.does(Transition::Delete)
    }

    /// Whether the mutating webhook replaces evidence that comes with the write: it writes out
    /// another source's evidence, or removes all evidence at a release.
    pub fn replaces_evidence(&self) -> bool {
        self.does(Transition::Release) || self.origin.written_out().is_some()
    }

    /// Whether the write adds or changes evidence, and does not only remove it.
    pub fn writes_evidence(&self) -> bool {
        EVIDENCE.iter().any(|key| self.changes(key)) && EVIDENCE.iter().any(|key| self.change(key).1.is_some())
    }

    /// Whether the requester changes an annotation of the gate. Changes by the gate's own mutating
    /// webhook do not count: stamps, evidence that it wrote out for a source, and annotations that
    /// it removes at a release.
    pub fn attests(&self) -> bool {
        let is_written_out = self.origin.written_out().is_some();
        let is_the_gates = |key: &str| {
            let removed_at_release = self.does(Transition::Release) && self.change(key).1.is_none();
            STAMPS.contains(&key) || removed_at_release || (is_written_out && EVIDENCE.contains(&key))
        };
        let sides = [self.request.write.before(), self.request.write.after()];
        self.does(Transition::Attest)
            && sides
                .into_iter()
                .flatten()
                .flat_map(Node::gate_annotations)
                .any(|(key, _)| self.changes(key) && !is_the_gates(key))
    }

    /// The reason in the break-glass annotation, if it is set and well-formed.
    fn break_glass_reason(&self) -> Option<&'a str> {
        let reason = self.request.write.newest().annotation(BREAK_GLASS)?;
        evidence::malformed(BREAK_GLASS, reason).is_none().then_some(reason)
    }

    /// The reason of a break-glass that was not used before: each reason works once (contract
    /// section 7).
    pub fn break_glass(&self) -> Option<&'a str> {
        self.break_glass_reason().filter(|_| !self.break_glass_is_spent())
    }

    /// Whether the break-glass on the Node was used before.
    pub fn break_glass_is_spent(&self) -> bool {
        let spent = self.request.write.before().and_then(|old| old.annotation(OVERRIDDEN));
        spent.is_some() && spent == self.break_glass_reason()
    }
}
