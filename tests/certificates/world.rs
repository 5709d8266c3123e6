//! A simulated store, and replicas that read, plan, stall and write. Planning, changing a CA,
//! signing and verifying are the program's own code; only the API server and the clocks are
//! simulated.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use fencegate::{
    certificates::{
        authority::{Authority, Change},
        leaf::Leaf,
        lifetimes::Lifetimes,
        plan::{Acceptance, Known, acceptance, plan},
        reading::{Now, Read, Replicas, Secret, Seen},
        step::{NewPath, Step, Why},
    },
    cluster::registration::{Configuration, Door, Target},
    election::Lease,
    policy::review::Webhook,
};
use jiff::{SignedDuration, Timestamp};

pub const HOST: &str = "fencegate.fencegate-system.svc";
pub const INTERVAL: Duration = Duration::from_secs(10);
pub const LIFETIMES: Lifetimes = Lifetimes {
    ca: SignedDuration::from_hours(21),
    leaf: SignedDuration::from_hours(6),
    settle: SignedDuration::from_mins(1),
};
/// The longest pause between a decision and its write that the plan tolerates; see its invariants.
const LONGEST_STALL: Duration = Duration::from_mins(20);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It never arrives, and the replica sees an error.
    Lost,
    /// It is carried out, and the replica sees an error.
    AnswerLost,
}

/// One stored webhook configuration.
#[derive(Clone)]
struct Stored {
    configuration: Configuration,
    /// Bundles that were replaced, and when: an API server may still use them for `settle`.
    replaced: Vec<(Vec<u8>, Duration)>,
}

/// The API server's store.
pub struct Store {
    /// True time since the simulation began.
    pub time: Duration,
    last_version: u64,
    secret: Option<(u64, Vec<u8>)>,
    /// The annotations of the Secret: the last request for another CA, and the last one that was
    /// carried out.
    requested: Option<String>,
    carried_out: Option<String>,
    lease: Option<Lease>,
    configurations: [Option<Stored>; 2],
    /// CAs (PEM) that were made because the Secret was lost, not as the next one.
    created: BTreeSet<String>,
    verified: HashMap<(String, Vec<u8>), bool>,
    /// The replicas that may be called.
    pub replicas: Replicas,
}

/// What a replica does next.
enum Phase {
    Idle,
    ReadConfigurations { began: Timestamp, configurations: [(Webhook, Read<Configuration>); 2] },
    Planned { step: Step, now: Now, secret: Option<u64>, lease: Option<String>, at: Duration },
}

pub struct Replica {
    name: String,
    /// How much its wall clock is ahead of the true time, in seconds.
    skew: i64,
    started: Duration,
    known: Known,
    pub is_accepted: bool,
    /// Whether it was not accepted when it signed its certificate.
    had_nothing: bool,
    phase: Phase,
    pub steps: Vec<Step>,
}

impl Store {
    pub fn new(configurations: [bool; 2]) -> Self {
        let empty = |exists: bool| {
            let target = Target::Service { path: "/".to_owned(), is_ours: false, since: None };
            let configuration = Configuration {
                ca_bundle: Vec::new(),
                target,
                doors: Vec::new(),
                owned: None,
                version: "0".to_owned(),
            };
            exists.then_some(Stored { configuration, replaced: Vec::new() })
        };
        Self {
            time: Duration::ZERO,
            last_version: 0,
            secret: None,
            requested: None,
            carried_out: None,
            lease: None,
            configurations: configurations.map(empty),
            created: BTreeSet::new(),
            verified: HashMap::new(),
            replicas: Replicas::Current,
        }
    }

    fn version(&mut self) -> u64 {
        self.last_version += 1;
        self.last_version
    }

    pub fn authority(&self) -> Option<Authority> {
        let (_, bytes) = self.secret.as_ref()?;
        Authority::parse(bytes, wall(self.time, 0)).ok()
    }

    /// `caBundle` of one configuration.
    pub fn published(&self, index: usize) -> String {
        let stored = self.configurations[index].as_ref().unwrap();
        String::from_utf8(stored.configuration.ca_bundle.clone()).unwrap()
    }

    /// Someone deletes the Secret or overwrites it. Not while nothing is published: then nothing is
    /// left that could say which CA is in use.
    pub fn lose_secret(&mut self, overwrite: bool) {
        if self.configurations.iter().flatten().any(|stored| !stored.configuration.ca_bundle.is_empty()) {
            let version = self.version();
            self.secret = overwrite.then(|| (version, b"garbage".to_vec()));
            if !overwrite {
                (self.requested, self.carried_out) = (None, None);
            }
        }
    }

    /// Someone annotates the Secret, if it exists.
    pub fn request(&mut self, request: &str) {
        let version = self.version();
        if let Some((stored, _)) = &mut self.secret {
            *stored = version;
            self.requested = Some(request.to_owned());
        }
    }

    /// The request that was not carried out yet.
    pub fn request_left(&self) -> Option<String> {
        self.requested.clone().filter(|_| self.requested != self.carried_out)
    }

    /// Someone empties a `caBundle`, while the Secret or the other configuration still has the CA.
    pub fn wipe(&mut self, index: usize) {
        let is_other_published =
            self.configurations[1 - index].as_ref().is_some_and(|other| !other.configuration.ca_bundle.is_empty());
        if is_other_published || self.authority().is_some() {
            self.put_bundle(index, Vec::new());
        }
    }

    fn put_bundle(&mut self, index: usize, bundle: Vec<u8>) {
        let (version, time) = (self.version().to_string(), self.time);
        let stored = self.configurations[index].as_mut().unwrap();
        stored.configuration.version = version;
        let old = std::mem::replace(&mut stored.configuration.ca_bundle, bundle);
        stored.replaced.retain(|(_, at)| time.saturating_sub(*at) < LIFETIMES.settle.unsigned_abs());
        stored.replaced.push((old, time));
    }

    /// Someone adds the entry of another door, as manifests have it, or removes it.
    pub fn toggle_door(&mut self, name: &str) {
        let version = self.version().to_string();
        let Some(stored) = &mut self.configurations[1] else { return };
        stored.configuration.version = version;
        let doors = &mut stored.configuration.doors;
        let others = doors.len();
        doors.retain(|door| door.name != name);
        if doors.len() == others {
            let target = Target::Service { path: "/".to_owned(), is_ours: false, since: None };
            doors.push(Door { name: name.to_owned(), ca_bundle: Vec::new(), target });
        }
    }

    /// Someone empties `caBundle` of every door, and sets its path.
    pub fn spoil_doors(&mut self, path: &str) {
        let version = self.version().to_string();
        let Some(stored) = &mut self.configurations[1] else { return };
        stored.configuration.version = version;
        for door in &mut stored.configuration.doors {
            stored.replaced.push((std::mem::take(&mut door.ca_bundle), self.time));
            door.target = Target::Service { path: path.to_owned(), is_ours: false, since: None };
        }
    }

    /// Whether API servers call every door as they call the entry that guards the taint, and
    /// anybody could remove each of them.
    pub fn doors_are_whole(&self) -> bool {
        let path = |target: &Target| match target {
            Target::Url => String::new(),
            Target::Service { path, .. } => path.clone(),
        };
        self.configurations.iter().flatten().map(|stored| &stored.configuration).all(|found| {
            found.owned.is_none()
                && found.bundles().all(|bundle| bundle == found.ca_bundle)
                && found.targets().all(|target| path(target) == path(&found.target))
        })
    }

    /// The doors of the validating configuration.
    pub fn doors(&self) -> &[Door] {
        &self.configurations[1].as_ref().unwrap().configuration.doors
    }

    fn put_path(&mut self, index: usize, path: String) {
        let (version, now) = (self.version().to_string(), wall(self.time, 0));
        let stored = self.configurations[index].as_mut().unwrap();
        stored.configuration.target = Target::Service { path, is_ours: true, since: Some(now) };
        stored.configuration.version = version;
    }

    /// How API servers call one webhook.
    pub fn target(&self, index: usize) -> &Target {
        &self.configurations[index].as_ref().unwrap().configuration.target
    }

    pub fn exists(&self, index: usize) -> bool {
        self.configurations[index].is_some()
    }

    /// The law, for one replica: why it is broken now.
    pub fn broken(&mut self, replica: &Replica) -> Option<String> {
        if !replica.is_ready(self.time) {
            return None;
        }
        let leaf = &replica.known.leaf;
        let now = wall(self.time, replica.skew);
        let is_excused = replica.had_nothing && self.created.contains(leaf.issuer());
        let mut bundles = Vec::new();
        for stored in self.configurations.iter().flatten() {
            bundles.extend(stored.configuration.bundles().map(|bundle| (false, bundle.to_vec())));
            let is_in_use = |at: Duration| self.time.saturating_sub(at) < LIFETIMES.settle.unsigned_abs();
            let used = stored.replaced.iter().filter(|(_, at)| is_in_use(*at) && !is_excused);
            bundles.extend(used.map(|(bundle, _)| (true, bundle.clone())));
        }
        // An empty bundle is not fencegate's.
        bundles.retain(|(_, bundle)| !bundle.is_empty());
        bundles.into_iter().find_map(|(is_old, bundle)| {
            let key = (leaf.certificate.clone(), bundle);
            let verifies = match self.verified.get(&key) {
                Some(verifies) => *verifies,
                None => leaf.verify(&key.1, HOST, now).is_ok(),
            };
            self.verified.insert(key, verifies);
            (!verifies).then(|| format!("{} serves what a bundle in use (replaced: {is_old}) rejects", replica.name))
        })
    }
}

/// What a clock shows that is `skew` seconds ahead.
fn wall(time: Duration, skew: i64) -> Timestamp {
    let start: Timestamp = "2026-11-22T10:15:00Z".parse().unwrap();
    start + SignedDuration::try_from(time).unwrap() + SignedDuration::from_secs(skew)
}

impl Replica {
    pub fn start(number: usize, skew: i64, store: &Store) -> Self {
        let now = wall(store.time, skew);
        let name = format!("fencegate-{number}");
        let leaf = Authority::create(b"", now, &LIFETIMES).unwrap().issue(&[HOST.to_owned()], now, &LIFETIMES).unwrap();
        Self {
            known: Known::new(name.clone(), HOST.to_owned(), INTERVAL, leaf),
            name,
            skew,
            started: store.time,
            is_accepted: false,
            had_nothing: true,
            phase: Phase::Idle,
            steps: Vec::new(),
        }
    }

    /// It ends and starts again, with the same name and nothing in memory.
    pub fn restart(&mut self, store: &Store) {
        let number = self.name.trim_start_matches("fencegate-").parse().unwrap();
        *self = Self::start(number, self.skew, store);
    }

    pub fn is_ready(&self, time: Duration) -> bool {
        self.is_accepted && wall(time, self.skew) <= self.known.leaf.not_after
    }

    pub fn leaf(&self) -> &Leaf {
        &self.known.leaf
    }

    /// Looks until nothing is due or something fails, like the program.
    pub fn look(&mut self, store: &mut Store) {
        self.phase = Phase::Idle;
        for _ in 0..18 {
            for _ in 0..3 {
                self.act(store, Fault::None);
            }
            if matches!(self.steps.last(), Some(Step::Rest(_) | Step::Blocked(_))) {
                break;
            }
        }
    }

    /// The next of its actions: read the configurations; read the rest and plan; carry out.
    pub fn act(&mut self, store: &mut Store, fault: Fault) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle | Phase::ReadConfigurations { .. } if fault != Fault::None => {}
            Phase::Idle => {
                let configurations = [0, 1].map(|index| {
                    let stored = store.configurations[index].as_ref();
                    let read = stored.map_or(Read::Absent, |stored| Read::Found(stored.configuration.clone()));
                    (Webhook::ALL[index], read)
                });
                self.phase = Phase::ReadConfigurations { began: wall(store.time, self.skew), configurations };
            }
            Phase::ReadConfigurations { began, configurations } => self.plan(store, began, configurations),
            Phase::Planned { at, .. } if store.time.saturating_sub(at) > LONGEST_STALL => self.restart(store),
            Phase::Planned { step, now, secret, lease, .. } => {
                self.steps.push(step.clone());
                self.carry_out(store, step, now, secret, lease.as_deref(), fault);
            }
        }
    }

    fn plan(&mut self, store: &Store, began: Timestamp, configurations: [(Webhook, Read<Configuration>); 2]) {
        let now = Now { wall: wall(store.time, self.skew), monotonic: store.time.saturating_sub(self.started) };
        let secret = match &store.secret {
            None => Secret::Absent,
            Some((_, bytes)) => match Authority::parse(bytes, now.wall) {
                Ok(authority) => Secret::Usable(authority),
                Err(error) => Secret::Unusable(error.to_string()),
            },
        };
        let lease = store.lease.clone().map_or(Read::Absent, Read::Found);
        let seen = Seen {
            began,
            configurations,
            secret,
            request: store.request_left(),
            lease,
            replicas: store.replicas.clone(),
        };
        self.known.observe(&seen, now);
        if let Some(acceptance) = acceptance(&self.known, &seen, now) {
            self.is_accepted = matches!(acceptance, Acceptance::Accepted);
        }
        self.phase = Phase::Planned {
            step: plan(&self.known, &seen, now, &LIFETIMES),
            now,
            secret: store.secret.as_ref().map(|(version, _)| *version),
            lease: store.lease.as_ref().map(|lease| lease.version.clone()),
            at: store.time,
        };
    }

    fn carry_out(
        &mut self,
        store: &mut Store,
        step: Step,
        now: Now,
        secret: Option<u64>,
        lease: Option<&str>,
        fault: Fault,
    ) {
        if let Step::Sign { authority, from, .. } = &step {
            self.had_nothing = !self.is_ready(store.time);
            self.known.leaf = authority.issue(&[HOST.to_owned()], *from, &LIFETIMES).unwrap();
        }
        if fault == Fault::Lost {
            return;
        }
        match step {
            Step::Rest(_) | Step::Blocked(_) | Step::Sign { .. } => {}
            Step::TakeLease(_) => {
                if store.lease.as_ref().map(|lease| lease.version.as_str()) == lease {
                    let version = store.version().to_string();
                    store.lease = Some(Lease { holder: self.name.clone(), version });
                }
            }
            Step::Create { published, .. } => {
                let authority = Authority::create(&published, now.wall, &LIFETIMES).unwrap();
                store.created.insert(authority.current().to_owned());
                write_secret(store, secret, &authority, true);
            }
            Step::Restore { authority, .. } => write_secret(store, secret, &authority, false),
            Step::Change { authority, change, .. } => {
                let changed = authority.change(&change, now.wall, &LIFETIMES).unwrap();
                write_secret(store, secret, &changed, change == Change::AddNext);
            }
            Step::Publish { webhook, bundle, version, .. } => {
                let index = usize::from(webhook == Webhook::Validate);
                let stored = store.configurations[index].as_ref().unwrap();
                if stored.configuration.version == version {
                    store.put_bundle(index, bundle.into_bytes());
                }
            }
            Step::SetPath { webhook, path, version, .. } => {
                let index = usize::from(webhook == Webhook::Validate);
                let stored = store.configurations[index].as_ref().unwrap();
                if stored.configuration.version == version {
                    let path = match path {
                        NewPath::Plain => format!("/{}", webhook.name()),
                        NewPath::Secret => format!("/{}/{:032x}", webhook.name(), store.last_version),
                    };
                    store.put_path(index, path);
                }
            }
            Step::Complete { webhook, doors, version, .. } => {
                let (next, time) = (store.version().to_string(), store.time);
                let index = usize::from(webhook == Webhook::Validate);
                let stored = store.configurations[index].as_mut().unwrap();
                if stored.configuration.version != version {
                    return;
                }
                stored.configuration.version = next;
                stored.configuration.owned = Some(1);
                assert_eq!(
                    doors.len(),
                    stored.configuration.doors.len(),
                    "every door, or the others would lose theirs"
                );
                for (door, published) in stored.configuration.doors.iter_mut().zip(doors) {
                    assert_eq!(door.name, published.name);
                    let old = std::mem::replace(&mut door.ca_bundle, published.ca_bundle.into_bytes());
                    stored.replaced.push((old, time));
                    let path = published.path.unwrap_or_else(|| "/".to_owned());
                    door.target = Target::Service { path, is_ours: true, since: None };
                }
            }
            Step::Disown { webhook, owned, version, .. } => {
                let next = store.version().to_string();
                let index = usize::from(webhook == Webhook::Validate);
                let configuration = &mut store.configurations[index].as_mut().unwrap().configuration;
                if configuration.version == version {
                    assert_eq!(configuration.owned.take(), Some(owned));
                    configuration.version = next;
                }
            }
        }
    }

    /// The reasons for its steps so far, without those of resting.
    pub fn reasons(&self) -> Vec<String> {
        let name = |step: &Step| match step {
            Step::Rest(Why::UpToDate) => "Rest".to_owned(),
            Step::Rest(why) => format!("Rest: {why}"),
            Step::Blocked(obstacle) => format!("Blocked: {obstacle}"),
            Step::TakeLease(why) => format!("TakeLease: {why}"),
            Step::Create { why, .. } => format!("Create: {why}"),
            Step::Restore { why, .. } => format!("Restore: {why}"),
            Step::Change { change, why, .. } => format!("{}: {why}", change.name()),
            Step::Publish { why, .. } => format!("Publish: {why}"),
            Step::SetPath { why, .. } => format!("SetPath: {why}"),
            Step::Complete { why, .. } => format!("Complete: {why}"),
            Step::Disown { why, .. } => format!("Disown: {why}"),
            Step::Sign { why, .. } => format!("Sign: {why}"),
        };
        self.steps.iter().map(name).collect()
    }
}

fn write_secret(store: &mut Store, expected: Option<u64>, authority: &Authority, has_new_ca: bool) {
    if store.secret.as_ref().map(|(version, _)| *version) == expected {
        let version = store.version();
        store.secret = Some((version, authority.to_bytes().unwrap()));
        if has_new_ca {
            store.carried_out.clone_from(&store.requested);
        }
    }
}
