//! A write that the mutating webhook judges and completes, and both webhooks judge again: it gets
//! no more stamps, and the validating webhook allows it. The bytes are the choices that a `World`
//! is made of.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use fencegate::{
    admission::review::{self, Answer},
    audit::{Line, Recorded},
    cluster::Snapshot,
    policy::{
        decide, facts_needed,
        review::{Review, Webhook},
    },
};
use json_patch::Patch;
use serde_json::Value;

use super::{choices::Choices, review::check_texts, review::now, world::World};

pub fn check(data: &[u8]) {
    let mut world = World::of(&mut Choices::of(data));
    // A Node with a malformed object in its cluster has no facts to judge by.
    let Ok(cluster) = world.snapshot() else { return };
    if read(&world).request().is_none() {
        return;
    }
    let first = judge(Webhook::Mutate, &world, &cluster);
    let before = world.new.clone();
    if let Some(patch) = patch(&first) {
        json_patch::patch(&mut world.new, &patch).unwrap_or_else(|error| panic!("{error}: {patch} for {before}"));
        assert_eq!(without_annotations(&world.new), without_annotations(&before), "{patch}");
    }
    // What the mutating webhook denied as forged may be what it would have written.
    if first["allowed"] == true {
        let second = judge(Webhook::Validate, &world, &cluster);
        assert_eq!(second["allowed"], true, "{first}\n{second}\nof {}", world.review());
        let again = judge(Webhook::Mutate, &world, &cluster);
        assert_eq!(again["allowed"], true, "{first}\n{again}");
        assert!(patch(&again).is_none(), "stamped again: {} after {before}", patch(&again).unwrap());
    }
}

fn read(world: &World) -> Review {
    review::read(world.review().to_string().as_bytes()).unwrap()
}

/// The response of a webhook. Its line in the audit log leads to the same decision.
fn judge(webhook: Webhook, world: &World, cluster: &Snapshot) -> Value {
    let review = read(world);
    let request = review.request().unwrap();
    let facts = cluster.read(request, &facts_needed(request, &world.settings), now());
    let decision = decide(webhook, request, &facts, &world.settings);
    let line = serde_json::to_string(&Line::new(webhook, &review, &decision, &facts, None, 0.0)).unwrap();
    let recorded = Recorded::parse(&line).unwrap();
    let again = decide(recorded.webhook, recorded.review.request().unwrap(), &recorded.facts, &world.settings);
    assert_eq!(again, decision, "{line}");
    let mut answer = serde_json::to_value(Answer::new(webhook, &review, &decision)).unwrap();
    let response = answer["response"].take();
    check_texts(&response);
    response
}

fn patch(response: &Value) -> Option<Patch> {
    let patch = response.get("patch")?.as_str()?;
    Some(serde_json::from_slice(&BASE64.decode(patch).unwrap()).unwrap())
}

fn without_annotations(node: &Value) -> Value {
    let mut node = node.clone();
    node["metadata"]["annotations"].take();
    node
}
