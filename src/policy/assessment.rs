//! A proposal together with the facts: everything that a check judges by.

use jiff::Timestamp;

use super::{
    annotation::FENCED_AT,
    evidence,
    facts::Facts,
    proposal::Proposal,
    reason::{Code, Mode},
    source::{Fence, Unvouched, vouched},
    transition::Transition,
};

/// The input of a rule's `check`.
#[derive(Debug)]
pub struct Assessment<'a> {
    pub proposal: Proposal<'a>,
    pub facts: &'a Facts,
    /// Whether a source vouches for the fence. `None` if the write does not place the taint.
    vouching: Option<Result<Fence, Vec<Unvouched>>>,
}

/// The time that the Lease and the limits of the evidence's age are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceTime {
    At(Timestamp),
    /// The source does not know when the fence took effect, only that the node is fenced now.
    Untimed,
}

impl<'a> Assessment<'a> {
    /// Consults the evidence sources, if the write places the taint.
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

    /// Why no source vouches for a fence. Empty if one vouches, or if none was consulted.
    pub fn unvouched(&self) -> &[Unvouched] {
        match &self.vouching {
            Some(Err(unvouched)) => unvouched,
            Some(Ok(_)) | None => &[],
        }
    }

    /// The time of the fence: from the source that vouches, otherwise from `fenced-at`, even if the
    /// rest of the evidence is flawed. `None` if no fence is claimed and `EvidenceMissing` denies
    /// the write for that, or if the write does not place the taint.
    pub fn fence_time(&self) -> Option<FenceTime> {
        if !self.proposal.does(Transition::Place) {
            return None;
        }
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
