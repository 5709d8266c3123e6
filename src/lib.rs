//! fencegate: an admission webhook that guards the Kubernetes taint
//! `node.kubernetes.io/out-of-service`.
//!
//! The modules below are in reading order. A review is parsed into a request, the facts that the
//! request needs are read, a decision is made from them, and the decision becomes the answer. No
//! step goes back. `ARCHITECTURE.md` describes this.

pub mod policy;

pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod election;

pub mod admission;
pub mod audit;
pub mod events;
pub mod metrics;

pub mod admin;
pub mod reload;
pub mod telemetry;
pub mod tls;

pub mod gate;
pub mod watcher;

pub mod server;

pub mod cli;
