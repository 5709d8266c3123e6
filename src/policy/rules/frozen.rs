//! `EvidenceFrozen`: while the taint is on, the record cannot change. The only exception is the
//! stamp `overridden` for a break-glass that this write uses.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::{EVIDENCE, OVERRIDDEN, STAMPS},
    assessment::Assessment,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceFrozen,
    applies: |proposal| proposal.does(Transition::Attest) && proposal.stays_out_of_service(),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let is_used_break_glass = |key: &str| {
            let after = proposal.change(key).1;
            key == OVERRIDDEN && after.is_some() && after == proposal.break_glass()
        };
        let differs = |key: &&str| proposal.changes(key) && !is_used_break_glass(key);
        let keys: Vec<String> = EVIDENCE.into_iter().chain(STAMPS).filter(differs).map(str::to_owned).collect();
        Outcome::fail_if(!keys.is_empty(), || Reason::EvidenceFrozen { keys })
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, fails, node, run, update},
        *,
    };

    #[test]
    fn evidence_and_stamps_cannot_change_while_the_taint_is_on() {
        for (old, new) in [
            (json!({}), evidence()),
            (evidence(), json!({})),
            (json!({"fencegate.dev/placed-by": "a"}), json!({"fencegate.dev/placed-by": "b"})),
            (json!({}), json!({"fencegate.dev/proof": "late"})),
        ] {
            assert!(
                fails(&RULE, &update(node(true, old.clone()), node(true, new.clone())), &facts()),
                "{old} to {new}"
            );
            assert!(!fails(&RULE, &update(node(false, old.clone()), node(false, new.clone())), &facts()));
            assert!(
                !fails(&RULE, &update(node(true, old), node(false, new)), &facts()),
                "it may be removed together with the taint"
            );
        }
    }

    #[test]
    fn a_break_glass_may_be_written_at_any_time() {
        let request = update(node(true, json!({})), node(true, json!({"fencegate.dev/break-glass": "why"})));
        assert_eq!(run(&RULE, &request, &facts()), Some(Outcome::pass()));
    }
}
