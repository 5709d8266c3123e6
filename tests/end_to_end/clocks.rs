//! The API server's clock: `managedFields` shows when the API server stored each write.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    harness::{gate::Gate, plane::Plane},
    world::{
        LEASES, PLACE, accepts, is_tainted, kubectl, lone_node, now, of_node, plane_with_alice, rejects, renew, said,
        stored_at, until_silent,
    },
};

/// The field managers of the two clients. The API server would derive the same from their
/// User-Agent.
const KUBELET: &str = "fieldManager=kubelet";
const KUBECTL: &str = "fieldManager=kubectl-label";

/// Renews a Lease as client-go's Update does: a PUT of the whole object from the last answer, with
/// its managed fields.
async fn renew_again(plane: &Plane, lease: &Value, at: Timestamp) -> Result<Value, u16> {
    let mut renewed = lease.clone();
    renewed["spec"]["renewTime"] = json!(at.strftime("%FT%T.%6fZ").to_string());
    let path = format!("{LEASES}/n1?{KUBELET}");
    plane.api("node-n1", Method::PUT, &path, Some(renewed)).await.map_err(|error| error.code)
}

/// Waits until the clock shows another second: the API server stores times in whole seconds.
async fn another_second(plane: &Plane) {
    let second = now();
    plane.until("another second", async |_| now() != second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_stores_the_time_of_every_renewal_by_its_own_clock() {
    let plane = plane_with_alice().await;
    plane.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let spec = json!({"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"});
    let fresh = json!({"metadata": {"name": "n1"}, "spec": spec});
    let mut lease =
        plane.api("node-n1", Method::POST, &format!("{LEASES}?{KUBELET}"), Some(fresh.clone())).await.unwrap();
    let is_now = |at: Timestamp| Timestamp::now().duration_since(at).abs() < SignedDuration::from_secs(30);
    assert!(is_now(stored_at(&lease)));

    // A clock that is right, an hour slow, an hour fast.
    for hours in [0, -1, 1] {
        for _ in 0..2 {
            another_second(&plane).await;
            let before = stored_at(&lease);
            lease = renew_again(&plane, &lease, Timestamp::now() + SignedDuration::from_hours(hours)).await.unwrap();
            assert!(stored_at(&lease) > before && is_now(stored_at(&lease)), "{hours} h: {lease}");
        }
    }

    // A renewal that lost the update conflict, and the one after it.
    let stale = lease.clone();
    lease = renew_again(&plane, &lease, Timestamp::now()).await.unwrap();
    another_second(&plane).await;
    assert_eq!(renew_again(&plane, &stale, Timestamp::now()).await, Err(409));
    let read = plane.get(&format!("{LEASES}/n1")).await.unwrap();
    assert_eq!(stored_at(&read), stored_at(&lease), "a renewal with a conflict changes nothing");
    let again = renew_again(&plane, &read, Timestamp::now()).await.unwrap();
    assert!(stored_at(&again) > stored_at(&lease));

    // A write by another field manager is not a renewal.
    another_second(&plane).await;
    let label = json!({"metadata": {"labels": {"team": "a"}}});
    let labelled = plane.api("admin", Method::PATCH, &format!("{LEASES}/n1?{KUBECTL}"), Some(label)).await.unwrap();
    assert_eq!(stored_at(&labelled), stored_at(&again));

    // The Lease is deleted and created again.
    plane.api("admin", Method::DELETE, &format!("{LEASES}/n1"), None).await.unwrap();
    another_second(&plane).await;
    lease = plane.api("node-n1", Method::POST, &format!("{LEASES}?{KUBELET}"), Some(fresh)).await.unwrap();
    assert!(stored_at(&lease) > stored_at(&again));
    another_second(&plane).await;
    let renewed = renew_again(&plane, &lease, Timestamp::now()).await.unwrap();
    assert!(stored_at(&renewed) > stored_at(&lease));
}

/// Records a fence that took effect at this time.
fn record(plane: &Plane, node: &str, fenced_at: Timestamp) {
    let at = format!("fencegate.dev/fenced-at={}", fenced_at.strftime("%FT%TZ"));
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=hope", &at];
    accepts(kubectl(plane, &["annotate", "--overwrite", "node", node, by[0], by[1], by[2]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_and_whose_kubelet_lives_is_never_put_out_of_service() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    // The machine's clock: an hour slow, right, an hour fast.
    let machines =
        [("slow", -1), ("right", 0), ("fast", 1)].map(|(node, hours)| (node, SignedDuration::from_hours(hours)));
    for (node, _) in machines {
        lone_node(&plane, node, false).await;
    }
    let mut died_at = Timestamp::now();
    for minutes_after_now in [-60, -1, 0] {
        let fenced_at = Timestamp::now() + SignedDuration::from_mins(minutes_after_now);
        for (node, clock) in machines {
            record(&plane, node, fenced_at);
            renew(&plane, node, Timestamp::now() + clock).await;
            died_at = Timestamp::now();
            rejects(kubectl(&plane, &["taint", "node", node, PLACE]), &["LeaseStillRenewed"]);
            assert!(!is_tainted(&of_node(&plane, node).await), "{node}");
        }
    }
    // All three die. The silence is judged by the API server's clock, whatever theirs said.
    for (node, _) in machines {
        until_silent(&plane, node).await;
        record(&plane, node, Timestamp::now());
        accepts(kubectl(&plane, &["taint", "node", node, PLACE]));
        assert!(is_tainted(&of_node(&plane, node).await), "{node}");
    }
    let took = Timestamp::now().duration_since(died_at);
    assert!(took < SignedDuration::from_secs(60), "the dead machines were put out of service after {took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_lease_does_not_clear_the_objection_of_a_live_machine() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "n1", true).await;
    plane.api("admin", Method::DELETE, &format!("{LEASES}/n1"), None).await.unwrap();
    let denied = kubectl(&plane, &["taint", "node", "n1", PLACE]);
    assert!(said(&denied).contains("Lease kube-node-lease/n1 says nothing: it does not exist"));
    rejects(denied, &["FactsUnavailable"]);
}
