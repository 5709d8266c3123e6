//! What fencegate guarantees, tested on a real API server with the real controllers and kubectl.
//!
//! Only machines and disks are simulated (`harness::machine`).

#![allow(
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]

#[path = "../support/cases.rs"]
mod cases;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/reviews.rs"]
mod reviews;
#[path = "../support/schema.rs"]
mod schema;
#[path = "../support/shells.rs"]
mod shells;
#[path = "../support/mod.rs"]
mod support;

mod budget;
#[cfg(feature = "cert-manager")]
mod cert_manager;
mod certificates;
mod chart;
mod clocks;
mod commands;
mod doors;
mod everything_else;
mod fullest;
mod held;
mod install;
mod interoperation;
mod kustomize;
mod layers;
mod monitoring;
mod operators;
mod plugin;
mod policy;
mod registration;
mod replicas;
mod rights;
mod sources;
mod stale;
mod story;
mod table;
mod watcher;
mod ways;
mod world;
