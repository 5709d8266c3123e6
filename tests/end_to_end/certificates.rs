//! Certificates that the replicas make and renew themselves, also while someone breaks something.

use fencegate::{
    cluster::{Written, registration::Registration},
    policy::review::Webhook,
};
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{gate::Gate, plane::Plane},
    replicas::Load,
    support,
    world::{accepts, kubectl, lone_node, plane_with_alice},
};

const SECRET: &str = "/api/v1/namespaces/fencegate-system/secrets/fencegate-ca";
const CONFIGURATIONS: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/fencegate",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/fencegate",
];

fn decoded(value: &Value) -> String {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value.as_str().unwrap_or_default());
    String::from_utf8(bytes.unwrap()).unwrap()
}

/// What the Secret says; nothing where it says none.
async fn authority(plane: &Plane) -> Value {
    let secret = plane.get(SECRET).await.unwrap_or_default();
    serde_json::from_str(&decoded(&secret["data"]["authority.json"])).unwrap_or_default()
}

async fn signs(plane: &Plane) -> String {
    authority(plane).await["current"]["certificate"].as_str().unwrap_or_default().to_owned()
}

/// `caBundle` of both configurations.
pub async fn bundles(plane: &Plane) -> [String; 2] {
    let mut bundles = [String::new(), String::new()];
    for (bundle, path) in bundles.iter_mut().zip(CONFIGURATIONS) {
        *bundle = decoded(&plane.get(path).await.unwrap()["webhooks"][0]["clientConfig"]["caBundle"]);
    }
    bundles
}

/// Both configurations without what changes with every write, and without what the replicas write.
async fn all_but_published(plane: &Plane) -> Vec<Value> {
    let mut all = Vec::new();
    for path in CONFIGURATIONS {
        let mut configuration = plane.get(path).await.unwrap();
        let metadata = configuration["metadata"].as_object_mut().unwrap();
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
        configuration["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        configuration["webhooks"][0]["clientConfig"]["service"].as_object_mut().unwrap().remove("path");
        all.push(configuration);
    }
    all
}

/// Someone who trusts the CA alone, and calls this replica as the API server does.
pub fn client(ca: &str, port: u16) -> support::Client {
    let host = "fencegate.fencegate-system.svc";
    support::Client { host, ..support::Client::new(([127, 0, 0, 1], port).into(), ca) }
}

async fn is_served(ca: &str, port: u16) -> bool {
    client(ca, port).connect().await.is_ok()
}

/// The path in both configurations.
pub async fn paths(plane: &Plane) -> [String; 2] {
    let mut paths = [String::new(), String::new()];
    for (path, configuration) in paths.iter_mut().zip(CONFIGURATIONS) {
        let read = plane.get(configuration).await.unwrap();
        read["webhooks"][0]["clientConfig"]["service"]["path"].as_str().unwrap_or_default().clone_into(path);
    }
    paths
}

/// The path of each of the other doors.
pub async fn door_paths(plane: &Plane) -> Vec<String> {
    let read = plane.get(CONFIGURATIONS[1]).await.unwrap();
    let doors = read["webhooks"].as_array().unwrap().iter().filter(|one| one["name"] != "out-of-service.fencegate.dev");
    doors.map(|door| door["clientConfig"]["service"]["path"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Whether both paths have a secret of 128 bits.
pub fn are_secret(paths: &[String; 2]) -> bool {
    paths.iter().zip(["/mutate/", "/validate/"]).all(|(path, plain)| {
        let secret = path.strip_prefix(plain);
        secret.is_some_and(|secret| secret.len() == 32 && secret.chars().all(|digit| digit.is_ascii_hexdigit()))
    })
}

/// A pod of version 0.1.0 in the namespace of the gate.
fn older_pod() -> Value {
    let container = json!({
        "name": "fencegate",
        "image": "fencegate:0.1.0",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    json!({
        "metadata": {"name": "older", "labels": {"app.kubernetes.io/name": "fencegate"}},
        "spec": {
            "serviceAccountName": "fencegate",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_answered_and_no_call_is_lost_when_the_path_changes() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 2).await;
    plane.until("the paths are secret", async |plane| are_secret(&paths(plane).await)).await;
    let first = paths(&plane).await;
    let (ca, reviews) = (signs(&plane).await, gate.reviews().await);
    for replica in &gate.replicas {
        for path in ["/validate", "/mutate", "/readyz", "/validate/00000000000000000000000000000000"] {
            let stranger = support::Client { path, ..client(&ca, replica.port) };
            assert_eq!(stranger.post(support::bare_taint().to_string()).await.unwrap().status(), 404, "{path}");
        }
    }
    assert_eq!(gate.reviews().await, reviews, "nothing was judged");

    lone_node(&plane, "busy", false).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 50).await;
    for (configuration, path) in CONFIGURATIONS.into_iter().zip(["/mutate", "/validate"]) {
        let plain = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/service/path", "value": path}]);
        plane.patch("admin", "application/json-patch+json", configuration, plain).await.unwrap();
    }
    let differ = async |plane: &Plane| {
        let now = paths(plane).await;
        are_secret(&now) && now[0] != first[0] && now[1] != first[1]
    };
    plane.until("there are other paths", differ).await;
    load.goes_on(&plane, 50).await;
    let pods = "/api/v1/namespaces/fencegate-system/pods";
    plane.api("admin", Method::POST, pods, Some(older_pod())).await.unwrap();
    plane.until("the paths are plain", async |plane| paths(plane).await == ["/mutate", "/validate"]).await;
    load.goes_on(&plane, 50).await;
    plane.api("admin", Method::DELETE, &format!("{pods}/older?gracePeriodSeconds=0"), None).await.unwrap();
    plane.until("the paths are secret again", async |plane| are_secret(&paths(plane).await)).await;
    load.goes_on(&plane, 50).await;
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_started_at_once_from_nothing_agree_on_one_ca() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 3).await;
    let ca = signs(&plane).await;
    assert_eq!(bundles(&plane).await, [ca.clone(), ca.clone()]);
    for replica in &gate.replicas {
        assert!(is_served(&ca, replica.port).await);
    }
    let key = authority(&plane).await["current"]["key"].as_str().unwrap().to_owned();
    let lines: String = gate.replicas.iter().map(crate::harness::gate::Replica::log).collect();
    assert!(!lines.contains(key.lines().nth(1).unwrap()), "no key in any log");
}

/// What keeps a replica that stalled from publishing an older bundle: a forced apply overrides the
/// ownership of the field, and not the version.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_over_another_version_of_the_configuration_is_a_conflict() {
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard_with(&plane, 1).await;
    gate.stop();
    let registration = Registration::new(plane.client("gate"), "fencegate-system".to_owned());
    for (webhook, path) in Webhook::ALL.into_iter().zip(CONFIGURATIONS) {
        let read = registration.configuration(webhook).await.unwrap().unwrap();
        let label = json!({"metadata": {"labels": {"team": "a"}}});
        plane.api("admin", Method::PATCH, path, Some(label)).await.unwrap();
        let stale = registration.publish(webhook, &support::certificates().ca, &read.version).await.unwrap();
        assert_eq!(stale, Written::Conflict);
        let again = registration.configuration(webhook).await.unwrap().unwrap();
        assert_eq!(again.ca_bundle, read.ca_bundle, "nothing was written");
        let ca = support::certificates().ca;
        assert_eq!(registration.publish(webhook, &ca, &again.version).await.unwrap(), Written::Done);
        assert_eq!(decoded(&plane.get(path).await.unwrap()["webhooks"][0]["clientConfig"]["caBundle"]), ca);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_is_replaced_under_load_without_one_failed_call() {
    let plane = plane_with_alice().await;
    let gate = Gate::start(&plane, 3, &["--ca-lifetime=40s", "--leaf-lifetime=8s"]).await;
    gate.until_ready(&plane).await;
    lone_node(&plane, "busy", false).await;
    let first = signs(&plane).await;
    plane.until("the paths are secret", async |plane| are_secret(&paths(plane).await)).await;
    let called = paths(&plane).await;
    let load = Load::start(&plane);
    plane.until("another CA signs", async |plane| ![&first, ""].contains(&signs(plane).await.as_str())).await;
    let second = signs(&plane).await;
    assert!(bundles(&plane).await.iter().all(|bundle| bundle.contains(&first) && bundle.contains(&second)));
    let is_gone = async |plane: &Plane| bundles(plane).await.iter().all(|bundle| !bundle.contains(&first));
    plane.until("the old one is trusted no more", is_gone).await;
    load.goes_on(&plane, 200).await;
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    assert!(are_secret(&paths(&plane).await) && paths(&plane).await != called, "replaced like serving certificates");
    for replica in &gate.replicas {
        assert!(is_served(&bundles(&plane).await[0], replica.port).await);
    }
    println!("{calls} guarded writes while one CA replaced the other, none failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_is_replaced_on_request_under_load_without_one_failed_call_and_once() {
    let plane = plane_with_alice().await;
    let mut gate = Gate::start(&plane, 3, &["--leaf-lifetime=8s"]).await;
    gate.until_ready(&plane).await;
    lone_node(&plane, "busy", false).await;
    let first = signs(&plane).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 50).await;
    let annotate = || {
        let namespace = "--namespace=fencegate-system";
        let request = "fencegate.dev/rotate-ca=2026-11-30T10:15:00Z";
        accepts(kubectl(&plane, &["annotate", namespace, "secret", "fencegate-ca", "--overwrite", request]));
    };
    annotate();
    let is_replaced = async |plane: &Plane| {
        let bundles = bundles(plane).await;
        ![&first, ""].contains(&signs(plane).await.as_str()) && bundles.iter().all(|bundle| !bundle.contains(&first))
    };
    plane.until("another CA signs, and the first one is trusted no more", is_replaced).await;
    let second = signs(&plane).await;
    // Nobody carries out the same request again, neither a replica that was there nor a new one.
    annotate();
    gate.remove_endpoint(0);
    gate.replicas[0].terminate();
    gate.join(&plane, crate::harness::gate::Replica::start(&plane, 9, &["--leaf-lifetime=8s"]).await).await;
    load.goes_on(&plane, 500).await;
    assert_eq!(bundles(&plane).await, [second.clone(), second.clone()]);
    let made = |replica: &crate::harness::gate::Replica| replica.log().matches(r#""action":"AddNext""#).count();
    assert_eq!(gate.replicas.iter().map(made).sum::<usize>(), 1, "one new CA");
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    println!("{calls} guarded writes while one CA replaced the other on request, none failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_objects_are_repaired_and_nothing_else_is_changed() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 2).await;
    let (ca, before) = (signs(&plane).await, all_but_published(&plane).await);
    let is_whole =
        async |plane: &Plane| signs(plane).await == ca && bundles(plane).await.iter().all(|bundle| *bundle == ca);
    let garbage = |text: &str| json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text));
    plane.api("admin", Method::DELETE, SECRET, None).await.unwrap();
    plane.until("the Secret is there again", is_whole).await;
    for data in [json!(null), json!({"authority.json": garbage("no JSON")}), json!({"authority.json": garbage("{}")})] {
        plane.api("admin", Method::PATCH, SECRET, Some(json!({"data": data}))).await.unwrap();
        plane.until("the Secret is whole again", is_whole).await;
    }
    for path in CONFIGURATIONS {
        let foreign = support::certificates().ca;
        for bundle in [json!(null), garbage(&foreign)] {
            let patch = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]);
            plane.patch("admin", "application/json-patch+json", path, patch).await.unwrap();
            plane.until("caBundle is whole again", is_whole).await;
        }
    }
    assert_eq!(all_but_published(&plane).await, before);
    gate.until_ready(&plane).await;

    // Either configuration works alone, and is looked after.
    plane.api("admin", Method::DELETE, CONFIGURATIONS[0], None).await.unwrap();
    gate.until_called(&plane, &["validate"]).await;
    let wiped = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": null}]);
    plane.patch("admin", "application/json-patch+json", CONFIGURATIONS[1], wiped).await.unwrap();
    let bundle = async |plane: &Plane| {
        decoded(&plane.get(CONFIGURATIONS[1]).await.unwrap()["webhooks"][0]["clientConfig"]["caBundle"])
    };
    plane.until("the one that is left is whole again", async |plane| bundle(plane).await == ca).await;
    accepts(kubectl(&plane, &["get", "nodes"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_cut_off_while_the_others_moved_on_is_not_ready_until_it_has_caught_up() {
    let plane = plane_with_alice().await;
    let gate = Gate::start(&plane, 2, &["--ca-lifetime=40s", "--leaf-lifetime=8s"]).await;
    gate.until_ready(&plane).await;
    let first = signs(&plane).await;
    let alone = &gate.replicas[1];
    let led = alone.uplink.cut();
    plane.until("what it serves with has ended", async |_| !alone.is_ready().await).await;
    let moved_on =
        async |plane: &Plane| bundles(plane).await.iter().all(|bundle| !bundle.contains(&first) && !bundle.is_empty());
    plane.until("the other one has replaced the CA", moved_on).await;
    assert!(!alone.is_ready().await && gate.replicas[0].is_ready().await);
    alone.uplink.restore(led);
    plane.until("it has caught up", async |_| alone.is_ready().await).await;
    assert!(is_served(&bundles(&plane).await[0], alone.port).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_verb_by_verb() {
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard(&plane).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let (in_cluster, in_namespace) = (
        format!("{rbac}/clusterroles/fencegate-certificates"),
        format!("{rbac}/namespaces/fencegate-system/roles/fencegate-certificates"),
    );
    let allow = async |role: &str, group: &str, resources: &[&str], verbs: &[&str]| {
        let rules = json!([{"apiGroups": [group], "resources": resources, "verbs": verbs}]);
        plane.api("admin", Method::PATCH, role, Some(json!({"rules": rules}))).await.unwrap();
    };
    let configurations = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
    // The watcher has some of these rights, too.
    for role in ["clusterroles/fencegate-watch", "namespaces/fencegate-system/roles/fencegate-watch"] {
        plane.api("admin", Method::DELETE, &format!("{rbac}/{role}"), None).await.unwrap();
    }

    // What must be written and may not be.
    allow(&in_cluster, "admissionregistration.k8s.io", &configurations, &["get"]).await;
    let wiped = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": null}]);
    plane.patch("admin", "application/json-patch+json", CONFIGURATIONS[0], wiped).await.unwrap();
    let missing = "cannot patch resource \\\"mutatingwebhookconfigurations\\\"";
    plane.until(missing, async |_| gate.replicas[0].log().contains(missing)).await;
    plane.until("it is not ready", async |_| !gate.replicas[0].is_ready().await).await;
    // Whoever comes after it is not ready, and says why to whoever asks.
    gate.stop();
    let late = crate::harness::gate::Replica::start(&plane, 8, &[]).await;
    let says = async |missing: &str| {
        let told = async |_: &Plane| {
            let ready = late.telemetry("/readyz").await;
            ready.starts_with("HTTP/1.1 503") && ready.contains(missing)
        };
        plane.until(missing, told).await;
    };
    says("cannot patch resource \"mutatingwebhookconfigurations\"").await;
    allow(&in_cluster, "admissionregistration.k8s.io", &configurations, &["patch"]).await;
    says("cannot get resource \"mutatingwebhookconfigurations\"").await;
    allow(&in_namespace, "", &["secrets"], &["get"]).await;
    allow(&in_cluster, "admissionregistration.k8s.io", &configurations, &["get", "patch"]).await;
    says("cannot update resource \"leases\"").await;
    plane.api("admin", Method::DELETE, SECRET, None).await.unwrap();
    says("cannot create resource \"secrets\"").await;
    allow(&in_namespace, "", &["configmaps"], &["get"]).await;
    says("cannot get resource \"secrets\"").await;
}

/// Whether every entry of the validating configuration is called as the first one.
async fn are_called_alike(plane: &Plane, doors: usize) -> bool {
    let read = plane.get(CONFIGURATIONS[1]).await.unwrap();
    let entries = read["webhooks"].as_array().unwrap();
    let first = &entries[0]["clientConfig"];
    entries.len() == 1 + doors
        && first["caBundle"].is_string()
        && are_secret(&paths(plane).await)
        && entries.iter().all(|entry| entry["clientConfig"] == *first)
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_that_are_added_are_called_after_one_look_and_can_be_removed_again() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 2).await;
    plane.until("the paths are secret", async |plane| are_secret(&paths(plane).await)).await;
    lone_node(&plane, "busy", false).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 50).await;
    let apply = |overlay: &str| {
        let objects = crate::harness::gate::rendered(&plane, overlay).into_iter();
        let registration: Vec<Value> =
            objects.filter(crate::harness::gate::is_webhook).map(|object| gate.within_reach(object)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": registration}).to_string();
        accepts(plane.kubectl("admin", &["apply", "--server-side", "--force-conflicts", "-f", "-"], &list));
    };
    for _ in 0..2 {
        let before = paths(&plane).await;
        apply("doors");
        plane.until("every door is called", async |plane| are_called_alike(plane, 3).await).await;
        assert_eq!(paths(&plane).await, before, "no new path for that");
        // It reaches the gate, by the path and with the certificate that are published.
        lone_node(&plane, "idle", false).await;
        let calls = gate.reviews().await;
        let called = async |plane: &Plane| {
            let _ = plane.api("admin", Method::DELETE, "/api/v1/nodes/idle?dryRun=All", None).await;
            gate.reviews().await > calls
        };
        plane.until("a deletion reaches the gate", called).await;
        plane.api("admin", Method::DELETE, "/api/v1/nodes/idle", None).await.unwrap();
        // What people break is repaired, entry by entry.
        for (field, value) in [("caBundle", json!(null)), ("service/path", json!("/validate"))] {
            let path = format!("/webhooks/2/clientConfig/{field}");
            let patch = json!([{"op": "replace", "path": path, "value": value}]);
            plane.patch("admin", "application/json-patch+json", CONFIGURATIONS[1], patch).await.unwrap();
            plane.until("it is whole again", async |plane| are_called_alike(plane, 3).await).await;
        }
        let registration = Registration::new(plane.client("admin"), "fencegate-system".to_owned());
        let is_free =
            async |_: &Plane| registration.configuration(Webhook::Validate).await.unwrap().unwrap().owned.is_none();
        plane.until("no replica owns a field of a door", is_free).await;
        apply("default");
        assert!(are_called_alike(&plane, 0).await);
    }
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    assert!(gate.replicas[0].is_ready().await && gate.replicas[1].is_ready().await);
}
