//! A node's Lease, which the kubelet renews while it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::json::object_or_null;

/// A node's Lease in the namespace `kube-node-lease`. Its times are from the clock of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: LeaseSpec,
}

/// `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// `None`: the Lease was never renewed.
    pub renew_time: Option<Timestamp>,
    /// Seconds.
    pub lease_duration_seconds: Option<i32>,
}
