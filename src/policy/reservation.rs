//! What the gate writes before it allows a placement: the Lease `fencegate-budget` with the node in
//! it. It keeps two placements that are judged at the same time from passing `place.maxNodes`
//! together.
//!
//! Each placement reads the Lease before it is judged and replaces the version that it read before
//! it is allowed. Of two at once, one loses the update conflict, and is judged again with the other
//! one's node in the Lease.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    decision::Decision,
    facts::Facts,
    object::budget::{ADMITTED, NAME},
    review::{Review, Webhook},
    transition::Transition,
};

/// The next content of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The version that it replaces. `None`: the Lease does not exist yet.
    pub replaces: Option<String>,
    /// When each node was entered, by name.
    pub entries: BTreeMap<String, Timestamp>,
}

impl Reservation {
    /// The Lease to store in this namespace.
    pub fn lease(&self, namespace: &str) -> Value {
        let entries: BTreeMap<&str, String> =
            self.entries.iter().map(|(name, at)| (name.as_str(), at.to_string())).collect();
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "resourceVersion": self.replaces,
                "annotations": {ADMITTED: json!(entries).to_string()},
            },
        })
    }
}

/// What must be written before this decision may be answered. `None` if nothing must be: only the
/// validating webhook, which judges last, enters a node, and not on a dry run. The Lease is read
/// only where `place.maxNodes` applies.
pub fn reservation(webhook: Webhook, review: &Review, decision: &Decision, facts: &Facts) -> Option<Reservation> {
    let places = decision.transitions.contains(Transition::Place);
    if webhook != Webhook::Validate || review.dry_run || !decision.allowed || !places {
        return None;
    }
    let budget = facts.budget.value().ok()?;
    let mut entries = budget.recent()?;
    entries.insert(decision.node.clone(), budget.date);
    Some(Reservation { replaces: budget.version(), entries })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{
        facts::{BudgetAnswer, Observed},
        review::Content,
        transition::Transitions,
    };

    const NOW: &str = "2026-11-22T10:20:00Z";

    fn review(dry_run: bool) -> Review {
        Review { dry_run, content: Content::Unrelated, ..Review::malformed("u".into(), String::new()) }
    }

    fn placement(allowed: bool) -> Decision {
        let node = |taints| serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap();
        let (old, new) = (node(json!([])), node(json!([{"key": "node.kubernetes.io/out-of-service"}])));
        let transitions = Transitions::of(&crate::policy::request::Write::Update { old, new });
        Decision { node: "n1".into(), transitions, allowed, ..Decision::unrelated() }
    }

    /// The Lease holds `n1` and `n2` from 30 s and `n3` from 31 s ago.
    fn facts() -> Facts {
        let entries = r#"{"n1":"2026-11-22T10:19:30Z","n2":"2026-11-22T10:19:30Z","n3":"2026-11-22T10:19:29Z"}"#;
        let lease = json!({"metadata": {"resourceVersion": "7", "annotations": {"fencegate.dev/admitted": entries}}});
        known(Some(lease))
    }

    fn known(lease: Option<serde_json::Value>) -> Facts {
        let date = NOW.parse().unwrap();
        let lease = lease.map(|lease| serde_json::from_value(lease).unwrap());
        Facts { budget: Observed::Known { at: date, value: BudgetAnswer { date, lease } }, ..Facts::at(date) }
    }

    #[test]
    fn an_allowed_placement_enters_its_node_and_drops_what_is_older_than_30_seconds() {
        let written = reservation(Webhook::Validate, &review(false), &placement(true), &facts()).unwrap();
        assert_eq!(written.replaces.as_deref(), Some("7"));
        let entries: Vec<(&str, String)> =
            written.entries.iter().map(|(name, at)| (name.as_str(), at.to_string())).collect();
        assert_eq!(entries, [("n1", NOW.to_owned()), ("n2", "2026-11-22T10:19:30Z".to_owned())]);
    }

    #[test]
    fn a_lease_that_does_not_exist_is_created() {
        let written = reservation(Webhook::Validate, &review(false), &placement(true), &known(None)).unwrap();
        assert_eq!((written.replaces, written.entries.len()), (None, 1));
    }

    #[test]
    fn nothing_else_enters_a_node() {
        let none = |webhook, dry_run, decision: &Decision, facts: &Facts| {
            assert_eq!(reservation(webhook, &review(dry_run), decision, facts), None, "{webhook:?} {decision:?}");
        };
        none(Webhook::Mutate, false, &placement(true), &facts());
        none(Webhook::Validate, true, &placement(true), &facts());
        none(Webhook::Validate, false, &placement(false), &facts());
        none(Webhook::Validate, false, &Decision { node: "n1".into(), ..Decision::unrelated() }, &facts());
        none(Webhook::Validate, false, &placement(true), &Facts::at(NOW.parse().unwrap()));
    }

    #[test]
    fn the_lease_names_the_version_that_it_replaces_and_has_the_nodes() {
        let at: Timestamp = NOW.parse().unwrap();
        let reservation = Reservation { replaces: Some("7".into()), entries: [("n1".to_owned(), at)].into() };
        let lease = reservation.lease("gate");
        let metadata = &lease["metadata"];
        assert_eq!(
            (&metadata["name"], &metadata["namespace"], &metadata["resourceVersion"]),
            (&json!(NAME), &json!("gate"), &json!("7"))
        );
        assert_eq!(metadata["annotations"][ADMITTED], json!({"n1": NOW}).to_string());
        assert_eq!(lease["kind"], "Lease");
    }
}
