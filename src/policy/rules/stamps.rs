//! `StampForged`: only the gate writes who changed the record and when. A write may contain a stamp
//! only with the value that the gate would write. The validating webhook sees the stamps of the
//! mutating webhook as a part of the write, so it must accept these.

use super::{Outcome, Rule, not_authorized::authorized};
use crate::policy::{
    annotation::{
        BREAK_GLASS, BREAK_GLASS_STAMPS, EVIDENCE, METHOD, OVERRIDDEN, OVERRIDDEN_STAMPS, RECORD_STAMPS, STAMPS,
    },
    assessment::Assessment,
    facts::{Fact, Verb},
    proposal::Proposal,
    reason::{Code, Forgery, Reason},
    record::stamp::expected,
    source::RecordOrigin,
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::StampForged,
    applies: |proposal| proposal.does(Transition::Attest),
    needs: |proposal| {
        if proposal.is_stamped_as_overridden() { vec![Fact::Access(Verb::BreakGlass)] } else { Vec::new() }
    },
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let Assessment { proposal, facts, .. } = assessment;
    let overridden = assessment.break_glass().reason().filter(|_| proposal.is_stamped_as_overridden());
    let expected = expected(assessment, overridden);
    let is_expected =
        |key: &str, value: &str| expected.get(key).is_some_and(|expected| expected.matches(value, facts.api_now()));
    let mut stamps: Vec<Forgery> = STAMPS
        .into_iter()
        .filter_map(|key| {
            let why = match proposal.change(key) {
                (before, after) if before == after => None,
                (_, None) => removed_too_early(proposal, key, expected.contains_key(METHOD)).map(str::to_owned),
                (_, Some(value)) => (!is_expected(key, value)).then_some("is written by the gate alone".to_owned()),
            };
            Some(Forgery { key, why: why? })
        })
        .collect();
    if let (Some(fence), RecordOrigin::Gate(_)) = (assessment.fence(), proposal.origin) {
        // Evidence that the gate wrote out must have the values of the source.
        let differs = |key: &&str| {
            let is_from_source = proposal.change(key).1.is_some_and(|value| is_expected(key, value));
            expected.contains_key(key) && proposal.writes(key) && !is_from_source
        };
        let why = || format!("is not what {} says", fence.source.name());
        stamps.extend(EVIDENCE.into_iter().filter(differs).map(|key| Forgery { key, why: why() }));
    }
    let mut unread = Vec::new();
    if overridden.is_some() {
        let access = authorized(assessment, Verb::BreakGlass);
        unread = access.unread;
        let why = || "names a break-glass that the requester may not use".to_owned();
        stamps.extend(access.failed.map(|_| Forgery { key: OVERRIDDEN, why: why() }));
    }
    let failed = (!stamps.is_empty()).then_some(Reason::StampForged { stamps });
    Outcome { failed, unread, ..Outcome::default() }
}

/// Why a stamp may not be removed: what it is about stays on the Node. Without this rule, evidence
/// could lose the name of who recorded it. Evidence that the gate writes with this write has no
/// such name: what it writes out replaces the old evidence, and the boot of a placement is only
/// what the stored Node reports.
fn removed_too_early(proposal: &Proposal<'_>, key: &str, is_written_out: bool) -> Option<&'static str> {
    let stays = |key: &&str| proposal.change(key).1.is_some();
    if BREAK_GLASS_STAMPS.contains(&key) {
        stays(&BREAK_GLASS).then_some("can only be removed together with the break-glass")
    } else if OVERRIDDEN_STAMPS.contains(&key) {
        OVERRIDDEN_STAMPS.iter().any(stays).then_some("can only be removed together with the others of its kind")
    } else if RECORD_STAMPS.contains(&key) && !is_written_out {
        let evidence_stays = EVIDENCE.iter().any(|key| stays(key) && !proposal.has_boot_of_placement(key));
        evidence_stays.then_some("can only be removed together with the evidence")
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
        annotation::{
            BOOT_ID, BREAK_GLASS_AT, BREAK_GLASS_BY, FENCED_AT, FENCED_BY, LAST_OUTAGE, OVERRIDDEN_AT, OVERRIDDEN_BY,
            PLACED_AT, PLACED_BY, RECORDED_AT, RECORDED_BY, SOURCE,
        },
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
    fn the_recorded_stamps_must_be_the_requester_and_the_time_of_the_write() {
        for (key, value, forged) in [
            (RECORDED_BY, "alice", false),
            (RECORDED_BY, "bob", true),
            (RECORDED_AT, "2026-11-22T10:25:00Z", false),
            (RECORDED_AT, "2026-11-22T10:15:00Z", false),
            (RECORDED_AT, "2026-11-22T10:25:00.001Z", true),
            (RECORDED_AT, "2026-11-22T10:14:59.999Z", true),
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
        assert!(fails(&RULE, &alone, &facts()), "the write adds no evidence");
    }

    #[test]
    fn the_placed_stamps_are_allowed_only_together_with_the_taint() {
        let stamps = [(PLACED_BY, "alice"), (PLACED_AT, NOW), (SOURCE, "annotations")];
        assert!(!fails(&RULE, &update(node(false, evidence()), node(true, with(evidence(), &stamps))), &facts()));
        let stamps = [(SOURCE, "cloud-shutdown")];
        assert!(fails(&RULE, &update(node(false, evidence()), node(true, with(evidence(), &stamps))), &facts()));
    }

    #[test]
    fn evidence_written_out_for_the_cloud_must_have_the_clouds_values() {
        let stopped = |tainted, annotations| {
            let mut node = node(tainted, annotations);
            node.spec.taints.push(Taint {
                key: CLOUD_SHUTDOWN.into(),
                effect: "NoSchedule".into(),
                ..Taint::default()
            });
            node
        };
        let written_out = with(
            json!({}),
            &[(SOURCE, "cloud-shutdown"), (METHOD, "instance-stop"), (FENCED_BY, "cloud-shutdown"), (FENCED_AT, NOW)],
        );
        let place = |annotations| update(stopped(false, json!({})), stopped(true, annotations));
        assert!(!fails(&RULE, &place(written_out.clone()), &facts()));
        for (key, value) in [(METHOD, "power-off"), (FENCED_BY, "bob"), (FENCED_AT, "2026-11-22T10:10:00Z")] {
            assert!(fails(&RULE, &place(with(written_out.clone(), &[(key, value)])), &facts()), "{key}={value}");
        }
    }

    #[test]
    fn stamps_may_be_removed_only_together_with_the_evidence() {
        let stamped = || with(evidence(), &[(RECORDED_BY, "bob")]);
        assert!(!fails(&RULE, &update(node(false, stamped()), node(false, json!({}))), &facts()));
        assert!(fails(&RULE, &update(node(false, stamped()), node(false, evidence())), &facts()));
        assert!(!fails(&RULE, &update(node(false, json!({LAST_OUTAGE: "{}"})), node(false, json!({}))), &facts()));
    }

    #[test]
    fn the_boot_of_a_placement_needs_no_name_of_who_recorded_it() {
        let places = |before: Value, after: Value| {
            let mut old = node(false, with(before, &[(RECORDED_BY, "bob")]));
            old.status.node_info.boot_id = "boot-1".into();
            update(old, node(true, after))
        };
        let boot = |boot: &str| json!({BOOT_ID: boot});
        for (before, after, forged) in [
            (json!({}), boot("boot-1"), false),
            (boot("boot-0"), boot("boot-1"), false),
            (boot("boot-1"), boot("boot-1"), false),
            (boot("boot-0"), boot("boot-0"), true),
            (json!({}), with(boot("boot-1"), &[(METHOD, "ipmi")]), true),
        ] {
            assert_eq!(fails(&RULE, &places(before.clone(), after.clone()), &facts()), forged, "{before} {after}");
        }
    }

    #[test]
    fn a_break_glass_that_is_written_has_its_writer_and_its_time() {
        let write = |stamps: &[(&str, &str)]| {
            update(node(false, json!({})), node(false, with(json!({BREAK_GLASS: "drill"}), stamps)))
        };
        for (key, value, forged) in [
            (BREAK_GLASS_BY, "alice", false),
            (BREAK_GLASS_BY, "bob", true),
            (BREAK_GLASS_AT, NOW, false),
            (BREAK_GLASS_AT, "2026-11-22T10:25:01Z", true),
            (OVERRIDDEN, "drill", true),
        ] {
            assert_eq!(fails(&RULE, &write(&[(key, value)]), &facts()), forged, "{key}={value}");
        }
        let kept = json!({BREAK_GLASS: "drill", BREAK_GLASS_BY: "bob"});
        let taken_over = update(node(false, kept.clone()), node(false, with(kept, &[(BREAK_GLASS_BY, "alice")])));
        assert!(fails(&RULE, &taken_over, &facts()), "the break-glass of another is not written by this write");
    }

    #[test]
    fn the_stamps_of_a_break_glass_go_only_together_with_it() {
        let written = json!({BREAK_GLASS: "drill", BREAK_GLASS_BY: "bob", BREAK_GLASS_AT: NOW});
        let without = |left: Value| update(node(false, written.clone()), node(false, left));
        assert!(fails(&RULE, &without(json!({BREAK_GLASS: "drill"})), &facts()));
        assert!(!fails(&RULE, &without(json!({})), &facts()));
    }

    #[test]
    fn what_was_overridden_is_removed_whole_or_not_at_all() {
        let used = json!({OVERRIDDEN: "drill", OVERRIDDEN_BY: "bob", OVERRIDDEN_AT: NOW});
        let without = |left: Value| update(node(true, used.clone()), node(true, left));
        assert!(fails(&RULE, &without(json!({OVERRIDDEN: "drill", OVERRIDDEN_AT: NOW})), &facts()));
        assert!(!fails(&RULE, &without(json!({})), &facts()));
    }

    #[test]
    fn the_stamp_last_outage_must_match_the_node_and_the_release() {
        let old = node(true, with(evidence(), &[(PLACED_BY, "bob")]));
        let release = |outage: &Outage| {
            let record = serde_json::to_string(outage).unwrap();
            update(old.clone(), node(false, json!({LAST_OUTAGE: record})))
        };
        let outage = Outage::ended(&old, "alice", "2026-11-22T10:20:05Z".parse().unwrap());
        assert!(!fails(&RULE, &release(&outage), &facts()));
        assert!(fails(&RULE, &release(&Outage { placed_by: Some("eve".into()), ..outage.clone() }), &facts()));
        assert!(fails(&RULE, &release(&Outage { released_by: "eve".into(), ..outage.clone() }), &facts()));
        let late = "2026-11-22T10:25:01Z".parse().unwrap();
        assert!(fails(&RULE, &release(&Outage { released_at: late, ..outage }), &facts()));
    }

    #[test]
    fn the_stamps_of_a_used_break_glass_need_the_right_to_use_one() {
        let used = [(OVERRIDDEN, "split brain drill"), (OVERRIDDEN_BY, "alice"), (OVERRIDDEN_AT, NOW)];
        let request = update(node(false, json!({})), node(true, with(json!({}), &used)));
        for allowed in [true, false] {
            let mut facts = facts();
            facts.access.insert(Verb::BreakGlass, Observed::Known { at: facts.now, value: Access { allowed } });
            assert_eq!(fails(&RULE, &request, &facts), !allowed);
        }
        let unread = run(&RULE, &request, &facts()).unwrap().unread;
        assert_eq!(unread.len(), 1, "an unknown right is neither a forgery nor a permission");
        for (key, value) in [(OVERRIDDEN_BY, "bob"), (OVERRIDDEN_AT, "2026-11-22T10:14:00Z"), (OVERRIDDEN, "")] {
            let forged = with(with(json!({}), &used), &[(key, value)]);
            assert!(fails(&RULE, &update(node(false, json!({})), node(true, forged)), &facts()), "{key}={value}");
        }
    }

    #[test]
    fn a_node_cannot_be_created_with_stamps() {
        let restored = node(false, with(evidence(), &[(RECORDED_BY, "bob")]));
        assert!(fails(&RULE, &by("alice", Write::Create { new: restored }), &facts()));
    }
}
