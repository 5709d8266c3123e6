//! The other doors to the same harm: what they send to the gate, what the gate says, and whom they
//! leave alone.

use std::process::Output;

use crate::{
    harness::{
        gate::{Gate, HOME, rendered},
        plane::Plane,
    },
    world::{kubectl, said},
};

mod conditions;
mod harm;
#[cfg(feature = "slow")]
mod slow;
mod traffic;

/// Arguments of kubectl that force-delete the pod of the database.
const FORCE: [&str; 5] = ["delete", "pod", "db-0", "--force", "--grace-period=0"];

/// Starts one replica with the overlay `doors`, and waits until the API server calls it.
async fn guard(plane: &Plane) -> Gate {
    let gate = Gate::install(plane, HOME, rendered(plane, "doors"), &[0], &[]).await;
    gate.until_ready(plane).await;
    gate
}

/// Asserts that this door is closed, for this reason.
#[track_caller]
fn refuses(output: &Output, door: &str, reason: &str) {
    let text = said(output);
    assert!(!output.status.success(), "the write was allowed: {text}");
    assert!(text.contains(&format!("\"{door}.fencegate.dev\" denied the request: ")), "{text}");
    assert!(text.contains(&format!("\n  {reason}: ")), "{reason} is not in {text}");
}

/// Runs the commands of a denial that start with these words, as they are.
#[track_caller]
fn follow(plane: &Plane, denial: &Output, words: &str) {
    let text = said(denial);
    let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  kubectl ")).collect();
    let wanted: Vec<&&str> = commands.iter().filter(|command| command.starts_with(words)).collect();
    assert!(!wanted.is_empty(), "{words:?} is not in {text}");
    for command in wanted {
        let output = kubectl(plane, &command.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {}", said(&output));
    }
}
