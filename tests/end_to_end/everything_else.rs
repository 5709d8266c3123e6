//! Only guarded writes reach the gate or wait for it.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{gate::Gate, plane::Plane},
    watcher,
    world::{
        PLACE, REMOVE, World, accepts, attach, kubectl, lone_node, of_node, plane_with_alice, ready, rejects, said,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn only_guarded_writes_reach_the_gate_or_wait_for_it() {
    let world = World::start().await;
    let mut gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    lone_node(plane, "out", true).await;
    accepts(kubectl(plane, &["taint", "node", "out", PLACE]));
    let before = gate.reviews().await;
    let write_other_fields = |name: &str| {
        accepts(kubectl(plane, &["label", "--overwrite", "node", name, &format!("at={before}")]));
        accepts(kubectl(plane, &["annotate", "--overwrite", "node", name, "example.com/a=b"]));
        accepts(kubectl(plane, &["cordon", name]));
        accepts(kubectl(plane, &["uncordon", name]));
        accepts(kubectl(plane, &["taint", "--overwrite", "node", name, "example.com/mine=1:NoSchedule"]));
        accepts(kubectl(plane, &["taint", "node", name, "example.com/mine-"]));
    };
    for name in [node, "out"] {
        write_other_fields(name);
    }
    let heartbeat = |node: Value| node["status"]["conditions"][0]["lastHeartbeatTime"].to_string();
    let last = heartbeat(of_node(plane, node).await);
    plane.until("the kubelet sends a heartbeat", async |plane| heartbeat(of_node(plane, node).await) != last).await;
    // The node controller taints a Node that dies, even if it is out of service.
    world.machine().cut_off();
    world.until_ready(false).await;
    for name in [node, "out"] {
        let taints = async |plane: &Plane| of_node(plane, name).await["spec"]["taints"].to_string();
        plane
            .until("the node controller places its taint", async |plane| taints(plane).await.contains("unreachable"))
            .await;
    }
    assert_eq!(gate.reviews().await, before, "none of these writes reached the gate");

    gate.stop();
    for name in [node, "out"] {
        write_other_fields(name);
    }
    for guarded in [
        ["taint", "node", node, PLACE],
        ["taint", "node", "out", REMOVE],
        ["annotate", "node", node, "fencegate.dev/proof=x"],
    ] {
        let output = kubectl(plane, &guarded);
        assert!(!output.status.success() && said(&output).contains("failed calling webhook"), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_match_conditions_can_be_evaluated_for_every_shape_of_a_node() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let before = gate.reviews().await;
    let shapes = [
        json!({}),
        json!({"spec": {}}),
        json!({"spec": null, "status": null}),
        json!({"spec": {"taints": null}}),
        json!({"spec": {"taints": []}}),
        json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        json!({"metadata": {"annotations": null, "finalizers": null, "labels": null}}),
        json!({"metadata": {"annotations": {}, "finalizers": []}}),
        json!({"metadata": {"annotations": {"example.com/a": "", "fencegate.de/v": "x"}}}),
        json!({"metadata": {"finalizers": ["example.com/hold"]}}),
    ];
    for (n, shape) in shapes.iter().enumerate() {
        let name = format!("shape-{n}");
        let mut node = shape.clone();
        node["metadata"]["name"] = json!(name);
        plane.create("/api/v1/nodes", node).await;
        let path = format!("/api/v1/nodes/{name}");
        for (m, other) in shapes.iter().enumerate() {
            let patched = plane.api("admin", Method::PATCH, &path, Some(other.clone())).await;
            assert!(patched.is_ok(), "{n} to {m}: {patched:?}");
            let status = plane.api("admin", Method::PATCH, &format!("{path}/status"), Some(other.clone())).await;
            assert!(status.is_ok(), "status of {n} to {m}: {status:?}");
        }
        let free = json!({"metadata": {"finalizers": null}});
        plane.api("admin", Method::DELETE, &path, None).await.unwrap();
        // The Node is gone already, unless it has a finalizer.
        let _ = plane.api("admin", Method::PATCH, &path, Some(free)).await;
        assert!(plane.get(&path).await.is_err(), "{name} still exists");
    }
    assert_eq!(gate.reviews().await, before, "none of these writes reached the gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeats_of_100_nodes_do_not_reach_the_gate_and_long_lists_are_read_completely() {
    /// Enough Nodes for many heartbeats in a second.
    const CROWD: usize = 100;
    let mut plane = plane_with_alice().await;
    plane.start_crowd();
    let gate = Gate::guard_with(&plane, 2).await;
    for n in 0..CROWD {
        let labels = json!({"crowd": "true"});
        plane.create("/api/v1/nodes", json!({"metadata": {"name": format!("c{n}"), "labels": labels}})).await;
    }
    let before = gate.reviews().await;
    let ready_nodes = async |plane: &Plane| {
        let list = plane.get("/api/v1/nodes?labelSelector=crowd%3Dtrue").await.unwrap();
        list["items"].as_array().unwrap().iter().filter(|node| ready(node)).count()
    };
    plane.until("all of them are ready", async |plane| ready_nodes(plane).await == CROWD).await;
    let version = of_node(&plane, "c0").await["metadata"]["resourceVersion"].clone();
    let moved = async |plane: &Plane| of_node(plane, "c0").await["metadata"]["resourceVersion"] != version;
    plane.until("they send another heartbeat", moved).await;
    assert_eq!(gate.reviews().await, before, "no heartbeat reached the gate");

    // More attachments than fit into one page of a list, one of them on the node.
    for n in 0..501 {
        let node = if n == 250 { "c0" } else { "elsewhere" };
        let attachment = json!({"metadata": {"name": format!("va-{n}")}, "spec": {"attacher": "other.test", "nodeName": node,
            "source": {"persistentVolumeName": format!("pv-{n}")}}});
        plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
    }
    rejects(kubectl(&plane, &["taint", "node", "c0", PLACE]), &["NodeStillReady", "EvidenceMissing"]);
    lone_node(&plane, "gone", true).await;
    accepts(kubectl(&plane, &["taint", "node", "gone", PLACE]));
    attach(&plane, "va-zzz", "gone").await;
    rejects(kubectl(&plane, &["taint", "node", "gone", REMOVE]), &["VolumesAttached"]);

    // `make scale` measures the same with 5,000 Nodes.
    let leader = watcher::leader(&gate).await.unwrap();
    let [watches, waits] = [leader, 1 - leader].map(|replica| gate.replicas[replica].most_memory());
    assert!(watches < waits + (16 << 20), "to watch takes {} kB", (watches - waits) >> 10);
}
