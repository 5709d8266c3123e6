//! The story: what is typed when, and what the cluster looks like by then.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::Snapshot;

const TAINT: &str = "node.kubernetes.io/out-of-service";

/// One command, and how it should end.
pub struct Step {
    /// What happened since the step before.
    pub meanwhile: Option<&'static str>,
    pub at: Timestamp,
    /// `at`, as people read it.
    pub time: &'static str,
    pub command: String,
    pub review: Value,
    pub cluster: Snapshot,
    pub allowed: bool,
    /// What kubectl prints when it is.
    pub done: &'static str,
}

/// What the story changes about worker-2.
#[derive(Clone)]
struct Worker {
    ready: &'static str,
    boot_id: &'static str,
    is_tainted: bool,
    annotations: Value,
}

/// The stored Node and the rest of the cluster, as the story moves on.
struct World {
    node: Worker,
    /// Whether the dead database pod and its volume are still on the node.
    bound: bool,
    steps: Vec<Step>,
}

/// All steps in order.
///
/// # Errors
/// If a step's time or cluster cannot be read.
pub fn steps() -> anyhow::Result<Vec<Step>> {
    let mut world = World { node: Worker::default(), bound: true, steps: Vec::new() };

    world.type_in(
        None,
        "10:10:20",
        &format!("kubectl taint node worker-2 {TAINT}=nodeshutdown:NoExecute"),
        ("alice", "UPDATE"),
        |node| node.is_tainted = true,
        None,
    )?;
    world.node.ready = "Unknown";
    world.type_in(
        Some("Kubernetes notices. The pod hangs in Terminating; nobody knows whether the machine still writes."),
        "10:12:00",
        &format!("kubectl taint node worker-2 {TAINT}=nodeshutdown:NoExecute"),
        ("alice", "UPDATE"),
        |node| node.is_tainted = true,
        None,
    )?;
    world.type_in(
        Some("alice switches worker-2 off at its management board, and records it; the first time with a slip."),
        "10:15:30",
        "kubectl annotate node worker-2 fencegate.dev/method=unplugged",
        ("alice", "UPDATE"),
        |node| node.annotations = json!({"fencegate.dev/method": "unplugged"}),
        None,
    )?;
    world.type_in(
        None,
        "10:15:50",
        "kubectl annotate node worker-2 fencegate.dev/method=power-off fencegate.dev/fenced-by=alice \
         fencegate.dev/fenced-at=2026-11-22T10:15:00Z",
        ("alice", "UPDATE"),
        |node| node.annotations = evidence("alice"),
        Some("node/worker-2 annotated"),
    )?;
    world.type_in(
        None,
        "10:16:05",
        &format!("kubectl taint node worker-2 {TAINT}=nodeshutdown:NoExecute"),
        ("alice", "UPDATE"),
        |node| node.is_tainted = true,
        Some("node/worker-2 tainted"),
    )?;
    world.type_in(
        Some("Pods are being force-deleted, volumes detached. bob is in a hurry."),
        "10:16:10",
        &format!("kubectl taint node worker-2 {TAINT}-"),
        ("bob", "UPDATE"),
        |node| node.is_tainted = false,
        None,
    )?;
    world.type_in(
        None,
        "10:16:20",
        "kubectl annotate node worker-2 --overwrite fencegate.dev/fenced-by=bob",
        ("bob", "UPDATE"),
        |node| node.annotations = evidence("bob"),
        None,
    )?;
    world.type_in(None, "10:16:30", "kubectl delete node worker-2", ("bob", "DELETE"), |_| {}, None)?;
    world.bound = false;
    world.node.ready = "True";
    world.node.boot_id = "c1f7be02-6f1b-4f0e-8a29-7d1e0b8a4f04";
    world.type_in(
        Some("db-0 runs on worker-3, its volume is attached there. worker-2 is repaired and boots."),
        "10:40:00",
        &format!("kubectl taint node worker-2 {TAINT}-"),
        ("bob", "UPDATE"),
        |node| node.is_tainted = false,
        Some("node/worker-2 untainted"),
    )?;
    Ok(world.steps)
}

impl World {
    /// Adds a step, and stores what it does to the Node if it should be allowed.
    fn type_in(
        &mut self,
        meanwhile: Option<&'static str>,
        time: &'static str,
        command: &str,
        (user, operation): (&str, &str),
        change: impl FnOnce(&mut Worker),
        done: Option<&'static str>,
    ) -> anyhow::Result<()> {
        let mut changed = self.node.clone();
        change(&mut changed);
        let object = if operation == "DELETE" { Value::Null } else { changed.object() };
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": format!("3b8f0c52-4a7e-4c0d-9d0b-{:012}", self.steps.len() + 1),
                "kind": {"group": "", "version": "v1", "kind": "Node"},
                "resource": {"group": "", "version": "v1", "resource": "nodes"},
                "name": "worker-2",
                "operation": operation,
                "userInfo": {"username": user, "groups": ["system:authenticated"]},
                "object": object,
                "oldObject": self.node.object(),
                "dryRun": false,
            },
        });
        self.steps.push(Step {
            meanwhile,
            at: format!("2026-11-22T{time}Z").parse()?,
            time,
            command: command.to_owned(),
            review,
            cluster: self.cluster()?,
            allowed: done.is_some(),
            done: done.unwrap_or_default(),
        });
        if done.is_some() {
            self.node = changed;
        }
        Ok(())
    }

    /// The example cluster while the database is bound to worker-2; afterwards one where nothing is.
    fn cluster(&self) -> anyhow::Result<Snapshot> {
        let nothing_bound = "kind: List\nitems: []\n";
        Ok(if self.bound { Snapshot::example()? } else { Snapshot::parse(nothing_bound)? })
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            ready: "True",
            boot_id: "2b9d4c11-83f0-4f57-a5b5-5b7c0e2f9d02",
            is_tainted: false,
            annotations: Value::Null,
        }
    }
}

impl Worker {
    /// The Node as the API server would send it.
    fn object(&self) -> Value {
        let taint = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": "worker-2",
                "uid": "a0b4b7ee-0b57-4d0e-a2a5-5be9c2a55d02",
                "annotations": self.annotations,
            },
            "spec": {"taints": if self.is_tainted { vec![taint] } else { vec![] }},
            "status": {
                "conditions": [{"type": "Ready", "status": self.ready, "lastHeartbeatTime": "2026-11-22T10:09:58Z"}],
                "nodeInfo": {"bootID": self.boot_id},
            },
        })
    }
}

fn evidence(fenced_by: &str) -> Value {
    json!({
        "fencegate.dev/method": "power-off",
        "fencegate.dev/fenced-by": fenced_by,
        "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
    })
}
