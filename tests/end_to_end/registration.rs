//! The registration: who may change or delete the two webhook configurations.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        accounts::{bind, bind_role},
        gate::rendered,
        plane::{ApiError, Plane},
    },
    support,
    world::{accepts, plane_with_alice},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const KINDS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];

/// How many entries each configuration has, in the order of [`KINDS`].
const ENTRIES: [usize; 2] = [1, 4];

/// Changes to an entry of a configuration, and to the rest of it, as JSON patches, that need the
/// right `configure`.
fn changes(entry: usize) -> Vec<Value> {
    let replace = |field: &str, value: Value| json!([{"op": "add", "path": format!("/webhooks/{entry}/{field}"), "value": value}]);
    let metadata =
        |field: &str, value: Value| json!([{"op": "add", "path": format!("/metadata/{field}"), "value": value}]);
    let mut other = json!({"name": "another.fencegate.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None"});
    other["clientConfig"] = json!({"url": "https://example.com/"});
    let owner = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": "8f4e2a52-0000-4000-8000-000000000000"}]);
    vec![
        replace("failurePolicy", json!("Ignore")),
        replace("timeoutSeconds", json!(1)),
        replace("matchPolicy", json!("Exact")),
        replace("sideEffects", json!("None")),
        replace("admissionReviewVersions", json!(["v1beta1", "v1"])),
        replace("name", json!("another.fencegate.dev")),
        replace("rules/0/resources", json!(["secrets"])),
        replace("rules/0/operations", json!(["CREATE"])),
        replace("matchConditions/0/expression", json!("false")),
        json!([{"op": "remove", "path": format!("/webhooks/{entry}/matchConditions")}]),
        json!([{"op": "remove", "path": format!("/webhooks/{entry}")}]),
        replace("namespaceSelector", json!({"matchLabels": {"a": "b"}})),
        replace("objectSelector", json!({"matchLabels": {"a": "b"}})),
        replace("clientConfig/service/name", json!("another")),
        replace("clientConfig/service/namespace", json!("another")),
        replace("clientConfig/service/port", json!(444)),
        replace("clientConfig", json!({"url": "https://example.com/"})),
        json!([{"op": "add", "path": "/webhooks/-", "value": other}]),
        json!([{"op": "replace", "path": "/webhooks", "value": []}]),
        json!([{"op": "remove", "path": "/webhooks"}]),
        metadata("finalizers", json!(["example.com/hold"])),
        metadata("ownerReferences", owner),
    ]
}

fn labels() -> [Value; 2] {
    ["labels", "annotations"]
        .map(|field| json!([{"op": "add", "path": format!("/metadata/{field}"), "value": {"a": "b"}}]))
}

async fn patch(plane: &Plane, user: &str, kind: &str, patch: &Value) -> Result<Value, ApiError> {
    let path = format!("{GROUP}/{kind}/fencegate");
    plane.patch(user, "application/json-patch+json", &path, patch.clone()).await
}

/// Asserts that the registration policy denied the write.
#[track_caller]
fn refused(written: Result<Value, ApiError>, what: &str) {
    let Err(error) = written else { panic!("allowed: {what}") };
    let by_policy = error.message.contains("ValidatingAdmissionPolicy 'fencegate-registration'");
    assert!(error.code == 403 && by_policy, "{what}: {error:?}");
}

/// The registration as it is shipped, without replicas, and RBAC that permits these users to write
/// every webhook configuration.
async fn registered(users: &[&str]) -> Plane {
    let plane = plane_with_alice().await;
    for user in users {
        let everything = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
        bind(
            &plane,
            &format!("webhooks-of-{}", user.replace(':', "-")),
            everything,
            json!({"kind": "User", "name": user}),
        )
        .await;
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": rendered(&plane, "doors")}).to_string();
    accepts(plane.kubectl("alice", &["apply", "--server-side", "-f", "-"], &list));
    plane
}

const GATE: &str = "system:serviceaccount:fencegate-system:fencegate";

async fn until_guarded(plane: &Plane) {
    let harmless = json!([{"op": "add", "path": "/webhooks/0/timeoutSeconds", "value": 4}]);
    let path = format!("{GROUP}/{}/fencegate?dryRun=All", KINDS[0]);
    let denied = async |plane: &Plane| {
        let written = plane.patch("tenant", "application/json-patch+json", &path, harmless.clone()).await;
        written.is_err_and(|error| error.message.contains("fencegate-registration"))
    };
    plane.until("the registration is guarded", denied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_itself_may_change_ca_bundle_and_path_of_its_registration_and_nothing_else() {
    let plane = registered(&[GATE, "tenant"]).await;
    // Even with the right.
    bind_role(&plane, "fencegate-configurer", json!({"kind": "User", "name": GATE})).await;
    until_guarded(&plane).await;
    for (kind, entries) in KINDS.into_iter().zip(ENTRIES) {
        for change in (0..entries).flat_map(changes).chain(labels()) {
            refused(patch(&plane, "gate", kind, &change).await, &format!("{kind}: {change}"));
        }
        let path = format!("{GROUP}/{kind}");
        refused(plane.api("gate", Method::DELETE, &format!("{path}/fencegate"), None).await, kind);
        refused(plane.api("gate", Method::DELETE, &path, None).await, "the collection");
        let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, support::certificates().ca);
        for entry in 0..entries {
            for (field, value) in [("caBundle", &*ca), ("service/path", "/validate/0123456789abcdef")] {
                let field = format!("/webhooks/{entry}/clientConfig/{field}");
                let written = patch(&plane, "gate", kind, &json!([{"op": "add", "path": field, "value": value}])).await;
                assert_eq!(written.unwrap().pointer(&field), Some(&json!(value)), "{kind}");
            }
        }
        // All at once, as the replicas write to several doors.
        let path = |entry: usize| json!({"op": "add", "path": format!("/webhooks/{entry}/clientConfig/service/path"), "value": "/x"});
        let all: Vec<Value> = (0..entries).map(path).collect();
        patch(&plane, "gate", kind, &json!(all)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_nobody_deletes_or_changes_the_registration() {
    let plane = registered(&["tenant", "oncall"]).await;
    until_guarded(&plane).await;
    let another = json!({"metadata": {"name": "another"}, "webhooks": []});
    for (kind, entries) in KINDS.into_iter().zip(ENTRIES) {
        for change in (0..entries).flat_map(changes) {
            refused(patch(&plane, "tenant", kind, &change).await, &format!("{kind}: {change}"));
        }
        for change in labels() {
            patch(&plane, "tenant", kind, &change).await.unwrap();
        }
        let path = format!("{GROUP}/{kind}");
        refused(plane.api("tenant", Method::DELETE, &format!("{path}/fencegate"), None).await, kind);
        plane.create(&path, another.clone()).await;
        refused(plane.api("tenant", Method::DELETE, &path, None).await, "the collection");
        assert!(plane.get(&format!("{path}/fencegate")).await.is_ok());
        // Those of others are none of its business.
        let _ = plane.api("tenant", Method::DELETE, &format!("{path}/another"), None).await;
        assert!(plane.get(&format!("{path}/another")).await.is_err());
    }

    bind_role(&plane, "fencegate-configurer", json!({"kind": "User", "name": "oncall"})).await;
    let ignore = json!([{"op": "add", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    let allowed = async |plane: &Plane| patch(plane, "oncall", KINDS[0], &ignore).await.is_ok();
    plane.until("RBAC has the new rule", allowed).await;
    for kind in KINDS {
        plane.api("oncall", Method::DELETE, &format!("{GROUP}/{kind}"), None).await.unwrap();
        assert!(plane.get(&format!("{GROUP}/{kind}/fencegate")).await.is_err());
    }
}
