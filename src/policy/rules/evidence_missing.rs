//! `EvidenceMissing`: no source that the configuration accepts vouches that the node was fenced.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::REQUIRED_EVIDENCE,
    evidence::{Evidence, Flaws},
    proposal::Proposal,
    reason::{Code, Reason},
    source::{Doubt, Source, Unvouched},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceMissing,
    applies: |proposal| proposal.does(Transition::Place) || proposal.does(Transition::Amend),
    needs: no_facts,
    check: |assessment| {
        let unvouched = match assessment.unvouched() {
            [] => incomplete_record(&assessment.proposal).into_iter().collect(),
            unvouched => unvouched.to_vec(),
        };
        let unread = unvouched.iter().filter_map(|source| match &source.why {
            Doubt::Unread(unread) => Some(unread.clone()),
            Doubt::No(_) | Doubt::NotInstalled | Doubt::LeftOver | Doubt::Refuted { .. } => None,
        });
        let unread = unread.collect();
        let failed = (!unvouched.is_empty()).then_some(Reason::EvidenceMissing { unvouched });
        Outcome { failed, unread, ..Outcome::default() }
    },
};

/// What the record lacks when the taint is changed. Evidence stays on the Node as long as the
/// taint, so none may be removed; and the first entry that evicts needs a whole record, as a
/// placement does.
fn incomplete_record(proposal: &Proposal<'_>) -> Option<Unvouched> {
    if !proposal.does(Transition::Amend) {
        return None;
    }
    let flaws = if proposal.begins_to_evict() {
        Evidence::parse(|key| proposal.change(key).1).err()?
    } else {
        let is_removed = |key: &&str| matches!(proposal.change(key), (Some(_), None));
        let missing: Vec<_> = REQUIRED_EVIDENCE.into_iter().filter(is_removed).collect();
        (!missing.is_empty()).then_some(Flaws { missing, malformed: Vec::new() })?
    };
    Some(Unvouched { source: Source::Annotations, why: flaws.to_string().into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, fails, node, placing, run, update},
        *,
    };
    use crate::policy::object::node::{CLOUD_SHUTDOWN, Node, Taint};

    fn message_of(request: &crate::policy::request::Request) -> String {
        run(&RULE, request, &facts()).unwrap().failed.unwrap().to_string()
    }

    fn stopped(mut node: Node) -> Node {
        node.spec.taints.push(Taint { key: CLOUD_SHUTDOWN.into(), effect: "NoSchedule".into(), ..Taint::default() });
        node
    }

    #[test]
    fn the_reason_names_every_source_and_why_it_does_not_vouch() {
        assert_eq!(
            message_of(&placing(&json!({}))),
            "annotations: fencegate.dev/method, fencegate.dev/fenced-at, fencegate.dev/fenced-by are not set; \
             cloud-shutdown: taint node.cloudprovider.kubernetes.io/shutdown is not on the stored node"
        );
        let only_by = json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z"});
        assert!(message_of(&placing(&only_by)).starts_with("annotations: fencegate.dev/fenced-by is not set; "));
    }

    #[test]
    fn one_vouching_source_is_enough() {
        assert!(!fails(&RULE, &placing(&evidence()), &facts()));
        assert!(!fails(&RULE, &update(stopped(node(false, json!({}))), stopped(node(true, json!({})))), &facts()));
    }

    #[test]
    fn the_clouds_taint_counts_only_on_the_stored_node() {
        let in_the_same_write = update(node(false, json!({})), stopped(node(true, json!({}))));
        assert!(fails(&RULE, &in_the_same_write, &facts()), "the requester may have added the cloud's taint");
    }

    #[test]
    fn if_the_record_names_its_source_only_that_source_is_consulted() {
        let mut annotations = evidence();
        annotations["fencegate.dev/source"] = "cloud-shutdown".into();
        let claimed = update(node(false, json!({})), node(true, annotations));
        assert!(message_of(&claimed).contains("annotations: the record names cloud-shutdown as its source"));
    }

    #[test]
    fn required_evidence_cannot_be_removed_while_the_taint_is_changed() {
        let amended = |annotations| {
            let mut node = node(true, annotations);
            node.spec.taints[0].value = "other".into();
            node
        };
        assert!(!fails(&RULE, &update(node(true, evidence()), amended(evidence())), &facts()));
        assert!(fails(&RULE, &update(node(true, evidence()), amended(json!({}))), &facts()));
        assert!(!fails(&RULE, &update(node(true, json!({})), amended(json!({}))), &facts()), "no evidence was removed");
    }
}
