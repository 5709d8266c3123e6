//! `fencegate check`: whether the gate is installed as it should be, and does its work.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde::Serialize;

use super::{Output, columns::aligned, connect::ConnectArgs, duration, print, to_json, wait::Patience};
use crate::{
    clock::Clock,
    cluster::{
        Live,
        inspection::{Attempt, Bound, Endpoints, Registered, Version},
    },
    policy::{facts::Verb, review::Webhook, text::on_one_line},
    tls::{certificates, validity},
};

/// The oldest minor of Kubernetes that the gate supports.
pub const OLDEST: (u32, u32) = (1, 30);
/// The policy with the checks that the API server makes itself, and the one that guards the
/// registration.
const POLICIES: [(&str, &str); 2] = [("policy", "fencegate"), ("registration policy", "fencegate-registration")];
/// What `status` reads.
const READS: [(&str, &str, Option<&str>); 5] = [
    ("list", "nodes", None),
    ("list", "pods", None),
    ("list", "volumeattachments.storage.k8s.io", None),
    ("get", "persistentvolumes", None),
    ("get", "leases.coordination.k8s.io", Some("kube-node-lease")),
];

/// Check that the gate is installed and does its work: its webhooks, its policies, its replicas, a
/// write that it must deny, and your rights.
///
/// The write is a dry run: nothing is stored.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate check
  fencegate check --wait 1m             after an installation
  fencegate check -o json

Exit codes: 0 all is well; 1 something is wrong; 2 something could not be found out.")]
pub struct Args {
    /// Try again for so long, until all is well
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
    /// Leave out your own rights: for a program that only checks
    #[arg(long)]
    installation: bool,
    /// What to print [default: a line for each check]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How a check ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Passed,
    /// Worth knowing, and nothing is wrong.
    Note,
    Failed,
    /// It could not be found out.
    Unknown,
}

impl Grade {
    fn mark(self) -> &'static str {
        match self {
            Self::Passed => "√",
            Self::Note => "-",
            Self::Failed => "×",
            Self::Unknown => "?",
        }
    }
}

/// What one check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    check: String,
    result: Grade,
    text: String,
}

impl Line {
    fn new(check: &str, result: Grade, text: impl Into<String>) -> Self {
        Self { check: check.to_owned(), result, text: on_one_line(&text.into()).into_owned() }
    }

    fn unknown(check: &str, why: String) -> Self {
        Self::new(check, Grade::Unknown, why)
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let connection = args.connect.open("the check needs one").await?;
    let mut patience = args.wait.map(Patience::new);
    let lines = loop {
        let mut lines = look(&connection.live, &args.connect.gate_namespace).await;
        if !args.installation {
            lines.extend(rights(&connection.live).await);
        }
        let is_well = worst(&lines) <= Grade::Note;
        let Some(patience) = patience.as_mut().filter(|_| !is_well) else { break lines };
        if patience.beat().await.is_some() {
            break lines;
        }
    };
    let text = match args.output {
        Some(Output::Json) => to_json("CheckList", &lines)?,
        None => {
            let cells =
                lines.iter().map(|line| vec![line.result.mark().to_owned(), line.check.clone(), line.text.clone()]);
            aligned(cells)
        }
    };
    print(&text)?;
    Ok(ExitCode::from(match worst(&lines) {
        Grade::Passed | Grade::Note => 0,
        Grade::Failed => 1,
        Grade::Unknown => super::ERROR,
    }))
}

/// What is wrong comes before what is not known: it is certain.
fn worst(lines: &[Line]) -> Grade {
    let has = |result| lines.iter().any(|line| line.result == result);
    if has(Grade::Failed) {
        Grade::Failed
    } else {
        lines.iter().map(|line| line.result).max().unwrap_or(Grade::Unknown)
    }
}

/// Makes all checks of the installation.
async fn look(live: &Live, namespace: &str) -> Vec<Line> {
    let now = Clock::System.now();
    let mut lines = vec![version(live.version().await)];
    for webhook in Webhook::ALL {
        lines.extend(registered(webhook, live.registered(webhook).await, now));
    }
    for (check, name) in POLICIES {
        lines.push(bound(check, live.bound(name).await));
    }
    lines.push(replicas(live.endpoints(namespace).await));
    lines.push(attempt(live.attempt(&format!("fencegate-check-{}", now.as_millisecond())).await));
    lines
}

fn version(read: Result<Version, String>) -> Line {
    const CHECK: &str = "API server";
    match read {
        Err(why) => Line::unknown(CHECK, why),
        Ok(Version { name, number: Some(number) }) if number >= OLDEST => Line::new(CHECK, Grade::Passed, name),
        Ok(Version { name, .. }) => Line::new(CHECK, Grade::Failed, format!("{name}: the gate needs {}", supported())),
    }
}

/// The minors of Kubernetes that the gate supports, in words.
pub fn supported() -> String {
    let (major, minor) = OLDEST;
    format!("{major}.{minor} or newer")
}

/// A line for the entry that guards the taint, and one for each of the other doors that is
/// registered.
fn registered(webhook: Webhook, read: Result<Vec<Registered>, String>, now: Timestamp) -> Vec<Line> {
    let check = match webhook {
        Webhook::Mutate => "mutating webhook",
        Webhook::Validate => "validating webhook",
    };
    let entries = match read {
        Ok(entries) => entries,
        Err(why) => return vec![Line::unknown(check, why)],
    };
    let (guards, doors): (Vec<Registered>, Vec<Registered>) =
        entries.into_iter().partition(|entry| entry.door().is_none());
    let guard = match guards.first() {
        Some(guard) => entry(check, guard, now),
        None => Line::new(check, Grade::Failed, "is not registered: install the manifests again"),
    };
    let of_door = |door: &Registered| entry(&format!("webhook for {}", door.door().unwrap_or_default()), door, now);
    std::iter::once(guard).chain(doors.iter().map(of_door)).collect()
}

fn entry(check: &str, registered: &Registered, now: Timestamp) -> Line {
    let policy = &registered.failure_policy;
    if policy != "Fail" {
        // A door that only warns is registered so.
        let grade = if registered.door().is_none() { Grade::Failed } else { Grade::Note };
        return Line::new(check, grade, format!("failurePolicy is {policy}: writes pass while the gate is down"));
    }
    match ca_until(registered.ca_bundle(), now) {
        Ok(until) => Line::new(check, Grade::Passed, format!("is registered; its CA is valid until {until:.0}")),
        Err(why) => Line::new(check, Grade::Failed, format!("caBundle {why}, so the API server cannot call it")),
    }
}

/// Until when a CA in this bundle is valid.
fn ca_until(bundle: &[u8], now: Timestamp) -> Result<Timestamp, String> {
    let certificates = certificates(bundle).map_err(|error| format!("cannot be read: {error}"))?;
    let validities: Vec<(Timestamp, Timestamp)> =
        certificates.iter().map(validity).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let is_valid = |(from, until): &&(Timestamp, Timestamp)| *from <= now && now <= *until;
    match validities.iter().filter(is_valid).map(|(_, until)| *until).max() {
        Some(until) => Ok(until),
        None if validities.is_empty() => Err("is empty".to_owned()),
        None => Err("has no certificate that is valid now".to_owned()),
    }
}

fn bound(check: &str, read: Result<Bound, String>) -> Line {
    match read {
        Err(why) => Line::unknown(check, why),
        Ok(Bound { has_policy: false, .. }) => {
            Line::new(check, Grade::Failed, "is not there: install the manifests again")
        }
        Ok(Bound { actions: None, .. }) => {
            Line::new(check, Grade::Failed, "has no binding, so it is not in force: install the manifests again")
        }
        Ok(Bound { actions: Some(actions), .. }) => {
            let is_denying = actions.iter().any(|action| action == "Deny");
            let result = if is_denying { Grade::Passed } else { Grade::Failed };
            let told = if is_denying { "is in force" } else { "denies nothing" };
            Line::new(check, result, format!("{told} (validationActions: {})", actions.join(", ")))
        }
    }
}

fn replicas(read: Result<Endpoints, String>) -> Line {
    const CHECK: &str = "replicas";
    let nodes = match read {
        Ok(Endpoints { nodes }) => nodes,
        Err(why) => return Line::unknown(CHECK, why),
    };
    let distinct: BTreeSet<&str> = nodes.iter().flatten().map(String::as_str).collect();
    match (nodes.len(), distinct.len()) {
        (0, _) => Line::new(CHECK, Grade::Failed, "none is ready: writes to the taint are denied"),
        (1, _) => Line::new(CHECK, Grade::Note, "one is ready: if its node dies, it takes a minute to move"),
        (ready, 1) => Line::new(CHECK, Grade::Note, format!("{ready} are ready, all on one node")),
        (ready, on) => Line::new(CHECK, Grade::Passed, format!("{ready} are ready, on {on} nodes")),
    }
}

fn attempt(attempt: Attempt) -> Line {
    const CHECK: &str = "denial";
    let layers = [
        (r#"admission webhook "out-of-service.fencegate.dev" denied"#, "the webhook"),
        ("ValidatingAdmissionPolicy 'fencegate' with binding", "the policy"),
    ];
    match attempt {
        Attempt::Denied(why) => match layers.iter().find(|(words, _)| why.contains(words)) {
            Some((_, layer)) => {
                Line::new(CHECK, Grade::Passed, format!("a Node that is created with the taint is denied by {layer}"))
            }
            None => Line::unknown(CHECK, format!("something else denied the write before the gate could: {why}")),
        },
        Attempt::Allowed => Line::new(CHECK, Grade::Failed, "a Node may be created with the taint: nothing guards it"),
        Attempt::NoRight(why) => Line::unknown(CHECK, format!("not tried, for want of a right: {why}")),
        Attempt::Failed(why) => Line::new(CHECK, Grade::Failed, why),
    }
}

/// The rights of the person who asks.
async fn rights(live: &Live) -> Vec<Line> {
    const READING: &str = "right to read";

    let mut missing = Vec::new();
    let mut unknown = None;
    for (verb, resource, namespace) in READS {
        match live.may(verb, resource, namespace).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}")),
            Err(why) => unknown = Some(why),
        }
    }
    let reading = match unknown {
        Some(why) => Line::unknown(READING, why),
        None if missing.is_empty() => Line::new(READING, Grade::Passed, "you may read what status shows"),
        None => Line::new(READING, Grade::Failed, format!("status needs what you may not: {}", missing.join(", "))),
    };
    let others = [
        ("right to write", live.may("patch", "nodes", None).await, "use attest, place and release"),
        ("right to overrule", live.may_ask_gate(Verb::BreakGlass).await, "break the glass"),
    ];
    let others = others.map(|(check, may, what)| match may {
        Ok(true) => Line::new(check, Grade::Passed, format!("you may {what}")),
        Ok(false) => Line::new(check, Grade::Note, format!("you may not {what}")),
        Err(why) => Line::unknown(check, why),
    });
    std::iter::once(reading).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::issue::Development;

    fn now() -> Timestamp {
        "2026-11-22T10:12:00Z".parse().unwrap()
    }

    fn entry_of(name: &str, failure_policy: &str, ca_bundle: &[u8]) -> Registered {
        let bundle = k8s_openapi::ByteString(ca_bundle.to_vec());
        let entry = serde_json::json!({
            "name": format!("{name}.fencegate.dev"), "failurePolicy": failure_policy, "clientConfig": {"caBundle": bundle},
        });
        serde_json::from_value(entry).unwrap()
    }

    fn webhook(failure_policy: &str, ca_bundle: &[u8]) -> Line {
        let guard = entry_of("out-of-service", failure_policy, ca_bundle);
        let mut lines = registered(Webhook::Validate, Ok(vec![guard]), now());
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    #[test]
    fn a_webhook_is_well_if_the_api_server_can_call_it_and_fails_without_it() {
        let ca = Development::make(&["localhost".to_owned()], 1, now()).unwrap();
        let ca = ca.ca.as_bytes();
        assert_eq!(webhook("Fail", ca).result, Grade::Passed);
        for (line, why) in [
            (webhook("Ignore", ca), "writes pass while the gate is down"),
            (webhook("Fail", b""), "caBundle is empty"),
            (webhook("Fail", b"-----BEGIN CERTIFICATE-----"), "caBundle"),
            (registered(Webhook::Mutate, Ok(Vec::new()), now()).remove(0), "is not registered"),
        ] {
            assert_eq!(line.result, Grade::Failed, "{line:?}");
            assert!(line.text.contains(why), "{line:?}");
        }
        let later = now() + jiff::SignedDuration::from_hours(48);
        assert!(ca_until(ca, later).unwrap_err().contains("no certificate that is valid now"));
    }

    #[test]
    fn each_door_that_is_registered_has_a_line_of_its_own() {
        let ca = Development::make(&["localhost".to_owned()], 1, now()).unwrap();
        let ca = ca.ca.as_bytes();
        let entries = vec![
            entry_of("nodes", "Fail", b""),
            entry_of("out-of-service", "Fail", ca),
            entry_of("pods", "Fail", ca),
            entry_of("attachments", "Ignore", ca),
        ];
        let lines = registered(Webhook::Validate, Ok(entries), now());
        let told: Vec<(&str, Grade)> = lines.iter().map(|line| (line.check.as_str(), line.result)).collect();
        assert_eq!(told[..2], [("validating webhook", Grade::Passed), ("webhook for nodes", Grade::Failed)]);
        assert_eq!(told[2..], [("webhook for pods", Grade::Passed), ("webhook for attachments", Grade::Note)]);
        let without = vec![entry_of("pods", "Fail", ca)];
        assert!(registered(Webhook::Validate, Ok(without), now())[0].text.contains("is not registered"));
    }

    #[test]
    fn a_policy_is_well_if_its_binding_denies() {
        let of = |has_policy, actions: Option<&[&str]>| {
            let actions = actions.map(|actions| actions.iter().map(|action| (*action).to_owned()).collect());
            bound("policy", Ok(Bound { has_policy, actions })).result
        };
        assert_eq!(of(true, Some(&["Deny", "Audit"])), Grade::Passed);
        assert_eq!(of(true, Some(&["Warn", "Audit"])), Grade::Failed);
        assert_eq!(of(true, None), Grade::Failed);
        assert_eq!(of(false, Some(&["Deny"])), Grade::Failed);
    }

    #[test]
    fn only_the_words_of_the_gate_show_that_it_denied() {
        for (made, result) in [
            (Attempt::Denied(r#"admission webhook "out-of-service.fencegate.dev" denied the request: no"#.into()), Grade::Passed),
            (
                Attempt::Denied("nodes is forbidden: ValidatingAdmissionPolicy 'fencegate' with binding 'fencegate' denied request: no".into()),
                Grade::Passed,
            ),
            (Attempt::Denied(r#"admission webhook "other.example" denied the request: no"#.into()), Grade::Unknown),
            (Attempt::NoRight("nodes is forbidden".into()), Grade::Unknown),
            (Attempt::Failed("failed calling webhook".into()), Grade::Failed),
            (Attempt::Allowed, Grade::Failed),
        ] {
            assert_eq!(attempt(made.clone()).result, result, "{made:?}");
        }
    }

    #[test]
    fn an_api_server_is_new_enough_or_not_known_to_be() {
        let of = |number| version(Ok(Version { name: "v1".into(), number })).result;
        assert_eq!(of(Some((1, 30))), Grade::Passed);
        assert_eq!(of(Some((2, 0))), Grade::Passed);
        assert_eq!(of(Some((1, 29))), Grade::Failed);
        assert_eq!(of(None), Grade::Failed);
    }

    #[test]
    fn the_replicas_survive_a_node_only_on_two() {
        let of = |nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| Some((*node).to_owned())).collect();
            replicas(Ok(Endpoints { nodes })).result
        };
        assert_eq!(of(&["a", "b"]), Grade::Passed);
        assert_eq!(of(&["a", "a"]), Grade::Note);
        assert_eq!(of(&["a"]), Grade::Note);
        assert_eq!(of(&[]), Grade::Failed);
    }

    #[test]
    fn what_is_wrong_is_worse_than_what_is_not_known() {
        let lines = |results: &[Grade]| results.iter().map(|one| Line::new("c", *one, "")).collect::<Vec<_>>();
        assert_eq!(worst(&lines(&[Grade::Passed, Grade::Note])), Grade::Note);
        assert_eq!(worst(&lines(&[Grade::Unknown, Grade::Failed, Grade::Passed])), Grade::Failed);
        assert_eq!(worst(&lines(&[Grade::Unknown, Grade::Passed])), Grade::Unknown);
        assert_eq!(worst(&[]), Grade::Unknown);
    }
}
