//! `cloud-shutdown`: the cloud's node lifecycle controller found the instance stopped and put its
//! taint on the node.
//!
//! Only the stored node's taint counts. One that is added in the same write as ours proves nothing.

use super::{Answer, Row};
use crate::policy::{
    evidence::Method,
    facts::Facts,
    object::node::{CLOUD_SHUTDOWN, Node},
    request::Write,
};

pub(super) const ROW: Row = Row { name: "cloud-shutdown", method: Some(Method::InstanceStop), needs: |_| None, ask };

fn ask(write: &Write, _: &Facts) -> Answer {
    match write.before().and_then(Node::cloud_shutdown) {
        Some(taint) => Ok(taint.time_added),
        None => Err(format!("taint {CLOUD_SHUTDOWN} is not on the stored node").into()),
    }
}
