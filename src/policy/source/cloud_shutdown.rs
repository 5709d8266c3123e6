//! `cloud-shutdown`: the cloud's node lifecycle controller found the instance stopped and placed
//! its taint on the node.
//!
//! The taint counts only on the stored node. If the same write adds it together with the
//! out-of-service taint, it proves nothing: the requester may have added both.

use super::{Answer, Row};
use crate::policy::{
    evidence::Method,
    facts::Facts,
    object::node::{CLOUD_SHUTDOWN, Node},
    request::Write,
};

pub(super) const ROW: Row =
    Row { name: "cloud-shutdown", method: Some(Method::InstanceStop), needs: |_| None, consult };

fn consult(write: &Write, _: &Facts) -> Answer {
    match write.before().and_then(Node::cloud_shutdown) {
        Some(taint) => Ok(taint.time_added),
        None => Err(format!("taint {CLOUD_SHUTDOWN} is not on the stored node").into()),
    }
}
