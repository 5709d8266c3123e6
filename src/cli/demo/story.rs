//! The steps of the demo: what happens when, which command is typed, and how it should end.

use serde_json::{Value, json};

const TAINT: &str = "node.kubernetes.io/out-of-service";
const PLACE: &str = "kubectl taint node worker-2 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
const REMOVE: &str = "kubectl taint node worker-2 node.kubernetes.io/out-of-service-";

/// A change of the stored Node, or a change that a command asks for.
pub type Change = fn(&mut Value);

/// One command, and how it should end.
pub struct Step {
    /// What happened since the previous step, and how it changed the stored Node.
    pub meanwhile: Option<(&'static str, Change)>,
    /// The time of the step, on 2026-11-22 in UTC.
    pub time: &'static str,
    pub command: &'static str,
    pub user: &'static str,
    pub does: Does,
    /// Whether the dead database pod and its volume are still on the node.
    pub bound: bool,
    /// The command of the plugin that does the same, and waits for what it needs.
    pub instead: Option<&'static str>,
    /// Whether to show afterwards where the node stands.
    pub shows_status: bool,
    /// What kubectl prints if the write is allowed. `None`: the gate should deny it.
    pub done: Option<&'static str>,
}

/// The write that a command sends.
pub enum Does {
    Update(Change),
    Delete,
}

/// The Node before the outage.
pub fn worker() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "worker-2", "uid": "a0b4b7ee-0b57-4d0e-a2a5-5be9c2a55d02"},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-22T10:09:58Z"}],
            "nodeInfo": {"bootID": "2b9d4c11-83f0-4f57-a5b5-5b7c0e2f9d02"},
        },
    })
}

/// Applies a merge patch (RFC 7386).
fn merge(node: &mut Value, patch: &Value) {
    json_patch::merge(node, patch);
}

fn place(node: &mut Value) {
    let taint = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    merge(node, &json!({"spec": {"taints": [taint]}}));
}

fn remove(node: &mut Value) {
    merge(node, &json!({"spec": {"taints": null}}));
}

fn annotate(node: &mut Value, annotations: &Value) {
    merge(node, &json!({"metadata": {"annotations": annotations}}));
}

fn reports(node: &mut Value, ready: &str, boot_id: &str) {
    let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-11-22T10:09:58Z"});
    merge(node, &json!({"status": {"conditions": [condition], "nodeInfo": {"bootID": boot_id}}}));
}

/// All steps in order.
pub fn steps() -> Vec<Step> {
    let by_alice = |time, command, does| Step {
        meanwhile: None,
        time,
        command,
        user: "alice",
        does: Does::Update(does),
        bound: true,
        instead: None,
        shows_status: false,
        done: None,
    };
    let by_bob = |time, command, does| Step { user: "bob", ..by_alice(time, command, does) };
    vec![
        by_alice("10:10:20", PLACE, place),
        Step {
            meanwhile: Some((
                "Kubernetes reports the node as Unknown. The pod hangs in Terminating: does the machine still write?",
                |node| reports(node, "Unknown", "2b9d4c11-83f0-4f57-a5b5-5b7c0e2f9d02"),
            )),
            shows_status: true,
            ..by_alice("10:12:00", PLACE, place)
        },
        Step {
            meanwhile: Some((
                "alice switches worker-2 off at its management board, and records that. Her first value is not valid.",
                |_| {},
            )),
            ..by_alice("10:15:30", "kubectl annotate node worker-2 fencegate.dev/method=unplugged", |node| {
                annotate(node, &json!({"fencegate.dev/method": "unplugged"}));
            })
        },
        Step {
            done: Some("node/worker-2 annotated"),
            instead: Some("kubectl fencegate attest worker-2 --method power-off --wait"),
            shows_status: true,
            ..by_alice(
                "10:15:50",
                "kubectl annotate node worker-2 fencegate.dev/method=power-off fencegate.dev/fenced-by=alice \
                 fencegate.dev/fenced-at=2026-11-22T10:15:00Z",
                |node| {
                    let evidence = json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-by": "alice",
                        "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z"});
                    annotate(node, &evidence);
                },
            )
        },
        Step {
            done: Some("node/worker-2 tainted"),
            instead: Some("kubectl fencegate place worker-2 --wait"),
            shows_status: true,
            ..by_alice("10:16:05", PLACE, place)
        },
        Step {
            meanwhile: Some(("Kubernetes force-deletes the pod and detaches the volume. bob is in a hurry.", |_| {})),
            ..by_bob("10:16:10", REMOVE, remove)
        },
        by_bob("10:16:20", "kubectl annotate node worker-2 --overwrite fencegate.dev/fenced-by=bob", |node| {
            annotate(node, &json!({"fencegate.dev/fenced-by": "bob"}));
        }),
        Step { does: Does::Delete, ..by_bob("10:16:30", "kubectl delete node worker-2", |_| {}) },
        Step {
            meanwhile: Some((
                "db-0 runs on worker-3, and its volume is attached there. worker-2 is repaired and boots.",
                |node| reports(node, "True", "c1f7be02-6f1b-4f0e-8a29-7d1e0b8a4f04"),
            )),
            bound: false,
            done: Some("node/worker-2 untainted"),
            instead: Some("kubectl fencegate release worker-2 --wait"),
            ..by_bob("10:40:00", REMOVE, remove)
        },
    ]
}
