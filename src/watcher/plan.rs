//! What a look at a node that is out of service is worth telling, and whether the node may be
//! returned to service without a person. Pure: no IO, no clock.
//!
//! A release without a person needs everything that a careful person would look for, twice, with
//! [`AutoRelease::after`] between the looks and no break in between. It is still judged by the
//! gate, like anyone's.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::Listed,
    policy::{
        annotation::{HOLD, OVERRIDDEN, PLACED_AT, PLACED_BY, RECORDED_AT, RECORDED_BY, REQUIRED_EVIDENCE, SOURCE},
        evidence::parse_time,
        object::node::Node,
        settings::{AutoRelease, AutoReleaseWhen, Settings},
        source::Source,
        standing::{Note, Standing, State},
        text::{FirstFive, Span},
    },
};

/// Between two automatic releases: a person can stop a mistake before it reaches many nodes.
const BETWEEN_RELEASES: Duration = Duration::from_mins(1);
/// How long to wait after a release that was denied or failed; twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(15);
const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// The clocks of a replica.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    /// Time since any fixed moment.
    pub monotonic: Duration,
}

/// One look at a node.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub listed: &'a Listed,
    pub standing: &'a Standing,
    /// Since when it is out of service, as far as that is known.
    pub out_since: Option<Timestamp>,
}

/// What is remembered of a node from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    last: Option<State>,
    /// What was seen on it while it emptied.
    held: Option<Held>,
    is_forgotten: bool,
    /// Since when nothing speaks against its release, and what must not have changed since.
    free: Option<(Duration, Mark)>,
    /// Not before this time, and how long the last wait was.
    retry: Option<(Duration, Duration)>,
}

#[derive(Clone, Debug, Default)]
struct Held {
    pods: Vec<String>,
    volumes: usize,
}

/// What changes whenever a machine or its record does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    ready_since: Option<Timestamp>,
    boot_id: Option<String>,
    placed_at: Option<String>,
}

impl Mark {
    fn of(node: &Node) -> Self {
        Self {
            ready_since: node.ready().and_then(|ready| ready.last_transition_time),
            boot_id: node.boot_id().map(str::to_owned),
            placed_at: node.annotation(PLACED_AT).map(str::to_owned),
        }
    }
}

/// A change that is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing holds the taint any more.
    Emptied(String),
    /// Nothing has left for some time.
    Stuck(String),
    /// Its machine lives, and every detach there is unsafe.
    StillAlive(String),
    /// It has been back for long, and is still out of service.
    Forgotten(String),
}

impl Memory {
    /// Takes note of a look. Returns what changed since the last one, for people.
    pub fn notice(&mut self, look: &Look<'_>, now: Now) -> Vec<Change> {
        let Look { standing, .. } = look;
        let (state, last) = (standing.state, self.last.replace(standing.state));
        let mut changes = Vec::new();
        match state {
            State::Emptying | State::Stuck | State::Alive => self.hold(standing),
            State::Empty | State::Recovered | State::SameBoot => {
                changes.extend(self.held.take().map(|held| Change::Emptied(held.gone(look, now))));
            }
            _ => {}
        }
        if last != Some(state) {
            changes.extend(match state {
                State::Stuck => Some(Change::Stuck(left(standing))),
                State::Alive => {
                    let note = format!("its machine lives, and every detach there is unsafe: {}", left(standing));
                    Some(Change::StillAlive(note))
                }
                _ => None,
            });
        }
        let is_forgotten = standing.notes.contains(&Note::Forgotten);
        if is_forgotten && !self.is_forgotten {
            let back = look.listed.node.ready().and_then(|ready| ready.last_transition_time);
            let back = back.map_or(String::new(), |since| format!(" for {}", Span(now.wall.duration_since(since))));
            changes.push(Change::Forgotten(format!("nothing holds the taint, and the node has been Ready{back}")));
        }
        self.is_forgotten = is_forgotten;
        changes
    }

    fn hold(&mut self, standing: &Standing) {
        let held = self.held.get_or_insert_default();
        for pod in &standing.pods {
            let name = pod.name.to_string();
            if !held.pods.contains(&name) {
                held.pods.push(name);
            }
        }
        held.volumes = held.volumes.max(standing.volumes.len());
    }

    /// Whether to release the node now. `last_release`: when this replica last released any, or
    /// began to watch.
    pub fn may_release(&mut self, look: &Look<'_>, settings: &Settings, last_release: Duration, now: Now) -> bool {
        if obstacle(look, settings, now.wall).is_some() {
            self.free = None;
            return false;
        }
        let mark = Mark::of(&look.listed.node);
        let since = match &self.free {
            Some((since, known)) if *known == mark => *since,
            _ => now.monotonic,
        };
        self.free = Some((since, mark));
        let AutoRelease { after, .. } = settings.auto_release;
        let is_long_enough = now.monotonic.saturating_sub(since) >= after.unsigned_abs() && since < now.monotonic;
        is_long_enough
            && now.monotonic.saturating_sub(last_release) >= BETWEEN_RELEASES
            && self.retry.is_none_or(|(not_before, _)| now.monotonic >= not_before)
    }

    /// Takes note that a release was not stored.
    pub fn not_released(&mut self, now: Now) {
        let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LONGEST_RETRY));
        self.retry = Some((now.monotonic + wait, wait));
    }
}

impl Held {
    /// What has gone, and after how long.
    fn gone(&self, look: &Look<'_>, now: Now) -> String {
        let mut parts = Vec::new();
        if !self.pods.is_empty() {
            parts.push(FirstFive(&self.pods).to_string());
        }
        match self.volumes {
            0 => {}
            1 => parts.push("1 volume".to_owned()),
            volumes => parts.push(format!("{volumes} volumes")),
        }
        let after = look.out_since.map(|since| format!(" after {}", Span(now.wall.duration_since(since))));
        format!("{} gone{}", parts.join(" and "), after.unwrap_or_default())
    }
}

/// What holds the taint, for people.
fn left(standing: &Standing) -> String {
    let pods = (!standing.pods.is_empty()).then(|| FirstFive(&standing.pods).to_string());
    let volumes = (!standing.volumes.is_empty()).then(|| FirstFive(&standing.volumes).to_string());
    pods.into_iter().chain(volumes).collect::<Vec<_>>().join("; ")
}

/// Why a node is left to people, or to whoever placed the taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is not configured.
    Off,
    /// The node is not `Recovered`, or its kubelet was not heard within the duration of its Lease.
    NotRecovered,
    /// It is not known to be in another boot.
    NotRebooted,
    /// The record is not complete, or came after the taint.
    Record,
    /// A break-glass overrode the gate.
    Overridden,
    /// Somebody wants it left alone.
    Hold,
    Cordoned,
    /// Whoever placed the taint removes it.
    OfItsSource,
    /// The gate would deny it.
    Denied,
}

/// What speaks against a release without a person.
pub fn obstacle(look: &Look<'_>, settings: &Settings, now: Timestamp) -> Option<Obstacle> {
    let Look { listed, standing, .. } = look;
    let node = &listed.node;
    let is_rebooted = standing.is_in_recorded_boot == Some(false);
    let is_allowed = standing.verdicts.release.as_ref().is_some_and(|decision| decision.allowed);
    let all = [
        (Obstacle::Off, settings.auto_release.when == AutoReleaseWhen::Never || !settings.watch.enabled),
        (Obstacle::NotRecovered, standing.state != State::Recovered || standing.is_heard != Some(true)),
        (Obstacle::NotRebooted, settings.auto_release.when == AutoReleaseWhen::Rebooted && !is_rebooted),
        (Obstacle::Record, !has_record_from_before(node)),
        (Obstacle::Overridden, node.annotation(OVERRIDDEN).is_some()),
        (Obstacle::Hold, node.annotation(HOLD).is_some()),
        (Obstacle::Cordoned, listed.about.is_cordoned()),
        (
            Obstacle::OfItsSource,
            is_removed_by_its_source(node) && !is_back_for(node, settings.watch.forgotten_after, now),
        ),
        (Obstacle::Denied, !is_allowed),
    ];
    all.into_iter().find(|(_, holds)| *holds).map(|(obstacle, _)| obstacle)
}

/// Whether a complete record was there when the taint was placed.
fn has_record_from_before(node: &Node) -> bool {
    let is_complete =
        REQUIRED_EVIDENCE.iter().chain(&[RECORDED_BY, PLACED_BY]).all(|key| node.annotation(key).is_some());
    let time = |key| node.annotation(key).and_then(parse_time);
    is_complete && time(RECORDED_AT).zip(time(PLACED_AT)).is_some_and(|(recorded, placed)| recorded <= placed)
}

/// Whether the controller that vouched also removes the taint, at its time.
fn is_removed_by_its_source(node: &Node) -> bool {
    match node.annotation(SOURCE).map(Source::parse) {
        Some(Some(source)) => match source {
            Source::FenceAgentsRemediation | Source::SelfNodeRemediation | Source::Pacemaker => true,
            Source::Annotations | Source::CloudShutdown | Source::NetworkFence | Source::BareMetalHost => false,
        },
        // One that this version does not know, or none.
        Some(None) | None => true,
    }
}

fn is_back_for(node: &Node, long_enough: SignedDuration, now: Timestamp) -> bool {
    let since = node.ready().and_then(|ready| ready.last_transition_time);
    since.is_some_and(|since| now.duration_since(since) > long_enough)
}

#[cfg(test)]
mod tests;
