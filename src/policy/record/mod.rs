//! The record on the Node (contract section 2): the stamps and the evidence that the gate writes,
//! and the line that remains after an outage.

pub mod completion;
pub mod outage;
pub mod stamp;
