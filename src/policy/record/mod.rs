//! The record on the Node (contract section 2): what the gate writes there, and what it leaves of
//! an outage.

pub mod outage;
pub mod stamp;
