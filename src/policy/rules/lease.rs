//! `LeaseStillRenewed`: the machine must have been silent for a whole lease duration, and since the
//! recorded fence.
//!
//! A machine that is dead loses nothing by the wait: pod GC also waits until the node is not ready.
//! Without it, evidence that is timed "now" would always be later than the last renewal, and a live
//! machine could be put out of service between two renewals.
//!
//! A kubelet that cannot write its Lease may still report its status: a report later than the last
//! renewal counts as well.
//!
//! The suspect machine's own clock decides nothing, and neither does the gate's: both times are the
//! API server's.

use jiff::{SignedDuration, Timestamp};

use super::{Outcome, Rule};
use crate::policy::{
    assessment::{Assessment, is_overtaken},
    facts::{Fact, LeaseAnswer, SignOfLife, lease_name},
    object::node::Node,
    reason::{Code, Reason, Renewal},
    text::Span,
};

/// How old a Node must be before a Lease that says nothing counts as run out. A kubelet creates its
/// Lease within seconds.
const SETTLED: SignedDuration = SignedDuration::from_mins(5);
/// How long `Ready` must have been `Unknown` before a Lease that says nothing counts as run out:
/// the time after which the node controller gives up on a kubelet's default Lease.
const UNKNOWN_FOR: SignedDuration = SignedDuration::from_secs(40);

pub(super) const RULE: Rule = Rule {
    code: Code::LeaseStillRenewed,
    applies: |proposal| proposal.adds_entry(),
    // On CREATE there is no machine whose Lease could tell something.
    needs: |proposal| if proposal.request.write.before().is_some() { vec![Fact::Lease] } else { Vec::new() },
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let Assessment { proposal, facts, .. } = assessment;
    let what = lease_name(&proposal.request.node);
    let Some(stored) = proposal.request.write.before() else {
        return Outcome::silent(what, "nothing is known about the machine of a Node that does not exist yet");
    };
    let answer = match facts.lease.value() {
        Ok(answer) => answer,
        Err(why) => return Outcome::unknown(what, why),
    };
    let clock_skew = proposal.settings.clock_skew;
    let sign = SignOfLife::last(stored, answer, clock_skew);
    match (sign.and_then(|sign| refuted(assessment, answer, sign)), answer.last_renewal(clock_skew)) {
        (Some(reason), _) => Outcome::fail(reason),
        (None, Some(_)) => Outcome::pass(),
        (None, None) => match says_nothing(stored, answer, clock_skew) {
            None => Outcome::pass(),
            Some(why) => Outcome::silent(what, &why),
        },
    }
}

/// How long ago the node last renewed its Lease, if that is known.
pub(super) fn silence(Assessment { proposal, facts, .. }: &Assessment<'_>) -> Option<SignedDuration> {
    let answer = facts.lease.value().ok()?;
    Some(answer.date.duration_since(answer.last_renewal(proposal.settings.clock_skew)?))
}

/// How the last sign of life contradicts the fence.
fn refuted(assessment: &Assessment<'_>, answer: &LeaseAnswer, sign: SignOfLife) -> Option<Reason> {
    let clock_skew = assessment.proposal.settings.clock_skew;
    let silence = answer.runs_out_after(clock_skew);
    let age = answer.date.duration_since(sign.at);
    let runs_out_after = (age < silence).then_some(silence);
    // Without a fence to judge, an entry that is added needs silence alone.
    let fenced_at = assessment.fence_times().into_iter().find(|at| is_overtaken(*at, sign, clock_skew));
    if runs_out_after.is_none() && fenced_at.is_none() {
        return None;
    }
    let by_machine = answer.lease.as_ref().and_then(|lease| lease.spec.renew_time).filter(|_| !sign.of_status);
    let by_machine = by_machine.filter(|time| time.duration_since(sign.at).abs() > clock_skew);
    let renewal = Renewal { sign, age, by_machine };
    Some(Reason::LeaseStillRenewed { renewal, runs_out_after, fenced_at })
}

/// Why a Lease that says nothing does not count as run out yet, and what to wait for. A Lease can
/// be deleted, and its absence must not clear the objection of a machine that runs.
fn says_nothing(stored: &Node, answer: &LeaseAnswer, clock_skew: SignedDuration) -> Option<String> {
    let lacks = match &answer.lease {
        None => "it does not exist".to_owned(),
        Some(lease) => match lease.renewed_at() {
            Some(at) => format!(
                "it was renewed at {at}, {} ahead of the API server's clock",
                Span(at.duration_since(answer.date))
            ),
            None => "it does not say when it was renewed".to_owned(),
        },
    };
    let since = |time: Option<Timestamp>| time.map(|time| answer.date.duration_since(time));
    // A Lease can lose its managed fields for good. The machine's own clock cannot show that it is
    // dead, but a time of just now shows that somebody renews.
    let by_machine = answer.lease.as_ref().filter(|lease| lease.renewed_at().is_none());
    let silence = answer.runs_out_after(clock_skew);
    let renewed = by_machine.and_then(|lease| lease.spec.renew_time);
    if let Some(time) = renewed.filter(|time| answer.date.duration_since(*time).abs() < silence) {
        return Some(format!(
            "it does not say when it was stored, and the machine's clock said {time}: that must be {} ago",
            Span(silence)
        ));
    }
    let is_settled = since(stored.metadata.creation_timestamp).is_some_and(|age| age > SETTLED);
    let is_silent = stored.status.conditions.iter().all(|ready| {
        ready.status == "Unknown" && since(ready.last_transition_time).is_some_and(|age| age > UNKNOWN_FOR)
    });
    let is_silent =
        is_silent && answer.date.checked_sub(UNKNOWN_FOR).is_ok_and(|before| stored.is_ready_status_older_than(before));
    (!is_settled || !is_silent).then(|| {
        format!(
            "{lacks}; without it, the node must be older than {} and Ready=Unknown for more than {}",
            Span(SETTLED),
            Span(UNKNOWN_FOR)
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::testing::{evidence, facts, fails, node, placing, run, update},
        *,
    };
    use crate::policy::{
        facts::{Facts, Observed},
        object::{
            lease::Lease,
            node::{CLOUD_SHUTDOWN, Taint},
        },
    };

    /// The API server's answer at 10:20:00 about a Lease with this duration, which it stored at
    /// this time.
    fn lease(stored_at: &str, duration: &Value) -> Facts {
        let entry = json!({"time": stored_at, "fieldsV1": {"f:spec": {"f:renewTime": {}}}});
        answered(Some(json!({"metadata": {"managedFields": [entry]},
            "spec": {"renewTime": "2026-11-22T10:15:00Z", "leaseDurationSeconds": duration}})))
    }

    fn answered(lease: Option<Value>) -> Facts {
        let lease = lease.map(|lease| serde_json::from_value::<Lease>(lease).unwrap());
        let now = facts().now;
        Facts { lease: Observed::Known { at: now, value: LeaseAnswer { date: now, lease } }, ..facts() }
    }

    /// The stored Node: created at this time, with these conditions.
    fn stored(created: Option<&str>, conditions: &Value) -> Node {
        let mut node = node(false, evidence());
        node.metadata.creation_timestamp = created.map(|time| time.parse().unwrap());
        node.status.conditions = serde_json::from_value(conditions.clone()).unwrap();
        node
    }

    #[test]
    fn a_lease_must_be_silent_for_its_duration_and_the_clock_skew() {
        for (duration, stored_at, expected) in [
            (json!(40), "2026-11-22T10:19:11Z", true),
            (json!(40), "2026-11-22T10:19:10Z", false),
            (Value::Null, "2026-11-22T10:19:11Z", true),
            (Value::Null, "2026-11-22T10:19:10Z", false),
            (json!(1), "2026-11-22T10:19:50Z", true),
            (json!(1), "2026-11-22T10:19:49Z", false),
            (json!(86_400), "2026-11-22T10:14:51Z", true),
            (json!(86_400), "2026-11-22T10:14:50Z", false),
        ] {
            for annotations in [json!({}), evidence()] {
                let mut annotations = annotations;
                if annotations["fencegate.dev/fenced-at"].is_string() {
                    annotations["fencegate.dev/fenced-at"] = json!("2026-11-22T10:20:00Z");
                }
                let facts = lease(stored_at, &duration);
                assert_eq!(fails(&RULE, &placing(&annotations), &facts), expected, "{duration} {stored_at}");
            }
        }
    }

    #[test]
    fn the_machines_clock_is_told_if_it_is_wrong_by_more_than_the_clock_skew() {
        for (stored_at, is_told) in [
            ("2026-11-22T10:14:49Z", true),
            ("2026-11-22T10:14:50Z", false),
            ("2026-11-22T10:15:10Z", false),
            ("2026-11-22T10:15:11Z", true),
        ] {
            let mut fenced_before = evidence();
            fenced_before[crate::policy::annotation::FENCED_AT] = "2026-11-22T10:10:00Z".into();
            let failed = run(&RULE, &placing(&fenced_before), &lease(stored_at, &json!(40))).unwrap().failed;
            let Some(Reason::LeaseStillRenewed { renewal, .. }) = failed else { panic!("{stored_at}: {failed:?}") };
            assert_eq!(renewal.by_machine.is_some(), is_told, "{stored_at}");
        }
    }

    #[test]
    fn a_renewal_after_the_fence_and_the_clock_skew_contradicts_the_fence() {
        for (stored_at, expected) in [
            ("2026-11-22T10:14:50Z", false),
            ("2026-11-22T10:15:10Z", false),
            ("2026-11-22T10:15:11Z", true),
            ("2026-11-22T10:19:00Z", true),
        ] {
            assert_eq!(fails(&RULE, &placing(&evidence()), &lease(stored_at, &json!(40))), expected, "{stored_at}");
        }
    }

    #[test]
    fn for_a_source_without_a_time_the_lease_must_have_run_out() {
        let mut stopped = node(false, json!({}));
        stopped.spec.taints.push(Taint { key: CLOUD_SHUTDOWN.into(), ..Taint::default() });
        let request = update(stopped, node(true, json!({})));
        for (stored_at, expected) in [("2026-11-22T10:19:10Z", false), ("2026-11-22T10:19:11Z", true)] {
            assert_eq!(fails(&RULE, &request, &lease(stored_at, &json!(40))), expected, "{stored_at}");
        }
    }

    #[test]
    fn a_lease_that_says_nothing_counts_as_run_out_only_for_an_old_node_that_is_silent() {
        let silent = json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T10:19:19Z"}]);
        let young = json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T10:19:20Z"}]);
        let (old, new) = (Some("2026-11-22T10:14:59Z"), Some("2026-11-22T10:15:00Z"));
        for (created, conditions, passes) in [
            (old, silent.clone(), true),
            (old, json!([]), true),
            (new, silent.clone(), false),
            (new, json!([]), false),
            (None, silent, false),
            (old, young, false),
            (old, json!([{"type": "Ready", "status": "Unknown"}]), false),
            (old, json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-22T10:15:00Z"}]), false),
        ] {
            let request = update(stored(created, &conditions), node(true, evidence()));
            let never = answered(Some(json!({"metadata": {"managedFields": []}, "spec": {}})));
            for facts in [answered(None), never, lease("2026-11-22T10:20:11Z", &json!(40))] {
                let outcome = run(&RULE, &request, &facts).unwrap();
                assert_eq!(outcome.unread.is_empty(), passes, "{created:?} {conditions}: {outcome:?}");
                assert_eq!(outcome.failed, None);
            }
        }
    }

    #[test]
    fn a_lease_without_managed_fields_never_shows_silence_but_shows_a_renewal() {
        let silent = json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T10:15:00Z"}]);
        let request = update(stored(Some("2026-03-02T08:00:00Z"), &silent), node(true, evidence()));
        for (renew_time, passes) in [
            ("2026-11-22T10:19:11Z", false),
            ("2026-11-22T10:19:10Z", true),
            ("2026-11-22T10:20:49Z", false),
            ("2026-11-22T10:20:50Z", true),
        ] {
            let facts = answered(Some(json!({"spec": {"renewTime": renew_time, "leaseDurationSeconds": 40}})));
            let outcome = run(&RULE, &request, &facts).unwrap();
            assert_eq!((outcome.unread.is_empty(), outcome.failed.is_none()), (passes, true), "{renew_time}");
        }
    }

    #[test]
    fn a_ready_condition_that_was_just_written_or_removed_shows_no_silence() {
        let silent = json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T10:00:00Z"}]);
        let entry = |time: &str| json!({"time": time, "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:status": {}}}}}});
        let others = json!({"time": "2026-11-22T10:20:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}});
        for (conditions, boot, managed, passes) in [
            (silent.clone(), "boot-1", json!([entry("2026-11-22T10:19:19Z"), others]), true),
            (silent.clone(), "boot-1", json!([entry("2026-11-22T10:19:20Z")]), false),
            (silent.clone(), "boot-1", json!([entry("2026-11-22T10:14:00Z"), entry("2026-11-22T10:19:59Z")]), false),
            (silent, "boot-1", Value::Null, true),
            (json!([]), "boot-1", json!([others]), false),
            (json!([]), "", json!([others]), true),
            (json!([]), "boot-1", Value::Null, true),
        ] {
            let mut old = stored(Some("2026-03-02T08:00:00Z"), &conditions);
            old.status.node_info.boot_id = boot.into();
            old.metadata.managed_fields =
                serde_json::from_value::<Node>(json!({"metadata": {"managedFields": managed}}))
                    .unwrap()
                    .metadata
                    .managed_fields;
            let outcome = run(&RULE, &update(old, node(true, evidence())), &answered(None)).unwrap();
            assert_eq!(outcome.unread.is_empty(), passes, "{conditions} {boot} {managed}");
        }
    }

    #[test]
    fn a_lease_stored_within_the_clock_skew_ahead_is_young() {
        assert!(fails(&RULE, &placing(&evidence()), &lease("2026-11-22T10:20:10Z", &json!(40))));
    }

    #[test]
    fn an_entry_that_is_added_later_needs_silence_alone() {
        let one = node(true, evidence());
        let mut two = one.clone();
        two.spec.taints.push(Taint { effect: "NoSchedule".into(), ..one.spec.taints[0].clone() });
        let amend = update(one.clone(), two.clone());
        assert!(fails(&RULE, &amend, &lease("2026-11-22T10:19:11Z", &json!(40))));
        assert!(!fails(&RULE, &amend, &lease("2026-11-22T10:19:10Z", &json!(40))), "though it is later than the fence");
        assert_eq!(run(&RULE, &update(two, one), &facts()), None, "an entry that goes needs no silence");
    }

    #[test]
    fn a_lease_that_was_not_read_is_unknown() {
        let unread = run(&RULE, &placing(&evidence()), &facts()).unwrap().unread;
        assert_eq!(unread[0].to_string(), "Lease kube-node-lease/n1 could not be read: it was not read");
    }

    #[test]
    fn a_wrong_clock_of_the_machine_is_told_and_not_believed() {
        let reason = |skewed| {
            let mut facts = lease("2026-11-22T10:19:50Z", &json!(40));
            if let Observed::Known { value: LeaseAnswer { lease: Some(lease), .. }, .. } = &mut facts.lease {
                lease.spec.renew_time = Some(skewed);
            }
            run(&RULE, &placing(&json!({})), &facts).unwrap().failed.unwrap().to_string()
        };
        let right = reason("2026-11-22T10:19:50.5Z".parse().unwrap());
        assert!(right.starts_with("the node renewed its Lease 10s ago at 2026-11-22T10:19:50Z;"), "{right}");
        let slow = reason("2026-11-22T09:19:50Z".parse().unwrap());
        assert!(slow.contains("its own wrong clock said 2026-11-22T09:19:50Z"), "{slow}");
    }
}
