//! The command line as scripts use it: exit codes, standard output and standard error, and the
//! server as a process.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use program::{code, fencegate, run, stderr, stdout};
use serde_json::Value;
use support::{Client, bare_taint};

/// A cluster whose only object is the Lease of a machine that has been silent for two minutes.
const SILENT_WORKER: &str = "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
    metadata: {name: worker-2, namespace: kube-node-lease}\nspec: {renewTime: \"2026-11-22T10:10:00.000000Z\"}\n";

#[test]
fn review_exits_with_the_verdict_and_prints_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let denied = run(folder.path(), &["review", "--now", "2026-11-22T10:12:00Z"], &bare_taint().to_string());
    assert_eq!(code(&denied), 1, "{}", stderr(&denied));
    assert!(stdout(&denied).starts_with("node \"worker-2\" may not be put out of service:\n  EvidenceMissing: "));
    assert!(stderr(&denied).contains("built-in example"));

    let mut untouched = bare_taint();
    untouched["request"]["object"] = untouched["request"]["oldObject"].clone();
    fs::write(folder.path().join("review.json"), untouched.to_string()).unwrap();
    let allowed = run(folder.path(), &["review", "review.json"], "");
    assert_eq!((code(&allowed), stdout(&allowed).as_str()), (0, "allowed (None)\n"));
}

#[test]
fn review_prints_the_same_json_answer_as_the_server_sends() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["review", "--output", "json", "-"], &bare_taint().to_string());
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["response"]["uid"], bare_taint()["request"]["uid"]);
    assert_eq!(answer["response"]["status"]["code"], 403);
}

#[test]
fn a_source_that_is_not_known_is_an_error_that_names_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["serve", "--source=pacemaker", "--source=netwrok-fence"], "");
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(said.contains(r#""netwrok-fence" is not one of annotations, cloud-shutdown, pacemaker, "#), "{said}");
}

#[test]
fn review_exits_with_code_2_and_says_why_if_it_cannot_decide() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.yaml"), "checks: {NodeStillRedy: off}").unwrap();
    fs::write(folder.path().join("cluster.yaml"), "a: 1").unwrap();
    let review = bare_taint().to_string();
    for (arguments, input, why) in [
        (vec!["review"], "no review", "not an AdmissionReview"),
        (vec!["review", "missing.json"], "", "missing.json"),
        (vec!["review"], r#"{"event":"probe"}"#, "not a line of the audit log"),
        (vec!["review", "--config", "bad.yaml"], review.as_str(), "checks.NodeStillRedy"),
        (vec!["review", "--cluster", "cluster.yaml"], review.as_str(), "needs a kind"),
        (
            vec!["review", "--cluster", "live"],
            review.as_str(),
            "neither a kubeconfig nor a service account can be used",
        ),
        (vec!["review", "--now", "today"], review.as_str(), "RFC 3339"),
        (vec!["review", "--output", "xml"], review.as_str(), "possible values"),
        (vec!["nonsense"], "", "unrecognized subcommand"),
    ] {
        let output = run(folder.path(), &arguments, input);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(why), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn check_config_reads_a_configuration_as_serve_does_and_shows_what_differs_from_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let check = |input: &str| {
        let output = run(folder.path(), &["check-config", "-"], input);
        (code(&output), stdout(&output) + &stderr(&output))
    };
    assert_eq!(check("{}"), (0, "standard input: OK\n  all defaults\n".to_owned()));
    let weak = "mode: warn\nevidence: {maxAge: 1h}\nchecks: {NodeStillReady: off}\nplace: {maxNodes: 30%}\n";
    let expected = "OK
  mode: warn (default: enforce)
  evidence.maxAge: 1h (default: 24h)
  place.maxNodes: 30% (default: none)
  checks.NodeStillReady: off (default: enforce)
warning: mode: warn denies nothing but StampForged
warning: checks.NodeStillReady: off: a write that fails this check is allowed
";
    assert_eq!(check(weak), (0, format!("standard input: {expected}")));

    // In manifests, as kubectl prints and kustomize renders them.
    let config_map = |text: &str| serde_json::json!({"kind": "ConfigMap", "metadata": {"name": "fencegate"}, "data": {"config.yaml": text}});
    let in_config_map = format!("standard input: ConfigMap fencegate: config.yaml: {expected}");
    assert_eq!(check(&config_map(weak).to_string()), (0, in_config_map.clone()));
    assert_eq!(check(&format!("kind: Service\n---\n{}\n---\n", config_map(weak))), (0, in_config_map.clone()));
    let list = serde_json::json!({"kind": "List", "items": [{"kind": "Service"}, config_map(weak)]});
    assert_eq!(check(&list.to_string()), (0, in_config_map));

    let mistakes = [
        ("checks: {NodeStillRedy: off}", "checks.NodeStillRedy: there is no such check"),
        ("checks: {StampForged: off}", "checks.StampForged: the mode of this check cannot be changed"),
        ("mode: enforce\nmodes: warn", "line 2"),
        ("", "is empty"),
        ("mode: [", "line 1"),
    ];
    for (text, why) in mistakes {
        for input in [text.to_owned(), config_map(text).to_string()] {
            let (code, said) = check(&input);
            assert!(code == 1 && said.contains(why), "{input}: {code} {said}");
        }
    }
    let two = format!("{}\n---\n{}", config_map("{}"), config_map("{}"));
    for (input, why) in [("kind: Service", "no ConfigMap with the key config.yaml"), (&two, "2 ConfigMaps")] {
        let (code, said) = check(input);
        assert!(code == 2 && said.contains(why), "{input}: {code} {said}");
    }
    assert_eq!(code(&run(folder.path(), &["check-config", "missing.yaml"], "")), 2);
}

#[test]
fn a_replica_does_not_start_with_a_mistake_in_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.yaml"), "mode: warm").unwrap();
    assert_eq!(code(&run(folder.path(), &["certs", "--out", "."], "")), 0);
    let serve = ["serve", "--tls-cert=tls.crt", "--tls-key=tls.key", "--config=config.yaml", "--listen=127.0.0.1:0"];
    let serve = [&serve[..], &["--telemetry-listen=127.0.0.1:0", "--cluster=cluster.yaml"]].concat();
    fs::write(folder.path().join("cluster.yaml"), SILENT_WORKER).unwrap();
    let output = run(folder.path(), &serve, "");
    let said = stdout(&output) + &stderr(&output);
    assert!(code(&output) == 2 && said.contains(r#"mode: "warm" is not one of enforce, warn"#), "{said}");
}

#[test]
fn a_kubeconfig_that_cannot_be_used_does_not_become_the_example_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let review = folder.path().join("review.json");
    fs::write(&review, bare_taint().to_string()).unwrap();
    let run = |kubeconfig: Option<&str>| {
        let mut command = fencegate(folder.path());
        command.args(["review", "review.json"]).envs(kubeconfig.map(|path| ("KUBECONFIG", path)));
        command.output().unwrap()
    };
    let example = run(None);
    assert_eq!(code(&example), 1);
    assert!(stderr(&example).contains("the built-in example"), "{}", stderr(&example));
    fs::create_dir(folder.path().join(".kube")).unwrap();
    fs::write(folder.path().join(".kube/config"), "clusters: 7").unwrap();
    for unusable in [run(Some("missing.yaml")), run(Some("review.json")), run(None)] {
        assert_eq!(code(&unusable), 2, "{}", stdout(&unusable));
        assert!(stderr(&unusable).contains("no cluster: "), "{}", stderr(&unusable));
    }
}

#[test]
fn help_shows_every_subcommand_and_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let help = stdout(&run(folder.path(), &["--help"], ""));
    for word in ["serve", "review", "certs", "demo", "Examples:", "Exit codes:"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}

#[test]
fn a_kubectl_plugin_shows_its_name_as_kubectl_users_type_it() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-fencegate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fencegate"), &plugin).unwrap();
    let output = Command::new(&plugin).args(["review", "--help"]).output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("Usage: kubectl fencegate review"), "{}", stdout(&output));
    assert!(stdout(&output).contains("\n  kubectl fencegate review review.json "), "{}", stdout(&output));
    let short = Command::new(&plugin).arg("-h").output().unwrap();
    for command in ["serve", "certs", "demo"] {
        assert!(!stdout(&short).contains(&format!("\n  {command} ")), "{command} is for the gate: {}", stdout(&short));
    }
}

#[test]
fn certs_overwrites_files_only_with_force_and_the_key_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let made = run(folder.path(), &["certs", "--out", "tls"], "");
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    assert_eq!(stdout(&made), "tls/ca.crt\ntls/tls.crt\ntls/tls.key\n");
    let key = folder.path().join("tls/tls.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&key).unwrap();
    let again = run(folder.path(), &["certs", "--out", "tls"], "");
    assert_eq!((code(&again), fs::read(&key).unwrap()), (2, before.clone()));
    assert!(stderr(&again).contains("--force"));
    assert_eq!(code(&run(folder.path(), &["certs", "--out", "tls", "--force"], "")), 0);
    assert_eq!(code(&run(folder.path(), &["certs", "--out", "other", "--days", "0"], "")), 2, "valid for no time");
    assert_ne!(fs::read(&key).unwrap(), before);
}

#[test]
fn review_prints_the_stamps_that_the_mutating_webhook_would_write() {
    let folder = tempfile::tempdir().unwrap();
    let annotations = serde_json::json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-by": "alice",
        "fencegate.dev/fenced-at": "2026-11-22T10:11:00Z"});
    let mut review = support::bare_taint();
    review["request"]["object"]["metadata"]["annotations"] = annotations;
    let review = review.to_string();
    fs::write(folder.path().join("cluster.yaml"), SILENT_WORKER).unwrap();
    let common = ["review", "--cluster", "cluster.yaml", "--now", "2026-11-22T10:12:00Z"];
    let as_mutating = |more: &[&str]| {
        let arguments: Vec<&str> = common.iter().chain(["--webhook", "mutate"].iter()).chain(more).copied().collect();
        run(folder.path(), &arguments, &review)
    };
    let text = stdout(&as_mutating(&[]));
    assert!(text.starts_with("allowed (Place,Attest)\n"), "{text}");
    assert!(
        text.contains("\n  fencegate.dev/placed-by=alice\n") && text.contains("\n  fencegate.dev/source=annotations\n"),
        "{text}"
    );
    assert!(stdout(&as_mutating(&["--output", "json"])).contains(r#""patchType":"JSONPatch""#));
    assert_eq!(
        stdout(&run(folder.path(), &common, &review)),
        "allowed (Place,Attest)\n",
        "the validating webhook changes nothing"
    );
}

#[test]
fn the_demo_succeeds_and_prints_no_colour_into_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["demo"], "");
    let printed = stdout(&output);
    assert_eq!(code(&output), 0, "{printed}{}", stderr(&output));
    assert!(printed.contains("PodsRemain: still bound to the node: prod/db-0 (terminating for "));
    assert!(printed.contains("node/worker-2 untainted") && printed.contains(r#""placedBy":"alice""#));
    assert!(!printed.contains('\u{1b}'));
    assert_eq!(stdout(&run(folder.path(), &["demo"], "")), printed, "the output is the same every time");
    let lines = stdout(&run(folder.path(), &["demo", "--audit"], "")).matches("\"event\":\"decision\"").count();
    assert_eq!(lines, 12, "nine writes, three of which reached the validating webhook");
}

#[tokio::test]
async fn serve_answers_writes_its_audit_log_and_exits_after_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(&run(folder.path(), &["certs", "--out", "."], "")), 0);
    fs::write(folder.path().join("cluster.yaml"), SILENT_WORKER).unwrap();
    let mut child = fencegate(folder.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--telemetry-listen", "127.0.0.1:0", "--drain", "0s"])
        .args(["--tls-cert", "tls.crt", "--tls-key", "tls.key", "--cluster", "cluster.yaml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let serving: Value =
        log.find(|line| line.contains("serving")).map(|line| serde_json::from_str(&line).unwrap()).unwrap();
    let address = serving["reviews"].as_str().unwrap().parse().unwrap();

    let ca = fs::read_to_string(folder.path().join("ca.crt")).unwrap();
    let answer = Client::new(address, &ca).ask(&bare_taint()).await;
    assert_eq!(answer["response"]["allowed"], false);

    let sent = Command::new("sh").args(["-c", "kill \"$0\"", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    let line: Value = serde_json::from_str(stdout(&output).trim_end()).unwrap();
    assert_eq!((&line["event"], &line["decision"]), (&"decision".into(), &"deny".into()));

    let again = run(folder.path(), &["review", "--output", "json"], &stdout(&output));
    assert_eq!(code(&again), 1, "{}", stderr(&again));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&again)).unwrap(), answer, "the line alone is enough");
}

#[test]
fn serve_names_the_file_if_it_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.yaml"), "kind: List\n").unwrap();
    let arguments = ["serve", "--tls-cert", "no.crt", "--tls-key", "no.key", "--cluster", "cluster.yaml"];
    let output = run(folder.path(), &arguments, "");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("no.crt"), "{}", stderr(&output));
}

#[test]
fn the_commands_that_write_need_a_cluster_and_sensible_arguments() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        vec!["attest", "worker-2", "--example", "--method", "power-off"],
        vec!["place", "node/worker-2", "--example"],
        vec!["release", "worker-2", "--example"],
    ] {
        let refused = run(folder.path(), &arguments, "");
        let sentence = format!("fencegate: a file cannot be written to: {} needs a cluster\n", arguments[0]);
        assert_eq!((code(&refused), stdout(&refused).as_str()), (2, ""), "{arguments:?}");
        assert!(stderr(&refused).ends_with(&sentence), "{arguments:?}: {}", stderr(&refused));
    }
    for arguments in [
        vec!["attest", "worker-2"],
        vec!["attest", "worker-2", "--method", "prayer"],
        vec!["attest", "worker-2", "--method", "power-off", "--at", "yesterday"],
        vec!["attest", "worker-2", "--method", "power-off", "--wait", "--force"],
        vec!["place"],
        vec!["place", "worker-2", "--effect", "PreferNoSchedule"],
        vec!["place", "worker-2", "--dry-run", "perhaps"],
        vec!["release", "worker-2", "--for", "ever"],
        vec!["release", "worker-2", "--delete", "--break-glass", "why"],
        vec!["release", "worker-2", "--delete", "--for", "recovered"],
        vec!["place", "node/"],
    ] {
        let refused = run(folder.path(), &arguments, "");
        assert_eq!((code(&refused), stdout(&refused).as_str()), (2, ""), "{arguments:?}");
        assert!(stderr(&refused).starts_with("error: "), "{arguments:?}: {}", stderr(&refused));
    }
}

#[test]
fn reasons_are_explained_and_shells_complete_commands() {
    let folder = tempfile::tempdir().unwrap();
    let told = run(folder.path(), &["explain", "evidencefrozen"], "");
    let text = "EvidenceFrozen always denies.\n\nIt fails when: ";
    assert!(code(&told) == 0 && stdout(&told).starts_with(text), "{}", stdout(&told));
    assert!(stdout(&told).ends_with("\nWhat to do: Leave the record as it is. The release removes it.\n"));
    assert!(stdout(&run(folder.path(), &["explain"], "")).starts_with("CreatedOutOfService\nNodeStillReady\n"));
    assert_eq!(code(&run(folder.path(), &["explain", "Nonsense"], "")), 2);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = run(folder.path(), &["completion", shell], "");
        assert_eq!(code(&script), 0, "{shell}");
        assert!(stdout(&script).contains("attest"), "{shell}");
    }
}

#[test]
fn the_page_about_all_commands_is_what_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let printed = stdout(&run(folder.path(), &["__reference"], ""));
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md")).unwrap();
    assert!(printed.contains("\n## attest\n") && !printed.contains("__complete"), "{printed}");
    assert_eq!(page, printed, "make reference writes it anew");
}
