//! The checks of contract section 4. Each check is one file, and one row in [`RULES`].
//!
//! A row defines when a check applies, which facts it needs and how it judges. Both `facts_needed`
//! and `decide` use this table. If a rule judges by a fact that it does not list, the fact is never
//! read, and the rule denies the write.

use super::{
    assessment::Assessment,
    facts::{Fact, Unread, Verb},
    proposal::Proposal,
    reason::{Code, Reason},
};

mod budget;
mod created;
mod doors;
mod effect;
mod eviction;
mod evidence_age;
mod evidence_malformed;
mod evidence_missing;
mod frozen;
mod lease;
mod not_authorized;
mod other_boot;
mod pods;
mod ready;
mod rebooted;
mod self_attested;
mod stamps;
mod volumes;

/// One check.
pub(super) struct Rule {
    pub code: Code,
    /// Whether the check applies to this write.
    pub applies: fn(&Proposal<'_>) -> bool,
    /// The facts that [`Rule::check`] judges by, if the check applies.
    pub needs: fn(&Proposal<'_>) -> Vec<Fact>,
    /// Judges the write.
    pub check: fn(&Assessment<'_>) -> Outcome,
}

/// All checks, in the order in which a message lists them.
pub(super) const RULES: &[Rule] = &[
    created::RULE,
    ready::STILL_READY,
    lease::RULE,
    evidence_missing::RULE,
    evidence_malformed::RULE,
    evidence_age::EXPIRED,
    evidence_age::IN_FUTURE,
    other_boot::RULE,
    effect::RULE,
    self_attested::RULE,
    not_authorized::RULE,
    eviction::RULE,
    budget::OUT_OF_SERVICE,
    budget::NOT_READY,
    pods::RULE,
    volumes::RULE,
    ready::NOT_RECOVERED,
    rebooted::NOT_REBOOTED,
    rebooted::BOOT_UNCHANGED,
    frozen::RULE,
    stamps::RULE,
    doors::DELETION,
    doors::FORCE_DELETION,
    doors::DETACH,
];

/// Checks whose mode is not a setting: they always deny.
pub(super) const ALWAYS: &[Rule] = &[not_authorized::BREAK_GLASS];

/// The outcome of a check. The default is a check that passed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub failed: Option<Reason>,
    /// Facts that could not be read and that the check needs to pass.
    pub unread: Vec<Unread>,
    /// Warnings for the user, even if the check passed.
    pub warnings: Vec<String>,
}

impl Outcome {
    fn pass() -> Self {
        Self::default()
    }

    fn fail(reason: Reason) -> Self {
        Self { failed: Some(reason), ..Self::default() }
    }

    fn fail_if(failed: bool, reason: impl FnOnce() -> Reason) -> Self {
        if failed { Self::fail(reason()) } else { Self::pass() }
    }

    fn unknown(what: String, why: &str) -> Self {
        Self { unread: vec![Unread::unreadable(what, why)], ..Self::default() }
    }

    /// The fact that the check needs was read and says nothing.
    fn silent(what: String, why: &str) -> Self {
        Self { unread: vec![Unread::silent(what, why)], ..Self::default() }
    }
}

/// Whether the requester may use a break-glass on the node.
pub(super) fn may_break_glass(assessment: &Assessment<'_>) -> Outcome {
    not_authorized::authorized(assessment, Verb::BreakGlass)
}

/// For checks that need no facts: they judge by the request alone.
fn no_facts(_: &Proposal<'_>) -> Vec<Fact> {
    Vec::new()
}

#[cfg(test)]
pub(super) mod testing {
    //! Minimal objects for the rules' own tests.
    #![expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]

    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{
        facts::Facts,
        object::node::Node,
        request::{Request, User, Write},
        settings::Settings,
    };

    /// The time of the gate's clock in tests.
    pub const NOW: &str = "2026-11-22T10:20:00Z";

    /// The Node `n1`, with the taint and effect `NoExecute`, or without the taint.
    pub fn node(tainted: bool, annotations: Value) -> Node {
        let taints = if tainted {
            json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}])
        } else {
            json!([])
        };
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "annotations": annotations},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"bootID": "boot-1"}},
        }))
        .unwrap()
    }

    /// Complete evidence of a fence five minutes before [`NOW`].
    pub fn evidence() -> Value {
        json!({
            "fencegate.dev/method": "power-off",
            "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
            "fencegate.dev/fenced-by": "alice",
        })
    }

    /// A write to Node `n1` by the user `name`.
    pub fn by(name: &str, write: Write) -> Request {
        Request { node: "n1".into(), user: User { name: name.into(), ..User::default() }, write }
    }

    /// `alice` changes Node `n1` from `old` to `new`.
    pub fn update(old: Node, new: Node) -> Request {
        by("alice", Write::Update { old, new })
    }

    /// `alice` places the taint on a Node with these `annotations`.
    pub fn placing(annotations: &Value) -> Request {
        update(node(false, annotations.clone()), node(true, annotations.clone()))
    }

    /// `alice` removes the taint.
    pub fn releasing() -> Request {
        update(node(true, evidence()), node(false, evidence()))
    }

    /// Nothing is known but the time, [`NOW`].
    pub fn facts() -> Facts {
        Facts::at(NOW.parse().unwrap())
    }

    /// Runs one rule with default settings. `None` if it does not apply.
    pub fn run(rule: &Rule, request: &Request, facts: &Facts) -> Option<Outcome> {
        run_with(rule, request, facts, &Settings::default())
    }

    /// Runs one rule with these settings. `None` if it does not apply.
    pub fn run_with(rule: &Rule, request: &Request, facts: &Facts, settings: &Settings) -> Option<Outcome> {
        let assessment = Assessment::new(Proposal::new(request, settings), facts);
        (rule.applies)(&assessment.proposal).then(|| (rule.check)(&assessment))
    }

    /// Whether the rule applies and fails.
    pub fn fails(rule: &Rule, request: &Request, facts: &Facts) -> bool {
        run(rule, request, facts).is_some_and(|outcome| outcome.failed.is_some())
    }
}
