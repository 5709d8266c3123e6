//! `fencegate status`: the table, the long form, JSON and the exit codes, from the built-in example
//! and from dumps. `tests/end_to_end/story.rs` has a real control plane.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};

#[path = "support/program.rs"]
mod program;
#[path = "support/schema.rs"]
mod schema;

use program::{code, fencegate, run, stderr, stdout};
use schema::{accepts, published};

const TAINT: &str = "node.kubernetes.io/out-of-service";
/// When the dump was written.
const NOW: &str = "2026-11-22T10:42:00Z";

fn node(name: &str, ready: &str, since: &str, boot: &str, tainted: bool, annotations: &[(&str, &str)]) -> Value {
    let annotations: Value =
        annotations.iter().map(|(key, value)| (format!("fencegate.dev/{key}"), json!(value))).collect();
    let taints =
        if tainted { json!([{"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"}]) } else { json!([]) };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": format!("uid-of-{name}"), "annotations": annotations,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": taints, "providerID": format!("metal3://bm/{name}")},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
            "nodeInfo": {"bootID": boot},
        },
    })
}

fn lease(node: &str, renewed: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"leaseDurationSeconds": 40, "renewTime": renewed}})
}

fn pod(name: &str, node: &str, more: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "prod", "name": name,
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
        "spec": {"nodeName": node, "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}}]}});
    json_patch::merge(&mut pod, more);
    pod
}

const FENCED: [(&str, &str); 4] = [
    ("method", "power-off"),
    ("fenced-at", "2026-11-22T10:15:00Z"),
    ("fenced-by", "alice, OPS-123"),
    ("boot-id", "b1"),
];

fn placed(at: &'static str) -> Vec<(&'static str, &'static str)> {
    let stamps = [
        ("recorded-by", "alice"),
        ("recorded-at", "2026-11-22T10:15:50Z"),
        ("placed-by", "alice"),
        ("source", "annotations"),
    ];
    FENCED.into_iter().chain(stamps).chain([("placed-at", at)]).collect()
}

/// A node in each state, but for those that a dump does not have.
fn dump() -> Value {
    let (dead, back) = ("2026-11-22T10:10:42Z", "2026-11-22T10:20:00Z");
    let detach_error = json!({"message": "rpc error: no such target", "time": "2026-11-22T10:40:00Z"});
    let mut items = vec![
        node("alive", "Unknown", dead, "b1", true, &placed("2026-11-22T10:16:05Z")),
        lease("alive", "2026-11-22T10:41:58Z"),
        pod("alive-0", "alive", &json!({})),
        node("stuck", "Unknown", dead, "b1", true, &placed("2026-11-22T10:16:05Z")),
        pod(
            "db-0",
            "stuck",
            &json!({"metadata": {"deletionTimestamp": "2026-11-22T10:16:06Z", "finalizers": ["example.com/snapshot"]}}),
        ),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "csi-4f6a"},
            "spec": {"nodeName": "stuck", "attacher": "rbd.csi.ceph.com", "source": {"persistentVolumeName": "pv-data-db-0"}},
            "status": {"attached": true, "detachError": detach_error}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-data-db-0"},
            "spec": {"claimRef": {"namespace": "prod", "name": "data-db-0"}}}),
        node("silent", "Unknown", dead, "b1", false, &[]),
        pod("silent-0", "silent", &json!({})),
        node("contradicted", "Unknown", dead, "b1", false, &FENCED),
        lease("contradicted", "2026-11-22T10:17:41Z"),
        node("attested", "Unknown", dead, "b1", false, &FENCED),
        node("emptying", "Unknown", dead, "b1", true, &placed("2026-11-22T10:41:00Z")),
        pod("emptying-0", "emptying", &json!({})),
        node("recovered", "True", back, "b2", true, &placed("2026-11-22T10:16:05Z")),
        node("same-boot", "True", back, "b1", true, &placed("2026-11-22T10:16:05Z")),
        node("empty", "Unknown", dead, "b1", true, &placed("2026-11-22T10:16:05Z")),
        node("not-ready", "False", dead, "b1", false, &[]),
        lease("not-ready", "2026-11-22T10:41:58Z"),
        node("bare", "Unknown", dead, "b1", false, &[]),
        node("in-service", "True", back, "b1", false, &[]),
    ];
    for (node, renewed) in [
        ("stuck", "2026-11-22T10:09:58Z"),
        ("silent", "2026-11-22T10:09:58Z"),
        ("attested", "2026-11-22T10:09:58Z"),
        ("emptying", "2026-11-22T10:09:58Z"),
        ("recovered", "2026-11-22T10:41:56Z"),
        ("same-boot", "2026-11-22T10:41:56Z"),
        ("empty", "2026-11-22T10:09:58Z"),
        ("bare", "2026-11-22T10:09:58Z"),
        ("in-service", "2026-11-22T10:41:56Z"),
    ] {
        items.push(lease(node, renewed));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Runs the command on the dump.
fn status(folder: &Path, arguments: &[&str]) -> Output {
    let before = ["status", "-f", "-", "--now", NOW];
    run(folder, &[&before, arguments].concat(), &dump().to_string())
}

#[test]
fn the_table_of_the_example_shows_what_is_worth_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let told = run(folder.path(), &["status", "--example"], "");
    assert_eq!(code(&told), 0, "{}", stderr(&told));
    assert_eq!(
        stdout(&told),
        "NAME       STATE    READY     LEASE   OUT      PODS   VOLUMES   NEXT\n\
         worker-2   Silent   Unknown   2m1s    <none>   1      1         fence\n"
    );
    assert_eq!(
        stderr(&told),
        "facts come from the built-in example\n\
         1 of 3 nodes are worth a look; 2 are in service (--all)\n"
    );
    let all = run(folder.path(), &["status", "--example", "--all", "--no-headers"], "");
    assert_eq!(stdout(&all).lines().count(), 3);
    assert!(stderr(&all).ends_with("1 of 3 nodes are worth a look; 2 are in service\n"), "{}", stderr(&all));
    let names = run(folder.path(), &["status", "--example", "--all", "-o", "name"], "");
    assert_eq!(stdout(&names), "node/worker-2\nnode/worker-1\nnode/worker-3\n");
}

#[test]
fn the_most_urgent_node_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let told = status(folder.path(), &[]);
    let columns = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let rows: Vec<Vec<String>> = stdout(&told).lines().skip(1).map(columns).collect();
    let expected = [
        "alive Alive Unknown 2s 25m 1 0 look",
        "stuck Stuck Unknown 32m 25m 1 1 look",
        "silent Silent Unknown 32m <none> 1 0 fence",
        "contradicted Contradicted Unknown 24m <none> 0 0 fence",
        "attested Attested Unknown 32m <none> 0 0 place",
        "emptying Emptying Unknown 32m 60s 1 0 wait",
        "recovered Recovered True 4s 25m 0 0 release",
        "same-boot SameBoot True 4s 25m 0 0 reboot",
        "empty Empty Unknown 32m 25m 0 0 repair",
        "not-ready NotReady False 2s <none> 0 0 look",
        "bare Silent Unknown 32m <none> 0 0 -",
    ];
    assert_eq!(rows, expected.map(columns));
    assert!(
        stderr(&told).ends_with(
            "11 of 12 nodes are worth a look; 1 are in service (--all)\n\
             recovered has been Recovered for 22m: is the taint forgotten?\n"
        ),
        "{}",
        stderr(&told)
    );
    assert_eq!(code(&told), 0);
    assert_eq!(code(&status(folder.path(), &["--check"])), 1, "something is to be done");
    assert_eq!(code(&status(folder.path(), &["--check", "in-service", "bare", "emptying", "empty"])), 0);
}

#[test]
fn the_wide_table_has_the_record_and_the_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let told = status(folder.path(), &["-o", "wide", "--no-headers", "stuck", "contradicted"]);
    let rows: Vec<String> =
        stdout(&told).lines().map(|line| line.split_whitespace().skip(8).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        rows,
        [
            "power-off alice,_OPS-123 2026-11-22T10:15:00Z annotations alice fenced PodsRemain,VolumesAttached <none>",
            "power-off alice,_OPS-123 2026-11-22T10:15:00Z <none> <none> fenced LeaseStillRenewed,EvidenceMissing same-machine?",
        ]
    );
}

#[test]
fn the_long_form_says_what_holds_a_node_and_what_the_gate_would_say() {
    let folder = tempfile::tempdir().unwrap();
    let told = stdout(&status(folder.path(), &["stuck"]));
    let head = "Node:      stuck   10.0.0.2   providerID metal3://bm/stuck\n\
         State:     Stuck   out of service for 25m (since 10:16:05Z)\n\
         Ready:     Unknown since 10:10:42Z (31m18s ago)\n\
         Lease:     the node renewed its Lease at 10:09:58Z (32m2s ago), ran out\n\
         Record:    power-off at 2026-11-22T10:15:00Z by \"alice, OPS-123\" of boot b1\n\
         \x20          recorded by alice at 2026-11-22T10:15:50Z, placed by alice at 2026-11-22T10:16:05Z, vouched by annotations\n\
         Boot:      b1 (the one that was fenced)\n\
         Holds it:  Pod      prod/db-0 (terminating for 25m54s, waits for finalizer example.com/snapshot), of StatefulSet db\n\
         \x20          Volume   prod/data-db-0 (PersistentVolume pv-data-db-0, VolumeAttachment csi-4f6a of driver rbd.csi.ceph.com: attached, fails: \"rpc error: no such target\" 2m ago)\n\
         Next:      look: what holds it does not go by itself\n\
         The gate:  node \"stuck\" may not return to service:\n";
    assert!(told.starts_with(head), "{told}");
    assert!(told.contains("\n             kubectl get pod -o yaml -n prod db-0\n"), "{told}");
    let told = stdout(&status(folder.path(), &["contradicted"]));
    let note = "Note:      same-machine?: \"alice, OPS-123\" said that contradicted was fenced at 2026-11-22T10:15:00Z; \
         the node renewed its Lease at 10:17:41Z: was another machine switched off?\n";
    assert!(told.contains(note), "{told}");
    let lives = stdout(&status(folder.path(), &["not-ready", "in-service"]));
    assert!(!lives.contains("switch the machine off"), "{lives}");
    assert!(lives.contains("\n\nNode:      in-service "), "an empty line between two nodes: {lives}");
}

#[test]
fn a_machine_that_was_said_to_be_off_and_was_not_is_an_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let was_not_off = "two machines may have written to the same volumes";
    let told = stdout(&status(folder.path(), &["same-boot"]));
    assert!(told.contains("Next:      reboot: ") && told.contains(was_not_off), "{told}");
    let told = stdout(&status(folder.path(), &["recovered", "contradicted"]));
    assert!(!told.contains(was_not_off), "{told}");
    // A machine that was cut off from its disks is expected to run on.
    let isolated = dump().to_string().replace("power-off", "storage-isolation");
    let told = stdout(&run(folder.path(), &["status", "-f", "-", "--now", NOW, "same-boot"], &isolated));
    assert!(told.contains("Next:      reboot: ") && !told.contains(was_not_off), "{told}");
}

#[test]
fn json_and_yaml_have_the_same_content_and_the_shape_of_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let schema = published("status");
    let told = status(folder.path(), &["--all", "-o", "json"]);
    let list: Value = serde_json::from_str(&stdout(&told)).unwrap();
    assert!(accepts(&schema, &list), "{list:#}");
    let yaml = stdout(&status(folder.path(), &["--all", "-o", "yaml"]));
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), list);

    let of = |name: &str| list["items"].as_array().unwrap().iter().find(|item| item["node"] == name).unwrap().clone();
    let stuck = of("stuck");
    assert_eq!(
        (&stuck["uid"], &stuck["state"], &stuck["next"]["action"]),
        (&json!("uid-of-stuck"), &json!("Stuck"), &json!("look"))
    );
    assert_eq!(stuck["next"]["commands"][0], "kubectl get pod -o yaml -n prod db-0");
    assert_eq!(
        stuck["remaining"],
        json!({
            "pods": [{"namespace": "prod", "name": "db-0", "owner": "StatefulSet/db",
                "deletionTimestamp": "2026-11-22T10:16:06Z", "finalizers": ["example.com/snapshot"],
                "mayStay": false}],
            "volumes": [{"volumeAttachment": "csi-4f6a", "persistentVolume": "pv-data-db-0", "claim": "prod/data-db-0",
                "attacher": "rbd.csi.ceph.com", "attached": true, "detachError": "rpc error: no such target", "inStatus": null}],
        })
    );
    assert_eq!(stuck["verdicts"]["release"]["allowed"], false);
    assert_eq!(
        (&of("attested")["verdicts"]["place"]["allowed"], &of("attested")["verdicts"]["delete"]),
        (&json!(true), &Value::Null)
    );

    let mut wrong = list.clone();
    wrong["items"][0]["state"] = json!("Asleep");
    assert!(!accepts(&schema, &wrong), "the schema is held by this test, so it must be able to refuse");
}

#[test]
fn what_cannot_be_told_ends_with_2_and_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n\
         clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n";
    fs::write(folder.path().join("unreachable"), kubeconfig).unwrap();
    fs::write(folder.path().join("broken"), "clusters: [").unwrap();
    for (arguments, sentence) in [
        (vec!["--kubeconfig", "nowhere"], "nowhere: failed to read kubeconfig"),
        (vec!["--kubeconfig", "broken"], "broken: failed to parse kubeconfig"),
        (vec!["--kubeconfig", "unreachable", "--context", "d"], "cannot use the kubeconfig: "),
        (vec!["--kubeconfig", "unreachable"], "https://127.0.0.1:1: the API server could not be reached: "),
        (vec!["-f", "nowhere"], "cannot read nowhere: No such file or directory"),
        (vec!["--config", "nowhere"], "cannot read nowhere: No such file or directory"),
        (vec![], "no cluster: there is neither a kubeconfig nor a service account; -f FILE reads a dump, "),
        (vec!["--example", "worker-22"], "node \"worker-22\" does not exist; similar: worker-2"),
        (vec!["--example", "-l", "a=b"], "a file cannot be searched for labels: give the names of the nodes"),
        (vec!["--example", "worker-2", "--wait", "empty"], "a file does not change: --wait needs a cluster"),
    ] {
        let told = run(folder.path(), &[&["status"], arguments.as_slice()].concat(), "");
        let errors: Vec<String> =
            stderr(&told).lines().filter(|line| line.starts_with("fencegate: ")).map(str::to_owned).collect();
        assert_eq!(
            (code(&told), errors.len(), stdout(&told)),
            (2, 1, String::new()),
            "{arguments:?}: {}",
            stderr(&told)
        );
        assert!(errors[0].starts_with(&format!("fencegate: {sentence}")), "{arguments:?}: {errors:?}");
    }
    let empty = run(folder.path(), &["status", "-f", "-"], "");
    assert_eq!((code(&empty), stderr(&empty)), (2, "fencegate: - is empty\n".to_owned()));
    for arguments in [
        vec!["--wait", "Asleep", "n1"],
        vec!["--wait", "Empty"],
        vec!["--all", "n1"],
        vec!["-f", "x", "--as", "eve"],
        vec!["--example", "n1", "--wait", "Empty", "--timeout", "2562047788015215h"],
    ] {
        assert_eq!(code(&run(folder.path(), &[&["status"], arguments.as_slice()].concat(), "")), 2, "{arguments:?}");
    }
}

#[test]
fn a_fact_that_could_not_be_read_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut dump = dump();
    dump["items"].as_array_mut().unwrap().retain(|item| item["kind"] != "VolumeAttachment");
    let told = run(folder.path(), &["status", "-f", "-", "--now", NOW, "empty"], &dump.to_string());
    assert_eq!(code(&told), 2);
    assert!(stdout(&told).contains("State:     Unknown"), "{}", stdout(&told));
    assert!(
        stdout(&told).contains("\nUnread:    volume_attachments: the file has no VolumeAttachment; "),
        "{}",
        stdout(&told)
    );
    let table = run(folder.path(), &["status", "-f", "-", "--now", NOW], &dump.to_string());
    let row = stdout(&table).lines().find(|line| line.starts_with("empty ")).unwrap().to_owned();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>()[5..], ["0", "<unknown>", "look"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [vec!["status", "--example", "--all"], vec!["demo"]] {
        let mut child = fencegate(folder.path())
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (code(&output), stderr(&output).contains("error")),
            (0, false),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_dump_is_told_as_of_its_newest_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let told =
        run(folder.path(), &["status", "-f", "-", "--no-headers", "not-ready", "-o", "wide"], &dump().to_string());
    assert!(stdout(&told).starts_with("not-ready   NotReady   False   0s "), "{}", stdout(&told));
    let source = "facts come from standard input, as of 2026-11-22T10:41:58Z, the newest renewal in it: see --now\n";
    assert!(stderr(&told).starts_with(source), "{}", stderr(&told));
}

#[test]
fn a_hostile_name_stays_in_its_cell() {
    let folder = tempfile::tempdir().unwrap();
    let name = "a\u{1b}[2J\nworker-9 InService True \u{202e}";
    let dump = json!({"kind": "List", "apiVersion": "v1", "items": [
        node(name, "Unknown", "2026-11-22T10:10:42Z", "b1", false, &[]), lease(name, "2026-11-22T10:09:58Z"),
        json!({"kind": "PodList", "apiVersion": "v1", "items": []}),
        json!({"kind": "VolumeAttachmentList", "apiVersion": "v1", "items": []}),
    ]});
    for arguments in [vec![], vec!["-o", "wide"], vec!["-o", "name"], vec![name]] {
        let told = run(
            folder.path(),
            &[&["status", "-f", "-", "--now", NOW], arguments.as_slice()].concat(),
            &dump.to_string(),
        );
        let everything = format!("{}{}", stdout(&told), stderr(&told));
        assert!(!everything.contains(['\u{1b}', '\u{202e}']), "{arguments:?}: {everything:?}");
        assert!(everything.lines().all(|line| !line.starts_with("worker-9")), "{arguments:?}: {everything}");
    }
    let table = stdout(&run(folder.path(), &["status", "-f", "-", "--now", NOW, "--no-headers"], &dump.to_string()));
    assert_eq!(table.split_whitespace().count(), 8, "{table}");
}
