//! `place.maxNodes` and placements at the same time: gates against an API server that keeps the
//! Lease `fencegate-budget` as the real one does, with versions.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use fencegate::{
    admission::{
        handler::{Allowance, Call, Judge as _},
        review,
    },
    audit::Audit,
    clock::Clock,
    cluster::{Cluster, Live},
    config,
    gate::Gate,
    policy::{
        Decision,
        reason::Code,
        review::{Review, Webhook},
    },
};
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::time::Instant;

const DATE: &str = "Sun, 22 Nov 2026 10:20:00 GMT";
const BUDGET: &str = "/apis/coordination.k8s.io/v1/namespaces/fencegate-system/leases/fencegate-budget";
const NODES: usize = 40;

/// What the API server answers to a write of the Lease.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writes {
    Stored,
    Forbidden,
    Unanswered,
    /// Another writer is always faster.
    Lost,
}

/// The API server: it has 40 Nodes, none of them out of service, and the Lease.
struct ApiServer {
    writes: Writes,
    /// The version of the Lease, and the Lease.
    lease: Mutex<Option<(u64, Value)>>,
    /// `GET /path`.
    requests: Mutex<Vec<String>>,
}

impl ApiServer {
    fn new(writes: Writes) -> Arc<Self> {
        Arc::new(Self { writes, lease: Mutex::default(), requests: Mutex::default() })
    }

    /// The nodes in the Lease.
    fn entered(&self) -> Vec<String> {
        let Some((_, lease)) = self.lease.lock().unwrap().clone() else { return Vec::new() };
        let text = lease["metadata"]["annotations"]["fencegate.dev/admitted"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    fn count(&self, request: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| line.starts_with(request)).count()
    }

    /// Status code and object of the answer. `None`: there is no answer.
    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        let status = |code: u16, reason: &str| {
            Some((
                code,
                json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}),
            ))
        };
        if path == "/api/v1/nodes" {
            let node = |number: usize| json!({"metadata": {"name": format!("n{number}")}});
            return Some((200, json!({"metadata": {}, "items": (0..NODES).map(node).collect::<Vec<_>>()})));
        }
        let mut lease = self.lease.lock().unwrap();
        let is_write = *method == Method::PUT || *method == Method::POST;
        match self.writes {
            Writes::Forbidden if is_write => return status(403, "Forbidden"),
            Writes::Unanswered if is_write => return None,
            Writes::Lost if is_write => return status(409, "Conflict"),
            _ => {}
        }
        let sent = || serde_json::from_slice::<Value>(body).unwrap();
        match (method, path, &*lease) {
            (&Method::GET, BUDGET, Some((version, stored))) => {
                let mut read = stored.clone();
                read["metadata"]["resourceVersion"] = json!(version.to_string());
                Some((200, read))
            }
            (&Method::PUT, BUDGET, Some((version, _))) => {
                if sent()["metadata"]["resourceVersion"] != json!(version.to_string()) {
                    return status(409, "Conflict");
                }
                *lease = Some((version + 1, sent()));
                Some((200, sent()))
            }
            (&Method::POST, path, None) if BUDGET.starts_with(path) => {
                *lease = Some((1, sent()));
                Some((201, sent()))
            }
            (&Method::POST, path, Some(_)) if BUDGET.starts_with(path) => status(409, "AlreadyExists"),
            (&Method::GET | &Method::PUT, ..) => status(404, "NotFound"),
            _ => panic!("{method} {path}"),
        }
    }

    /// A replica of the gate in front of this API server, in this namespace.
    fn gate(self: &Arc<Self>, configuration: &str, namespace: Option<&str>) -> Gate {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                // Others get a turn between any two requests.
                tokio::task::yield_now().await;
                let Some((code, object)) = server.answer(&head.method, head.uri.path(), &body) else {
                    return std::future::pending().await;
                };
                let response = Response::builder().status(StatusCode::from_u16(code).unwrap()).header("date", DATE);
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(object.to_string()))).unwrap())
            }
        });
        let live = Live::new(Client::new(service, "default")).in_namespace(namespace.map(str::to_owned));
        let settings = config::parse(configuration.as_bytes()).unwrap();
        let clock = Clock::at("2026-11-22T10:20:00Z".parse().unwrap());
        Gate::new(Cluster::Live(live), settings, clock, Audit::Discard)
    }
}

/// Someone puts an old node that fell silent long ago out of service, with complete evidence.
fn placement(node: &str, dry_run: bool) -> Review {
    let object = |taints: Value| {
        json!({
            "metadata": {"name": node, "creationTimestamp": "2026-03-02T08:00:00Z", "annotations": {
                "fencegate.dev/method": "power-off", "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
                "fencegate.dev/fenced-by": "alice"}},
            "spec": {"taints": taints},
            "status": {"conditions": [
                {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T10:14:50Z"}]},
        })
    };
    let taint = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    let request = json!({"uid": "u", "operation": "UPDATE", "dryRun": dry_run, "userInfo": {"username": "alice"},
        "resource": {"group": "", "version": "v1", "resource": "nodes"},
        "oldObject": object(json!([])), "object": object(taint)});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    review::read(review.to_string().as_bytes()).unwrap()
}

async fn judge(gate: &Gate, webhook: Webhook, review: &Review) -> Decision {
    let call = Call::new(webhook, Instant::now(), Allowance::within(Duration::from_secs(5)));
    gate.judge(&call, &mut review.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_placements_at_the_same_time_exactly_as_many_are_allowed_as_max_nodes_allows() {
    for most in [1, 3, 7] {
        let server = ApiServer::new(Writes::Stored);
        let configuration = format!("place: {{maxNodes: {most}}}");
        let gates = [(); 2].map(|()| server.gate(&configuration, Some("fencegate-system")));
        let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
        let race = names.iter().zip(gates.iter().cycle()).map(|(name, gate)| {
            let (gate, name) = (gate.clone(), name.clone());
            tokio::spawn(async move { judge(&gate, Webhook::Validate, &placement(&name, false)).await })
        });
        let decisions: Vec<Decision> = join_all(race).await.into_iter().map(Result::unwrap).collect();
        let mut allowed: Vec<String> =
            decisions.iter().filter(|decision| decision.allowed).map(|decision| decision.node.clone()).collect();
        allowed.sort();
        assert_eq!(allowed.len(), most, "{allowed:?}");
        assert_eq!(server.entered(), allowed);
        for denied in decisions.iter().filter(|decision| !decision.allowed) {
            assert_eq!(denied.codes(), [Code::TooManyOutOfService], "{denied:?}");
        }
    }
}

#[tokio::test]
async fn a_write_that_is_judged_again_takes_no_second_place() {
    let server = ApiServer::new(Writes::Stored);
    let gate = server.gate("place: {maxNodes: 1}", Some("fencegate-system"));
    for _ in 0..3 {
        assert!(judge(&gate, Webhook::Validate, &placement("n1", false)).await.allowed);
    }
    assert!(!judge(&gate, Webhook::Validate, &placement("n2", false)).await.allowed);
    assert_eq!(server.entered(), ["n1"]);
}

#[tokio::test]
async fn only_the_validating_webhook_enters_a_node_and_not_on_a_dry_run() {
    let server = ApiServer::new(Writes::Stored);
    let gate = server.gate("place: {maxNodes: 1}", Some("fencegate-system"));
    assert!(judge(&gate, Webhook::Mutate, &placement("n1", false)).await.allowed);
    assert!(judge(&gate, Webhook::Validate, &placement("n1", true)).await.allowed);
    assert_eq!(server.entered(), [""; 0]);
    assert!(judge(&gate, Webhook::Validate, &placement("n1", false)).await.allowed);
    assert_eq!(server.entered(), ["n1"]);
    for (webhook, dry_run) in [(Webhook::Mutate, false), (Webhook::Validate, true)] {
        let later = judge(&gate, webhook, &placement("n2", dry_run)).await;
        assert_eq!(later.codes(), [Code::TooManyOutOfService], "both read it");
    }
}

#[tokio::test]
async fn a_denied_placement_takes_no_place() {
    let server = ApiServer::new(Writes::Stored);
    let gate = server.gate("place: {maxNodes: 1, maxNotReady: 1}", Some("fencegate-system"));
    let denied = judge(&gate, Webhook::Validate, &placement("n1", false)).await;
    assert_eq!(denied.codes(), [Code::TooManyNotReady]);
    assert_eq!((server.entered().len(), server.count("POST")), (0, 0));
}

#[tokio::test]
async fn without_max_nodes_the_lease_is_neither_read_nor_written() {
    let server = ApiServer::new(Writes::Stored);
    for configuration in
        ["{}", "place: {maxNotReady: 100%}", "{place: {maxNodes: 1}, checks: {TooManyOutOfService: off}}"]
    {
        let gate = server.gate(configuration, None);
        assert!(judge(&gate, Webhook::Validate, &placement("n1", false)).await.allowed, "{configuration}");
    }
    assert_eq!(server.count("POST"), 0);
    assert_eq!(server.count(&format!("GET {BUDGET}")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_placement_that_cannot_be_entered_is_denied() {
    for (writes, namespace, why) in [
        (Writes::Forbidden, Some("fencegate-system"), "could not be used: forbidden: Forbidden"),
        (Writes::Unanswered, Some("fencegate-system"), "could not be used: the write was not answered in time"),
        (Writes::Stored, None, "could not be used: the gate's own namespace is not known: set --namespace"),
    ] {
        let server = ApiServer::new(writes);
        let gate = server.gate("place: {maxNodes: 1}", namespace);
        let denied = judge(&gate, Webhook::Validate, &placement("n1", false)).await;
        assert_eq!(denied.codes(), [Code::FactsUnavailable], "{writes:?}");
        let reason = denied.findings[0].reason.to_string();
        assert_eq!(reason, format!("Lease fencegate-budget {why}"));
    }
}

#[tokio::test]
async fn a_placement_that_loses_every_conflict_is_denied_at_the_deadline() {
    let server = ApiServer::new(Writes::Lost);
    let gate = server.gate("place: {maxNodes: 1}", Some("fencegate-system"));
    let call = Call::new(Webhook::Validate, Instant::now(), Allowance::within(Duration::from_millis(400)));
    let denied = gate.judge(&call, &mut placement("n1", false)).await;
    assert_eq!(denied.codes(), [Code::FactsUnavailable]);
    assert!(server.count("POST") > 1, "it tried again");
}

#[tokio::test]
async fn where_the_check_only_warns_a_placement_that_cannot_be_entered_is_allowed() {
    let server = ApiServer::new(Writes::Forbidden);
    let configuration = "{place: {maxNodes: 1}, checks: {TooManyOutOfService: warn}}";
    let gate = server.gate(configuration, Some("fencegate-system"));
    let allowed = judge(&gate, Webhook::Validate, &placement("n1", false)).await;
    assert!(allowed.allowed && allowed.warnings[0].starts_with("TooManyOutOfService was not checked"), "{allowed:?}");
}
