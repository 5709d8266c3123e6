//! The commands that an operator types, on a real control plane: from the dead machine to its
//! return, and against a machine that lives.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, program},
        plane::{MERGE, Plane},
    },
    world::{World, is_tainted, of_node, record_on, said},
};

/// Runs a command of the program with this user's kubeconfig.
pub fn fencegate(plane: &Plane, user: &str, command: &str, arguments: &[&str]) -> Output {
    let kubeconfig = plane.kubeconfig(user);
    Command::new(program()).args([command, "--kubeconfig", &kubeconfig]).args(arguments).output().unwrap()
}

/// Asserts the state of a node, as `fencegate status` tells it.
#[track_caller]
pub fn stands(plane: &Plane, node: &str, state: &str) {
    let told = fencegate(plane, "admin", "status", &[node, "-o", "json"]);
    let list: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", said(&told)));
    assert_eq!(list["items"][0]["state"], state, "{list:#}");
}

/// Asserts how a command of `alice` ended. Returns its standard output and its standard error.
#[track_caller]
fn ended(plane: &Plane, command: &str, arguments: &[&str], code: i32) -> (String, String) {
    let output = fencegate(plane, "alice", command, arguments);
    assert_eq!(output.status.code(), Some(code), "{command} {arguments:?}: {}", said(&output));
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// `fencegate status --watch`, which runs until the test ends.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(plane: &Plane) -> Watch {
    let arguments = ["status", "--watch", "-o", "json", "--kubeconfig", &plane.kubeconfig("alice")];
    Watch(Command::new(program()).args(arguments).stdout(Stdio::piped()).spawn().unwrap())
}

/// Reads until the last of these states was told of the node. Each must be told once, in this
/// order, and perhaps others between.
#[track_caller]
fn told_each_state_once(watch: &mut Watch, node: &str, states: &[&str]) {
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let of_node = lines.map_while(Result::ok).map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let of_node = of_node.filter(|line| line["node"] == node).map(|line| line["state"].as_str().unwrap().to_owned());
    let mut told: Vec<String> = Vec::new();
    for state in of_node {
        // A line is told for another number of pods, too.
        if told.last() != Some(&state) {
            told.push(state);
        }
        if told.last().map(String::as_str) == states.last().copied() {
            break;
        }
    }
    let wanted: Vec<&String> = told.iter().filter(|state| states.contains(&state.as_str())).collect();
    assert_eq!(wanted, states, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_alone_lead_from_the_dead_machine_to_its_return() {
    let world = World::start().await;
    let mut gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    // Somebody else's taint, which no command may lose.
    let mine = json!({"spec": {"taints": [{"key": "example.com/mine", "effect": "PreferNoSchedule"}]}});
    plane.patch("admin", MERGE, &format!("/api/v1/nodes/{node}"), mine).await.unwrap();

    let (_, why) = ended(plane, "attest", &[node, "--method", "power-off"], 1);
    assert!(
        why.contains("\n  NodeStillReady: ")
            && why.ends_with("nothing was recorded: --wait waits until the machine is silent\n"),
        "{why}"
    );
    let (_, why) = ended(plane, "place", &[node], 1);
    assert!(why.contains("\n  EvidenceMissing: "), "{why}");
    // Somebody switched another machine off, and waits for this one.
    let (done, why) = ended(plane, "attest", &[node, "--method", "power-off", "--wait"], 1);
    let other = " while you waited: its kubelet runs. Was another machine switched off?\n";
    assert!(done.is_empty() && why.contains(other) && why.ends_with("nothing was recorded\n"), "{why}");
    assert!(!record_on(plane, node).await.contains_key("method"));

    let mut watch = watch(plane);
    world.machine().power_off();
    let wait = ["--method", "power-off", "--by", "alice, OPS-123", "--proof", "Chassis Power is off", "--wait"];
    let (done, told) = ended(plane, "attest", &[&[node], wait.as_slice()].concat(), 0);
    assert_eq!(done, format!("node/{node} attested\n"));
    assert!(told.contains(&format!("\n{node} is silent\n")) && told.starts_with("context "), "{told}");
    let record = record_on(plane, node).await;
    assert_eq!((record["fenced-by"].as_str(), record["recorded-by"].as_str()), ("alice, OPS-123", "alice"));
    let (_, why) = ended(plane, "attest", &[node, "--method", "storage-isolation"], 1);
    assert!(why.contains("has a record already") && why.contains("proof \"Chassis Power is off\""), "{why}");

    let (done, _) = ended(plane, "place", &[node, "--dry-run", "server", "-o", "json"], 0);
    let checked: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(checked["metadata"]["annotations"]["fencegate.dev/placed-by"], "alice", "{checked:#}");
    let (done, _) = ended(plane, "place", &[node, "--dry-run", "server"], 0);
    assert_eq!(done, format!("node/{node} out of service (server dry run)\n"));
    assert!(!is_tainted(&of_node(plane, node).await));
    let (done, told) = ended(plane, "place", &[node, "--wait"], 0);
    assert_eq!(done, format!("node/{node} out of service\n"));
    assert!(told.contains("1 pod will be force-deleted, 1 volume detached: default/db-0"), "{told}");
    assert!(
        told.contains("  default/db-0 gone\n")
            && told.contains("  pv-data-db-0 detached\n")
            && told.contains("  nothing is left after ")
            && told.contains("  default/db-0 is Running on n"),
        "{told}"
    );
    let (done, _) = ended(plane, "place", &[node], 0);
    assert_eq!(done, format!("node/{node} unchanged\n"));
    let (_, why) = ended(plane, "attest", &[node, "--method", "storage-isolation", "--overwrite"], 1);
    assert!(why.contains("\n  EvidenceFrozen: "), "{why}");

    let (_, why) = ended(plane, "release", &[node], 1);
    assert!(
        why.ends_with(&format!("{node} is Empty: not yet back (empty, and Ready). --wait waits until it is\n")),
        "{why}"
    );
    // Whoever waits already is told what changes.
    let mut release = Command::new(program())
        .args(["release", "--kubeconfig", &plane.kubeconfig("alice"), node, "--for", "rebooted", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(release.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.contains(&format!("{node} is Empty"))));
    world.machine().boot();
    told.for_each(drop);
    let done = String::from_utf8(release.wait_with_output().unwrap().stdout).unwrap();
    let end = "fenced by \"alice, OPS-123\" (power-off), placed by alice, released by alice\n";
    assert!(
        done.starts_with(&format!("node/{node} back in service: out of service for ")) && done.ends_with(end),
        "{done}"
    );
    stands(plane, node, "InService");
    let taints = of_node(plane, node).await["spec"]["taints"].clone();
    assert_eq!(taints, json!([{"key": "example.com/mine", "effect": "PreferNoSchedule"}]));
    let (done, _) = ended(plane, "release", &[node], 0);
    assert_eq!(done, format!("node/{node} unchanged\n"));
    assert_eq!(world.san.corrupted(), Vec::<String>::new());

    told_each_state_once(&mut watch, node, &["Attested", "Emptying", "Empty", "Recovered", "InService"]);

    let (table, _) = ended(plane, "history", &[node, "--no-headers"], 0);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().skip(1).take(3).collect()).collect();
    assert_eq!(rows, [["alice", "Attest", "allow"], ["alice", "Place", "allow"], ["alice", "Release", "allow"]]);
    let log = gate.audit_log().iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
    let file = plane.folder.path().join("decisions.log");
    std::fs::write(&file, log).unwrap();
    let replay = Command::new(program()).arg("replay").arg("-f").arg(&file).output().unwrap();
    assert_eq!(replay.status.code(), Some(0), "{}", said(&replay));

    // Without a gate that answers, guarded writes fail, and the command says so once.
    gate.stop();
    let (_, why) = ended(plane, "attest", &[node, "--method", "power-off", "--force"], 2);
    assert_eq!(why.lines().filter(|line| line.contains("failed calling webhook")).count(), 1, "{why}");
}
