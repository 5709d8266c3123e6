//! The table of cases. Each case is a request, a cluster and a configuration, with the answer that
//! the contract demands.
//!
//! `tests/cases/README.md` describes the format. Each case is decided by both webhooks, and again
//! from its audit line.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use fencegate::{
    admission::{
        handler::{Allowance, Call, Judge as _},
        review::{self, Answer},
    },
    audit::{Audit, Recorded},
    clock::Clock,
    cluster::{Cluster, Snapshot},
    config,
    gate::Gate,
    metrics::Metrics,
    policy::{
        self,
        facts::{Fact, Facts, Observed, Verb},
        reason::Code,
        review::{Review, Webhook},
        settings::Settings,
        shell::Command,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

#[path = "support/reviews.rs"]
mod reviews;
#[path = "support/shells.rs"]
mod shells;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    request: Request,
    #[serde(default)]
    cluster: Vec<Value>,
    #[serde(default)]
    unreadable: Vec<String>,
    #[serde(default)]
    config: Value,
    #[serde(default = "default_now")]
    now: String,
    expect: Expect,
    /// What the mutating webhook answers, if the validating one answers something else.
    #[serde(default)]
    mutate: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "default_operation")]
    operation: String,
    #[serde(default)]
    subresource: String,
    #[serde(default = "default_user")]
    user: Value,
    /// Merged into the base Node.
    #[serde(default)]
    old: Value,
    /// Merged into the old Node; on CREATE into the base Node.
    #[serde(default)]
    new: Value,
    /// Merged into the finished request, for content that the fields above cannot express.
    #[serde(default)]
    raw: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    allowed: bool,
    /// All failed checks, in any order, even those that only warn.
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    transition: Option<String>,
    #[serde(default)]
    source: Option<String>,
    /// Each must be in the message.
    #[serde(default)]
    message: Vec<String>,
    /// The whole message.
    #[serde(default)]
    denial: Option<String>,
    /// Each must be in a warning.
    #[serde(default)]
    warnings: Vec<String>,
    /// The annotations that the mutating webhook changes on the Node; `null` for a removal.
    #[serde(default)]
    stamps: Option<BTreeMap<String, Option<String>>>,
}

fn default_now() -> String {
    "2026-11-22T10:20:00Z".to_owned()
}

fn default_operation() -> String {
    "UPDATE".to_owned()
}

fn default_user() -> Value {
    json!({"username": "alice", "groups": ["system:authenticated"]})
}

/// A Node that is not ready, without taints and annotations.
fn base_node() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "uid": "3f0c", "creationTimestamp": "2026-03-02T08:00:00Z", "labels": {"kubernetes.io/hostname": "n1"}},
        "spec": {"podCIDR": "10.1.0.0/24"},
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "Unknown"},
                {"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "2026-11-22T10:14:00Z",
                    "lastTransitionTime": "2026-11-22T10:14:50Z"},
            ],
            "nodeInfo": {"bootID": "boot-1", "kubeletVersion": "v1.37.2"},
        },
    })
}

/// RFC 7386: objects are merged, `null` removes, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().unwrap();
    for (key, value) in fields {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

impl Case {
    fn review(&self) -> Value {
        let merged = |mut base: Value, patch: &Value| {
            if !patch.is_null() {
                merge(&mut base, patch);
            }
            base
        };
        let old = merged(base_node(), &self.request.old);
        let (old, new) = match self.request.operation.as_str() {
            "CREATE" => (Value::Null, merged(base_node(), &self.request.new)),
            "DELETE" => (old, Value::Null),
            _ => (old.clone(), merged(old, &self.request.new)),
        };
        let mut request = json!({
            "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
            "kind": {"group": "", "version": "v1", "kind": "Node"},
            "resource": {"group": "", "version": "v1", "resource": "nodes"},
            "name": "n1",
            "operation": self.request.operation,
            "userInfo": self.request.user,
            "object": new,
            "oldObject": old,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "UpdateOptions"},
        });
        if !self.request.subresource.is_empty() {
            request["subResource"] = json!(self.request.subresource);
        }
        if !self.request.raw.is_null() {
            merge(&mut request, &self.request.raw);
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    }

    fn settings(&self) -> Settings {
        if self.config.is_null() {
            return Settings::default();
        }
        config::parse(self.config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The cluster of the case, with its unreadable facts.
    fn snapshot(&self, review: &Review, settings: &Settings) -> Snapshot {
        let snapshot = reviews::snapshot(&self.cluster).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let (Some(request), false) = (review.request(), self.unreadable.is_empty()) else { return snapshot };
        let query = policy::facts_needed(request, settings);
        let mut facts = snapshot.read(request, &query, self.now());
        for fact in &self.unreadable {
            make_unreadable(&mut facts, fact, query.contains(&Fact::Access(Verb::Attest)));
        }
        Snapshot::Recorded(Box::new(facts))
    }

    fn now(&self) -> jiff::Timestamp {
        self.now.parse().unwrap()
    }
}

/// Makes a fact unreadable. A case names it as the audit line does.
fn make_unreadable(facts: &mut Facts, name: &str, attest: bool) {
    let (at, why) = (facts.now, "forbidden: no".to_owned());
    if name == "persistentVolumes" {
        for volume in facts.persistent_volumes.values_mut().chain(facts.claimed_volumes.values_mut()) {
            *volume = Observed::Unknown { at, why: why.clone() };
        }
        return;
    }
    if name == "access" {
        let verb = if attest { Verb::Attest } else { Verb::BreakGlass };
        return facts.fail(at, Fact::Access(verb), why);
    }
    let in_camel_case = |fact: &Fact| fact.name().replace('_', "") == name.to_lowercase();
    let fact = Fact::all().find(in_camel_case).unwrap_or_else(|| panic!("unreadable: there is no fact {name:?}"));
    facts.fail(at, fact, why);
}

/// The gate's answer, and its line in the audit log, if there is one.
async fn answer(
    webhook: Webhook,
    review: &Review,
    snapshot: Snapshot,
    settings: &Settings,
    now: jiff::Timestamp,
) -> (Value, Option<String>) {
    let (sender, mut lines) = mpsc::unbounded_channel();
    let gate = Gate {
        cluster: Cluster::of(snapshot),
        settings: Arc::new(ArcSwap::from_pointee(settings.clone())),
        clock: Clock::at(now),
        audit: Audit::Channel(sender),
        metrics: Arc::new(Metrics::default()),
    };
    let call = Call::new(webhook, Instant::now(), Allowance::within(Duration::ZERO));
    let decision = gate.judge(&call, review).await;
    (serde_json::to_value(Answer::new(webhook, review, &decision)).unwrap(), lines.try_recv().ok())
}

/// The differences between an answer and the expectation.
fn judge(expect: &Expect, answer: &Value) -> Vec<String> {
    let response = &answer["response"];
    let annotation = |key: &str| response["auditAnnotations"][key].as_str().unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    if response["allowed"] != json!(expect.allowed) {
        wrong.push(format!("allowed is {}", response["allowed"]));
    }
    let mut reasons: Vec<String> =
        annotation("reasons").split(',').filter(|code| !code.is_empty()).map(str::to_owned).collect();
    let mut expected = expect.reasons.clone();
    reasons.sort();
    expected.sort();
    if reasons != expected {
        wrong.push(format!("reasons are {reasons:?}, not {expected:?}"));
    }
    for (key, expected) in [("transition", &expect.transition), ("source", &expect.source)] {
        if expected.as_ref().is_some_and(|expected| *expected != annotation(key)) {
            wrong.push(format!("{key} is {:?}", annotation(key)));
        }
    }
    let message = response["status"]["message"].as_str().unwrap_or_default();
    for part in expect.message.iter().filter(|part| !message.contains(*part)) {
        wrong.push(format!("{part:?} is not in the message:\n{message}"));
    }
    if let Some(denial) = expect.denial.as_ref().filter(|denial| **denial != message) {
        wrong.push(format!("the message is\n{message}\nnot\n{denial}"));
    }
    let warnings = response["warnings"].to_string();
    for part in expect.warnings.iter().filter(|part| !warnings.contains(*part)) {
        wrong.push(format!("{part:?} is not in {warnings}"));
    }
    let expected_code = if expect.allowed { Value::Null } else { json!(403) };
    if response["status"]["code"] != expected_code || response["uid"] != json!("0df28fbd-5f5f-11e8-bc74-36e6bb280816") {
        wrong.push(format!("code or uid: {response}"));
    }
    wrong
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let options = serde_saphyr::options! { budget: None, strict_booleans: true };
    let read = |path: &std::path::PathBuf| -> Vec<Case> {
        let file: Result<File, _> =
            serde_saphyr::from_str_with_options(&fs::read_to_string(path).unwrap(), options.clone());
        file.unwrap_or_else(|error| panic!("{}: {error}", path.display())).cases
    };
    files.iter().flat_map(read).collect()
}

#[tokio::test]
async fn every_case_gets_the_answer_of_the_contract() {
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        let review = review::read(case.review().to_string().as_bytes()).unwrap();
        let settings = case.settings();
        let (answer, _) =
            answer(Webhook::Validate, &review, case.snapshot(&review, &settings), &settings, case.now()).await;
        wrong.extend(judge(&case.expect, &answer).into_iter().map(|what| format!("{}: {what}", case.name)));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 120, "the table has {} cases", cases.len());
}

/// The changes of annotations in the patch of an answer, by key; `None` for a removal.
fn stamps(answer: &Value) -> BTreeMap<String, Option<String>> {
    let changes = steps(answer).into_iter().filter_map(|step| {
        let key = step["path"].as_str().unwrap().strip_prefix("/metadata/annotations/")?.replace("~1", "/");
        Some((key, step["value"].as_str().map(str::to_owned)))
    });
    changes.collect()
}

/// The operations in the patch of an answer.
fn steps(answer: &Value) -> Vec<Value> {
    let Some(patch) = answer["response"]["patch"].as_str() else { return Vec::new() };
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, patch).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Calls both webhooks in the order of the API server.
#[tokio::test]
async fn both_webhooks_decide_alike_and_the_validating_one_accepts_the_stamps_of_the_other() {
    let mut stamped = 0;
    let mut wrong = Vec::new();
    for case in &cases() {
        let mut body = case.review();
        let read = |body: &Value| review::read(body.to_string().as_bytes()).unwrap();
        let settings = case.settings();
        let ask = async |webhook: Webhook, body: &Value| {
            let review = read(body);
            answer(webhook, &review, case.snapshot(&read(&case.review()), &settings), &settings, case.now()).await.0
        };
        let first = ask(Webhook::Mutate, &body).await;
        let expect = case.mutate.as_ref().unwrap_or(&case.expect);
        wrong.extend(judge(expect, &first).into_iter().map(|what| format!("{}: {what}", case.name)));
        if let Some(expected) = expect.stamps.as_ref().filter(|expected| **expected != stamps(&first)) {
            wrong.push(format!("{}: stamps are {:?}, not {expected:?}", case.name, stamps(&first)));
        }
        let steps = steps(&first);
        if steps.is_empty() {
            continue;
        }
        stamped += 1;
        assert!(case.expect.allowed, "{}: a denied write gets no patch", case.name);
        let of_the_gate = |step: &Value| {
            let path = step["path"].as_str().unwrap();
            let removes_the_mark =
                step["op"] == "remove" && path == "/metadata/annotations/node.kubernetes.io~1out-of-service-applied-by";
            path == "/metadata/annotations"
                || path.starts_with("/metadata/annotations/fencegate.dev~1")
                || removes_the_mark
        };
        assert!(steps.iter().all(of_the_gate), "{}: {steps:?}", case.name);
        let patch: json_patch::Patch = serde_json::from_value(json!(steps)).unwrap();
        json_patch::patch(&mut body["request"]["object"], &patch).unwrap();
        let second = ask(Webhook::Validate, &body).await;
        assert_eq!(second["response"]["allowed"], true, "{}: {second}\n{body}", case.name);
        assert_eq!(first["response"]["auditAnnotations"], second["response"]["auditAnnotations"], "{}", case.name);
        assert_eq!(
            second["response"]["patch"],
            Value::Null,
            "for an API server, a patch from a validating webhook is an error"
        );
        let again = ask(Webhook::Mutate, &body).await;
        assert_eq!(again["response"]["patch"], Value::Null, "{}: {:?}", case.name, stamps(&again));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(stamped > 20, "{stamped}");
}

#[tokio::test]
async fn every_decision_can_be_made_again_from_its_audit_line_alone() {
    let mut replayed = 0;
    for (case, webhook) in cases().iter().flat_map(|case| Webhook::ALL.map(|webhook| (case, webhook))) {
        let review = review::read(case.review().to_string().as_bytes()).unwrap();
        let settings = case.settings();
        let (first, line) = answer(webhook, &review, case.snapshot(&review, &settings), &settings, case.now()).await;
        let Some(line) = line else {
            assert_eq!(first["response"]["auditAnnotations"]["transition"], "None", "{} has no audit line", case.name);
            continue;
        };
        let recorded = Recorded::parse(&line).unwrap();
        assert_eq!(recorded.webhook, webhook);
        let (now, facts) = (recorded.facts.now, Box::new(recorded.facts));
        let (second, line_again) = answer(webhook, &recorded.review, Snapshot::Recorded(facts), &settings, now).await;
        assert_eq!(first, second, "{}", case.name);
        assert_eq!(without_latency(&line), without_latency(&line_again.unwrap()), "{}", case.name);
        assert_eq!(Snapshot::parse(&line).unwrap().recorded_at(), Some(now), "{}: as --cluster", case.name);
        replayed += 1;
    }
    assert!(replayed > 0);
}

/// The lines of a denial are the first one, one for each reason, advice, and commands.
#[tokio::test]
async fn every_command_of_a_message_is_what_every_shell_runs() {
    let mut commands = BTreeSet::new();
    for (case, webhook) in cases().iter().flat_map(|case| Webhook::ALL.map(|webhook| (case, webhook))) {
        let review = review::read(case.review().to_string().as_bytes()).unwrap();
        let settings = case.settings();
        let (answer, _) = answer(webhook, &review, case.snapshot(&review, &settings), &settings, case.now()).await;
        let message = answer["response"]["status"]["message"].as_str().unwrap_or_default();
        for line in message.lines().filter_map(|line| line.strip_prefix("  ")) {
            let is_reason = Code::ALL.iter().any(|code| line.starts_with(&format!("{code}: ")));
            assert!(is_reason != line.starts_with("kubectl "), "{}: neither reason nor command: {line}", case.name);
            if !is_reason {
                commands.insert(line.to_owned());
            }
        }
    }
    assert!(commands.len() >= 15, "{commands:#?}");
    let ran = shells::paste(&commands.iter().cloned().collect::<Vec<_>>());
    let typed = |call: &Vec<String>| Command::new("kubectl").args(call[1..].to_vec()).typed().unwrap();
    assert_eq!(ran.calls.iter().map(typed).collect::<BTreeSet<_>>(), commands);
    assert!(ran.files.is_empty(), "{:?}", ran.files);
}

#[test]
fn the_readme_shows_a_denial_as_it_is() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let shown =
        |case: &Case| case.expect.denial.as_ref().is_some_and(|denial| readme.contains(&format!(" {denial}\n```")));
    assert!(cases().iter().any(shown), "the README shows none of the denials in tests/cases/denials.yaml");
}

fn without_latency(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap();
    line.as_object_mut().unwrap().remove("latencyMs");
    line
}

#[test]
fn no_two_cases_have_the_same_name() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}
