//! The evidence sources that are kinds of their own, read from a real API server.

use http::Method;
use serde_json::json;

use crate::{
    harness::{
        gate::Gate,
        kinds::{FENCE_AGENTS_REMEDIATION, NETWORK_FENCE},
    },
    world::{PUT_ON, accepts, dead_node, kubectl, plane_with_alice, record_on, rejects, said},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_absent_is_told_from_one_that_may_not_be_read() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.adopt(&plane, "medik8s").await;
    dead_node(&plane, "n1", json!({})).await;
    let place = || kubectl(&plane, &["taint", "node", "n1", PUT_ON]);
    let says = |text: &str| {
        let output = place();
        assert!(!output.status.success() && said(&output).contains(text), "{text} is not in {}", said(&output));
    };
    says("fence-agents-remediation: not installed; self-node-remediation: not installed");
    assert!(!said(&place()).contains("FactsUnavailable"), "what is not there is known");
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    says(
        "fence-agents-remediation: there is no FenceAgentsRemediation for the node; self-node-remediation: not installed",
    );

    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fencegate-medik8s";
    plane.api("admin", Method::DELETE, binding, None).await.unwrap();
    let forbidden = async |_: &_| said(&place()).contains("FactsUnavailable");
    plane.until("the right is gone", forbidden).await;
    rejects(place(), &["EvidenceMissing", "FactsUnavailable"]);
    says("fence-agents-remediation: could not be read; self-node-remediation: could not be read");
    says("fenceagentsremediations.fence-agents-remediation.medik8s.io could not be read: forbidden: ");
    // Annotations come first, and with them nobody else is asked.
    accepts(kubectl(
        &plane,
        &[
            "annotate",
            "node",
            "n1",
            "fencegate.dev/method=power-off",
            "fencegate.dev/fenced-by=alice",
            &format!("fencegate.dev/fenced-at={}", crate::world::now()),
        ],
    ));
    accepts(place());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_fence_vouches_once_it_covers_every_address_of_the_node() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.adopt(&plane, "csi-addons").await;
    NETWORK_FENCE.install(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let place = || said(&kubectl(&plane, &["taint", "node", "n7", PUT_ON]));
    let succeeded = json!({"result": "Succeeded", "message": "fencing operation successful"});
    let fence = |cidrs: &[&str]| {
        json!({"metadata": {"name": "n7-rbd"},
        "spec": {"fenceState": "Fenced", "cidrs": cidrs, "driver": "rbd.csi.ceph.com"}, "status": {}})
    };
    NETWORK_FENCE.create(&plane, "", fence(&["10.0.0.7/32"])).await;
    assert!(place().contains("network-fence: n7-rbd has result \"\""));
    NETWORK_FENCE.report(&plane, "", "n7-rbd", succeeded.clone()).await;
    assert!(place().contains("network-fence: n7-rbd does not cover fd00::7"));
    NETWORK_FENCE.delete(&plane, "", "n7-rbd").await;
    let mut both = fence(&["10.0.0.7/32", "fd00::/64"]);
    both["status"] = succeeded;
    NETWORK_FENCE.create(&plane, "", both).await;
    accepts(kubectl(&plane, &["taint", "node", "n7", PUT_ON]));
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["method"].as_str()), ("network-fence", "storage-isolation"));
    assert_eq!(record["boot-id"], "boot-7");
}
