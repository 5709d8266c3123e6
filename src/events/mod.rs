//! Events about Nodes (`events.k8s.io/v1`): what `kubectl describe node` shows of an outage.
//!
//! They are never in the way. Whoever tells one waits for nothing: it goes into a queue with a
//! limit, over which it is dropped and counted. One task writes them, and merges repeats.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    clock::Clock,
    cluster::{Live, Written, events::NodeEvent},
    metrics::{EventOutcome, Metrics},
};

mod told;

pub use told::{of_decision, transition_denied};

/// Events that may wait. Guarded writes are rare; more of them at once is an attack or a mistake,
/// and the audit log has each.
const QUEUE: usize = 64;
/// How long repeats are counted in one Event. The API server forgets an Event an hour after its
/// last change.
const SERIES: SignedDuration = SignedDuration::from_hours(1);
/// Events whose repeats are merged. Those that are left out are told once more.
const MOST_SERIES: usize = 1024;

/// Limit on one write: those that wait behind it are not told for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub node: String,
    /// `metadata.uid` of the Node.
    pub uid: String,
    pub action: &'static str,
    pub reason: &'static str,
    pub is_warning: bool,
    pub note: String,
    /// Whether a repeat is the same whatever its note says: automation repeats what is denied.
    pub is_repeated_by_automation: bool,
}

/// Where Events are told.
#[derive(Clone, Debug, Default)]
pub struct Events(Option<(mpsc::Sender<Event>, Arc<Metrics>)>);

impl Events {
    /// Tells an Event. It waits for nothing.
    pub fn tell(&self, event: Event) {
        if let Self(Some((queue, metrics))) = self
            && queue.try_send(event).is_err()
        {
            metrics.event(EventOutcome::Dropped);
        }
    }

    /// Whether anybody writes them.
    pub fn are_written(&self) -> bool {
        self.0.is_some()
    }
}

/// Writes Events to an API server.
pub struct Writer {
    live: Live,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The pod that reports.
    instance: String,
    queue: mpsc::Receiver<Event>,
    series: Series,
}

/// Events about what this replica decides, and the task that writes them. `instance` is the name of
/// its pod.
pub fn events(live: Live, clock: Clock, metrics: Arc<Metrics>, instance: String) -> (Events, Writer) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let events = Events(Some((sender, Arc::clone(&metrics))));
    (events, Writer { live, clock, metrics, instance, queue, series: Series::default() })
}

impl Writer {
    /// Writes until nobody can tell anything more.
    ///
    /// Cancel-safe: an Event that was taken from the queue may be lost.
    pub async fn run(mut self) {
        let mut last_error = None;
        while let Some(event) = self.queue.recv().await {
            let written = timeout(PATIENCE, self.write(&event)).await;
            match written.unwrap_or_else(|elapsed| Err(elapsed.to_string())) {
                Ok(()) => {
                    last_error = None;
                    self.metrics.event(EventOutcome::Sent);
                }
                Err(error) => {
                    self.metrics.event(EventOutcome::Failed);
                    if last_error.as_ref() != Some(&error) {
                        tracing::warn!(%error, "an Event could not be written");
                    }
                    last_error = Some(error);
                }
            }
        }
    }

    async fn write(&mut self, event: &Event) -> Result<(), String> {
        let at = self.clock.now();
        if let Some((name, count)) = self.series.repeated(event, at)
            && self.live.count_event(&name, count, at).await? == Written::Done
        {
            self.series.counted(event);
            return Ok(());
        }
        let Event { node, uid, action, reason, is_warning, note, .. } = event;
        let (is_warning, instance) = (*is_warning, self.instance.as_str());
        let stored = NodeEvent { node, uid, action, reason, is_warning, note, at, instance };
        self.live.create_event(&stored).await?;
        self.series.created(event, stored.name(), at);
        Ok(())
    }
}

/// The Events of the last hour.
#[derive(Debug, Default)]
struct Series(BTreeMap<Key, One>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    uid: String,
    action: &'static str,
    reason: &'static str,
    /// `None` if a repeat may say something else.
    note: Option<String>,
}

#[derive(Debug)]
struct One {
    name: String,
    count: i32,
    since: Timestamp,
}

impl Series {
    fn key(event: &Event) -> Key {
        let note = (!event.is_repeated_by_automation).then(|| event.note.clone());
        Key { uid: event.uid.clone(), action: event.action, reason: event.reason, note }
    }

    /// The name of the Event that this one repeats, and how often it has happened with this time.
    fn repeated(&mut self, event: &Event, now: Timestamp) -> Option<(String, i32)> {
        self.0.retain(|_, one| now.duration_since(one.since) < SERIES);
        self.0.get(&Self::key(event)).map(|one| (one.name.clone(), one.count.saturating_add(1)))
    }

    fn counted(&mut self, event: &Event) {
        if let Some(one) = self.0.get_mut(&Self::key(event)) {
            one.count = one.count.saturating_add(1);
        }
    }

    fn created(&mut self, event: &Event, name: String, now: Timestamp) {
        let key = Self::key(event);
        if self.0.len() < MOST_SERIES || self.0.contains_key(&key) {
            self.0.insert(key, One { name, count: 1, since: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &'static str, note: &str, is_repeated_by_automation: bool) -> Event {
        Event {
            node: "n1".to_owned(),
            uid: "u".to_owned(),
            action: "DenyOutOfService",
            reason,
            is_warning: true,
            note: note.to_owned(),
            is_repeated_by_automation,
        }
    }

    #[test]
    fn repeats_within_an_hour_are_counted_and_what_differs_is_told_anew() {
        let mut series = Series::default();
        let at = |time: &str| format!("2026-11-22T{time}Z").parse().unwrap();
        let denied = event("NodeStillReady", "alice: NodeStillReady", true);
        assert_eq!(series.repeated(&denied, at("10:00:00")), None);
        series.created(&denied, "n1.1".to_owned(), at("10:00:00"));
        let again = event("NodeStillReady", "bob: NodeStillReady, EvidenceMissing", true);
        assert_eq!(series.repeated(&again, at("10:00:10")), Some(("n1.1".to_owned(), 2)));
        series.counted(&again);
        assert_eq!(series.repeated(&denied, at("10:59:59")), Some(("n1.1".to_owned(), 3)));
        assert_eq!(series.repeated(&event("EvidenceMissing", "alice", true), at("10:01:00")), None);
        assert_eq!(series.repeated(&denied, at("11:00:00")), None, "an hour later");

        let placed = event("Vouched", "alice; first", false);
        series.created(&placed, "n1.2".to_owned(), at("11:00:00"));
        assert_eq!(series.repeated(&placed, at("11:00:01")), Some(("n1.2".to_owned(), 2)), "the API server retries");
        assert_eq!(series.repeated(&event("Vouched", "alice; second", false), at("11:00:02")), None);
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut series = Series::default();
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        for number in 0..2 * MOST_SERIES {
            series.created(&event("Vouched", &number.to_string(), false), number.to_string(), now);
        }
        assert_eq!(series.0.len(), MOST_SERIES);
    }

    #[test]
    fn over_the_limit_events_are_dropped_and_counted() {
        let metrics = Arc::new(Metrics::default());
        let (sender, mut queue) = mpsc::channel(1);
        let events = Events(Some((sender, Arc::clone(&metrics))));
        events.tell(event("Vouched", "first", false));
        events.tell(event("Vouched", "second", false));
        assert_eq!(queue.try_recv().unwrap().note, "first");
        assert!(metrics.encode().unwrap().contains(r#"fencegate_events_total{outcome="dropped"} 1"#));
        Events::default().tell(event("Vouched", "nobody writes it", false));
    }
}
