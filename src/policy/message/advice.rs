//! What to do about a denial: steps, each with the commands that carry it out.
//!
//! Both matches are exhaustive: a new reason has advice, or it does not compile.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::{leaving::Awaited, situation::Situation};
use crate::policy::{
    annotation::{BOOT_ID, FENCED_AT, FENCED_BY, METHOD, REQUIRED_EVIDENCE},
    blocker::{BlockingPod, BlockingVolume, Leaving},
    decision::BreakGlass,
    facts::Verb,
    reason::{Code, Reason},
    shell::Command,
    source::{Doubt, Unvouched},
    text::{Span, on_one_line},
    transition::Transition,
};

/// After this long, what normally takes seconds does not happen by itself any more.
const OVERDUE: SignedDuration = SignedDuration::from_mins(5);

/// One thing to do. The order is the order in which the steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    UseOtherCredentials,
    AskForRole(Verb),
    CreateWithoutTaint,
    LeaveOutStamps,
    KeepRecord,
    AddWholeRecord,
    LeaveTaint,
    DeletePods,
    FindCommonCause,
    Drain,
    SwitchOff,
    ConfirmFence,
    CheckNodeController,
    CompareClocks,
    RemoveMark,
    CorrectRecord,
    Record,
    PutOutOfService,
    LetVouch,
    UseEffect,
    ReturnOthersFirst,
    RemoveAllEntries,
    ReleaseFirst,
    Await(Awaited),
    PowerCycle,
    DoubtFence,
    Repair,
    RenewBreakGlass,
    WriteOwnBreakGlass,
    TryAgain,
}

/// The lines that follow the reasons.
pub(super) fn advice<'a>(situation: &Situation<'_>, reasons: impl Iterator<Item = &'a Reason>) -> Vec<String> {
    let mut steps: BTreeSet<Step> = reasons.flat_map(|reason| steps(reason, situation)).collect();
    if steps.contains(&Step::Record) {
        steps.remove(&Step::CorrectRecord);
    }
    match situation.decision.break_glass {
        BreakGlass::TooOld(_) => _ = steps.insert(Step::RenewBreakGlass),
        BreakGlass::OfAnother if situation.can_be_waived() => _ = steps.insert(Step::WriteOwnBreakGlass),
        BreakGlass::OfAnother | BreakGlass::Used(_) | BreakGlass::Unused => {}
    }
    let mut lines = Vec::new();
    for step in steps {
        let (text, commands) = step.words(situation);
        let typed: Vec<String> = commands.iter().filter_map(Command::typed).collect();
        let colon = if typed.is_empty() { "" } else { ":" };
        lines.push(on_one_line(&format!("{text}{colon}")).into_owned());
        lines.extend(typed.iter().map(|command| format!("  {command}")));
    }
    lines
}

/// The steps that a reason takes.
fn steps(reason: &Reason, situation: &Situation<'_>) -> Vec<Step> {
    match reason {
        Reason::CreatedOutOfService => vec![Step::CreateWithoutTaint],
        Reason::SelfAttested { .. } => vec![Step::UseOtherCredentials],
        // Whoever does the write in another way is told then what it still lacks.
        _ if situation.denies(&[Code::CreatedOutOfService, Code::SelfAttested]) => vec![],
        Reason::NodeStillReady { .. } | Reason::LeaseStillRenewed { .. } | Reason::EvidenceForOtherBoot { .. }
            if !situation.does(Transition::Place) =>
        {
            vec![if situation.is_alive() { Step::LeaveTaint } else { Step::DeletePods }]
        }
        // Whoever has just switched the machine off only waits: the node is Ready until its Lease
        // has run out.
        Reason::NodeStillReady { .. } if is_overdue(reason) => vec![Step::CheckNodeController, Step::TryAgain],
        Reason::NodeStillReady { .. } | Reason::LeaseStillRenewed { fenced_at: None, .. }
            if situation.is_said_to_be_fenced() =>
        {
            vec![Step::TryAgain]
        }
        Reason::NodeStillReady { .. } => vec![Step::SwitchOff, Step::TryAgain],
        Reason::EvidenceMissing { .. } if !situation.does(Transition::Place) && situation.lacks_record() => {
            vec![Step::AddWholeRecord, Step::TryAgain]
        }
        Reason::EvidenceMissing { .. } if !situation.does(Transition::Place) => vec![Step::KeepRecord],
        Reason::EvidenceMissing { unvouched } if unvouched.iter().any(is_mark_from_before) => {
            vec![Step::RemoveMark, Step::SwitchOff, Step::Record, Step::TryAgain]
        }
        Reason::EvidenceMissing { .. } if situation.method().is_some() => vec![Step::Record, Step::TryAgain],
        Reason::LeaseStillRenewed { .. } | Reason::EvidenceForOtherBoot { .. } | Reason::EvidenceMissing { .. } => {
            vec![Step::SwitchOff, Step::Record, Step::TryAgain]
        }
        Reason::EvidenceMalformed { .. } if !situation.does(Transition::Place) => vec![Step::CorrectRecord],
        Reason::EvidenceMalformed { .. } => vec![Step::CorrectRecord, Step::TryAgain],
        Reason::EvidenceExpired { .. } => vec![Step::ConfirmFence, Step::Record, Step::TryAgain],
        Reason::EvidenceInFuture { .. } => vec![Step::CompareClocks, Step::Record, Step::TryAgain],
        Reason::EffectUndocumented { .. } | Reason::PlacedWithoutEviction => vec![Step::UseEffect],
        Reason::NotAuthorized { verb, .. } => vec![Step::AskForRole(*verb)],
        Reason::TooManyOutOfService { .. } => vec![Step::ReturnOthersFirst],
        Reason::TooManyNotReady { .. } => vec![Step::FindCommonCause, Step::TryAgain],
        Reason::PodsRemain { pods } => pods.iter().map(|pod| for_pod(pod, situation)).chain([Step::TryAgain]).collect(),
        Reason::VolumesAttached { volumes } => volumes.iter().map(for_volume).chain([Step::TryAgain]).collect(),
        Reason::NodeNotRecovered { .. } => vec![Step::Repair, Step::TryAgain],
        Reason::NodeNotRebooted { .. } => vec![Step::PowerCycle, Step::TryAgain],
        Reason::BootUnchanged { .. } => vec![Step::DoubtFence, Step::TryAgain],
        Reason::EvidenceFrozen { .. } if situation.lacks_record() => vec![Step::AddWholeRecord],
        Reason::EvidenceFrozen { .. } => vec![Step::KeepRecord],
        Reason::StampForged { .. } => vec![Step::LeaveOutStamps],
        Reason::UnfencedDeletion { .. } => {
            let vouch = situation.let_vouch().map(|_| Step::LetVouch);
            fence(situation).into_iter().chain(vouch).chain([Step::TryAgain]).collect()
        }
        Reason::UnfencedForceDeletion { .. } | Reason::UnfencedDetach { .. } => fence(situation),
        Reason::FactsUnavailable { .. } | Reason::ReviewMalformed { .. } | Reason::RecordUnavailable { .. } => {
            vec![Step::TryAgain]
        }
    }
}

/// The order of the procedure, for whoever took another door. What was done already is left out.
fn fence(situation: &Situation<'_>) -> Vec<Step> {
    let doubted = [Code::EvidenceMissing, Code::EvidenceForOtherBoot];
    let is_fenced = REQUIRED_EVIDENCE.into_iter().all(|key| situation.is_recorded(key))
        && !situation.denies(&doubted)
        && !situation.is_renewed_after_the_fence();
    let fence: &[Step] = if is_fenced { &[] } else { &[Step::SwitchOff, Step::Record] };
    let drain = situation.is_ready().then_some(Step::Drain);
    drain.into_iter().chain(fence.iter().copied()).chain([Step::PutOutOfService]).collect()
}

/// Whether the node controller should have given up on the node by now.
fn is_overdue(reason: &Reason) -> bool {
    matches!(reason, Reason::NodeStillReady { silence: Some(silence) } if *silence > OVERDUE)
}

fn is_mark_from_before(unvouched: &Unvouched) -> bool {
    unvouched.why == Doubt::LeftOver
}

/// What makes a pod leave.
fn for_pod(pod: &BlockingPod, situation: &Situation<'_>) -> Step {
    Step::Await(match &pod.leaving {
        Leaving::Terminating { finalizers, .. } if !finalizers.is_empty() => Awaited::FindFinalizers,
        Leaving::Terminating { since: Some(since), .. } if *since > OVERDUE => Awaited::CheckPodGc,
        Leaving::Terminating { .. } | Leaving::Evicted | Leaving::Bound => Awaited::LetPodsGo,
        // A release lets such a pod stay, but a machine that was isolated must reboot for it.
        Leaving::Tolerates if situation.does(Transition::Delete) && !situation.is_isolated() => {
            return Step::ReleaseFirst;
        }
        Leaving::Tolerates | Leaving::NotEvicted if situation.does(Transition::Amend) => return Step::RemoveAllEntries,
        Leaving::NotEvicted if situation.does(Transition::Release) => return Step::UseEffect,
        Leaving::Tolerates | Leaving::NotEvicted => Awaited::DeletePods,
    })
}

/// What makes a volume leave.
fn for_volume(volume: &BlockingVolume) -> Step {
    Step::Await(match volume {
        BlockingVolume::Attachment(attachment) if attachment.error.is_some() => Awaited::RepairDriver,
        BlockingVolume::Attachment(attachment) if attachment.detaching.is_some_and(|age| age > OVERDUE) => {
            Awaited::CheckAttacher
        }
        BlockingVolume::Attachment(_) => Awaited::LetVolumesGo,
        BlockingVolume::OfNodeStatus(_) => Awaited::LetVolumesOfNodeGo,
    })
}

impl Step {
    /// What to do, as one line without an end, and the commands that do it.
    fn words(self, situation: &Situation<'_>) -> (String, Vec<Command>) {
        let (text, commands) = match self {
            Self::UseOtherCredentials => ("have it done with credentials that are not on a node", vec![]),
            Self::AskForRole(verb) => {
                // `kubectl auth can-i VERB nodes.fencegate.dev` prints `no` for everyone: kubectl
                // takes a group that the API server does not serve as a part of the resource's
                // name. `--list` works.
                let role = format!("ask for the ClusterRole {}; what you may do now", verb.role());
                return (role, vec![Command::new("kubectl auth can-i --list")]);
            }
            Self::CreateWithoutTaint => (
                "create the node without the taint; once its machine is fenced, record that and place the taint",
                vec![],
            ),
            Self::LeaveOutStamps => ("leave the gate's own stamps out of the write", vec![]),
            Self::KeepRecord => {
                let text = "the record stays as it is until the node is back in service; read it";
                (text, vec![situation.show_record()])
            }
            Self::AddWholeRecord => {
                let text =
                    "a taint without a record gets a whole one in one write, with the method and time that are true";
                (text, situation.record(&REQUIRED_EVIDENCE, &BTreeSet::new()).into_iter().collect())
            }
            Self::LeaveTaint => {
                let text = "an entry is added only while the machine is silent; if it is back, return it to service";
                (text, vec![situation.release()])
            }
            Self::DeletePods => {
                let text = "the machine gave a sign of life after the recorded fence: make sure that it is off now, and stays off; \
                    then delete its pods: while the taint is on, pod GC completes their deletion within about 20 s";
                (text, vec![situation.list_pods()])
            }
            Self::FindCommonCause => {
                let text = "so many nodes seldom die at once: look at the network and the control plane first; every node's state";
                (text, vec![Situation::list_nodes()])
            }
            Self::Drain => ("if its machine works, drain the node first", vec![situation.drain()]),
            Self::SwitchOff => return (switch_off(situation), vec![]),
            Self::ConfirmFence if situation.is_isolated() => ("make sure that the machine is still cut off", vec![]),
            Self::ConfirmFence => ("make sure that the machine is still off", vec![]),
            Self::CheckNodeController => (
                "by now Ready should be Unknown: find out why the node controller of kube-controller-manager has not given up on the node",
                vec![],
            ),
            Self::CompareClocks => ("compare the clock that the time came from with the gate's", vec![]),
            Self::RemoveMark => {
                ("remove pacemaker's mark, which is from an earlier outage", vec![situation.remove_mark()])
            }
            Self::CorrectRecord => {
                let optional: BTreeSet<&str> = situation.malformed().filter(|key| is_optional(key)).collect();
                let required: Vec<&str> = situation.malformed().filter(|key| !is_optional(key)).collect();
                let text = if required.contains(&METHOD) {
                    "correct the record, with the method that was really used"
                } else {
                    "correct the record"
                };
                (text, situation.record(&required, &optional).into_iter().collect())
            }
            Self::Record => {
                let mut removed: BTreeSet<&str> = situation.malformed().filter(|key| is_optional(key)).collect();
                removed.extend(situation.denies(&[Code::EvidenceForOtherBoot]).then_some(BOOT_ID));
                (record_what(situation), situation.record(&to_record(situation), &removed).into_iter().collect())
            }
            Self::PutOutOfService => return (put_out_of_service(situation), situation.place()),
            Self::LetVouch => (LET_VOUCH, situation.let_vouch().into_iter().collect()),
            Self::UseEffect => ("use the effect that the procedure has, NoExecute", situation.place()),
            Self::ReturnOthersFirst => {
                ("return other nodes to service first; every node's taints", vec![Situation::list_taints()])
            }
            Self::RemoveAllEntries => {
                let text = "nothing is excused while an entry stays; remove all entries in one write";
                (text, vec![situation.release()])
            }
            Self::ReleaseFirst => {
                let text = "nothing evicts a pod that tolerates the taint: return the node to service first";
                (text, vec![situation.release()])
            }
            Self::Await(awaited) => return awaited.words(situation),
            // It is back in the boot that was fenced, with whatever it had mounted.
            Self::PowerCycle if situation.is_alive() => (
                "power-cycle the machine and wait until its node is Ready again: it must not keep what it has mounted",
                vec![],
            ),
            Self::PowerCycle => (
                "power-cycle the machine and wait until its node is Ready; if it never returns, delete its Node instead",
                vec![situation.delete()],
            ),
            Self::DoubtFence => (
                "find out whether the machine was off; if it was not, two machines may have written to its volumes: \
                 power-cycle it, and check the data",
                vec![],
            ),
            Self::Repair => ("repair the machine until the node is Ready", vec![situation.show()]),
            Self::RenewBreakGlass => (
                "your break-glass is older than 15 minutes; if it must still be used, remove it and write it again",
                situation.renew_break_glass(),
            ),
            Self::WriteOwnBreakGlass => (
                "the break-glass on the node counts only for whoever wrote it: whoever uses one writes their own, with another reason",
                vec![],
            ),
            Self::TryAgain => return (try_again(situation), vec![]),
        };
        (text.to_owned(), commands)
    }
}

/// What to do with a machine that seems not to be fenced.
fn switch_off(situation: &Situation<'_>) -> String {
    match situation.method() {
        Some(_) if situation.is_renewed_after_the_fence() && !situation.is_alive() => {
            "the machine gave a sign of life after the recorded fence: make sure that it is off now, and stays off"
                .to_owned()
        }
        Some(method) if situation.is_renewed_after_the_fence() && method.stops_the_machine() => format!(
            "the record says {}, but the machine is alive: make sure that the right one was switched off, and stays off",
            method.name()
        ),
        Some(method) if situation.is_renewed_after_the_fence() => format!(
            "the record says {}, but the machine is alive: switch it off, or find out why it is not cut off",
            method.name()
        ),
        Some(_) => "switch the machine off again, and make sure that it stays off".to_owned(),
        None if situation.is_alive() => {
            "if this is the right node, switch its machine off, and make sure that it stays off: a machine that reboots is not off"
                .to_owned()
        }
        None => "switch the machine off, and make sure that it stays off: a machine that reboots is not off, nor is one \
                 that lost its network"
            .to_owned(),
    }
}

/// What there is to record.
fn record_what(situation: &Situation<'_>) -> &'static str {
    if situation.denies(&[Code::EvidenceInFuture]) {
        "then record the time again"
    } else if situation.method().is_some() && !is_fenced_again(situation) && !situation.denies(&[Code::EvidenceExpired])
    {
        "complete the record"
    } else {
        "then record that"
    }
}

/// Whether the fence that is recorded has not stopped this machine, and there must be another one.
fn is_fenced_again(situation: &Situation<'_>) -> bool {
    situation.is_renewed_after_the_fence() || situation.denies(&[Code::EvidenceForOtherBoot])
}

/// Whether evidence is complete without this key. The right value of such a key is unknown to the
/// gate: it can only be left out.
fn is_optional(key: &str) -> bool {
    !REQUIRED_EVIDENCE.contains(&key)
}

/// The keys to record: those that are missing, and those that no longer hold.
fn to_record(situation: &Situation<'_>) -> Vec<&'static str> {
    let is_fenced_again = is_fenced_again(situation);
    let is_confirmed = situation.denies(&[Code::EvidenceExpired]);
    let is_told_again = |key: &str| match key {
        FENCED_AT => is_fenced_again || is_confirmed || situation.denies(&[Code::EvidenceInFuture]),
        FENCED_BY => is_fenced_again || is_confirmed,
        _ => is_fenced_again,
    };
    let is_told = |key: &&str| is_told_again(key) || (situation.needs_fence() && !situation.is_recorded(key));
    [METHOD, FENCED_BY, FENCED_AT].into_iter().filter(is_told).collect()
}

/// What the taint does, and when it may be placed.
fn put_out_of_service(situation: &Situation<'_>) -> String {
    let when = if situation.is_alive() || situation.is_ready() {
        format!(", about {} after the machine has gone silent", Span(situation.silence()))
    } else {
        String::new()
    };
    format!(
        "then put the node out of service{when}: its pods are deleted within about 20 s, and its volumes are detached right after"
    )
}

/// What a program may need that deletes Nodes.
const LET_VOUCH: &str = "or, if this program deletes a Node only once it knows that its machine is gone, let it vouch";

/// What to do if facts could not be read.
pub(super) const ONCE_READABLE: &str = "nothing was changed; try again once the gate can read these facts";

/// When the write may be tried again.
fn try_again(situation: &Situation<'_>) -> String {
    let mut findings = situation.decision.findings.iter();
    let waits = situation.denies(&[Code::NodeStillReady, Code::LeaseStillRenewed])
        && situation.is_alive()
        && !findings.any(|finding| is_overdue(&finding.reason));
    let text = if situation.denies(&[Code::FactsUnavailable]) {
        ONCE_READABLE
    } else if situation.denies(&[Code::RecordUnavailable]) {
        "nothing was changed; try again once the gate can write its audit log: its own log tells why it cannot"
    } else if situation.does(Transition::Delete) || situation.does(Transition::DeleteUntainted) {
        "delete it again once nothing is left"
    } else if situation.denies(&[Code::PodsRemain, Code::VolumesAttached]) {
        "try again once nothing is left"
    } else if waits && situation.is_said_to_be_fenced() && !situation.is_renewed_after_the_fence() {
        return format!(
            "wait until the machine has been silent for about {}, then try again; if the node stays Ready, another machine was switched off",
            Span(situation.silence())
        );
    } else if waits {
        return format!(
            "then try again, about {} after the machine has gone silent: its Lease has run out and Ready is Unknown by then",
            Span(situation.silence())
        );
    } else {
        "then try again"
    };
    text.to_owned()
}
