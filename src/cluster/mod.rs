//! Reads the facts that a decision needs: live from an API server, or from a file.
//!
//! The only module that names `kube::Client`. It makes no choices: what to read comes from
//! [`facts_needed`](crate::policy::facts_needed), and whatever cannot be read becomes [`Observed::Unknown`] with a reason for people,
//! never an error. Nothing is cached: the controllers that act on the taint work from stale caches, so the gate must not.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    policy::{
        facts::{FactQuery, Observed, Reading},
        request::Request,
    },
};

mod api;
pub mod file;
pub mod live;
pub mod registration;

pub use file::Snapshot;
pub use live::Live;

/// Where facts come from.
#[derive(Clone)]
pub enum Cluster {
    /// An API server, asked anew for every decision.
    Live(Live),
    /// What a file says the cluster is.
    File(Arc<ArcSwap<Snapshot>>),
}

impl Cluster {
    /// A cluster that is what a snapshot says.
    pub fn of(snapshot: Snapshot) -> Self {
        Self::File(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// Reads what `query` asks for. Ends by `deadline`: what is not there by then is not known.
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
    /// Why not, for people.
    pub async fn reach(&self) -> Result<(), String> {
        match self {
            Self::Live(live) => live.reach().await,
            Self::File(_) => Ok(()),
        }
    }
}

/// A fact that came out either way at `at`.
fn observed<T>(at: Timestamp, result: Result<T, String>) -> Observed<T> {
    match result {
        Ok(value) => Observed::Known { at, value },
        Err(why) => Observed::Unknown { at, why },
    }
}
