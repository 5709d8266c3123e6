//! `make speed`: what a review costs, beside a server that does nothing but answer, and beside the
//! policy engines that people would otherwise use.
//!
//! Each server runs on one core. The load, and the API server that the facts are read from, run on
//! another one. Every server is first asked until it gives the right answer. It fails if one answer
//! under load is not HTTP 200.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "what cannot be measured fails")]
#![allow(dead_code, reason = "the tests use more of the harness")]

#[path = "../../tests/harness/mod.rs"]
mod harness;
mod limit;
mod load;
mod peers;
mod reviews;
mod server;

use std::{fs, path::Path};

use fencegate::certificates::issue::Development;
use harness::{gate::program, plane::Plane, process::free_port};
use load::{Load, Protocol};
use server::{Memory, Server};

/// Connections of the load.
const CONNECTIONS: usize = 16;

/// A certificate of a server, as files.
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    fn make() -> Self {
        let made = Development::make(&["localhost".to_owned()], 1, jiff::Timestamp::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tls.crt"), &made.certificate).unwrap();
        fs::write(folder.path().join("tls.key"), &made.key).unwrap();
        Self { folder }
    }

    /// The folder with `tls.crt` and `tls.key`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// What is measured of one kind of call.
struct Row {
    name: String,
    /// Calls a second on [`CONNECTIONS`] connections.
    rate: f64,
    /// Microseconds of CPU for a call.
    cpu: f64,
    /// Milliseconds at half of this rate: median, and of 99 % of the calls.
    half: (f64, f64),
    /// Milliseconds of 99 % of the calls on one connection, one after the other.
    one: f64,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, port, folder, length] = arguments.as_slice() {
        assert_eq!(command, "limit");
        return limit::serve(port.parse().unwrap(), Path::new(folder), length.parse().unwrap()).await;
    }
    let plane = Plane::without_controllers().await;
    for (path, object) in reviews::objects() {
        plane.create(path, object).await;
    }
    let certificate = Certificate::make();
    let mut rows = Vec::new();
    let mut memory = Vec::new();

    let denial = reviews::denial();
    let port = free_port();
    let own = std::env::current_exe().unwrap();
    // As long as the answer of the gate to this review.
    let length = "2000";
    let arguments =
        ["limit".to_owned(), port.to_string(), certificate.folder().display().to_string(), length.to_owned()];
    let mut server = Server::start("limit: hyper and rustls alone", &own, &arguments, &[]);
    let load = Load { port, path: "/".into(), body: denial.clone() };
    server.until(&load, |_| true).await;
    rows.push(measured("limit", &server, &load, Protocol::Http1));
    rows.push(measured("limit, HTTP/2", &server, &load, Protocol::Http2));
    memory.push(server.memory());
    drop(server);

    let snapshot = certificate.file("cluster.yaml");
    fs::write(&snapshot, reviews::snapshot()).unwrap();
    for (facts, name) in [(snapshot.as_str(), "facts at hand"), ("live", "facts read from the API server")] {
        let port = free_port();
        let arguments = [
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--telemetry-listen=127.0.0.1:{}", free_port()),
            format!("--tls-cert={}", certificate.file("tls.crt")),
            format!("--tls-key={}", certificate.file("tls.key")),
            format!("--cluster={facts}"),
        ];
        let environment = [("KUBECONFIG", plane.kubeconfig("admin")), ("MALLOC_MMAP_THRESHOLD_", "131072".into())];
        let mut server = Server::start(&format!("fencegate, {name}"), &program(), &arguments, &environment);
        for (kind, body, is_allowed) in [
            ("denial", denial.clone(), false),
            ("place", reviews::place(), true),
            ("release", reviews::release(), true),
        ] {
            let load = Load { port, path: "/validate?timeout=5s".into(), body };
            server.until(&load, |answer| answer["response"]["allowed"] == is_allowed).await;
            rows.push(measured(&format!("{kind}, {name}"), &server, &load, Protocol::Http1));
            if facts != "live" && kind == "place" {
                rows.push(measured(&format!("{kind}, {name}, HTTP/2"), &server, &load, Protocol::Http2));
            }
        }
        memory.push(server.memory());
    }
    peers::measure(&plane, &certificate, &denial, &mut rows, &mut memory).await;

    println!("{:<46}{:>10}{:>10}{:>12}{:>12}{:>14}", "", "calls/s", "CPU", "median, half", "p99, half", "p99, one");
    for Row { name, rate, cpu, half: (median, p99), one } in &rows {
        println!("{name:<46}{rate:>10.0}{cpu:>7.1} µs{median:>9.2} ms{p99:>9.2} ms{one:>11.2} ms");
    }
    println!("\n{:<46}{:>16}{:>14}{:>14}", "", "first answer", "memory idle", "loaded");
    for Memory { name, first, idle, most } in memory {
        println!("{name:<46}{:>13.0} ms{idle:>10} MiB{most:>10} MiB", first.as_secs_f64() * 1e3);
    }
}

/// Sends calls as fast as they are answered, then at half of that rate, then on one connection.
fn measured(name: &str, server: &Server, load: &Load, protocol: Protocol) -> Row {
    eprintln!("measuring {name}");
    let before = server.cpu();
    let most = load.send(protocol, CONNECTIONS, None);
    let cpu = server.cpu().saturating_sub(before).as_secs_f64() * 1e6 / most.calls;
    let half = load.send(protocol, CONNECTIONS, Some(most.rate / 2.0));
    let one = load.send(protocol, 1, None);
    Row { name: name.to_owned(), rate: most.rate, cpu, half: (half.median, half.p99), one: one.p99 }
}
