//! The law of self-managed certificates under crashes, stalls, lost requests, wrong clocks and
//! people who delete things; see `certificates::plan`. And golden transcripts: which steps, in
//! which order, for which reason.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

mod steps;
mod world;

use std::time::Duration;

use fencegate::{certificates::reading::Replicas, cluster::registration::Target};
use proptest::{collection::vec, prelude::*, sample::select};
use world::{Fault, INTERVAL, LIFETIMES, Replica, Store};

/// Something that happens. A replica is chosen by its number modulo how many there are.
#[derive(Clone, Debug)]
enum Event {
    Pass(Duration),
    /// Hours in which every replica looks and nothing fails.
    Quiet(u8),
    Look(usize),
    Act(usize, Fault),
    /// Everyone but this replica looks at every interval, until its Lease has expired.
    Stall(usize),
    /// Hours in which everyone but this replica looks.
    CutOff(usize, u8),
    Restart(usize),
    LoseSecret {
        overwrite: bool,
    },
    Wipe(usize),
    /// Someone requests another CA.
    Request(u8),
    /// Someone adds or removes the entry of a door.
    Door(usize),
    /// Someone empties `caBundle` of every door, and sets its path.
    SpoilDoors(usize),
}

const DOORS: [&str; 3] = ["nodes.fencegate.dev", "pods.fencegate.dev", "attachments.fencegate.dev"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let seconds = prop_oneof![5 => 1..20_u64, 4 => 20..90_u64, 3 => 60..900_u64, 1 => 900..3600_u64];
    let fault = prop_oneof![8 => Just(Fault::None), 1 => Just(Fault::Lost), 1 => Just(Fault::AnswerLost)];
    let event = prop_oneof![
        12 => seconds.prop_map(|seconds| Event::Pass(Duration::from_secs(seconds))),
        2 => (1..6_u8).prop_map(Event::Quiet),
        8 => (0..4_usize).prop_map(Event::Look),
        20 => (0..4_usize, fault).prop_map(|(replica, fault)| Event::Act(replica, fault)),
        2 => (0..4_usize).prop_map(Event::Stall),
        1 => (0..4_usize, 1..8_u8).prop_map(|(replica, hours)| Event::CutOff(replica, hours)),
        2 => (0..4_usize).prop_map(Event::Restart),
        1 => any::<bool>().prop_map(|overwrite| Event::LoseSecret { overwrite }),
        1 => (0..2_usize).prop_map(Event::Wipe),
        1 => any::<u8>().prop_map(Event::Request),
        2 => (0..3_usize).prop_map(Event::Door),
        1 => (0..3_usize).prop_map(Event::SpoilDoors),
    ];
    vec(event, 80..200)
}

/// Replicas that share a store.
struct World {
    store: Store,
    replicas: Vec<Replica>,
}

impl World {
    fn new(skews: &[i64], configurations: [bool; 2]) -> Self {
        let store = Store::new(configurations);
        let start = |(number, skew): (usize, &i64)| Replica::start(number, *skew, &store);
        Self { replicas: skews.iter().enumerate().map(start).collect(), store }
    }

    fn check(&mut self) {
        for replica in &self.replicas {
            if let Some(why) = self.store.broken(replica) {
                let transcripts: Vec<_> = self.replicas.iter().map(Replica::reasons).collect();
                panic!("{why} at {:?}: {transcripts:#?}", self.store.time);
            }
        }
    }

    /// Every replica looks once.
    fn round(&mut self) {
        for replica in &mut self.replicas {
            replica.look(&mut self.store);
        }
        self.check();
    }

    fn rounds(&mut self, count: usize, pause: Duration) {
        for _ in 0..count {
            self.store.time += pause;
            self.check();
            self.round();
        }
    }

    fn rounds_of(&mut self, replica: usize, count: usize) {
        for _ in 0..count {
            self.store.time += INTERVAL;
            self.replicas[replica].look(&mut self.store);
            self.check();
        }
    }

    fn rounds_without(&mut self, absent: usize, count: usize, pause: Duration) {
        for _ in 0..count {
            self.store.time += pause;
            self.check();
            for (number, replica) in self.replicas.iter_mut().enumerate() {
                if number != absent {
                    replica.look(&mut self.store);
                }
            }
            self.check();
        }
    }

    fn happen(&mut self, event: &Event) {
        let count = self.replicas.len();
        match *event {
            Event::Pass(time) => self.store.time += time,
            Event::Quiet(hours) => self.rounds(usize::from(hours), Duration::from_hours(1)),
            Event::Look(replica) => self.replicas[replica % count].look(&mut self.store),
            Event::Act(replica, fault) => self.replicas[replica % count].act(&mut self.store, fault),
            Event::Stall(replica) => self.rounds_without(replica % count, 5, INTERVAL),
            Event::CutOff(replica, hours) => {
                self.rounds_without(replica % count, usize::from(hours), Duration::from_hours(1));
            }
            Event::Restart(replica) => self.replicas[replica % count].restart(&self.store),
            Event::LoseSecret { overwrite } => self.store.lose_secret(overwrite),
            Event::Wipe(index) => {
                if self.store.exists(index) {
                    self.store.wipe(index);
                }
            }
            Event::Request(number) => self.store.request(&number.to_string()),
            Event::Door(number) => self.store.toggle_door(DOORS[number]),
            Event::SpoilDoors(number) => self.store.spoil_doors(["/", "/validate", "/validate/mine"][number]),
        }
        self.check();
    }

    fn reasons(&self, replica: usize) -> Vec<String> {
        self.replicas[replica].reasons()
    }

    fn is_ready(&self) -> bool {
        self.replicas.iter().all(|replica| replica.is_ready(self.store.time))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_certificate_is_rejected_by_a_bundle_in_use(
        skews in vec(-300..=300_i64, 2..=4),
        configurations in select(&[[true, true], [true, true], [true, false], [false, true]][..]),
        events in events(),
    ) {
        let mut world = World::new(&skews, configurations);
        for event in &events {
            world.happen(event);
        }
        // Without further faults, every replica is accepted soon: the Lease of a replica that
        // stalled lasts three intervals.
        world.rounds(8, INTERVAL);
        prop_assert!(world.is_ready(), "not every replica is accepted");
        // And the CA is replaced before its end, while every replica stays accepted.
        let first = world.store.authority().unwrap().current().to_owned();
        for _ in 0..LIFETIMES.ca.as_hours() {
            world.rounds(1, Duration::from_hours(1));
            prop_assert!(world.is_ready(), "a replica lost its acceptance");
        }
        let last = world.store.authority().unwrap();
        prop_assert_ne!(last.current(), first.as_str());
        prop_assert_eq!(world.store.request_left(), None);
        let mut are_whole = false;
        for _ in 0..24 {
            world.rounds(1, INTERVAL);
            are_whole |= world.store.doors_are_whole();
        }
        prop_assert!(are_whole, "a door is not called as the entry that guards the taint");
    }
}

#[test]
fn a_door_that_is_added_is_complete_after_one_look_and_nobody_loses_acceptance() {
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    for door in DOORS {
        world.store.toggle_door(door);
        world.replicas[0].steps.clear();
        // The other one looks first, and may not write.
        world.replicas[1].look(&mut world.store);
        assert!(world.is_ready() && !world.store.doors_are_whole());
        world.replicas[0].look(&mut world.store);
        assert!(world.is_ready() && world.store.doors_are_whole());
        assert_eq!(
            world.reasons(0),
            [
                &*format!("Complete: {door} is not called as out-of-service.fencegate.dev is"),
                "Disown: nobody could remove an entry of which the replicas own a field",
                "Rest",
            ]
        );
    }
    let first = world.store.target(1).clone();
    assert!(world.store.doors().iter().all(|door| matches!((&door.target, &first),
        (Target::Service { path, .. }, Target::Service { path: guard, .. }) if path == guard)));
    // A path that people set is followed by none, and replaced when every replica has looked.
    world.store.spoil_doors("/validate/mine");
    world.rounds(3, INTERVAL);
    assert!(!world.store.doors_are_whole() && world.is_ready());
    assert!(world.store.doors().iter().all(|door| !door.ca_bundle.is_empty()), "caBundle does not wait");
    world.rounds(6, INTERVAL);
    assert!(world.store.doors_are_whole());
    // And the daily replacement.
    world.rounds(6, Duration::from_hours(1));
    world.rounds(8, INTERVAL);
    assert!(*world.store.target(1) != first && world.store.doors_are_whole());
}

#[test]
fn doors_that_are_there_from_the_beginning_are_published_with_the_rest() {
    let mut world = World::new(&[0], [true, true]);
    world.store.toggle_door(DOORS[1]);
    world.round();
    assert!(world.is_ready() && world.store.doors_are_whole());
    let written: Vec<String> = world.reasons(0).into_iter().filter(|why| !why.starts_with("Rest")).collect();
    assert_eq!(written.len(), 10, "{written:#?}");
    // While a replica is older, doors have the plain path at once, and keep it.
    world.store.replicas = Replicas::SomeOlder;
    world.rounds(1, INTERVAL);
    let is_plain = |target: &Target| matches!(target, Target::Service { path, .. } if path == "/validate");
    assert!(is_plain(world.store.target(1)) && world.store.doors().iter().all(|door| is_plain(&door.target)));
    world.store.replicas = Replicas::Current;
    world.rounds(16, INTERVAL);
    assert!(!is_plain(world.store.target(1)) && world.store.doors_are_whole());
}

#[test]
fn one_replica_alone_creates_publishes_and_is_accepted() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    assert_eq!(
        world.reasons(0),
        [
            "Create: the Secret does not exist",
            "Sign: the serving certificate is not accepted and not of the current CA",
            "TakeLease: nobody holds the Lease",
            "Publish: caBundle of the MutatingWebhookConfiguration is not what the Secret requires",
            "Publish: caBundle of the ValidatingWebhookConfiguration is not what the Secret requires",
            "SetPath: the path of the MutatingWebhookConfiguration is not secret",
            "SetPath: the path of the ValidatingWebhookConfiguration is not secret",
            "Rest",
        ]
    );
    assert!(world.is_ready());
}

#[test]
fn the_paths_are_replaced_by_the_holder_of_the_lease_and_are_plain_while_a_replica_is_older() {
    let path = |world: &World, index: usize| match world.store.target(index) {
        Target::Service { path, .. } => path.clone(),
        Target::Url => unreachable!("the configurations have a Service"),
    };
    let paths = |world: &World| [0, 1].map(|index| path(world, index));
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    let first = paths(&world);
    let is_secret = |paths: &[String; 2]| paths[0].starts_with("/mutate/") && paths[1].starts_with("/validate/");
    assert!(is_secret(&first));
    world.rounds(5, Duration::from_hours(1));
    assert_eq!(paths(&world), first);
    world.rounds(1, Duration::from_hours(1));
    let second = paths(&world);
    assert!(is_secret(&second) && second[0] != first[0] && second[1] != first[1], "a leaf's life later");

    world.store.replicas = Replicas::SomeOlder;
    world.rounds(1, INTERVAL);
    assert_eq!(paths(&world), ["/mutate", "/validate"]);
    world.store.replicas = Replicas::Unknown("forbidden".to_owned());
    world.rounds(1, INTERVAL);
    assert_eq!(paths(&world), ["/mutate", "/validate"]);
    world.store.replicas = Replicas::Current;
    world.rounds(1, INTERVAL);
    assert_eq!(paths(&world), ["/mutate", "/validate"], "until every replica has looked");
    world.rounds(6, INTERVAL);
    assert!(is_secret(&paths(&world)));
    let written = |replica: usize| world.reasons(replica).iter().filter(|why| why.starts_with("SetPath")).count();
    assert_eq!((written(0), written(1)), (8, 0), "one replica writes");
}

#[test]
fn a_second_replica_leaves_writing_to_the_holder_of_the_lease() {
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    world.store.wipe(0);
    world.replicas[1].look(&mut world.store);
    assert_eq!(
        world.reasons(1),
        [
            "Sign: the serving certificate is not accepted and not of the current CA",
            "Rest",
            "Rest: \"fencegate-0\" holds the Lease and writes",
        ]
    );
    world.store.time += INTERVAL * 3;
    world.replicas[1].look(&mut world.store);
    assert_eq!(
        world.reasons(1)[3..],
        [
            "TakeLease: \"fencegate-0\" did not renew the Lease in time",
            "Publish: caBundle of the MutatingWebhookConfiguration is not what the Secret requires",
            "Rest",
        ]
    );
}

#[test]
fn a_lost_secret_is_restored_by_a_replica_that_remembers_it() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    let before = world.store.authority();
    for overwrite in [false, true] {
        world.store.lose_secret(overwrite);
        world.rounds(1, INTERVAL);
        assert_eq!(world.store.authority(), before);
    }
    assert!(world.reasons(0).contains(&"Restore: the Secret does not exist".to_owned()));
}

#[test]
fn a_ca_that_nobody_remembers_is_replaced_and_trusted_until_its_certificates_have_expired() {
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    let lost = world.store.authority().unwrap();
    world.store.lose_secret(false);
    world.replicas[0].restart(&world.store);
    world.replicas[0].look(&mut world.store);
    world.check();
    // The other one keeps its certificate until it has seen the new CA published for `settle`.
    world.rounds(5, INTERVAL);
    assert!(world.replicas[1].leaf().is_signed_by(lost.current()) && world.is_ready());
    world.rounds(7, INTERVAL);
    let created = world.store.authority().unwrap();
    assert!(world.replicas[1].leaf().is_signed_by(created.current()) && world.is_ready());
    assert!(world.store.published(0).contains(lost.current()));
    world.rounds(7, Duration::from_hours(1));
    assert!(!world.store.published(0).contains(lost.current()) && world.is_ready());
}

#[test]
fn a_ca_is_replaced_step_by_step() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    world.rounds(14, Duration::from_hours(1));
    world.replicas[0].steps.clear();
    world.rounds(9, Duration::from_hours(1));
    let mut reasons = world.reasons(0);
    reasons.retain(|reason| {
        let is_routine = |name: &str| reason.starts_with(name);
        !["Rest", "TakeLease", "Publish", "SetPath"].into_iter().any(is_routine)
            && !reason.ends_with("certificate's life is left")
    });
    assert_eq!(
        reasons,
        [
            "AddNext: less than a third of the CA's life is left",
            "NotePublished: every webhook configuration has the next CA",
            "Promote: every API server trusts the next CA",
            "Sign: the CA was replaced",
            "DropPrevious: everything that the previous CA signed has expired",
        ]
    );
}

/// How often another CA was made because somebody requested it.
fn requests_carried_out(world: &World) -> usize {
    let of_replica = |replica| world.reasons(replica).iter().filter(|why| why.contains("requests it")).count();
    (0..world.replicas.len()).map(of_replica).sum()
}

#[test]
fn a_request_for_another_ca_is_carried_out_once_whoever_crashes() {
    // One replica plans and acts until it has written, or its answer is lost, or it ends before.
    for fault in [Fault::None, Fault::Lost, Fault::AnswerLost] {
        let mut world = World::new(&[0, 0], [true, true]);
        world.round();
        let old = world.store.authority().unwrap().current().to_owned();
        world.store.time += INTERVAL * 4;
        world.store.request("today");
        for _ in 0..5 {
            world.replicas[0].act(&mut world.store, Fault::None);
        }
        world.replicas[0].act(&mut world.store, fault);
        world.replicas[0].restart(&world.store);
        world.rounds(90, INTERVAL);
        let new = world.store.authority().unwrap().current().to_owned();
        assert_ne!(new, old, "{fault:?}");
        assert_eq!(world.store.request_left(), None);
        world.store.request("today");
        world.rounds(10, Duration::from_hours(1));
        assert_eq!(world.store.authority().unwrap().current(), new, "{fault:?}: the same request again");
        assert!(!world.store.published(0).contains(&old) && world.is_ready());
    }
}

#[test]
fn a_ca_that_was_there_before_the_request_does_not_carry_it_out() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    world.store.request("first");
    world.rounds(2, INTERVAL);
    let next = world.store.authority().unwrap().signers().nth(1).unwrap().to_owned();
    world.store.request("second");
    world.rounds(90, INTERVAL);
    let authority = world.store.authority().unwrap();
    assert_eq!(authority.current(), next);
    assert!(authority.signers().nth(1).is_some(), "another one is there already");
    world.rounds(9, Duration::from_hours(1));
    assert_ne!(world.store.authority().unwrap().current(), next);
    assert_eq!(requests_carried_out(&world), 2);
}

#[test]
fn the_planned_replacement_carries_out_a_request_that_came_before_it() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    world.rounds(13, Duration::from_hours(1));
    world.store.time += Duration::from_hours(2);
    world.store.request("now");
    world.rounds(90, INTERVAL);
    assert_eq!(world.store.request_left(), None);
    let made = world.reasons(0).iter().filter(|why| why.starts_with("AddNext")).count();
    assert_eq!((made, requests_carried_out(&world)), (1, 0), "{:#?}", world.reasons(0));
}

/// As after a pause of the whole cluster: a leaf cannot outlive its CA, so it stays near its end
/// whatever is signed, and that must not keep the CA from being replaced.
#[test]
fn a_ca_that_ends_within_a_leafs_life_is_replaced_in_time() {
    let mut world = World::new(&[0], [true, true]);
    world.round();
    let old = world.store.authority().unwrap().current().to_owned();
    world.store.time += Duration::from_hours(20);
    world.replicas[0].steps.clear();
    world.rounds(80, INTERVAL);
    assert_ne!(world.store.authority().unwrap().current(), old);
    assert!(world.is_ready());
    let signed = world.reasons(0).iter().filter(|reason| reason.starts_with("Sign")).count();
    assert_eq!(signed, 2, "by the old CA once, then by the new one: {:#?}", world.reasons(0));
}

/// Two replicas whose clocks differ by ten minutes, the one behind holding the Lease, up to the
/// moment at which it has noted that the next CA is published.
fn skewed_world_with_a_next_ca() -> World {
    let mut world = World::new(&[-300, 300], [true, true]);
    world.round();
    world.rounds(13, Duration::from_hours(1));
    world.store.time += Duration::from_mins(66);
    world.replicas[0].look(&mut world.store);
    let reasons = world.reasons(0);
    assert!(reasons.iter().any(|reason| reason.starts_with("NotePublished")), "{reasons:#?}");
    world
}

#[test]
fn a_clock_that_is_ahead_does_not_let_the_next_ca_sign_before_every_api_server_trusts_it() {
    let mut world = skewed_world_with_a_next_ca();
    // The other one takes the Lease 30 s later, and a third one starts right after it.
    for _ in 0..5 {
        world.store.time += INTERVAL;
        world.replicas[1].look(&mut world.store);
        world.replicas[0].restart(&world.store);
        world.replicas[0].look(&mut world.store);
        world.check();
    }
    assert!(world.is_ready());
}

#[test]
fn a_stalled_replica_does_not_publish_an_older_bundle_over_a_newer_one() {
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    world.store.wipe(0);
    // The first replica stalls between its plan to publish and the write.
    world.store.time += INTERVAL;
    for _ in 0..5 {
        world.replicas[0].act(&mut world.store, Fault::None);
    }
    world.store.lose_secret(false);
    world.store.time += INTERVAL * 3;
    world.replicas[1].restart(&world.store);
    world.rounds_of(1, 8);
    world.replicas[0].act(&mut world.store, Fault::None);
    world.check();
}

#[test]
fn a_replica_that_is_cut_off_while_the_ca_is_replaced_is_not_ready_before_its_ca_is_dropped() {
    let mut world = World::new(&[0, 0], [true, true]);
    world.round();
    world.rounds(14, Duration::from_hours(1));
    world.rounds_without(1, 1, Duration::from_hours(1));
    assert!(world.is_ready());
    world.rounds_without(1, 7, Duration::from_hours(1));
    assert!(!world.is_ready() && world.replicas[0].is_ready(world.store.time));
    world.rounds(1, INTERVAL);
    assert!(world.is_ready(), "it has caught up");
}
