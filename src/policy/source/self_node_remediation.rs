//! `self-node-remediation`: medik8s waited until the node must have rebooted itself.
//!
//! The controller first writes the time at which the node's watchdog has fired at the latest. When
//! that time has passed, it writes the phase. The machine may be back minutes before.

use super::{Answer, Doubt, Inquiry, Row, consult_each, reboot::stayed_silent};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact},
    object::self_node_remediation::SelfNodeRemediation,
    text::quoted,
};

pub(super) const ROW: Row = Row {
    name: "self-node-remediation",
    method: Some(Method::PowerOff),
    needs: |_| vec![Fact::Custom(CustomKind::SelfNodeRemediation), Fact::Lease],
    consult,
};

/// The phases that follow the node's reboot.
const REBOOTED: [&str; 2] = ["Reboot-Completed", "Fencing-Completed"];

fn consult(inquiry: &Inquiry<'_>) -> Answer {
    consult_each(&inquiry.facts.custom.self_node_remediations, |SelfNodeRemediation { metadata, status }| {
        let name = metadata.full_name();
        if !REBOOTED.contains(&status.phase.as_str()) {
            let [one, other] = REBOOTED;
            return Err(Doubt::No(format!("{name} is in phase {}, not {one} or {other}", quoted(&status.phase))));
        }
        if status.time_assumed_rebooted.is_none() {
            return Err(format!("{name} does not say by when the machine has rebooted").into());
        }
        stayed_silent(inquiry, metadata, "made the machine reboot")?;
        Ok(status.time_assumed_rebooted)
    })
}
