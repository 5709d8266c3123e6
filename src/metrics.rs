//! The metrics (contract section 12). Every label has a fixed set of values: none contains the name
//! of a node or a user.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::policy::{Decision, facts::Timing};

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    decision_duration: Histogram,
    fact_read_duration: Family<FactLabels, Histogram>,
    break_glass: Counter,
    certificate_not_after: Gauge<f64, AtomicU64>,
    config_last_reload_success: Gauge,
    overloaded: Counter,
    audit_write_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    webhook: &'static str,
    /// The most consequential transition, or `None`.
    transition: &'static str,
    decision: &'static str,
    /// The check that decided. Empty if none failed.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FactLabels {
    fact: &'static str,
    outcome: &'static str,
}

/// Buckets from 0.1 ms, for a decision without facts, to 6.5 s, longer than the webhooks' timeout
/// of 5 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fencegate");
        let metrics = Self {
            decisions: Family::default(),
            decision_duration: durations(),
            fact_read_duration: Family::new_with_constructor(durations as fn() -> Histogram),
            break_glass: Counter::default(),
            certificate_not_after: Gauge::default(),
            config_last_reload_success: Gauge::default(),
            overloaded: Counter::default(),
            audit_write_failures: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("decisions", "Decisions, by the check that decided", metrics.decisions.clone());
        registry.register_with_unit(
            "decision_duration",
            "Time from a parsed review to its decision",
            Unit::Seconds,
            metrics.decision_duration.clone(),
        );
        registry.register_with_unit(
            "fact_read_duration",
            "Time to read a fact",
            Unit::Seconds,
            metrics.fact_read_duration.clone(),
        );
        registry.register("break_glass", "Denials turned into warnings by a break-glass", metrics.break_glass.clone());
        registry.register_with_unit(
            "certificate_not_after",
            "When the serving certificate expires, in seconds since the epoch",
            Unit::Seconds,
            metrics.certificate_not_after.clone(),
        );
        registry.register(
            "config_last_reload_success",
            "1 if the current content of the configuration file is in force, 0 if an older one is",
            metrics.config_last_reload_success.clone(),
        );
        registry.register(
            "overloaded",
            "Requests answered with HTTP 503 because too many were in flight",
            metrics.overloaded.clone(),
        );
        registry.register(
            "audit_write_failures",
            "Writes denied because the decision could not be put on record in time",
            metrics.audit_write_failures.clone(),
        );
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the program", version);
        metrics.config_last_reload_success.set(1);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a decision that took `seconds`, and records the durations of its reads.
    pub fn decided(&self, webhook: &'static str, decision: &Decision, timings: &[Timing], seconds: f64) {
        let labels = DecisionLabels {
            webhook,
            transition: decision.transitions.first().map_or("None", |transition| transition.name()),
            decision: decision.verdict(),
            reason: decision.leading_code().map_or("", |code| code.name()),
        };
        self.decisions.get_or_create(&labels).inc();
        self.decision_duration.observe(seconds);
        for timing in timings {
            let outcome = if timing.known { "known" } else { "unknown" };
            let labels = FactLabels { fact: timing.fact, outcome };
            self.fact_read_duration.get_or_create(&labels).observe(timing.took.as_secs_f64());
        }
        // Counted once for each write: by the validating webhook, which is called last, and also
        // for deletions.
        if webhook == "validate" && decision.break_glass.used().is_some() {
            self.break_glass.inc();
        }
    }

    /// Counts a request that was answered with HTTP 503 because too many were in flight.
    pub fn overloaded(&self) {
        self.overloaded.inc();
    }

    /// Counts a decision that could not be written to the audit log in time.
    pub fn audit_write_failed(&self) {
        self.audit_write_failures.inc();
    }

    /// Sets when the serving certificate expires.
    pub fn certificate_ends(&self, not_after: jiff::Timestamp) {
        self.certificate_not_after.set(not_after.as_duration().as_secs_f64());
    }

    /// Sets whether the current content of the configuration file is in force.
    pub fn config_reloaded(&self, success: bool) {
        self.config_last_reload_success.set(i64::from(success));
    }

    /// The metrics as OpenMetrics text, for Prometheus to scrape.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reason::Mode;

    #[test]
    fn metrics_have_the_names_of_the_contract() {
        let metrics = Metrics::default();
        let timing = Timing { fact: "lease", known: true, took: std::time::Duration::from_millis(3) };
        metrics.decided("validate", &Decision::malformed(String::new(), "why".into(), Mode::Enforce), &[timing], 0.004);
        metrics.certificate_ends("2026-11-22T10:15:00Z".parse().unwrap());
        let text = metrics.encode().unwrap();
        for line in [
            r#"fencegate_decisions_total{webhook="validate",transition="None",decision="deny",reason="ReviewMalformed"} 1"#,
            "fencegate_decision_duration_seconds_count 1",
            r#"fencegate_fact_read_duration_seconds_count{fact="lease",outcome="known"} 1"#,
            "fencegate_break_glass_total 0",
            "fencegate_certificate_not_after_seconds 1795342500.0",
            "fencegate_config_last_reload_success 1",
            "fencegate_audit_write_failures_total 0",
            r#"fencegate_build_info{version=""#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
