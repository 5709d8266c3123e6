//! When the API server last heard of a node's kubelet.

use jiff::{SignedDuration, Timestamp};

use super::LeaseAnswer;
use crate::policy::object::node::Node;

/// For a Lease without a duration: the kubelet's default (`nodeLeaseDurationSeconds`).
const DEFAULT_DURATION: i32 = 40;
/// The longest duration that counts. A kubelet may write any duration into its Lease, and nobody
/// could put its node out of service for a day.
const LONGEST_DURATION: i32 = 300;

impl LeaseAnswer {
    /// When the API server stored the last renewal. `None` if the Lease says nothing: it does not
    /// exist, it does not tell, or it names a time later than the answer's own plus `clock_skew`.
    pub fn last_renewal(&self, clock_skew: SignedDuration) -> Option<Timestamp> {
        let renewed_at = self.lease.as_ref()?.renewed_at()?;
        (renewed_at.duration_since(self.date) <= clock_skew).then_some(renewed_at)
    }

    /// How long a renewal counts.
    pub fn duration(&self) -> SignedDuration {
        let duration = self.lease.as_ref().and_then(|lease| lease.spec.lease_duration_seconds);
        SignedDuration::from_secs(duration.unwrap_or(DEFAULT_DURATION).clamp(0, LONGEST_DURATION).into())
    }

    /// How long a machine must be silent until its Lease has run out.
    pub fn runs_out_after(&self, clock_skew: SignedDuration) -> SignedDuration {
        self.duration().saturating_add(clock_skew)
    }
}

/// The last sign of life of a node's kubelet, by the API server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    pub at: Timestamp,
    /// The kubelet reported its status, and has not renewed its Lease since.
    pub of_status: bool,
}

impl SignOfLife {
    /// The last one that is known of the stored Node. `None` if neither its Lease nor the Node
    /// tells.
    pub fn last(stored: &Node, answer: &LeaseAnswer, clock_skew: SignedDuration) -> Option<Self> {
        let renewed = answer.last_renewal(clock_skew).map(|at| Self { at, of_status: false });
        let reported = stored.reported_at().map(|at| Self { at, of_status: true });
        renewed.into_iter().chain(reported).max_by_key(|sign| (sign.at, !sign.of_status))
    }

    /// What the node did, after "the node" in a message.
    pub fn did(self) -> &'static str {
        if self.of_status { "reported its status" } else { "renewed its Lease" }
    }
}

/// The name of a node's Lease in messages.
pub fn lease_name(node: &str) -> String {
    format!("Lease kube-node-lease/{node}")
}
