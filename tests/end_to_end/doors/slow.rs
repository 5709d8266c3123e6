//! The harm that comes with the forced detach, six minutes after the pod is gone. No flag of the
//! controllers makes it come sooner. `make test-slow` runs these.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use super::{FORCE, guard};
use crate::world::{World, accepts, kubectl, runs_on};

/// The attach/detach controller forces a detach after six minutes; the rest is more than everything
/// else takes.
const LONGEST: Duration = Duration::from_mins(10);

/// Cuts off the machine that the database runs on, and returns the command with its
/// name.
async fn cut_off(world: &World, command: &[&'static str]) -> Vec<String> {
    world.machine().cut_off();
    world.until_ready(false).await;
    command.iter().map(|word| if *word == "NODE" { world.node.clone() } else { (*word).to_owned() }).collect()
}

fn run(world: &World, command: &[String]) -> Output {
    kubectl(&world.plane, &command.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Cuts the machine off, runs this command, and waits for two writers.
async fn two_writers_after(command: &[&'static str]) {
    let world = World::start().await;
    let command = cut_off(&world, command).await;
    let start = Instant::now();
    accepts(run(&world, &command));
    while world.san.corrupted().is_empty() {
        assert!(start.elapsed() < LONGEST, "no second writer: {:?}", runs_on(&world.plane).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seconds = start.elapsed().as_secs();
    println!("two writers {seconds} s after kubectl {}: {}", command.join(" "), world.san.corrupted()[0]);
}

/// Cuts the machine off, and tries this command for longer than the harm takes.
async fn one_writer_despite(command: &[&'static str]) {
    let world = World::start().await;
    let _gate = guard(&world.plane).await;
    let command = cut_off(&world, command).await;
    let start = Instant::now();
    while start.elapsed() < LONGEST {
        let refused = run(&world, &command);
        assert!(!refused.status.success(), "{command:?} was allowed after {:?}", start.elapsed());
        assert_eq!(world.san.corrupted(), Vec::<String>::new());
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(world.attachments().await, 1);
}

const DELETE_NODE: [&str; 4] = ["delete", "node", "NODE", "--wait=false"];

#[tokio::test(flavor = "multi_thread")]
async fn without_the_door_a_deleted_node_leads_to_two_writers() {
    two_writers_after(&DELETE_NODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_door_a_force_deleted_pod_leads_to_two_writers() {
    two_writers_after(&FORCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_door_a_node_that_cannot_be_deleted_has_one_writer() {
    one_writer_despite(&DELETE_NODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_door_a_pod_that_cannot_be_force_deleted_is_the_only_writer() {
    one_writer_despite(&FORCE).await;
}
