//! `SelfAttested`: no node vouches for itself. Credentials on a machine that is only cut off are as
//! alive as the machine.
//!
//! A kubelet may change annotations of its own Node (NodeRestriction does not check them), so no
//! node may write evidence. Nobody who speaks from the node itself, its kubelet or a pod that runs
//! on it, may place the taint.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::SelfAttested,
    applies: |proposal| proposal.does(Transition::Place) || proposal.attests(),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let user = &proposal.request.user;
        let refused = user.speaks_from(&proposal.request.node) || (proposal.attests() && user.is_a_node());
        Outcome::fail_if(refused, || Reason::SelfAttested { user: user.name.clone() })
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, fails, node, placing, update},
        *,
    };
    use crate::policy::request::{Request, User};

    fn from(name: &str, groups: &[&str], mut request: Request) -> Request {
        request.user =
            User { name: name.into(), groups: groups.iter().map(|group| (*group).into()).collect(), ..User::default() };
        request
    }

    #[test]
    fn a_node_does_not_place_the_taint_on_itself() {
        assert!(fails(&RULE, &from("system:node:n1", &["system:nodes"], placing(&evidence())), &facts()));
        assert!(!fails(&RULE, &from("system:node:n2", &["system:nodes"], placing(&evidence())), &facts()));
        assert!(!fails(&RULE, &placing(&evidence()), &facts()));
    }

    #[test]
    fn no_node_writes_evidence_for_any_node() {
        let attest = || update(node(false, json!({})), node(false, evidence()));
        assert!(fails(&RULE, &from("system:node:n1", &["system:nodes"], attest()), &facts()));
        assert!(fails(&RULE, &from("system:node:n2", &["system:nodes"], attest()), &facts()));
        assert!(fails(&RULE, &from("system:node:n1", &[], attest()), &facts()), "by name where the group is missing");
        assert!(!fails(&RULE, &attest(), &facts()));
    }
}
