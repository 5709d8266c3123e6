//! Reads the facts that a decision needs: live from an API server, or from a file.
//!
//! This module decides nothing. [`facts_needed`](crate::policy::facts_needed) lists what to read,
//! and a fact that cannot be read becomes [`Observed::Unknown`](crate::policy::facts::Observed)
//! with a reason for people, not an error. Nothing is cached: the controllers that act on the taint
//! work from stale caches, and the gate must not repeat their mistakes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    policy::{
        facts::{FactQuery, Reading},
        request::Request,
    },
};

mod api;
pub mod file;
pub mod live;
pub mod registration;

pub use api::ReachError;
pub use file::Snapshot;
pub use live::Live;

/// The API group and resource of the verbs `break-glass` and `attest`. No API server serves it;
/// RBAC needs only the name.
const VIRTUAL_GROUP: &str = "fencegate.dev";
const VIRTUAL_RESOURCE: &str = "nodes";

/// Where facts come from.
#[derive(Clone)]
pub enum Cluster {
    /// An API server. Facts are read from it for every decision.
    Live(Live),
    /// A snapshot of a cluster, from a file.
    File(Arc<ArcSwap<Snapshot>>),
}

impl Cluster {
    /// A cluster with the content of a snapshot.
    pub fn of(snapshot: Snapshot) -> Self {
        Self::File(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// Reads the facts in `query`. Returns by `deadline`: a fact that was not read by then is
    /// unknown.
    pub async fn read(&self, request: &Request, query: &FactQuery, clock: &Clock, deadline: Instant) -> Reading {
        match self {
            Self::Live(live) => Box::pin(live.read(request, query, clock, deadline)).await,
            Self::File(snapshot) => {
                Reading { facts: snapshot.load().read(request, query, clock.now()), timings: Vec::new() }
            }
        }
    }

    /// Checks that the API server answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn reach(&self) -> Result<(), ReachError> {
        match self {
            Self::Live(live) => live.reach().await,
            Self::File(_) => Ok(()),
        }
    }
}
