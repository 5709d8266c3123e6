//! `fence-agents-remediation`: medik8s ran a fence agent against the machine, and the agent
//! reported success.
//!
//! The controller sets the condition to true before it places the taint. By default, the agent
//! reboots the machine, and the success may be reported after the machine is back.

use super::{Answer, Doubt, Inquiry, Row, consult_each, reboot::stayed_silent};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact},
    object::fence_agents_remediation::FenceAgentsRemediation,
    text::quoted,
};

pub(super) const ROW: Row = Row {
    name: "fence-agents-remediation",
    method: Some(Method::PowerOff),
    needs: |_| vec![Fact::Custom(CustomKind::FenceAgentsRemediation), Fact::Lease],
    consult,
};

/// The condition that is true as soon as the fence agent reported success.
const SUCCEEDED: &str = "FenceAgentActionSucceeded";

fn consult(inquiry: &Inquiry<'_>) -> Answer {
    consult_each(&inquiry.facts.custom.fence_agents_remediations, |far| {
        let FenceAgentsRemediation { metadata, status, .. } = far;
        let name = metadata.full_name();
        let Some(condition) = status.conditions.iter().find(|condition| condition.kind == SUCCEEDED) else {
            return Err(format!("{name} has no {SUCCEEDED} yet").into());
        };
        if condition.status != "True" {
            return Err(Doubt::No(format!("{name} has {SUCCEEDED}={}", quoted(&condition.status))));
        }
        if condition.last_transition_time.is_none() {
            return Err(format!("{name} does not say since when it has {SUCCEEDED}=True").into());
        }
        match far.action() {
            "off" => {}
            "reboot" => stayed_silent(inquiry, metadata, "ran its agent with --action \"reboot\"")?,
            // Agents know others, which switch nothing off: on, status, monitor.
            other => return Err(Doubt::No(format!("{name} ran its agent with --action {}", quoted(other)))),
        }
        Ok(condition.last_transition_time)
    })
}
