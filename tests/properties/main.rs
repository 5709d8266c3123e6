//! Laws that hold for every request, cluster and configuration, not only for the cases that
//! somebody thought of.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use fencegate::{
    admission::review::{self, Answer},
    audit::{Line, Recorded},
    cluster::Snapshot,
    policy::{
        Decision,
        annotation::EVIDENCE,
        decide,
        facts::{Fact, Facts},
        facts_needed,
        object::node::OUT_OF_SERVICE,
        reason::{Code, Mode},
        review::{Content, Review, Webhook},
        transition::Transition,
    },
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

mod hostile;
#[path = "../support/reviews.rs"]
mod reviews;
mod world;

use world::{NOW, World, world};

/// The message of the answer to a review that could not be understood.
fn answered(review: &Review) -> String {
    let Content::Malformed { node, why } = &review.content else { panic!("{review:?}") };
    let decision = Decision::malformed(node.clone(), why.clone(), Mode::Enforce);
    Answer::new(Webhook::Validate, review, &decision).message().unwrap().to_owned()
}

fn reversed(value: &mut Value) {
    if let Some(list) = value.as_array_mut() {
        list.reverse();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_lists_never_changes_the_verdict(world in world()) {
        let mut turned = world.clone();
        for node in [&mut turned.old, &mut turned.new] {
            reversed(&mut node["spec"]["taints"]);
            if let Some(annotations) = node["metadata"]["annotations"].as_object_mut() {
                *annotations = std::mem::take(annotations).into_iter().rev().collect();
            }
        }
        turned.cluster.reverse();
        let (one, other) = (world.answer(), turned.answer());
        prop_assert_eq!(&one["response"]["allowed"], &other["response"]["allowed"]);
        prop_assert_eq!(&one["response"]["auditAnnotations"], &other["response"]["auditAnnotations"]);
    }

    #[test]
    fn a_contradiction_never_turns_a_denial_into_an_allowed_write(world in world(), which in 0..7_u8) {
        // A node that is Ready contradicts a fence, but for a release it is required.
        if which == 0 && world.decide().transitions.contains(Transition::Release) {
            return Ok(());
        }
        let mut contradicted = world.clone();
        match which {
            0 => for node in [&mut contradicted.old, &mut contradicted.new] {
                node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            },
            1 => {
                contradicted.cluster.retain(|object| object["kind"] != "Lease");
                contradicted.cluster.push(json!({"kind": "Lease",
                    "metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"renewTime": NOW}}));
            }
            2 => contradicted.cluster.push(json!({"kind": "Pod", "metadata": {"namespace": "prod", "name": "late-0",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": true}]},
                "spec": {"nodeName": "n1"}})),
            3 => contradicted.cluster.push(json!({"kind": "VolumeAttachment", "metadata": {"name": "late"},
                "spec": {"nodeName": "n1", "source": {"inlineVolumeSpec": {}}}})),
            4 => contradicted.old["status"]["volumesAttached"] = json!([{"name": "kubernetes.io/fc/50060e801049cfd1"}]),
            5 => contradicted.user = json!({"username": "system:node:n1", "groups": ["system:nodes"]}),
            _ => contradicted.cluster.retain(|object| object["kind"] != "SubjectAccessReview"),
        }
        prop_assert!(world.decide().allowed || !contradicted.decide().allowed);
    }

    #[test]
    fn exactly_what_the_outage_displaced_holds_the_taint(world in world(), effect in select(vec!["NoExecute", "NoSchedule"]), way in 0..4_u8) {
        let mut leaving = World { operation: if way == 0 { "DELETE" } else { "UPDATE" }, subresource: "", ..world };
        leaving.old["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": OUT_OF_SERVICE, "effect": effect}));
        leaving.new = leaving.old.clone();
        let taints = leaving.new["spec"]["taints"].as_array_mut().unwrap();
        match way {
            0 => {}
            1 => *taints = json!([{"key": OUT_OF_SERVICE, "value": "amended", "effect": "NoExecute"}]).as_array().unwrap().clone(),
            _ => taints.clear(),
        }
        let excuses = way > 1 && !leaving.settings.count_tolerating;
        let pods_hold = leaving.of_kind("Pod").any(|pod| leaving.holds_the_taint(pod) && !(excuses && leaving.may_stay(pod)));
        let attached = leaving.of_kind("VolumeAttachment").next().is_some();
        let volumes_hold = (attached && !(excuses && leaving.excuses_the_volume()))
            || (leaving.has_volumes_without_attachments() && !(excuses && leaving.nothing_was_evicted()));
        let codes = leaving.decide().codes();
        for (code, holds) in [(Code::PodsRemain, pods_hold), (Code::VolumesAttached, volumes_hold)] {
            let expected = holds && leaving.settings.mode(code) != Mode::Off;
            prop_assert_eq!(codes.contains(&code), expected, "{} {:?}", code, leaving);
        }
    }

    #[test]
    fn a_missing_fact_never_turns_a_denial_into_an_allowed_write(
        world in world(),
        fact in select(Fact::all().collect::<Vec<_>>()),
        fails in any::<bool>(),
    ) {
        let facts = world.facts();
        let mut less = facts.clone();
        if fails {
            less.fail(facts.now, fact, "lost".to_owned());
        } else {
            less.forget(fact);
        }
        prop_assert!(world.decide_with(&facts).allowed || !world.decide_with(&less).allowed);
        let nothing = Facts::at(facts.now);
        prop_assert!(world.decide_with(&facts).allowed || !world.decide_with(&nothing).allowed, "no fact was read");
    }

    #[test]
    fn a_write_that_touches_nothing_guarded_needs_no_fact_and_leaves_no_audit_line(world in world(), cordon in any::<bool>()) {
        let mut untouched = World { operation: "UPDATE", new: world.old.clone(), ..world };
        // The last finalizer of a Node that is being deleted stays on it.
        untouched.new["spec"]["unschedulable"] = json!(cordon);
        untouched.new["metadata"]["labels"] = json!({"team": "a"});
        untouched.new["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": NOW}]);
        let review = untouched.parsed();
        prop_assert!(facts_needed(review.request().unwrap(), &untouched.settings).is_empty());
        let decision = untouched.decide();
        prop_assert!(decision.allowed && !decision.is_audited() && decision.warnings.is_empty());
    }

    #[test]
    fn the_mutating_webhook_leaves_exactly_stale_updates_to_the_api_server(
        world in world(),
        named in select(vec!["7", "6", "8", "70", "0", "007", "006", "", " 5"]),
    ) {
        let mut versioned = world.clone();
        versioned.old["metadata"]["resourceVersion"] = json!("7");
        versioned.new["metadata"]["resourceVersion"] = json!(named);
        let review = versioned.parsed();
        let is_stale = world.operation == "UPDATE" && ["6", "8", "70"].contains(&named);
        prop_assert_eq!(*review.content_for(Webhook::Mutate) == Content::Unrelated, is_stale);
        prop_assert_eq!(review.content_for(Webhook::Validate), &review.content);
        prop_assert_eq!(world.answer(), versioned.answer(), "no version changes what the validating webhook says");
    }

    #[test]
    fn an_unrelated_field_never_changes_the_verdict(world in world(), before in any::<bool>(), after in any::<bool>()) {
        let mut patched = world.clone();
        for (node, touched) in [(&mut patched.old, before), (&mut patched.new, after)] {
            if touched {
                node["metadata"]["labels"] = json!({"team": "a"});
                node["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
                node["spec"]["podCIDR"] = json!("10.0.0.0/24");
                node["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": "example.com/mine", "effect": "NoSchedule"}));
                node["status"]["images"] = json!([{"names": ["a"], "sizeBytes": 1}]);
                node["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "DiskPressure", "status": "True"}));
            }
        }
        prop_assert_eq!(world.answer(), patched.answer());
    }

    #[test]
    fn a_placed_taint_has_a_source_that_vouches_or_a_used_break_glass(world in world()) {
        let decision = world.decide();
        let enforced = world.settings.mode(Code::EvidenceMissing) == Mode::Enforce;
        let places = enforced && decision.transitions.contains(Transition::Place);
        let break_glass_used = decision.findings.iter().any(|finding| finding.waived);
        prop_assert!(!places || !decision.allowed || decision.source().is_some() || break_glass_used);
    }

    #[test]
    fn the_validating_webhook_accepts_every_write_that_the_mutating_one_completed(world in world()) {
        let first = world.decide_as(Webhook::Mutate);
        prop_assert!(first.allowed || first.stamps.is_empty(), "a denied write gets no stamps");
        let mut completed = world.completed(&first);
        // The validating webhook alone judges the other doors.
        completed.settings = completed.settings.without_doors().into_owned();
        let second = completed.decide();
        prop_assert_eq!(first.allowed, second.allowed, "{:?}\n{:?}", first, second);
        // The validating webhook does not see what the mutating one replaced: findings that it
        // waived, and evidence that it removed at a release or overwrote with another source's.
        let is_waived = first.findings.iter().any(|finding| finding.waived);
        let is_replaced = EVIDENCE.iter().any(|key| first.stamps.contains_key(key));
        let about_evidence = [Code::EvidenceMalformed, Code::SelfAttested, Code::NotAuthorized];
        let codes = |decision: &Decision| -> Vec<Code> {
            decision.codes().into_iter().filter(|code| !is_replaced || !about_evidence.contains(code)).collect()
        };
        // A denied write is not completed, and the validating webhook never sees it.
        let is_seen = first.allowed && !is_waived;
        prop_assert!(!is_seen || codes(&first) == codes(&second), "{:?}\n{:?}", first, second);
        let again = completed.decide_as(Webhook::Mutate);
        prop_assert!(again.stamps.is_empty(), "second stamps {:?} after {:?}", again.stamps, first.stamps);
    }

    #[test]
    fn a_webhook_judges_by_no_fact_that_it_has_not_asked_for(world in world(), webhook in select(Webhook::ALL.to_vec())) {
        let review = world.parsed();
        let request = review.request().unwrap();
        let asked = world.facts();
        let all = world.all_facts();
        let codes = |facts: &Facts| decide(webhook, request, facts, &world.settings).codes();
        prop_assert_eq!(codes(&asked), codes(&all));
    }

    #[test]
    fn both_webhooks_tell_the_same_transitions(world in world()) {
        let first = world.decide_as(Webhook::Mutate);
        let second = world.completed(&first).decide();
        let told = |decision: &Decision| {
            let all = &decision.transitions;
            // The validating webhook alone judges the other doors.
            let all = all.clone().only(|transition| Code::of_door(transition).is_none());
            // A denied write goes no further, and only the first webhook sees it completed: with
            // the boot that it takes away, for example.
            if first.allowed { all } else { all.without(Transition::Attest) }
        };
        prop_assert_eq!(told(&first), told(&second), "{:?}\n{:?}", first, second);
    }

    #[test]
    fn every_decision_can_be_made_again_from_its_audit_line_alone(world in world(), webhook in select(Webhook::ALL.to_vec())) {
        let (review, facts, decision) = (world.parsed(), world.facts(), world.decide_as(webhook));
        let line = Line::new(webhook, &review, &decision, &facts, None, 0.0);
        let recorded = Recorded::parse(&serde_json::to_string(&line).unwrap()).unwrap();
        prop_assert_eq!(&recorded.review, &review);
        let again = decide(recorded.webhook, recorded.review.request().unwrap(), &recorded.facts, &world.settings);
        prop_assert_eq!(again, decision);
    }

    #[test]
    fn a_warning_is_one_line_of_at_most_120_characters(world in world()) {
        for warning in world.decide().warnings {
            prop_assert!(warning.chars().count() <= 120 && !warning.chars().any(char::is_control), "{warning:?}");
        }
    }

    #[test]
    fn parsing_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let _ = review::read(&bytes);
        let _ = Snapshot::parse(&String::from_utf8_lossy(&bytes));
        let _ = fencegate::config::parse(&bytes);
    }

    #[test]
    fn a_damaged_review_never_causes_a_panic_or_an_empty_message(world in world(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = world.review().to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let Ok(review) = review::read(&bytes) else { return Ok(()) };
        if let Some(request) = review.request() {
            let decision = decide(Webhook::Validate, request, &Facts::at(NOW.parse().unwrap()), &world.settings);
            prop_assert!(!Answer::new(Webhook::Validate, &review, &decision).message().is_some_and(str::is_empty));
        }
    }
}
