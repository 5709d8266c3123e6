//! Every way in which a check can fail, one variant each, with the values that were judged.
//!
//! Message, metric label, audit field, configuration key and documentation are all generated from
//! here, by exhaustive `match`.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    blocker::{BlockingPod, BlockingVolume, NotRebooted},
    evidence::{Malformed, Method},
    facts::{SignOfLife, Unread, Verb},
    source::Unvouched,
    text::Foreign,
    transition::Transition,
};

mod words;

/// What a failed check does to the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The check does not run, and the facts that it needs are not read.
    Off,
    /// The write is allowed, with a warning.
    Warn,
    /// The write is denied.
    Enforce,
}

impl Mode {
    /// The name in the configuration and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Enforce => "enforce",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $summary:literal])+ $code:ident = $default:ident,)+) => {
        /// The stable identifier of a check (contract section 4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[doc = $summary])+ $code,)+
        }

        impl Code {
            /// All codes, in the order of the contract. A message lists them in this order.
            pub const ALL: &[Self] = &[$(Self::$code,)+];

            /// The name in messages, in the configuration, in metrics and in the audit log.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)+ }
            }

            /// One sentence: when the check fails.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$code => concat!($($summary,)+).trim_ascii(),)+ }
            }

            /// The mode if the configuration does not set one.
            pub fn default_mode(self) -> Mode {
                match self { $(Self::$code => Mode::$default,)+ }
            }
        }
    };
}

codes! {
    /// The write creates a Node with the taint. No step of the procedure does that, and the new
    /// Node's empty status would hide a machine that runs.
    CreatedOutOfService = Enforce,
    /// The node's `Ready` condition is `True`.
    NodeStillReady = Enforce,
    /// The node's Lease has not run out yet, or the node gave a sign of life after the fence took
    /// effect.
    LeaseStillRenewed = Enforce,
    /// No accepted source vouches that the node was fenced.
    EvidenceMissing = Enforce,
    /// A value does not follow the grammar of the evidence annotations.
    EvidenceMalformed = Enforce,
    /// `fenced-at` is older than `evidence.maxAge`.
    EvidenceExpired = Enforce,
    /// `fenced-at` is later than now plus `evidence.clockSkew`.
    EvidenceInFuture = Enforce,
    /// `boot-id` is given and is not the node's current boot.
    EvidenceForOtherBoot = Enforce,
    /// A new entry of the taint has an effect other than `NoExecute` and `NoSchedule`, the two that
    /// the out-of-service procedure uses.
    EffectUndocumented = Enforce,
    /// The requester speaks from the node itself, or is a node that writes evidence.
    SelfAttested = Enforce,
    /// RBAC does not let the requester do this to the node.
    NotAuthorized = Off,
    /// The taint has only `NoSchedule` entries: pods leave only when the node controller evicts
    /// them, after 300 s by default.
    PlacedWithoutEviction = Warn,
    /// More nodes would be out of service than `place.maxNodes` allows.
    TooManyOutOfService = Off,
    /// More nodes, this one included, are not Ready than `place.maxNotReady` allows: it is the
    /// network or the control plane, not the machines.
    TooManyNotReady = Off,
    /// A pod that the outage displaced is still bound to the node: one of a guarded owner or of a
    /// StatefulSet, or one that mounts a PersistentVolumeClaim.
    PodsRemain = Enforce,
    /// A volume still belongs to the node: a VolumeAttachment names it, or the Node's status lists
    /// a volume of a plugin that has no VolumeAttachments.
    VolumesAttached = Enforce,
    /// The node's `Ready` condition is not `True`.
    NodeNotRecovered = Warn,
    /// The fence only isolated the machine, and the node is not `Ready` in another boot: mounts
    /// from before the fence may still exist. Without a `boot-id` in the record, the default is
    /// `warn`.
    NodeNotRebooted = Enforce,
    /// The fence stopped the machine, but the node is `Ready` in the boot that was fenced: the
    /// record was false, or nodes share a boot ID (containers as nodes).
    BootUnchanged = Warn,
    /// Evidence or a stamp changes while the taint is on.
    EvidenceFrozen = Enforce,
    /// A stamp is not what the gate would write.
    StampForged = Enforce,
    /// A Node without the taint is deleted while a pod that the taint would displace is bound to it
    /// or a volume is attached, and nothing shows that the machine was fenced.
    UnfencedDeletion = Off,
    /// A pod that would hold the taint is force-deleted while its node is neither `Ready` nor out
    /// of service.
    UnfencedForceDeletion = Off,
    /// A VolumeAttachment is deleted by hand, or loses its last finalizer while it is attached, and
    /// nothing shows that the machine was fenced.
    UnfencedDetach = Off,
    /// A fact that an enforced check needs could not be read in time.
    FactsUnavailable = Enforce,
    /// The request has a `uid`, but could not be understood.
    ReviewMalformed = Enforce,
    /// The decision could not be written to the audit log in time.
    RecordUnavailable = Enforce,
}

impl Code {
    /// Whether the configuration may set a mode other than `enforce`.
    pub fn can_be_turned_off(self) -> bool {
        !matches!(
            self,
            Self::FactsUnavailable
                | Self::ReviewMalformed
                | Self::RecordUnavailable
                | Self::StampForged
                | Self::EvidenceFrozen
        )
    }

    /// The check of a door. `None` for the transitions of the taint and its record.
    pub fn of_door(transition: Transition) -> Option<Self> {
        match transition {
            Transition::DeleteUntainted => Some(Self::UnfencedDeletion),
            Transition::ForceDelete => Some(Self::UnfencedForceDeletion),
            Transition::Detach => Some(Self::UnfencedDetach),
            Transition::Place | Transition::Delete | Transition::Release | Transition::Amend | Transition::Attest => {
                None
            }
        }
    }

    /// Whether a break-glass turns the failed check into a warning.
    pub fn can_be_waived(self) -> bool {
        !matches!(self, Self::StampForged | Self::SelfAttested | Self::ReviewMalformed | Self::RecordUnavailable)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A check that failed, and the values that were judged. `silence` and `age` are the time
/// from the event to now, negative if the event is ahead of the clock. `ahead` is the opposite.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    CreatedOutOfService,
    NodeStillReady {
        silence: Option<SignedDuration>,
    },
    /// `runs_out_after`: the silence that the Lease needs, if it has not run out. `fenced_at`: the
    /// time of the fence, if the renewal is later.
    LeaseStillRenewed {
        renewal: Renewal,
        runs_out_after: Option<SignedDuration>,
        fenced_at: Option<Timestamp>,
    },
    EvidenceMissing {
        unvouched: Vec<Unvouched>,
    },
    EvidenceMalformed {
        values: Vec<Malformed>,
    },
    EvidenceExpired {
        fenced_at: Timestamp,
        age: SignedDuration,
        max_age: SignedDuration,
    },
    EvidenceInFuture {
        fenced_at: Timestamp,
        ahead: SignedDuration,
        clock_skew: SignedDuration,
    },
    EvidenceForOtherBoot {
        fenced: String,
        current: Option<String>,
    },
    EffectUndocumented {
        effects: Vec<String>,
    },
    SelfAttested {
        user: String,
    },
    NotAuthorized {
        user: String,
        verb: Verb,
        node: String,
    },
    PlacedWithoutEviction,
    TooManyOutOfService {
        others: Vec<String>,
        total: usize,
        allowed: String,
    },
    TooManyNotReady {
        not_ready: usize,
        total: usize,
        allowed: String,
    },
    PodsRemain {
        pods: Vec<BlockingPod>,
    },
    VolumesAttached {
        volumes: Vec<BlockingVolume>,
    },
    NodeNotRecovered {
        ready: String,
    },
    NodeNotRebooted {
        method: Method,
        why: NotRebooted,
    },
    BootUnchanged {
        method: Method,
        boot_id: Foreign,
    },
    EvidenceFrozen {
        keys: Vec<String>,
    },
    StampForged {
        stamps: Vec<Forgery>,
    },
    /// `against`: why the machine does not count as fenced.
    UnfencedDeletion {
        pods: Vec<BlockingPod>,
        volumes: Vec<BlockingVolume>,
        against: Vec<Reason>,
    },
    UnfencedForceDeletion {
        ready: String,
    },
    UnfencedDetach {
        against: Vec<Reason>,
    },
    FactsUnavailable {
        unread: Vec<Unread>,
    },
    ReviewMalformed {
        why: String,
    },
    RecordUnavailable {
        why: String,
    },
}

/// The last sign of life of a node: the last renewal of its Lease, or a later report of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub sign: SignOfLife,
    /// Until the API server's answer about the Lease, by the same clock.
    pub age: SignedDuration,
    /// `spec.renewTime`, by the machine's clock, if that clock is wrong by more than
    /// `evidence.clockSkew`.
    pub by_machine: Option<Timestamp>,
}

/// A stamp that the write may not set to this value, or may not remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgery {
    pub key: &'static str,
    pub why: String,
}

impl Reason {
    /// Why the machine does not count as fenced, where a door needs that.
    pub fn against(&self) -> &[Self] {
        match self {
            Self::UnfencedDeletion { against, .. } | Self::UnfencedDetach { against } => against,
            _ => &[],
        }
    }

    /// The code of the check that failed.
    pub fn code(&self) -> Code {
        match self {
            Self::CreatedOutOfService => Code::CreatedOutOfService,
            Self::NodeStillReady { .. } => Code::NodeStillReady,
            Self::LeaseStillRenewed { .. } => Code::LeaseStillRenewed,
            Self::EvidenceMissing { .. } => Code::EvidenceMissing,
            Self::EvidenceMalformed { .. } => Code::EvidenceMalformed,
            Self::EvidenceExpired { .. } => Code::EvidenceExpired,
            Self::EvidenceInFuture { .. } => Code::EvidenceInFuture,
            Self::EvidenceForOtherBoot { .. } => Code::EvidenceForOtherBoot,
            Self::EffectUndocumented { .. } => Code::EffectUndocumented,
            Self::SelfAttested { .. } => Code::SelfAttested,
            Self::NotAuthorized { .. } => Code::NotAuthorized,
            Self::PlacedWithoutEviction => Code::PlacedWithoutEviction,
            Self::TooManyOutOfService { .. } => Code::TooManyOutOfService,
            Self::TooManyNotReady { .. } => Code::TooManyNotReady,
            Self::PodsRemain { .. } => Code::PodsRemain,
            Self::VolumesAttached { .. } => Code::VolumesAttached,
            Self::NodeNotRecovered { .. } => Code::NodeNotRecovered,
            Self::NodeNotRebooted { .. } => Code::NodeNotRebooted,
            Self::BootUnchanged { .. } => Code::BootUnchanged,
            Self::EvidenceFrozen { .. } => Code::EvidenceFrozen,
            Self::StampForged { .. } => Code::StampForged,
            Self::UnfencedDeletion { .. } => Code::UnfencedDeletion,
            Self::UnfencedForceDeletion { .. } => Code::UnfencedForceDeletion,
            Self::UnfencedDetach { .. } => Code::UnfencedDetach,
            Self::FactsUnavailable { .. } => Code::FactsUnavailable,
            Self::ReviewMalformed { .. } => Code::ReviewMalformed,
            Self::RecordUnavailable { .. } => Code::RecordUnavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_checks_cannot_be_turned_off() {
        let fixed: Vec<&str> =
            Code::ALL.iter().filter(|code| !code.can_be_turned_off()).map(|code| code.name()).collect();
        assert_eq!(
            fixed,
            ["EvidenceFrozen", "StampForged", "FactsUnavailable", "ReviewMalformed", "RecordUnavailable"]
        );
    }
}
