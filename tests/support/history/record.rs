//! L3: while the taint is on, the record does not change; only the gate writes stamps.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    Decision, Law, Violation,
    laws::Judged,
    objects::{BREAK_GLASS_STAMPS, EVIDENCE, Node, OVERRIDDEN_STAMPS, RECORD_STAMPS, REQUIRED, known},
};

/// The longest between the two calls of one write: the API server gives a request at most this
/// long.
const BETWEEN_CALLS: SignedDuration = SignedDuration::from_secs(60);
/// Times are written in whole seconds.
const ROUNDED: SignedDuration = SignedDuration::from_secs(1);

impl Judged<'_> {
    /// L3: while the taint is on, the record does not change. A record may be added whole.
    pub(super) fn frozen(self) -> Vec<Violation> {
        let step = self.step;
        if !step.was_tainted() || !step.is_tainted() {
            return Vec::new();
        }
        let is_added = REQUIRED.iter().all(|key| matches!(step.change(key), (None, Some(_))));
        let may_be_added = |key: &str| {
            let is_evidence = EVIDENCE.contains(&key) && key != "boot-id" && step.change(key).0.is_none();
            is_added && (is_evidence || ["recorded-by", "recorded-at"].contains(&key))
        };
        let frozen = EVIDENCE.into_iter().chain(RECORD_STAMPS).chain(["last-outage"]);
        let changed = frozen.filter(|key| step.changes(key) && !may_be_added(key));
        changed.map(|key| self.violation(Law::Frozen, format!("{key} changed: {:?}", step.change(key)))).collect()
    }

    /// L3: nobody but the gate writes stamps, and no node vouches for itself.
    pub(super) fn record(self, decision: &Decision) -> Vec<Violation> {
        let step = self.step;
        let user = &decision.line.user;
        let mut why = Vec::new();
        let is_node = user.groups.iter().any(|group| group == "system:nodes") || user.name.starts_with("system:node:");
        if is_node && step.new.is_some() && known().any(|key| step.changes(key)) {
            why.push(format!("{} changed the record", user.name));
        }
        let Some(new) = step.new else { return Vec::new() };
        let stamps =
            RECORD_STAMPS.into_iter().chain(BREAK_GLASS_STAMPS).chain(OVERRIDDEN_STAMPS).chain(["last-outage"]);
        for key in stamps.filter(|key| step.changes(key)) {
            if !self.is_the_gates(key, new, decision) {
                why.push(format!("the gate did not write {key}: {:?}", step.change(key)));
            }
        }
        if step.was_tainted() && !step.is_tainted() {
            let left: Vec<&str> =
                EVIDENCE.into_iter().chain(RECORD_STAMPS).filter(|key| new.gate(key).is_some()).collect();
            if !left.is_empty() || !step.changes("last-outage") {
                why.push(format!("a release left {left:?}, last-outage {:?}", new.gate("last-outage")));
            }
        }
        why.into_iter().map(|why| self.violation(Law::Honest, why)).collect()
    }

    /// Whether the gate wrote or removed this stamp with this write.
    fn is_the_gates(self, key: &str, new: &Node, decision: &Decision) -> bool {
        let step = self.step;
        let user = decision.line.user.name.as_str();
        let (is_placed, is_released) =
            (!step.was_tainted() && step.is_tainted(), step.was_tainted() && !step.is_tainted());
        let Some(value) = new.gate(key) else {
            return match key {
                "break-glass-by" | "break-glass-at" => new.gate("break-glass").is_none(),
                "last-outage" => !step.was_tainted(),
                _ if OVERRIDDEN_STAMPS.contains(&key) => !new.has_any(&OVERRIDDEN_STAMPS),
                _ => is_released || !new.has_any(&EVIDENCE),
            };
        };
        let is_now = || value.parse().is_ok_and(|time| self.is_now(time, decision.at));
        let is_recorded = !is_released && EVIDENCE.iter().any(|key| step.changes(key));
        match key {
            "recorded-by" => is_recorded && value == user,
            "recorded-at" => is_recorded && is_now(),
            "placed-by" => is_placed && value == user,
            "placed-at" => is_placed && is_now(),
            "source" => is_placed,
            "break-glass-by" => step.changes("break-glass") && value == user,
            "break-glass-at" => step.changes("break-glass") && is_now(),
            "overridden" => new.gate("overridden-by") == Some(user),
            "overridden-by" => value == user,
            "overridden-at" => is_now(),
            "last-outage" => is_released && self.is_the_outage(value, user, decision.at),
            _ => false,
        }
    }

    /// Whether a replica can have written this time with this decision.
    fn is_now(self, time: Timestamp, at: Timestamp) -> bool {
        self.history.clocks.iter().any(|clock| {
            let ago = at.duration_since(time - *clock);
            -ROUNDED <= ago && ago <= BETWEEN_CALLS + ROUNDED
        })
    }

    /// Whether this tells the outage that ends.
    fn is_the_outage(self, value: &str, user: &str, at: Timestamp) -> bool {
        let Ok(Value::Object(told)) = serde_json::from_str(value) else { return false };
        let text = |key: &str| told.get(key).and_then(Value::as_str);
        let camel = |key: &str| {
            let (first, rest) = key.split_once('-').unwrap_or((key, ""));
            format!("{first}{}{}", rest.get(..1).unwrap_or_default().to_uppercase(), rest.get(1..).unwrap_or_default())
        };
        let is_told = |key: &str| text(&camel(key)) == self.step.change(key).0;
        let is_now = text("releasedAt").and_then(|at| at.parse().ok()).is_some_and(|time| self.is_now(time, at));
        EVIDENCE.into_iter().chain(RECORD_STAMPS).all(is_told) && text("releasedBy") == Some(user) && is_now
    }
}
