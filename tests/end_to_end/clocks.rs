//! The API server's clock: `managedFields` shows when the API server stored each write.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    harness::plane::Plane,
    world::{now, plane_with_alice},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// When the API server stored the last renewal: the newest time of an entry that owns
/// `spec.renewTime`.
fn stored_at(lease: &Value) -> Timestamp {
    let entries = lease["metadata"]["managedFields"].as_array().unwrap();
    let owning = entries.iter().filter(|entry| !entry["fieldsV1"]["f:spec"]["f:renewTime"].is_null());
    owning.map(|entry| entry["time"].as_str().unwrap().parse().unwrap()).max().unwrap()
}

/// The field managers of the two clients. The API server would derive the same from their
/// User-Agent.
const KUBELET: &str = "fieldManager=kubelet";
const KUBECTL: &str = "fieldManager=kubectl-label";

/// Renews a Lease as client-go's Update does: a PUT of the whole object from the last answer, with
/// its managed fields.
async fn renew(plane: &Plane, lease: &Value, at: Timestamp) -> Result<Value, u16> {
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
            lease = renew(&plane, &lease, Timestamp::now() + SignedDuration::from_hours(hours)).await.unwrap();
            assert!(stored_at(&lease) > before && is_now(stored_at(&lease)), "{hours} h: {lease}");
        }
    }

    // A renewal that lost the update conflict, and the one after it.
    let stale = lease.clone();
    lease = renew(&plane, &lease, Timestamp::now()).await.unwrap();
    another_second(&plane).await;
    assert_eq!(renew(&plane, &stale, Timestamp::now()).await, Err(409));
    let read = plane.get(&format!("{LEASES}/n1")).await.unwrap();
    assert_eq!(stored_at(&read), stored_at(&lease), "a renewal with a conflict changes nothing");
    let again = renew(&plane, &read, Timestamp::now()).await.unwrap();
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
    let renewed = renew(&plane, &lease, Timestamp::now()).await.unwrap();
    assert!(stored_at(&renewed) > stored_at(&lease));
}
