//! The checks of contract section 4: one file each, one row each in [`RULES`].
//!
//! A row says when a check applies, which facts it needs and how it judges. What is read and what
//! is judged both follow from this table, so a rule that judges by a fact it never asked for fails
//! closed.

use super::{
    assessment::Assessment,
    facts::{Fact, Unread, Verb},
    proposal::Proposal,
    reason::{Code, Reason},
};

mod budget;
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
    /// Whether the check has anything to say about this write.
    pub applies: fn(&Proposal<'_>) -> bool,
    /// The facts that [`Rule::check`] judges by, if it applies.
    pub needs: fn(&Proposal<'_>) -> Vec<Fact>,
    pub check: fn(&Assessment<'_>) -> Outcome,
}

/// Every check, in the order in which a message lists them.
pub(super) const RULES: &[Rule] = &[
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
    budget::RULE,
    pods::RULE,
    volumes::RULE,
    ready::NOT_RECOVERED,
    rebooted::RULE,
    frozen::RULE,
    stamps::RULE,
];

/// What a check found. Nothing at all: it passed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub failed: Option<Reason>,
    /// Facts without which the check cannot say yes.
    pub unread: Vec<Unread>,
    /// What the user should know although the check did not fail.
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
        Self { unread: vec![Unread { what, why: why.to_owned() }], ..Self::default() }
    }
}

/// Whether the requester may use a break-glass on the node.
pub(super) fn may_break_glass(assessment: &Assessment<'_>) -> Outcome {
    not_authorized::authorized(assessment, Verb::BreakGlass)
}

/// For checks that judge by the request alone.
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

    /// The gate's clock in tests.
    pub const NOW: &str = "2026-11-22T10:20:00Z";

    /// A Node `n1`, out of service with `NoExecute` or not.
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

    /// Evidence of five minutes before [`NOW`].
    pub fn evidence() -> Value {
        json!({
            "fencegate.dev/method": "power-off",
            "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
            "fencegate.dev/fenced-by": "alice",
        })
    }

    pub fn by(name: &str, write: Write) -> Request {
        Request { node: "n1".into(), user: User { name: name.into(), ..User::default() }, write }
    }

    /// `alice` changes Node `n1` from `old` to `new`.
    pub fn update(old: Node, new: Node) -> Request {
        by("alice", Write::Update { old, new })
    }

    /// `alice` places the taint on a Node that carries `annotations`.
    pub fn placing(annotations: &Value) -> Request {
        update(node(false, annotations.clone()), node(true, annotations.clone()))
    }

    /// `alice` takes the taint off.
    pub fn releasing() -> Request {
        update(node(true, evidence()), node(false, evidence()))
    }

    pub fn facts() -> Facts {
        Facts::at(NOW.parse().unwrap())
    }

    /// Runs one rule under default settings; `None` where it does not apply.
    pub fn run(rule: &Rule, request: &Request, facts: &Facts) -> Option<Outcome> {
        run_with(rule, request, facts, &Settings::default())
    }

    pub fn run_with(rule: &Rule, request: &Request, facts: &Facts, settings: &Settings) -> Option<Outcome> {
        let assessment = Assessment::new(Proposal::new(request, settings), facts);
        (rule.applies)(&assessment.proposal).then(|| (rule.check)(&assessment))
    }

    /// Whether the rule applies and fails.
    pub fn fails(rule: &Rule, request: &Request, facts: &Facts) -> bool {
        run(rule, request, facts).is_some_and(|outcome| outcome.failed.is_some())
    }
}
