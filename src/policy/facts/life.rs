//! When the API server last heard of a node's kubelet.

use jiff::{SignedDuration, Timestamp};

use super::LeaseAnswer;
use crate::policy::object::node::Node;

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
