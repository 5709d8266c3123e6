//! A real control plane with simulated machines, and the gate in front of it.

#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]

pub mod accounts;
pub mod csi;
pub mod gate;
pub mod kinds;
pub mod machine;
pub mod plane;
pub mod proxy;
