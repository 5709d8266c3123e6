//! The audit log of the real program, with a standard output that is closed, full or slow: nothing
//! is allowed that is not on record, and no line is torn.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Client, certificates, get, until};
use tokio::task::JoinSet;

/// A named pipe, which a reader can leave and open again.
struct Pipe {
    path: PathBuf,
    reader: File,
}

impl Pipe {
    /// Makes the pipe. Returns it with its reader, and the writer.
    fn make(folder: &Path) -> (Self, File) {
        let path = folder.join("stdout");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Opening one end waits for the other one. Linux opens both at once without waiting.
        let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        drop(both);
        (Self { path, reader }, writer)
    }

    /// Reads everything, until the program ends.
    fn read_on(self) -> JoinHandle<Vec<Value>> {
        thread::spawn(move || {
            let lines = BufReader::new(self.reader).lines().map(Result::unwrap);
            lines.map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
        })
    }

    /// Closes the only reader. Every write now fails.
    fn close(self) -> PathBuf {
        self.path
    }
}

/// The running program.
struct Program {
    child: Child,
    reviews: SocketAddr,
    telemetry: SocketAddr,
    ca: String,
    log: JoinHandle<Vec<Value>>,
    /// Dropped as soon as the program's own log may be read further.
    unread: Option<mpsc::Sender<()>>,
}

impl Program {
    fn start(folder: &Path, stdout: File) -> Self {
        Self { unread: None, ..Self::start_unread(folder, stdout, "info") }
    }

    /// Starts the program. Its own log, at this level, is not read once it serves.
    fn start_unread(folder: &Path, stdout: File, level: &str) -> Self {
        let made = certificates();
        fs::write(folder.join("tls.crt"), &made.certificate).unwrap();
        fs::write(folder.join("tls.key"), &made.key).unwrap();
        fs::write(folder.join("cluster.yaml"), "kind: List\nitems: []\n").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fencegate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--telemetry-listen", "127.0.0.1:0", "--drain", "0s"])
            .args(["--tls-cert", "tls.crt", "--tls-key", "tls.key", "--cluster", "cluster.yaml"])
            .current_dir(folder)
            .env_clear()
            .env("RUST_LOG", level)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (ports, started) = mpsc::channel();
        let (unread, may_read) = mpsc::channel();
        let log = thread::spawn(move || {
            let read = |line: String| -> Value {
                let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if let (Some(reviews), Some(telemetry)) = (line["reviews"].as_str(), line["telemetry"].as_str()) {
                    let _ = ports.send((reviews.parse().unwrap(), telemetry.parse().unwrap()));
                    assert!(may_read.recv().is_err(), "the other end is dropped");
                }
                line
            };
            stderr.lines().map(|line| read(line.unwrap())).collect()
        });
        let (reviews, telemetry) = started.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { child, reviews, telemetry, ca: made.ca, log, unread: Some(unread) }
    }

    /// A client whose calls have this timeout.
    fn client(&self, timeout: &'static str) -> Client {
        Client { timeout, ..Client::new(self.reviews, &self.ca) }
    }

    async fn until(&self, path: &str, is_so: impl Fn(u16, &str) -> bool) {
        until(self.telemetry, path, is_so).await;
    }

    async fn failures(&self) -> u64 {
        let (_, metrics) = get(self.telemetry, "/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("fencegate_audit_write_failures_total "));
        line.unwrap().parse().unwrap()
    }

    /// Requests the shutdown, waits until the program has ended by itself, and returns its own log.
    async fn terminate(mut self) -> Vec<Value> {
        let id = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill \"$0\"", &id]).status().unwrap().success());
        let start = Instant::now();
        let ended = loop {
            match self.child.try_wait().unwrap() {
                None if start.elapsed() < Duration::from_secs(20) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                ended => break ended,
            }
        };
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "it ended by itself");
        self.log.join().unwrap()
    }

    /// Kills the program, and returns its own log.
    fn end(mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop(self.unread.take());
        self.log.join().unwrap()
    }
}

/// A write that records evidence: allowed.
fn attest(uid: usize) -> Value {
    let node = |annotations: Value| {
        json!({
            "metadata": {"name": "worker-2", "annotations": annotations},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        })
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": format!("write-{uid}"),
            "resource": {"group": "", "version": "v1", "resource": "nodes"},
            "operation": "UPDATE",
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
            "oldObject": node(json!({})),
            "object": node(json!({"fencegate.dev/proof": "Chassis Power is off"})),
        },
    })
}

/// A write that changes nothing guarded.
fn unguarded() -> Value {
    let mut review = attest(0);
    review["request"]["object"] = review["request"]["oldObject"].clone();
    review
}

fn is_unrecorded(answer: &Value) -> bool {
    let is_denied_for_it = answer["response"]["auditAnnotations"]["reasons"] == "RecordUnavailable";
    assert_eq!(is_denied_for_it, answer["response"]["allowed"] == false, "{answer}");
    assert_eq!(is_denied_for_it, answer["response"]["status"]["code"] == 403, "{answer}");
    is_denied_for_it
}

fn is_decision(line: &Value) -> bool {
    line["event"] == "decision"
}

/// Checks the lines against the answers. A write that was allowed has exactly one line, which says
/// so. A write that was denied because it is not on record has none, or one that the next line
/// withdraws.
fn check(lines: &[Value], answers: &[Value]) {
    for answer in answers {
        let uid = &answer["response"]["uid"];
        let at: Vec<usize> =
            (0..lines.len()).filter(|at| is_decision(&lines[*at]) && lines[*at]["uid"] == *uid).collect();
        match (is_unrecorded(answer), at.as_slice()) {
            (false, [at]) => assert_eq!(lines[*at]["decision"], "allow"),
            (true, []) => {}
            (true, [at]) => {
                let next = &lines[at + 1];
                assert_eq!((&next["event"], &next["uid"]), (&json!("withdrawn"), uid), "{next}");
            }
            (is_unrecorded, at) => panic!("{uid}: unrecorded {is_unrecorded}, lines {at:?}"),
        }
    }
    lines.iter().for_each(check_fields);
}

/// Every line of either log has the same fields, but for the message, which a decision has not.
fn check_fields(line: &Value) {
    let has = |field: &str| line[field].is_string();
    assert!(has("ts") && has("level") && has("event"), "{line}");
    assert!(is_decision(line) || has("message"), "{line}");
}

#[tokio::test]
async fn a_closed_standard_output_denies_guarded_writes_until_somebody_reads_again() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, writer) = Pipe::make(folder.path());
    let program = Program::start(folder.path(), writer);
    program.until("/readyz", |status, text| status == 200 && text.contains("[+]audit-log ok")).await;

    let path = pipe.close();
    let client = program.client("5s");
    for uid in 1..=2 {
        let answer = client.ask(&attest(uid)).await;
        assert!(is_unrecorded(&answer));
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("RecordUnavailable: ") && message.contains("Broken pipe"), "{message}");
    }
    assert_eq!(client.ask(&unguarded()).await["response"]["allowed"], true, "it has no line");
    assert_eq!(program.failures().await, 2);
    program.until("/readyz", |status, text| status == 503 && text.contains("[-]audit-log: ")).await;

    let reader = File::open(&path).unwrap();
    let lines = Pipe { path, reader }.read_on();
    program.until("/readyz", |status, _| status == 200).await;
    let answer = client.ask(&attest(3)).await;
    assert!(!is_unrecorded(&answer));
    assert_eq!(program.failures().await, 2);
    let log = program.end();
    log.iter().for_each(check_fields);
    let told = log.iter().filter(|line| line["message"] == "denied a write: it is not on record");
    assert_eq!(told.map(|line| &line["uid"]).collect::<Vec<_>>(), ["write-1", "write-2"]);
    let lines = lines.join().unwrap();
    check(&lines, &[answer]);
    let told: Vec<&Value> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(told, ["probe", "decision"]);
    assert_eq!(lines[0]["unrecorded"], 2);
}

/// Sends writes until one of them is denied because it is not on record. Returns all answers.
async fn fill(client: &Client) -> Vec<Value> {
    let mut answers: Vec<Value> = Vec::new();
    while answers.last().is_none_or(|answer| !is_unrecorded(answer)) {
        assert!(answers.len() < 1000, "the pipe is never full");
        answers.push(client.ask(&attest(answers.len())).await);
    }
    answers
}

#[tokio::test]
async fn a_full_standard_output_denies_guarded_writes_and_tears_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, writer) = Pipe::make(folder.path());
    let program = Program::start(folder.path(), writer);
    let client = program.client("1s");
    let mut answers = fill(&client).await;
    assert!(answers.len() > 2, "the first lines fit into the pipe");

    let mut more = JoinSet::new();
    for uid in 0..8 {
        let client = client.clone();
        more.spawn(async move { client.ask(&attest(2000 + uid)).await });
    }
    let more = more.join_all().await;
    assert!(more.iter().all(is_unrecorded));
    answers.extend(more);
    assert_eq!(client.ask(&unguarded()).await["response"]["allowed"], true, "it waits for nothing");
    assert_eq!(program.failures().await, 9);
    program.until("/readyz", |status, text| status == 503 && text.contains("[-]audit-log: ")).await;

    let lines = pipe.read_on();
    program.until("/readyz", |status, _| status == 200).await;
    let answer = client.ask(&attest(3000)).await;
    assert!(!is_unrecorded(&answer));
    answers.push(answer);
    assert_eq!(program.failures().await, 9);
    program.end();
    let lines = lines.join().unwrap();
    check(&lines, &answers);
    let probes: Vec<&Value> = lines.iter().filter(|line| line["event"] == "probe").collect();
    assert_eq!(probes.len(), 1);
    assert_eq!(probes[0]["unrecorded"], 9);
}

#[tokio::test]
async fn a_slow_standard_output_delays_guarded_writes_and_denies_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut pipe, writer) = Pipe::make(folder.path());
    let program = Program::start(folder.path(), writer);
    let lines = thread::spawn(move || {
        let (mut text, mut some) = (Vec::new(), [0; 1000]);
        loop {
            match pipe.reader.read(&mut some).unwrap() {
                0 => return text,
                read => text.extend_from_slice(&some[..read]),
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let client = program.client("10s");
        writers.spawn(async move {
            let mut answers = Vec::new();
            for write in 0..25 {
                answers.push(client.ask(&attest(writer * 100 + write)).await);
            }
            answers
        });
    }
    let answers = writers.join_all().await.concat();
    assert_eq!(program.failures().await, 0);
    program.until("/readyz", |status, _| status == 200).await;
    program.end();
    let text = String::from_utf8(lines.join().unwrap()).unwrap();
    assert!(text.len() > 2 * 65_536, "more than a pipe holds: {}", text.len());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), answers.len());
    check(&lines, &answers);
}

#[tokio::test]
async fn a_full_standard_output_does_not_keep_the_program_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let (_pipe, writer) = Pipe::make(folder.path());
    let program = Program::start(folder.path(), writer);
    fill(&program.client("1s")).await;
    program.terminate().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_delays_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, writer) = Pipe::make(folder.path());
    let lines = pipe.read_on();
    let mut program = Program::start_unread(folder.path(), writer, "trace");
    let client = program.client("10s");
    let mut answers = Vec::new();
    for uid in 0..1_500 {
        answers.push(client.ask(&attest(uid)).await);
    }
    assert_eq!(program.failures().await, 0);
    drop(program.unread.take());
    let log = program.terminate().await;
    let missing = "lines are missing from this log: nobody read it for a while";
    assert!(log.iter().any(|line| line["message"] == missing), "more lines than the pipe and the queue hold");
    log.iter().for_each(check_fields);
    check(&lines.join().unwrap(), &answers);
}
