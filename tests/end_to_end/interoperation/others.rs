//! Metal3, OpenShift's two-node fencing, kube-fencing.

use jiff::Timestamp;
use serde_json::json;

use super::{Writer, denied, out_of_service, out_of_service_now, without};
use crate::{
    harness::{accounts::Account, gate::Gate, kinds::BARE_METAL_HOST, plane::MERGE},
    world::{
        REMOVE, TAINT, accepts, attach, dead_node, detach, evidence, is_tainted, now, of_node, plane_with_alice,
        record_on, rejects, renew_lease,
    },
};

/// `controllers/metal3remediation_controller.go`, `baremetal/metal3remediation_manager.go`,
/// 2026-08. It calls the API server of the workload cluster with the kubeconfig of that cluster's
/// administrator.
#[tokio::test(flavor = "multi_thread")]
async fn metal3_passes_with_its_overlay_if_its_hosts_are_in_the_same_cluster() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let capm3 = Writer { plane: &plane, token: "admin".to_owned() };
    dead_node(&plane, "n7", json!({"spec": {"providerID": "metal3://default/host-7/machine-7"}})).await;
    let place = || capm3.update("n7", |taints| taints.push(out_of_service_now()));
    let said = denied(place().await);
    assert!(said.contains("EvidenceMissing"), "{said}");
    gate.apply_overlay(&plane, "metal3").await;
    let said = denied(place().await);
    assert!(said.contains("bare-metal-host: not installed"), "the hosts are in another cluster: {said}");

    BARE_METAL_HOST.install(&plane).await;
    let power = |on: bool| json!({"poweredOn": on, "operationalStatus": "OK", "lastUpdated": now()});
    let host = json!({"metadata": {"name": "host-7", "annotations": {
        "reboot.metal3.io/metal3-remediation-1": r#"{"mode":"hard","force":false}"#}}, "status": power(true)});
    BARE_METAL_HOST.create(&plane, "default", host).await;
    let said = denied(place().await);
    assert!(said.contains("bare-metal-host: default/host-7 is powered on"), "{said}");
    BARE_METAL_HOST.report(&plane, "default", "host-7", power(false)).await;
    place().await.unwrap();
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["placed-by"].as_str()), ("bare-metal-host", "admin"));

    // It waits for pods and volumes, powers the host on, and removes the taint without waiting for
    // Ready.
    BARE_METAL_HOST.report(&plane, "default", "host-7", power(true)).await;
    capm3.update("n7", without(TAINT)).await.unwrap();
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}

/// OpenShift's machine-config-operator, `templates/master/00-master/two-node-with-fencing`, 4.22:
/// one patch that replaces all taints, from `system:admin` on the other node's host. It is repeated
/// every 5 s for 10 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn two_node_fencing_passes_with_its_overlay_as_soon_as_the_lease_has_expired() {
    const APPLIED_BY: &str = "node.kubernetes.io/out-of-service-applied-by";
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let patch = json!({"metadata": {"annotations": {APPLIED_BY: "pacemaker"}}, "spec": {"taints": [out_of_service()]}})
        .to_string();
    let place = || plane.kubectl("admin", &["patch", "node", "n7", "--type=strategic", "-p", &patch], "");
    rejects(place(), &["EvidenceMissing"]);
    gate.apply_overlay(&plane, "two-node-fencing").await;
    renew_lease(&plane, "n7", Timestamp::now()).await;
    rejects(place(), &["LeaseStillRenewed"]);
    plane.until("the Lease has expired", async |_| place().status.success()).await;
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["fenced-by"].as_str()), ("pacemaker", "pacemaker"));

    // It removes the taint first, and the annotation in a second write. After 300 s, it no longer
    // waits for volumes, but the gate still does.
    attach(&plane, "va", "n7").await;
    let untaint = || plane.kubectl("admin", &["taint", "node", "n7", REMOVE], "");
    rejects(untaint(), &["VolumesAttached"]);
    detach(&plane, "va").await;
    accepts(untaint());
    accepts(plane.kubectl("admin", &["annotate", "node", "n7", &format!("{APPLIED_BY}-")], ""));
    assert_eq!(record_on(&plane, "n7").await.keys().collect::<Vec<_>>(), ["last-outage"]);
}

/// kvaps/kube-fencing, `pkg/controller/job/job_controller.go`, v2.4: a merge patch that replaces
/// all taints, after the Job that fenced the node.
#[tokio::test(flavor = "multi_thread")]
async fn kube_fencing_passes_if_its_job_records_the_evidence() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    let verbs = ["list", "watch", "get", "delete", "update", "patch"];
    let account = Account::create(&plane, "kube-fencing", "fencing-controller", &verbs).await;
    let fencing = Writer { plane: &plane, token: account.token.clone() };
    dead_node(&plane, "n7", json!({})).await;
    let state = |state: &str| json!({"metadata": {"annotations": {"fencing/state": state}}});
    fencing.patch(MERGE, "n7", state("started")).await.unwrap();
    let place = || fencing.patch(MERGE, "n7", json!({"spec": {"taints": [out_of_service()]}}));
    for _ in 0..3 {
        let said = denied(place().await);
        assert!(said.contains("EvidenceMissing"), "{said}");
    }
    // The last step of the Job records the evidence. The controller retries by itself.
    let evidence = json!({"metadata": {"annotations": evidence()}});
    fencing.patch(MERGE, "n7", evidence).await.unwrap();
    place().await.unwrap();
    fencing.patch(MERGE, "n7", state("fenced")).await.unwrap();
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["placed-by"].as_str()), ("annotations", account.user().as_str()));
}
