//! The commands of denials do on a real API server what the denials say.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use crate::{
    harness::{
        gate::{Gate, policy_alone},
        plane::Plane,
    },
    shells,
    world::{PLACE, REMOVE, accepts, attach, kubectl, lone_node, plane_with_alice, rejects, said},
};

/// The lines of a denial that are commands, wherever they begin in the line.
fn commands(denial: &Output) -> Vec<String> {
    let denial = said(denial);
    denial.lines().filter_map(|line| Some(format!("kubectl {}", line.split_once(" kubectl ")?.1))).collect()
}

/// Pastes a command into `sh`, where `kubectl` is the plane's own, as alice.
fn paste(plane: &Plane, command: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("kubectl");
    let (kubectl, kubeconfig) = (plane.tool("kubectl"), plane.kubeconfig("alice"));
    let script = format!("#!/bin/sh\nexec {} --kubeconfig={kubeconfig} \"$@\"\n", kubectl.display());
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new("/bin/sh")
        .args(["-c", command])
        .env("PATH", folder.path())
        .env("HOME", folder.path())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_a_denied_release_show_what_holds_this_node_and_no_other() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    for node in ["n1", "n10"] {
        lone_node(&plane, node, true).await;
        accepts(kubectl(&plane, &["taint", "node", node, PLACE]));
        attach(&plane, &format!("of-{node}"), node).await;
    }
    let denied = kubectl(&plane, &["taint", "node", "n1", REMOVE]);
    let listed: Vec<String> = commands(&denied).iter().map(|command| said(&paste(&plane, command))).collect();
    assert_eq!(listed, ["of-n1 pv-of-n1 attached=false\n"], "{}", said(&denied));
    rejects(denied, &["VolumesAttached"]);

    let denied = kubectl(&plane, &["annotate", "node", "n1", "fencegate.dev/proof=late"]);
    let listed: Vec<String> = commands(&denied).iter().map(|command| said(&paste(&plane, command))).collect();
    assert!(listed.len() == 1 && listed[0].contains(r#""fencegate.dev/method":"power-off""#), "{listed:?}");
    rejects(denied, &["EvidenceFrozen"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policys_command_can_be_pasted_whatever_the_requesters_name_is() {
    let plane = plane_with_alice().await;
    policy_alone(&plane).await;
    lone_node(&plane, "n1", false).await;
    let long = "x".repeat(257);
    for (name, by) in [
        ("alice", "alice"),
        ("o'brien; touch pwned; $(touch pwned) `touch pwned`", "o'brien; touch pwned; $(touch pwned) `touch pwned`"),
        ("''\"\\ !!", "''\"\\ !!"),
        (&long, "unnamed"),
    ] {
        let taint = ["--as", name, "--as-group=system:masters", "taint", "node", "n1", PLACE];
        let denied = kubectl(&plane, &taint);
        let typed = commands(&denied);
        assert_eq!(typed.len(), 1, "{}", said(&denied));
        let ran = shells::paste(&[typed[0].replace("$(date -u +%Y-%m-%dT%H:%M:%SZ)", "now")]);
        let by = format!("fencegate.dev/fenced-by={by}");
        let expected = [
            "kubectl",
            "annotate",
            "node",
            "n1",
            "fencegate.dev/method=power-off",
            &by,
            "fencegate.dev/fenced-at=now",
            "--overwrite",
        ];
        assert_eq!(ran.calls, [expected]);
        assert!(ran.files.is_empty(), "{ran:?}");
    }
    let denied = kubectl(&plane, &["taint", "node", "n1", PLACE]);
    let recorded = Command::new("/bin/sh").args(["-c", &format!("echo {}", commands(&denied)[0])]).output().unwrap();
    let words: Vec<String> = said(&recorded).split_whitespace().skip(1).map(str::to_owned).collect();
    accepts(kubectl(&plane, &words.iter().map(String::as_str).collect::<Vec<_>>()));
    accepts(kubectl(&plane, &["taint", "node", "n1", PLACE]));
}
