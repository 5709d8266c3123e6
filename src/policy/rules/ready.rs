//! `NodeStillReady` and `NodeNotRecovered`: the node's own `Ready` condition.
//!
//! A fenced node is not ready, but a node that is not ready need not be fenced: a stopped kubelet
//! and a dead machine look the same in the API.

use super::{Outcome, Rule, lease::silence, no_facts};
use crate::policy::{
    assessment::Assessment,
    facts::Fact,
    proposal::Proposal,
    reason::{Code, Reason},
    transition::Transition,
};

/// A node that reports Ready is running, even if there is evidence of a fence.
pub(super) const STILL_READY: Rule = Rule {
    code: Code::NodeStillReady,
    applies: |proposal| proposal.adds_entry(),
    // Only the message tells the Lease. The heartbeat in `status` says little: a healthy kubelet
    // writes it every five minutes.
    needs: |proposal| if is_ready(proposal) { vec![Fact::Lease] } else { Vec::new() },
    check: |assessment| {
        Outcome::fail_if(is_ready(&assessment.proposal), || Reason::NodeStillReady { silence: silence(assessment) })
    },
};

fn is_ready(proposal: &Proposal<'_>) -> bool {
    proposal.request.write.before().is_some_and(|node| node.ready().is_some())
}

/// A node should be ready again before its taint is removed.
pub(super) const NOT_RECOVERED: Rule = Rule {
    code: Code::NodeNotRecovered,
    applies: |proposal| proposal.does(Transition::Release),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let node = proposal.request.write.current();
        Outcome::fail_if(!node.is_back(), || Reason::NodeNotRecovered { ready: node.ready_status().to_owned() })
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, fails, node, placing, releasing, update},
        *,
    };
    use crate::policy::object::node::Node;

    fn with_ready(status: &str, mut node: Node) -> Node {
        node.status.conditions[0].status = status.into();
        node
    }

    #[test]
    fn only_ready_true_on_the_stored_node_contradicts_a_fence() {
        for (status, expected) in [("True", true), ("False", false), ("Unknown", false)] {
            let request = update(with_ready(status, node(false, evidence())), node(true, evidence()));
            assert_eq!(fails(&STILL_READY, &request, &facts()), expected, "{status}");
        }
        let claimed = update(node(false, evidence()), with_ready("True", node(true, evidence())));
        assert!(!fails(&STILL_READY, &claimed, &facts()), "the status that a client sends is not stored");
        let mut silent = node(false, json!({}));
        silent.status.conditions.clear();
        assert!(!fails(&STILL_READY, &update(silent, node(true, json!({}))), &facts()));
    }

    #[test]
    fn a_node_that_is_ready_gets_no_second_entry_of_the_taint_but_may_lose_one() {
        let one = with_ready("True", node(true, evidence()));
        let mut two = one.clone();
        two.spec.taints.push(one.spec.taints[0].clone());
        two.spec.taints[1].effect = "NoSchedule".into();
        assert!(fails(&STILL_READY, &update(one.clone(), two.clone()), &facts()));
        assert!(!fails(&STILL_READY, &update(two.clone(), one.clone()), &facts()));
        let silent = |tainted| with_ready("Unknown", tainted);
        assert!(!fails(&STILL_READY, &update(silent(one), silent(two)), &facts()));
    }

    #[test]
    fn the_release_of_a_node_that_is_not_ready_fails_the_check() {
        assert!(fails(&NOT_RECOVERED, &releasing(), &facts()));
        let recovered = update(with_ready("True", node(true, evidence())), node(false, evidence()));
        assert!(!fails(&NOT_RECOVERED, &recovered, &facts()));
        assert!(!fails(&NOT_RECOVERED, &placing(&evidence()), &facts()), "the check applies to a release only");
    }
}
