//! The HTTP layer through the router: responses to bodies that are not reviews, and the limit on
//! bodies.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

mod support;

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, body::Body, extract::ConnectInfo};
use fencegate::{
    admission::{handler::router, memory::BODY_LIMIT, paths},
    audit::Audit,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    gate::Gate,
    policy::settings::Settings,
};
use futures_util::{
    StreamExt as _,
    future::{self, Either},
    stream,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::bare_taint;
use tower::ServiceExt;

fn webhook() -> Router {
    let cluster = Cluster::of(Snapshot::example().unwrap());
    let clock = Clock::at("2026-11-22T10:12:00Z".parse().unwrap());
    router(Gate::new(cluster, Settings::default(), clock, Audit::Discard), paths::Source::plain(), 1)
}

async fn send(method: Method, path: &str, body: Body) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(body).unwrap();
    let response = webhook().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn post(body: impl Into<Body>) -> (StatusCode, String) {
    send(Method::POST, "/validate?timeout=5s", body.into()).await
}

#[tokio::test]
async fn the_mutating_webhook_decides_alike_and_patches_a_write_that_it_allows() {
    let ask = async |review: &Value| -> Value {
        let (status, text) = send(Method::POST, "/mutate?timeout=5s", Body::from(review.to_string())).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str::<Value>(&text).unwrap().get("response").unwrap().clone()
    };
    let denied = ask(&bare_taint()).await;
    assert_eq!(denied.pointer("/status/code").unwrap(), 403);
    assert_eq!((denied.get("patch"), denied.get("patchType")), (None, None));
    let mut attested = bare_taint();
    let annotations = json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-by": "alice",
        "fencegate.dev/fenced-at": "2026-11-22T10:11:00Z"});
    *attested.pointer_mut("/request/object/metadata").unwrap() =
        json!({"name": "worker-2", "annotations": annotations});
    let allowed = ask(&attested).await;
    assert_eq!(
        (allowed.get("allowed").unwrap(), allowed.get("patchType").unwrap()),
        (&json!(true), &json!("JSONPatch"))
    );
    let patch = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        allowed.get("patch").and_then(Value::as_str).unwrap(),
    );
    let patch = String::from_utf8(patch.unwrap()).unwrap();
    assert!(
        patch.contains(r#""path":"/metadata/annotations/fencegate.dev~1placed-at","value":"2026-11-22T10:12:00Z""#),
        "{patch}"
    );
}

#[tokio::test]
async fn a_validating_response_has_the_uid_of_its_review_and_never_a_patch() {
    let (status, text) = post(bare_taint().to_string()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let response = answer.get("response").unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer.get("apiVersion").unwrap(), "admission.k8s.io/v1");
    assert_eq!(answer.get("kind").unwrap(), "AdmissionReview");
    assert_eq!(response.get("uid"), bare_taint().pointer("/request/uid"));
    assert_eq!(response.pointer("/status/reason").unwrap(), "Forbidden");
    assert_eq!((response.get("patch"), response.get("patchType")), (None, None));
    let annotations = response.get("auditAnnotations").unwrap().as_object().unwrap();
    assert!(annotations.iter().all(|(key, value)| !key.contains('/') && value.is_string()), "{annotations:?}");
}

#[tokio::test]
async fn a_denial_has_its_lines_in_the_message() {
    let (_, text) = post(bare_taint().to_string()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let message = answer.pointer("/response/status/message").unwrap().as_str().unwrap();
    assert!(message.starts_with("node \"worker-2\" may not be put out of service:\n  EvidenceMissing: "), "{message}");
}

#[tokio::test]
async fn a_body_without_a_uid_is_a_bad_request() {
    for body in ["", "{", "[]", "\u{0}", r#"{"request":null}"#, r#"{"request":{"uid":null}}"#] {
        assert_eq!(post(body).await.0, StatusCode::BAD_REQUEST, "{body:?}");
    }
}

#[tokio::test]
async fn a_malformed_review_with_a_uid_is_denied_with_that_uid() {
    let (status, text) = post(r#"{"request":{"uid":"u-1","object":[[[["#.to_owned() + &"]".repeat(4) + "}}").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains(r#""uid":"u-1","allowed":false"#) && text.contains("ReviewMalformed"), "{text}");
}

#[tokio::test]
async fn deeply_nested_arrays_are_an_error_and_not_a_crash() {
    let bomb = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(post(bomb.clone()).await.0, StatusCode::BAD_REQUEST);
    let review = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","operation":"CREATE","object":{bomb}}}}}"#
    );
    assert!(post(review).await.1.contains("ReviewMalformed"));
}

#[tokio::test]
async fn a_body_of_seven_mebibytes_is_read_and_one_byte_more_is_refused() {
    let mut review = bare_taint().to_string();
    review.push_str(&" ".repeat(BODY_LIMIT - review.len()));
    assert_eq!(post(review.clone()).await.0, StatusCode::OK);
    review.push(' ');
    assert_eq!(post(review).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_endless_body_is_too_large() {
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    assert_eq!(post(Body::from_stream(endless)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_arrives_times_out() {
    let silent = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    assert_eq!(post(Body::from_stream(silent)).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn unfinished_bodies_of_one_client_leave_memory_for_another() {
    /// Two of these, and what each request takes beside its body, are almost what one client may
    /// take.
    const BODY: usize = 4 * 1024 * 1024 - 20 * 1024;
    let router = webhook();
    let post = async |last: u8, body: Body| {
        let address: SocketAddr = ([10, 0, 0, last], 443).into();
        let request = Request::post("/validate").extension(ConnectInfo(address)).body(body).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    };
    let small = async |last: u8| post(last, Body::from(bare_taint().to_string())).await;
    let unfinished = || {
        let beginning = stream::iter([Ok::<_, Infallible>(vec![b' '; BODY])]);
        post(1, Body::from_stream(beginning.chain(stream::pending())))
    };
    let full = async { while small(1).await != StatusCode::SERVICE_UNAVAILABLE {} };
    let first = future::select(Box::pin(future::join(unfinished(), unfinished())), Box::pin(full)).await;
    let Either::Right(((), holding)) = first else { panic!("a body that does not end was read") };
    assert_eq!(small(1).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(small(2).await, StatusCode::OK);
    drop(holding);
    assert_eq!(small(1).await, StatusCode::OK);
}

#[tokio::test]
async fn other_paths_and_methods_are_not_found_or_not_allowed() {
    assert_eq!(send(Method::GET, "/validate", Body::empty()).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(send(Method::POST, "/", Body::empty()).await.0, StatusCode::NOT_FOUND);
}
