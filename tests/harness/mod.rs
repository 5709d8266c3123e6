//! The parts of the end-to-end tests: a real control plane, simulated machines, and the gate in
//! front of the API server.

#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod accounts;
pub mod csi;
pub mod gate;
pub mod kinds;
pub mod machine;
pub mod plane;
pub mod process;
pub mod prometheus;
pub mod proxy;
