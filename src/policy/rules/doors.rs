//! `UnfencedDeletion`, `UnfencedForceDeletion` and `UnfencedDetach`: the other doors to the same
//! harm (contract section 13).
//!
//! Each of them makes Kubernetes believe that a machine does not write any more. So they need what
//! the taint needs: a fence that a source vouches for and that nothing contradicts. Whether there
//! is one is asked by judging the placement of the taint, which nobody has to make.

use super::{
    Outcome, Rule, evidence_age, evidence_missing, lease, no_facts, not_authorized::authorized, other_boot, pods,
    ready, volumes,
};
use crate::policy::{
    assessment::Assessment,
    facts::{Fact, Facts, Unread, Verb},
    proposal::Proposal,
    reason::{Code, Reason},
    request::{Request, Write},
    settings::Settings,
    transition::Transition,
};

/// The checks of a placement that ask whether the machine was fenced.
const FENCE: [Rule; 6] = [
    ready::STILL_READY,
    lease::RULE,
    evidence_missing::RULE,
    evidence_age::EXPIRED,
    evidence_age::IN_FUTURE,
    other_boot::RULE,
];

/// A Node goes, and with it all that Kubernetes knows of its machine.
pub(super) const DELETION: Rule = Rule {
    code: Code::UnfencedDeletion,
    applies: |proposal| proposal.does(Transition::DeleteUntainted),
    needs: |proposal| {
        let mut needed = vec![Fact::Pods, Fact::VolumeAttachments, Fact::Access(Verb::Vouch)];
        needed.extend((!proposal.request.user.is_a_service_account()).then_some(Fact::Access(Verb::Every)));
        needed.extend(facts_of_fence(proposal));
        needed
    },
    check: deletion,
};

/// A pod goes while its containers may still run. Even if the machine was fenced, the taint comes
/// first: it deletes the pod, and it detaches the pod's volumes.
pub(super) const FORCE_DELETION: Rule = Rule {
    code: Code::UnfencedForceDeletion,
    applies: |proposal| proposal.does(Transition::ForceDelete),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let Write::ForceDelete { node, pod } = &proposal.request.write else { return Outcome::pass() };
        let may_write = pods::holds_the_taint(pod, proposal.settings) && !pod.is_finished();
        Outcome::fail_if(may_write && !node.is_back() && !node.is_out_of_service(), || Reason::UnfencedForceDeletion {
            ready: node.ready_status().to_owned(),
        })
    },
};

/// A volume counts as detached while it may still be mounted.
pub(super) const DETACH: Rule = Rule {
    code: Code::UnfencedDetach,
    applies: |proposal| proposal.does(Transition::Detach) && !proposal.request.write.current().is_out_of_service(),
    needs: facts_of_fence,
    check: |Assessment { proposal, facts, .. }| {
        let Doubts { against, unread } = Doubts::of(proposal, facts);
        let failed = (!against.is_empty()).then_some(Reason::UnfencedDetach { against });
        Outcome { failed, unread, ..Outcome::default() }
    },
};

fn deletion(assessment: &Assessment<'_>) -> Outcome {
    let Assessment { proposal, facts, .. } = assessment;
    let (volumes, mut unread) = volumes::left(assessment);
    let pods = match pods::left(assessment) {
        Ok((pods, _)) => pods,
        Err(list) => {
            unread.push(list);
            Vec::new()
        }
    };
    let is_held = !pods.is_empty() || !volumes.is_empty();
    let doubts = Doubts::of(proposal, facts);
    let (is_believed, unread_access) = is_believed(assessment);
    if (!is_held && unread.is_empty()) || is_believed || doubts.are_none() {
        return Outcome::pass();
    }
    if is_held && !doubts.against.is_empty() && unread_access.is_empty() {
        return Outcome::fail(Reason::UnfencedDeletion { pods, volumes, against: doubts.against });
    }
    unread.extend(doubts.unread.into_iter().chain(unread_access));
    Outcome { unread, ..Outcome::default() }
}

/// Whether the requester may vouch that the machine is gone, and the facts that could not be read.
///
/// No node vouches for itself: its credentials are on the machine. And a person with every right,
/// as in the role cluster-admin, was not given this one to delete the Nodes of machines that are
/// only cut off: they record the fence. A program with every right is believed, because that is how
/// many cloud controllers are installed.
fn is_believed(assessment: &Assessment<'_>) -> (bool, Vec<Unread>) {
    let Request { node, user, .. } = assessment.proposal.request;
    let vouch = authorized(assessment, Verb::Vouch);
    if vouch != Outcome::pass() || user.speaks_from(node) {
        return (false, vouch.unread);
    }
    if user.is_a_service_account() {
        return (true, Vec::new());
    }
    let every = authorized(assessment, Verb::Every);
    (every.failed.is_some(), every.unread)
}

/// Why the machine does not count as fenced.
struct Doubts {
    against: Vec<Reason>,
    unread: Vec<Unread>,
}

impl Doubts {
    fn of(proposal: &Proposal<'_>, facts: &Facts) -> Self {
        let (request, settings) = placement(proposal);
        let placement = Assessment::new(Proposal::new(&request, &settings), facts);
        let (mut against, mut unread) = (Vec::new(), Vec::new());
        for rule in FENCE.iter().filter(|rule| (rule.applies)(&placement.proposal)) {
            let outcome = (rule.check)(&placement);
            against.extend(outcome.failed);
            unread.extend(outcome.unread);
        }
        Self { against, unread }
    }

    fn are_none(&self) -> bool {
        self.against.is_empty() && self.unread.is_empty()
    }
}

fn facts_of_fence(proposal: &Proposal<'_>) -> Vec<Fact> {
    let (request, settings) = placement(proposal);
    let placement = Proposal::new(&request, &settings);
    let rules = FENCE.iter().filter(|rule| (rule.applies)(&placement));
    rules.flat_map(|rule| (rule.needs)(&placement)).chain(placement.facts_of_sources()).collect()
}

/// The placement of the taint on the stored Node. A check that is turned down counts here: its
/// absence makes no machine dead.
fn placement(proposal: &Proposal<'_>) -> (Request, Settings) {
    let Request { node, user, write } = proposal.request;
    let placement = Write::placement(write.current());
    (Request { node: node.clone(), user: user.clone(), write: placement }, proposal.settings.strict())
}
