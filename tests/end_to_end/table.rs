//! The table of cases on the real API server: the program against the policy and the match
//! conditions, which say some of the same in CEL.
//!
//! Every write is a dry run, so that each case needs one Node.

use std::collections::BTreeMap;

use fencegate::{
    admission::review,
    policy::{
        annotation::{
            BREAK_GLASS, BREAK_GLASS_BY, OVERRIDDEN_AT, OVERRIDDEN_BY, PREFIX, REQUIRED_EVIDENCE, is_meaningless,
        },
        reason::{Code, Mode},
        review::Webhook,
    },
};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    cases::{Case, answer, apply_patch, cases, reasons},
    harness::{
        accounts::bind,
        gate::{policy_alone, rendered},
        plane::{Plane, call},
    },
};

/// How many requests are under way at once.
const AT_ONCE: usize = 4;

/// A case, and its Node on the API server, which has a name of its own.
struct Row {
    case: Case,
    node: String,
    /// The version of the Node that is stored before the write.
    version: String,
}

/// What the program says to the write of a case.
struct Core {
    /// The object as the mutating webhook leaves it.
    object: Value,
    allowed: bool,
    transition: String,
    /// All failed checks.
    reasons: Vec<String>,
    /// The webhooks that do not guard this write.
    unguarded: Vec<Webhook>,
}

/// What the API server says to it.
#[derive(Debug)]
struct Said {
    verdict: Verdict,
    /// Whether the match conditions of these webhooks let the write through.
    reached: Vec<Webhook>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// The policy denied it, with this reason first.
    Denied(String),
    /// It did not come to the policy, because the API server could not store it.
    Refused(String),
}

/// The policy whose warning says that the match conditions of this webhook let a write through.
fn probe(webhook: Webhook) -> &'static str {
    match webhook {
        Webhook::Mutate => "reaches-mutate",
        Webhook::Validate => "reaches-validate",
    }
}

impl Row {
    fn of(number: usize, case: Case) -> Option<Self> {
        // What only a raw request can have, no client can send.
        case.request.raw.is_null().then(|| Self { case, node: format!("t{number}"), version: String::new() })
    }

    /// The object as a client sends it, under the name of this row.
    fn sent(&self, node: &Value) -> Value {
        let mut node = node.clone();
        let metadata = node["metadata"].as_object_mut().unwrap();
        metadata.retain(|field, _| !["uid", "creationTimestamp", "managedFields"].contains(&field.as_str()));
        metadata.insert("name".to_owned(), json!(self.node));
        node
    }

    /// The object of the write: the same, with the stored version where the case names it, in its
    /// spelling.
    fn written(&self, object: &Value) -> Value {
        let mut object = self.sent(object);
        let in_case = self.case.nodes().0["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if let (Some(named), false) = (object["metadata"]["resourceVersion"].as_str(), in_case.is_empty()) {
            object["metadata"]["resourceVersion"] = json!(named.replace(&in_case, &self.version));
        }
        object
    }

    /// Whether the only annotations that differ are ones that the gate does not know.
    fn changes_only_meaningless_keys(&self) -> bool {
        let annotations = |node: &Value| node["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        let (old, new) = self.case.nodes();
        let (before, after) = (annotations(&old), annotations(&new));
        let keys = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
        let mut ours = keys.filter(|key| key.starts_with(PREFIX)).peekable();
        ours.peek().is_some() && ours.all(|key| is_meaningless(key)) && old["spec"] == new["spec"]
    }

    /// Whether a kubelet places or releases the taint on another node. NodeRestriction denies that.
    /// The policy does, too: it cannot tell the gate's stamps from the kubelet's own annotations.
    fn is_of_another_kubelet(&self, transition: &str) -> bool {
        let user = self.case.request.user["username"].as_str().unwrap_or_default();
        let is_stamped = transition.contains("Place") || transition.contains("Release");
        user.starts_with("system:node:") && user != "system:node:n1" && is_stamped
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.node)
    }

    /// Stores the Node from before the write, and grants the requester what the case says.
    async fn prepare(&mut self, plane: &Plane, client: &Client) {
        let (old, _) = self.case.nodes();
        if !old.is_null() {
            let mut stored = self.sent(&old);
            stored["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            let mut stored = call(client, Method::POST, "/api/v1/nodes", Some(stored)).await.unwrap();
            if !old["metadata"]["deletionTimestamp"].is_null() {
                stored = call(client, Method::DELETE, &self.path(), None).await.unwrap();
            }
            stored["metadata"]["resourceVersion"].as_str().unwrap().clone_into(&mut self.version);
        }
        for review in self.case.cluster.iter().filter(|object| object["kind"] == "SubjectAccessReview") {
            if review["status"]["allowed"] == true {
                let verb = &review["spec"]["resourceAttributes"]["verb"];
                let rules = json!([{"apiGroups": ["fencegate.dev"], "resources": ["nodes"], "verbs": [verb],
                    "resourceNames": [self.node]}]);
                let requester = json!({"kind": "User", "name": self.case.request.user["username"]});
                bind(plane, &format!("{}-{}", self.node, verb.as_str().unwrap()), rules, requester).await;
            }
        }
    }

    /// The program's answers with the default mode of every check: the policy has no modes to set.
    async fn core(&self) -> Core {
        let mut settings = self.case.settings();
        settings.mode = Mode::Enforce;
        settings.modes.clear();
        let read = |body: &Value| review::read(body.to_string().as_bytes()).unwrap();
        let mut body = self.case.review();
        let facts = || self.case.snapshot(&read(&self.case.review()), &settings);
        let mut unguarded = Vec::new();
        let mut last = Value::Null;
        for webhook in Webhook::ALL {
            last = answer(webhook, &read(&body), facts(), &settings, self.case.now()).await.0;
            let response = &last["response"];
            // A change of unknown keys alone is reported as Attest, but no check judges it.
            let is_guarded =
                response["auditAnnotations"]["transition"] != "None" && !self.changes_only_meaningless_keys();
            if response["allowed"] == false || response["patch"].is_string() || is_guarded {
                apply_patch(&mut body, &last);
            } else {
                unguarded.push(webhook);
            }
        }
        Core {
            object: body["request"]["object"].clone(),
            allowed: last["response"]["allowed"] == true,
            transition: last["response"]["auditAnnotations"]["transition"].as_str().unwrap().to_owned(),
            reasons: reasons(&last),
            unguarded,
        }
    }

    /// Sends the write as a dry run, as the requester.
    async fn write(&self, client: &Client, object: &Value) -> Said {
        let request = &self.case.request;
        let (method, path) = match request.operation.as_str() {
            "CREATE" => (Method::POST, "/api/v1/nodes".to_owned()),
            "DELETE" => (Method::DELETE, self.path()),
            _ if request.subresource.is_empty() => (Method::PUT, self.path()),
            _ => (Method::PUT, format!("{}/{}", self.path(), request.subresource)),
        };
        let body = if object.is_null() { Vec::new() } else { self.written(object).to_string().into_bytes() };
        let mut sent = Request::builder().method(method).uri(format!("{path}?dryRun=All")).body(body.into()).unwrap();
        self.impersonate(sent.headers_mut());
        let answer = client.send(sent).await.unwrap();
        let warnings: Vec<String> = answer.headers().get_all("warning").iter().map(|it| format!("{it:?}")).collect();
        let warned = |webhook: &Webhook| warnings.iter().any(|warning| warning.contains(probe(*webhook)));
        let reached = Webhook::ALL.into_iter().filter(warned).collect();
        let is_stored = answer.status().is_success();
        let body: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let message = body["message"].as_str().unwrap_or_default();
        let verdict = match message.split_once("denied request: ") {
            _ if is_stored => Verdict::Allowed,
            Some((_, said)) => Verdict::Denied(said.split(':').next().unwrap_or_default().to_owned()),
            None => Verdict::Refused(message.to_owned()),
        };
        Said { verdict, reached }
    }

    /// Makes the administrator speak as the requester of the case.
    fn impersonate(&self, headers: &mut HeaderMap) {
        let user = &self.case.request.user;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut add = |name: &str, value: String| {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        };
        add("content-type", "application/json".to_owned());
        add(
            "impersonate-user",
            text(&user["username"]).replace("system:node:n1", &format!("system:node:{}", self.node)),
        );
        for group in user["groups"].as_array().into_iter().flatten() {
            add("impersonate-group", text(group));
        }
        for (key, values) in user["extra"].as_object().into_iter().flatten() {
            for value in values.as_array().unwrap() {
                let value = if value == "n1" { self.node.clone() } else { text(value) };
                add(&format!("impersonate-extra-{}", key.replace('/', "%2F")), value);
            }
        }
    }

    /// Whether the policy can see that this check fails: it has the objects of the write, the
    /// requester and RBAC, but no clock, no settings and no other object.
    fn is_visible(&self, code: &str, object: &Value) -> bool {
        let has = |node: &Value, key: &str| node["metadata"]["annotations"][key].is_string();
        let (old, user) = (self.case.nodes().0, &self.case.request.user["username"]);
        let value = |node: &Value, key: &str| node["metadata"]["annotations"][key].clone();
        // Without a clock, the requester's break-glass is never too old.
        let is_stored = has(&old, BREAK_GLASS) && value(&old, BREAK_GLASS_BY) == *user;
        let is_used =
            value(&old, OVERRIDDEN_AT) != value(object, OVERRIDDEN_AT) && value(object, OVERRIDDEN_BY) == *user;
        if (is_stored || is_used) && code != Code::SelfAttested.name() {
            return false;
        }
        match Code::ALL.iter().find(|known| known.name() == code).unwrap() {
            Code::CreatedOutOfService
            | Code::NodeStillReady
            | Code::EvidenceMalformed
            | Code::EvidenceForOtherBoot
            | Code::EffectUndocumented
            | Code::SelfAttested
            | Code::EvidenceFrozen => true,
            // A whole record may be refuted by something else.
            Code::EvidenceMissing => !REQUIRED_EVIDENCE.iter().all(|key| has(object, key)),
            // The verb `attest` is a matter of the settings.
            Code::NotAuthorized => has(object, BREAK_GLASS) && value(object, BREAK_GLASS) != value(&old, BREAK_GLASS),
            _ => false,
        }
    }

    /// Why the API server and the program differ, if they do.
    fn difference(&self, core: &Core, said: &Said) -> Option<String> {
        let visible = || core.reasons.iter().any(|code| self.is_visible(code, &core.object));
        let what = match &said.verdict {
            Verdict::Denied(code) if code == "SelfAttested" && self.is_of_another_kubelet(&core.transition) => None,
            Verdict::Denied(code) if core.allowed => Some(format!("only the policy denies it: {code}")),
            // It denies in the order of its checks. No record is written out for a denied write.
            Verdict::Denied(code) if !core.reasons.contains(code) && code != "EvidenceMissing" => {
                Some(format!("the policy denies it for {code}, and the program for {:?}", core.reasons))
            }
            Verdict::Allowed if !core.allowed && visible() => {
                Some(format!("only the program denies it: {:?}", core.reasons))
            }
            // A stale copy is refused before the policy, and the validating webhook.
            Verdict::Refused(why) if !why.contains("the object has been modified") => Some(why.clone()),
            Verdict::Refused(_) if !core.unguarded.contains(&Webhook::Mutate) => Some("a conflict".to_owned()),
            _ => None,
        };
        let is_judged = !matches!(said.verdict, Verdict::Refused(_));
        let differs = |webhook: &Webhook| said.reached.contains(webhook) == core.unguarded.contains(webhook);
        let differing = || Webhook::ALL.into_iter().find(differs).filter(|_| is_judged);
        what.or_else(|| {
            let webhook = differing()?;
            let are = if said.reached.contains(&webhook) { "let it through to" } else { "keep it away from" };
            Some(format!("the match conditions {are} {webhook:?}"))
        })
    }
}

/// Policies that warn of every write that the match conditions of a webhook let through.
fn probes(plane: &Plane) -> Vec<Value> {
    let of_webhook = |webhook: Webhook| {
        let (kind, name) = match webhook {
            Webhook::Mutate => ("MutatingWebhookConfiguration", probe(webhook)),
            Webhook::Validate => ("ValidatingWebhookConfiguration", probe(webhook)),
        };
        let objects = rendered(plane, "default");
        let configuration = &objects.iter().find(|object| object["kind"] == kind).unwrap()["webhooks"][0];
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name}, "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": configuration["rules"]},
                "matchConditions": configuration["matchConditions"],
                "validations": [{"expression": "false", "message": "reached"}]}});
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Warn"]}});
        [policy, binding]
    };
    Webhook::ALL.into_iter().flat_map(of_webhook).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_and_the_match_conditions_agree_with_the_program_in_every_case() {
    let plane = Plane::without_controllers().await;
    let client = plane.client("admin");
    let rules = json!([{"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["*"]}]);
    bind(&plane, "writers-of-nodes", rules, json!({"kind": "Group", "name": "system:authenticated"})).await;
    let mut rows: Vec<Row> =
        cases().into_iter().enumerate().filter_map(|(number, case)| Row::of(number, case)).collect();
    stream::iter(&mut rows).for_each_concurrent(AT_ONCE, |row| row.prepare(&plane, &client)).await;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": probes(&plane)}).to_string();
    assert!(plane.kubectl("admin", &["apply", "-f", "-"], &list).status.success());
    policy_alone(&plane).await;
    let reaches = rows
        .iter()
        .find(|row| row.case.name == "who may break the glass may place without evidence, and is told so")
        .unwrap();
    let in_force = async |_: &Plane| reaches.write(&client, &reaches.case.nodes().1).await.reached == Webhook::ALL;
    plane.until("the match conditions are in force", in_force).await;

    let compare = async |row: &Row| {
        let core = row.core().await;
        let said = row.write(&client, &core.object).await;
        let difference = row.difference(&core, &said).map(|what| format!("{}: {what}", row.case.name));
        let kind = match said.verdict {
            Verdict::Denied(_) if !core.allowed => "denied by both",
            Verdict::Denied(_) => "denied by the policy alone",
            Verdict::Allowed if !core.allowed => "denied by what the policy cannot see",
            Verdict::Allowed if said.reached.is_empty() => "kept away",
            Verdict::Allowed => "allowed by both",
            Verdict::Refused(_) => "stale",
        };
        (kind, difference)
    };
    let compared: Vec<_> = stream::iter(&rows).map(compare).buffer_unordered(AT_ONCE).collect().await;
    let mut counts = BTreeMap::<&str, usize>::new();
    for (kind, _) in &compared {
        *counts.entry(kind).or_default() += 1;
    }
    println!("{counts:?} of {} cases; no client can send the others", cases().len());
    let differences: Vec<&String> = compared.iter().filter_map(|(_, difference)| difference.as_ref()).collect();
    assert!(differences.is_empty(), "{} of {}:\n{differences:#?}", differences.len(), rows.len());
    for (kind, least) in [("denied by both", 120), ("allowed by both", 200), ("kept away", 20)] {
        assert!(counts[kind] >= least, "{kind}: {counts:?}");
    }
}
