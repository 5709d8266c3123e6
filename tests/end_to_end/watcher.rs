//! The replica that looks after nodes: what it tells, and what it releases without a person.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    harness::{
        gate::{Gate, HOME, customized},
        plane::{MERGE, Plane, call},
        proxy::Network,
    },
    operators::fencegate,
    world::{
        PLACE, World, accepts, attach, dead_node, evidence, is_tainted, kubectl, now, of_node, plane_with_alice,
        record_on, rejects, renew, renew_with, until_silent, without_conflict,
    },
};

const ACCOUNT: &str = "system:serviceaccount:fencegate-system:fencegate";
const KEY: &str = "node.kubernetes.io/out-of-service-";

/// The value of a metric on each replica.
async fn measured(gate: &Gate, series: &str) -> Vec<f64> {
    let mut values = Vec::new();
    for replica in &gate.replicas {
        let text = replica.telemetry("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.extend(line.map(|value| value.parse::<f64>().unwrap()));
    }
    values
}

/// The replica that watches.
pub async fn leader(gate: &Gate) -> Option<usize> {
    measured(gate, "fencegate_watch_leader").await.iter().position(|leads| *leads == 1.0)
}

/// The Events of a node as `kubectl describe` shows them: the message of each reason.
fn described(plane: &Plane, node: &str) -> BTreeMap<String, String> {
    let text = kubectl(plane, &["describe", "node", node]);
    let text = String::from_utf8(text.stdout).unwrap();
    let (_, events) = text.split_once("\nEvents:").unwrap();
    let rows = events.lines().filter(|line| line.contains("fencegate.dev/gate"));
    let columns =
        rows.map(|row| row.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect::<Vec<_>>());
    columns.map(|row| (row[1].to_owned(), row.last().unwrap().to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_describe_node_tells_the_story_of_an_outage() {
    let world = World::start().await;
    let gate = Gate::guard_with(&world.plane, 2).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    plane
        .until("one replica watches", async |_| {
            measured(&gate, "fencegate_watch_leader").await.iter().sum::<f64>() == 1.0
        })
        .await;
    rejects(
        kubectl(plane, &["taint", "node", node, PLACE]),
        &["NodeStillReady", "LeaseStillRenewed", "EvidenceMissing"],
    );

    world.machine().power_off();
    world.until_ready(false).await;
    until_silent(plane, node).await;
    let annotations: Vec<String> = evidence()
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
        .collect();
    let annotate: Vec<&str> =
        ["annotate", "node", node].into_iter().chain(annotations.iter().map(String::as_str)).collect();
    accepts(without_conflict(|| kubectl(plane, &annotate)));
    accepts(without_conflict(|| kubectl(plane, &["taint", "node", node, PLACE])));
    let state =
        async |state: &str| measured(&gate, &format!("fencegate_out_of_service_nodes{{state={state:?}}}")).await;
    plane.until("the metrics tell that it empties", async |_| state("Emptying").await.contains(&1.0)).await;
    world.until_moved().await;
    plane.until("the metrics tell that it is empty", async |_| state("Empty").await.contains(&1.0)).await;

    world.machine().boot();
    world.until_ready(true).await;
    plane.until("the metrics tell that it is back", async |_| state("Recovered").await.contains(&1.0)).await;
    let mismatches = async || measured(&gate, "fencegate_registration_mismatches").await.iter().sum::<f64>();
    assert_eq!(mismatches().await, 0.0);
    let oldest = measured(&gate, r#"fencegate_out_of_service_oldest_timestamp_seconds{state="Recovered"}"#).await;
    assert!(oldest.iter().any(|since| *since > 1.7e9), "{oldest:?}");
    accepts(without_conflict(|| kubectl(plane, &["taint", "node", node, KEY])));

    let reasons = ["NodeStillReady", "EvidenceRecorded", "Vouched", "Emptied", "Drained"];
    let are_told = async |plane: &Plane| {
        let told = described(plane, node);
        reasons.iter().all(|reason| told.contains_key(*reason))
    };
    plane.until("kubectl describe tells all of it", are_told).await;
    let told = described(plane, node);
    assert_eq!(told["NodeStillReady"], "alice: NodeStillReady, LeaseStillRenewed, EvidenceMissing");
    assert!(told["Vouched"].starts_with("admitted: alice; vouched by annotations (power-off at "), "{told:?}");
    assert!(told["Emptied"].contains("/db-0") && told["Emptied"].contains("volume gone after"), "{told:?}");
    assert!(told["Drained"].starts_with("admitted: alice; out for "), "{told:?}");
    let history = String::from_utf8(fencegate(plane, "alice", "history", &[node]).stdout).unwrap();
    let columns = ["alice", "Place", "deny", "NodeStillReady,LeaseStillRenewed,EvidenceMissing"];
    let is_denial = |line: &&str| line.split_whitespace().skip(1).eq(columns);
    assert_eq!(history.lines().filter(is_denial).count(), 1, "{history}");
    assert_eq!(history.lines().count(), 5, "header, denial, record, placement, release: {history}");
    for outcome in ["dropped", "failed"] {
        let series = format!("fencegate_events_total{{outcome={outcome:?}}}");
        assert_eq!(measured(&gate, &series).await, [0.0, 0.0], "{outcome}");
    }
    plane.until("no node is out of service", async |_| state("Recovered").await == [0.0, 0.0]).await;
    // A dry run tells nothing.
    let before = described(plane, node).len();
    rejects(
        kubectl(plane, &["taint", "node", node, PLACE, "--dry-run=server"]),
        &["NodeStillReady", "EvidenceMissing"],
    );
    assert_eq!(described(plane, node).len(), before);

    // Without the right to write Events the gate answers as before, and counts.
    accepts(kubectl(plane, &["delete", "rolebinding", "--namespace=default", "fencegate-events"]));
    let failed = async || measured(&gate, r#"fencegate_events_total{outcome="failed"}"#).await.iter().sum::<f64>();
    plane
        .until("an Event that could not be written is counted", async |plane| {
            rejects(
                kubectl(plane, &["taint", "node", node, PLACE]),
                &["NodeStillReady", "LeaseStillRenewed", "EvidenceMissing"],
            );
            failed().await > 0.0
        })
        .await;
}

/// A gate that releases by itself, as the overlay `auto-release` installs it.
async fn releasing(plane: &Plane, replicas: usize) -> Gate {
    let objects = customized(plane, "resources: [REPOSITORY/manifests/overlays/auto-release]");
    let gate = Gate::install(plane, HOME, objects, &vec![0; replicas], &[]).await;
    gate.until_ready(plane).await;
    gate.configure(plane, "release: {autoAfter: 3s}").await;
    gate
}

/// Puts the Node of a dead machine out of service.
async fn put_out_of_service(plane: &Plane, node: &str, more: Value) {
    let mut annotated = json!({"metadata": {"annotations": evidence()}});
    json_patch::merge(&mut annotated, &more);
    dead_node(plane, node, annotated).await;
    accepts(without_conflict(|| kubectl(plane, &["taint", "node", node, PLACE])));
}

/// Nodes whose kubelets run: their Leases are renewed and their status says so.
struct Alive(JoinHandle<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Boots the machines of these nodes. Each has the boot ID and flaps as it is said.
async fn boot(plane: &Plane, nodes: &[(&str, &str, bool)]) -> Alive {
    let client = plane.client("admin");
    let nodes: Vec<(String, String, bool)> =
        nodes.iter().map(|(name, boot, flaps)| ((*name).to_owned(), (*boot).to_owned(), *flaps)).collect();
    for (name, boot, _) in &nodes {
        renew(plane, name, jiff::Timestamp::now()).await;
        report(&client, name, boot, &now()).await;
    }
    Alive(tokio::spawn(async move {
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        loop {
            beats.tick().await;
            for (name, boot, flaps) in &nodes {
                renew_with(&client, name, jiff::Timestamp::now()).await;
                if *flaps {
                    report(&client, name, boot, &now()).await;
                }
            }
        }
    }))
}

/// Reports a Node as Ready since this time.
async fn report(client: &kube::Client, node: &str, boot: &str, since: &str) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": now(), "lastTransitionTime": since});
    let status = json!({"status": {"conditions": [ready], "nodeInfo": {"bootID": boot}}});
    let path = format!("/api/v1/nodes/{node}/status");
    call(client, Method::PATCH, &path, Some(status)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_that_a_careful_person_would_release_is_released_without_one() {
    let plane = plane_with_alice().await;
    let gate = releasing(&plane, 2).await;
    let none = || json!({});
    put_out_of_service(&plane, "a-attached", none()).await;
    attach(&plane, "disk-of-a", "a-attached").await;
    put_out_of_service(&plane, "b-same-boot", none()).await;
    put_out_of_service(&plane, "c-held", json!({"metadata": {"annotations": {"fencegate.dev/hold": "mine"}}})).await;
    put_out_of_service(&plane, "d-cordoned", none()).await;
    accepts(kubectl(&plane, &["cordon", "d-cordoned"]));
    put_out_of_service(&plane, "e-flaps", none()).await;
    // The record is refuted by a renewal after the fence, and a break-glass overrides that.
    let long_ago = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(9)).strftime("%FT%TZ").to_string();
    let mut refuted = evidence();
    refuted["fencegate.dev/fenced-at"] = json!(long_ago);
    dead_node(&plane, "f-overridden", json!({"metadata": {"annotations": refuted}})).await;
    accepts(kubectl(&plane, &["annotate", "node", "f-overridden", "fencegate.dev/break-glass=drill"]));
    accepts(without_conflict(|| kubectl(&plane, &["taint", "node", "f-overridden", PLACE])));
    assert!(record_on(&plane, "f-overridden").await.contains_key("overridden"));
    put_out_of_service(&plane, "y-back", none()).await;
    put_out_of_service(&plane, "z-back", none()).await;
    let left_alone = ["a-attached", "b-same-boot", "c-held", "d-cordoned", "e-flaps", "f-overridden"];
    let mut booted: Vec<(&str, &str, bool)> = left_alone.iter().map(|node| (*node, "boot-8", false)).collect();
    booted[1].1 = "boot-7";
    booted[4].2 = true;
    booted.extend([("y-back", "boot-8", false), ("z-back", "boot-8", false)]);
    let _alive = boot(&plane, &booted).await;

    // At most one a minute, and the names come in order: when the second one is released, each of
    // the others could have been.
    for node in ["y-back", "z-back"] {
        plane.until(&format!("{node} is released"), async |plane| !is_tainted(&of_node(plane, node).await)).await;
        let outage: Value = serde_json::from_str(&record_on(&plane, node).await["last-outage"]).unwrap();
        assert_eq!((outage["releasedBy"].as_str(), outage["placedBy"].as_str()), (Some(ACCOUNT), Some("alice")));
    }
    for node in left_alone {
        assert!(is_tainted(&of_node(&plane, node).await), "{node}");
    }
    let by_itself = |line: &Value| line["user"]["name"] == ACCOUNT && line["webhook"] == "validate";
    let nodes: Vec<Value> = gate.audit_log().into_iter().filter(by_itself).map(|line| line["node"].clone()).collect();
    assert_eq!(nodes, ["y-back", "z-back"], "each once, and never another one");
    assert_eq!(measured(&gate, r#"fencegate_auto_releases_total{outcome="released"}"#).await.iter().sum::<f64>(), 2.0);
    plane.until("the Event is there", async |plane| described(plane, "y-back").contains_key("AutoReleased")).await;

    // Whoever takes the obstacle away gets the node released.
    accepts(kubectl(&plane, &["annotate", "node", "c-held", "fencegate.dev/hold-"]));
    plane.until("c-held is released", async |plane| !is_tainted(&of_node(plane, "c-held").await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_completes_a_release_in_which_the_first_one_was_killed() {
    let plane = plane_with_alice().await;
    let mut gate = releasing(&plane, 2).await;
    put_out_of_service(&plane, "n7", json!({})).await;
    plane.until("one replica watches", async |_| leader(&gate).await.is_some()).await;
    // The release waits for the gate's answer, which does not arrive.
    gate.service.becomes(Network::HalfOpen);
    let _alive = boot(&plane, &[("n7", "boot-8", false)]).await;
    let first = leader(&gate).await.unwrap();
    let asks = || gate.replicas[first].log().contains("releasing automatically");
    plane.until("the leader asks for the release", async |_| asks()).await;
    gate.replicas[first].kill();
    gate.remove_endpoint(first);
    gate.service.becomes(Network::Clear);
    plane.until("n7 is released", async |plane| !is_tainted(&of_node(plane, "n7").await)).await;
    let record = record_on(&plane, "n7").await;
    assert_eq!(record.keys().map(String::as_str).collect::<Vec<_>>(), ["last-outage"]);
    let tainted: Vec<bool> = plane.stored_versions("n7").iter().map(is_tainted).collect();
    let changes = tainted.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!((changes, tainted.last()), (2, Some(&false)), "placed once, released once: {tainted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_right_to_patch_nodes_the_gates_account_can_do_nothing_but_release() {
    let plane = plane_with_alice().await;
    let _gate = releasing(&plane, 1).await;
    put_out_of_service(&plane, "n7", json!({})).await;
    dead_node(&plane, "n8", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    let mine = json!({"key": "example.com/mine", "effect": "NoSchedule"});
    for (what, node, patch) in [
        ("a label", "n8", json!({"metadata": {"labels": {"zone": "b"}}})),
        ("a label that goes", "n8", json!({"metadata": {"labels": {"zone": null}}})),
        ("an annotation", "n8", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
        ("evidence", "n8", json!({"metadata": {"annotations": evidence()}})),
        ("a hold", "n7", json!({"metadata": {"annotations": {"fencegate.dev/hold": "mine"}}})),
        ("a finalizer", "n8", json!({"metadata": {"finalizers": ["example.com/f"]}})),
        ("the taint", "n8", json!({"metadata": {"annotations": evidence()}, "spec": {"taints": [taint]}})),
        ("another taint", "n8", json!({"spec": {"taints": [mine]}})),
        ("a cordon", "n8", json!({"spec": {"unschedulable": true}})),
        ("a cordon with the release", "n7", json!({"spec": {"taints": [], "unschedulable": true}})),
        ("another taint with the release", "n7", json!({"spec": {"taints": [mine]}})),
        ("a provider ID", "n8", json!({"spec": {"providerID": "other://1"}})),
    ] {
        let error = plane.patch("gate", MERGE, &format!("/api/v1/nodes/{node}"), patch).await.unwrap_err();
        assert!(error.message.contains("may take the out-of-service taint off a Node"), "{what}: {}", error.message);
    }
    let other_taints: Vec<Value> = of_node(&plane, "n7").await["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["key"] != taint["key"])
        .cloned()
        .collect();
    let release = json!({"spec": {"taints": other_taints}});
    plane.patch("gate", MERGE, "/api/v1/nodes/n7", release).await.unwrap();
    assert!(!is_tainted(&of_node(&plane, "n7").await));
}
