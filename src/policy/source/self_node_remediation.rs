//! `self-node-remediation`: medik8s waited until the node must have rebooted itself.
//!
//! The controller first writes the time at which the node's watchdog has fired at the latest. When
//! that time has passed, it writes the phase.

use super::{Answer, Row, consult_each};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact, Facts},
    object::self_node_remediation::SelfNodeRemediation,
    request::Write,
    text::quoted,
};

pub(super) const ROW: Row = Row {
    name: "self-node-remediation",
    method: Some(Method::PowerOff),
    needs: |_| Some(Fact::Custom(CustomKind::SelfNodeRemediation)),
    consult,
};

/// The phases that follow the node's reboot.
const REBOOTED: [&str; 2] = ["Reboot-Completed", "Fencing-Completed"];

fn consult(_: &Write, facts: &Facts) -> Answer {
    consult_each(&facts.custom.self_node_remediations, |SelfNodeRemediation { metadata, status }| {
        if REBOOTED.contains(&status.phase.as_str()) {
            return Ok(status.time_assumed_rebooted);
        }
        let [one, other] = REBOOTED;
        let phase = quoted(&status.phase);
        Err(format!("{} is in phase {phase}, not {one} or {other}", metadata.full_name()).into())
    })
}
