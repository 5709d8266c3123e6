//! Live reads from a scripted API server: every way in which an answer can be wrong or missing, and
//! the fact that results.

#![allow(
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use fencegate::{
    clock::Clock,
    cluster::{Cluster, Live},
    policy::{
        decide,
        facts::{CustomKind, Fact, FactQuery, Facts, LeaseAnswer, Observed, Verb},
        object::node::Node,
        request::{Request, User, Write},
        review::Webhook,
        settings::Settings,
    },
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use jiff::SignedDuration;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The scripted API server's clock.
const DATE: &str = "Sun, 22 Nov 2026 10:20:00 GMT";

/// The requests to the API server: `GET /path?query`, or `POST /path body`.
type Requests = Arc<Mutex<Vec<String>>>;

/// An answer of the scripted API server.
enum Scripted {
    Json(u16, Value),
    Text(u16, &'static str),
    Nothing,
    /// Without the header `Date`.
    Undated(Value),
}

fn status(code: u16, reason: &str) -> Scripted {
    let message = format!("scripted {reason}");
    Scripted::Json(
        code,
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

fn list(items: Value) -> Scripted {
    Scripted::Json(200, json!({"kind": "List", "metadata": {}, "items": items}))
}

/// A cluster whose API server answers each request with the result of `script`.
fn scripted(script: impl Fn(&str) -> Scripted + Send + Sync + 'static) -> (Cluster, Requests) {
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    let script = Arc::new(script);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (log, script) = (Arc::clone(&log), Arc::clone(&script));
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let line = if body.is_empty() { line } else { format!("{line} {}", String::from_utf8_lossy(&body)) };
            log.lock().unwrap().push(line.clone());
            let (code, text) = match script(&line) {
                Scripted::Undated(value) => {
                    return Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(value.to_string()))));
                }
                Scripted::Json(code, value) => (code, value.to_string()),
                Scripted::Text(code, text) => (code, text.to_owned()),
                Scripted::Nothing => std::future::pending().await,
            };
            let response = Response::builder().status(StatusCode::from_u16(code).unwrap()).header("date", DATE);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
        }
    });
    (Cluster::Live(Live::new(Client::new(service, "default"))), requests)
}

fn release() -> Request {
    let node = |taints: Value| -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}})).unwrap()
    };
    let taint = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec!["x".to_owned()])].into();
    let user = User { name: "alice".into(), uid: "7".into(), groups: vec!["ops".into()], extra };
    Request { node: "n1".into(), user, write: Write::Update { old: node(taint), new: node(json!([])) } }
}

fn placement() -> Request {
    let Request { node, user, write } = release();
    let Write::Update { old, new } = write else { unreachable!("a release is an update") };
    Request { node, user, write: Write::Update { old: new, new: old } }
}

async fn read(cluster: &Cluster, facts: &[Fact]) -> Facts {
    read_for(cluster, &release(), facts).await
}

async fn read_for(cluster: &Cluster, request: &Request, facts: &[Fact]) -> Facts {
    let query: FactQuery = facts.iter().copied().collect();
    let deadline = Instant::now() + Duration::from_secs(4);
    cluster.read(request, &query, &Clock::System, deadline).await.facts
}

fn why<T: std::fmt::Debug>(observed: Observed<T>) -> String {
    match observed {
        Observed::Unknown { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_that_does_not_exist_is_known() {
    let (cluster, requests) = scripted(|_| status(404, "NotFound"));
    let facts = read(&cluster, &[Fact::Lease]).await;
    let date = "2026-11-22T10:20:00Z".parse().unwrap();
    assert_eq!(facts.lease.value(), Ok(&LeaseAnswer { date, lease: None }));
    assert_eq!(*requests.lock().unwrap(), ["GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"]);
}

#[tokio::test]
async fn the_time_of_a_lease_is_the_api_servers_and_never_the_gates() {
    let (cluster, _) = scripted(|_| {
        let entry =
            json!({"manager": "kubelet", "time": "2026-11-22T10:19:50Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}});
        Scripted::Json(
            200,
            json!({"metadata": {"name": "n1", "managedFields": [entry, {"manager": "kubectl-label"}]},
            "spec": {"renewTime": "2026-11-22T09:19:50.000000Z", "leaseDurationSeconds": 40}}),
        )
    });
    let facts = read(&cluster, &[Fact::Lease]).await;
    let answer = facts.lease.value().unwrap();
    assert_eq!(answer.date, "2026-11-22T10:20:00Z".parse().unwrap());
    assert_eq!(answer.last_renewal(SignedDuration::ZERO), Some("2026-11-22T10:19:50Z".parse().unwrap()));

    let (undated, _) = scripted(|_| Scripted::Undated(json!({"metadata": {"name": "n1"}, "spec": {}})));
    assert_eq!(why(read(&undated, &[Fact::Lease]).await.lease), "the answer has no Date");
}

#[tokio::test]
async fn a_404_that_is_not_from_an_api_server_is_unknown() {
    let (cluster, _) = scripted(|_| Scripted::Text(404, "<html>no such page</html>"));
    assert!(why(read(&cluster, &[Fact::Lease]).await.lease).contains("404"));
}

#[tokio::test]
async fn a_fact_that_rbac_forbids_is_unknown_and_says_so() {
    let (cluster, _) = scripted(|_| status(403, "Forbidden"));
    let facts = read(&cluster, &[Fact::Lease, Fact::Pods, Fact::VolumeAttachments, Fact::Nodes]).await;
    assert_eq!(why(facts.lease), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.pods), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.volume_attachments), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.nodes), "forbidden: scripted Forbidden");
}

#[tokio::test(start_paused = true)]
async fn a_missing_answer_is_waited_for_until_the_deadline_and_no_longer() {
    let (cluster, _) = scripted(|line| if line.contains("/leases/") { Scripted::Nothing } else { list(json!([])) });
    let start = Instant::now();
    let facts = read(&cluster, &[Fact::Lease, Fact::Pods]).await;
    assert_eq!(start.elapsed(), Duration::from_secs(4));
    assert_eq!(why(facts.lease), "no answer within 4.0s");
    assert!(facts.pods.value().is_ok(), "a fact that did arrive is known");
}

#[tokio::test]
async fn an_incomplete_answer_is_unknown() {
    for text in ["", "{\"kind\":\"PodList\",\"items\":[{\"metadata\"", "{}", "[]", "{\"kind\":\"PodList\"}"] {
        let (cluster, _) = scripted(move |_| Scripted::Text(200, text));
        assert!(why(read(&cluster, &[Fact::Pods]).await.pods).contains("could not be understood"), "{text}");
    }
    let (cluster, _) = scripted(|_| Scripted::Json(200, json!({"kind": "PodList", "items": null})));
    assert_eq!(read(&cluster, &[Fact::Pods]).await.pods.value().unwrap().len(), 0, "in Go, null is an empty list");
}

fn page(numbers: std::ops::Range<usize>, next: &str) -> Scripted {
    let items: Vec<Value> = numbers
        .map(|n| json!({"metadata": {"name": format!("va-{n}")}, "spec": {"nodeName": if n % 2 == 0 { "n1" } else { "n2" }}}))
        .collect();
    Scripted::Json(200, json!({"metadata": {"continue": next}, "items": items}))
}

#[tokio::test]
async fn lists_are_read_page_by_page_and_only_objects_of_the_node_are_kept() {
    let (cluster, requests) = scripted(|line| match line {
        line if line.contains("continue=two") => page(500..600, ""),
        _ => page(0..500, "two"),
    });
    let facts = read(&cluster, &[Fact::VolumeAttachments]).await;
    assert_eq!(facts.volume_attachments.value().unwrap().len(), 300);
    assert_eq!(
        *requests.lock().unwrap(),
        [
            "GET /apis/storage.k8s.io/v1/volumeattachments?&limit=20000",
            "GET /apis/storage.k8s.io/v1/volumeattachments?&limit=20000&continue=two"
        ]
    );
}

#[tokio::test]
async fn an_expired_list_is_read_once_more_from_the_start() {
    let expired = Arc::new(Mutex::new(1));
    let left = Arc::clone(&expired);
    let (cluster, requests) = scripted(move |line| {
        if !line.contains("continue=") {
            return page(0..10, "two");
        }
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return status(410, "Expired");
        }
        page(10..12, "")
    });
    let facts = read(&cluster, &[Fact::VolumeAttachments]).await;
    assert_eq!(facts.volume_attachments.value().unwrap().len(), 6, "nothing is counted twice");
    assert_eq!(requests.lock().unwrap().len(), 4);
    *expired.lock().unwrap() = 2;
    assert!(why(read(&cluster, &[Fact::VolumeAttachments]).await.volume_attachments).contains("410"));
}

#[tokio::test]
async fn a_list_with_a_repeated_continue_token_is_an_error() {
    let (cluster, _) = scripted(|_| page(0..1, "again"));
    assert_eq!(why(read(&cluster, &[Fact::VolumeAttachments]).await.volume_attachments), "the list does not end");
}

#[tokio::test]
async fn pods_are_listed_by_their_node() {
    let (cluster, requests) = scripted(|_| list(json!([{"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}}])));
    assert_eq!(read(&cluster, &[Fact::Pods]).await.pods.value().unwrap().len(), 1);
    assert_eq!(*requests.lock().unwrap(), ["GET /api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&limit=20000"]);
}

#[tokio::test]
async fn all_volumes_are_read_if_a_pod_may_keep_one_and_otherwise_only_those_that_a_message_names() {
    let pod = |tolerations: Value| {
        json!([{"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": "n1", "tolerations": tolerations,
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}}])
    };
    let attachment = |number: usize| {
        json!({"metadata": {"name": format!("va-{number}")},
            "spec": {"nodeName": "n1", "source": {"persistentVolumeName": format!("pv-{number}")}}})
    };
    let attachments: Vec<Value> = (0..8).rev().map(attachment).collect();
    let script = |pods: Value| {
        let attachments = json!(attachments);
        move |line: &str| match line {
            line if line.contains("/pods") => list(pods.clone()),
            line if line.contains("/volumeattachments") => list(attachments.clone()),
            _ => Scripted::Json(200, json!({"spec": {"claimRef": {"namespace": "a", "name": "c"}}})),
        }
    };
    let volumes = async |pods: Value, query: &[Fact], request: &Request| -> Vec<String> {
        let (cluster, requests) = scripted(script(pods));
        let deadline = Instant::now() + Duration::from_secs(4);
        let query: FactQuery = query.iter().copied().collect();
        let facts = cluster.read(request, &query, &Clock::System, deadline).await.facts;
        let reads = requests.lock().unwrap().iter().filter(|line| line.contains("/persistentvolumes/")).count();
        assert_eq!(reads, facts.persistent_volumes.len());
        facts.persistent_volumes.into_keys().collect()
    };
    let first_five: Vec<String> = (0..5).map(|number| format!("pv-{number}")).collect();
    let both = [Fact::Pods, Fact::VolumeAttachments];
    let tolerant = || pod(json!([{"operator": "Exists"}]));

    assert_eq!(volumes(tolerant(), &both, &release()).await.len(), 8);
    assert_eq!(volumes(pod(json!([])), &both, &release()).await, first_five, "the pod must leave");
    assert_eq!(volumes(json!([]), &both, &release()).await, first_five);
    let Request { write: Write::Update { old, new }, .. } = release() else { unreachable!() };
    let deletion = Request { write: Write::Delete { old: old.clone() }, ..release() };
    assert_eq!(volumes(tolerant(), &both, &deletion).await, first_five, "nothing is excused");
    let placement = Request { write: Write::Update { old: new, new: old }, ..release() };
    assert!(volumes(tolerant(), &both, &placement).await.is_empty(), "a placement judges no volume");
    assert!(volumes(tolerant(), &[Fact::Pods], &release()).await.is_empty());
}

#[tokio::test]
async fn the_volumes_of_claims_are_read_only_if_there_is_a_network_fence() {
    let claiming = json!([{"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": "n1", "volumes": [
        {"name": "d", "persistentVolumeClaim": {"claimName": "bound"}},
        {"name": "e", "persistentVolumeClaim": {"claimName": "waits"}},
        {"name": "f", "persistentVolumeClaim": {"claimName": "gone"}}]}}]);
    let script = |fences: Value| {
        let claiming = claiming.clone();
        move |line: &str| match line {
            line if line.contains("/networkfences") => list(fences.clone()),
            line if line.contains("/pods") => list(claiming.clone()),
            line if line.ends_with("/a/persistentvolumeclaims/bound") => {
                Scripted::Json(200, json!({"spec": {"volumeName": "pv-1"}}))
            }
            line if line.ends_with("/a/persistentvolumeclaims/waits") => Scripted::Json(200, json!({"spec": {}})),
            line if line.ends_with("/persistentvolumes/pv-1") => {
                Scripted::Json(200, json!({"metadata": {"name": "pv-1"}, "spec": {"csi": {"driver": "san.test"}}}))
            }
            line if line.contains("/volumeattachments") => list(json!([{"metadata": {"name": "va"},
                "spec": {"nodeName": "n1", "source": {"persistentVolumeName": "pv-1"}}}])),
            _ => status(404, "NotFound"),
        }
    };
    let query = [Fact::Pods, Fact::VolumeAttachments, Fact::Custom(CustomKind::NetworkFence)];
    let (cluster, requests) = scripted(script(json!([{"metadata": {"name": "rack-7"}}])));
    let facts = read_for(&cluster, &placement(), &query).await;
    let volume = facts.claimed_volumes["a/bound"].value().unwrap().clone().unwrap();
    assert_eq!(volume.spec.csi.unwrap().driver, "san.test");
    assert_eq!(facts.claimed_volumes["a/waits"].value(), Ok(&None));
    assert_eq!(facts.claimed_volumes["a/gone"].value(), Ok(&None));
    assert!(facts.persistent_volumes.is_empty(), "an attachment names its driver");
    assert_eq!(requests.lock().unwrap().len(), 7);

    let (cluster, requests) = scripted(script(json!([])));
    assert!(read_for(&cluster, &placement(), &query).await.claimed_volumes.is_empty());
    assert_eq!(requests.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_claim_that_cannot_be_read_is_unknown() {
    let (cluster, _) = scripted(|line| match line {
        line if line.contains("/networkfences") => list(json!([{"metadata": {"name": "rack-7"}}])),
        line if line.contains("/pods") => list(json!([{"metadata": {"namespace": "a", "name": "p"}, "spec":
            {"nodeName": "n1", "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}}])),
        _ => status(403, "Forbidden"),
    });
    let mut facts = read(&cluster, &[Fact::Pods, Fact::Custom(CustomKind::NetworkFence)]).await;
    assert_eq!(why(facts.claimed_volumes.remove("a/c").unwrap()), "forbidden: scripted Forbidden");
}

#[tokio::test]
async fn the_access_review_has_all_groups_and_extras_of_the_requester() {
    for (said, expected) in [
        (json!({"allowed": true}), true),
        (json!({"allowed": false}), false),
        (json!({"allowed": true, "denied": true}), false),
    ] {
        let (cluster, requests) = scripted(move |_| Scripted::Json(201, json!({"spec": {}, "status": said})));
        let facts = read(&cluster, &[Fact::Access(Verb::BreakGlass)]).await;
        assert_eq!(facts.access[&Verb::BreakGlass].value().unwrap().allowed, expected);
        let line = requests.lock().unwrap()[0].clone();
        let (head, body) = line.split_at(line.find('{').unwrap());
        assert_eq!(head, "POST /apis/authorization.k8s.io/v1/subjectaccessreviews? ");
        let spec = serde_json::from_str::<Value>(body).unwrap()["spec"].clone();
        assert_eq!(
            spec,
            json!({
                "user": "alice", "uid": "7", "groups": ["ops"],
                "extra": {"authentication.kubernetes.io/credential-id": ["x"]},
                "resourceAttributes":
                    {"group": "fencegate.dev", "resource": "nodes", "verb": "break-glass", "name": "n1"},
            })
        );
    }
}

#[tokio::test]
async fn facts_that_could_not_be_read_deny_the_write_and_are_named() {
    let (cluster, _) = scripted(|_| status(500, "InternalError"));
    let facts = read(&cluster, &[Fact::Pods, Fact::VolumeAttachments]).await;
    let decision = decide(Webhook::Validate, &release(), &facts, &Settings::default());
    assert!(!decision.allowed);
    let reason = decision.findings.iter().find(|finding| finding.denies()).unwrap().reason.to_string();
    assert!(reason.contains("the list of Pods on n1 could not be read: the API server answered 500"), "{reason}");
    assert!(reason.contains("the list of VolumeAttachments could not be read"), "{reason}");
}

/// A request about a Node that names its host and has an address.
fn on_bare_metal() -> Request {
    let node: Node =
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"providerID": "metal3://infra/host-1/m"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}))
        .unwrap();
    Request { write: Write::Update { old: node.clone(), new: node }, ..release() }
}

async fn read_custom(cluster: &Cluster) -> Facts {
    let deadline = Instant::now() + Duration::from_secs(4);
    cluster
        .read(&on_bare_metal(), &CustomKind::ALL.iter().copied().map(Fact::Custom).collect(), &Clock::System, deadline)
        .await
        .facts
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_a_known_fact() {
    let (cluster, requests) = scripted(|_| Scripted::Text(404, "404 page not found"));
    let facts = read_custom(&cluster).await;
    assert_eq!(facts.custom.fence_agents_remediations.value(), Ok(&None));
    assert_eq!(facts.custom.self_node_remediations.value(), Ok(&None));
    assert_eq!(facts.custom.network_fences.value(), Ok(&None));
    assert_eq!(facts.custom.network_fence_classes.value(), Ok(&None));
    assert_eq!(facts.custom.csi_addons_nodes.value(), Ok(&None));
    assert_eq!(facts.custom.bare_metal_hosts.value(), Ok(&None));
    let mut requests = requests.lock().unwrap().clone();
    requests.sort();
    assert_eq!(
        requests,
        [
            "GET /apis/csiaddons.openshift.io/v1alpha1/csiaddonsnodes?&limit=20000",
            "GET /apis/csiaddons.openshift.io/v1alpha1/networkfenceclasses?&limit=20000",
            "GET /apis/csiaddons.openshift.io/v1alpha1/networkfences?&limit=20000",
            "GET /apis/fence-agents-remediation.medik8s.io/v1alpha1/fenceagentsremediations?&limit=20000",
            "GET /apis/metal3.io/v1alpha1/namespaces/infra/baremetalhosts?&fieldSelector=metadata.name%3Dhost-1&limit=20000",
            "GET /apis/self-node-remediation.medik8s.io/v1alpha1/selfnoderemediations?&limit=20000",
        ]
    );
}

#[tokio::test]
async fn a_kind_that_rbac_forbids_is_unknown() {
    let (cluster, _) = scripted(|_| status(403, "Forbidden"));
    let facts = read_custom(&cluster).await;
    assert_eq!(why(facts.custom.fence_agents_remediations), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.custom.self_node_remediations), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.custom.network_fences), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.custom.network_fence_classes), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.custom.csi_addons_nodes), "forbidden: scripted Forbidden");
    assert_eq!(why(facts.custom.bare_metal_hosts), "forbidden: scripted Forbidden");
}

#[tokio::test]
async fn only_objects_about_the_node_are_kept() {
    let (cluster, _) = scripted(|line| {
        let named = |name: &str| json!({"metadata": {"name": name, "namespace": "infra"}});
        list(match line {
            line if line.contains("networkfence") => json!([named("one"), named("two")]),
            line if line.contains("csiaddonsnodes") => json!([
                {"metadata": {"name": "about"}, "spec": {"driver": {"name": "san.test", "nodeID": "n1"}}},
                {"metadata": {"name": "other"}, "spec": {"driver": {"name": "san.test", "nodeID": "n2"}}},
            ]),
            line if line.contains("baremetalhosts") => json!([named("host-1"), named("host-2")]),
            _ => json!([named("n1"), named("n2"),
                {"metadata": {"name": "x", "annotations": {"remediation.medik8s.io/node-name": "n1", "other": "y"}}},
                {"metadata": {"name": "n1", "annotations": {"remediation.medik8s.io/node-name": "n2"}}}]),
        })
    });
    let facts = read_custom(&cluster).await;
    let about = facts.custom.fence_agents_remediations.value().unwrap().clone().unwrap();
    let names: Vec<&str> = about.iter().map(|remediation| remediation.metadata.name.as_str()).collect();
    assert_eq!(names, ["n1", "x"]);
    assert_eq!(facts.custom.self_node_remediations.value().unwrap().as_ref().unwrap().len(), 2);
    assert_eq!(facts.custom.network_fences.value().unwrap().as_ref().unwrap().len(), 2, "the storage may know others");
    assert_eq!(facts.custom.csi_addons_nodes.value().unwrap().as_ref().unwrap().len(), 1);
    assert_eq!(facts.custom.csi_addons_nodes.value().unwrap().as_ref().unwrap()[0].metadata.name, "about");
    assert_eq!(facts.custom.bare_metal_hosts.value().unwrap().as_ref().unwrap().len(), 1);
}

#[tokio::test]
async fn if_the_api_server_is_unreachable_facts_are_unknown() {
    let unreachable = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let cluster = Cluster::Live(Live::new(Client::try_from(unreachable).unwrap()));
    assert!(why(read(&cluster, &[Fact::Lease]).await.lease).contains("could not be reached"));
    assert!(cluster.reach().await.is_err());
}
