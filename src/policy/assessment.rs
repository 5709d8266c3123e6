//! A proposal with what is known about it: all that a check judges by.

use jiff::Timestamp;

use super::{
    annotation::FENCED_AT,
    evidence,
    facts::Facts,
    proposal::Proposal,
    reason::{Code, Mode},
    source::{Fence, Refusal, vouched},
    transition::Transition,
};

/// What a rule sees when it judges.
#[derive(Debug)]
pub struct Assessment<'a> {
    pub proposal: Proposal<'a>,
    pub facts: &'a Facts,
    /// Whether a source vouches for the fence; `None` for a write that does not place the taint.
    vouching: Option<Result<Fence, Vec<Refusal>>>,
}

/// What the Lease and the evidence limits are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceTime {
    At(Timestamp),
    /// The source has no time of the fence: the node is fenced by now.
    Untimed,
}

impl<'a> Assessment<'a> {
    /// Asks the evidence sources, if the write places the taint.
    pub fn new(proposal: Proposal<'a>, facts: &'a Facts) -> Self {
        let Proposal { request, settings, origin, .. } = &proposal;
        let vouching =
            proposal.does(Transition::Place).then(|| vouched(&request.write, *origin, facts, &settings.sources));
        Self { proposal, facts, vouching }
    }

    /// The fence that a source vouches for.
    pub fn fence(&self) -> Option<&Fence> {
        self.vouching.as_ref()?.as_ref().ok()
    }

    /// Why no source vouches for a fence. Empty where one does, or none was asked.
    pub fn refusals(&self) -> &[Refusal] {
        match &self.vouching {
            Some(Err(refusals)) => refusals,
            Some(Ok(_)) | None => &[],
        }
    }

    /// The time of the fence: that of the source that vouches, else what `fenced-at` says, even if
    /// the rest of the evidence is flawed. `None` if nothing claims a fence and that alone denies.
    pub fn fence_time(&self) -> Option<FenceTime> {
        if let Some(Fence { at, .. }) = self.fence() {
            return Some(at.map_or(FenceTime::Untimed, FenceTime::At));
        }
        match self.proposal.change(FENCED_AT).1.and_then(evidence::parse_time) {
            Some(at) => Some(FenceTime::At(at)),
            None if self.proposal.mode(Code::EvidenceMissing) != Mode::Enforce => Some(FenceTime::Untimed),
            None => None,
        }
    }
}
