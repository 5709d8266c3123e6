//! `EvidenceFrozen`: while the taint is on, the record cannot change. A record can be added whole:
//! for a taint that is older than the gate.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::{BOOT_ID, EVIDENCE, LAST_OUTAGE, RECORD_STAMPS, RECORDED_AT, RECORDED_BY, REQUIRED_EVIDENCE},
    assessment::Assessment,
    proposal::Proposal,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceFrozen,
    applies: |proposal| proposal.does(Transition::Attest) && proposal.stays_out_of_service(),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let frozen = EVIDENCE.into_iter().chain(RECORD_STAMPS).chain([LAST_OUTAGE]);
        let differs = |key: &&str| proposal.changes(key) && !is_added_late(proposal, key);
        let keys: Vec<String> = frozen.filter(differs).map(str::to_owned).collect();
        Outcome::fail_if(!keys.is_empty(), || Reason::EvidenceFrozen { keys })
    },
};

/// Whether the write adds this annotation as a part of a whole record, to a Node that has none. The
/// boot that was fenced can no longer be known: the node may have booted since.
fn is_added_late(proposal: &Proposal<'_>, key: &str) -> bool {
    let is_whole =
        REQUIRED_EVIDENCE.into_iter().all(|key| proposal.change(key).0.is_none() && proposal.change(key).1.is_some());
    let is_new = key != BOOT_ID && EVIDENCE.contains(&key) && proposal.change(key).0.is_none();
    // The stamps of a record that was withdrawn may be left.
    is_whole && (is_new || [RECORDED_BY, RECORDED_AT].contains(&key))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::testing::{evidence, facts, fails, node, run, update},
        *,
    };

    #[test]
    fn evidence_and_stamps_cannot_change_while_the_taint_is_on() {
        for (old, new) in [
            (json!({"fencegate.dev/method": "power-off"}), evidence()),
            (json!({}), json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-by": "alice"})),
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
    fn a_whole_record_without_a_boot_may_be_added_later() {
        let late = |old: Value, key: &str, value: &str| {
            let mut annotations = evidence();
            annotations[key] = value.into();
            for (key, value) in old.as_object().unwrap() {
                annotations.as_object_mut().unwrap().entry(key).or_insert(value.clone());
            }
            run(&RULE, &update(node(true, old), node(true, annotations)), &facts()).unwrap().failed
        };
        let frozen = |key: &str| Some(Reason::EvidenceFrozen { keys: vec![key.to_owned()] });
        assert_eq!(late(json!({}), "fencegate.dev/recorded-at", "2026-11-22T10:20:00Z"), None);
        assert_eq!(late(json!({"fencegate.dev/placed-by": "bob"}), "fencegate.dev/proof", "fan is off"), None);
        let withdrawn = json!({"fencegate.dev/recorded-by": "bob"});
        assert_eq!(late(withdrawn, "fencegate.dev/recorded-by", "alice"), None);
        assert_eq!(late(json!({}), BOOT_ID, "boot-1"), frozen(BOOT_ID));
        assert_eq!(
            late(json!({}), "fencegate.dev/placed-at", "2026-11-22T10:20:00Z"),
            frozen("fencegate.dev/placed-at")
        );
        let proof = json!({"fencegate.dev/proof": "before"});
        assert_eq!(late(proof, "fencegate.dev/proof", "after"), frozen("fencegate.dev/proof"));
    }

    #[test]
    fn a_break_glass_may_be_written_at_any_time() {
        let request = update(node(true, json!({})), node(true, json!({"fencegate.dev/break-glass": "why"})));
        assert_eq!(run(&RULE, &request, &facts()), Some(Outcome::pass()));
    }
}
