//! `fencegate history`, `replay` and `review`, from an audit log and from a Node of kubectl.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{fs, path::Path};

use serde_json::{Value, json};

#[path = "support/program.rs"]
mod program;

#[path = "support/schema.rs"]
mod schema;

use program::{code, fencegate, run, stderr, stdout};
use schema::published;

/// The audit log of the demo, and what the demo prints beside it.
fn log(folder: &Path) -> String {
    let output = fencegate(folder).args(["demo", "--audit"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    stdout(&output)
}

/// The lines of decisions in a log, as JSON.
fn decisions(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == "decision").collect()
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat()
}

#[test]
fn a_history_has_one_row_for_each_write_whoever_decided() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path());
    let told = run(folder.path(), &["history", "-f", "-", "worker-2"], &log);
    assert_eq!(code(&told), 0, "{}", stderr(&told));
    let table = "\
TIME                   USER    DOES      DECISION   REASONS
2026-11-22T10:10:20Z   alice   Place     deny       NodeStillReady,LeaseStillRenewed,EvidenceMissing
2026-11-22T10:12:00Z   alice   Place     deny       EvidenceMissing
2026-11-22T10:15:30Z   alice   Attest    deny       EvidenceMalformed
2026-11-22T10:15:50Z   alice   Attest    allow      <none>
2026-11-22T10:16:05Z   alice   Place     allow      <none>
2026-11-22T10:16:10Z   bob     Release   deny       PodsRemain,VolumesAttached,NodeNotRecovered(warn)
2026-11-22T10:16:20Z   bob     Attest    deny       EvidenceFrozen
2026-11-22T10:16:30Z   bob     Delete    deny       PodsRemain,VolumesAttached
2026-11-22T10:40:00Z   bob     Release   allow      <none>
";
    assert_eq!(stdout(&told), table);

    // The replicas' logs come one after the other, with what kubectl puts before each line.
    let mut lines = decisions(&log);
    lines.reverse();
    let prefixed: String =
        lines.iter().map(|line| format!("[pod/fencegate-1/fencegate] {line}\n")).collect::<Vec<_>>().concat();
    let again = run(folder.path(), &["history", "-f", "-", "worker-2"], &prefixed);
    assert_eq!(stdout(&again), table);

    let json = run(folder.path(), &["history", "-f", "-", "-o", "json"], &log);
    let list: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert!(schema::accepts(&published("history"), &list), "{list:#}");
    let rows = list["items"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[8]["node"], &rows[8]["does"]), (9, &json!("worker-2"), &json!(["Release"])));
}

#[test]
fn a_history_tells_what_was_not_stored_and_what_was_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let lines = decisions(&log(folder.path()));
    let placed = |webhook: &str| {
        let is_it = |line: &&Value| line["transitions"] == json!(["Place"]) && line["decision"] == "allow";
        lines.iter().filter(is_it).find(|line| line["webhook"] == webhook).unwrap().clone()
    };
    let row = |lines: &[Value]| {
        let told = run(folder.path(), &["history", "-f", "-", "--no-headers"], &text(lines));
        stdout(&told).split_whitespace().skip(4).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&[placed("mutate"), placed("validate")]), ["allow", "<none>"]);
    assert_eq!(row(&[placed("mutate")]), ["not-stored", "<none>"]);
    let withdrawn = json!({"event": "withdrawn", "uid": placed("validate")["uid"], "webhook": "validate"});
    assert_eq!(row(&[placed("mutate"), placed("validate"), withdrawn]), ["deny", "RecordUnavailable"]);
    let mut other = placed("validate");
    other["user"]["name"] = json!("mallory has\n2026 a name");
    assert_eq!(row(&[other])[0], "allow", "a name stays in its cell");
}

#[test]
fn a_replay_finds_the_decisions_that_would_be_others() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path());
    let same = run(folder.path(), &["replay", "-f", "-"], &log);
    assert_eq!((code(&same), stdout(&same).as_str()), (0, ""));
    assert_eq!(stderr(&same), "12 decisions: 12 are the same, 0 are not\n");

    fs::write(folder.path().join("warn.yaml"), "checks: {NodeStillReady: warn}").unwrap();
    let other = run(folder.path(), &["replay", "-f", "-", "--config", "warn.yaml"], &log);
    assert_eq!(code(&other), 1);
    assert!(stdout(&other).contains(": UPDATE of worker-2 by alice, mutate\n  then: deny: NodeStillReady, "));
    assert!(stdout(&other).contains("\n  now:  deny: NodeStillReady (warn), "), "{}", stdout(&other));

    let mut lied = decisions(&log);
    lied[0]["decision"] = json!("allow");
    assert_eq!(code(&run(folder.path(), &["replay", "-f", "-"], &text(&lied))), 1);
    lied[1].as_object_mut().unwrap().remove("facts");
    let unreadable = run(folder.path(), &["replay", "-f", "-"], &text(&lied));
    assert_eq!(code(&unreadable), 2);
    assert!(stderr(&unreadable).contains("line 2: ") && stderr(&unreadable).contains("missing field `facts`"));
}

#[test]
fn a_log_without_a_decision_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["history", "replay"] {
        for (arguments, input, why) in [
            (vec![command, "-f", "-"], "hello\n", "fencegate: -: there is no decision in it\n"),
            (vec![command, "-f", "missing.log"], "", "fencegate: cannot read missing.log: "),
        ] {
            let output = run(folder.path(), &arguments, input);
            assert_eq!((code(&output), stdout(&output).as_str()), (2, ""), "{arguments:?}");
            assert!(stderr(&output).starts_with(why), "{}", stderr(&output));
        }
    }
    let nothing = run(folder.path(), &["history"], "");
    assert_eq!(code(&nothing), 2, "{}", stderr(&nothing));
}

#[test]
fn a_review_decides_about_the_next_step_of_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = |ready: &str, taints: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: worker-2, resourceVersion: '7'}}\nspec: {{taints: {taints}}}\n\
             status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    };
    let tainted = "[{key: node.kubernetes.io/out-of-service, value: nodeshutdown, effect: NoExecute}]";
    let asked =
        |step: &str, node: &str| run(folder.path(), &["review", "-", step, "--now", "2026-11-22T10:12:00Z"], node);
    for (step, node, why) in [
        ("--place", node("True", "[]"), "node \"worker-2\" may not be put out of service:\n  NodeStillReady: "),
        ("--release", node("Unknown", tainted), "node \"worker-2\" may not return to service:\n  PodsRemain: "),
        (
            "--delete",
            node("Unknown", tainted),
            "node \"worker-2\" may not be deleted while out of service:\n  PodsRemain: ",
        ),
    ] {
        let denied = asked(step, &node);
        assert_eq!(code(&denied), 1, "{}", stderr(&denied));
        assert!(stdout(&denied).starts_with(why), "{}", stdout(&denied));
    }
    assert_eq!(stdout(&asked("--delete", &node("True", "[]"))), "allowed (None)\n");
    let two = format!("{}---\n{}", node("True", "[]").replace("worker-2", "worker-1"), node("True", "[]"));
    for (body, why) in
        [(two.as_str(), "there are 2 Nodes in it"), ("kind: Pod", "fencegate: -: "), ("{}", "fencegate: -: ")]
    {
        let output = asked("--place", body);
        assert_eq!(code(&output), 2, "{}", stdout(&output));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
}

#[test]
fn the_version_names_what_it_is_for_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let told = run(folder.path(), &["version"], "");
    let version = env!("CARGO_PKG_VERSION");
    assert!(stdout(&told).starts_with(&format!("fencegate {version}")), "{}", stdout(&told));
    let json = run(folder.path(), &["version", "--client", "-o", "json"], "");
    let json: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert!(schema::accepts(&published("version"), &json), "{json:#}");
    let mut wrong = json.clone();
    wrong["kubernetes"] = json!(1.30);
    assert!(!schema::accepts(&published("version"), &wrong), "a schema that refuses nothing holds nothing");
    assert_eq!((&json["version"], &json["cluster"]), (&json!(version), &Value::Null));

    // An API server that does not answer: the program's own version is told all the same.
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let away = run(folder.path(), &["version", "--kubeconfig", "kubeconfig"], "");
    assert!(stdout(&away).starts_with(&format!("fencegate {version}")), "{}", stdout(&away));
    assert_eq!(code(&away), 2);
    for command in [vec!["status"], vec!["place", "n1"], vec!["check"], vec!["history", "n1"], vec!["version"]] {
        let away = run(folder.path(), &[command.as_slice(), &["--kubeconfig", "kubeconfig"]].concat(), "");
        let why = stderr(&away);
        assert_eq!(code(&away), 2, "{command:?}: {why}");
        assert!(why.starts_with("fencegate: https://127.0.0.1:1: the API server could not be reached: "), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}

#[test]
fn a_template_is_no_output_and_the_error_says_what_to_use() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["status", "--example", "-o", "jsonpath={.items}"], "");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).ends_with("use -o json, and jq on its output\n"), "{}", stderr(&output));
}
