//! `TooManyOutOfService`: limits how many nodes may be out of service at once. Automation that
//! fences half a cluster is more likely wrong than right.

use super::{Outcome, Rule};
use crate::policy::{
    assessment::Assessment,
    facts::Fact,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::TooManyOutOfService,
    applies: |proposal| proposal.does(Transition::Place) && proposal.settings.max_nodes.is_some(),
    needs: |_| vec![Fact::Nodes],
    check,
};

fn check(Assessment { proposal, facts, .. }: &Assessment<'_>) -> Outcome {
    let Some(allowed) = proposal.settings.max_nodes else { return Outcome::pass() };
    let nodes = match facts.nodes.value() {
        Ok(nodes) => nodes,
        Err(why) => return Outcome::unknown("the list of Nodes".to_owned(), why),
    };
    let others: Vec<String> =
        nodes.out_of_service.iter().filter(|name| **name != proposal.request.node).cloned().collect();
    let total = nodes.total + usize::from(!nodes.counts_node);
    Outcome::fail_if(!allowed.allows(others.len() + 1, total), || Reason::TooManyOutOfService {
        others,
        total,
        allowed: allowed.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, placing, run, run_with},
        *,
    };
    use crate::policy::{
        facts::{Facts, NodeSummary, Observed},
        settings::{MaxNodes, Settings},
    };

    fn too_many(out: &[&str], limit: MaxNodes) -> bool {
        let value = NodeSummary {
            total: 4,
            out_of_service: out.iter().map(|name| (*name).to_owned()).collect(),
            counts_node: true,
        };
        let facts = Facts { nodes: Observed::Known { at: facts().now, value }, ..facts() };
        let settings = Settings { max_nodes: Some(limit), ..Settings::default() };
        run_with(&RULE, &placing(&evidence()), &facts, &settings).unwrap().failed.is_some()
    }

    #[test]
    fn the_node_itself_is_counted_once() {
        assert_eq!(run(&RULE, &placing(&evidence()), &facts()), None, "without a limit the check does not apply");
        assert!(!too_many(&[], MaxNodes::Count(1)));
        assert!(!too_many(&["n1"], MaxNodes::Count(1)));
        assert!(too_many(&["n2"], MaxNodes::Count(1)));
        assert!(!too_many(&["n2"], MaxNodes::Percent(50)));
        assert!(too_many(&["n2", "n3"], MaxNodes::Percent(50)));
        assert!(too_many(&[], MaxNodes::Count(0)));
    }
}
