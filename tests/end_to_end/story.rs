//! The purpose of fencegate: the harm without it, and an outage with it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    harness::gate::Gate,
    operators::{fencegate, stands},
    world::{PLACE, REMOVE, World, accepts, is_tainted, kubectl, now, of_node, rejects, until_silent},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_from_the_dead_machine_to_its_return() {
    let world = World::start().await;
    let gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let taint = || kubectl(plane, &["taint", "node", node, PLACE]);
    let untaint = || kubectl(plane, &["taint", "node", node, REMOVE]);

    stands(plane, node, "InService");
    rejects(taint(), &["NodeStillReady", "EvidenceMissing"]);
    world.machine().power_off();
    let fenced_at = format!("fencegate.dev/fenced-at={}", now());
    world.until_ready(false).await;
    rejects(taint(), &["EvidenceMissing"]);
    until_silent(plane, node).await;
    stands(plane, node, "Silent");
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice"];
    accepts(kubectl(plane, &["annotate", "node", node, by[0], by[1], &fenced_at]));
    stands(plane, node, "Attested");
    accepts(taint());
    stands(plane, node, "Emptying");

    rejects(untaint(), &["PodsRemain", "VolumesAttached"]);
    rejects(kubectl(plane, &["delete", "node", node]), &["PodsRemain", "VolumesAttached"]);
    world.until_moved().await;
    assert_eq!(world.attachments().await, 0);
    stands(plane, node, "Empty");
    world.machine().boot();
    accepts(fencegate(plane, "admin", "status", &[node, "--wait", "Recovered", "--timeout", "2m"]));
    accepts(untaint());
    stands(plane, node, "InService");
    assert!(!is_tainted(&of_node(plane, node).await));
    assert_eq!((world.san.corrupted(), world.san.disks()), (vec![], 1), "never two writers");

    let mut decisions: Vec<(String, String)> = gate
        .audit_log()
        .iter()
        .filter(|line| line["user"]["name"] == "alice")
        // If the mutating webhook allows a write, the validating webhook decides about it, too.
        .filter(|line| line["webhook"] == "validate" || line["decision"] == "deny")
        .map(|line| {
            (line["transitions"][0].as_str().unwrap().to_owned(), line["decision"].as_str().unwrap().to_owned())
        })
        .collect();
    // If a heartbeat conflicts with the write, the API server calls the webhooks again.
    decisions.dedup();
    let expected = [
        ("Place", "deny"),
        ("Attest", "allow"),
        ("Place", "allow"),
        ("Release", "deny"),
        ("Delete", "deny"),
        ("Release", "allow"),
    ];
    assert_eq!(decisions, expected.map(|(transition, decision)| (transition.to_owned(), decision.to_owned())));

    let of_alice = |line: &&Value| line["user"]["username"] == "alice" && line["verb"] != "get";
    let codes: Vec<i64> = plane
        .audit_log()
        .iter()
        .filter(of_alice)
        .map(|line| line["responseStatus"]["code"].as_i64().unwrap())
        .collect();
    assert_eq!(codes, [403, 403, 200, 200, 403, 403, 200], "the API server's audit log agrees");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_taint_on_a_cut_off_machine_leads_to_two_writers() {
    let world = World::start().await;
    world.machine().cut_off();
    world.until_ready(false).await;
    accepts(kubectl(&world.plane, &["taint", "node", &world.node, PLACE]));
    let start = Instant::now();
    world.plane.until("two writers on one disk", async |_| !world.san.corrupted().is_empty()).await;
    println!("two writers {:.1}s after the taint: {}", start.elapsed().as_secs_f64(), world.san.corrupted()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_a_cut_off_machine_stays_the_only_writer() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    world.machine().cut_off();
    world.until_ready(false).await;
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PLACE]), &["EvidenceMissing"]);
    let early = format!("fencegate.dev/fenced-at={}", jiff::Timestamp::now() - jiff::SignedDuration::from_mins(5));
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=hope"];
    accepts(kubectl(&world.plane, &["annotate", "node", &world.node, by[0], by[1], &early]));
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PLACE]), &["LeaseStillRenewed"]);
    assert!(!is_tainted(&of_node(&world.plane, &world.node).await));
    assert_eq!(world.san.corrupted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_taint_on_a_running_machine_detaches_a_mounted_volume() {
    let world = World::start().await;
    world.machine().hang_unmounts();
    let start = Instant::now();
    accepts(kubectl(&world.plane, &["taint", "node", &world.node, PLACE]));
    world.plane.until("the volume is detached", async |_| world.attachments().await == 0).await;
    println!(
        "detached {:.1}s after the taint, still mounted: {:?}",
        start.elapsed().as_secs_f64(),
        world.machine().mounted()
    );
    assert_eq!(world.machine().mounted(), ["data-db-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_a_running_machine_keeps_its_volume_until_it_is_unmounted() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    world.machine().hang_unmounts();
    let evidence = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice"];
    let fenced_at = format!("fencegate.dev/fenced-at={}", now());
    accepts(kubectl(&world.plane, &["annotate", "node", &world.node, evidence[0], evidence[1], &fenced_at]));
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PLACE]), &["NodeStillReady"]);
    accepts(kubectl(&world.plane, &["delete", "pod", "db-0", "--wait=false"]));
    // Ten times as long as the detach takes with the taint: if it were to happen, it would have.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((world.attachments().await, world.machine().mounted()), (1, vec!["data-db-0".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_taint_that_is_removed_too_early_leaves_pod_and_volume_stuck() {
    let world = World::start().await;
    let (plane, node) = (&world.plane, world.node.as_str());
    world.machine().power_off();
    world.until_ready(false).await;
    accepts(kubectl(plane, &["taint", "node", node, PLACE]));
    accepts(kubectl(plane, &["taint", "node", node, REMOVE]));
    // Twice the interval of pod GC, 20 s.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let pod = plane.get("/api/v1/namespaces/default/pods/db-0").await.unwrap();
    assert_eq!(pod["spec"]["nodeName"], *node, "the pod is still bound to the dead machine");
    assert_eq!(world.attachments().await, 1, "its volume is still attached there");
    println!("40s after the early removal db-0 still hangs on {node}");
    accepts(kubectl(plane, &["taint", "node", node, PLACE]));
    let start = Instant::now();
    world.until_moved().await;
    println!("with the taint left on it runs elsewhere after {:.1}s", start.elapsed().as_secs_f64());
}
