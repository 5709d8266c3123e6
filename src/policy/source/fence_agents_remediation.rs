//! `fence-agents-remediation`: medik8s ran a fence agent against the machine, and the agent
//! reported success.
//!
//! The controller sets the condition to true before it places the taint.

use super::{Answer, Row, consult_each};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact, Facts},
    object::fence_agents_remediation::FenceAgentsRemediation,
    request::Write,
};

pub(super) const ROW: Row = Row {
    name: "fence-agents-remediation",
    method: Some(Method::PowerOff),
    needs: |_| Some(Fact::Custom(CustomKind::FenceAgentsRemediation)),
    consult,
};

/// The condition that is true as soon as the fence agent reported success.
const SUCCEEDED: &str = "FenceAgentActionSucceeded";

fn consult(_: &Write, facts: &Facts) -> Answer {
    consult_each(&facts.custom.fence_agents_remediations, |FenceAgentsRemediation { metadata, status }| {
        let condition = status.conditions.iter().find(|condition| condition.kind == SUCCEEDED);
        match condition {
            Some(condition) if condition.status == "True" => Ok(condition.last_transition_time),
            Some(condition) => Err(format!("{} has {SUCCEEDED}={}", metadata.full_name(), condition.status).into()),
            None => Err(format!("{} has no {SUCCEEDED} yet", metadata.full_name()).into()),
        }
    })
}
