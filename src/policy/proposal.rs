//! A write seen in the light of the settings: what can be said about it before any fact is read.

use super::{
    annotation::{BREAK_GLASS, EVIDENCE, OVERRIDDEN, STAMPS},
    evidence,
    object::node::Node,
    reason::{Code, Mode},
    request::Request,
    settings::Settings,
    source::RecordOrigin,
    transition::{Transition, Transitions},
};

/// What a rule sees when it says whether it applies and which facts it needs.
#[derive(Debug)]
pub struct Proposal<'a> {
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub transitions: Transitions,
    /// Who wrote the record that the write brings.
    pub origin: RecordOrigin,
}

impl<'a> Proposal<'a> {
    /// Looks at a request under these settings.
    pub fn new(request: &'a Request, settings: &'a Settings) -> Self {
        let write = &request.write;
        Self { request, settings, transitions: Transitions::of(write), origin: RecordOrigin::of(write) }
    }

    /// Whether the write does this.
    pub fn does(&self, transition: Transition) -> bool {
        self.transitions.contains(transition)
    }

    /// The mode in which a check is applied.
    pub fn mode(&self, code: Code) -> Mode {
        self.settings.mode(code)
    }

    /// An annotation before and after the write.
    pub fn change(&self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        let value = |node: Option<&'a Node>| node.and_then(|node| node.annotation(key));
        (value(self.request.write.before()), value(self.request.write.after()))
    }

    /// Whether an annotation differs before and after.
    pub fn changes(&self, key: &str) -> bool {
        let (before, after) = self.change(key);
        before != after
    }

    /// Whether the write sets this annotation to something that it was not before.
    pub fn writes(&self, key: &str) -> bool {
        self.changes(key) && self.change(key).1.is_some()
    }

    /// Whether the taint is on before and after.
    pub fn stays_out_of_service(&self) -> bool {
        let write = &self.request.write;
        write.before().is_some_and(Node::is_out_of_service) && write.after().is_some_and(Node::is_out_of_service)
    }

    /// Whether the gate's mutating side replaces evidence that the write brings: it writes out what
    /// another source says, or a release consumes it.
    pub fn replaces_evidence(&self) -> bool {
        self.does(Transition::Release) || self.origin.written_out().is_some()
    }

    /// Whether evidence is written or changed, and not just removed.
    pub fn records(&self) -> bool {
        EVIDENCE.iter().any(|key| self.changes(key)) && EVIDENCE.iter().any(|key| self.change(key).1.is_some())
    }

    /// Whether the requester changes an annotation of the gate. What the gate's own mutating side
    /// changes does not count: stamps, evidence that it wrote out for a source, and what it removes
    /// at a release.
    pub fn attests(&self) -> bool {
        let is_written_out = self.origin.written_out().is_some();
        let is_the_gates = |key: &str| {
            let consumed = self.does(Transition::Release) && self.change(key).1.is_none();
            STAMPS.contains(&key) || consumed || (is_written_out && EVIDENCE.contains(&key))
        };
        let sides = [self.request.write.before(), self.request.write.after()];
        self.does(Transition::Attest)
            && sides
                .into_iter()
                .flatten()
                .flat_map(Node::gate_annotations)
                .any(|(key, _)| self.changes(key) && !is_the_gates(key))
    }

    /// What the break-glass annotation says, if it is there and well-formed.
    fn break_glass_written(&self) -> Option<&'a str> {
        let reason = self.request.write.newest().annotation(BREAK_GLASS)?;
        evidence::malformed(BREAK_GLASS, reason).is_none().then_some(reason)
    }

    /// The reason of a break-glass that may be used: each works once (contract section 7).
    pub fn break_glass(&self) -> Option<&'a str> {
        self.break_glass_written().filter(|_| !self.break_glass_is_spent())
    }

    /// Whether the break-glass on the Node was used before.
    pub fn break_glass_is_spent(&self) -> bool {
        let spent = self.request.write.before().and_then(|old| old.annotation(OVERRIDDEN));
        spent.is_some() && spent == self.break_glass_written()
    }
}
