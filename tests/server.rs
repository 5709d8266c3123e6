//! The server as `serve` runs it: real TLS on loopback, with clients that misbehave.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use fencegate::{
    certificates::issue::Development,
    cluster::{Cluster, Live},
    policy::{annotation::APPLIED_BY, source::Source},
    server::Certificates,
    tls::{accept::Limits, clients::Clients},
};
use http::Request;
use http_body_util::Full;
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use support::{Client, Running, bare_taint, certificates, text};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// Longer than anything here should take, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn reviews_are_answered_on_both_protocols_and_both_versions_of_tls() {
    let running = Running::start(|_| {}).await;
    for version in [&TLS12, &TLS13] {
        for protocol in ["http/1.1", "h2"] {
            let client = Client { versions: vec![version], alpn: vec![protocol], ..running.client() };
            let answer = client.ask(&bare_taint()).await;
            assert_eq!(answer["response"]["uid"], bare_taint()["request"]["uid"]);
            assert_eq!(answer["response"]["status"]["code"], 403, "{protocol}");
        }
    }
}

#[tokio::test]
async fn a_stalled_client_does_not_delay_another_one() {
    let running = Running::start(|_| {}).await;
    let _silent = TcpStream::connect(running.address).await.unwrap();
    let mut half_hello = TcpStream::connect(running.address).await.unwrap();
    half_hello.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    let mut half_header = running.client().connect().await.unwrap();
    half_header.write_all(b"POST /validate HTTP/1.1\r\nHost: ").await.unwrap();
    let mut half_body = running.client().connect().await.unwrap();
    half_body.write_all(b"POST /validate HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\n{").await.unwrap();
    timeout(PATIENCE, running.client().ask(&bare_taint())).await.unwrap();
}

#[tokio::test]
async fn an_unfinished_handshake_and_an_unfinished_header_are_closed_after_their_limit() {
    let short = Duration::from_millis(50);
    let limits = Limits { handshake: short, header: short, idle: Duration::from_mins(1), ..Limits::default() };
    let running = Running::start(|options| options.limits = limits).await;

    let mut no_handshake = TcpStream::connect(running.address).await.unwrap();
    let mut half_header = running.client().connect().await.unwrap();
    half_header.write_all(b"POST /validate HT").await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(PATIENCE, no_handshake.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a handshake that never begins");
    let closed = timeout(PATIENCE, half_header.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a header that never ends");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_within_the_callers_timeout_is_answered_with_408() {
    let running = Running::start(|_| {}).await;
    let mut half_body = running.client().connect().await.unwrap();
    let head = b"POST /validate?timeout=100ms HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\n{";
    half_body.write_all(head).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(PATIENCE, half_body.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_kept_connection_outlives_the_header_limit_and_not_the_idle_one() {
    let limits = Limits { header: Duration::from_millis(30), idle: Duration::from_millis(400), ..Limits::default() };
    let running = Running::start(|options| options.limits = limits).await;
    let stream = TokioIo::new(running.client().connect().await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let body = Full::new(Bytes::from(bare_taint().to_string()));
        let request = Request::post("/validate").header("host", "l").body(body).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        text(response).await;
        // Three header limits: waiting for the next request is not sending a header slowly.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn above_the_limit_on_reviews_the_next_one_is_refused_at_once() {
    let running = Running::start(|options| options.in_flight = 0).await;
    assert_eq!(running.client().post(bare_taint().to_string()).await.unwrap().status(), 503);
    running.until("/metrics", |_, text| !text.contains("fencegate_overloaded_total 0")).await;
}

#[tokio::test]
async fn above_the_limit_on_connections_one_that_sends_nothing_or_slowly_is_evicted() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let running = Running::start(|options| options.limits = limits).await;
    let mut silent = running.client().connect().await.unwrap();
    let mut slow = running.client().connect().await.unwrap();
    let is_closed = async |stream: &mut TlsStream<TcpStream>| {
        let read = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
        read.is_err() || read.is_ok_and(|read| read == 0)
    };
    assert!(is_closed(&mut silent).await);
    let head = b"POST /validate HTTP/1.1\r\nHost: l\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    slow.write_all(head).await.unwrap();
    let mut go_on = [0; 25];
    timeout(PATIENCE, slow.read_exact(&mut go_on)).await.unwrap().unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n", "the server waits for its body");
    let answer = running.client().post(bare_taint().to_string()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(is_closed(&mut slow).await);
}

#[tokio::test]
async fn above_the_limit_on_connections_one_that_waits_for_its_answer_is_not_evicted() {
    // An API server that never answers: a review waits for its facts.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let config = kube::Config::new(format!("http://{}", silent.local_addr().unwrap()).parse().unwrap());
    let limits = Limits { connections: 1, ..Limits::default() };
    let running = Running::start(|options| {
        options.limits = limits;
        options.cluster = Cluster::Live(Live::new(kube::Client::try_from(config).unwrap()));
    });
    let running = running.await;
    let client = Client { timeout: "2s", ..running.client() };
    let waiting = tokio::spawn(async move { client.post(bare_taint().to_string()).await.unwrap().status() });
    // The gate asks it whether it is there, too.
    let mut asking = Vec::new();
    let is_asked_for_facts = async {
        loop {
            let (mut stream, _) = silent.accept().await.unwrap();
            let mut asked = [0; 256];
            let read = stream.read(&mut asked).await.unwrap();
            asking.push(stream);
            if !String::from_utf8_lossy(&asked[..read]).contains("/version") {
                return;
            }
        }
    };
    timeout(PATIENCE, is_asked_for_facts).await.unwrap();
    assert!(running.client().connect().await.is_err());
    assert_eq!(waiting.await.unwrap(), 200);
}

/// A CA that issues client certificates.
struct ClientCa(Issuer<'static, KeyPair>);

impl ClientCa {
    /// With the certificate of the CA, PEM.
    fn make() -> (Self, String) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = ca.self_signed(&key).unwrap().pem();
        (Self(Issuer::new(ca, key)), certificate)
    }

    /// A client certificate with this common name and these DNS names, and its key, PEM.
    fn issue(&self, common: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut client = CertificateParams::new(names).unwrap();
        client.distinguished_name = rcgen::DistinguishedName::new();
        client.distinguished_name.push(DnType::CommonName, common);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (client.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// An HTTP/2 client that says nothing after the handshake cannot be told to go: its connection is
/// dropped.
#[tokio::test]
async fn a_silent_http2_connection_is_evicted_like_any_other() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let running = Running::start(|options| options.limits = limits).await;
    let silent = Client { alpn: vec!["h2"], ..running.client() };
    let mut first = silent.connect().await.unwrap();
    let _others = (silent.connect().await.unwrap(), silent.connect().await.unwrap());
    // The server's own preface comes first.
    let closed = async { while matches!(first.read(&mut [0; 1024]).await, Ok(read) if read > 0) {} };
    timeout(PATIENCE, closed).await.unwrap();
}

/// A server that serves only clients of this CA, with one of these names if there are any. With the
/// folder that has the CA.
async fn for_clients_of(ca: &str, names: &[&str]) -> (Running, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clients.crt");
    fs::write(&path, ca).unwrap();
    let running = Running::start(|options| {
        let Certificates::Files { clients, .. } = &mut options.certificates else { panic!("no files") };
        *clients = Clients { ca: Some(path), names: names.iter().map(|name| (*name).to_owned()).collect() };
    });
    (running.await, folder)
}

#[tokio::test]
async fn with_client_names_only_clients_with_one_of_them_are_served() {
    let (issuer, ca) = ClientCa::make();
    let (running, _folder) = for_clients_of(&ca, &["kube-apiserver", "api.example.com"]).await;
    let post = async |common: &str, names: &[&str], version| {
        let identity = Some(issuer.issue(common, names));
        let client = Client { identity, versions: vec![version], ..running.client() };
        client.post(bare_taint().to_string()).await.map(|response| response.status().as_u16())
    };
    for version in [&TLS12, &TLS13] {
        assert_eq!(post("kube-apiserver", &[], version).await.unwrap(), 200);
        assert_eq!(post("somebody", &["other.example.com", "api.example.com"], version).await.unwrap(), 200);
        assert!(post("Kube-apiserver", &["kube-apiserver.example.com"], version).await.is_err());
        assert!(post("", &[], version).await.is_err());
    }
    let (other, _) = ClientCa::make();
    let foreign = Client { identity: Some(other.issue("kube-apiserver", &[])), ..running.client() };
    assert!(foreign.post(bare_taint().to_string()).await.is_err(), "of another CA");
}

#[tokio::test]
async fn with_a_client_ca_only_clients_that_it_issued_are_served() {
    let (issuer, ca) = ClientCa::make();
    let (running, _folder) = for_clients_of(&ca, &[]).await;
    assert!(running.client().post(bare_taint().to_string()).await.is_err(), "without a certificate");
    let known = Client { identity: Some(issuer.issue("anybody", &[])), ..running.client() };
    known.ask(&bare_taint()).await;
    let stranger = certificates();
    let foreign = Client { identity: Some((stranger.certificate, stranger.key)), ..running.client() };
    assert!(foreign.post(bare_taint().to_string()).await.is_err(), "with a certificate of another CA");
}

#[tokio::test]
async fn with_a_path_secret_every_other_path_is_a_strangers_and_the_file_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("path");
    let (old, new) = ("0123456789abcdefghij", "zyxwvutsrq9876543210");
    fs::write(&file, old).unwrap();
    let running = Running::start(|options| {
        let Certificates::Files { path_secret, .. } = &mut options.certificates else { panic!("no files") };
        *path_secret = Some(file.clone());
    })
    .await;
    let status = async |path: &'static str| {
        let client = Client { path, ..running.client() };
        client.post(bare_taint().to_string()).await.unwrap().status().as_u16()
    };
    assert_eq!(status("/validate/0123456789abcdefghij").await, 200);
    for path in
        ["/validate", "/", "/validate/zyxwvutsrq9876543210", "/validate/0123456789abcdefghi", "/0123456789abcdefghij"]
    {
        assert_eq!(status(path).await, 404, "{path}");
    }
    // It is answered before its body is there.
    let mut stream = running.client().connect().await.unwrap();
    stream.write_all(b"POST /validate HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");

    fs::write(&file, format!("{old}\n{new}\n")).unwrap();
    let learnt = async { while status("/validate/zyxwvutsrq9876543210").await != 200 {} };
    timeout(PATIENCE, learnt).await.unwrap();
    assert_eq!(status("/validate/0123456789abcdefghij").await, 200);
    // What cannot be used changes nothing.
    fs::write(&file, "short").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status("/validate/zyxwvutsrq9876543210").await, 200);
}

/// Replaces a pair the way the kubelet does: in a new folder, to which `..data` then points.
fn swap(volume: &Path, generation: &str, made: &Development) {
    let folder = volume.join(generation);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("tls.crt"), &made.certificate).unwrap();
    fs::write(folder.join("tls.key"), &made.key).unwrap();
    let link = volume.join("..data_tmp");
    symlink(generation, &link).unwrap();
    fs::rename(&link, volume.join("..data")).unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_served_after_the_symlink_changes_and_a_bad_one_is_not() {
    let volume = tempfile::tempdir().unwrap();
    let (first, second) = (certificates(), certificates());
    swap(volume.path(), "..2026_11_22_1", &first);
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), volume.path().join(file)).unwrap();
    }
    let running = Running::start(|options| {
        options.certificates = Certificates::Files {
            certificate: volume.path().join("tls.crt"),
            key: volume.path().join("tls.key"),
            clients: Clients::default(),
            path_secret: None,
        };
    })
    .await;
    Client::new(running.address, &first.ca).ask(&bare_taint()).await;

    swap(volume.path(), "..2026_11_22_2", &second);
    let renewed = Client::new(running.address, &second.ca);
    let served = async { while renewed.connect().await.is_err() {} };
    timeout(PATIENCE, served).await.unwrap();

    let mismatched = Development { key: certificates().key, ..certificates() };
    swap(volume.path(), "..2026_11_22_3", &mismatched);
    // After ten checks of the files the last good pair is still served.
    tokio::time::sleep(Duration::from_millis(200)).await;
    renewed.ask(&bare_taint()).await;
}

#[tokio::test]
async fn a_changed_configuration_takes_effect_and_a_bad_one_shows_on_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(|options| {
        let path = folder.path().join("config.yaml");
        fs::write(&path, "checks: {EvidenceMissing: warn}").unwrap();
        options.config = Some(path);
    })
    .await;
    assert_eq!(running.client().ask(&bare_taint()).await["response"]["allowed"], true);
    let path = folder.path().join("config.yaml");
    fs::write(&path, "checks: {EvidenceMising: off}").unwrap();
    running.until("/metrics", |_, text| text.contains("\nfencegate_config_last_reload_success 0\n")).await;
    assert_eq!(running.client().ask(&bare_taint()).await["response"]["allowed"], true, "the last good one stays");
    fs::write(&path, "{}").unwrap();
    running.until("/metrics", |_, text| text.contains("\nfencegate_config_last_reload_success 1\n")).await;
    assert_eq!(running.client().ask(&bare_taint()).await["response"]["allowed"], false);
}

#[tokio::test]
async fn a_source_that_the_server_was_given_vouches_beside_those_of_every_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    fs::write(&path, "mode: warn").unwrap();
    let by_pacemaker = || {
        let mut review = bare_taint();
        review["request"]["object"]["metadata"]["annotations"] = json!({APPLIED_BY: "pacemaker"});
        review
    };
    for config in [None, Some(path.clone())] {
        let running = Running::start(|options| {
            options.config = config.clone();
            options.additions.sources = vec![Source::Pacemaker, Source::Annotations];
        })
        .await;
        if config.is_some() {
            assert_eq!(running.client().ask(&bare_taint()).await["response"]["allowed"], true);
            fs::write(&path, "evidence: {sources: [cloud-shutdown]}").unwrap();
        }
        let is_denied = async { while running.client().ask(&bare_taint()).await["response"]["allowed"] == true {} };
        timeout(PATIENCE, is_denied).await.unwrap();
        let answer = running.client().ask(&by_pacemaker()).await;
        assert_eq!(answer["response"]["allowed"], true, "{answer:#}");
    }
}

#[tokio::test]
async fn a_shutdown_request_makes_it_unready_while_it_keeps_serving_and_closes_connections() {
    let mut running = Running::start(|options| options.drain = Duration::from_secs(2)).await;
    running.until("/readyz", |status, text| status == 200 && text.contains("[+]cluster ok")).await;
    let stream = TokioIo::new(running.client().connect().await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);

    running.request_shutdown();
    running.until("/readyz", |status, text| status == 503 && text.contains("[-]shutdown: draining")).await;
    assert_eq!(running.telemetry("/livez").await.0, 200);
    let body = Full::new(Bytes::from(bare_taint().to_string()));
    let request = Request::post("/validate").header("host", "l").body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["connection"]), (200, &"close".parse().unwrap()));
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    running.client().ask(&bare_taint()).await;

    timeout(PATIENCE, &mut running.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn every_guarded_decision_writes_one_audit_line_and_is_counted() {
    let mut running = Running::start(|_| {}).await;
    running.client().ask(&bare_taint()).await;
    let line: Value = serde_json::from_str(&running.audit.try_recv().unwrap()).unwrap();
    assert_eq!(line["event"], "decision");
    assert_eq!(line["node"], "worker-2");
    assert_eq!(line["reasons"][0]["code"], "EvidenceMissing");
    assert_eq!(line["user"]["name"], "alice");
    let counted = r#"fencegate_decisions_total{webhook="validate",transition="Place",decision="deny",reason="EvidenceMissing"} 1"#;
    assert!(running.telemetry("/metrics").await.1.contains(counted));

    assert_eq!(line.get("traceId"), None, "the call belongs to no trace");

    let mut untouched = bare_taint();
    untouched["request"]["object"] = untouched["request"]["oldObject"].clone();
    assert_eq!(running.client().ask(&untouched).await["response"]["allowed"], true);
    assert!(running.audit.try_recv().is_err(), "a write that changes nothing guarded is not recorded");
}

#[tokio::test]
async fn a_line_has_the_requester_both_objects_and_the_trace_of_the_call() {
    let mut running = Running::start(|_| {}).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let headers = vec![("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))];
    let user = json!({"username": "alice", "uid": "u-1", "groups": ["dev"], "extra": {"example.com/team": ["db"]}});
    let mut review = bare_taint();
    review["request"]["userInfo"] = user;
    Client { headers, ..running.client() }.ask(&review).await;
    let line: Value = serde_json::from_str(&running.audit.try_recv().unwrap()).unwrap();
    assert_eq!(line["traceId"], trace);
    assert_eq!(
        line["user"],
        json!({"name": "alice", "uid": "u-1", "groups": ["dev"], "extra": {"example.com/team": ["db"]}})
    );
    assert_eq!(line["before"]["metadata"]["name"], "worker-2");
    assert_eq!(line["before"]["spec"].get("taints"), None, "what is empty is left out");
    assert_eq!(line["after"]["spec"]["taints"][0]["key"], "node.kubernetes.io/out-of-service");
}
