//! `EvidenceExpired` and `EvidenceInFuture`: evidence must belong to this outage, so it must not be
//! too old. A time in the future comes from a clock that is wrong.

use jiff::{SignedDuration, Timestamp};

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::{FENCED_AT, RECORDED_AT},
    assessment::{Assessment, age},
    evidence::parse_time,
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
pub(super) const IN_FUTURE: Rule = Rule {
    code: Code::EvidenceInFuture,
    applies: |proposal| proposal.does(Transition::Place) || proposal.writes(FENCED_AT),
    needs: no_facts,
    check: |assessment| {
        let clock_skew = assessment.proposal.settings.clock_skew;
        let proposal = &assessment.proposal;
        let recorded = assessment.recorded_time().filter(|_| proposal.writes(FENCED_AT));
        // Where the gate wrote the time, it is that of the stamp, by the clock of another replica.
        let stamped = proposal.change(RECORDED_AT).1.filter(|_| proposal.writes(RECORDED_AT)).and_then(parse_time);
        let times = assessment.fence_times().into_iter().chain(recorded).filter(|at| Some(*at) != stamped);
        judge(assessment, times, |fenced_at, age| {
            (-age > clock_skew).then_some(Reason::EvidenceInFuture { fenced_at, ahead: -age, clock_skew })
        })
    },
};

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
        super::testing::{evidence, facts, fails, node, placing, update},
        *,
    };

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
    fn a_time_that_another_replica_wrote_is_not_in_the_future() {
        let mut annotations = evidence();
        for (fenced_at, recorded_at, fails_) in [
            ("2026-11-22T10:24:00Z", "2026-11-22T10:24:00Z", false),
            ("2026-11-22T10:24:00Z", "2026-11-22T10:20:00Z", true),
        ] {
            annotations["fencegate.dev/fenced-at"] = fenced_at.into();
            annotations["fencegate.dev/recorded-at"] = recorded_at.into();
            let request = update(node(false, evidence()), node(false, annotations.clone()));
            assert_eq!(fails(&IN_FUTURE, &request, &facts()), fails_, "{fenced_at} {recorded_at}");
        }
    }

    #[test]
    fn fenced_at_is_judged_even_if_the_other_evidence_is_missing() {
        let annotations = serde_json::json!({"fencegate.dev/fenced-at": "2026-11-01T00:00:00Z"});
        assert!(fails(&EXPIRED, &placing(&annotations), &facts()));
    }
}
