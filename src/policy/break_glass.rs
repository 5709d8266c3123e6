//! The break-glass of a write (contract section 7). It belongs to a person and a moment: it counts
//! for whoever wrote it, with the write that brings it and for 15 minutes after that.

use jiff::{SignedDuration, Timestamp};

use super::{
    annotation::{BREAK_GLASS, BREAK_GLASS_AT, BREAK_GLASS_BY, OVERRIDDEN},
    evidence::{malformed, parse_time},
    proposal::Proposal,
};

/// How long a break-glass on the Node counts for whoever wrote it (contract section 7).
const LIFETIME: SignedDuration = SignedDuration::from_mins(15);
/// The most that the clocks of two replicas differ (contract section 2).
pub const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// The break-glass that a write comes with, or finds on the stored Node. Whether the requester has
/// the right to use one is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakGlass<'a> {
    /// The requester wrote it, with this write or at most 15 minutes ago. Holds the reason.
    Counts(&'a str),
    /// The requester wrote it more than 15 minutes ago, or the gate cannot tell when.
    TooOld(&'a str),
    /// Someone else wrote it, or the gate cannot tell who.
    OfAnother,
    Absent,
}

impl<'a> BreakGlass<'a> {
    /// The break-glass of this write. `now`: the time of the gate's clock.
    pub fn of(proposal: &Proposal<'a>, now: Timestamp) -> Self {
        if let Some(reason) = brought(proposal) {
            return Self::Counts(reason);
        }
        let Some(reason) = found(proposal) else { return Self::Absent };
        if !is_the_requesters(proposal) {
            return Self::OfAnother;
        }
        let age = proposal.change(BREAK_GLASS_AT).0.and_then(parse_time).map(|at| now.duration_since(at));
        let is_young = age.is_some_and(|age| age <= LIFETIME && age >= -CLOCKS_DIFFER);
        if is_young { Self::Counts(reason) } else { Self::TooOld(reason) }
    }

    /// The reason, if the break-glass counts for the requester.
    pub fn reason(self) -> Option<&'a str> {
        match self {
            Self::Counts(reason) => Some(reason),
            Self::TooOld(_) | Self::OfAnother | Self::Absent => None,
        }
    }
}

/// Whether the write may count on a break-glass, whatever its age: then the requester's right is
/// read.
pub fn may_count(proposal: &Proposal<'_>) -> bool {
    brought(proposal).is_some() || (found(proposal).is_some() && is_the_requesters(proposal))
}

/// The reason of a break-glass that comes with the write itself.
fn brought<'a>(proposal: &Proposal<'a>) -> Option<&'a str> {
    let stamped = proposal.is_stamped_as_overridden().then(|| proposal.change(OVERRIDDEN).1).flatten();
    let written = proposal.writes(BREAK_GLASS).then(|| proposal.change(BREAK_GLASS).1).flatten();
    well_formed(stamped.or(written))
}

/// The reason of the break-glass on the stored Node, unless the write changes or removes it.
fn found<'a>(proposal: &Proposal<'a>) -> Option<&'a str> {
    let (before, after) = proposal.change(BREAK_GLASS);
    let is_kept = proposal.request.write.after().is_none() || before == after;
    well_formed(before.filter(|_| is_kept))
}

fn well_formed(reason: Option<&str>) -> Option<&str> {
    reason.filter(|reason| malformed(BREAK_GLASS, reason).is_none())
}

fn is_the_requesters(proposal: &Proposal<'_>) -> bool {
    proposal.change(BREAK_GLASS_BY).0 == Some(&proposal.request.user.name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::policy::{
        request::{Request, User, Write},
        settings::Settings,
    };

    fn of(write: Write, judge: impl Fn(BreakGlass<'_>)) {
        let user = User { name: "alice".into(), ..User::default() };
        let request = Request { node: "n1".into(), user, write };
        let (settings, now) = (Settings::default(), "2026-11-22T10:20:00Z".parse().unwrap());
        let proposal = Proposal::new(&request, &settings);
        let found = BreakGlass::of(&proposal, now);
        let may_count = matches!(found, BreakGlass::Counts(_) | BreakGlass::TooOld(_));
        assert_eq!(super::may_count(&proposal), may_count, "the right is read only where it matters: {found:?}");
        judge(found);
    }

    fn update(old: &Value, new: &Value) -> Write {
        let node = |annotations: &Value| from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
        Write::Update { old: node(old), new: node(new) }
    }

    #[test]
    fn a_break_glass_counts_for_its_writer_for_15_minutes() {
        for (by, at, expected) in [
            (json!("alice"), json!("2026-11-22T10:05:00Z"), BreakGlass::Counts("drill")),
            (json!("alice"), json!("2026-11-22T10:04:59Z"), BreakGlass::TooOld("drill")),
            (json!("alice"), json!("2026-11-22T10:25:00Z"), BreakGlass::Counts("drill")),
            (json!("alice"), json!("2026-11-22T10:25:01Z"), BreakGlass::TooOld("drill")),
            (json!("alice"), json!("yesterday"), BreakGlass::TooOld("drill")),
            (json!("alice"), Value::Null, BreakGlass::TooOld("drill")),
            (json!("bob"), json!("2026-11-22T10:19:00Z"), BreakGlass::OfAnother),
            (Value::Null, json!("2026-11-22T10:19:00Z"), BreakGlass::OfAnother),
        ] {
            let mut annotations = json!({BREAK_GLASS: "drill", BREAK_GLASS_BY: by, BREAK_GLASS_AT: at});
            annotations.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            of(update(&annotations, &annotations), |found| assert_eq!(found, expected, "{annotations}"));
            let Write::Update { old, .. } = update(&annotations, &annotations) else { unreachable!() };
            of(Write::Delete { old }, |found| assert_eq!(found, expected, "deletion: {annotations}"));
            let gone = update(&annotations, &json!({}));
            of(gone, |found| assert_eq!(found, BreakGlass::Absent, "the write removes it: {annotations}"));
        }
    }

    #[test]
    fn a_write_may_bring_its_own() {
        let of_bob = json!({BREAK_GLASS: "drill", BREAK_GLASS_BY: "bob", BREAK_GLASS_AT: "2026-11-22T10:19:00Z"});
        let mine = json!({BREAK_GLASS: "INC-7", BREAK_GLASS_BY: "bob", BREAK_GLASS_AT: "2026-11-22T10:19:00Z"});
        of(update(&of_bob, &mine), |brought| assert_eq!(brought, BreakGlass::Counts("INC-7")));
        let used = |by: &str| {
            json!({OVERRIDDEN: "INC-7", "fencegate.dev/overridden-by": by,
                "fencegate.dev/overridden-at": "2026-11-22T10:20:00Z"})
        };
        of(update(&of_bob, &used("alice")), |stamped| assert_eq!(stamped, BreakGlass::Counts("INC-7")));
        of(update(&json!({}), &used("bob")), |stamped| assert_eq!(stamped, BreakGlass::Absent));
        of(update(&used("alice"), &used("alice")), |stored| assert_eq!(stored, BreakGlass::Absent));
        of(update(&json!({}), &json!({BREAK_GLASS: " "})), |blank| assert_eq!(blank, BreakGlass::Absent));
    }
}
