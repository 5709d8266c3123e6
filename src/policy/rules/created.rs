//! `CreatedOutOfService`: no step of the procedure creates a Node with the taint.
//!
//! Whoever deletes the Node of a machine that is only cut off, and creates it again with taint and
//! evidence, hides the machine behind an empty status: nothing on the new Node shows that it runs.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    reason::{Code, Reason},
    request::Write,
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::CreatedOutOfService,
    applies: |proposal| proposal.does(Transition::Place),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let is_created = matches!(proposal.request.write, Write::Create { .. });
        Outcome::fail_if(is_created, || Reason::CreatedOutOfService)
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{by, evidence, facts, fails, node, placing},
        *,
    };

    #[test]
    fn only_a_node_that_exists_can_be_put_out_of_service() {
        let create = |new| by("alice", Write::Create { new });
        assert!(fails(&RULE, &create(node(true, evidence())), &facts()));
        assert!(!fails(&RULE, &create(node(false, json!({}))), &facts()));
        assert!(!fails(&RULE, &placing(&evidence()), &facts()));
    }
}
