//! `PlacedWithoutEviction`: with the effect `NoSchedule` alone, the taint keeps new pods away but
//! evicts none.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    object::node::Node,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::PlacedWithoutEviction,
    applies: |proposal| proposal.does(Transition::Place) || proposal.does(Transition::Amend),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let evicts_nothing = proposal.request.write.after().is_some_and(Node::evicts_nothing);
        Outcome::fail_if(evicts_nothing, || Reason::PlacedWithoutEviction)
    },
};

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, placing, update},
        *,
    };

    #[test]
    fn a_taint_with_no_schedule_alone_fails_the_check() {
        let mut tainted = node(true, evidence());
        tainted.spec.taints[0].effect = "NoSchedule".into();
        assert!(fails(&RULE, &update(node(false, evidence()), tainted.clone()), &facts()));
        tainted.spec.taints.push(node(true, evidence()).spec.taints.remove(0));
        assert!(
            !fails(&RULE, &update(node(false, evidence()), tainted), &facts()),
            "a second taint with NoExecute evicts"
        );
        assert!(!fails(&RULE, &placing(&evidence()), &facts()));
    }

    #[test]
    fn an_amendment_that_leaves_no_schedule_alone_fails_the_check() {
        let no_execute = node(true, evidence());
        let mut no_schedule = no_execute.clone();
        no_schedule.spec.taints[0].effect = "NoSchedule".into();
        assert!(fails(&RULE, &update(no_execute.clone(), no_schedule.clone()), &facts()));
        assert!(!fails(&RULE, &update(no_schedule.clone(), no_execute), &facts()));
        assert!(!fails(&RULE, &update(no_schedule.clone(), no_schedule), &facts()), "nothing is amended");
    }
}
