//! The path of every review: read the facts, decide, write the audit line. `serve`, `review` and
//! `demo` all use it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::{
    admission::handler::Judge,
    audit::{Audit, Line},
    clock::Clock,
    cluster::Cluster,
    metrics::Metrics,
    policy::{
        self, Decision,
        facts::{Facts, Reading},
        review::{Content, Review, Webhook},
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
    async fn judge(&self, webhook: Webhook, review: &Review, deadline: Instant) -> Decision {
        let start = Instant::now();
        let settings = self.settings.load_full();
        let (decision, Reading { facts, timings }) = match review.content_for(webhook) {
            Content::Node(request) => {
                let query = policy::facts_needed(request, &settings);
                let reading = if query.is_empty() {
                    self.no_facts()
                } else {
                    self.cluster.read(request, &query, &self.clock, deadline).await
                };
                (policy::decide(request, &reading.facts, &settings), reading)
            }
            Content::Unrelated => (Decision::unrelated(), self.no_facts()),
            Content::Malformed { node, why } => (Decision::malformed(node.clone(), why.clone()), self.no_facts()),
        };
        self.metrics.decided(webhook.name(), &decision, &timings, start.elapsed().as_secs_f64());
        if decision.is_audited() {
            self.write_audit_line(webhook, review, &decision, &facts, start.elapsed()).await;
        }
        decision
    }

    fn overloaded(&self) {
        self.metrics.overloaded();
    }
}

impl Gate {
    fn no_facts(&self) -> Reading {
        Reading { facts: Facts::at(self.clock.now()), timings: Vec::new() }
    }

    async fn write_audit_line(
        &self,
        webhook: Webhook,
        review: &Review,
        decision: &Decision,
        facts: &Facts,
        took: Duration,
    ) {
        if let Some(reason) = decision.break_glass.used() {
            tracing::warn!(
                webhook = webhook.name(),
                node = decision.node,
                user = review.user.name,
                reason,
                "break-glass used"
            );
        }
        let line = Line::new(webhook.name(), review, decision, facts, took.as_secs_f64() * 1000.0);
        if let Err(error) = self.audit.write(&line).await {
            tracing::error!(uid = review.uid, node = decision.node, %error, "cannot write a decision to the audit log");
        }
    }
}
