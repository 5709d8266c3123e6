//! Text that comes from outside and wants to be taken for the gate's own: names, conditions,
//! statuses of custom resources and read errors with control characters, line breaks, characters
//! that reorder others, and far too much of everything.

use fencegate::policy::{
    decide,
    facts::{Fact, Facts},
    facts_needed,
    message::denial,
    object::node::Node,
    reason::Code,
    request::Write,
    review::{Content, Webhook},
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::world::{NOW, World, world};

/// What a line begins with if somebody else wrote it.
const FORGED: &str = "PWNED";

fn text() -> impl Strategy<Value = String> {
    let forged = select(vec![
        "a\nPWNED: nothing holds the node".to_owned(),
        "a\r\n  kubectl PWNED".to_owned(),
        "\u{85}PWNED\u{2028}PWNED\u{2029}PWNED\u{b}PWNED".to_owned(),
        "\u{1b}[2J\u{1b}[1;1HPWNED".to_owned(),
        "\u{202e}txt.evil\u{2066}\u{200b}\u{feff}\u{ad}\u{e0041}\u{e000}".to_owned(),
        "quote \" and ' and \\ and ` and $(PWNED)".to_owned(),
        "word ".repeat(3000),
        "é\n".repeat(5000),
        String::new(),
    ]);
    prop_oneof![3 => forged, 1 => any::<String>()]
}

/// Replaces strings whose content decides nothing about how the object is read.
fn poison(value: &mut Value, next: &mut impl FnMut() -> Option<String>) {
    const STRUCTURE: [&str; 5] = ["kind", "apiVersion", "key", "type", "managedFields"];
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !STRUCTURE.contains(&key.as_str()) && !key.to_lowercase().contains("time") {
                    poison(value, next);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, next)),
        Value::String(text) => {
            if let Some(poisoned) = next() {
                *text = poisoned;
            }
        }
        _ => {}
    }
}

/// A world in which most strings are hostile, and the errors of its facts that cannot be read.
fn hostile_world() -> impl Strategy<Value = (World, Vec<(Fact, String)>)> {
    let unread = vec((select(Fact::all().collect::<Vec<_>>()), text()), 0..4);
    let choices = vec(prop_oneof![1 => Just(None), 2 => text().prop_map(Some)], 50);
    (world(), choices, text(), unread).prop_map(|(mut world, choices, name, unread)| {
        let mut choices = choices.into_iter().cycle();
        let mut next = || choices.next().flatten();
        for value in [&mut world.user, &mut world.old, &mut world.new].into_iter().chain(&mut world.cluster) {
            poison(value, &mut next);
        }
        let name = if name.is_empty() { "n1".to_owned() } else { name };
        for node in [&mut world.old, &mut world.new] {
            node["metadata"]["name"] = json!(name);
            node["metadata"]["annotations"][format!("fencegate.dev/{name}")] = json!("x");
        }
        for object in &mut world.cluster {
            object["spec"]["nodeName"] = json!(name);
        }
        (world, unread)
    })
}

/// What must hold for every denial, whatever the input.
fn check(message: &str) {
    let excerpt: String = message.chars().take(6000).collect();
    assert!(message.len() <= 4096, "{} bytes:\n{excerpt}", message.len());
    let is_printable = |character: char| character == '\n' || fencegate::policy::text::is_printable(character);
    assert!(message.chars().all(is_printable), "{excerpt:?}");
    for (index, line) in message.lines().enumerate() {
        assert!(!line.trim_start().trim_start_matches("kubectl ").starts_with(FORGED), "{line:?} in\n{excerpt}");
        let is_code = |line: &str| Code::ALL.iter().any(|code| line.starts_with(&format!("{code}: ")));
        match line.strip_prefix("  ") {
            Some(inner) => assert!(is_code(inner) || inner.starts_with("kubectl "), "{line:?} in\n{excerpt}"),
            None => assert!(index == 0 || line.starts_with(char::is_lowercase), "{line:?} in\n{excerpt}"),
        }
    }
}

/// The denial of the write with these facts that cannot be read, if it is one.
fn denied(world: &World, unread: &[(Fact, String)]) -> Option<String> {
    let review = world.parsed();
    let Some(request) = review.request() else { return Some(super::answered(&review)) };
    let now = NOW.parse().unwrap();
    let mut facts = world.snapshot().map_or_else(
        |_| Facts::at(now),
        |snapshot| snapshot.read(request, &facts_needed(request, &world.settings), now),
    );
    for (fact, why) in unread {
        facts.fail(now, *fact, why.clone());
    }
    let decision = decide(Webhook::Validate, request, &facts, &world.settings);
    for warning in &decision.warnings {
        assert!(
            warning.chars().count() <= 120 && warning.chars().all(fencegate::policy::text::is_printable),
            "{warning:?}"
        );
    }
    (!decision.allowed).then(|| denial(&decision, &Content::Node(Box::new(request.clone()))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_denial_has_a_line_or_a_character_that_the_gate_did_not_write((world, unread) in hostile_world()) {
        if let Some(message) = denied(&world, &unread) {
            check(&message);
        }
    }
}

#[test]
fn a_denial_about_ten_megabytes_has_at_most_four_kibibytes() {
    let long = || json!("PWNED\n\u{1b} ".repeat(1_200_000));
    let taints = || json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    let node = || json!({"metadata": {"name": "n1", "annotations": {}}, "spec": {"taints": []}, "status": {}});
    let pod = || {
        json!({"kind": "Pod", "metadata": {"namespace": "prod", "name": long(),
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": true}]}, "spec": {"nodeName": "n1"}})
    };
    let remediation = || {
        json!({"kind": "SelfNodeRemediation", "metadata": {"namespace": "fencing", "name": "n1"},
        "status": {"phase": long()}})
    };
    let base = World {
        operation: "UPDATE",
        subresource: "",
        user: json!({"username": "alice"}),
        old: node(),
        new: node(),
        cluster: vec![],
        settings: fencegate::config::parse(
            json!({"evidence": {"sources": ["annotations", "self-node-remediation", "bare-metal-host"]}})
                .to_string()
                .as_bytes(),
        )
        .unwrap(),
    };
    let changed = |change: &dyn Fn(&mut World)| {
        let mut world = base.clone();
        change(&mut world);
        let message = denied(&world, &[]).unwrap();
        check(&message);
        message
    };
    for key in ["method", "fenced-by", "placed-by", "unknown", "source"] {
        changed(&|world| {
            world.new["spec"]["taints"] = taints();
            world.new["metadata"]["annotations"][format!("fencegate.dev/{key}")] = long();
        });
    }
    changed(&|world| {
        world.new["spec"]["taints"] = json!([{"key": "node.kubernetes.io/out-of-service", "effect": long()}]);
        world.old["spec"]["providerID"] = long();
        world.old["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": long()}]);
        world.user = json!({"username": long()});
    });
    changed(&|world| {
        world.new["spec"]["taints"] = taints();
        world.cluster = vec![remediation()];
    });
    let held = changed(&|world| {
        world.old["spec"]["taints"] = taints();
        world.cluster = vec![pod()];
    });
    assert!(held.contains("PodsRemain: "), "{held}");
    changed(&|world| {
        for node in [&mut world.old, &mut world.new] {
            node["metadata"]["name"] = long();
        }
        world.new["spec"]["taints"] = taints();
    });
    let world =
        World { new: node(), old: json!({"spec": {"taints": taints()}, "metadata": {"name": "n1"}}), ..base.clone() };
    for fact in [Fact::Pods, Fact::VolumeAttachments] {
        check(&denied(&world, &[(fact, "\u{202e}no\n".repeat(2_000_000))]).unwrap());
    }
}

/// A write that puts these keys under the gate's prefix on a Node that has others, and its
/// decision.
fn with_keys(before: std::ops::Range<usize>, after: std::ops::Range<usize>, operation: &'static str) -> World {
    let node = |numbers: std::ops::Range<usize>| {
        let annotations: Value =
            numbers.map(|number| (format!("fencegate.dev/unknown-{number:05}"), json!("x"))).collect();
        json!({"metadata": {"name": "n1", "annotations": annotations}, "spec": {"taints": []}, "status": {}})
    };
    let settings = fencegate::policy::settings::Settings::default();
    let user = json!({"username": "alice"});
    World { operation, subresource: "", user, old: node(before), new: node(after), cluster: vec![], settings }
}

#[test]
fn at_most_five_keys_that_mean_nothing_are_named_and_only_those_that_the_write_sets() {
    for (before, after, operation, named, more) in [
        (0..0, 0..5, "UPDATE", 5, false),
        (0..0, 0..6, "UPDATE", 5, true),
        (0..0, 0..5, "CREATE", 5, false),
        (0..0, 0..6, "CREATE", 5, true),
        (0..9, 0..9, "UPDATE", 0, false),
        (0..9, 0..12, "UPDATE", 3, false),
        (0..9, 0..0, "UPDATE", 0, false),
        (0..9, 9..11, "UPDATE", 2, false),
        (0..9, 0..0, "DELETE", 0, false),
    ] {
        let world = with_keys(before.clone(), after.clone(), operation);
        let warnings = world.decide().warnings;
        let names: Vec<&String> = warnings.iter().filter(|warning| warning.starts_with("did you mean ")).collect();
        let case = format!("{operation} from {before:?} to {after:?}: {warnings:?}");
        assert_eq!(names.len(), named, "{case}");
        assert_eq!(warnings.contains(&"more keys under fencegate.dev/ mean nothing".to_owned()), more, "{case}");
        assert_eq!(warnings.len(), named + usize::from(more), "{case}");
    }
}

#[test]
fn of_as_many_keys_that_mean_nothing_as_a_node_can_have_few_are_kept() {
    for (before, after, operation) in [
        (0..0, 0..9_000, "UPDATE"),
        (0..9_000, 0..9_000, "UPDATE"),
        (0..9_000, 0..0, "UPDATE"),
        (0..4_500, 4_500..9_000, "UPDATE"),
        (0..0, 0..9_000, "CREATE"),
        (0..9_000, 0..0, "DELETE"),
    ] {
        let mut world = with_keys(before.clone(), after.clone(), operation);
        world.new["spec"]["taints"] = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
        let review = world.parsed();
        let write = &review.request().unwrap().write;
        let sides = [write.before(), write.after()].into_iter().flatten();
        let kept: usize = sides.map(|node| node.metadata.annotations.as_ref().unwrap().len()).sum();
        assert!(kept <= 7, "{operation} from {before:?} to {after:?}: {kept}");
        assert!(world.answer().to_string().len() < 6_000, "{}", world.answer());
    }
}

#[test]
fn a_node_with_more_annotations_than_any_api_server_stores_is_not_judged() {
    let review = with_keys(0..0, 0..60_000, "CREATE").parsed();
    assert!(matches!(&review.content, Content::Malformed { why, .. } if why.contains("262144 bytes")));
}

/// The Node as it is, with all keys.
fn unabridged(node: &Value) -> Node {
    serde_json::from_value(node.clone()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_that_mean_nothing_and_are_forgotten_change_no_decision(
        world in world(),
        keys in vec((0..12_usize, select(vec![None, Some("x"), Some("y")]), select(vec![None, Some("x"), Some("y")])), 0..16),
    ) {
        let mut world = world;
        for (number, before, after) in keys {
            for (node, value) in [(&mut world.old, before), (&mut world.new, after)] {
                if node["metadata"]["annotations"].is_null() {
                    node["metadata"]["annotations"] = json!({});
                }
                if let Some(value) = value {
                    node["metadata"]["annotations"][format!("fencegate.dev/unknown-{number}")] = json!(value);
                }
            }
        }
        let facts = world.facts();
        let mut request = world.parsed().request().unwrap().clone();
        let abridged = decide(Webhook::Validate, &request, &facts, &world.settings);
        request.write = match request.write {
            Write::Create { .. } => Write::Create { new: unabridged(&world.new) },
            Write::Delete { .. } => Write::Delete { old: unabridged(&world.old) },
            Write::Update { new, .. } => {
                let after = Node { spec: new.spec, ..unabridged(&world.new) };
                Write::Update { old: unabridged(&world.old), new: after }
            }
            on_a_node @ (Write::ForceDelete { .. } | Write::Detach { .. }) => on_a_node,
        };
        prop_assert_eq!(abridged, decide(Webhook::Validate, &request, &facts, &world.settings));
    }
}
