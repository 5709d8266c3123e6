//! The labels of the metrics.

use prometheus_client::encoding::EncodeLabelSet;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DecisionLabels {
    pub webhook: &'static str,
    /// The most consequential transition, or `None`.
    pub transition: &'static str,
    pub decision: &'static str,
    /// The check that decided. Empty if none failed.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FindingLabels {
    pub webhook: &'static str,
    pub transition: &'static str,
    pub reason: &'static str,
    /// `enforce`, `warn`, or `waived` by a break-glass.
    pub mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CheckLabels {
    pub reason: &'static str,
    pub mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FactLabels {
    pub fact: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub version: &'static str,
    pub commit: &'static str,
}

/// What became of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Sent,
    /// More Events were waiting than may wait.
    Dropped,
    /// The API server refused it, or did not answer.
    Failed,
}

/// What became of an automatic release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    Released,
    Denied,
    /// The Node was changed meanwhile, or is another one.
    Conflict,
    Failed,
}

impl EventOutcome {
    pub(super) const ALL: [Self; 3] = [Self::Sent, Self::Dropped, Self::Failed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

impl ReleaseOutcome {
    pub(super) const ALL: [Self; 4] = [Self::Released, Self::Denied, Self::Conflict, Self::Failed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
        }
    }
}
