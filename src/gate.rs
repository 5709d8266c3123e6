//! The path of every review: read the facts, decide, write the audit line. `serve`, `review` and
//! `demo` all use it.
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
    cluster::Cluster,
    metrics::Metrics,
    policy::{
        self, Decision,
        facts::{Facts, Reading},
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
}

impl Judge for Gate {
    async fn judge(&self, call: &Call, review: &Review) -> Decision {
        let start = Instant::now();
        let (decision, Reading { facts, timings }) = self.decide(call, review).await;
        let took = start.elapsed().as_secs_f64();
        let decision = match self.record(call, review, &decision, &facts, took).await {
            Ok(()) => decision,
            Err(error) => {
                self.metrics.audit_write_failed();
                tracing::error!(uid = review.uid, node = decision.node, %error, "denied a write: it is not on record");
                decision.unrecorded(error.to_string())
            }
        };
        self.metrics.decided(call.webhook.name(), &decision, &timings, took);
        decision
    }

    fn overloaded(&self) {
        self.metrics.overloaded();
    }
}

impl Gate {
    async fn decide(&self, call: &Call, review: &Review) -> (Decision, Reading) {
        let settings = self.settings.load_full();
        match review.content_for(call.webhook) {
            Content::Node(request) => {
                let query = policy::facts_needed(request, &settings);
                let reading = if query.is_empty() {
                    self.no_facts()
                } else {
                    self.cluster.read(request, &query, &self.clock, call.facts_by).await
                };
                (policy::decide(call.webhook, request, &reading.facts, &settings), reading)
            }
            Content::Unrelated => (Decision::unrelated(), self.no_facts()),
            Content::Malformed { node, why } => (Decision::malformed(node.clone(), why.clone()), self.no_facts()),
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
