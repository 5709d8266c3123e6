//! `cloud-shutdown`: the cloud's node lifecycle controller found the instance stopped and tainted the node.
//!
//! It is the stored node's taint that counts: one that comes with the write that places ours proves nothing.

use super::Answer;
use crate::policy::{
    node::{CLOUD_SHUTDOWN, Node},
    request::Write,
};

pub(super) fn vouches(write: &Write) -> Answer {
    match write.before().and_then(Node::cloud_shutdown) {
        Some(taint) => Ok(taint.time_added),
        None => Err(format!("taint {CLOUD_SHUTDOWN} is not on the stored node").into()),
    }
}
