//! `EvidenceMalformed`: a value that a user writes does not follow its grammar. The write of the
//! annotation is already denied, not only the placement of the taint.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::{BREAK_GLASS, EVIDENCE, HOLD},
    assessment::Assessment,
    evidence::malformed,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceMalformed,
    applies: |proposal| proposal.does(Transition::Place) || proposal.does(Transition::Attest),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let values: Vec<_> = EVIDENCE
            .into_iter()
            .filter(|key| proposal.does(Transition::Place) || proposal.writes(key))
            .chain([BREAK_GLASS, HOLD].into_iter().filter(|key| proposal.writes(key)))
            .filter_map(|key| malformed(key, proposal.change(key).1?))
            .collect();
        Outcome::fail_if(!values.is_empty(), || Reason::EvidenceMalformed { values })
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{facts, fails, node, placing, run, update},
        *,
    };

    #[test]
    fn a_malformed_value_is_denied_when_it_is_written_and_when_the_taint_is_placed() {
        let bad = json!({"fencegate.dev/method": "unplugged"});
        assert!(fails(&RULE, &update(node(false, json!({})), node(false, bad.clone())), &facts()));
        assert!(fails(&RULE, &placing(&bad), &facts()));
    }

    #[test]
    fn an_old_malformed_value_does_not_block_a_write_of_other_annotations() {
        let bad = json!({"fencegate.dev/method": "unplugged"});
        let more = json!({"fencegate.dev/method": "unplugged", "fencegate.dev/proof": "seen"});
        assert!(!fails(&RULE, &update(node(false, bad.clone()), node(false, more)), &facts()));
        assert!(!fails(&RULE, &update(node(false, bad), node(false, json!({}))), &facts()), "it may be removed");
    }

    #[test]
    fn the_reason_quotes_key_and_value() {
        let bad = json!({"fencegate.dev/fenced-by": "", "fencegate.dev/break-glass": ""});
        let outcome = run(&RULE, &update(node(false, json!({})), node(false, bad)), &facts()).unwrap();
        assert_eq!(
            outcome.failed.unwrap().to_string(),
            r#"fencegate.dev/fenced-by="" is empty; fencegate.dev/break-glass="" is empty"#
        );
    }
}
