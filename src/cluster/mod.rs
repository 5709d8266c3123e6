//! Reads the facts that a decision needs: live from an API server, or from a file.
//!
//! It makes no choices: what to read comes from [`facts_needed`](crate::policy::facts_needed), and
//! whatever cannot be read becomes [`Observed::Unknown`](crate::policy::facts::Observed) with a
//! reason for people, never an error. Nothing is cached: the controllers that act on the taint work
//! from stale caches, so the gate must not.

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

/// The API group and resource of the rights `break-glass` and `attest`. It is served nowhere; RBAC
/// needs no more than its name.
const VIRTUAL_GROUP: &str = "fencegate.dev";
const VIRTUAL_RESOURCE: &str = "nodes";

/// Where facts come from.
#[derive(Clone)]
pub enum Cluster {
    /// An API server, read anew for every decision.
    Live(Live),
    /// A file that describes a cluster.
    File(Arc<ArcSwap<Snapshot>>),
}

impl Cluster {
    /// A cluster as a snapshot describes it.
    pub fn of(snapshot: Snapshot) -> Self {
        Self::File(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// Reads what `query` asks for. Ends by `deadline`: a fact that was not read by then is not
    /// known.
    pub async fn read(&self, request: &Request, query: &FactQuery, clock: &Clock, deadline: Instant) -> Reading {
        match self {
            Self::Live(live) => Box::pin(live.read(request, query, clock, deadline)).await,
            Self::File(snapshot) => {
                Reading { facts: snapshot.load().read(request, query, clock.now()), timings: Vec::new() }
            }
        }
    }

    /// Whether the cluster answers at all.
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
