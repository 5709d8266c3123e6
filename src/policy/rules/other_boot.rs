//! `EvidenceForOtherBoot`: the machine has booted since the fence, so the current boot was not
//! fenced.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    reason::{Code, Reason},
    source::Source,
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceForOtherBoot,
    applies: |proposal| proposal.does(Transition::Place) || proposal.begins_to_evict(),
    needs: no_facts,
    check: |assessment| {
        // Another source does not say which boot it fenced: the current one.
        let judges = assessment.fence().is_none_or(|fence| fence.source == Source::Annotations);
        match assessment.proposal.other_boot().filter(|_| judges) {
            Some((fenced, current)) => Outcome::fail(Reason::EvidenceForOtherBoot {
                fenced: fenced.to_owned(),
                current: current.map(str::to_owned),
            }),
            None => Outcome::pass(),
        }
    },
};

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, placing, update},
        *,
    };
    use crate::policy::annotation::BOOT_ID;

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
