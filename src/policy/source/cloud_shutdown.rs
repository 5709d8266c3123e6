//! `cloud-shutdown`: the cloud's node lifecycle controller found the instance stopped and placed
//! its taint on the node.
//!
//! The taint counts only on the stored node. If the same write adds it together with the
//! out-of-service taint, it proves nothing: the requester may have added both. It says what is true
//! now: the controller removes it when the instance runs again.

use super::{Answer, Inquiry, Row};
use crate::policy::{
    evidence::Method,
    object::node::{CLOUD_SHUTDOWN, Node},
};

pub(super) const ROW: Row =
    Row { name: "cloud-shutdown", method: Some(Method::InstanceStop), needs: |_| vec![], consult };

fn consult(Inquiry { write, .. }: &Inquiry<'_>) -> Answer {
    if write.before().is_some_and(Node::is_shut_down) {
        Ok(None)
    } else {
        Err(format!("taint {CLOUD_SHUTDOWN} is not on the stored node").into())
    }
}
