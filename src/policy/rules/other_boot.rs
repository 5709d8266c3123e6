//! `EvidenceForOtherBoot`: the machine that was fenced has booted since; what runs now was never
//! fenced.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::BOOT_ID,
    assessment::Assessment,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceForOtherBoot,
    applies: |proposal| proposal.does(Transition::Place),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let current = proposal.request.write.current().boot_id();
        match proposal.change(BOOT_ID).1 {
            Some(fenced) if current != Some(fenced) => Outcome::fail(Reason::EvidenceForOtherBoot {
                fenced: fenced.to_owned(),
                current: current.map(str::to_owned),
            }),
            _ => Outcome::pass(),
        }
    },
};

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, placing, update},
        *,
    };

    #[test]
    fn the_boot_that_was_fenced_must_be_the_current_one() {
        let mut annotations = evidence();
        assert!(!fails(&RULE, &placing(&annotations), &facts()), "not given, not compared");
        annotations[BOOT_ID] = "boot-1".into();
        assert!(!fails(&RULE, &placing(&annotations), &facts()));
        annotations[BOOT_ID] = "boot-0".into();
        assert!(fails(&RULE, &placing(&annotations), &facts()));
    }

    #[test]
    fn a_node_without_a_boot_cannot_confirm_one() {
        let mut annotations = evidence();
        annotations[BOOT_ID] = "boot-1".into();
        let mut silent = node(false, annotations.clone());
        silent.status.node_info.boot_id.clear();
        assert!(fails(&RULE, &update(silent, node(true, annotations)), &facts()));
    }
}
