//! Single steps of the plan, at the edges that a random world seldom meets.

use std::time::Duration;

use fencegate::{
    certificates::{
        authority::{Authority, Change},
        plan::{Acceptance, Known, acceptance, plan},
        reading::{Now, Read, Replicas, Secret, Seen},
        step::{Obstacle, Step, Why},
    },
    cluster::registration::{Configuration, Door, Target},
    election::{Lease, lease_duration},
    policy::review::Webhook,
};
use jiff::{SignedDuration, Timestamp};

use super::world::{HOST, INTERVAL, LIFETIMES};

fn start() -> Timestamp {
    "2026-11-22T10:15:00Z".parse().unwrap()
}

fn now(after: Duration) -> Now {
    Now { wall: start() + SignedDuration::try_from(after).unwrap(), monotonic: after }
}

fn authority() -> Authority {
    Authority::create(b"", start(), &LIFETIMES).unwrap()
}

/// A replica `me` whose serving certificate is of this CA.
fn replica(authority: &Authority) -> Known {
    let leaf = authority.issue(&[HOST.to_owned()], start(), &LIFETIMES).unwrap();
    Known::new("me".to_owned(), HOST.to_owned(), INTERVAL, leaf)
}

/// A reading in which both configurations have this bundle.
fn seen(bundle: &[u8], secret: Secret, holder: &str) -> Seen {
    let found = Read::Found(Configuration {
        ca_bundle: bundle.to_vec(),
        target: Target::Url,
        doors: Vec::new(),
        owned: None,
        version: "1".to_owned(),
    });
    let lease = Read::Found(Lease { holder: holder.to_owned(), version: "1".to_owned() });
    let configurations = Webhook::ALL.map(|webhook| (webhook, found.clone()));
    Seen { began: start(), configurations, secret, request: None, lease, replicas: Replicas::Current }
}

#[test]
fn what_cannot_be_read_blocks_and_shows_nothing() {
    let authority = authority();
    let known = replica(&authority);
    let bundle = authority.bundle(start());
    let mut reading = seen(bundle.as_bytes(), Secret::Usable(authority), "me");
    assert!(acceptance(&known, &reading, now(Duration::ZERO)).is_some());
    reading.configurations[1].1 = Read::Failed("forbidden".to_owned());
    let blocked = Step::Blocked(Obstacle::Unreadable("forbidden".to_owned()));
    assert_eq!(plan(&known, &reading, now(Duration::ZERO), &LIFETIMES), blocked);
    assert!(acceptance(&known, &reading, now(Duration::ZERO)).is_none());
    for (_, configuration) in &mut reading.configurations {
        *configuration = Read::Absent;
    }
    let blocked = Step::Blocked(Obstacle::NoConfiguration);
    assert_eq!(plan(&known, &reading, now(Duration::ZERO), &LIFETIMES), blocked);
    assert!(acceptance(&known, &reading, now(Duration::ZERO)).is_none());
}

#[test]
fn only_the_holder_of_a_fresh_lease_writes() {
    let authority = authority();
    let publish = |holder: &str, after: Duration| {
        let mut known = replica(&authority);
        let reading = seen(b"", Secret::Usable(authority.clone()), holder);
        known.observe(&reading, now(Duration::ZERO));
        plan(&known, &reading, now(after), &LIFETIMES)
    };
    let almost = |time: Duration| time.checked_sub(Duration::from_millis(1)).unwrap();
    assert!(matches!(publish("me", almost(INTERVAL)), Step::Publish { .. }));
    assert_eq!(publish("me", INTERVAL), Step::TakeLease(Why::LeaseRenewal));
    assert_eq!(publish("", Duration::ZERO), Step::TakeLease(Why::LeaseFree));
    let lease = lease_duration(INTERVAL);
    assert_eq!(lease, INTERVAL * 3);
    assert_eq!(publish("other", almost(lease)), Step::Rest(Why::LeaseHeldBy("other".to_owned())));
    assert_eq!(publish("other", lease), Step::TakeLease(Why::LeaseExpired("other".to_owned())));
}

#[test]
fn a_lost_secret_is_restored_if_the_remembered_ca_is_valid_and_trusted() {
    let (authority, other) = (authority(), authority());
    let restores = |bundle: &str, after: Duration| {
        let mut known = replica(&authority);
        let whole = authority.bundle(start());
        known.observe(&seen(whole.as_bytes(), Secret::Usable(authority.clone()), "me"), now(Duration::ZERO));
        let step = plan(&known, &seen(bundle.as_bytes(), Secret::Absent, "me"), now(after), &LIFETIMES);
        assert!(matches!(step, Step::Restore { .. } | Step::Create { .. }), "{step:?}");
        matches!(step, Step::Restore { .. })
    };
    let soon = Duration::from_secs(1);
    assert!(restores(&authority.bundle(start()), soon));
    assert!(restores("", soon), "a bundle that was wiped is no sign of another CA");
    assert!(restores("not a certificate", soon));
    assert!(!restores(&other.bundle(start()), soon), "the API servers trust another CA");
    assert!(!restores(&authority.bundle(start()), LIFETIMES.ca.unsigned_abs()), "it has expired");
}

/// A reading in which the validating configuration has one other door with this bundle.
fn with_door(mut reading: Seen, bundle: &[u8]) -> Seen {
    let door = Door { name: "nodes.fencegate.dev".to_owned(), ca_bundle: bundle.to_vec(), target: Target::Url };
    let Read::Found(configuration) = &mut reading.configurations[1].1 else { unreachable!() };
    configuration.doors.push(door);
    reading
}

#[test]
fn a_door_without_a_bundle_costs_no_replica_its_acceptance_and_one_with_another_bundle_does() {
    let (authority, other) = (authority(), authority());
    let known = replica(&authority);
    let bundle = authority.bundle(start());
    let verdict = |door: &[u8]| {
        let reading = with_door(seen(bundle.as_bytes(), Secret::Usable(authority.clone()), "me"), door);
        matches!(acceptance(&known, &reading, now(Duration::ZERO)), Some(Acceptance::Accepted))
    };
    assert!(verdict(bundle.as_bytes()) && verdict(b""));
    assert!(!verdict(other.bundle(start()).as_bytes()) && !verdict(b"garbage"));
    let reading = with_door(seen(b"", Secret::Usable(authority.clone()), "me"), bundle.as_bytes());
    assert!(
        !matches!(acceptance(&known, &reading, now(Duration::ZERO)), Some(Acceptance::Accepted)),
        "the taint's own"
    );
}

#[test]
fn a_ca_that_only_a_door_publishes_is_trusted_before_its_bundle_is_replaced() {
    let (authority, lost) = (authority(), authority());
    let mut known = replica(&authority);
    let bundle = authority.bundle(start());
    let reading =
        with_door(seen(bundle.as_bytes(), Secret::Usable(authority.clone()), "me"), lost.bundle(start()).as_bytes());
    known.observe(&reading, now(Duration::ZERO));
    let step = plan(&known, &reading, now(Duration::ZERO), &LIFETIMES);
    let Step::Change { change: Change::Adopt(adopted), .. } = step else { panic!("{step:?}") };
    assert_eq!(adopted.trim(), lost.current().trim());
    // A Secret that is lost is not restored with a CA that a door does not trust.
    let lost_secret = with_door(seen(bundle.as_bytes(), Secret::Absent, "me"), lost.bundle(start()).as_bytes());
    let step = plan(&known, &lost_secret, now(Duration::ZERO), &LIFETIMES);
    let Step::Create { published, .. } = step else { panic!("{step:?}") };
    let published = String::from_utf8(published).unwrap();
    assert!(published.contains(lost.current().trim()) && published.contains(authority.current().trim()));
}
