//! `EvidenceForOtherBoot`: the machine has booted since the fence, so the current boot was not
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
        // On CREATE there is no stored boot to compare with.
        let Some(stored) = proposal.request.write.before() else { return Outcome::pass() };
        let current = stored.boot_id();
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
    fn a_given_boot_id_must_be_the_current_one() {
        let mut annotations = evidence();
        assert!(!fails(&RULE, &placing(&annotations), &facts()), "without a boot-id the check passes");
        annotations[BOOT_ID] = "boot-1".into();
        assert!(!fails(&RULE, &placing(&annotations), &facts()));
        annotations[BOOT_ID] = "boot-0".into();
        assert!(fails(&RULE, &placing(&annotations), &facts()));
    }

    #[test]
    fn if_the_node_reports_no_boot_id_a_given_one_fails() {
        let mut annotations = evidence();
        annotations[BOOT_ID] = "boot-1".into();
        let mut silent = node(false, annotations.clone());
        silent.status.node_info.boot_id.clear();
        assert!(fails(&RULE, &update(silent, node(true, annotations)), &facts()));
    }
}
