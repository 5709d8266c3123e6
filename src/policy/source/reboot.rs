//! Whether a machine that was made to reboot may have come back.
//!
//! A remediation reports its success after the reboot. Until the taint is placed, the machine can
//! come back, run its pods again and be cut off once more: then the fence is over, and the machine
//! writes to its disks. It shows in the Lease, which the kubelet of the new boot renews, or in the
//! status that it reports.

use super::{Doubt, Inquiry};
use crate::policy::{
    facts::{SignOfLife, Unread, lease_name},
    object::custom::ObjectMeta,
};

/// Checks that the node's last sign of life is not later than the beginning of a remediation that
/// `did` something which the machine may come back from.
///
/// Both times are whole seconds of the API server's clock. In the same second, the renewal came
/// from the old boot: between the creation of the remediation and the first renewal of the new boot
/// are the controller, the fence agent, the boot of the machine and the start of its kubelet, which
/// take more than a second. So there is no clock skew here that a machine could come back within.
///
/// # Errors
/// If the node renewed its Lease later, or if nothing tells when it did.
pub(super) fn stayed_silent(inquiry: &Inquiry<'_>, remediation: &ObjectMeta, did: &str) -> Result<(), Doubt> {
    let Inquiry { write, facts, clock_skew } = inquiry;
    let lease = lease_name(&write.current().metadata.name);
    let answer = match facts.lease.value() {
        Ok(answer) => answer,
        Err(why) => return Err(Doubt::Unread(Unread::unreadable(lease, why))),
    };
    // On CREATE, a Lease is that of an earlier Node. If the Lease does not tell, the Node alone
    // does not show silence.
    let stored = write.before().filter(|_| answer.last_renewal(*clock_skew).is_some());
    let sign = stored.and_then(|stored| SignOfLife::last(stored, answer, *clock_skew));
    let name = remediation.full_name();
    match (remediation.creation_timestamp, sign) {
        (Some(began), Some(sign)) if sign.at <= began => Ok(()),
        (Some(began), Some(sign)) => Err(Doubt::No(format!(
            "{name} {did} and began at {began}, and the node {} at {}: it may have come back",
            sign.did(),
            sign.at
        ))),
        (None, _) => Err(Doubt::No(format!("{name} {did}, and does not say when it began"))),
        (_, None) => Err(Doubt::No(format!("{name} {did}, and {lease} does not say whether the node came back"))),
    }
}
