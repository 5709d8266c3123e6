//! A request seen in the light of the settings, and of what the evidence sources say about it.

use jiff::Timestamp;

use super::{
    annotation::{BREAK_GLASS, EVIDENCE, FENCED_AT, OVERRIDDEN, SOURCE, STAMPS},
    evidence,
    facts::Facts,
    node::Node,
    reason::{Code, Mode},
    request::Request,
    settings::Settings,
    source::{Fence, Refusal, Source, vouched},
    transition::{Transition, Transitions},
};

/// What the rules are asked.
#[derive(Debug)]
pub struct Question<'a> {
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub transitions: Transitions,
    /// Who vouches for the fence, for a write that places the taint. Nobody, until [`Question::put_to`] asked.
    pub fence: Result<Fence, Vec<Refusal>>,
}

/// What the Lease and the evidence limits are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceTime {
    At(Timestamp),
    /// The source has no time: fenced by now, that is all.
    Untimed,
}

impl<'a> Question<'a> {
    pub fn new(request: &'a Request, settings: &'a Settings) -> Self {
        Self { request, settings, transitions: Transitions::of(&request.write), fence: Err(Vec::new()) }
    }

    /// Asks the sources, now that what they know is read.
    #[must_use]
    pub fn put_to(mut self, facts: &Facts) -> Self {
        if self.does(Transition::Place) {
            self.fence = vouched(&self.request.write, facts, &self.settings.sources);
        }
        self
    }

    /// Whether the write does this.
    pub fn does(&self, transition: Transition) -> bool {
        self.transitions.contains(transition)
    }

    pub fn mode(&self, code: Code) -> Mode {
        self.settings.mode(code)
    }

    /// An annotation before and after the write.
    pub fn change(&self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        let value = |node: Option<&'a Node>| node.and_then(|node| node.annotation(key));
        (value(self.request.write.before()), value(self.request.write.after()))
    }

    /// Whether the write sets this annotation, to something it was not before.
    pub fn writes(&self, key: &str) -> bool {
        let (before, after) = self.change(key);
        after.is_some() && before != after
    }

    /// Whether the taint is on before and after.
    pub fn stays_out_of_service(&self) -> bool {
        let write = &self.request.write;
        write.before().is_some_and(Node::is_out_of_service) && write.after().is_some_and(Node::is_out_of_service)
    }

    /// Whether the gate's mutating side rewrites evidence that the write brings: it writes another source's out, or a release consumes it.
    pub fn rewrites_evidence(&self) -> bool {
        self.does(Transition::Release) || self.is_written_out()
    }

    /// Whether the write brings evidence that the gate wrote out for another source than the annotations. Evidence that its writer stamps as
    /// vouched for by the annotations is its writer's own.
    fn is_written_out(&self) -> bool {
        let source = self.change(SOURCE).1.and_then(Source::parse);
        self.does(Transition::Place) && self.writes(SOURCE) && source.is_some_and(|source| source.method().is_some())
    }

    /// Whether an annotation differs before and after.
    pub fn changes(&self, key: &str) -> bool {
        let (before, after) = self.change(key);
        before != after
    }

    /// Whether evidence is written or changed, and not just taken away.
    pub fn records(&self) -> bool {
        EVIDENCE.iter().any(|key| self.changes(key)) && EVIDENCE.iter().any(|key| self.change(key).1.is_some())
    }

    /// Whether the requester changes an annotation of the gate. What the gate's own mutating side changes for a write does not
    /// count: stamps, evidence that it wrote out for a source, and what it consumes at a release.
    pub fn attests(&self) -> bool {
        let is_written_out = self.is_written_out();
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

    /// The time of the fence: the vouching source's, else what `fenced-at` says even if the rest of the evidence is flawed.
    /// `None` where nothing claims a fence and that alone denies.
    pub fn fence_time(&self) -> Option<FenceTime> {
        match &self.fence {
            Ok(Fence { at: Some(at), .. }) => Some(FenceTime::At(*at)),
            Ok(Fence { at: None, .. }) => Some(FenceTime::Untimed),
            Err(_) => match self.change(FENCED_AT).1.and_then(evidence::parse_time) {
                Some(at) => Some(FenceTime::At(at)),
                None if self.mode(Code::EvidenceMissing) != Mode::Enforce => Some(FenceTime::Untimed),
                None => None,
            },
        }
    }

    /// What the break-glass annotation says, if it is there and well-formed.
    fn break_glass_written(&self) -> Option<&'a str> {
        let reason = self.request.write.last_seen().annotation(BREAK_GLASS)?;
        evidence::malformed(BREAK_GLASS, reason).is_none().then_some(reason)
    }

    /// The reason of a break-glass that may be used: each works once (contract section 7).
    pub fn break_glass(&self) -> Option<&'a str> {
        self.break_glass_written().filter(|_| !self.break_glass_is_spent())
    }

    /// Whether the break-glass that the Node carries was used before.
    pub fn break_glass_is_spent(&self) -> bool {
        let spent = self.request.write.before().and_then(|old| old.annotation(OVERRIDDEN));
        spent.is_some() && spent == self.break_glass_written()
    }
}
