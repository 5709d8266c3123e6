use serde_json::{Value, from_value, json};

use super::*;
use crate::policy::{
    facts::{FactValue, Facts, LeaseAnswer},
    reason::{Code, Mode},
    request::User,
    standing::standing,
};

const START: &str = "2026-11-22T10:40:00Z";

/// A node that is out of service since 10:16:05, and is back and empty.
fn back() -> Value {
    json!({
        "metadata": {"name": "n1", "uid": "u1", "annotations": {
            "fencegate.dev/method": "power-off",
            "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
            "fencegate.dev/fenced-by": "alice",
            "fencegate.dev/boot-id": "boot-1",
            "fencegate.dev/recorded-by": "alice",
            "fencegate.dev/recorded-at": "2026-11-22T10:15:30Z",
            "fencegate.dev/placed-by": "alice",
            "fencegate.dev/placed-at": "2026-11-22T10:16:05Z",
            "fencegate.dev/source": "annotations",
        }},
        "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T10:38:00Z"}],
            "nodeInfo": {"bootID": "boot-2"},
        },
    })
}

/// A node as it is after `changes`, each at a JSON pointer; `null` removes.
fn changed(changes: &[(&str, Value)]) -> Value {
    let mut node = back();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = node.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let key = key.replace("~1", "/");
        if value.is_null() {
            parent.remove(&key)
        } else {
            parent.insert(key, value.clone())
        };
    }
    node
}

/// The pods on the node at a look, and the seconds since its last renewal.
struct Found {
    pods: Value,
    silent_for: i64,
}

fn nothing() -> Found {
    Found { pods: json!([]), silent_for: 3 }
}

fn with_a_pod() -> Found {
    Found {
        pods: json!([{
            "metadata": {"namespace": "prod", "name": "db-0",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"},
        }]),
        ..nothing()
    }
}

fn settings(when: AutoReleaseWhen) -> Settings {
    let mut settings = Settings::default();
    settings.watch.enabled = true;
    settings.auto_release.when = when;
    settings
}

/// `seconds` after [`START`].
fn at(seconds: u64) -> Now {
    let after = Duration::from_secs(seconds);
    let start: Timestamp = START.parse().unwrap();
    // The zero of the monotonic clock is earlier than any look.
    Now { wall: start + after, monotonic: Duration::from_hours(1) + after }
}

/// Looks at a node, and hands what was seen to `with`.
fn look<T>(node: &Value, found: &Found, settings: &Settings, now: Now, with: impl FnOnce(&Look<'_>) -> T) -> T {
    let listed: Listed = from_value(node.clone()).unwrap();
    let mut facts = Facts::at(now.wall);
    let renewed = (now.wall - SignedDuration::from_secs(found.silent_for)).to_string();
    let lease = json!({
        "metadata": {"managedFields": [{"time": renewed, "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]},
        "spec": {"renewTime": renewed, "leaseDurationSeconds": 40},
    });
    let lease = Some(from_value(lease).unwrap());
    facts.learn(now.wall, FactValue::Lease(LeaseAnswer { date: now.wall, lease }));
    facts.learn(now.wall, FactValue::Pods(from_value(found.pods.clone()).unwrap()));
    facts.learn(now.wall, FactValue::VolumeAttachments(vec![]));
    let standing = standing(&listed.node, &User::default(), &facts, settings);
    let out_since = standing.out_since;
    with(&Look { listed: &listed, standing: &standing, out_since })
}

fn obstacle_to(changes: &[(&str, Value)], found: &Found, settings: &Settings) -> Option<Obstacle> {
    look(&changed(changes), found, settings, at(0), |look| obstacle(look, settings, at(0).wall))
}

#[test]
fn a_release_without_a_person_needs_everything_that_a_careful_person_would_look_for() {
    const A: &str = "/metadata/annotations/fencegate.dev~1";
    let recovered = settings(AutoReleaseWhen::Recovered);
    let text = |value: &str| Value::from(value);
    let annotation = |key: &str| format!("{A}{key}");
    assert_eq!(obstacle_to(&[], &nothing(), &recovered), None);
    for (what, key, value, expected) in [
        ("no method", annotation("method"), Value::Null, Obstacle::Record),
        ("no time of the fence", annotation("fenced-at"), Value::Null, Obstacle::Record),
        ("nobody fenced", annotation("fenced-by"), Value::Null, Obstacle::Record),
        ("nobody recorded", annotation("recorded-by"), Value::Null, Obstacle::Record),
        ("no time of the record", annotation("recorded-at"), Value::Null, Obstacle::Record),
        ("a record that came late", annotation("recorded-at"), text("2026-11-22T10:16:06Z"), Obstacle::Record),
        ("nobody placed", annotation("placed-by"), Value::Null, Obstacle::Record),
        ("no time of the placement", annotation("placed-at"), Value::Null, Obstacle::Record),
        ("a break-glass", annotation("overridden"), text("drill"), Obstacle::Overridden),
        ("a hold", annotation("hold"), text("mine"), Obstacle::Hold),
        ("a cordon", "/spec/unschedulable".to_owned(), json!(true), Obstacle::Cordoned),
        ("the boot that was fenced", "/status/nodeInfo/bootID".to_owned(), text("boot-1"), Obstacle::NotRecovered),
        ("a source that releases", annotation("source"), text("fence-agents-remediation"), Obstacle::OfItsSource),
        ("a source that releases", annotation("source"), text("self-node-remediation"), Obstacle::OfItsSource),
        ("a source that releases", annotation("source"), text("pacemaker"), Obstacle::OfItsSource),
        ("a source that is not known", annotation("source"), text("of-tomorrow"), Obstacle::OfItsSource),
        ("no source", annotation("source"), Value::Null, Obstacle::OfItsSource),
        (
            "not Ready",
            "/status/conditions".to_owned(),
            json!([{"type": "Ready", "status": "Unknown"}]),
            Obstacle::NotRecovered,
        ),
    ] {
        assert_eq!(obstacle_to(&[(&key, value)], &nothing(), &recovered), Some(expected), "{what}");
    }
    assert_eq!(obstacle_to(&[], &with_a_pod(), &recovered), Some(Obstacle::NotRecovered), "a pod");
    let silent = Found { silent_for: 60, ..nothing() };
    assert_eq!(obstacle_to(&[], &silent, &recovered), Some(Obstacle::NotRecovered), "a kubelet that is not heard");
    assert_eq!(obstacle_to(&[], &nothing(), &settings(AutoReleaseWhen::Never)), Some(Obstacle::Off));
    let mut unwatched = recovered.clone();
    unwatched.watch.enabled = false;
    assert_eq!(obstacle_to(&[], &nothing(), &unwatched), Some(Obstacle::Off));
    let mut demanding = recovered.clone();
    demanding.modes.insert(Code::BootUnchanged, Mode::Enforce);
    let isolated = (annotation("method"), text("network-isolation"));
    assert_eq!(obstacle_to(&[(&isolated.0, isolated.1.clone())], &nothing(), &demanding), None, "it booted anew");
}

#[test]
fn a_source_that_has_forgotten_its_taint_does_not_keep_it_for_ever() {
    let recovered = settings(AutoReleaseWhen::Recovered);
    let source = ("/metadata/annotations/fencegate.dev~1source", json!("fence-agents-remediation"));
    let since = |time: &str| {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
        ("/status/conditions", ready)
    };
    let obstacle = |time| obstacle_to(&[source.clone(), since(time)], &nothing(), &recovered);
    assert_eq!(obstacle("2026-11-22T10:25:00Z"), Some(Obstacle::OfItsSource));
    assert_eq!(obstacle("2026-11-22T10:24:59Z"), None);
}

#[test]
fn rebooted_needs_a_record_of_the_boot_and_recovered_does_without_one() {
    let no_boot = [("/metadata/annotations/fencegate.dev~1boot-id", Value::Null)];
    let [recovered, rebooted] = [AutoReleaseWhen::Recovered, AutoReleaseWhen::Rebooted].map(settings);
    assert_eq!(obstacle_to(&[], &nothing(), &rebooted), None);
    assert_eq!(obstacle_to(&no_boot, &nothing(), &rebooted), Some(Obstacle::NotRebooted));
    assert_eq!(obstacle_to(&no_boot, &nothing(), &recovered), None);
    let unreported = [("/status/nodeInfo", Value::Null)];
    assert_eq!(obstacle_to(&unreported, &nothing(), &rebooted), Some(Obstacle::NotRebooted));
}

/// Looks at these times, and returns those at which the node may be released.
fn releases(looks: &[(u64, Value, Found)], began: u64) -> Vec<u64> {
    let settings = settings(AutoReleaseWhen::Recovered);
    let mut memory = Memory::default();
    let may = |(seconds, node, found): &(u64, Value, Found)| {
        let now = at(*seconds);
        let may =
            look(node, found, &settings, now, |look| memory.may_release(look, &settings, at(began).monotonic, now));
        may.then_some(*seconds)
    };
    looks.iter().filter_map(may).collect()
}

#[test]
fn nothing_may_have_happened_between_two_looks_that_are_far_enough_apart() {
    let flapped = || {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T10:41:00Z"}]);
        changed(&[("/status/conditions", ready)])
    };
    let rebooted = || changed(&[("/status/nodeInfo/bootID", json!("boot-3"))]);
    let silent = || Found { silent_for: 60, ..nothing() };
    let calm = |seconds| (seconds, back(), nothing());
    assert_eq!(releases(&[calm(0), calm(60), calm(119)], 0), [] as [u64; 0]);
    assert_eq!(releases(&[calm(0), calm(60), calm(120), calm(121)], 0), [120, 121]);
    assert_eq!(releases(&[calm(0), calm(120)], 0), [120]);
    let no_release: [u64; 0] = [];
    assert_eq!(releases(&[calm(0), (60, back(), with_a_pod()), calm(61), calm(120), calm(180)], 0), no_release);
    assert_eq!(releases(&[calm(0), (60, back(), silent()), calm(61), calm(120), calm(181)], 0), [181]);
    assert_eq!(
        releases(&[calm(0), (60, flapped(), nothing()), (120, flapped(), nothing())], 0),
        no_release,
        "it flapped"
    );
    assert_eq!(releases(&[calm(0), (90, rebooted(), nothing()), (120, rebooted(), nothing())], 0), no_release);
    assert_eq!(releases(&[calm(0), calm(120), calm(179), calm(180)], 120), [180], "one a minute");
}

#[test]
fn one_look_is_never_enough() {
    let mut settings = settings(AutoReleaseWhen::Recovered);
    settings.auto_release.after = SignedDuration::ZERO;
    let mut memory = Memory::default();
    let mut may = |seconds| {
        let now = at(seconds);
        look(&back(), &nothing(), &settings, now, |look| memory.may_release(look, &settings, Duration::ZERO, now))
    };
    assert_eq!([may(0), may(0), may(1)], [false, false, true]);
}

#[test]
fn after_a_release_that_failed_the_next_one_waits_longer_each_time() {
    let settings = settings(AutoReleaseWhen::Recovered);
    let mut memory = Memory::default();
    let mut waits = Vec::new();
    let mut seconds = 0;
    for _ in 0..8 {
        let failed = seconds;
        memory.not_released(at(seconds));
        loop {
            seconds += 1;
            let now = at(seconds);
            let may = look(&back(), &nothing(), &settings, now, |look| {
                memory.may_release(look, &settings, Duration::ZERO, now)
            });
            if may {
                break;
            }
        }
        waits.push(seconds - failed);
    }
    // The first one waits for two looks besides.
    assert_eq!(waits, [121, 30, 60, 120, 240, 300, 300, 300]);
}

#[test]
fn each_change_is_told_once() {
    let settings = settings(AutoReleaseWhen::Never);
    let mut memory = Memory::default();
    let mut told = |seconds, changes: &[(&str, Value)], found: &Found| {
        let now = at(seconds);
        look(&changed(changes), found, &settings, now, |look| memory.notice(look, now))
    };
    let dead = || ("/status/conditions", json!([{"type": "Ready", "status": "Unknown"}]));
    let placed = |time: &str| ("/metadata/annotations/fencegate.dev~1placed-at", json!(time));
    let silent = || Found { silent_for: 900, ..with_a_pod() };
    let just_now = placed("2026-11-22T10:40:00Z");
    assert_eq!(told(10, &[dead(), just_now.clone()], &silent()), [], "it goes on emptying");
    let stuck = told(301, &[dead(), just_now.clone()], &silent());
    assert_eq!(stuck, [Change::Stuck("prod/db-0".to_owned())]);
    assert_eq!(told(310, &[dead(), just_now.clone()], &silent()), []);
    let gone = Found { silent_for: 900, ..nothing() };
    let emptied = told(340, &[dead(), just_now.clone()], &gone);
    assert_eq!(emptied, [Change::Emptied("prod/db-0 gone after 5m40s".to_owned())]);
    assert_eq!(told(350, &[dead(), just_now.clone()], &gone), []);
    let of_record = ("/status/nodeInfo/bootID", json!("boot-1"));
    let alive = told(360, &[dead(), just_now, of_record], &with_a_pod());
    assert_eq!(
        alive,
        [Change::StillAlive("its machine lives, and every detach there is unsafe: prod/db-0".to_owned())]
    );
    let mut forgotten =
        |seconds| told(seconds, &[], &nothing()).into_iter().filter(|change| matches!(change, Change::Forgotten(_)));
    assert_eq!(forgotten(780).count(), 0, "it has been Ready for 15 minutes");
    let note = "nothing holds the taint, and the node has been Ready for 15m1s".to_owned();
    assert_eq!(forgotten(781).collect::<Vec<_>>(), [Change::Forgotten(note)]);
    assert_eq!(forgotten(790).count(), 0);
}
