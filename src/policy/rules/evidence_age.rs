//! `EvidenceExpired` and `EvidenceInFuture`: evidence must belong to this outage, so it must not be
//! too old. A time in the future comes from a clock that is wrong.

use jiff::{SignedDuration, Timestamp};

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::FENCED_AT,
    assessment::{Assessment, age},
    facts::{Fact, lease_name},
    proposal::Proposal,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const EXPIRED: Rule = Rule {
    code: Code::EvidenceExpired,
    applies: |proposal| proposal.does(Transition::Place),
    needs: no_facts,
    check: |assessment| {
        let max_age = assessment.proposal.settings.max_age;
        judge(assessment, assessment.fence_times(), |fenced_at, age| {
            (age > max_age).then_some(Reason::EvidenceExpired { fenced_at, age, max_age })
        })
    },
};

/// Whoever records a time that cannot be right is told at once, not only when the taint is placed.
/// Until then, every renewal before that time would seem to come from before the fence. So a time
/// is recorded only if the API server's clock is known: a replica's own may be minutes ahead.
pub(super) const IN_FUTURE: Rule = Rule {
    code: Code::EvidenceInFuture,
    applies: |proposal| proposal.does(Transition::Place) || proposal.writes(FENCED_AT),
    needs: |proposal| if records_time(proposal) { vec![Fact::Lease] } else { Vec::new() },
    check: |assessment| {
        let Assessment { proposal, facts, .. } = assessment;
        if let (true, Err(why)) = (records_time(proposal), facts.lease.value()) {
            return Outcome::unknown(lease_name(&proposal.request.node), why);
        }
        let clock_skew = proposal.settings.clock_skew;
        let recorded = assessment.recorded_time().filter(|_| proposal.writes(FENCED_AT));
        judge(assessment, assessment.fence_times().into_iter().chain(recorded), |fenced_at, age| {
            (-age > clock_skew).then_some(Reason::EvidenceInFuture { fenced_at, ahead: -age, clock_skew })
        })
    },
};

/// Whether the write records the time of a fence of a stored Node. On CREATE there is no Lease.
fn records_time(proposal: &Proposal<'_>) -> bool {
    proposal.writes(FENCED_AT) && proposal.request.write.before().is_some()
}

fn judge(
    assessment: &Assessment<'_>,
    times: impl IntoIterator<Item = Timestamp>,
    verdict: impl Fn(Timestamp, SignedDuration) -> Option<Reason>,
) -> Outcome {
    let failed = times.into_iter().find_map(|at| verdict(at, age(assessment.facts, at)));
    Outcome { failed, ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, placing, run, update},
        *,
    };
    use crate::policy::facts::{FactValue, LeaseAnswer};

    #[test]
    fn by_default_a_fence_may_be_24_hours_old_and_10_seconds_ahead() {
        for (fenced_at, expired, in_future) in [
            ("2026-11-21T10:19:59.999Z", true, false),
            ("2026-11-21T10:20:00Z", false, false),
            ("2026-11-22T10:20:10Z", false, false),
            ("2026-11-22T10:20:10.001Z", false, true),
            ("2026-11-22T11:20:00+01:00", false, false),
            ("9999-12-01T00:00:00Z", false, true),
            ("0001-01-01T00:00:00Z", true, false),
        ] {
            let mut annotations = evidence();
            annotations["fencegate.dev/fenced-at"] = fenced_at.into();
            assert_eq!(fails(&EXPIRED, &placing(&annotations), &facts()), expired, "{fenced_at} expired");
            assert_eq!(fails(&IN_FUTURE, &placing(&annotations), &facts()), in_future, "{fenced_at} in future");
        }
    }

    #[test]
    fn a_recorded_time_is_judged_by_the_api_servers_clock_and_not_by_the_replicas() {
        let mut annotations = evidence();
        annotations["fencegate.dev/fenced-at"] = "2026-11-22T10:20:05Z".into();
        let request = update(node(false, evidence()), node(false, annotations));
        let mut facts = facts();
        assert!(!run(&IN_FUTURE, &request, &facts).unwrap().unread.is_empty(), "its clock is not known");
        for (date, fails_) in [("2026-11-22T10:16:00Z", true), ("2026-11-22T10:20:00Z", false)] {
            facts.learn(facts.now, FactValue::Lease(LeaseAnswer { date: date.parse().unwrap(), lease: None }));
            assert_eq!(fails(&IN_FUTURE, &request, &facts), fails_, "{date}");
        }
    }

    #[test]
    fn fenced_at_is_judged_even_if_the_other_evidence_is_missing() {
        let annotations = serde_json::json!({"fencegate.dev/fenced-at": "2026-11-01T00:00:00Z"});
        assert!(fails(&EXPIRED, &placing(&annotations), &facts()));
    }
}
