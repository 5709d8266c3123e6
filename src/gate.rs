//! The path of every review: read the facts, decide, write the audit line. `serve`, `review` and
//! `demo` all use it.
//!
//! A review of something on a Node does not have that Node. It is read first, and is then a part of
//! the review.
//!
//! No decision is answered before it is on record. If it cannot be put there in time, the answer is
//! a denial with `RecordUnavailable`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::{
    admission::{
        handler::{Call, Judge},
        trace::TraceId,
    },
    audit::{Audit, Line, WriteError},
    clock::Clock,
    cluster::{Cluster, Written},
    events::{self, Events},
    metrics::Metrics,
    policy::{
        self, Decision,
        door::{Door, Subject},
        facts::{Fact, FactQuery, Facts, Reading, Timing, Unread},
        reason::{Code, Mode},
        request::Request,
        review::{Content, Review},
        settings::Settings,
    },
};

/// Everything that a decision needs, except the review.
#[derive(Clone)]
pub struct Gate {
    pub cluster: Cluster,
    pub settings: Arc<ArcSwap<Settings>>,
    pub clock: Clock,
    pub audit: Audit,
    pub metrics: Arc<Metrics>,
    pub events: Events,
}

impl Gate {
    /// A gate whose settings stay as they are, whose metrics nobody else reads, and whose Events
    /// nobody writes.
    pub fn new(cluster: Cluster, settings: Settings, clock: Clock, audit: Audit) -> Self {
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        Self { cluster, settings, clock, audit, metrics: Arc::default(), events: Events::default() }
    }
}

impl Judge for Gate {
    async fn judge(&self, call: &Call, review: &mut Review) -> Decision {
        let start = Instant::now();
        let (decision, Reading { facts, timings }) = self.decide(call, review).await;
        let review = &*review;
        let took = start.elapsed().as_secs_f64();
        let decision = match self.record(call, review, &decision, &facts, took).await {
            Ok(()) => decision,
            Err(error) => {
                self.metrics.audit_write_failed();
                tracing::error!(uid = review.uid, node = decision.node, %error, "denied a write: it is not on record");
                decision.unrecorded(error.to_string(), self.settings.load().strictest(Code::RecordUnavailable))
            }
        };
        self.metrics.decided(call.webhook.name(), &decision, &timings, took);
        if self.events.are_written() {
            for event in events::of_decision(call.webhook, review, &decision) {
                self.events.tell(event);
            }
        }
        decision
    }

    fn overloaded(&self) {
        self.metrics.overloaded();
    }
}

impl Gate {
    async fn decide(&self, call: &Call, review: &mut Review) -> (Decision, Reading) {
        let mut timings = Vec::new();
        if let Content::Door(door) = review.content_for(call.webhook) {
            match self.resolve(call, door.as_ref().clone(), &mut timings).await {
                Ok(content) => review.content = content,
                Err(decision) => return (*decision, Reading { timings, ..self.no_facts() }),
            }
        }
        let (decision, mut reading) = self.decide_content(call, review).await;
        reading.timings.append(&mut timings);
        (decision, reading)
    }

    /// The content of a review about something on a Node, with that Node. If there is no such Node,
    /// no machine can be mistaken for a dead one.
    ///
    /// # Errors
    /// The decision, if the Node or the pod could not be read.
    async fn resolve(&self, call: &Call, mut door: Door, timings: &mut Vec<Timing>) -> Result<Content, Box<Decision>> {
        let transition = door.transition();
        let settings = self.settings.load();
        if settings.mode_of(transition) == Mode::Off {
            return Ok(Content::Unrelated);
        }
        let unread = |node: &str, what: String, why: &str| {
            let unread = Unread::unreadable(what, why);
            Box::new(Decision::unresolved(node.to_owned(), self.clock.now(), transition, &settings, unread))
        };
        if let Subject::Eviction { namespace, name } = &door.subject {
            let (found, timing) = self.cluster.pod(namespace, name, &self.clock, call.facts_by).await;
            timings.extend(timing);
            let pod = found.map_err(|why| unread("", format!("Pod {namespace}/{name}"), &why))?;
            match pod.and_then(|pod| door.with_pod(pod)) {
                Some(resolved) => door = resolved,
                None => return Ok(Content::Unrelated),
            }
        }
        let Some(name) = door.node().map(str::to_owned) else { return Ok(Content::Unrelated) };
        let (found, timing) = self.cluster.node(&name, &self.clock, call.facts_by).await;
        timings.extend(timing);
        let node = found.map_err(|why| unread(&name, format!("Node {name}"), &why))?;
        let request = node.and_then(|node| door.request(node));
        Ok(request.map_or(Content::Unrelated, |request| Content::Node(Box::new(request))))
    }

    async fn decide_content(&self, call: &Call, review: &Review) -> (Decision, Reading) {
        match review.content_for(call.webhook) {
            Content::Node(request) => self.decide_write(call, review, request).await,
            Content::Unrelated | Content::Door(_) => (Decision::unrelated(), self.no_facts()),
            Content::Malformed { node, why } => {
                let mode = self.settings.load().strictest(Code::ReviewMalformed);
                (Decision::malformed(node.clone(), why.clone(), mode), self.no_facts())
            }
        }
    }

    /// Reads the facts and decides. A placement that is allowed is entered in the Lease first; if
    /// another one was faster, the Lease is read again and the decision is made again.
    async fn decide_write(&self, call: &Call, review: &Review, request: &Request) -> (Decision, Reading) {
        let settings = self.settings.load_full();
        let query = policy::facts_needed(request, &settings);
        let mut reading = if query.is_empty() {
            self.no_facts()
        } else {
            self.cluster.read(request, &query, &self.clock, call.facts_by).await
        };
        loop {
            let decision = policy::decide(call.webhook, request, &reading.facts, &settings);
            let Some(reservation) = policy::reservation(call.webhook, review, &decision, &reading.facts) else {
                return (decision, reading);
            };
            match self.cluster.reserve(&reservation, call.facts_by).await {
                Ok(Written::Done) => return (decision, reading),
                Ok(Written::Conflict) => {
                    let query = FactQuery::from([Fact::Budget]);
                    let again = self.cluster.read(request, &query, &self.clock, call.facts_by).await;
                    reading.facts.budget = again.facts.budget;
                    reading.timings.extend(again.timings);
                }
                // The decision is made once more, without this fact.
                Err(why) => reading.facts.fail(self.clock.now(), Fact::Budget, why),
            }
        }
    }

    fn no_facts(&self) -> Reading {
        Reading { facts: Facts::at(self.clock.now()), timings: Vec::new() }
    }

    /// Puts a decision on record, if it belongs there. `took` is in seconds.
    async fn record(
        &self,
        call: &Call,
        review: &Review,
        decision: &Decision,
        facts: &Facts,
        took: f64,
    ) -> Result<(), WriteError> {
        if !decision.is_audited() {
            return Ok(());
        }
        let trace_id = call.trace_id.as_ref().map(TraceId::as_str);
        let line = Line::new(call.webhook, review, decision, facts, trace_id, took * 1000.0);
        self.audit.write(&line, call.record_by).await?;
        if let Some(reason) = decision.break_glass.used() {
            let (webhook, node, user) = (call.webhook.name(), &decision.node, &review.user.name);
            tracing::warn!(webhook, node, user, reason, "break-glass used");
        }
        Ok(())
    }
}
