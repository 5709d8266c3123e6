//! A proposal together with the facts: everything that a check judges by.

use jiff::{SignedDuration, Timestamp};

use super::{
    annotation::FENCED_AT,
    break_glass::BreakGlass,
    evidence,
    facts::{Facts, SignOfLife},
    proposal::Proposal,
    reason::Code,
    settings::Settings,
    source::{Doubt, Fence, Inquiry, Refutation, Source, Unvouched, vouched},
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

impl<'a> Assessment<'a> {
    /// Consults the evidence sources, if the write places the taint.
    pub fn new(proposal: Proposal<'a>, facts: &'a Facts) -> Self {
        let Proposal { request, settings, origin, .. } = &proposal;
        let inquiry = Inquiry { write: &request.write, facts, clock_skew: settings.clock_skew };
        let refute = |source, at| refutations(&proposal, facts, source, at);
        let vouching = proposal.does(Transition::Place).then(|| vouched(&inquiry, *origin, &settings.sources, refute));
        Self { proposal, facts, vouching }
    }

    /// The fence that a source vouches for.
    pub fn fence(&self) -> Option<&Fence> {
        self.vouching.as_ref()?.as_ref().ok()
    }

    /// The break-glass that the write comes with, or finds on the stored Node.
    pub fn break_glass(&self) -> BreakGlass<'a> {
        BreakGlass::of(&self.proposal, self.facts.now)
    }

    /// Why no source vouches for a fence. Empty if one vouches, or if none was consulted.
    pub fn unvouched(&self) -> &[Unvouched] {
        match &self.vouching {
            Some(Err(unvouched)) => unvouched,
            Some(Ok(_)) | None => &[],
        }
    }

    /// The times of the fence that the checks of the evidence judge: from the source that vouches,
    /// if it is not a state that holds now. If none vouches, the times of all sources whose word
    /// does not count, and `fenced-at`, even if the rest of the evidence is flawed.
    ///
    /// If the write does not place the taint, the fence was judged when it was placed, and there is
    /// none to judge. But the first entry that evicts is compared with the record: until then, a
    /// machine that came back may have run its pods again.
    pub fn fence_times(&self) -> Vec<Timestamp> {
        let unvouched = match &self.vouching {
            Some(Ok(fence)) => return fence.at.into_iter().collect(),
            Some(Err(unvouched)) => unvouched,
            None if self.proposal.begins_to_evict() => return self.recorded_time().into_iter().collect(),
            None => return Vec::new(),
        };
        let refuted = unvouched.iter().filter_map(|unvouched| match unvouched.why {
            Doubt::Refuted { at, .. } => Some(at),
            Doubt::No(_) | Doubt::NotInstalled | Doubt::LeftOver | Doubt::Unread(_) => None,
        });
        refuted.chain(self.recorded_time()).collect()
    }

    /// The time in `fenced-at`, if it is one.
    pub fn recorded_time(&self) -> Option<Timestamp> {
        self.proposal.change(FENCED_AT).1.and_then(evidence::parse_time)
    }
}

/// How old a fence is: negative if it is in the future.
pub fn age(facts: &Facts, at: Timestamp) -> SignedDuration {
    facts.api_now().duration_since(at)
}

/// Whether the node showed a sign of life after a fence.
pub fn is_overtaken(at: Timestamp, sign: SignOfLife, clock_skew: SignedDuration) -> bool {
    sign.at.duration_since(at) > clock_skew
}

/// Why the word of a source about a fence at this time does not count. A check that is turned down
/// refutes nothing.
fn refutations(proposal: &Proposal<'_>, facts: &Facts, source: Source, at: Timestamp) -> Vec<Refutation> {
    let Settings { max_age, clock_skew, .. } = proposal.settings;
    // On CREATE, a Lease is not the Lease of this Node.
    let known = proposal.request.write.before().zip(facts.lease.value().ok());
    let last_sign = known.and_then(|(stored, answer)| SignOfLife::last(stored, answer, *clock_skew));
    let is_of_other_boot = source == Source::Annotations && proposal.other_boot().is_some();
    let all = [
        (Code::EvidenceExpired, Refutation::Expired, age(facts, at) > *max_age),
        (Code::EvidenceForOtherBoot, Refutation::OtherBoot, is_of_other_boot),
        (
            Code::LeaseStillRenewed,
            Refutation::SignOfLife,
            last_sign.is_some_and(|sign| is_overtaken(at, sign, *clock_skew)),
        ),
    ];
    let counts = |(code, _, is_so): &(Code, Refutation, bool)| *is_so && proposal.enforces(*code);
    all.into_iter().filter(counts).map(|(_, refutation, _)| refutation).collect()
}
