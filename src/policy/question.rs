//! A request seen in the light of the settings: all that follows from it without any fact.

use jiff::Timestamp;

use super::{
    annotation::{BREAK_GLASS, FENCED_AT, OVERRIDDEN},
    evidence,
    node::Node,
    reason::{Code, Mode},
    request::Request,
    settings::Settings,
    source::{Fence, Refusal, vouched},
    transition::{Transition, Transitions},
};

/// What the rules are asked.
#[derive(Debug)]
pub struct Question<'a> {
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub transitions: Transitions,
    /// Who vouches for the fence, for a write that places the taint; else nobody was asked.
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
        let transitions = Transitions::of(&request.write);
        let fence = if transitions.contains(Transition::Place) {
            vouched(&request.write, &settings.sources)
        } else {
            Err(Vec::new())
        };
        Self { request, settings, transitions, fence }
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
