//! What the Events about a Node add to its record: what was denied. What was done is on record.

use super::Entry;
use crate::{cluster::events::ToldEvent, events::transition_denied, policy::reason::Code};

/// The denial that an Event tells.
pub(super) fn entry(node: &str, event: &ToldEvent) -> Option<Entry> {
    let transition = transition_denied(&event.action)?;
    // As `events::of_decision` writes it: who, and the checks that failed.
    let (user, reasons) = event.note.rsplit_once(": ").unwrap_or(("", &event.reason));
    let is_known = |reason: &&str| Code::ALL.iter().any(|code| code.name() == *reason);
    let mut reasons: Vec<String> = reasons.split(", ").filter(is_known).map(str::to_owned).collect();
    if event.count() > 1 {
        reasons.push(format!("x{}", event.count()));
    }
    Some(Entry {
        time: event.last()?,
        node: node.to_owned(),
        user: user.to_owned(),
        does: vec![transition.name().to_owned()],
        decision: "deny".to_owned(),
        reasons,
        dry_run: false,
        webhook: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_denial_is_told_with_its_user_and_how_often_it_happened() {
        let event: ToldEvent = from_value(json!({
            "action": "DenyOutOfService", "reason": "NodeStillReady", "eventTime": "2026-11-22T10:10:00.000000Z",
            "note": "system:serviceaccount:far:manager: NodeStillReady, EvidenceMissing",
            "series": {"count": 3, "lastObservedTime": "2026-11-22T10:12:00.000000Z"},
        }))
        .unwrap();
        let entry = entry("n1", &event).unwrap();
        assert_eq!(entry.time, "2026-11-22T10:12:00Z".parse().unwrap());
        assert_eq!(
            (entry.user.as_str(), entry.does.as_slice()),
            ("system:serviceaccount:far:manager", &["Place".to_owned()][..])
        );
        assert_eq!(entry.reasons, ["NodeStillReady", "EvidenceMissing", "x3"]);
    }

    #[test]
    fn what_was_done_is_told_by_the_record_and_what_the_watcher_saw_is_no_write() {
        for action in ["PutOutOfService", "ReturnToService", "RecordFence", "WatchOutOfService", "WouldDenyRelease"] {
            let event: ToldEvent =
                from_value(json!({"action": action, "eventTime": "2026-11-22T10:10:00.000000Z"})).unwrap();
            assert_eq!(entry("n1", &event), None, "{action}");
        }
    }
}
