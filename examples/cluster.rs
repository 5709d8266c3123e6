//! `make cluster`: starts a control plane with three simulated machines, a database on one of them,
//! and the gate in front of it, and keeps it running until Ctrl-C.
//!
//! The program `machine`, which it puts in PATH, is the management board of the machines.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    reason = "what cannot start fails"
)]
#![allow(dead_code, reason = "the tests use more of the harness")]

#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/end_to_end/world.rs"]
mod world;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{
    gate::{Gate, program},
    plane::Plane,
};
use serde_json::json;
use world::World;

/// How `machine` asks: by a file with its arguments, which is answered by another one.
const MACHINE: &str = r#"#!/bin/sh
# The management board of a machine: machine n1 power off|on|status, machine n1 network cut|mend
ask=$(mktemp "$(dirname "$0")/../asked/XXXXXX") || exit 2
echo "$@" >"$ask.new" && mv "$ask.new" "$ask.ask"
until [ -e "$ask.answer" ]; do sleep 0.1; done
cat "$ask.answer"
"#;

#[tokio::main]
async fn main() {
    let world = World::start().await;
    let plane = &world.plane;
    let _gate = Gate::guard(plane).await;
    endpoints(plane).await;
    let (bin, asked) = (plane.folder.path().join("bin"), plane.folder.path().join("asked"));
    put_in_path(&bin, &plane.tool("kubectl"));
    fs::create_dir(&asked).expect("a new folder");
    println!("export KUBECONFIG={}", plane.kubeconfig("admin"));
    println!("export PATH={}:$PATH", bin.display());
    println!("# db-0 runs on {}. To switch a machine off, or cut it off from the network:", world.node);
    println!("#   machine n1 power off|on|status");
    println!("#   machine n1 network cut|mend");
    println!("# Ctrl-C stops everything");
    let answers = async {
        loop {
            answer(&world, &asked);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = answers => {}
        // If waiting for the signal fails, the program stops at once.
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// What the Service of the replicas would have, if kubelets ran them.
async fn endpoints(plane: &Plane) {
    let ready = |address: &str, node: &str| json!({"addresses": [address], "nodeName": node});
    let slice = json!({
        "metadata": {"name": "fencegate-1", "labels": {"kubernetes.io/service-name": "fencegate"}},
        "addressType": "IPv4",
        "endpoints": [ready("10.0.0.2", "n2"), ready("10.0.0.3", "n3")],
    });
    plane.create("/apis/discovery.k8s.io/v1/namespaces/fencegate-system/endpointslices", slice).await;
}

/// A folder with kubectl of this version, the plugin, and `machine`.
fn put_in_path(bin: &Path, kubectl: &Path) {
    fs::create_dir(bin).expect("a new folder");
    let complete = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin/kubectl_complete-fencegate");
    let links: [(PathBuf, &str); 3] =
        [(kubectl.into(), "kubectl"), (program(), "kubectl-fencegate"), (complete, "kubectl_complete-fencegate")];
    for (program, name) in links {
        symlink(program, bin.join(name)).expect("a new link");
    }
    fs::write(bin.join("machine"), MACHINE).expect("a new file");
    fs::set_permissions(bin.join("machine"), fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

/// Answers what `machine` asked.
fn answer(world: &World, asked: &Path) {
    for file in fs::read_dir(asked).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if file.extension().is_none_or(|extension| extension != "ask") {
            continue;
        }
        let Ok(words) = fs::read_to_string(&file) else { continue };
        let _ = fs::remove_file(&file);
        // Written as a whole: the program reads it as soon as it is there.
        let partial = file.with_extension("partial");
        if fs::write(&partial, done(world, &words)).is_ok() {
            let _ = fs::rename(partial, file.with_extension("answer"));
        }
    }
}

/// Does what is asked, and says how it ended.
fn done(world: &World, words: &str) -> String {
    const USAGE: &str = "machine n1 power off|on|status, or machine n1 network cut|mend\n";

    let words: Vec<&str> = words.split_whitespace().collect();
    let [name, rest @ ..] = words.as_slice() else { return USAGE.to_owned() };
    let Some(machine) = world.machines.iter().find(|machine| machine.name == *name) else {
        return format!("there is no machine {name}: n1, n2, n3\n");
    };
    match rest {
        ["power", "off"] => machine.power_off(),
        ["power", "on"] => machine.boot(),
        ["network", "cut"] => machine.cut_off(),
        ["network", "mend"] => machine.reconnect(),
        ["power", "status"] => {}
        _ => return USAGE.to_owned(),
    }
    let power = if machine.is_on() { "on" } else { "off" };
    format!("{name} (test://{name}): Chassis Power is {power}\n")
}
