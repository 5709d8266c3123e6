//! The table of cases in `tests/cases`, and the program's answer to one of them.

#![allow(dead_code, reason = "each test uses a part of this")]

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use fencegate::{
    admission::{
        handler::{Allowance, Call, Judge as _},
        review::Answer,
    },
    audit::Audit,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    config,
    gate::Gate,
    policy::{
        self,
        facts::{Fact, Facts, Observed, Verb},
        review::{Content, Review, Webhook},
        settings::Settings,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::reviews;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub request: Request,
    #[serde(default)]
    pub cluster: Vec<Value>,
    #[serde(default)]
    pub unreadable: Vec<String>,
    #[serde(default)]
    pub config: Value,
    #[serde(default = "default_now")]
    pub now: String,
    pub expect: Expect,
    /// What the mutating webhook answers, if the validating one answers something else.
    #[serde(default)]
    pub mutate: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(default = "default_operation")]
    pub operation: String,
    #[serde(default)]
    pub subresource: String,
    #[serde(default = "default_user")]
    pub user: Value,
    /// Merged into the base Node.
    #[serde(default)]
    pub old: Value,
    /// Merged into the old Node; on CREATE into the base Node.
    #[serde(default)]
    pub new: Value,
    /// Merged into the finished request, for content that the fields above cannot express.
    #[serde(default)]
    pub raw: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub allowed: bool,
    /// All failed checks, in any order, even those that only warn.
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default)]
    pub transition: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    /// Each must be in the message.
    #[serde(default)]
    pub message: Vec<String>,
    /// The whole message.
    #[serde(default)]
    pub denial: Option<String>,
    /// Each must be in a warning.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The annotations that the mutating webhook changes on the Node; `null` for a removal.
    #[serde(default)]
    pub stamps: Option<BTreeMap<String, Option<String>>>,
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

impl Case {
    /// The Node before and after the write, each unless there is none.
    pub fn nodes(&self) -> (Value, Value) {
        let merged = |mut base: Value, patch: &Value| {
            if !patch.is_null() {
                json_patch::merge(&mut base, patch);
            }
            base
        };
        let old = merged(base_node(), &self.request.old);
        match self.request.operation.as_str() {
            "CREATE" => (Value::Null, merged(base_node(), &self.request.new)),
            "DELETE" => (old, Value::Null),
            _ => (old.clone(), merged(old, &self.request.new)),
        }
    }

    /// The review of the write.
    pub fn review(&self) -> Value {
        let (old, new) = self.nodes();
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
            json_patch::merge(&mut request, &self.request.raw);
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    }

    /// The settings of its configuration.
    pub fn settings(&self) -> Settings {
        if self.config.is_null() {
            return Settings::default();
        }
        config::parse(self.config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The cluster of the case, with its unreadable facts.
    pub fn snapshot(&self, review: &Review, settings: &Settings) -> Snapshot {
        if matches!(&review.content, Content::Door(_)) && self.unreadable.iter().any(|fact| fact == "node") {
            return Snapshot::Recorded(Box::new(Facts::at(self.now())));
        }
        let snapshot = reviews::snapshot(&self.cluster).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let (Some(request), false) = (review.request(), self.unreadable.is_empty()) else { return snapshot };
        let query = policy::facts_needed(request, settings);
        let mut facts = snapshot.read(request, &query, self.now());
        for fact in &self.unreadable {
            make_unreadable(&mut facts, fact, query.contains(&Fact::Access(Verb::Attest)));
        }
        Snapshot::Recorded(Box::new(facts))
    }

    /// The time of the write.
    pub fn now(&self) -> jiff::Timestamp {
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
pub async fn answer(
    webhook: Webhook,
    review: &Review,
    snapshot: Snapshot,
    settings: &Settings,
    now: jiff::Timestamp,
) -> (Value, Option<String>) {
    let (sender, mut lines) = mpsc::unbounded_channel();
    let mut review = review.clone();
    let decision = gate(snapshot, settings, now, sender).judge(&call(webhook), &mut review).await;
    (serde_json::to_value(Answer::new(webhook, &review, &decision)).unwrap(), lines.try_recv().ok())
}

/// A gate with these facts, whose audit lines go to `lines`.
pub fn gate(
    snapshot: Snapshot,
    settings: &Settings,
    now: jiff::Timestamp,
    lines: mpsc::UnboundedSender<String>,
) -> Gate {
    Gate::new(Cluster::of(snapshot), settings.clone(), Clock::at(now), Audit::Channel(lines))
}

/// A call that has no time to wait.
pub fn call(webhook: Webhook) -> Call {
    Call::new(webhook, Instant::now(), Allowance::within(Duration::ZERO))
}

/// All cases, in the order of the files and in the files.
pub fn cases() -> Vec<Case> {
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

/// The codes of all failed checks, as the audit annotation of an answer has them.
pub fn reasons(answer: &Value) -> Vec<String> {
    let codes = answer["response"]["auditAnnotations"]["reasons"].as_str().unwrap_or_default();
    codes.split(',').filter(|code| !code.is_empty()).map(str::to_owned).collect()
}

/// The changes of annotations in the patch of an answer, by key; `None` for a removal.
pub fn stamps(answer: &Value) -> BTreeMap<String, Option<String>> {
    let changes = steps(answer).into_iter().filter_map(|step| {
        let key = step["path"].as_str().unwrap().strip_prefix("/metadata/annotations/")?.replace("~1", "/");
        Some((key, step["value"].as_str().map(str::to_owned)))
    });
    changes.collect()
}

/// The operations in the patch of an answer.
pub fn steps(answer: &Value) -> Vec<Value> {
    let Some(patch) = answer["response"]["patch"].as_str() else { return Vec::new() };
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, patch).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Applies the patch of an answer to the Node of the review.
pub fn apply_patch(body: &mut Value, answer: &Value) {
    let patch: json_patch::Patch = serde_json::from_value(json!(steps(answer))).unwrap();
    json_patch::patch(&mut body["request"]["object"], &patch).unwrap();
}
