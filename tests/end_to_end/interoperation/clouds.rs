//! Clouds: Azure's cloud controller manager, AWS's node termination handler.

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Writer, Written, denied, out_of_service, without};
use crate::{
    harness::{
        accounts::Account,
        gate::Gate,
        plane::{Plane, STRATEGIC},
    },
    world::{TAINT, attach, dead_node, detach, is_tainted, of_node, plane_with_alice, record_on, renew_lease},
};

const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// The patch of `k8s.io/cloud-provider/node/helpers`: the full list and the `resourceVersion` that
/// it was made from.
async fn patch_taints(writer: &Writer<'_>, node: &str, change: impl Fn(&mut Vec<Value>)) -> Written {
    loop {
        let version = writer.read(node).await["metadata"]["resourceVersion"].clone();
        let taints = writer.taints(node, &change).await;
        let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        let written = writer.patch(STRATEGIC, node, body).await;
        if !written.as_ref().is_err_and(|error| error.code == 409) {
            return written;
        }
    }
}

/// Reports what the kubelet of a recovered machine reports.
async fn recovers(plane: &Plane, node: &str) {
    renew_lease(plane, node, Timestamp::now()).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]}});
    plane.api("admin", Method::PATCH, &format!("/api/v1/nodes/{node}/status"), Some(ready)).await.unwrap();
}

/// `pkg/provider/azure.go`: `updateNodeTaint`, since v1.29.
#[tokio::test(flavor = "multi_thread")]
async fn azure_passes_with_the_defaults() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    let account = Account::create(&plane, "kube-system", "cloud-controller-manager", &["*"]).await;
    let azure = Writer { plane: &plane, token: account.token.clone() };
    dead_node(&plane, "n7", json!({})).await;
    let taint = json!({"key": TAINT, "value": "", "effect": "NoExecute"});
    let place = || patch_taints(&azure, "n7", |taints| taints.push(taint.clone()));

    // The node lifecycle controller places its taint first, in a separate write and without
    // `timeAdded`.
    let said = denied(place().await);
    assert!(
        said.contains("cloud-shutdown: taint node.cloudprovider.kubernetes.io/shutdown is not on the stored node"),
        "{said}"
    );
    patch_taints(&azure, "n7", |taints| taints.push(json!({"key": SHUTDOWN, "effect": "NoSchedule"}))).await.unwrap();
    renew_lease(&plane, "n7", Timestamp::now()).await;
    let said = denied(place().await);
    assert!(said.contains("LeaseStillRenewed") && !said.contains("EvidenceMissing"), "{said}");
    plane.until("the Lease has expired", async |_| place().await.is_ok()).await;
    let record = record_on(&plane, "n7").await;
    assert_eq!(
        (record["source"].as_str(), record["method"].as_str(), record["placed-by"].as_str()),
        ("cloud-shutdown", "instance-stop", account.user().as_str())
    );

    // On every event of a Ready node, it removes the taint. If this is denied, it tries again at
    // the next event.
    attach(&plane, "va", "n7").await;
    recovers(&plane, "n7").await;
    let release = || patch_taints(&azure, "n7", without(TAINT));
    let said = denied(release().await);
    assert!(said.contains("VolumesAttached"), "{said}");
    detach(&plane, "va").await;
    release().await.unwrap();
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}

/// `pkg/node/node.go`: `TaintOutOfService`, with `enableOutOfServiceTaint`, since v1.25.
#[tokio::test(flavor = "multi_thread")]
async fn the_termination_handler_cannot_place_the_taint_on_a_running_machine() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    let account =
        Account::create(&plane, "kube-system", "aws-node-termination-handler", &["get", "list", "patch", "update"])
            .await;
    dead_node(&plane, "n7", json!({})).await;
    recovers(&plane, "n7").await;

    // As a DaemonSet, it runs on the node that it taints, until the instance ends. It tries once
    // for each event.
    let on_node = Writer { plane: &plane, token: account.token_on(&plane, "n7").await };
    let said = denied(on_node.update("n7", |taints| taints.push(out_of_service())).await);
    for reason in ["SelfAttested", "NodeStillReady", "EvidenceMissing"] {
        assert!(said.contains(&format!("\n  {reason}: ")), "{reason} is not in {said}");
    }
    // As a Deployment with a queue, it gets an event after the instance has stopped. The cloud's
    // own taint vouches.
    let queue = Writer { plane: &plane, token: account.token.clone() };
    dead_node(&plane, "n8", json!({})).await;
    let place = || queue.update("n8", |taints| taints.push(out_of_service()));
    let said = denied(place().await);
    assert!(said.contains("EvidenceMissing"), "{said}");
    let cloud = Writer { plane: &plane, token: "admin".to_owned() };
    patch_taints(&cloud, "n8", |taints| taints.push(json!({"key": SHUTDOWN, "effect": "NoSchedule"}))).await.unwrap();
    place().await.unwrap();
    assert_eq!(record_on(&plane, "n8").await["source"], "cloud-shutdown");
}
