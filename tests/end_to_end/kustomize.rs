//! Overlays that people write themselves: components that are combined, and another namespace.

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, customized, rendered, source_arguments},
        kinds::{FENCE_AGENTS_REMEDIATION, NETWORK_FENCE},
        plane::Plane,
    },
    operators::fencegate,
    sources::{agent_succeeds, remediate_by_agent},
    world::{PLACE, accepts, attach, dead_node, kubectl, plane_with_alice, record_on, rejects, said},
};

const COMBINED: &str = "
resources: [REPOSITORY/manifests/overlays/default]
components: [REPOSITORY/manifests/components/csi-addons, REPOSITORY/manifests/components/medik8s]
";

#[tokio::test(flavor = "multi_thread")]
async fn the_sources_of_two_components_are_both_in_force() {
    let plane = plane_with_alice().await;
    let objects = customized(&plane, COMBINED);
    let arguments = source_arguments(&objects);
    let names = ["network-fence", "fence-agents-remediation", "self-node-remediation"];
    assert_eq!(arguments, names.map(|name| format!("--source={name}")));
    let gate = Gate::start(&plane, 1, &arguments).await;
    gate.until_ready(&plane).await;
    gate.apply_beside_registration(&plane, objects.clone());
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    NETWORK_FENCE.install(&plane).await;

    for node in ["n7", "n8"] {
        dead_node(&plane, node, json!({})).await;
        attach(&plane, &format!("disk-of-{node}"), node).await;
        rejects(kubectl(&plane, &["taint", "node", node, PLACE]), &["EvidenceMissing"]);
    }
    let fence = json!({"metadata": {"name": "n7"}, "status": {"result": "Succeeded", "message": "done"},
        "spec": {"driver": "other.test", "fenceState": "Fenced", "cidrs": ["10.0.0.7/32", "fd00::/64"]}});
    NETWORK_FENCE.create(&plane, "", fence).await;
    NETWORK_FENCE.report(&plane, "", "n7", json!({"result": "Succeeded", "message": "done"})).await;
    remediate_by_agent(&plane, "n8", "off").await;
    agent_succeeds(&plane, "n8").await;
    // The command judges before it writes, by the sources that the pods' arguments name.
    for (node, source) in [("n7", "network-fence"), ("n8", "fence-agents-remediation")] {
        accepts(fencegate(&plane, "alice", "place", &[node]));
        assert_eq!(record_on(&plane, node).await["source"], source);
    }
}

const MOVED: &str = "
namespace: guard
resources: [REPOSITORY/manifests/overlays/OVERLAY]
transformers: [REPOSITORY/manifests/transformers/namespace]
";

fn moved(plane: &Plane, overlay: &str) -> Vec<Value> {
    customized(plane, &MOVED.replace("OVERLAY", overlay))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_moves_everything_and_the_gate_guards_from_there() {
    let plane = plane_with_alice().await;
    for overlay in
        ["default", "warn", "cert-manager", "tls-files", "medik8s", "csi-addons", "metal3", "two-node-fencing", "monitoring"]
    {
        let here = serde_json::to_string(&rendered(&plane, overlay)).unwrap();
        let there = serde_json::to_string(&moved(&plane, overlay)).unwrap();
        assert_eq!(there, here.replace("fencegate-system", "guard"), "{overlay}");
    }
    let gate = Gate::install(&plane, ("guard", "gate-in-guard"), moved(&plane, "default"), &[0, 0], &[]).await;
    gate.until_ready(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    rejects(kubectl(&plane, &["taint", "node", "n7", PLACE]), &["EvidenceMissing"]);
    let secret = plane.get("/api/v1/namespaces/guard/secrets/fencegate-ca").await.unwrap();
    assert_eq!(secret["metadata"]["namespace"], "guard");
    assert!(plane.get("/api/v1/namespaces/fencegate-system").await.is_err());
    let checked = fencegate(&plane, "alice", "check", &["--gate-namespace=guard"]);
    assert!(said(&checked).contains("is denied by the webhook"), "{}", said(&checked));
}
