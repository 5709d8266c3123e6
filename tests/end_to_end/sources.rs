//! The evidence sources that are custom resources, read from a real API server.

use http::Method;
use serde_json::json;

use crate::{
    harness::{
        gate::Gate,
        kinds::{FENCE_AGENTS_REMEDIATION, NETWORK_FENCE},
    },
    world::{PLACE, accepts, dead_node, kubectl, plane_with_alice, record_on, rejects, said},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_installed_differs_from_one_that_rbac_forbids() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    dead_node(&plane, "n1", json!({})).await;
    let place = || kubectl(&plane, &["taint", "node", "n1", PLACE]);
    let denied_with = |text: &str| {
        let output = place();
        assert!(!output.status.success() && said(&output).contains(text), "{text} is not in {}", said(&output));
    };
    denied_with("fence-agents-remediation: not installed; self-node-remediation: not installed");
    assert!(!said(&place()).contains("FactsUnavailable"), "a kind that is not installed is a known fact");
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    denied_with(
        "fence-agents-remediation: there is no FenceAgentsRemediation for the node; self-node-remediation: not installed",
    );

    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fencegate-medik8s";
    plane.api("admin", Method::DELETE, binding, None).await.unwrap();
    let forbidden = async |_: &_| said(&place()).contains("FactsUnavailable");
    plane.until("the permission is gone", forbidden).await;
    rejects(place(), &["EvidenceMissing", "FactsUnavailable"]);
    denied_with("fence-agents-remediation: could not be read; self-node-remediation: could not be read");
    denied_with("fenceagentsremediations.fence-agents-remediation.medik8s.io could not be read: forbidden: ");
    // If the annotations vouch, no other source is consulted.
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
    gate.apply_overlay(&plane, "csi-addons").await;
    NETWORK_FENCE.install(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let place = || said(&kubectl(&plane, &["taint", "node", "n7", PLACE]));
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
    accepts(kubectl(&plane, &["taint", "node", "n7", PLACE]));
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["method"].as_str()), ("network-fence", "storage-isolation"));
    assert_eq!(record["boot-id"], "boot-7");
}
