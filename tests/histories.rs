//! The checker of histories, checked itself: a lawful history is silence, and of each law there is
//! a history that breaks it.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

#[path = "support/history/mod.rs"]
mod history;
#[path = "support/story.rs"]
mod story;

use history::Law;
use jiff::SignedDuration;
use serde_json::{Value, json};
use story::{BY_WHOM, Story, annotate, entry, lease, released, written};

/// What makes a lawful story unlawful.
type Change = fn(&mut Story);

#[test]
fn a_lawful_history_is_silence() {
    let mut story = Story::begins();
    story.attest();
    story.bind();
    story.attach();
    story.place();
    // Writes that nobody guards.
    story.node["metadata"]["labels"] = json!({"a": "b"});
    story.store_node();
    story.remove("/registry/pods/default/db-0");
    story.remove("/registry/volumeattachments/va");
    story.release();
    story.attest();
    story.place();
    story.delete();
    assert_eq!(story.breaks(), []);
}

#[test]
fn what_came_between_the_decision_and_the_write_is_not_the_gates_to_see() {
    for comes in [Story::bind, Story::attach] {
        let mut story = Story::begins();
        story.attest();
        story.place();
        let mut before = story.node.clone();
        before["metadata"]["resourceVersion"] = json!(story.stored.to_string());
        story.tick();
        let now = written(story.revision);
        released(&mut story.node, &now);
        let after = story.node.clone();
        story.decide("mutate", "UPDATE", &before, Some(&after));
        story.decide("validate", "UPDATE", &before, Some(&after));
        comes(&mut story);
        story.store_node();
        assert_eq!(story.breaks(), []);
    }
}

#[test]
fn a_placement_needs_complete_evidence_on_the_same_object() {
    for key in ["method", "fenced-at", "fenced-by", "placed-by", "source", "recorded-by"] {
        let mut story = Story::begins();
        story.attest();
        story.write(|node, now| {
            node["spec"]["taints"] = entry("NoExecute");
            annotate(
                node,
                &[("placed-by", json!(BY_WHOM)), ("placed-at", written(now)), ("source", json!("annotations"))],
            );
            annotate(node, &[(key, Value::Null)]);
        });
        assert!(story.breaks().contains(&Law::Fence), "{key}");
    }
}

#[test]
fn a_placement_contradicts_nothing_that_the_cluster_knows() {
    let cases: [(&str, Change); 7] = [
        ("the stored Node is Ready", |story| {
            story.node["status"]["conditions"][0]["status"] = json!("True");
            story.store_node();
        }),
        ("the Lease was renewed a moment ago", |story| {
            let renewed = lease(story.revision);
            story.store("/registry/leases/kube-node-lease/n1", &renewed);
        }),
        ("there is no Lease, and the Node is young", |story| {
            story.remove("/registry/leases/kube-node-lease/n1");
        }),
        ("the node is in another boot", |story| {
            story.node["status"]["nodeInfo"]["bootID"] = json!("boot-2");
            story.store_node();
        }),
        ("the cloud's source did not vouch", |story| {
            annotate(&mut story.node, &[("source", json!("cloud-shutdown"))]);
        }),
        ("the fence is in the future", |story| {
            annotate(&mut story.node, &[("fenced-at", json!("2026-12-01T00:00:00Z"))]);
        }),
        ("the fence is ahead of the API server's clock, but not of a replica's", |story| {
            story.replica_is_ahead(SignedDuration::from_mins(4));
            annotate(&mut story.node, &[("fenced-at", written(story.revision + 120))]);
        }),
    ];
    for (what, happens) in cases {
        let mut story = Story::begins();
        story.attest();
        happens(&mut story);
        story.write(|node, now| {
            node["spec"]["taints"] = entry("NoExecute");
            let annotations = node["metadata"]["annotations"].clone();
            annotate(node, &[("placed-by", json!(BY_WHOM)), ("placed-at", written(now))]);
            if annotations["fencegate.dev/source"].is_null() {
                annotate(node, &[("source", json!("annotations"))]);
            }
        });
        assert_eq!(story.breaks(), [Law::Fence], "{what}");
    }
}

#[test]
fn an_entry_that_begins_to_evict_needs_a_record_and_silence_since_the_fence() {
    let cases: [(&str, Change, &[Law]); 4] = [
        ("the machine has been silent", |_| {}, &[]),
        (
            "the machine came back and was silent again",
            |story| {
                let renewed = lease(story.revision);
                story.store("/registry/leases/kube-node-lease/n1", &renewed);
            },
            &[Law::Fence],
        ),
        (
            "the machine came back in another boot",
            |story| {
                story.node["status"]["nodeInfo"]["bootID"] = json!("boot-2");
                story.store_node();
            },
            &[Law::Fence],
        ),
        (
            "there is no record",
            |story| {
                annotate(&mut story.node, &[("method", Value::Null)]);
                story.store_node();
            },
            &[Law::Fence, Law::Logged],
        ),
    ];
    for (what, happens, breaks) in cases {
        let mut story = Story::begins();
        story.attest();
        story.place();
        story.write(|node, _| node["spec"]["taints"] = entry("NoSchedule"));
        story.revision += 100;
        happens(&mut story);
        story.revision += 100;
        story.write(|node, _| node["spec"]["taints"] = entry("NoExecute"));
        let mut found = story.breaks();
        found.sort();
        let mut breaks = breaks.to_vec();
        breaks.sort();
        assert_eq!(found, breaks, "{what}");
    }
}

#[test]
fn a_node_is_not_created_with_the_taint() {
    let mut story = Story::begins();
    story.remove("/registry/minions/n1");
    story.tick();
    let now = story.revision;
    annotate(
        &mut story.node,
        &[
            ("method", json!("power-off")),
            ("fenced-at", written(now)),
            ("fenced-by", json!("alice")),
            ("recorded-by", json!(BY_WHOM)),
            ("recorded-at", written(now)),
            ("placed-by", json!(BY_WHOM)),
            ("placed-at", written(now)),
            ("source", json!("annotations")),
        ],
    );
    story.node["spec"]["taints"] = entry("NoExecute");
    let created = story.node.clone();
    for webhook in ["mutate", "validate"] {
        story.decide(webhook, "CREATE", &Value::Null, Some(&created));
    }
    story.store_node();
    assert_eq!(story.breaks(), [Law::Fence]);
}

#[test]
fn a_release_and_a_deletion_wait_for_pods_and_volumes() {
    for holds in [Story::bind, Story::attach] {
        for goes in [Story::release, Story::delete] {
            let mut story = Story::begins();
            story.attest();
            story.place();
            holds(&mut story);
            goes(&mut story);
            assert_eq!(story.breaks(), [Law::Release]);
        }
    }
}

#[test]
fn a_break_glass_is_an_exception_only_with_the_gates_stamps_on_the_object() {
    for (by, expected) in [(BY_WHOM, vec![]), ("bob", vec![Law::Honest, Law::Release])] {
        let mut story = Story::begins();
        story.attest();
        story.place();
        story.bind();
        story.write(|node, now| {
            released(node, &written(now));
            annotate(
                node,
                &[("overridden", json!("drill")), ("overridden-by", json!(by)), ("overridden-at", written(now))],
            );
        });
        assert_eq!(story.breaks(), expected);
    }
}

#[test]
fn while_the_taint_is_on_the_record_does_not_change() {
    for key in ["proof", "method", "boot-id", "fenced-by"] {
        let mut story = Story::begins();
        story.attest();
        story.place();
        story.write(|node, _| annotate(node, &[(key, json!("another"))]));
        assert_eq!(story.breaks(), [Law::Frozen], "{key}");
    }
}

#[test]
fn nobody_but_the_gate_writes_stamps() {
    for key in ["placed-by", "placed-at", "recorded-by", "recorded-at", "source", "last-outage", "overridden-by"] {
        let mut story = Story::begins();
        story.write(|node, now| {
            annotate(node, &[(key, if key.ends_with("-at") { written(now) } else { json!("bob") })]);
        });
        assert_eq!(story.breaks(), [Law::Honest], "{key}");
    }
    let mut story = Story::begins();
    story.write(|node, now| {
        annotate(
            node,
            &[("proof", json!("seen")), ("recorded-by", json!(BY_WHOM)), ("recorded-at", written(now - 90))],
        );
    });
    assert_eq!(story.breaks(), [Law::Honest], "a time that no replica's clock showed");
}

#[test]
fn no_node_vouches_for_itself() {
    let mut story = Story::begins();
    story.attest();
    story.log = story.log.replace(r#""name":"alice""#, r#""name":"system:node:n1""#);
    assert!(story.breaks().contains(&Law::Honest));
}

#[test]
fn every_decision_about_a_stored_version_is_in_a_log() {
    let lines = |log: &str, keep: &dyn Fn(&str) -> bool| -> String {
        log.split_inclusive('\n').filter(|line| keep(line)).collect()
    };
    for webhook in ["mutate", "validate"] {
        let mut story = Story::begins();
        story.attest();
        story.log = lines(&story.log, &|line| !line.contains(&format!(r#""webhook":"{webhook}""#)));
        assert_eq!(story.breaks(), [Law::Logged], "{webhook}");
    }
    let mut story = Story::begins();
    story.attest();
    let first: Value = serde_json::from_str(story.log.lines().next().unwrap()).unwrap();
    let withdrawn = json!({"event": "withdrawn", "uid": first["uid"], "webhook": first["webhook"]});
    story.log.push_str(&withdrawn.to_string());
    assert_eq!(story.breaks(), [Law::Logged], "a line that is withdrawn is no record");

    let mut story = Story::begins();
    story.attest();
    story.log = story.log.replace(r#""decision":"allow""#, r#""decision":"deny""#);
    assert_eq!(story.breaks(), [Law::Logged], "a denial does not allow the write");
}

#[test]
fn a_decision_is_made_while_the_version_that_it_replaces_is_stored() {
    let mut story = Story::begins();
    story.attest();
    // As if the replica's clock were a minute ahead, and nobody knew.
    let late = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["ts"] = written(2);
        line.to_string()
    };
    story.log = story.log.lines().map(late).collect::<Vec<_>>().join("\n");
    assert_eq!(story.breaks(), [Law::Logged]);
}
