//! The table of cases. Each case is a request, a cluster and a configuration, with the answer that
//! the contract demands.
//!
//! `tests/cases/README.md` describes the format. Each case is decided by both webhooks, and again
//! from its audit line.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{collections::BTreeSet, fs, path::Path};

use fencegate::{
    admission::{handler::Judge as _, review},
    audit::Recorded,
    cluster::Snapshot,
    metrics::Metrics,
    policy::{reason::Code, review::Webhook, shell::Command},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[path = "support/reviews.rs"]
mod reviews;
#[path = "support/shells.rs"]
mod shells;
#[path = "support/cases.rs"]
mod table;

use table::{Case, Expect, answer, apply_patch, call, cases, gate, reasons, stamps, steps};

/// The differences between an answer and the expectation.
fn judge(expect: &Expect, answer: &Value) -> Vec<String> {
    let response = &answer["response"];
    let annotation = |key: &str| response["auditAnnotations"][key].as_str().unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    if response["allowed"] != json!(expect.allowed) {
        wrong.push(format!("allowed is {}", response["allowed"]));
    }
    let mut reasons = reasons(answer);
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
        apply_patch(&mut body, &first);
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

/// Otherwise its first event would be no increase, and no alert would see it.
#[tokio::test]
async fn what_a_case_counts_was_at_0_in_the_metrics_before() {
    let series = |metrics: &Metrics| -> BTreeSet<String> {
        let text = metrics.encode().unwrap();
        let counted = text.lines().filter(|line| line.contains("{webhook="));
        counted.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let mut counted = 0;
    for case in cases() {
        let mut review = review::read(case.review().to_string().as_bytes()).unwrap();
        let settings = case.settings();
        let gate = gate(case.snapshot(&review, &settings), &settings, case.now(), mpsc::unbounded_channel().0);
        gate.metrics.config_reloaded(Some(&settings), case.now());
        let before = series(&gate.metrics);
        gate.judge(&call(Webhook::Validate), &mut review).await;
        let new: Vec<String> = series(&gate.metrics).difference(&before).cloned().collect();
        assert!(new.is_empty(), "{}: {new:?}", case.name);
        counted += 1;
    }
    assert!(counted >= 120, "{counted}");
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
