//! `TooManyOutOfService` and `TooManyNotReady`: limits on how many nodes may be out of service, or
//! silent, at once. Automation that fences half a cluster is more likely wrong than right, and half
//! a cluster that falls silent at once is more likely cut off than dead.

use super::{Outcome, Rule};
use crate::policy::{
    assessment::Assessment,
    facts::{Fact, NodeSummary},
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const OUT_OF_SERVICE: Rule = Rule {
    code: Code::TooManyOutOfService,
    applies: |proposal| proposal.does(Transition::Place) && proposal.settings.max_nodes.is_some(),
    needs: |_| vec![Fact::Nodes],
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
    judge(assessment, |nodes, total| {
        let others: Vec<String> = nodes.out_of_service.iter().filter(|name| *name != node).cloned().collect();
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

/// Judges by all nodes, and by their number with this one.
fn judge(assessment: &Assessment<'_>, by: impl FnOnce(&NodeSummary, usize) -> Outcome) -> Outcome {
    match assessment.facts.nodes.value() {
        Ok(nodes) => by(nodes, nodes.total + usize::from(!nodes.counts_node)),
        Err(why) => Outcome::unknown("the list of Nodes".to_owned(), why),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, placing, run, run_with},
        *,
    };
    use crate::policy::{
        facts::{Facts, Observed},
        settings::{NodeLimit, Settings},
    };

    fn known(value: NodeSummary) -> Facts {
        Facts { nodes: Observed::Known { at: facts().now, value }, ..facts() }
    }

    fn too_many(out: &[&str], limit: NodeLimit) -> bool {
        let out_of_service = out.iter().map(|name| (*name).to_owned()).collect();
        let facts = known(NodeSummary { total: 4, out_of_service, counts_node: true, others_not_ready: 0 });
        let settings = Settings { max_nodes: Some(limit), ..Settings::default() };
        run_with(&OUT_OF_SERVICE, &placing(&evidence()), &facts, &settings).unwrap().failed.is_some()
    }

    #[test]
    fn the_node_itself_is_counted_once() {
        assert!(!too_many(&[], NodeLimit::Count(1)));
        assert!(!too_many(&["n1"], NodeLimit::Count(1)));
        assert!(too_many(&["n2"], NodeLimit::Count(1)));
        assert!(!too_many(&["n2"], NodeLimit::Percent(50)));
        assert!(too_many(&["n2", "n3"], NodeLimit::Percent(50)));
        assert!(too_many(&[], NodeLimit::Count(0)));
    }

    #[test]
    fn the_node_itself_counts_as_not_ready() {
        let too_many = |others_not_ready, counts_node, limit| {
            let facts = known(NodeSummary { total: 4, counts_node, others_not_ready, ..NodeSummary::default() });
            let settings = Settings { max_not_ready: Some(limit), ..Settings::default() };
            run_with(&NOT_READY, &placing(&evidence()), &facts, &settings).unwrap().failed.is_some()
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
    fn without_its_limit_a_check_does_not_apply_and_without_the_list_it_does_not_pass() {
        let both = Settings {
            max_nodes: Some(NodeLimit::Percent(100)),
            max_not_ready: Some(NodeLimit::Percent(100)),
            ..Settings::default()
        };
        for rule in [&OUT_OF_SERVICE, &NOT_READY] {
            assert_eq!(run(rule, &placing(&evidence()), &facts()), None);
            let unread = run_with(rule, &placing(&evidence()), &facts(), &both).unwrap().unread;
            assert_eq!(unread[0].to_string(), "the list of Nodes could not be read: it was not read");
        }
    }
}
