//! `TooManyOutOfService` and `TooManyNotReady`: limits on how many nodes may be out of service, or
//! silent, at once. Automation that fences half a cluster is more likely wrong than right, and half
//! a cluster that falls silent at once is more likely cut off than dead.

use std::collections::BTreeSet;

use super::{Outcome, Rule};
use crate::policy::{
    assessment::Assessment,
    facts::{Fact, Facts, NodeSummary, Unread},
    object::budget::{ADMITTED, NAME},
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const OUT_OF_SERVICE: Rule = Rule {
    code: Code::TooManyOutOfService,
    applies: |proposal| proposal.does(Transition::Place) && proposal.settings.max_nodes.is_some(),
    needs: |_| vec![Fact::Nodes, Fact::Budget],
    check: check_out_of_service,
};

pub(super) const NOT_READY: Rule = Rule {
    code: Code::TooManyNotReady,
    applies: |proposal| proposal.does(Transition::Place) && proposal.settings.max_not_ready.is_some(),
    needs: |_| vec![Fact::Nodes],
    check: check_not_ready,
};

fn check_out_of_service(assessment: &Assessment<'_>) -> Outcome {
    let Some(allowed) = assessment.proposal.settings.max_nodes else { return Outcome::pass() };
    let node = &assessment.proposal.request.node;
    let admitted = match admitted(assessment.facts) {
        Ok(admitted) => admitted,
        Err(unread) => return Outcome { unread: vec![unread], ..Outcome::pass() },
    };
    judge(assessment, |nodes, total| {
        let others: BTreeSet<&String> =
            nodes.out_of_service.iter().chain(&admitted).filter(|name| *name != node).collect();
        let others: Vec<String> = others.into_iter().cloned().collect();
        Outcome::fail_if(!allowed.allows(others.len() + 1, total), || Reason::TooManyOutOfService {
            others,
            total,
            allowed: allowed.to_string(),
        })
    })
}

fn check_not_ready(assessment: &Assessment<'_>) -> Outcome {
    let Some(allowed) = assessment.proposal.settings.max_not_ready else { return Outcome::pass() };
    judge(assessment, |nodes, total| {
        let not_ready = nodes.others_not_ready + 1;
        Outcome::fail_if(!allowed.allows(not_ready, total), || Reason::TooManyNotReady {
            not_ready,
            total,
            allowed: allowed.to_string(),
        })
    })
}

/// The nodes that were let through a moment ago. The list of Nodes may not show them yet.
fn admitted(facts: &Facts) -> Result<BTreeSet<String>, Unread> {
    let unusable = |why: &str| Unread { what: format!("Lease {NAME}"), why: format!("could not be used: {why}") };
    let entries = facts.budget.value().map_err(unusable)?.recent();
    let entries =
        entries.ok_or_else(|| unusable(&format!("its annotation {ADMITTED} is not the gate's; delete it")))?;
    Ok(entries.into_keys().collect())
}

/// Judges by all nodes, and by their number with this one.
fn judge(assessment: &Assessment<'_>, by: impl FnOnce(&NodeSummary, usize) -> Outcome) -> Outcome {
    match assessment.facts.nodes.value() {
        Ok(nodes) => by(nodes, nodes.total + usize::from(!nodes.counts_node)),
        Err(why) => Outcome::unknown("the list of Nodes".to_owned(), why),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, placing, run, run_with},
        *,
    };
    use crate::policy::{
        facts::{BudgetAnswer, Observed},
        settings::{NodeLimit, Settings},
    };

    /// The list of Nodes, and a Lease that holds `admitted` from 30 s ago.
    fn known(value: NodeSummary, admitted: &[&str]) -> Facts {
        let now = facts().now;
        let entries: BTreeMap<&str, &str> = admitted.iter().map(|name| (*name, "2026-11-22T10:19:30Z")).collect();
        let entries = serde_json::to_string(&entries).unwrap();
        let lease = serde_json::from_value(json!({"metadata": {"annotations": {ADMITTED: entries}}})).unwrap();
        let budget = BudgetAnswer { date: now, lease: Some(lease) };
        Facts {
            nodes: Observed::Known { at: now, value },
            budget: Observed::Known { at: now, value: budget },
            ..facts()
        }
    }

    fn too_many(out: &[&str], admitted: &[&str], limit: NodeLimit) -> bool {
        let out_of_service = out.iter().map(|name| (*name).to_owned()).collect();
        let nodes = NodeSummary { total: 4, out_of_service, counts_node: true, others_not_ready: 0 };
        let settings = Settings { max_nodes: Some(limit), ..Settings::default() };
        run_with(&OUT_OF_SERVICE, &placing(&evidence()), &known(nodes, admitted), &settings).unwrap().failed.is_some()
    }

    #[test]
    fn the_node_itself_is_counted_once() {
        assert!(!too_many(&[], &[], NodeLimit::Count(1)));
        assert!(!too_many(&["n1"], &["n1"], NodeLimit::Count(1)));
        assert!(too_many(&["n2"], &[], NodeLimit::Count(1)));
        assert!(!too_many(&["n2"], &[], NodeLimit::Percent(50)));
        assert!(too_many(&["n2", "n3"], &[], NodeLimit::Percent(50)));
        assert!(too_many(&[], &[], NodeLimit::Count(0)));
    }

    #[test]
    fn a_node_that_was_let_through_a_moment_ago_is_counted_once() {
        assert!(too_many(&[], &["n2"], NodeLimit::Count(1)));
        assert!(!too_many(&[], &["n2"], NodeLimit::Count(2)));
        assert!(!too_many(&["n2"], &["n2"], NodeLimit::Count(2)));
        assert!(too_many(&["n2"], &["n3"], NodeLimit::Count(2)));
    }

    #[test]
    fn an_entry_counts_for_30_seconds_and_as_long_as_it_is_ahead_of_the_clock() {
        let answer = |at: &str| {
            let entries = json!({"n2": at}).to_string();
            let lease = serde_json::from_value(json!({"metadata": {"annotations": {ADMITTED: entries}}})).unwrap();
            BudgetAnswer { date: "2026-11-22T10:20:00Z".parse().unwrap(), lease: Some(lease) }
        };
        for (at, counts) in [
            ("2026-11-22T10:19:29Z", false),
            ("2026-11-22T10:19:30Z", true),
            ("2026-11-22T10:20:00Z", true),
            ("2026-11-22T11:20:00Z", true),
        ] {
            assert_eq!(!answer(at).recent().unwrap().is_empty(), counts, "{at}");
        }
        assert_eq!(answer("just now").recent(), None);
    }

    #[test]
    fn the_node_itself_counts_as_not_ready() {
        let too_many = |others_not_ready, counts_node, limit| {
            let nodes = NodeSummary { total: 4, counts_node, others_not_ready, ..NodeSummary::default() };
            let settings = Settings { max_not_ready: Some(limit), ..Settings::default() };
            run_with(&NOT_READY, &placing(&evidence()), &known(nodes, &[]), &settings).unwrap().failed.is_some()
        };
        assert!(too_many(0, true, NodeLimit::Count(0)));
        assert!(!too_many(0, true, NodeLimit::Count(1)));
        assert!(too_many(1, true, NodeLimit::Count(1)));
        assert!(!too_many(1, true, NodeLimit::Percent(50)));
        assert!(too_many(2, true, NodeLimit::Percent(50)));
        assert!(too_many(2, true, NodeLimit::Percent(74)) && !too_many(2, true, NodeLimit::Percent(75)));
        assert!(
            too_many(2, false, NodeLimit::Percent(59)) && !too_many(2, false, NodeLimit::Percent(60)),
            "of 5 nodes"
        );
    }

    #[test]
    fn without_its_limit_a_check_does_not_apply_and_without_a_fact_it_does_not_pass() {
        let both = Settings {
            max_nodes: Some(NodeLimit::Percent(100)),
            max_not_ready: Some(NodeLimit::Percent(100)),
            ..Settings::default()
        };
        let all = known(NodeSummary { total: 4, ..NodeSummary::default() }, &[]);
        let unread = |rule, facts: &Facts| -> Vec<String> {
            let outcome = run_with(rule, &placing(&evidence()), facts, &both).unwrap();
            outcome.unread.iter().map(ToString::to_string).collect()
        };
        let (nodes, lease) = (
            "the list of Nodes could not be read: it was not read",
            "Lease fencegate-budget could not be used: it was not read",
        );
        for (rule, needed) in [(&OUT_OF_SERVICE, vec![lease]), (&NOT_READY, vec![nodes])] {
            assert_eq!(run(rule, &placing(&evidence()), &facts()), None);
            assert_eq!(unread(rule, &facts()), needed);
            assert!(unread(rule, &all).is_empty());
        }
        assert_eq!(unread(&OUT_OF_SERVICE, &Facts { nodes: Observed::NotRead, ..all }), [nodes]);
    }
}
