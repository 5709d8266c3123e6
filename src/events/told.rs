//! Which Events a decision is worth, and what they say. Pure.
//!
//! A denial is told by the webhook that denied. What was allowed is told by the validating webhook,
//! which is called last; something may refuse the write even after it, so the note says `admitted`.

use super::Event;
use crate::policy::{
    Decision, Finding,
    annotation::{FENCED_AT, FENCED_BY, METHOD, PLACED_AT},
    evidence::parse_time,
    object::node::Node,
    reason::{Code, Mode},
    request::{OnNode, Write},
    review::{Review, Webhook},
    text::{Foreign, Span, quoted},
    transition::Transition,
};

/// The words for one kind of write, in the names of Events.
struct Actions {
    /// It happens.
    done: &'static str,
    /// It is denied.
    denied: &'static str,
    /// It would be denied if the check were enforced.
    would_be_denied: &'static str,
}

impl Actions {
    fn of(transition: Transition) -> Self {
        let [done, denied, would_be_denied] = match transition {
            Transition::Place | Transition::Amend => ["PutOutOfService", "DenyOutOfService", "WouldDenyOutOfService"],
            Transition::Release => ["ReturnToService", "DenyRelease", "WouldDenyRelease"],
            Transition::Delete | Transition::DeleteUntainted => ["DeleteNode", "DenyDeletion", "WouldDenyDeletion"],
            Transition::ForceDelete => ["ForceDeletePod", "DenyForceDeletion", "WouldDenyForceDeletion"],
            Transition::Detach => ["DetachVolume", "DenyDetachment", "WouldDenyDetachment"],
            Transition::Attest => ["RecordFence", "DenyRecord", "WouldDenyRecord"],
        };
        Self { done, denied, would_be_denied }
    }
}

/// The transition that an Event with this action tells the denial of. Of two transitions that have
/// one action, the more consequential one.
pub fn transition_denied(action: &str) -> Option<Transition> {
    Transition::ALL.into_iter().find(|transition| Actions::of(*transition).denied == action)
}

/// The Events about a decision. None for a dry run, and none about a Node that is not stored yet.
pub fn of_decision(webhook: Webhook, review: &Review, decision: &Decision) -> Vec<Event> {
    let Some(request) = review.request().filter(|_| !review.dry_run) else { return Vec::new() };
    let (Some(transition), Some(stored)) = (decision.transitions.first(), request.write.before()) else {
        return Vec::new();
    };
    if stored.metadata.uid.is_empty() {
        return Vec::new();
    }
    let on_node = request.write.on_node().map(|OnNode { kind, name }| format!(", {kind} {}", Foreign::from(name)));
    let user = format!("{}{}", Foreign::from(review.user.name.as_str()), on_node.unwrap_or_default());
    let actions = Actions::of(transition);
    let event = |action, reason, is_warning, note, is_repeated_by_automation| Event {
        node: request.node.clone(),
        uid: stored.metadata.uid.clone(),
        action,
        reason,
        is_warning,
        note,
        is_repeated_by_automation,
    };
    if !decision.allowed {
        let reason = decision.leading_code().map_or("Denied", Code::name);
        return vec![event(actions.denied, reason, true, format!("{user}: {}", names(&decision.codes())), true)];
    }
    if webhook == Webhook::Mutate {
        return Vec::new();
    }
    let warned = of_mode(decision, |finding| finding.mode == Mode::Warn);
    let would_be_denied = warned
        .first()
        .map(|code| event(actions.would_be_denied, code.name(), false, format!("{user}: {}", names(&warned)), true));
    let done = if let Some(why) = decision.break_glass.used() {
        let waived = of_mode(decision, |finding| finding.waived);
        let note = format!("admitted: {user}, against {}: {}", names(&waived), quoted(why));
        Some(event(actions.done, "BreakGlass", true, note, false))
    } else {
        told(transition, &request.write, decision, &user)
            .map(|(reason, note)| event(actions.done, reason, false, format!("admitted: {note}"), false))
    };
    done.into_iter().chain(would_be_denied).collect()
}

/// The reason and the note of what is done in the order of the procedure.
fn told(transition: Transition, write: &Write, decision: &Decision, user: &str) -> Option<(&'static str, String)> {
    let (before, after) = (write.before()?, write.after());
    match transition {
        Transition::Place => {
            let Some(source) = decision.source() else {
                return Some(("Unvouched", format!("{user}; no source vouches")));
            };
            let fence = after.map_or(String::new(), |after| format!(" ({})", fence(after)));
            Some(("Vouched", format!("{user}; vouched by {}{fence}", source.name())))
        }
        Transition::Release => {
            let placed_at = before.annotation(PLACED_AT).and_then(parse_time);
            let out_for = placed_at.zip(decision.at).map(|(placed, now)| Span(now.duration_since(placed)));
            let out_for = out_for.map_or(String::new(), |span| format!("; out for {span}"));
            Some(("Drained", format!("{user}{out_for}")))
        }
        Transition::Attest => {
            let after = after.filter(|after| after.has_record())?;
            let is_new =
                [METHOD, FENCED_AT, FENCED_BY].iter().any(|key| before.annotation(key) != after.annotation(key));
            let by = Foreign::from(after.annotation(FENCED_BY).unwrap_or_default());
            is_new.then(|| ("EvidenceRecorded", format!("{user}: {} by {by}", fence(after))))
        }
        // The taint stays, with another effect; or the Node goes, and its Events with it; or
        // something goes that nothing speaks against.
        Transition::Amend
        | Transition::Delete
        | Transition::DeleteUntainted
        | Transition::ForceDelete
        | Transition::Detach => None,
    }
}

/// For example `power-off at 2026-11-22T10:15:00Z`.
fn fence(node: &Node) -> String {
    let text = |key| Foreign::from(node.annotation(key).unwrap_or_default());
    format!("{} at {}", text(METHOD), text(FENCED_AT))
}

fn of_mode(decision: &Decision, is_wanted: impl Fn(&Finding) -> bool) -> Vec<Code> {
    let mut codes: Vec<Code> = decision.findings.iter().filter(|finding| is_wanted(finding)).map(code).collect();
    codes.dedup();
    codes
}

fn code(finding: &Finding) -> Code {
    finding.reason.code()
}

fn names(codes: &[Code]) -> String {
    codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{
        decide,
        facts::{FactValue, Facts},
        request::{Request, User},
        review::Content,
        settings::Settings,
    };

    const KEY: &str = "node.kubernetes.io/out-of-service";

    #[expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]
    fn node(is_out: bool, annotations: Value, ready: &str) -> Node {
        let taints = if is_out { json!([{"key": KEY, "effect": "NoExecute"}]) } else { json!([]) };
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "uid": "u1", "annotations": annotations},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn evidence() -> Value {
        json!({
            "fencegate.dev/method": "power-off",
            "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
            "fencegate.dev/fenced-by": "alice, OPS-123",
        })
    }

    fn facts() -> Facts {
        let now = "2026-11-22T10:20:00Z".parse().unwrap();
        let mut facts = Facts::at(now);
        let lease = json!({
            "metadata": {"managedFields": [
                {"time": "2026-11-22T10:10:00Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}},
            ]},
            "spec": {"renewTime": "2026-11-22T10:10:00Z", "leaseDurationSeconds": 40},
        });
        let lease = Some(serde_json::from_value(lease).unwrap());
        facts.learn(now, FactValue::Lease(crate::policy::facts::LeaseAnswer { date: now, lease }));
        facts.learn(now, FactValue::Pods(vec![]));
        facts.learn(now, FactValue::VolumeAttachments(vec![]));
        facts
    }

    /// The Events of a write by alice: action, reason, note.
    fn told_by(webhook: Webhook, write: Write, dry_run: bool, settings: &Settings) -> Vec<String> {
        let user = User { name: "alice".to_owned(), ..User::default() };
        let request = Request { node: "n1".to_owned(), user: user.clone(), write };
        let decision = decide(webhook, &request, &facts(), settings);
        let content = Content::Node(Box::new(request));
        let (operation, subresource) = ("UPDATE".to_owned(), String::new());
        let review = Review { uid: "r".to_owned(), dry_run, operation, subresource, user, content };
        let events = of_decision(webhook, &review, &decision);
        assert!(events.iter().all(|event| event.uid == "u1" && event.node == "n1"));
        events.iter().map(|Event { action, reason, note, .. }| format!("{action} {reason} {note}")).collect()
    }

    fn validated(old: Node, new: Node) -> Vec<String> {
        told_by(Webhook::Validate, Write::Update { old, new }, false, &Settings::default())
    }

    #[test]
    fn the_steps_of_the_procedure_are_told_by_the_validating_webhook() {
        let (bare, recorded) = (node(false, json!({}), "Unknown"), node(false, evidence(), "Unknown"));
        let mut out = evidence();
        for (key, value) in [("placed-by", "alice"), ("placed-at", "2026-11-22T10:16:05Z")] {
            out[format!("fencegate.dev/{key}")] = json!(value);
        }
        assert_eq!(
            validated(bare.clone(), recorded.clone()),
            [r#"RecordFence EvidenceRecorded admitted: alice: power-off at 2026-11-22T10:15:00Z by "alice, OPS-123""#]
        );
        assert_eq!(
            validated(recorded.clone(), node(true, evidence(), "Unknown")),
            ["PutOutOfService Vouched admitted: alice; vouched by annotations (power-off at 2026-11-22T10:15:00Z)"]
        );
        assert_eq!(
            validated(node(true, out, "True"), node(false, json!({}), "True")),
            ["ReturnToService Drained admitted: alice; out for 3m55s"]
        );
        let write = Write::Update { old: bare, new: recorded.clone() };
        assert!(told_by(Webhook::Mutate, write.clone(), false, &Settings::default()).is_empty(), "the other one tells");
        assert!(told_by(Webhook::Validate, write, true, &Settings::default()).is_empty(), "a dry run");
        assert!(validated(recorded.clone(), node(false, json!({}), "Unknown")).is_empty(), "it is withdrawn");
    }

    #[test]
    fn a_denial_is_told_by_the_webhook_that_denied_and_names_every_check() {
        let write = Write::Update { old: node(false, json!({}), "True"), new: node(true, json!({}), "True") };
        for webhook in Webhook::ALL {
            assert_eq!(
                told_by(webhook, write.clone(), false, &Settings::default()),
                ["DenyOutOfService NodeStillReady alice: NodeStillReady, EvidenceMissing"]
            );
        }
        let settings = Settings { mode: Mode::Warn, ..Settings::default() };
        assert_eq!(
            told_by(Webhook::Validate, write, false, &settings),
            [
                "PutOutOfService Unvouched admitted: alice; no source vouches",
                "WouldDenyOutOfService NodeStillReady alice: NodeStillReady, EvidenceMissing",
            ]
        );
    }

    #[test]
    fn nothing_is_told_of_a_node_that_is_not_stored_nor_of_what_is_not_guarded() {
        let new = node(true, json!({}), "Unknown");
        assert!(told_by(Webhook::Validate, Write::Create { new }, false, &Settings::default()).is_empty());
        let same = node(true, json!({}), "Unknown");
        assert!(validated(same.clone(), same).is_empty());
    }
}
