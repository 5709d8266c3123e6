//! The path by which API servers call each webhook: a secret one, so that nobody else is answered.
//!
//! The webhook configurations are the only place where it is kept. Whoever publishes a path makes
//! it up; every replica answers what it finds published, and for a while what was published before.
//! The function `due` decides; like `plan`, it does no IO.
//!
//! A replica sees what is published only when it looks, so a path that may be called stays for
//! [`Lifetimes::settle`], whoever published it: until then, every replica has looked. Only an older
//! replica does not wait, because it answers nothing else than the plain path. The entries of other
//! doors follow the one that guards the taint.

use std::time::Duration;

use super::{
    lifetimes::Lifetimes,
    reading::{Now, Read, Replicas},
    step::{NewPath, Why},
};
use crate::{
    admission::paths::{Paths, plain, with_secret},
    cluster::registration::{Configuration, Target},
    policy::review::Webhook,
};

/// How long a path is answered after another one replaced it. An API server that is up learns of
/// the new one within seconds.
const ANSWERED_AFTERWARDS: Duration = Duration::from_mins(5);
/// What API servers call where no path is set.
const NO_PATH: &str = "/";
/// Digits of a secret: 128 bits.
const DIGITS: usize = 32;

/// The change that is due to the path in one webhook configuration, and why.
pub(super) fn due(
    webhook: Webhook,
    configuration: &Configuration,
    recent: &Recent,
    replicas: &Replicas,
    now: Now,
    lifetimes: &Lifetimes,
) -> Option<(NewPath, Why)> {
    // The path of a URL is its owner's.
    let Target::Service { path, is_ours, since } = &configuration.target else { return None };
    let is_plain = *path == plain(webhook);
    // No replica answers where no path is set, so there is nothing to wait for.
    let has_settled =
        path == NO_PATH || recent.published_for(webhook, path, now.monotonic) >= lifetimes.settle.unsigned_abs();
    match replicas {
        // Whoever applied it before takes it away with manifests that have none.
        _ if is_plain && !is_ours => Some((NewPath::Plain, Why::PathNotOurs(webhook))),
        Replicas::SomeOlder if is_plain => None,
        Replicas::SomeOlder => Some((NewPath::Plain, Why::OlderReplica)),
        Replicas::Unknown(_) if is_plain || is_secret(webhook, path) => None,
        _ if !has_settled => None,
        Replicas::Unknown(_) => Some((NewPath::Plain, Why::PathNotSecret(webhook))),
        Replicas::Current if !is_secret(webhook, path) => Some((NewPath::Secret, Why::PathNotSecret(webhook))),
        Replicas::Current => {
            // A time to come is of a clock that differs.
            let is_old = since.is_none_or(|since| now.wall.duration_since(since) >= lifetimes.leaf);
            is_old.then_some((NewPath::Secret, Why::PathOld(webhook)))
        }
    }
}

/// The path of another door, beside that of the entry that guards the taint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DoorPath {
    /// The path that it has or should have. `None`: it is somebody else's, or not set.
    pub(super) path: Option<String>,
    /// Whether it must be written.
    pub(super) is_due: bool,
}

/// A door is called by the path of the entry that guards the taint, as soon as every replica has
/// looked since that one was published. Where no path is set, there is nothing to wait for, and an
/// older replica answers nothing else than the plain path.
pub(super) fn of_door(
    webhook: Webhook,
    guard: &Target,
    door: &Target,
    recent: &Recent,
    now: Now,
    lifetimes: &Lifetimes,
) -> DoorPath {
    let Target::Service { path, is_ours, .. } = door else { return DoorPath { path: None, is_due: false } };
    let own = (path != NO_PATH).then(|| path.clone());
    let Target::Service { path: wanted, .. } = guard else { return DoorPath { path: own, is_due: false } };
    let plain = plain(webhook);
    let has_settled =
        |path: &str| recent.published_for(webhook, path, now.monotonic) >= lifetimes.settle.unsigned_abs();
    if wanted == path {
        return DoorPath { path: own, is_due: *path == plain && !is_ours };
    }
    let may_follow = own.is_none() || *wanted == plain || (has_settled(wanted) && has_settled(path));
    if wanted != NO_PATH && may_follow {
        DoorPath { path: Some(wanted.clone()), is_due: true }
    } else {
        DoorPath { path: own, is_due: false }
    }
}

/// Whether API servers call the plain path, or none.
pub(super) fn is_plain(webhook: Webhook, target: &Target) -> bool {
    matches!(target, Target::Service { path, .. } if *path == plain(webhook) || path == NO_PATH)
}

fn is_secret(webhook: Webhook, path: &str) -> bool {
    path.len() == with_secret(webhook, "").len() + DIGITS
        && path.starts_with(&with_secret(webhook, ""))
        && path.chars().rev().take(DIGITS).all(|digit| digit.is_ascii_hexdigit())
}

/// The path with a secret made of these bytes.
pub(super) fn secret_path(webhook: Webhook, random: u128) -> String {
    with_secret(webhook, &format!("{random:0DIGITS$x}"))
}

/// The paths that were published lately.
#[derive(Debug, Default)]
pub(super) struct Recent(Vec<Published>);

/// A path that was published, as far as this replica has seen.
#[derive(Debug)]
struct Published {
    webhook: Webhook,
    path: String,
    /// Since when without a break.
    since: Duration,
    until: Duration,
    /// Whether the last reading found it.
    is_current: bool,
}

impl Recent {
    /// Takes note of a reading. What could not be read stays as it was.
    pub(super) fn observe(&mut self, configurations: &[(Webhook, Read<Configuration>)], now: Duration) {
        for &(webhook, ref read) in configurations {
            let Read::Found(configuration) = read else { continue };
            let paths = configuration.targets().map(|target| match target {
                Target::Service { path, .. } => path.clone(),
                // Whatever is in front of the gate may change the path.
                Target::Url => plain(webhook),
            });
            let mut paths: Vec<String> = paths.collect();
            for old in self.0.iter_mut().filter(|old| old.webhook == webhook && old.is_current) {
                let found = paths.len();
                paths.retain(|path| *path != old.path);
                old.is_current = paths.len() < found;
                if old.is_current {
                    old.until = now;
                }
            }
            while let Some(path) = paths.pop() {
                paths.retain(|other| *other != path);
                self.0.push(Published { webhook, path, since: now, until: now, is_current: true });
            }
            self.0.retain(|old| old.webhook != webhook || now.saturating_sub(old.until) < ANSWERED_AFTERWARDS);
        }
    }

    /// For how long this path has been published, if it still is.
    fn published_for(&self, webhook: Webhook, path: &str, now: Duration) -> Duration {
        let is_it = |published: &&Published| published.webhook == webhook && published.is_current;
        let current = self.0.iter().filter(is_it).find(|published| published.path == path);
        current.map_or(Duration::ZERO, |published| now.saturating_sub(published.since))
    }

    /// The paths to answer.
    pub(super) fn paths(&self) -> Paths {
        let set = self.0.iter().filter(|published| published.path != NO_PATH);
        Paths::of(set.map(|published| (published.path.clone(), published.webhook)))
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::cluster::registration::Door;

    const SECRET: &str = "/validate/0123456789abcdef0123456789abcdef";
    const LIFETIMES: Lifetimes = Lifetimes {
        ca: SignedDuration::from_hours(24 * 365),
        leaf: SignedDuration::from_hours(24),
        settle: SignedDuration::from_mins(1),
    };

    fn at(hours: i64) -> Timestamp {
        "2026-11-30T10:15:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
    }

    fn configuration(target: Target) -> Configuration {
        Configuration { ca_bundle: Vec::new(), target, doors: Vec::new(), owned: None, version: "1".to_owned() }
    }

    fn service(path: &str, since: Option<Timestamp>) -> Configuration {
        configuration(Target::Service { path: path.to_owned(), is_ours: since.is_some(), since })
    }

    /// What is due to a configuration that this replica has seen for `seconds`.
    fn due_after(seconds: u64, found: &Configuration, replicas: &Replicas) -> Option<(NewPath, Why)> {
        let mut recent = Recent::default();
        recent.observe(&[(Webhook::Validate, Read::Found(found.clone()))], Duration::from_secs(10));
        let now = Now { wall: at(0), monotonic: Duration::from_secs(10 + seconds) };
        super::due(Webhook::Validate, found, &recent, replicas, now, &LIFETIMES)
    }

    fn due(found: &Configuration, replicas: &Replicas) -> Option<(NewPath, Why)> {
        due_after(60, found, replicas)
    }

    #[test]
    fn a_path_is_replaced_if_it_is_not_secret_or_a_day_old() {
        let not_secret = Some((NewPath::Secret, Why::PathNotSecret(Webhook::Validate)));
        for path in [
            "/",
            "/validate",
            "/validate/x",
            "/validate/0123456789abcdef",
            "/mutate/0123456789abcdef0123456789abcdef",
            "/validate/0123456789abcdef0123456789abcdeg",
            "/validate/0123456789abcdef0123456789abcdef0",
        ] {
            assert_eq!(due(&service(path, Some(at(0))), &Replicas::Current), not_secret, "{path}");
        }
        let old = Some((NewPath::Secret, Why::PathOld(Webhook::Validate)));
        for (since, expected) in [
            (None, old.clone()),
            (Some(at(-25)), old.clone()),
            (Some(at(-24)), old),
            (Some(at(-23)), None),
            (Some(at(9)), None),
        ] {
            assert_eq!(due(&service(SECRET, since), &Replicas::Current), expected, "{since:?}");
        }
        assert_eq!(due(&configuration(Target::Url), &Replicas::Current), None);
    }

    #[test]
    fn a_path_that_may_be_called_stays_until_every_replica_has_looked() {
        let not_secret = Some((NewPath::Secret, Why::PathNotSecret(Webhook::Validate)));
        let ours = Some((NewPath::Plain, Why::PathNotOurs(Webhook::Validate)));
        for replicas in [Replicas::Current, Replicas::SomeOlder, Replicas::Unknown("forbidden".to_owned())] {
            assert_eq!(due_after(0, &service("/validate", None), &replicas), ours);
        }
        let taken_over = Target::Service { path: "/validate".to_owned(), is_ours: true, since: None };
        assert_eq!(due_after(0, &configuration(taken_over), &Replicas::SomeOlder), None);
        let plain = service("/validate", Some(at(0)));
        assert_eq!(due_after(59, &plain, &Replicas::Current), None);
        assert_eq!(due_after(60, &plain, &Replicas::Current), not_secret);
        assert_eq!(due_after(0, &service("/", None), &Replicas::Current), not_secret);
        assert_eq!(due_after(59, &service(SECRET, None), &Replicas::Current), None);
        let older = Some((NewPath::Plain, Why::OlderReplica));
        assert_eq!(due_after(0, &service(SECRET, None), &Replicas::SomeOlder), older);
        // What is published again has not been there since.
        let mut recent = Recent::default();
        for (seconds, path) in [(0, "/validate"), (50, SECRET), (51, "/validate")] {
            recent.observe(&[(Webhook::Validate, Read::Found(service(path, None)))], Duration::from_secs(seconds));
        }
        let published_for = |path: &str| recent.published_for(Webhook::Validate, path, Duration::from_secs(61));
        assert_eq!((published_for("/validate"), published_for(SECRET)), (Duration::from_secs(10), Duration::ZERO));
    }

    #[test]
    fn while_an_older_replica_may_be_called_the_path_is_plain() {
        let older = Some((NewPath::Plain, Why::OlderReplica));
        assert_eq!(due(&service(SECRET, Some(at(0))), &Replicas::SomeOlder), older);
        assert_eq!(due(&service("/", None), &Replicas::SomeOlder), older);
        assert_eq!(due(&service("/validate", Some(at(0))), &Replicas::SomeOlder), None);
        let unknown = Replicas::Unknown("forbidden".to_owned());
        assert_eq!(due(&service(SECRET, None), &unknown), None);
        assert_eq!(due(&service("/validate", Some(at(0))), &unknown), None);
        assert_eq!(due(&service("/", None), &unknown), Some((NewPath::Plain, Why::PathNotSecret(Webhook::Validate))));
    }

    #[test]
    fn a_door_follows_the_path_of_the_taints_entry_when_every_replica_has_looked() {
        const OTHER: &str = "/validate/ffffffffffffffffffffffffffffffff";
        // What a door should have that this replica has seen for `seconds`, as the guard beside it.
        let of_door = |seconds: u64, guard: &Target, door: &Target| {
            let doors = vec![Door { name: "d".to_owned(), ca_bundle: Vec::new(), target: door.clone() }];
            let found = Configuration { doors, ..configuration(guard.clone()) };
            let mut recent = Recent::default();
            recent.observe(&[(Webhook::Validate, Read::Found(found))], Duration::from_secs(10));
            let now = Now { wall: at(0), monotonic: Duration::from_secs(10 + seconds) };
            let due = super::of_door(Webhook::Validate, guard, door, &recent, now, &LIFETIMES);
            (due.path, due.is_due)
        };
        let called = |path: &str, is_ours| Target::Service { path: path.to_owned(), is_ours, since: None };
        let some = |path: &str, is_due| (Some(path.to_owned()), is_due);
        let (secret, none) = (called(SECRET, true), called("/", false));
        assert_eq!(of_door(0, &secret, &none), some(SECRET, true), "nobody is called where no path is set");
        assert_eq!(of_door(59, &secret, &called(OTHER, false)), some(OTHER, false));
        assert_eq!(of_door(60, &secret, &called(OTHER, false)), some(SECRET, true));
        assert_eq!(of_door(60, &secret, &called(SECRET, false)), some(SECRET, false));
        let plain = called("/validate", true);
        assert_eq!(of_door(0, &plain, &secret), some("/validate", true), "an older replica answers nothing else");
        assert_eq!(
            of_door(0, &plain, &called("/validate", false)),
            some("/validate", true),
            "so that nobody removes it"
        );
        assert_eq!(of_door(0, &plain, &plain), some("/validate", false));
        assert_eq!(of_door(60, &none, &none), (None, false));
        assert_eq!(of_door(60, &none, &secret), some(SECRET, false));
        assert_eq!(of_door(60, &Target::Url, &secret), some(SECRET, false));
        assert_eq!(of_door(60, &secret, &Target::Url), (None, false));
        for (target, expected) in [(&secret, false), (&Target::Url, false), (&plain, true), (&none, true)] {
            assert_eq!(is_plain(Webhook::Validate, target), expected, "{target:?}");
        }
    }

    #[test]
    fn a_path_that_is_made_is_secret() {
        assert_eq!(secret_path(Webhook::Validate, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), SECRET);
        for random in [0, 1, u128::MAX] {
            assert!(is_secret(Webhook::Mutate, &secret_path(Webhook::Mutate, random)), "{random}");
        }
    }

    #[test]
    fn what_was_published_before_is_answered_for_five_minutes() {
        let mut recent = Recent::default();
        let mut look = |seconds: u64, mutate: Read<Configuration>, validate: Read<Configuration>| {
            let seen = [(Webhook::Mutate, mutate), (Webhook::Validate, validate)];
            recent.observe(&seen, Duration::from_secs(seconds));
            recent.paths()
        };
        let paths = |of: &[(&str, Webhook)]| Paths::of(of.iter().map(|(path, webhook)| ((*path).to_owned(), *webhook)));
        let found = |path: &str| Read::Found(service(path, None));
        let (mutate, validate) = (Webhook::Mutate, Webhook::Validate);
        assert_eq!(
            look(0, found("/1"), found("/")),
            paths(&[("/1", mutate)]),
            "where no path is set, none is answered"
        );
        assert_eq!(
            look(10, found("/mutate/1"), found("/2")),
            paths(&[("/mutate/1", mutate), ("/1", mutate), ("/2", validate)])
        );
        let both = [("/mutate/1", mutate), ("/validate/1", validate), ("/1", mutate), ("/2", validate)];
        assert_eq!(look(299, found("/mutate/1"), found("/validate/1")), paths(&both));
        let later = [("/mutate/1", mutate), ("/validate/1", validate), ("/2", validate)];
        assert_eq!(look(300, found("/mutate/1"), found("/validate/1")), paths(&later));
        // What cannot be read is answered as before.
        let failed = || Read::Failed("timed out".to_owned());
        assert_eq!(look(900, failed(), failed()), paths(&later));
        assert_eq!(
            look(901, failed(), Read::Found(configuration(Target::Url))),
            paths(&[("/mutate/1", mutate), ("/validate", validate),])
        );
    }
}
