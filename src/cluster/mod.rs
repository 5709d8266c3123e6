//! Reads the facts that a decision needs: live from an API server, or from a file.
//!
//! The only thing that it writes for a decision is the Lease of a [`Reservation`].
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
        Reservation,
        facts::{FactQuery, Reading},
        request::Request,
    },
};

mod api;
pub mod events;
pub mod file;
pub mod inspection;
mod items;
pub mod listing;
pub mod live;
pub mod registration;
pub mod steward;
mod subject;
pub mod watching;

pub use api::ReachError;
pub use file::Snapshot;
pub use listing::{ListError, Listed, Wanted};
pub use live::Live;
pub use steward::{Changes, Manner, WriteError};
pub use watching::Change;

/// The API group and resource of the verbs `break-glass` and `attest`. No API server serves it;
/// RBAC needs only the name.
const VIRTUAL_GROUP: &str = "fencegate.dev";
const VIRTUAL_RESOURCE: &str = "nodes";

/// The result of a write that replaces one version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// The object was created, changed or deleted since it was read.
    Conflict,
}

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

    /// Writes the Lease of a reservation, unless it changed since it was read. A snapshot has no
    /// other writers, and stays as it is.
    ///
    /// # Errors
    /// Why it could not be written by `deadline`, as one line for people.
    pub async fn reserve(&self, reservation: &Reservation, deadline: Instant) -> Result<Written, String> {
        match self {
            Self::Live(live) => live.reserve(reservation, deadline).await,
            Self::File(_) => Ok(Written::Done),
        }
    }

    /// Lists Nodes for people.
    ///
    /// # Errors
    /// If they cannot be read, or if a Node that was named does not exist.
    pub async fn nodes(&self, wanted: &Wanted) -> Result<Vec<Listed>, ListError> {
        match self {
            Self::Live(live) => live.list(wanted).await,
            Self::File(snapshot) => snapshot.load().list(wanted),
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
