//! Histories that are made up: one Node, a second for each revision, and a tick between any two.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::history::{History, Law, TICKS};

pub const BY_WHOM: &str = "alice";

/// A time of the history: each revision is stored in a second of its own.
fn second(revision: u64) -> Timestamp {
    let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(i64::try_from(revision).unwrap())
}

pub fn written(revision: u64) -> Value {
    json!(second(revision).to_string())
}

/// A history under construction. Between two revisions there are ticks.
pub struct Story {
    history: History,
    pub node: Value,
    /// The revision of the Node that is stored.
    pub stored: u64,
    pub revision: u64,
    pub log: String,
}

impl Story {
    /// A silent machine: its Lease was renewed long ago, by the API server's clock.
    pub fn begins() -> Self {
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

    /// There is a replica whose clock is ahead by this much.
    pub fn replica_is_ahead(&mut self, by: SignedDuration) {
        self.history.log("", by);
    }

    pub fn store(&mut self, key: &str, object: &Value) {
        self.tick();
        self.revision += 1;
        self.history.store(key, self.revision, Some(object.to_string().as_bytes()));
    }

    pub fn remove(&mut self, key: &str) {
        self.tick();
        self.revision += 1;
        self.history.store(key, self.revision, None);
    }

    pub fn tick(&mut self) {
        self.revision += 1;
        let data = json!({"sent": written(self.revision), "answered": written(self.revision - 1)});
        self.history.store(TICKS, self.revision, Some(json!({"data": data}).to_string().as_bytes()));
    }

    pub fn store_node(&mut self) {
        let node = self.node.clone();
        self.store("/registry/minions/n1", &node);
        self.stored = self.revision;
    }

    /// A guarded write, which both webhooks judge now and allow.
    pub fn write(&mut self, change: impl FnOnce(&mut Value, u64)) {
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
    pub fn decide(&mut self, webhook: &str, operation: &str, before: &Value, after: Option<&Value>) {
        let mut line = json!({"ts": written(self.revision), "event": "decision", "uid": format!("{webhook}-{}", self.revision),
            "node": "n1", "operation": operation, "webhook": webhook, "decision": "allow", "dryRun": false,
            "user": {"name": BY_WHOM, "groups": []}, "latencyMs": 5.0, "before": before});
        if let Some(after) = after {
            line["after"] = after.clone();
        }
        self.log.push_str(&line.to_string());
        self.log.push('\n');
    }

    pub fn attest(&mut self) {
        self.write(|node, now| {
            annotate(
                node,
                &[
                    ("method", json!("power-off")),
                    ("fenced-at", written(now)),
                    ("fenced-by", json!("alice")),
                    ("boot-id", json!("boot-1")),
                    ("recorded-by", json!(BY_WHOM)),
                    ("recorded-at", written(now)),
                ],
            );
        });
    }

    pub fn place(&mut self) {
        self.write(|node, now| {
            node["spec"]["taints"] = entry("NoExecute");
            annotate(
                node,
                &[("placed-by", json!(BY_WHOM)), ("placed-at", written(now)), ("source", json!("annotations"))],
            );
        });
    }

    pub fn release(&mut self) {
        self.write(|node, now| released(node, &written(now)));
    }

    /// The deletion of the Node, which was judged before these two things happened.
    pub fn delete(&mut self) {
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

    pub fn bind(&mut self) {
        let spec = json!({"nodeName": "n1", "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]});
        self.store("/registry/pods/default/db-0", &json!({"metadata": {"name": "db-0"}, "spec": spec}));
    }

    pub fn attach(&mut self) {
        let spec = json!({"nodeName": "n1", "attacher": "san.test", "source": {"persistentVolumeName": "pv"}});
        self.store("/registry/volumeattachments/va", &json!({"metadata": {"name": "va"}, "spec": spec}));
    }

    /// The laws that the history breaks.
    pub fn breaks(mut self) -> Vec<Law> {
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

pub fn entry(effect: &str) -> Value {
    json!([{"key": "node.kubernetes.io/out-of-service", "effect": effect}])
}

pub fn lease(revision: u64) -> Value {
    json!({"metadata": {"managedFields": [{"time": written(revision), "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]},
        "spec": {"renewTime": written(revision), "leaseDurationSeconds": 40}})
}

/// Sets annotations of the gate; `null` removes one.
pub fn annotate(node: &mut Value, annotations: &[(&str, Value)]) {
    let of_node = node["metadata"]["annotations"].as_object_mut().unwrap();
    for (key, value) in annotations {
        of_node.insert(format!("fencegate.dev/{key}"), value.clone());
    }
    of_node.retain(|_, value| !value.is_null());
}

/// What the gate makes of a release.
pub fn released(node: &mut Value, now: &Value) {
    let mut outage = json!({"releasedBy": BY_WHOM, "releasedAt": now});
    for (key, told) in [
        ("method", "method"),
        ("fenced-at", "fencedAt"),
        ("fenced-by", "fencedBy"),
        ("boot-id", "bootId"),
        ("recorded-by", "recordedBy"),
        ("recorded-at", "recordedAt"),
        ("placed-by", "placedBy"),
        ("placed-at", "placedAt"),
        ("source", "source"),
    ] {
        outage[told] = node["metadata"]["annotations"][format!("fencegate.dev/{key}")].clone();
        annotate(node, &[(key, Value::Null)]);
    }
    node["spec"]["taints"] = json!([]);
    annotate(node, &[("last-outage", json!(outage.to_string()))]);
}
