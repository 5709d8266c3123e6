//! medik8s: fence-agents-remediation, self-node-remediation, storage-based-remediation.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Writer, Written, denied, out_of_service, out_of_service_now, without};
use crate::{
    harness::{
        accounts::Account,
        gate::Gate,
        kinds::{FENCE_AGENTS_REMEDIATION, SELF_NODE_REMEDIATION, STORAGE_BASED_REMEDIATION},
        plane::{MERGE, Plane},
    },
    world::{
        TAINT, accepts, attach, dead_node, detach, evidence, is_tainted, kubectl, now, of_node, plane_with_alice,
        record_on, said,
    },
};

fn condition(kind: &str, status: &str, since: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Any", "message": "", "lastTransitionTime": since})
}

/// fence-agents-remediation, while it remediates Node `n7`.
struct Far<'a> {
    account: Account,
    writer: Writer<'a>,
}

impl<'a> Far<'a> {
    const NAMESPACE: &'static str = "fence-agents-remediation";
    const TAINT: &'static str = "remediation.medik8s.io/fence-agents-remediation";

    /// Starts the remediation: its fence agent runs, its own taint is on the node, and its CR has
    /// the status for that.
    async fn start(plane: &'a Plane) -> Self {
        let verbs = ["get", "list", "watch", "update", "delete"];
        let name = "fence-agents-remediation-controller-manager";
        let account = Account::create(plane, Self::NAMESPACE, name, &verbs).await;
        let far = Self { writer: Writer { plane, token: account.token.clone() }, account };
        FENCE_AGENTS_REMEDIATION.install(plane).await;
        dead_node(plane, "n7", json!({})).await;
        let spec = json!({"agent": "fence_ipmilan", "remediationStrategy": "OutOfServiceTaint"});
        let cr = json!({"metadata": {"name": "n7"}, "spec": spec, "status": Self::status("Unknown", &now())});
        FENCE_AGENTS_REMEDIATION.create(plane, Self::NAMESPACE, cr).await;
        let its_own = json!({"key": Self::TAINT, "effect": "NoSchedule", "timeAdded": now()});
        far.writer.update("n7", |taints| taints.push(its_own.clone())).await.unwrap();
        far
    }

    fn status(agent_succeeded: &str, since: &str) -> Value {
        json!({"conditions": [condition("Processing", "True", since),
            condition("FenceAgentActionSucceeded", agent_succeeded, since), condition("Succeeded", "Unknown", since)]})
    }

    /// Reports that the agent succeeded, in a separate write before the taint. Returns the time.
    async fn succeeds(&self) -> String {
        let fenced = now();
        let status = Self::status("True", &fenced);
        FENCE_AGENTS_REMEDIATION.report(self.writer.plane, Self::NAMESPACE, "n7", status).await;
        fenced
    }

    async fn place(&self) -> Written {
        self.writer.update("n7", |taints| taints.push(out_of_service_now())).await
    }

    async fn release(&self) -> Written {
        self.writer.update("n7", without(TAINT)).await
    }

    /// Ends the remediation: its own taint is removed last, then the CR with its finalizer.
    async fn ends(&self) {
        self.writer.update("n7", without(Self::TAINT)).await.unwrap();
        FENCE_AGENTS_REMEDIATION.delete(self.writer.plane, Self::NAMESPACE, "n7").await;
    }
}

/// `controllers/fenceagentsremediation_controller.go`, `pkg/utils/taints.go`, at v0.7.0.
#[tokio::test(flavor = "multi_thread")]
async fn fence_agents_remediation_passes_unmodified_with_its_overlay() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let far = Far::start(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    let too_early = denied(far.place().await);
    assert!(too_early.contains("fence-agents-remediation/n7 has FenceAgentActionSucceeded=\"Unknown\""), "{too_early}");
    gate.apply_overlay(&plane, "default").await;
    let fenced = far.succeeds().await;
    for _ in 0..3 {
        let said = denied(far.place().await);
        assert!(said.contains("EvidenceMissing: annotations: "), "retries do not help: {said}");
    }
    gate.apply_overlay(&plane, "medik8s").await;
    attach(&plane, "va", "n7").await;
    far.place().await.unwrap();

    // The whole record is in `kubectl get node -o yaml`, and in one line of the audit log.
    let yaml = said(&kubectl(&plane, &["get", "node", "n7", "-o", "yaml"]));
    let user = far.account.user();
    for line in [
        "fencegate.dev/method: power-off".to_owned(),
        "fencegate.dev/fenced-by: fence-agents-remediation".to_owned(),
        format!("fencegate.dev/fenced-at: \"{fenced}\""),
        "fencegate.dev/boot-id: boot-7".to_owned(),
        "fencegate.dev/source: fence-agents-remediation".to_owned(),
        format!("fencegate.dev/placed-by: {user}"),
        format!("fencegate.dev/recorded-by: {user}"),
    ] {
        assert!(yaml.contains(&line), "{line} is not in\n{yaml}");
    }
    let lines = gate.audit_log();
    let line = lines.last().unwrap();
    for (field, value) in [
        (&line["webhook"], "validate"),
        (&line["decision"], "allow"),
        (&line["source"], "fence-agents-remediation"),
        (&line["user"]["name"], &user),
        (&line["evidence"]["fencedAt"], &fenced),
    ] {
        assert_eq!(field, value, "{line}");
    }
    let seen = &line["facts"]["fenceAgentsRemediations"]["known"]["value"][0];
    assert_eq!((&seen["metadata"]["name"], &seen["status"]["conditions"][1]["status"]), (&json!("n7"), &json!("True")));
    println!("{line}");

    // The CR is deleted as soon as the node is healthy. The operator does not wait for pods and
    // volumes, but the gate does.
    let too_early = denied(far.release().await);
    assert!(too_early.contains("\n  VolumesAttached: "), "{too_early}");
    detach(&plane, "va").await;
    far.release().await.unwrap();
    far.ends().await;
    let record = record_on(&plane, "n7").await;
    assert!(record.len() == 1 && record["last-outage"].contains("fence-agents-remediation"), "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_can_be_neither_replayed_nor_forged() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    let far = Far::start(&plane).await;
    far.succeeds().await;
    far.place().await.unwrap();
    let stored = of_node(&plane, "n7").await;
    far.release().await.unwrap();
    far.ends().await;

    let write = |mut node: Value| {
        node["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        said(&plane.kubectl("alice", &["replace", "-f", "-"], &node.to_string()))
    };
    // The Node as it was stored during the outage.
    let replayed = write(stored.clone());
    assert!(replayed.contains("\n  StampForged: "), "{replayed}");
    // The same record with alice's name and the current time: the best forgery that she can write.
    let mut forged = stored;
    for (stamp, value) in
        [("placed-by", "alice"), ("recorded-by", "alice"), ("placed-at", &now()), ("recorded-at", &now())]
    {
        forged["metadata"]["annotations"][format!("fencegate.dev/{stamp}")] = json!(value);
    }
    let forged = write(forged);
    assert!(forged.contains("\n  StampForged: fencegate.dev/source is written by the gate alone"), "{forged}");
    assert!(forged.contains("fence-agents-remediation: there is no FenceAgentsRemediation for the node"), "{forged}");
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}

/// `internal/controller/selfnoderemediation_controller.go`, 2026-07.
#[tokio::test(flavor = "multi_thread")]
async fn self_node_remediation_passes_with_its_overlay_once_the_reboot_is_over() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let namespace = "self-node-remediation";
    let account = Account::create(
        &plane,
        namespace,
        "self-node-remediation-controller-manager",
        &["get", "list", "watch", "create", "update", "patch", "delete"],
    )
    .await;
    let snr = Writer { plane: &plane, token: account.token.clone() };
    SELF_NODE_REMEDIATION.install(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let rebooted = (Timestamp::now() - SignedDuration::from_secs(60)).strftime("%FT%TZ").to_string();
    let cr = json!({"metadata": {"name": "n7-x7f2", "annotations": {"remediation.medik8s.io/node-name": "n7"}},
        "status": {"phase": "Pre-Reboot-Completed", "timeAssumedRebooted": rebooted}});
    SELF_NODE_REMEDIATION.create(&plane, namespace, cr).await;

    // A merge patch of the complete list, without a resourceVersion.
    let place = async || {
        let taints = snr.taints("n7", |taints| taints.push(out_of_service_now())).await;
        snr.patch(MERGE, "n7", json!({"spec": {"taints": taints}})).await
    };
    let said = denied(place().await);
    assert!(said.contains("EvidenceMissing"), "{said}");
    gate.apply_overlay(&plane, "medik8s").await;
    let said = denied(place().await);
    assert!(said.contains("n7-x7f2 is in phase \"Pre-Reboot-Completed\""), "{said}");
    let done = json!({"phase": "Reboot-Completed", "timeAssumedRebooted": rebooted});
    SELF_NODE_REMEDIATION.report(&plane, namespace, "n7-x7f2", done).await;
    // The agent on the dead node has the same user name. Only its token says where it runs.
    let agent = Writer { plane: &plane, token: account.token_on(&plane, "n7").await };
    let taints = agent.taints("n7", |taints| taints.push(out_of_service_now())).await;
    let said = denied(agent.patch(MERGE, "n7", json!({"spec": {"taints": taints}})).await);
    assert!(said.contains("SelfAttested") && !said.contains("EvidenceMissing"), "{said}");
    place().await.unwrap();
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["fenced-at"].as_str()), ("self-node-remediation", rebooted.as_str()));

    // It waits for pods and volumes itself, and then removes the taint. If that was the last taint,
    // it writes `null`.
    let taints = snr.taints("n7", without(TAINT)).await;
    let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
    snr.patch(MERGE, "n7", json!({"spec": {"taints": taints}})).await.unwrap();
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}

/// `internal/controller/storagebasedremediation_controller.go`, 2026-05. When it places the taint,
/// its CR says only that fencing has begun.
#[tokio::test(flavor = "multi_thread")]
async fn storage_based_remediation_waits_for_a_person_who_records_the_fence() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    let account =
        Account::create(&plane, "sbr-operator-system", "sbr-agent", &["get", "list", "watch", "update", "patch"]).await;
    // One of the agents on the other nodes. They elect no leader.
    dead_node(&plane, "n1", json!({})).await;
    let sbr = Writer { plane: &plane, token: account.token_on(&plane, "n1").await };
    STORAGE_BASED_REMEDIATION.install(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let cr =
        json!({"metadata": {"name": "n7"}, "status": {"conditions": [condition("FencingInProgress", "True", &now())]}});
    STORAGE_BASED_REMEDIATION.create(&plane, "sbr-operator-system", cr).await;

    let place = || sbr.update("n7", |taints| taints.push(out_of_service()));
    for _ in 0..3 {
        let said = denied(place().await);
        assert!(said.contains("EvidenceMissing"), "{said}");
    }
    let patch = json!({"metadata": {"annotations": evidence()}}).to_string();
    accepts(kubectl(&plane, &["patch", "node", "n7", "--type=merge", "-p", &patch]));
    place().await.unwrap();
    assert_eq!(record_on(&plane, "n7").await["recorded-by"], "alice");
    sbr.update("n7", without(TAINT)).await.unwrap();
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}
