//! The nodes that the gate let be put out of service a moment ago.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::policy::object::budget::Budget;

/// How long an entry counts: as long as Kubernetes lets any webhook take. By then, the write that
/// it was made for is stored, and the list of Nodes shows it, or it never will be.
const HELD: SignedDuration = SignedDuration::from_secs(30);

/// The API server's answer about the Lease `fencegate-budget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetAnswer {
    /// When the API server answered, by its own clock. The replicas enter nodes by the same clock.
    pub date: Timestamp,
    /// `None`: the Lease does not exist. No node was entered yet.
    pub lease: Option<Budget>,
}

impl BudgetAnswer {
    /// The entries that still count, by node. `None` if the Lease is not understood. An entry that
    /// is ahead of the clock counts.
    pub fn recent(&self) -> Option<BTreeMap<String, Timestamp>> {
        let mut entries = match &self.lease {
            Some(lease) => lease.entries()?,
            None => BTreeMap::new(),
        };
        entries.retain(|_, at| self.date.duration_since(*at) <= HELD);
        Some(entries)
    }

    /// The version of the Lease. `None` if it does not exist.
    pub fn version(&self) -> Option<String> {
        let version = &self.lease.as_ref()?.metadata.resource_version;
        Some(version.clone()).filter(|version| !version.is_empty())
    }
}
