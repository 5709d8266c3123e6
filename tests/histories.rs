//! The checker of histories, checked itself: a lawful history is silence, and of each law there is
//! a history that breaks it.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

#[path = "support/history/mod.rs"]
mod history;

use history::{History, Law, TICKS};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const BY_WHOM: &str = "alice";

/// A time of the history: each revision is stored in a second of its own.
fn second(revision: u64) -> Timestamp {
    let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(i64::try_from(revision).unwrap())
}

fn written(revision: u64) -> Value {
    json!(second(revision).to_string())
}

/// A history under construction. Between two revisions there are ticks.
struct Story {
    history: History,
    node: Value,
    /// The revision of the Node that is stored.
    stored: u64,
    revision: u64,
    log: String,
}

impl Story {
    /// A silent machine: its Lease was renewed long ago, by the API server's clock.
    fn begins() -> Self {
        let history = History::new(SignedDuration::from_secs(10));
        let node = json!({"metadata": {"name": "n1", "uid": "u", "creationTimestamp": written(0), "annotations": {}},
            "spec": {"taints": []}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
            "nodeInfo": {"bootID": "boot-1"}}});
        let mut story = Self { history, node, stored: 0, revision: 0, log: String::new() };
        story.store("/registry/leases/kube-node-lease/n1", &lease(0));
        story.revision = 100;
        story.store_node();
        story
    }

    fn store(&mut self, key: &str, object: &Value) {
        self.tick();
        self.revision += 1;
        self.history.store(key, self.revision, Some(object.to_string().as_bytes()));
    }

    fn remove(&mut self, key: &str) {
        self.tick();
        self.revision += 1;
        self.history.store(key, self.revision, None);
    }

    fn tick(&mut self) {
        self.revision += 1;
        let data = json!({"sent": written(self.revision), "answered": written(self.revision - 1)});
        self.history.store(TICKS, self.revision, Some(json!({"data": data}).to_string().as_bytes()));
    }

    fn store_node(&mut self) {
        let node = self.node.clone();
        self.store("/registry/minions/n1", &node);
        self.stored = self.revision;
    }

    /// A guarded write, which both webhooks judge now and allow.
    fn write(&mut self, change: impl FnOnce(&mut Value, u64)) {
        let mut before = self.node.clone();
        before["metadata"]["resourceVersion"] = json!(self.stored.to_string());
        // What was stored before the first tick was surely stored before the second.
        self.tick();
        self.tick();
        change(&mut self.node, self.revision);
        let after = self.node.clone();
        self.decide("mutate", "UPDATE", &before, Some(&after));
        self.decide("validate", "UPDATE", &before, Some(&after));
        self.tick();
        self.store_node();
    }

    /// The line of a decision that was made now.
    fn decide(&mut self, webhook: &str, operation: &str, before: &Value, after: Option<&Value>) {
        let mut line = json!({"ts": written(self.revision), "event": "decision", "uid": format!("{webhook}-{}", self.revision),
            "node": "n1", "operation": operation, "webhook": webhook, "decision": "allow", "dryRun": false,
            "user": {"name": BY_WHOM, "groups": []}, "latencyMs": 5.0, "before": before});
        if let Some(after) = after {
            line["after"] = after.clone();
        }
        self.log += &format!("{line}\n");
    }

    fn attest(&mut self) {
        self.write(|node, now| {
            annotate(node, &[("method", json!("power-off")), ("fenced-at", written(now)), ("fenced-by", json!("alice")),
                ("boot-id", json!("boot-1")), ("recorded-by", json!(BY_WHOM)), ("recorded-at", written(now))]);
        });
    }

    fn place(&mut self) {
        self.write(|node, now| {
            node["spec"]["taints"] = entry("NoExecute");
            annotate(node, &[("placed-by", json!(BY_WHOM)), ("placed-at", written(now)), ("source", json!("annotations"))]);
        });
    }

    fn release(&mut self) {
        self.write(|node, now| released(node, &written(now)));
    }

    /// The deletion of the Node, which was judged before these two things happened.
    fn delete(&mut self) {
        let mut before = self.node.clone();
        before["metadata"]["resourceVersion"] = json!(self.stored.to_string());
        // What was stored before the first tick was surely stored before the second.
        self.tick();
        self.tick();
        self.decide("mutate", "DELETE", &before, None);
        self.decide("validate", "DELETE", &before, None);
        self.tick();
        self.remove("/registry/minions/n1");
    }

    fn bind(&mut self) {
        let spec = json!({"nodeName": "n1", "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]});
        self.store("/registry/pods/default/db-0", &json!({"metadata": {"name": "db-0"}, "spec": spec}));
    }

    fn attach(&mut self) {
        let spec = json!({"nodeName": "n1", "attacher": "san.test", "source": {"persistentVolumeName": "pv"}});
        self.store("/registry/volumeattachments/va", &json!({"metadata": {"name": "va"}, "spec": spec}));
    }

    /// The laws that the history breaks.
    fn breaks(mut self) -> Vec<Law> {
        self.tick();
        self.history.log(&self.log, SignedDuration::ZERO);
        let violations = self.history.judge().violations;
        for violation in &violations {
            assert!(self.history.around(violation).contains(&violation.to_string()));
        }
        let mut laws: Vec<Law> = violations.into_iter().map(|violation| violation.law).collect();
        laws.dedup();
        laws
    }
}

fn entry(effect: &str) -> Value {
    json!([{"key": "node.kubernetes.io/out-of-service", "effect": effect}])
}

fn lease(revision: u64) -> Value {
    json!({"metadata": {"managedFields": [{"time": written(revision), "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]},
        "spec": {"renewTime": written(revision), "leaseDurationSeconds": 40}})
}

/// Sets annotations of the gate; `null` removes one.
fn annotate(node: &mut Value, annotations: &[(&str, Value)]) {
    let of_node = node["metadata"]["annotations"].as_object_mut().unwrap();
    for (key, value) in annotations {
        of_node.insert(format!("fencegate.dev/{key}"), value.clone());
    }
    of_node.retain(|_, value| !value.is_null());
}

/// What the gate makes of a release.
fn released(node: &mut Value, now: &Value) {
    let mut outage = json!({"releasedBy": BY_WHOM, "releasedAt": now});
    for (key, told) in [("method", "method"), ("fenced-at", "fencedAt"), ("fenced-by", "fencedBy"), ("boot-id", "bootId"),
        ("recorded-by", "recordedBy"), ("recorded-at", "recordedAt"), ("placed-by", "placedBy"), ("placed-at", "placedAt"),
        ("source", "source")]
    {
        outage[told] = node["metadata"]["annotations"][format!("fencegate.dev/{key}")].clone();
        annotate(node, &[(key, Value::Null)]);
    }
    node["spec"]["taints"] = json!([]);
    annotate(node, &[("last-outage", json!(outage.to_string()))]);
}

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
            annotate(node, &[("placed-by", json!(BY_WHOM)), ("placed-at", written(now)), ("source", json!("annotations"))]);
            annotate(node, &[(key, Value::Null)]);
        });
        assert!(story.breaks().contains(&Law::Fence), "{key}");
    }
}

#[test]
fn a_placement_contradicts_nothing_that_the_cluster_knows() {
    let cases: [(&str, fn(&mut Story)); 6] = [
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
fn a_node_is_not_created_with_the_taint() {
    let mut story = Story::begins();
    story.remove("/registry/minions/n1");
    story.tick();
    let now = story.revision;
    annotate(&mut story.node, &[("method", json!("power-off")), ("fenced-at", written(now)), ("fenced-by", json!("alice")),
        ("recorded-by", json!(BY_WHOM)), ("recorded-at", written(now)), ("placed-by", json!(BY_WHOM)),
        ("placed-at", written(now)), ("source", json!("annotations"))]);
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
            annotate(node, &[("overridden", json!("drill")), ("overridden-by", json!(by)), ("overridden-at", written(now))]);
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
        story.write(|node, now| annotate(node, &[(key, if key.ends_with("-at") { written(now) } else { json!("bob") })]));
        assert_eq!(story.breaks(), [Law::Honest], "{key}");
    }
    let mut story = Story::begins();
    story.write(|node, now| {
        annotate(node, &[("proof", json!("seen")), ("recorded-by", json!(BY_WHOM)), ("recorded-at", written(now - 90))]);
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
        log.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect()
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
    story.log += &format!("{withdrawn}\n");
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
    let mut log = String::new();
    for line in story.log.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["ts"] = written(2);
        log += &format!("{line}\n");
    }
    story.log = log;
    assert_eq!(story.breaks(), [Law::Logged]);
}
