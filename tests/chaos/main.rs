//! Histories on a real control plane, under faults: whatever writers, replicas, the API server,
//! etcd and the network between them do, every stored version of every Node keeps the laws, nothing
//! but guarded writes depends on the gate, and every decision is in a replica's log.
//!
//! `WRITES` and `CHAOS_TIME` bound the run: the writes that are answered, and seconds. Each fault
//! happens at least once. `SEED` repeats the choices of a run; how they interleave is up to the
//! machine.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/history/mod.rs"]
mod history;
#[path = "../support/mod.rs"]
mod support;

mod etcd;
mod faults;
mod guarded;
mod random;
mod report;
mod unguarded;
mod writers;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use harness::{
    accounts::bind_role,
    plane::{Data, Plane},
};
use jiff::SignedDuration;
use serde_json::json;

use faults::{CLOCKS, Episode, Fault, Site};
use history::{Findings, History};
use random::Random;
use report::{Times, by_kind, overlaps};
use writers::{Sample, Writers};

const NODES: usize = 24;
/// Tasks that write what nobody guards, tasks that write guarded things in any order, and tasks
/// that follow the procedure. Guarded writes wait for a gate that is gone, 5 s each.
const WRITERS: usize = 8;
const TAMPERERS: usize = 16;
const FOLLOWERS: usize = 6;
/// The kubelets' Leases run 1 s, so that machines are silent soon.
const CONFIGURATION: &str = "apiVersion: fencegate.dev/v1\nkind: GateConfig\nevidence: {clockSkew: 1s}\n";
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(1);
/// The webhooks' `timeoutSeconds`: whoever waits for a gate that is gone waits this long.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);

fn bound(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stored_version_breaks_a_law_and_no_unguarded_write_depends_on_the_gate_under_any_fault() {
    let (writes, time) = (bound("WRITES", 1_000_000), Duration::from_secs(bound("CHAOS_TIME", 180)));
    let seed = bound("SEED", u64::from(std::process::id()) ^ jiff::Timestamp::now().as_millisecond().unsigned_abs());
    println!("SEED={seed} WRITES={writes} CHAOS_TIME={}", time.as_secs());
    let mut random = Random::of(seed);

    let plane = control_plane().await;
    let without =
        baseline(&plane, &mut random, (time / 8).clamp(Duration::from_secs(5), Duration::from_secs(20))).await;
    let mut site = Site::start(plane).await;
    site.gate.configure(&site.plane, CONFIGURATION).await;
    let began = Instant::now();
    let (samples, last) = under_faults(&mut site, &mut random, writes, time).await;
    println!(
        "{:.0} s, {} answers",
        began.elapsed().as_secs_f64(),
        samples.iter().filter(|sample| sample.code != 0).count()
    );

    let mut history = History::new(CLOCK_SKEW);
    etcd::read(site.plane.etcd, last, &mut history).await;
    for (log, clock) in site.logs() {
        history.log(&log, SignedDuration::from_secs(clock));
    }
    let findings = history.judge();
    print(&samples, &without, &site.episodes, &history, &findings);

    let shortest = findings.violations.first().map(|violation| history.around(violation));
    assert!(
        findings.violations.is_empty(),
        "{} violations, SEED={seed}; {}",
        findings.violations.len(),
        shortest.unwrap()
    );
    for (number, clock) in CLOCKS.into_iter().enumerate() {
        let decided = site.logs().filter(|(_, of)| *of == clock).any(|(log, _)| log.contains(r#""event":"decision""#));
        assert!(decided, "replica {number}, whose clock is {clock} s ahead, decided nothing");
    }
    for name in ["placed", "released", "attested", "unguarded"] {
        assert!(findings.tally.contains_key(name), "no stored version was {name}: {:?}", findings.tally);
    }
    let refused: Vec<&Sample> = samples.iter().filter(|sample| !sample.guarded && sample.refused.is_some()).collect();
    assert!(refused.is_empty(), "admission refused {} unguarded writes: {:?}", refused.len(), refused.first());
    let stopped = Times::of(&samples, |start, end| is_stopped(&site.episodes, start, end));
    assert!(
        stopped.count() > 0 && stopped.quantile(990) < WEBHOOK_TIMEOUT,
        "unguarded writes waited for the gate: {stopped}"
    );
}

async fn control_plane() -> Plane {
    let plane = Plane::start_with(Data::Durable).await;
    bind_role(&plane, "cluster-admin", json!({"kind": "User", "name": "alice"})).await;
    // cluster-admin has the verb `break-glass`, too.
    bind_role(&plane, "cluster-admin", json!({"kind": "User", "name": "oncall"})).await;
    plane
}

/// The same writers before the gate is registered, on Nodes of their own: how fast the control
/// plane is without the gate.
async fn baseline(plane: &Plane, random: &mut Random, time: Duration) -> Vec<Sample> {
    let writers = Writers::new(plane, NODES, true);
    writers.create_nodes().await;
    let tasks = start(&writers, random);
    tokio::time::sleep(time).await;
    stop(&writers, tasks).await
}

/// Writes while one fault comes after the other. Returns the writes and the last revision.
async fn under_faults(site: &mut Site, random: &mut Random, enough: u64, time: Duration) -> (Vec<Sample>, u64) {
    let writers = Writers::new(&site.plane, NODES, false);
    let ticker = {
        let (client, writers) = (site.plane.client("admin"), Arc::clone(&writers));
        tokio::spawn(async move { etcd::tick(client, || writers.is_stopped()).await })
    };
    writers.create_nodes().await;
    let tasks = start(&writers, random);
    let quiet = if time > Duration::from_mins(10) { 4 } else { 1 };
    let start = Instant::now();
    let goes_on = || (writers.answers.load(Ordering::Relaxed) as u64) < enough && start.elapsed() < time;
    for round in 0.. {
        let mut faults = Fault::ALL;
        random.shuffle(&mut faults);
        for fault in faults {
            if round == 0 || goes_on() {
                site.inject(fault, random).await;
                // A time without a fault, in which writers get something done.
                tokio::time::sleep(Duration::from_millis(500 + random.below(2_500)) * quiet).await;
            }
        }
        if !goes_on() {
            break;
        }
    }
    let samples = stop(&writers, tasks).await;
    (samples, ticker.await.unwrap())
}

fn start(writers: &Arc<Writers>, random: &mut Random) -> Vec<tokio::task::JoinHandle<()>> {
    let write = (0..WRITERS).map(|_| tokio::spawn(Arc::clone(writers).write(random.split()))).collect::<Vec<_>>();
    let tamper = (0..TAMPERERS).map(|_| tokio::spawn(Arc::clone(writers).tamper(random.split()))).collect::<Vec<_>>();
    let follow = (0..FOLLOWERS).map(|_| tokio::spawn(Arc::clone(writers).follow(random.split()))).collect::<Vec<_>>();
    write.into_iter().chain(tamper).chain(follow).collect()
}

async fn stop(writers: &Writers, tasks: Vec<tokio::task::JoinHandle<()>>) -> Vec<Sample> {
    writers.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    std::mem::take(&mut *writers.samples.lock().unwrap())
}

/// Whether the gate could not be reached at this time, and the API server could.
fn is_stopped(episodes: &[Episode], start: Instant, end: Instant) -> bool {
    let is_of_plane = |episode: &&Episode| episode.fault.is_of_the_control_plane();
    overlaps(episodes.iter().filter(|episode| episode.fault.stops_the_gate()), start, end)
        && !overlaps(episodes.iter().filter(is_of_plane), start, end)
}

fn print(samples: &[Sample], without: &[Sample], episodes: &[Episode], history: &History, findings: &Findings) {
    println!("{}", by_kind(samples));
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    for episode in episodes {
        *faults.entry(episode.fault).or_default() += 1;
    }
    println!("faults: {faults:?}");
    let (versions, decisions) = history.size();
    println!("{versions} stored versions of Nodes: {:?}; {decisions} lines in the logs", findings.tally);
    let before = Times::of(without, |_, _| true);
    let well = Times::of(samples, |start, end| !overlaps(episodes.iter(), start, end));
    let stopped = Times::of(samples, |start, end| is_stopped(episodes, start, end));
    println!("unguarded writes to Nodes without the gate:  {before}");
    println!("with the gate, no fault:                     {well}");
    println!("with the gate frozen, cut off or slow:       {stopped}");
    let ratio = stopped.quantile(500).as_secs_f64() / before.quantile(500).as_secs_f64();
    println!("median with the gate frozen, cut off or slow / without the gate: {ratio:.2}");
    println!("{} violations", findings.violations.len());
    for violation in findings.violations.iter().take(20) {
        println!("  {violation}");
    }
}
