//! `LeaseStillRenewed`: if the kubelet renewed the Lease after the recorded fence, that fence did
//! not stop the node.

use jiff::SignedDuration;

use super::{Outcome, Rule};
use crate::policy::{
    assessment::{Assessment, FenceTime},
    facts::Fact,
    reason::{Code, Reason},
    transition::Transition,
};

/// Seconds, for a Lease without a duration: the kubelet's default (`nodeLeaseDurationSeconds`).
const DEFAULT_DURATION: i32 = 40;

pub(super) const RULE: Rule = Rule {
    code: Code::LeaseStillRenewed,
    applies: |proposal| proposal.does(Transition::Place),
    needs: |_| vec![Fact::Lease],
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let Assessment { proposal, facts, .. } = assessment;
    let Some(fence_time) = assessment.fence_time() else { return Outcome::pass() };
    let lease = match facts.lease.value() {
        Ok(lease) => lease,
        Err(why) => return Outcome::unknown(format!("Lease kube-node-lease/{}", proposal.request.node), why),
    };
    let Some((spec, renew_time)) = lease.as_ref().and_then(|lease| Some((&lease.spec, lease.spec.renew_time?))) else {
        return Outcome::pass();
    };
    let renewed = facts.now.duration_since(renew_time);
    let (contradicted, fenced_at) = if let FenceTime::At(at) = fence_time {
        (renew_time.duration_since(at) > proposal.settings.clock_skew, Some(at))
    } else {
        let duration = spec.lease_duration_seconds.unwrap_or(DEFAULT_DURATION);
        (renewed < SignedDuration::from_secs(duration.into()), None)
    };
    Outcome::fail_if(contradicted, || Reason::LeaseStillRenewed { renewed, fenced_at })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testing::{evidence, facts, fails, node, placing, run, update},
        *,
    };
    use crate::policy::facts::{Facts, Observed};

    fn lease(renew_time: &str) -> Facts {
        let facts = facts();
        let value =
            serde_json::from_value(json!({"spec": {"renewTime": renew_time, "leaseDurationSeconds": 40}})).unwrap();
        Facts { lease: Observed::Known { at: facts.now, value: Some(value) }, ..facts }
    }

    #[test]
    fn a_renewal_after_the_fence_and_the_clock_skew_contradicts_the_fence() {
        for (renew_time, expected) in [
            ("2026-11-22T10:14:50Z", false),
            ("2026-11-22T10:15:10Z", false),
            ("2026-11-22T10:15:10.000001Z", true),
            ("2026-11-22T11:00:00Z", true),
        ] {
            assert_eq!(fails(&RULE, &placing(&evidence()), &lease(renew_time)), expected, "{renew_time}");
        }
    }

    #[test]
    fn if_the_time_of_the_fence_is_unknown_the_lease_must_have_expired() {
        let mut stopped = node(false, json!({}));
        stopped.spec.taints.push(
            serde_json::from_value(json!({"key": crate::policy::object::node::CLOUD_SHUTDOWN, "effect": "NoSchedule"}))
                .unwrap(),
        );
        let request = update(stopped, node(true, json!({})));
        for (renew_time, expected) in
            [("2026-11-22T10:19:20Z", false), ("2026-11-22T10:19:20.000001Z", true), ("2026-11-22T10:21:00Z", true)]
        {
            assert_eq!(fails(&RULE, &request, &lease(renew_time)), expected, "{renew_time}");
        }
    }

    #[test]
    fn a_missing_lease_passes_and_an_unread_lease_is_unknown() {
        let none = Facts { lease: Observed::Known { at: facts().now, value: None }, ..facts() };
        assert_eq!(run(&RULE, &placing(&evidence()), &none), Some(Outcome::pass()));
        let unread = run(&RULE, &placing(&evidence()), &facts()).unwrap().unread;
        assert_eq!(unread[0].to_string(), "Lease kube-node-lease/n1 could not be read: it was not read");
    }

    #[test]
    fn without_a_claimed_fence_the_lease_is_not_judged() {
        assert_eq!(run(&RULE, &placing(&json!({})), &facts()), Some(Outcome::pass()));
    }
}
