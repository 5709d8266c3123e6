//! `StampForged`: only the gate says who wrote what and when. A write may carry a stamp only as the
//! gate would write it, which is what the mutating side's stamps look like to the validating side.

use super::{Outcome, Rule, not_authorized::authorized};
use crate::policy::{
    annotation::{BREAK_GLASS, EVIDENCE, LAST_OUTAGE, METHOD, OVERRIDDEN, STAMPS},
    assessment::Assessment,
    facts::{Fact, Verb},
    proposal::Proposal,
    reason::{Code, Forgery, Reason},
    record::stamp::due,
    source::RecordOrigin,
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::StampForged,
    applies: |proposal| proposal.does(Transition::Attest),
    needs: |proposal| {
        if proposal.writes(OVERRIDDEN) && proposal.break_glass().is_some() {
            vec![Fact::Access(Verb::BreakGlass)]
        } else {
            Vec::new()
        }
    },
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let Assessment { proposal, facts, .. } = assessment;
    let due = due(assessment, proposal.break_glass());
    let is_due = |key: &str, value: &str| due.get(key).is_some_and(|mark| mark.is(value, facts.now));
    let mut stamps: Vec<Forgery> = STAMPS
        .into_iter()
        .filter_map(|key| {
            let why = match proposal.change(key) {
                (before, after) if before == after => None,
                (_, None) => removed_too_early(proposal, key, due.contains_key(METHOD)),
                (_, Some(value)) => (!is_due(key, value)).then_some("is written by the gate alone".to_owned()),
            };
            Some(Forgery { key, why: why? })
        })
        .collect();
    if let (Some(fence), RecordOrigin::Gate(_)) = (assessment.fence(), proposal.origin) {
        // Evidence that the gate wrote out for another source says what that source says.
        let miscopied = |key: &&str| {
            let is_a_copy = proposal.change(key).1.is_some_and(|value| is_due(key, value));
            due.contains_key(key) && proposal.writes(key) && !is_a_copy
        };
        let why = || format!("is not what {} says", fence.source.name());
        stamps.extend(EVIDENCE.into_iter().filter(miscopied).map(|key| Forgery { key, why: why() }));
    }
    let mut unread = Vec::new();
    if proposal.writes(OVERRIDDEN) && !stamps.iter().any(|forged| forged.key == OVERRIDDEN) {
        let access = authorized(assessment, Verb::BreakGlass);
        unread = access.unread;
        let why = || "names a break-glass that the requester may not use".to_owned();
        stamps.extend(access.failed.map(|_| Forgery { key: OVERRIDDEN, why: why() }));
    }
    let failed = (!stamps.is_empty()).then_some(Reason::StampForged { stamps });
    Outcome { failed, unread, ..Outcome::default() }
}

/// Why a stamp may not be removed yet: what it is about is still there. Otherwise a spent
/// break-glass could be used again, and nobody would have recorded the evidence. Evidence that the
/// gate writes out with this write replaces what was there. While the node is out of service,
/// `EvidenceFrozen` speaks for the stamps that are not about this outage.
fn removed_too_early(proposal: &Proposal<'_>, key: &str, is_written_out: bool) -> Option<String> {
    let stays = |key: &str| proposal.change(key).1.is_some();
    if proposal.stays_out_of_service() && [OVERRIDDEN, LAST_OUTAGE].contains(&key) {
        None
    } else if key == OVERRIDDEN && stays(BREAK_GLASS) {
        Some("can only be removed together with the break-glass".to_owned())
    } else if !is_written_out && EVIDENCE.into_iter().any(stays) {
        Some("can only be removed together with the evidence".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::testing::{NOW, by, evidence, facts, fails, node, run, update},
        *,
    };
    use crate::policy::{
        annotation::{FENCED_AT, FENCED_BY, PLACED_AT, PLACED_BY, RECORDED_AT, RECORDED_BY, SOURCE},
        facts::{Access, Observed},
        object::node::{CLOUD_SHUTDOWN, Taint},
        record::outage::Outage,
        request::Write,
    };

    fn with(mut annotations: Value, more: &[(&str, &str)]) -> Value {
        for (key, value) in more {
            annotations[*key] = (*value).into();
        }
        annotations
    }

    #[test]
    fn a_record_stamp_names_the_requester_and_the_time_of_the_write() {
        for (key, value, forged) in [
            (RECORDED_BY, "alice", false),
            (RECORDED_BY, "bob", true),
            (RECORDED_AT, "2026-11-22T10:20:30Z", false),
            (RECORDED_AT, "2026-11-22T10:19:30Z", false),
            (RECORDED_AT, "2026-11-22T10:20:30.001Z", true),
            (RECORDED_AT, "just now", true),
            (PLACED_BY, "alice", true),
            (SOURCE, "annotations", true),
            (LAST_OUTAGE, "{}", true),
            (OVERRIDDEN, "because", true),
        ] {
            let request = update(node(false, json!({})), node(false, with(evidence(), &[(key, value)])));
            assert_eq!(fails(&RULE, &request, &facts()), forged, "{key}={value}");
        }
        let alone = update(node(false, evidence()), node(false, with(evidence(), &[(RECORDED_BY, "alice")])));
        assert!(fails(&RULE, &alone, &facts()), "no evidence was written");
    }

    #[test]
    fn a_place_stamp_comes_with_the_taint() {
        let stamps = [(PLACED_BY, "alice"), (PLACED_AT, NOW), (SOURCE, "annotations")];
        assert!(!fails(&RULE, &update(node(false, evidence()), node(true, with(evidence(), &stamps))), &facts()));
        let stamps = [(SOURCE, "cloud-shutdown")];
        assert!(fails(&RULE, &update(node(false, evidence()), node(true, with(evidence(), &stamps))), &facts()));
    }

    #[test]
    fn evidence_written_out_for_the_cloud_says_what_the_cloud_says() {
        let stopped = |tainted, annotations| {
            let mut node = node(tainted, annotations);
            node.spec.taints.push(Taint {
                key: CLOUD_SHUTDOWN.into(),
                effect: "NoSchedule".into(),
                time_added: Some("2026-11-22T10:10:00Z".parse().unwrap()),
                ..Taint::default()
            });
            node
        };
        let written_out = with(
            json!({}),
            &[
                (SOURCE, "cloud-shutdown"),
                (METHOD, "instance-stop"),
                (FENCED_BY, "cloud-shutdown"),
                (FENCED_AT, "2026-11-22T10:10:00Z"),
            ],
        );
        let place = |annotations| update(stopped(false, json!({})), stopped(true, annotations));
        assert!(!fails(&RULE, &place(written_out.clone()), &facts()));
        for (key, value) in [(METHOD, "power-off"), (FENCED_BY, "bob"), (FENCED_AT, "2026-11-22T10:11:00Z")] {
            assert!(fails(&RULE, &place(with(written_out.clone(), &[(key, value)])), &facts()), "{key}={value}");
        }
    }

    #[test]
    fn stamps_are_removed_together_with_the_evidence_only() {
        let stamped = || with(evidence(), &[(RECORDED_BY, "bob")]);
        assert!(!fails(&RULE, &update(node(false, stamped()), node(false, json!({}))), &facts()));
        assert!(fails(&RULE, &update(node(false, stamped()), node(false, evidence())), &facts()));
        assert!(!fails(&RULE, &update(node(false, json!({LAST_OUTAGE: "{}"})), node(false, json!({}))), &facts()));
    }

    #[test]
    fn a_spent_reason_stays_marked_while_it_is_there() {
        let spent = json!({BREAK_GLASS: "drill", OVERRIDDEN: "drill"});
        let unmarked = update(node(false, spent.clone()), node(false, json!({BREAK_GLASS: "drill"})));
        assert!(fails(&RULE, &unmarked, &facts()));
        assert!(!fails(&RULE, &update(node(false, spent), node(false, json!({}))), &facts()));
    }

    #[test]
    fn the_outage_is_recorded_as_it_was_and_when_it_ends() {
        let old = node(true, with(evidence(), &[(PLACED_BY, "bob")]));
        let release = |outage: &Outage| {
            let record = serde_json::to_string(outage).unwrap();
            update(old.clone(), node(false, json!({LAST_OUTAGE: record})))
        };
        let outage = Outage::ended(&old, "alice", "2026-11-22T10:20:05Z".parse().unwrap());
        assert!(!fails(&RULE, &release(&outage), &facts()));
        assert!(fails(&RULE, &release(&Outage { placed_by: Some("eve".into()), ..outage.clone() }), &facts()));
        assert!(fails(&RULE, &release(&Outage { released_by: "eve".into(), ..outage.clone() }), &facts()));
        let late = "2026-11-22T10:21:00Z".parse().unwrap();
        assert!(fails(&RULE, &release(&Outage { released_at: late, ..outage }), &facts()));
    }

    #[test]
    fn an_override_is_stamped_only_for_a_break_glass_that_may_be_used() {
        let glass = [("fencegate.dev/break-glass", "split brain drill"), (OVERRIDDEN, "split brain drill")];
        let request = update(node(false, json!({})), node(true, with(json!({}), &glass)));
        for allowed in [true, false] {
            let mut facts = facts();
            facts.access.insert(Verb::BreakGlass, Observed::Known { at: facts.now, value: Access { allowed } });
            assert_eq!(fails(&RULE, &request, &facts), !allowed);
        }
        assert_eq!(run(&RULE, &request, &facts()).unwrap().unread.len(), 1, "unknown is not a forgery, nor a yes");
        let spent = update(node(false, json!({OVERRIDDEN: "used"})), node(true, with(json!({}), &glass[1..])));
        assert!(fails(&RULE, &spent, &facts()), "without the break-glass");
    }

    #[test]
    fn a_node_is_not_created_with_a_history() {
        let restored = node(false, with(evidence(), &[(RECORDED_BY, "bob")]));
        assert!(fails(&RULE, &by("alice", Write::Create { new: restored }), &facts()));
    }
}
