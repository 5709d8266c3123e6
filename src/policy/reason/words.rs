//! The words of each reason, on one line.

use std::fmt;

use super::{Forgery, Reason, Renewal};
use crate::policy::{
    source::Unvouching,
    text::{Ago, FirstFive, Span, quoted, write_joined},
};

impl fmt::Display for Reason {
    /// One line, without the code and without control characters.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreatedOutOfService => formatter
                .write_str("the Node does not exist yet, and a new Node's empty status would hide a machine that runs"),
            Self::NodeStillReady { silence: Some(silence) } => {
                write!(formatter, "the node reports Ready=True and renewed its Lease {}", Ago(*silence))
            }
            Self::NodeStillReady { silence: None } => formatter.write_str("the node reports Ready=True"),
            Self::LeaseStillRenewed { renewal, runs_out_after, fenced_at } => {
                write!(formatter, "{renewal}")?;
                if let Some(fenced_at) = fenced_at {
                    write!(formatter, ", after the recorded fence at {fenced_at}")?;
                }
                match runs_out_after {
                    Some(silence) => write!(formatter, "; it runs out {} after the last renewal", Span(*silence)),
                    None => Ok(()),
                }
            }
            Self::EvidenceMissing { unvouched } => write!(formatter, "{}", Unvouching(unvouched)),
            Self::EvidenceMalformed { values } => write_joined(formatter, values, "; "),
            Self::EvidenceExpired { fenced_at, age, max_age } => write!(
                formatter,
                "the recorded fence at {fenced_at} is {} old, evidence counts for {}",
                Span(*age),
                Span(*max_age)
            ),
            Self::EvidenceInFuture { fenced_at, ahead, clock_skew } => write!(
                formatter,
                "the recorded fence at {fenced_at} is {} ahead of now, {}; at most {} is allowed",
                Span(*ahead),
                fenced_at.saturating_sub(*ahead).unwrap_or(*fenced_at),
                Span(*clock_skew)
            ),
            Self::EvidenceForOtherBoot { fenced, current: Some(current) } => {
                write!(
                    formatter,
                    "the machine has booted since it was fenced: that was boot {}, it now runs boot {}",
                    quoted(fenced),
                    quoted(current)
                )
            }
            Self::EvidenceForOtherBoot { fenced, current: None } => {
                write!(formatter, "the node reports no boot ID to compare with the fenced boot {}", quoted(fenced))
            }
            Self::EffectUndocumented { effects } => {
                formatter.write_str("the procedure knows NoExecute and NoSchedule, not ")?;
                write_joined(formatter, effects, ", ")
            }
            Self::SelfAttested { user } => {
                write!(formatter, "no node can vouch for a fence, and {} speaks from one", quoted(user))
            }
            Self::NotAuthorized { user, verb, node } => {
                write!(formatter, "{} may not {} nodes.fencegate.dev/{node}", quoted(user), verb.name())
            }
            Self::PlacedWithoutEviction => formatter
                .write_str("NoSchedule evicts nothing: pods leave after their unreachable toleration, 300s by default"),
            Self::TooManyOutOfService { others, total, allowed } => {
                write!(
                    formatter,
                    "{} of {total} nodes would be out of service, {allowed} allowed; already out: {}",
                    others.len() + 1,
                    FirstFive(others)
                )
            }
            Self::TooManyNotReady { not_ready, total, allowed } => write!(
                formatter,
                "{not_ready} of {total} nodes are not Ready, {allowed} allowed: more likely the network or the control plane than the machines"
            ),
            Self::PodsRemain { pods } => write!(formatter, "still bound to the node: {}", FirstFive(pods)),
            Self::VolumesAttached { volumes } => write!(formatter, "still on the node: {}", FirstFive(volumes)),
            Self::NodeNotRecovered { ready } => write!(formatter, "the node reports Ready={ready}"),
            Self::NodeNotRebooted { method, why } => {
                write!(formatter, "{why}; {} does not end what runs on the machine", method.name())
            }
            Self::BootUnchanged { boot_id, .. } => {
                write!(formatter, "Ready in the fenced boot {boot_id}: the record is false or boot IDs are shared")
            }
            Self::EvidenceFrozen { keys } => {
                formatter.write_str("the record cannot change while the node is out of service: ")?;
                write_joined(formatter, keys, ", ")
            }
            Self::StampForged { stamps } => write_joined(formatter, stamps, "; "),
            Self::UnfencedDeletion { pods, volumes, against } => {
                let pods = (!pods.is_empty()).then(|| FirstFive(pods).to_string());
                let volumes = (!volumes.is_empty()).then(|| FirstFive(volumes).to_string());
                let left: Vec<String> = pods.into_iter().chain(volumes).collect();
                write!(formatter, "still on the node: {}; {}", left.join(", "), NotFenced(against))
            }
            Self::UnfencedForceDeletion { ready } => write!(
                formatter,
                "the node reports Ready={ready} and is not out of service: the pod may still run and write to its volumes"
            ),
            Self::UnfencedDetach { against } => {
                write!(formatter, "the machine may still write to the volume; {}", NotFenced(against))
            }
            Self::FactsUnavailable { unread } => write_joined(formatter, unread, "; "),
            Self::ReviewMalformed { why } => formatter.write_str(why),
            Self::RecordUnavailable { why } => write!(formatter, "the decision could not be put on record: {why}"),
        }
    }
}

impl fmt::Display for Renewal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the node {} {} at {:.0}", self.sign.did(), Ago(self.age), self.sign.at)?;
        self.by_machine.map_or(Ok(()), |wrong| write!(formatter, " (its own wrong clock said {wrong:.0})"))
    }
}

impl fmt::Display for Forgery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.key, self.why)
    }
}

/// Why a machine does not count as fenced.
struct NotFenced<'a>(&'a [Reason]);

impl fmt::Display for NotFenced<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("it does not count as fenced: ")?;
        write_joined(formatter, self.0, "; ")
    }
}
