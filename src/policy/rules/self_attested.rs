//! `SelfAttested`: no node can vouch for itself. If a machine is only cut off, whoever controls it
//! still has the credentials on it.
//!
//! A kubelet may change annotations of its own Node, because NodeRestriction does not check them.
//! So no kubelet may write evidence. No entry of the taint may be added with credentials from the
//! node itself: those of its kubelet or of a pod that runs on it.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    reason::{Code, Reason},
};

pub(super) const RULE: Rule = Rule {
    code: Code::SelfAttested,
    applies: |proposal| proposal.adds_entry() || proposal.attests(),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let user = &proposal.request.user;
        let is_self = user.speaks_from(&proposal.request.node) || (proposal.attests() && user.is_kubelet());
        Outcome::fail_if(is_self, || Reason::SelfAttested { user: user.name.clone() })
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
    fn a_node_cannot_place_the_taint_on_itself() {
        assert!(fails(&RULE, &from("system:node:n1", &["system:nodes"], placing(&evidence())), &facts()));
        assert!(!fails(&RULE, &from("system:node:n2", &["system:nodes"], placing(&evidence())), &facts()));
        assert!(!fails(&RULE, &placing(&evidence()), &facts()));
    }

    #[test]
    fn a_node_cannot_add_a_second_entry_of_the_taint_to_itself() {
        let one = node(true, evidence());
        let mut two = one.clone();
        two.spec.taints.push(one.spec.taints[0].clone());
        two.spec.taints[1].effect = "NoSchedule".into();
        assert!(fails(&RULE, &from("system:node:n1", &["system:nodes"], update(one.clone(), two.clone())), &facts()));
        assert!(!fails(&RULE, &from("system:node:n2", &["system:nodes"], update(one.clone(), two.clone())), &facts()));
        assert!(!fails(&RULE, &from("system:node:n1", &["system:nodes"], update(two, one)), &facts()));
    }

    #[test]
    fn no_kubelet_can_write_evidence_for_any_node() {
        let attest = || update(node(false, json!({})), node(false, evidence()));
        assert!(fails(&RULE, &from("system:node:n1", &["system:nodes"], attest()), &facts()));
        assert!(fails(&RULE, &from("system:node:n2", &["system:nodes"], attest()), &facts()));
        assert!(fails(&RULE, &from("system:node:n1", &[], attest()), &facts()), "by its name, even without the group");
        assert!(!fails(&RULE, &attest(), &facts()));
    }
}
