//! `make soak`: honest calls while hostile clients without credentials do everything that they can.
//! It runs for a fixed time. It fails if one honest call does not get the right answer, or if the
//! program uses too much memory.
//!
//! It runs the release binary on loopback, with a file as the cluster, so the time that an API
//! server needs for reads is not included.

#![allow(clippy::unwrap_used, dead_code, reason = "a load test that cannot run fails")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Bytes, Frame},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{Client, bare_taint, certificates};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

/// Clients that keep a connection idle: forty times the program's limit of connections.
const IDLE: usize = 10_000;
/// Clients that never finish the TLS handshake.
const SLOW_HANDSHAKES: usize = 200;
/// Clients that send a body byte by byte.
const SLOW_BODIES: usize = 2_000;
/// HTTP/2 connections, and the bodies that each sends byte by byte at once.
const STREAMS: (usize, usize) = (8, 64);
/// Clients that send bodies of almost 7 MiB without a pause. Only a few, because they share this
/// machine's CPU with the honest client.
const LARGE_BODIES: usize = 4;
/// Clients that open connections to the telemetry port and send nothing.
const TELEMETRY: usize = 500;
/// Clients that send random bytes.
const GARBAGE: usize = 20;
/// Connections of the honest client.
const HONEST: usize = 5;
/// Calls in a second on each of them: many more than a cluster has guarded writes.
const EACH: u64 = 50;
/// KiB.
const MOST_MEMORY: usize = 48 * 1024;
/// Of 1,000 honest calls, 990 take at most this long.
const MOST_TIME: Duration = Duration::from_millis(100);
/// Where the attackers call from. The honest client calls from 127.0.0.1.
const ATTACKERS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

/// How often each kind of attack succeeded.
#[derive(Default)]
struct Done {
    idle: AtomicUsize,
    handshakes: AtomicUsize,
    bodies: AtomicUsize,
    streams: AtomicUsize,
    large: AtomicUsize,
    garbage: AtomicUsize,
    telemetry: AtomicUsize,
}

/// Kills the program when the test ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Resident memory in KiB.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let seconds: u64 = std::env::args().nth(1).map_or(60, |text| text.parse().unwrap());
    let (made, folder) = (certificates(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, content) in
        [("tls.crt", made.certificate.as_str()), ("tls.key", &made.key), ("cluster.yaml", "kind: List\nitems: []\n")]
    {
        fs::write(path(name), content).unwrap();
    }
    let address: SocketAddr = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let telemetry: SocketAddr = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let program = Command::new("target/release/fencegate")
        .args(["serve", "--listen", &address.to_string(), "--telemetry-listen", &telemetry.to_string()])
        .args(["--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key"), "--cluster", &path("cluster.yaml")])
        // As in the manifests.
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let program = Program(program.unwrap());
    let client = Client::new(address, &made.ca);
    while client.connect().await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    let before = program.memory();

    let mut attack = JoinSet::new();
    let done = Arc::new(Done::default());
    let [first, second] = ATTACKERS.map(|from| Client { from: Some(from), ..client.clone() });
    for n in 0..IDLE {
        attack.spawn(idle(first.clone(), Arc::clone(&done), n));
    }
    for _ in 0..SLOW_HANDSHAKES {
        attack.spawn(slow_handshake(address, Arc::clone(&done)));
    }
    for n in 0..SLOW_BODIES {
        attack.spawn(slow_body(second.clone(), Arc::clone(&done), n));
    }
    for _ in 0..STREAMS.0 {
        attack.spawn(streams(second.clone(), Arc::clone(&done)));
    }
    let bodies = large_bodies();
    for n in 0..LARGE_BODIES {
        attack.spawn(large_body(first.clone(), Arc::clone(&done), bodies.clone(), n));
    }
    for _ in 0..GARBAGE {
        attack.spawn(garbage(first.clone(), Arc::clone(&done)));
    }
    for _ in 0..TELEMETRY {
        attack.spawn(telemetry_port(telemetry, Arc::clone(&done)));
    }
    // The attack needs about this long until all clients are connected.
    sleep(Duration::from_secs(10)).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut honest = JoinSet::new();
    for _ in 0..HONEST {
        honest.spawn(honest_calls(client.clone(), end));
    }
    let mut most = before;
    while Instant::now() < end {
        sleep(Duration::from_millis(250)).await;
        most = most.max(program.memory());
    }
    let (mut took, mut failed) = (Vec::new(), Vec::new());
    while let Some(result) = honest.join_next().await {
        let (fine, wrong) = result.unwrap();
        took.extend(fine);
        failed.extend(wrong);
    }
    attack.shutdown().await;
    took.sort();
    let at = |share: usize| took.get(took.len() * share / 1000).copied().unwrap_or_default();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "beside {IDLE} idle connections ({} handshakes), {} silent ones, {} slow bodies and {} on HTTP/2, {} of 7 MiB, \
         {} of garbage and {} on the telemetry port in {seconds}s:",
        count(&done.idle),
        count(&done.handshakes),
        count(&done.bodies),
        count(&done.streams),
        count(&done.large),
        count(&done.garbage),
        count(&done.telemetry),
    );
    println!(
        "{} honest calls answered, {} not; median {:.1?}, 99% {:.1?}, 99.9% {:.1?}, slowest {:.1?}",
        took.len(),
        failed.len(),
        at(500),
        at(990),
        at(999),
        took.last().copied().unwrap_or_default()
    );
    println!("memory: {} MiB before, {} MiB at most", before / 1024, most / 1024);
    for why in failed.iter().take(5) {
        println!("  {why}");
    }
    let expected = HONEST as u64 * EACH * seconds * 9 / 10;
    let is_fine = failed.is_empty() && took.len() as u64 >= expected && most <= MOST_MEMORY && at(990) <= MOST_TIME;
    println!("soak result: {}", if is_fine { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(!is_fine))
}

/// What a client of HTTP/2 sends first: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Completes the TLS handshake and sends no request; every second client speaks HTTP/2, and answers
/// nothing. Connects again some time after the server closed the connection.
async fn idle(client: Client, done: Arc<Done>, number: usize) {
    let is_http2 = number.is_multiple_of(2);
    let client = Client { alpn: vec![if is_http2 { "h2" } else { "http/1.1" }], ..client };
    // The connections are spread over time, because this machine does its half of every handshake,
    // too.
    sleep(Duration::from_millis(number as u64)).await;
    loop {
        if let Ok(mut stream) = client.connect().await {
            done.idle.fetch_add(1, Ordering::Relaxed);
            if is_http2 {
                let _ = stream.write_all(PREFACE).await;
            }
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        }
        sleep(Duration::from_secs(15)).await;
    }
}

/// Connects without a TLS handshake.
async fn slow_handshake(address: SocketAddr, done: Arc<Done>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            done.handshakes.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0]).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Sends a body byte by byte.
async fn slow_body(client: Client, done: Arc<Done>, number: usize) {
    sleep(Duration::from_millis(5 * number as u64)).await;
    loop {
        if let Ok(mut stream) = client.connect().await {
            done.bodies.fetch_add(1, Ordering::Relaxed);
            let head = b"POST /validate HTTP/1.1\r\nHost: l\r\nContent-Length: 1000\r\n\r\n{";
            let mut sent = stream.write_all(head).await;
            while sent.is_ok() {
                sleep(Duration::from_millis(200)).await;
                sent = stream.write_all(b" ").await;
            }
        }
        sleep(Duration::from_secs(10)).await;
    }
}

/// Sends many bodies on one HTTP/2 connection, all of them byte by byte.
async fn streams(client: Client, done: Arc<Done>) {
    let client = Client { alpn: vec!["h2"], ..client };
    loop {
        if let Ok(stream) = client.connect().await
            && let Ok((sender, connection)) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
        {
            let connection = tokio::spawn(connection);
            let one = || async {
                let bytes = futures_util::stream::unfold((), |()| async {
                    sleep(Duration::from_millis(200)).await;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b" "))), ()))
                });
                let request = http::Request::post("https://localhost/validate").body(StreamBody::new(Box::pin(bytes)));
                let mut sender = sender.clone();
                if sender.ready().await.is_ok() {
                    done.streams.fetch_add(1, Ordering::Relaxed);
                    let _ = sender.send_request(request.unwrap()).await;
                }
            };
            futures_util::future::join_all((0..STREAMS.1).map(|_| one())).await;
            connection.abort();
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Opens a connection to the telemetry port, and sends nothing.
async fn telemetry_port(address: SocketAddr, done: Arc<Done>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            done.telemetry.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0]).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Reviews of almost 7 MiB: what a large Node has, and what becomes as large as possible in memory.
fn large_bodies() -> Vec<Bytes> {
    let review = |at: &str, value: Value| {
        let mut review = bare_taint();
        *review.pointer_mut(&format!("/request/{at}")).unwrap() = value;
        let body = Bytes::from(review.to_string());
        assert!(body.len() > 6 << 20 && body.len() < 7 << 20, "{}", body.len());
        body
    };
    let image = json!({"names": ["registry.example/team/service@sha256:0"], "sizeBytes": 1});
    let empty = |most: usize| vec![json!({}); most];
    let key = |number: usize| (format!("fencegate.dev/{}{number}", "k".repeat(85)), json!(""));
    vec![
        review("object/status", json!({"images": vec![image; 105_000]})),
        review("object/status", json!({"conditions": empty(2_200_000)})),
        review("object/spec", json!({"taints": empty(2_200_000)})),
        review("object/metadata", json!({"name": "worker-2", "annotations": (0..60_000).map(key).collect::<Value>()})),
        review("object/metadata", json!({"name": "worker-2", "finalizers": vec![""; 2_200_000]})),
        review("userInfo", json!({"username": "alice", "groups": vec![""; 2_200_000]})),
    ]
}

/// Sends reviews of almost 7 MiB, as fast as it can.
async fn large_body(client: Client, done: Arc<Done>, bodies: Vec<Bytes>, number: usize) {
    for body in bodies.iter().cycle().skip(number) {
        let is_answered = client.post(body.clone()).await.is_ok();
        done.large.fetch_add(usize::from(is_answered), Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sends bytes that are not HTTP.
async fn garbage(client: Client, done: Arc<Done>) {
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    loop {
        if let Ok(mut stream) = client.connect().await {
            done.garbage.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(&noise).await;
            let _ = timeout(Duration::from_secs(5), stream.read(&mut [0])).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Calls at a steady pace on one connection, and opens a new one every second, as an API server
/// does that was just started.
async fn honest_calls(client: Client, end: Instant) -> (Vec<Duration>, Vec<String>) {
    let (mut took, mut failed) = (Vec::new(), Vec::new());
    let mut pace = interval(Duration::from_millis(1000 / EACH));
    let mut sender = None;
    let mut asked = 0_u64;
    let body = Bytes::from(bare_taint().to_string());
    while Instant::now() < end {
        pace.tick().await;
        if asked.is_multiple_of(EACH) {
            sender = None;
        }
        asked += 1;
        let start = Instant::now();
        match timeout(Duration::from_secs(5), ask(&client, &mut sender, &body)).await {
            Ok(Ok(())) => took.push(start.elapsed()),
            Ok(Err(why)) => failed.push(why),
            Err(_) => failed.push("no answer within 5s".to_owned()),
        }
    }
    (took, failed)
}

async fn ask(
    client: &Client,
    sender: &mut Option<http1::SendRequest<Full<Bytes>>>,
    body: &Bytes,
) -> Result<(), String> {
    if sender.is_none() {
        let stream = client.connect().await.map_err(|error| format!("connect: {error}"))?;
        let (made, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
        tokio::spawn(connection);
        *sender = Some(made);
    }
    let request = http::Request::post("/validate?timeout=5s").header("host", "localhost");
    let request = request.body(Full::new(body.clone())).map_err(|error| error.to_string())?;
    let sender = sender.as_mut().ok_or("no connection")?;
    sender.ready().await.map_err(|error| format!("closed: {error}"))?;
    let answer = sender.send_request(request).await.map_err(|error| format!("send: {error}"))?;
    let status = answer.status();
    let text = answer.into_body().collect().await.map_err(|error| format!("answer: {error}"))?.to_bytes();
    let answer: Value =
        serde_json::from_slice(&text).map_err(|_| format!("{status}: {}", String::from_utf8_lossy(&text)))?;
    let is_right = answer.pointer("/response/uid") == bare_taint().pointer("/request/uid")
        && answer.pointer("/response/status/code") == Some(&json!(403));
    if is_right { Ok(()) } else { Err(answer.to_string()) }
}
