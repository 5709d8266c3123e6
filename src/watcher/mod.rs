//! Looks after nodes that are out of service: metrics and Events for people and, where that is
//! wanted, their return to service.
//!
//! One replica does it, the holder of the Lease `fencegate`. Nodes are watched, and those with the
//! taint or with evidence are kept; pods and volumes are read for these alone. It feeds no
//! decision: the gate reads everything anew, for its own releases as well.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::{
    nodes::Nodes,
    plan::{Change, Look, Now},
};
use crate::{
    clock::Clock,
    cluster::{self, Cluster, Listed, Live, Manner, Wanted, WriteError, Written, registration::Registration},
    election::{Election, Lease, Role},
    events::{Event, Events},
    metrics::{Metrics, ReleaseOutcome},
    policy::{
        object::node::NodeMetadata,
        request::User,
        settings::{AutoReleaseWhen, Settings},
        standing::{Standing, State, facts_of, standing},
        text::on_one_line,
    },
};

mod mismatch;
mod nodes;
pub mod plan;

/// How often the nodes whose look is due are looked at.
const BEAT: Duration = Duration::from_secs(1);
/// Between two looks at a node on which something may change without its Node: pods and volumes
/// go, a kubelet falls silent.
const MOVING: Duration = Duration::from_secs(15);
/// Between two looks at any other node that is kept. Its Node is watched besides.
const RESTING: Duration = Duration::from_mins(1);
/// Nodes that are looked at at once: each costs the API server a few lists.
const AT_ONCE: usize = 4;
/// Nodes that are looked at as often as that. With more, each is looked at less often, so that a
/// large outage does not become a load.
const FEW: usize = 10;
/// Limit on the reads of one look.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit on a release: the API server asks both webhooks, 5 s each.
const RELEASE_PATIENCE: Duration = Duration::from_secs(15);
/// The field manager of a release.
const FIELD_MANAGER: &str = "fencegate-auto-release";

/// What a watcher is made of.
pub struct Options {
    pub live: Live,
    pub registration: Registration,
    pub settings: Arc<ArcSwap<Settings>>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Identifies this replica as the holder of the Lease.
    pub identity: String,
    /// Between two renewals of the Lease.
    pub interval: Duration,
    /// Whether this replica is fit to hold the Lease.
    pub is_fit: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Looks after nodes while this replica holds the Lease.
pub struct Watcher {
    options: Options,
    /// The zero of the monotonic clock.
    started: Instant,
    election: Election,
    /// Until when nobody else can hold the Lease.
    holds_until: Option<Instant>,
    /// Who this client is. `None` until the API server said so.
    user: Option<User>,
    nodes: Nodes,
    /// When a node was last released without a person, or when this replica began to watch.
    last_release: Duration,
    /// The last error, so that a lasting one is logged once.
    last_error: Option<String>,
}

/// A look at a node.
struct Seen {
    listed: Listed,
    standing: Standing,
    /// The settings that it was judged by.
    settings: Arc<Settings>,
    now: Now,
}

impl Seen {
    fn look(&self) -> Look<'_> {
        Look { listed: &self.listed, standing: &self.standing, out_since: self.out_since() }
    }

    /// Since when the node is out of service: by the record, otherwise by the taint itself.
    fn out_since(&self) -> Option<Timestamp> {
        self.standing.out_since.or_else(|| self.listed.about.times_added().flatten().min())
    }
}

/// What came of taking the Lease.
enum Hold {
    Written,
    OfAnother,
    /// Somebody wrote it meanwhile.
    Unknown,
}

impl Watcher {
    /// A watcher that has not begun.
    pub fn new(options: Options) -> Self {
        Self {
            election: Election::new(options.identity.clone(), options.interval),
            options,
            started: Instant::now(),
            holds_until: None,
            user: None,
            nodes: Nodes::default(),
            last_release: Duration::ZERO,
            last_error: None,
        }
    }

    /// Watches whenever that is configured and this replica holds the Lease, for ever.
    ///
    /// Cancel-safe: the next holder of the Lease begins anew.
    pub async fn run(mut self) {
        let mut looks = interval(self.options.interval);
        loop {
            looks.tick().await;
            if self.holds().await {
                tracing::info!("watching the Nodes");
                self.options.metrics.watches(true);
                self.last_release = self.started.elapsed();
                self.watch().await;
                self.nodes = Nodes::default();
                self.options.metrics.watches(false);
                self.options.metrics.mismatches(0);
                self.options.metrics.out_of_service(&BTreeMap::new());
                tracing::info!("watching the Nodes no more");
            }
        }
    }

    /// Whether this replica is to watch: it takes or renews the Lease if it can.
    async fn holds(&mut self) -> bool {
        let settings = self.options.settings.load();
        if !settings.watch.enabled {
            if settings.auto_release.when != AutoReleaseWhen::Never {
                self.report(Some("release.auto does nothing without watch.enabled".to_owned()));
            }
            return false;
        }
        if !(self.options.is_fit)() {
            return false;
        }
        let asked = Instant::now();
        match self.hold().await {
            Ok(Hold::Written) => {
                self.holds_until = Some(asked + self.election.duration());
                self.report(None);
            }
            Ok(Hold::OfAnother) => self.holds_until = None,
            // Until it runs out, nobody else can hold it.
            Ok(Hold::Unknown) => {}
            Err(error) => self.report(Some(error)),
        }
        self.still_holds()
    }

    fn still_holds(&self) -> bool {
        self.holds_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes or renews the Lease, unless another replica holds it.
    async fn hold(&mut self) -> Result<Hold, String> {
        let registration = &self.options.registration;
        let stored = registration.lease().await.map_err(|error| error.to_string())?;
        let seen =
            stored.as_ref().map(|stored| Lease { holder: stored.holder.clone(), version: stored.version.clone() });
        let now = self.started.elapsed();
        if let Some(lease) = &seen {
            self.election.observe(lease, now);
        }
        if let Role::Follower(_) = self.election.role(seen.as_ref(), now) {
            return Ok(Hold::OfAnother);
        }
        let (identity, wall) = (self.election.identity(), self.options.clock.now());
        let taken = registration.take_lease(stored, identity, wall, self.election.duration()).await;
        Ok(match taken.map_err(|error| error.to_string())? {
            Written::Done => Hold::Written,
            // By another replica, or by the certificates of this one.
            Written::Conflict => Hold::Unknown,
        })
    }

    /// Watches until this replica does not hold the Lease any more.
    async fn watch(&mut self) {
        let mut changes = pin!(self.options.live.watch(&Wanted::All));
        let mut renewals = interval(self.options.interval);
        let mut beats = interval(BEAT);
        let mut comparisons = interval(RESTING);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Each is cancel-safe: a stream and an interval keep what they have not returned.
            tokio::select! {
                _ = renewals.tick() => {
                    if !self.holds().await {
                        return;
                    }
                }
                change = changes.next() => match change {
                    Some(Ok(change)) => self.nodes.apply(change, Instant::now()),
                    Some(Err(error)) => self.report(Some(error)),
                    None => return,
                },
                _ = beats.tick() => self.look().await,
                _ = comparisons.tick() => self.compare().await,
            }
        }
    }

    /// Tells whether the registration is as the configuration needs it.
    async fn compare(&mut self) {
        let settings = self.options.settings.load_full();
        match timeout(PATIENCE, mismatch::mismatches(&self.options.live, &settings)).await {
            Ok(Ok(differing)) => {
                self.options.metrics.mismatches(differing.len());
                if !differing.is_empty() {
                    let (mode, objects) = (settings.mode.name(), differing.join(", "));
                    tracing::warn!(mode, objects, "registered otherwise than the configuration needs it");
                }
            }
            Ok(Err(error)) => self.report(Some(error)),
            Err(elapsed) => self.report(Some(format!("the registration: {elapsed}"))),
        }
    }

    /// Looks at the nodes whose look is due.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.user.is_none() {
            match timeout(PATIENCE, self.options.live.whoami()).await {
                Ok(Ok(user)) => self.user = Some(user),
                Ok(Err(error)) => return self.report(Some(error)),
                Err(elapsed) => return self.report(Some(format!("who this client is: {elapsed}"))),
            }
        }
        let due: Vec<Listed> =
            self.nodes.current.values().filter(|kept| kept.due <= now).map(|kept| kept.listed.clone()).collect();
        let mut reads = Vec::new();
        for listed in due {
            reads.push(self.read(listed));
        }
        let seen: Vec<Seen> = stream::iter(reads).buffered(AT_ONCE).collect().await;
        for seen in seen {
            self.take_note(&seen).await;
        }
        self.options.metrics.out_of_service(&self.nodes.by_state());
    }

    async fn read(&self, listed: Listed) -> Seen {
        let (settings, user) = (self.options.settings.load_full(), self.user.clone().unwrap_or_default());
        let (request, query) = facts_of(&listed.node, &user, &settings);
        let deadline = Instant::now() + PATIENCE;
        let facts = self.options.live.read(&request, &query, &self.options.clock, deadline).await.facts;
        let standing = standing(&listed.node, &user, &facts, &settings);
        let now = Now { wall: facts.api_now(), monotonic: self.started.elapsed() };
        Seen { listed, standing, settings, now }
    }

    /// Tells what changed on a node, and releases it if that is due.
    async fn take_note(&mut self, seen: &Seen) {
        let Seen { listed, standing, settings, now } = seen;
        let spread = u32::try_from(1 + self.nodes.current.len() / FEW).unwrap_or(u32::MAX);
        let Some(kept) = self.nodes.current.get_mut(&listed.node.metadata.name) else { return };
        kept.told = Some((standing.state, seen.out_since()));
        kept.due = Instant::now() + pause(standing.state, settings).saturating_mul(spread);
        let changes = kept.memory.notice(&seen.look(), *now);
        let is_due = kept.memory.may_release(&seen.look(), settings, self.last_release, *now);
        for change in changes {
            self.tell(listed, change);
        }
        if is_due {
            self.release(listed).await;
        }
    }

    /// Reads a node once more, and releases it if still nothing speaks against it.
    async fn release(&mut self, known: &Listed) {
        let NodeMetadata { name, uid, .. } = &known.node.metadata;
        let cluster = Cluster::Live(self.options.live.clone());
        let wanted = Wanted::Names(vec![name.clone()]);
        let Ok(Ok(nodes)) = timeout(PATIENCE, cluster.nodes(&wanted)).await else { return };
        let Some(listed) = nodes.into_iter().find(|listed| listed.node.metadata.uid == *uid) else { return };
        let seen = self.read(listed).await;
        let Some(kept) = self.nodes.current.get_mut(name) else { return };
        let may_release = kept.memory.may_release(&seen.look(), &seen.settings, self.last_release, seen.now);
        if !may_release || !self.still_holds() {
            return;
        }
        // Also if it fails: the API server may have stored what it did not answer.
        self.last_release = seen.now.monotonic;
        tracing::info!(node = name, "releasing automatically");
        let patch = seen.listed.patch_of_taints(&[], &cluster::Changes::new());
        let manner = Manner { dry_run: false, field_manager: FIELD_MANAGER.to_owned() };
        let written = timeout(RELEASE_PATIENCE, self.options.live.patch_node(name, &patch, &manner)).await;
        let result = written.unwrap_or_else(|elapsed| Err(WriteError::Failed(elapsed.to_string())));
        self.options.metrics.auto_release(match &result {
            Ok(_) => ReleaseOutcome::Released,
            Err(WriteError::Denied(_)) => ReleaseOutcome::Denied,
            Err(WriteError::Conflict) => ReleaseOutcome::Conflict,
            Err(WriteError::Failed(_)) => ReleaseOutcome::Failed,
        });
        let (reason, is_warning, note) = match result {
            Ok(_) => {
                tracing::info!(node = name, "released");
                ("AutoReleased", false, "nothing held the taint, and the node was back without a break".to_owned())
            }
            Err(error) => {
                tracing::warn!(node = name, %error, "not released");
                if let Some(kept) = self.nodes.current.get_mut(name) {
                    kept.memory.not_released(seen.now);
                }
                ("AutoReleaseDenied", true, on_one_line(&error.to_string()).into_owned())
            }
        };
        self.options.events.tell(event(&seen.listed, "ReturnToService", reason, is_warning, note));
    }

    fn tell(&self, listed: &Listed, change: Change) {
        let (reason, is_warning, note) = match change {
            Change::Emptied(note) => ("Emptied", false, note),
            Change::Stuck(note) => ("Stuck", true, note),
            Change::StillAlive(note) => ("StillAlive", true, note),
            Change::Forgotten(note) => ("Forgotten", true, note),
        };
        let name = &listed.node.metadata.name;
        tracing::info!(node = name, reason, note, "a node that is out of service changed");
        self.options.events.tell(event(listed, "WatchOutOfService", reason, is_warning, note));
    }

    /// Logs an error, unless it is the last one again.
    fn report(&mut self, error: Option<String>) {
        if let Some(error) = &error
            && self.last_error.as_ref() != Some(error)
        {
            tracing::warn!(%error, "the Nodes are not watched as they should be");
        }
        self.last_error = error;
    }
}

fn event(listed: &Listed, action: &'static str, reason: &'static str, is_warning: bool, note: String) -> Event {
    let NodeMetadata { name, uid, .. } = listed.node.metadata.clone();
    Event { node: name, uid, action, reason, is_warning, note, is_repeated_by_automation: true }
}

/// How long until the next look.
fn pause(state: State, settings: &Settings) -> Duration {
    let releases = settings.auto_release.when != AutoReleaseWhen::Never;
    match state {
        State::Alive | State::Stuck | State::Emptying | State::Unknown => MOVING,
        State::Recovered if releases => MOVING.min(settings.auto_release.after.unsigned_abs() / 2).max(BEAT),
        _ => RESTING,
    }
}
