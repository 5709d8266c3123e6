//! `EvidenceMissing`: nobody whom the configuration accepts vouches that the node was fenced.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::REQUIRED_EVIDENCE,
    evidence::Flaws,
    proposal::Proposal,
    reason::{Code, Reason},
    source::{Doubt, Refusal, Source},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EvidenceMissing,
    applies: |proposal| proposal.does(Transition::Place) || proposal.does(Transition::Amend),
    needs: no_facts,
    check: |assessment| {
        let refusals = match assessment.refusals() {
            [] => lost(&assessment.proposal).into_iter().collect(),
            refusals => refusals.to_vec(),
        };
        let unread = refusals.iter().filter_map(|refusal| match &refusal.why {
            Doubt::Unread(unread) => Some(unread.clone()),
            Doubt::No(_) => None,
        });
        let unread = unread.collect();
        let failed = (!refusals.is_empty()).then_some(Reason::EvidenceMissing { refusals });
        Outcome { failed, unread, ..Outcome::default() }
    },
};

/// The required evidence that this write removes while it changes the taint. A taint keeps what it
/// was placed with.
fn lost(proposal: &Proposal<'_>) -> Option<Refusal> {
    let gone = |key: &&str| matches!(proposal.change(key), (Some(_), None));
    let flaws = Flaws { missing: REQUIRED_EVIDENCE.into_iter().filter(gone).collect(), malformed: Vec::new() };
    let loses = proposal.does(Transition::Amend) && !flaws.missing.is_empty();
    loses.then(|| Refusal { source: Source::Annotations, why: flaws.to_string().into() })
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
    fn each_source_says_why_it_does_not_vouch() {
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
    fn the_cloud_vouches_on_the_stored_node_only() {
        let slipped_in = update(node(false, json!({})), stopped(node(true, json!({}))));
        assert!(fails(&RULE, &slipped_in, &facts()), "a taint that comes with the same write proves nothing");
    }

    #[test]
    fn a_record_that_names_its_source_is_asked_of_that_source_alone() {
        let mut annotations = evidence();
        annotations["fencegate.dev/source"] = "cloud-shutdown".into();
        let claimed = update(node(false, json!({})), node(true, annotations));
        assert!(message_of(&claimed).contains("annotations: the record names cloud-shutdown as its source"));
    }

    #[test]
    fn an_amended_taint_keeps_what_it_was_placed_with() {
        let amended = |annotations| {
            let mut node = node(true, annotations);
            node.spec.taints[0].value = "other".into();
            node
        };
        assert!(!fails(&RULE, &update(node(true, evidence()), amended(evidence())), &facts()));
        assert!(fails(&RULE, &update(node(true, evidence()), amended(json!({}))), &facts()));
        assert!(!fails(&RULE, &update(node(true, json!({})), amended(json!({}))), &facts()), "nothing was lost");
    }
}
