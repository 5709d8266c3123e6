//! The metrics (contract section 12). Every label has a fixed set of values: none contains the name
//! of a node or a user.
//!
//! Every series that can be foreseen is there from the start, at 0: only then is the first event an
//! increase that an alert can see.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use jiff::Timestamp;
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::policy::{
    Decision, Finding,
    facts::Timing,
    reach::{codes_of, modes_of},
    reason::{Code, Mode},
    review::Webhook,
    settings::Settings,
    standing::State,
    transition::Transition,
};

use labels::{BuildLabels, CheckLabels, DecisionLabels, FactLabels, FindingLabels, OutcomeLabels, StateLabels};
pub use labels::{EventOutcome, ReleaseOutcome};

mod classic;
mod labels;
#[cfg(target_os = "linux")]
mod process;

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    findings: Family<FindingLabels, Counter>,
    check_mode: Family<CheckLabels, Gauge>,
    decision_duration: Histogram,
    fact_read_duration: Family<FactLabels, Histogram>,
    break_glass: Counter,
    certificate_accepted: Gauge,
    /// Under both of its names.
    certificate_not_after: [Gauge<f64, AtomicU64>; 2],
    config_last_reload_success: Gauge,
    config_last_reload_success_time: Gauge<f64, AtomicU64>,
    overloaded: Counter,
    audit_write_failures: Counter,
    events: Family<OutcomeLabels, Counter>,
    watch_leader: Gauge,
    registration_mismatches: Gauge,
    out_of_service_nodes: Family<StateLabels, Gauge>,
    out_of_service_oldest: Family<StateLabels, Gauge<f64, AtomicU64>>,
    auto_releases: Family<OutcomeLabels, Counter>,
}

/// Buckets from 0.1 ms, for a decision without facts, to 6.5 s, longer than the webhooks' timeout
/// of 5 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            decisions: Family::default(),
            findings: Family::default(),
            check_mode: Family::default(),
            decision_duration: durations(),
            fact_read_duration: Family::new_with_constructor(durations as fn() -> Histogram),
            break_glass: Counter::default(),
            certificate_accepted: Gauge::default(),
            certificate_not_after: Default::default(),
            config_last_reload_success: Gauge::default(),
            config_last_reload_success_time: Gauge::default(),
            overloaded: Counter::default(),
            audit_write_failures: Counter::default(),
            events: Family::default(),
            watch_leader: Gauge::default(),
            registration_mismatches: Gauge::default(),
            out_of_service_nodes: Family::default(),
            out_of_service_oldest: Family::default(),
            auto_releases: Family::default(),
        };
        metrics.foresee();
        Self { registry: metrics.registry(), ..metrics }
    }
}

impl Metrics {
    /// Makes the series that do not depend on the settings.
    fn foresee(&self) {
        for outcome in EventOutcome::ALL {
            let _ = self.events.get_or_create(&OutcomeLabels { outcome: outcome.name() });
        }
        for outcome in ReleaseOutcome::ALL {
            let _ = self.auto_releases.get_or_create(&OutcomeLabels { outcome: outcome.name() });
        }
        self.out_of_service(&BTreeMap::new());
        self.config_last_reload_success.set(1);
    }

    fn registry(&self) -> Registry {
        let mut root = Registry::default();
        #[cfg(target_os = "linux")]
        root.register_collector(Box::new(process::OfProcess));
        let registry = root.sub_registry_with_prefix("fencegate");
        registry.register("decisions", "Decisions, by the check that decided", self.decisions.clone());
        registry.register("findings", "Checks that failed, by what they did to the write", self.findings.clone());
        registry.register("check_mode", "1 for the mode of each check that is in force", self.check_mode.clone());
        let took = self.decision_duration.clone();
        registry.register_with_unit(
            "decision_duration",
            "Time from a parsed review to its decision",
            Unit::Seconds,
            took,
        );
        let took = self.fact_read_duration.clone();
        registry.register_with_unit("fact_read_duration", "Time to read a fact", Unit::Seconds, took);
        registry.register("break_glass", "Denials turned into warnings by a break-glass", self.break_glass.clone());
        let accepted = self.certificate_accepted.clone();
        registry.register("certificate_accepted", "1 if API servers accept the serving certificate", accepted);
        let [old, not_after] = self.certificate_not_after.clone();
        let help = "When the serving certificate expires, in seconds since the epoch";
        registry.register_with_unit("certificate_not_after_timestamp", help, Unit::Seconds, not_after);
        let help = "The same under its old name, for one more release";
        registry.register_with_unit("certificate_not_after", help, Unit::Seconds, old);
        registry.register(
            "config_last_reload_success",
            "1 if the current content of the configuration file is in force, 0 if an older one is",
            self.config_last_reload_success.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_success_timestamp",
            "Since when the configuration is in force, in seconds since the epoch",
            Unit::Seconds,
            self.config_last_reload_success_time.clone(),
        );
        let help = "Requests answered with HTTP 503 because too many were in flight";
        registry.register("overloaded", help, self.overloaded.clone());
        let help = "Writes denied because the decision could not be put on record in time";
        registry.register("audit_write_failures", help, self.audit_write_failures.clone());
        registry.register("events", "Events about Nodes", self.events.clone());
        registry.register("watch_leader", "1 on the replica that watches the Nodes", self.watch_leader.clone());
        let help = "Webhook configurations and policy bindings of the gate that are not in its mode, on the replica that watches";
        registry.register("registration_mismatches", help, self.registration_mismatches.clone());
        let help = "Nodes with the taint or with evidence by where they stand, on the replica that watches";
        registry.register("out_of_service_nodes", help, self.out_of_service_nodes.clone());
        let help = "Since when the oldest of them is out of service, in seconds since the epoch; 0 if there is none";
        let oldest = self.out_of_service_oldest.clone();
        registry.register_with_unit("out_of_service_oldest_timestamp", help, Unit::Seconds, oldest);
        registry.register("auto_releases", "Automatic releases", self.auto_releases.clone());
        let build = Family::<BuildLabels, Gauge>::default();
        let commit = option_env!("FENCEGATE_COMMIT").unwrap_or("unknown");
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION"), commit }).set(1);
        registry.register("build_info", "The version of the program", build);
        root
    }

    /// Tells which checks are in force, and makes the series of what they can do.
    fn in_force(&self, settings: &Settings) {
        for code in Code::ALL {
            let mode = settings.mode(*code);
            for other in [Mode::Off, Mode::Warn, Mode::Enforce] {
                self.check_mode.remove(&CheckLabels { reason: code.name(), mode: other.name() });
            }
            self.check_mode.get_or_create(&CheckLabels { reason: code.name(), mode: mode.name() }).set(1);
        }
        for webhook in Webhook::ALL {
            for leading in Transition::ALL.into_iter().map(Some).chain([None]) {
                self.foresee_decisions(webhook, leading, settings);
            }
        }
    }

    fn foresee_decisions(&self, webhook: Webhook, leading: Option<Transition>, settings: &Settings) {
        let (webhook, transition) = (webhook.name(), name_of(leading));
        let decided = |decision, reason| {
            let _ = self.decisions.get_or_create(&DecisionLabels { webhook, transition, decision, reason });
        };
        let found = |reason, mode| {
            let _ = self.findings.get_or_create(&FindingLabels { webhook, transition, reason, mode });
        };
        decided("allow", "");
        for code in codes_of(leading) {
            for mode in modes_of(code, settings) {
                let reason = code.name();
                match mode {
                    Mode::Off => continue,
                    Mode::Warn => decided("allow", reason),
                    Mode::Enforce => decided("deny", reason),
                }
                found(reason, mode.name());
                // By a break-glass.
                if mode == Mode::Enforce && code.can_be_waived() {
                    decided("allow", reason);
                    found(reason, WAIVED);
                }
            }
        }
    }

    /// Counts a decision that took `seconds`, and records the durations of its reads.
    pub fn decided(&self, webhook: &'static str, decision: &Decision, timings: &[Timing], seconds: f64) {
        let transition = name_of(decision.transitions.first());
        let reason = decision.leading_code().map_or("", Code::name);
        let labels = DecisionLabels { webhook, transition, decision: decision.verdict(), reason };
        self.decisions.get_or_create(&labels).inc();
        for finding in &decision.findings {
            let (reason, mode) = (finding.reason.code().name(), mode_of(finding));
            self.findings.get_or_create(&FindingLabels { webhook, transition, reason, mode }).inc();
        }
        self.decision_duration.observe(seconds);
        for timing in timings {
            let outcome = if timing.known { "known" } else { "unknown" };
            let labels = FactLabels { fact: timing.fact, outcome };
            self.fact_read_duration.get_or_create(&labels).observe(timing.took.as_secs_f64());
        }
        // Counted once for each write: by the validating webhook, which is called last, and also
        // for deletions.
        if webhook == Webhook::Validate.name() && decision.break_glass.used().is_some() {
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
    pub fn certificate_ends(&self, not_after: Timestamp) {
        for gauge in &self.certificate_not_after {
            gauge.set(not_after.as_duration().as_secs_f64());
        }
    }

    /// Sets whether API servers accept the serving certificate.
    pub fn certificate_accepted(&self, is_accepted: bool) {
        self.certificate_accepted.set(i64::from(is_accepted));
    }

    /// Sets whether the current content of the configuration file is in force: with the settings of
    /// it, and since `now`, or an older one, if there are none.
    pub fn config_reloaded(&self, settings: Option<&Settings>, now: Timestamp) {
        self.config_last_reload_success.set(i64::from(settings.is_some()));
        if let Some(settings) = settings {
            self.config_last_reload_success_time.set(now.as_duration().as_secs_f64());
            self.in_force(settings);
        }
    }

    /// Counts an Event.
    pub fn event(&self, outcome: EventOutcome) {
        self.events.get_or_create(&OutcomeLabels { outcome: outcome.name() }).inc();
    }

    /// Sets whether this replica watches the Nodes.
    pub fn watches(&self, is_leader: bool) {
        self.watch_leader.set(i64::from(is_leader));
    }

    /// Sets how many objects of the registration are not as the configuration needs them.
    pub fn mismatches(&self, count: usize) {
        self.registration_mismatches.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many nodes are in each state, and since when the oldest of them is out of service.
    pub fn out_of_service(&self, nodes: &BTreeMap<State, (usize, Option<Timestamp>)>) {
        for state in State::ALL {
            let (count, oldest) = nodes.get(&state).copied().unwrap_or_default();
            let labels = StateLabels { state: state.name() };
            self.out_of_service_nodes.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            let oldest = oldest.map_or(0.0, |oldest| oldest.as_duration().as_secs_f64());
            self.out_of_service_oldest.get_or_create(&labels).set(oldest);
        }
    }

    /// Counts an automatic release.
    pub fn auto_release(&self, outcome: ReleaseOutcome) {
        self.auto_releases.get_or_create(&OutcomeLabels { outcome: outcome.name() }).inc();
    }

    /// The metrics as OpenMetrics text.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn open_metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        Ok(classic::from_open_metrics(&self.open_metrics()?))
    }
}

/// The mode of a finding that a break-glass turned into a warning.
const WAIVED: &str = "waived";

fn name_of(leading: Option<Transition>) -> &'static str {
    leading.map_or("None", Transition::name)
}

fn mode_of(finding: &Finding) -> &'static str {
    if finding.waived { WAIVED } else { finding.mode.name() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_of_the_contract() {
        let metrics = Metrics::default();
        metrics.config_reloaded(Some(&Settings::default()), "2026-11-22T10:00:00Z".parse().unwrap());
        let timing = Timing { fact: "lease", known: true, took: std::time::Duration::from_millis(3) };
        metrics.decided("validate", &Decision::malformed(String::new(), "why".into(), Mode::Enforce), &[timing], 0.004);
        metrics.certificate_ends("2026-11-22T10:15:00Z".parse().unwrap());
        metrics.certificate_accepted(true);
        metrics.out_of_service(&BTreeMap::from([(State::Stuck, (2, "2026-11-22T10:15:00Z".parse().ok()))]));
        metrics.event(EventOutcome::Dropped);
        let text = metrics.encode().unwrap();
        for line in [
            "# TYPE fencegate_decisions_total counter",
            r#"fencegate_decisions_total{webhook="validate",transition="None",decision="deny",reason="ReviewMalformed"} 1"#,
            r#"fencegate_decisions_total{webhook="mutate",transition="Place",decision="deny",reason="NodeStillReady"} 0"#,
            r#"fencegate_decisions_total{webhook="validate",transition="Release",decision="allow",reason=""} 0"#,
            r#"fencegate_findings_total{webhook="validate",transition="None",reason="ReviewMalformed",mode="enforce"} 1"#,
            r#"fencegate_findings_total{webhook="mutate",transition="Release",reason="NodeNotRecovered",mode="warn"} 0"#,
            r#"fencegate_findings_total{webhook="validate",transition="Place",reason="EvidenceMissing",mode="waived"} 0"#,
            r#"fencegate_check_mode{reason="TooManyNotReady",mode="off"} 1"#,
            "fencegate_decision_duration_seconds_count 1",
            r#"fencegate_fact_read_duration_seconds_count{fact="lease",outcome="known"} 1"#,
            "fencegate_break_glass_total 0",
            "fencegate_certificate_accepted 1",
            "fencegate_certificate_not_after_seconds 1795342500.0",
            "fencegate_certificate_not_after_timestamp_seconds 1795342500.0",
            "fencegate_config_last_reload_success 1",
            "fencegate_config_last_reload_success_timestamp_seconds 1795341600.0",
            "fencegate_audit_write_failures_total 0",
            r#"fencegate_events_total{outcome="dropped"} 1"#,
            r#"fencegate_events_total{outcome="sent"} 0"#,
            "fencegate_watch_leader 0",
            "fencegate_registration_mismatches 0",
            r#"fencegate_out_of_service_nodes{state="Stuck"} 2"#,
            r#"fencegate_out_of_service_nodes{state="InService"} 0"#,
            r#"fencegate_out_of_service_oldest_timestamp_seconds{state="Stuck"} 1795342500.0"#,
            r#"fencegate_auto_releases_total{outcome="released"} 0"#,
            r#"fencegate_build_info{version=""#,
            "# TYPE fencegate_build_info gauge",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        #[cfg(target_os = "linux")]
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"] {
            let line = text.lines().find(|line| line.starts_with(&format!("process_{name} "))).unwrap();
            assert!(line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
        }
    }

    #[test]
    fn a_check_has_one_mode_at_a_time() {
        let metrics = Metrics::default();
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        metrics.config_reloaded(Some(&Settings::default()), now);
        let modes = BTreeMap::from([(Code::NodeStillReady, Mode::Warn)]);
        metrics.config_reloaded(Some(&Settings { modes, ..Settings::default() }), now);
        metrics.config_reloaded(None, now);
        let text = metrics.encode().unwrap();
        let of_check = r#"fencegate_check_mode{reason="NodeStillReady","#;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(of_check)).collect();
        assert_eq!(lines, [r#"fencegate_check_mode{reason="NodeStillReady",mode="warn"} 1"#]);
        let warned = r#"{webhook="mutate",transition="Place",decision="allow",reason="NodeStillReady"} 0"#;
        assert!(text.contains(&format!("fencegate_decisions_total{warned}")), "{text}");
        assert!(text.contains("fencegate_config_last_reload_success 0"), "an older one is in force");
    }
}
