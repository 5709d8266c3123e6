//! fencegate: the admission webhook that guards the Kubernetes taint
//! `node.kubernetes.io/out-of-service`.
//!
//! The modules in reading order. Bytes become a request, the request says which facts it needs, the
//! facts make a decision, the decision becomes an answer: one way, no step back. `ARCHITECTURE.md`
//! draws the picture.

pub mod policy;

pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod config;

pub mod admission;
pub mod audit;
pub mod metrics;

pub mod admin;
pub mod reload;
pub mod telemetry;
pub mod tls;

pub mod gate;
pub mod server;

pub mod cli;
