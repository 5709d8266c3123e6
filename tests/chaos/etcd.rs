//! The history that etcd keeps: every version of every object, from the first.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    harness::plane::call,
    history::{History, TICKS},
    writers::BASELINE,
};
use http::Method;

#[derive(Deserialize)]
struct Answer {
    result: Watched,
}

#[derive(Deserialize)]
struct Watched {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    /// `DELETE`, or missing for a version that was stored.
    #[serde(default, rename = "type")]
    kind: String,
    kv: KeyValue,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    mod_revision: String,
    #[serde(default)]
    value: String,
}

/// Reads the history up to this revision through etcd's HTTP gateway: a watch from the first
/// revision.
pub async fn read(port: u16, until: u64, history: &mut History) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let watch = json!({"create_request": {"key": STANDARD.encode("/registry/"), "range_end": STANDARD.encode("/registry0"),
        "start_revision": "1", "fragment": true}});
    let request = Request::post("/v3/watch").header("host", "localhost").body(Full::<Bytes>::from(watch.to_string()));
    let mut body = sender.send_request(request.unwrap()).await.unwrap().into_body();
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let frame = body.frame().await.unwrap().unwrap();
        for piece in frame.into_data().unwrap().split_inclusive(|byte| *byte == b'\n') {
            rest.extend(piece);
            if !rest.ends_with(b"\n") {
                continue;
            }
            let line = std::mem::take(&mut rest);
            let answer: Answer = serde_json::from_slice(&line).unwrap();
            for Event { kind, kv } in answer.result.events {
                let revision: u64 = kv.mod_revision.parse().unwrap();
                let key = String::from_utf8(STANDARD.decode(kv.key).unwrap()).unwrap();
                if !key.contains(BASELINE) {
                    let value = STANDARD.decode(kv.value).unwrap();
                    history.store(&key, revision, (kind != "DELETE").then_some(value.as_slice()));
                }
                if revision >= until {
                    return;
                }
            }
        }
    }
}

/// Writes the time into the history every 100 ms, until the API server has answered to the last
/// write after `stop` is set. Returns the revision of that write.
pub async fn tick(client: Client, stop: impl Fn() -> bool) -> u64 {
    let name = TICKS.rsplit('/').next().unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let path = format!("{maps}/{name}");
    let created =
        call(&client, Method::POST, maps, Some(json!({"metadata": {"name": name}, "data": sent(None)}))).await;
    let mut stored = created.unwrap();
    let mut answered = Some(Timestamp::now());
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let is_last = stop();
        // The version keeps a write whose answer got lost from being stored later.
        let map = json!({"metadata": {"name": name, "resourceVersion": stored["metadata"]["resourceVersion"]},
            "data": sent(answered)});
        if let Ok(new) = call(&client, Method::PUT, &path, Some(map)).await {
            (stored, answered) = (new, Some(Timestamp::now()));
            if is_last {
                return stored["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            }
            continue;
        }
        // It may have been stored, and nobody knows when.
        answered = None;
        if let Ok(new) = call(&client, Method::GET, &path, None).await {
            stored = new;
        }
    }
}

fn sent(answered: Option<Timestamp>) -> Value {
    let mut data = json!({"sent": Timestamp::now().to_string()});
    if let Some(answered) = answered {
        data["answered"] = json!(answered.to_string());
    }
    data
}
