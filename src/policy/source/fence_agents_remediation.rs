//! `fence-agents-remediation`: medik8s ran a fence agent against the machine, and the agent
//! reported success.
//!
//! The condition turns true before the controller places the taint.

use super::{Answer, Row, ask_each};
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
    ask,
};

/// The condition that is true once the fence agent reported success.
const SUCCEEDED: &str = "FenceAgentActionSucceeded";

fn ask(_: &Write, facts: &Facts) -> Answer {
    ask_each(&facts.custom.fence_agents_remediations, |FenceAgentsRemediation { metadata, status }| {
        let condition = status.conditions.iter().find(|condition| condition.kind == SUCCEEDED);
        match condition {
            Some(condition) if condition.status == "True" => Ok(condition.last_transition_time),
            Some(condition) => Err(format!("{} has {SUCCEEDED}={}", metadata.full_name(), condition.status).into()),
            None => Err(format!("{} has no {SUCCEEDED} yet", metadata.full_name()).into()),
        }
    })
}
