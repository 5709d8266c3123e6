//! The stamps and the evidence that the gate's mutating side adds to a write that it allows, and
//! that its validating side therefore accepts as the gate's own.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::outage::Outage;
use crate::policy::{
    annotation::{
        BOOT_ID, BREAK_GLASS, EVIDENCE, FENCED_AT, FENCED_BY, LAST_OUTAGE, METHOD, OVERRIDDEN, PLACED_AT, PLACED_BY,
        RECORDED_AT, RECORDED_BY, SOURCE, STAMPS,
    },
    assessment::Assessment,
    evidence::parse_time,
    object::node::Node,
    proposal::Proposal,
    source::Fence,
    transition::Transition,
};

/// How far a stamped time may differ from the gate's clock: another replica may have written it.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// Annotations to set, or, where there is no value, to remove. All of them are the gate's.
pub type Stamps = BTreeMap<&'static str, Option<String>>;

/// What belongs under a key.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::policy) enum Mark {
    Text(String),
    /// A time that the source gave.
    At(Timestamp),
    /// The gate's clock.
    Now,
    /// The outage that ends.
    Outage(Box<Outage>),
}

impl Mark {
    /// Whether this value says the same.
    pub fn is(&self, value: &str, now: Timestamp) -> bool {
        match self {
            Self::Text(text) => value == text,
            Self::At(at) => parse_time(value) == Some(*at),
            Self::Now => parse_time(value).is_some_and(|at| is_near(at, now)),
            Self::Outage(outage) => serde_json::from_str::<Outage>(value).is_ok_and(|claimed| {
                let same = Outage { released_at: outage.released_at, ..claimed.clone() } == **outage;
                same && is_near(claimed.released_at, now) && !value.contains('\n')
            }),
        }
    }

    /// The value to write. The gate's clock is written in whole seconds.
    fn value(&self, now: Timestamp) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::At(at) => Some(at.to_string()),
            Self::Now => Some(now.strftime("%FT%TZ").to_string()),
            Self::Outage(outage) => serde_json::to_string(outage).ok(),
        }
    }
}

fn is_near(at: Timestamp, now: Timestamp) -> bool {
    at.duration_since(now).abs() <= TOLERANCE
}

/// What the record should say of this write, by key; `break_glass` is the reason of one that was
/// used.
pub(in crate::policy) fn due(assessment: &Assessment<'_>, break_glass: Option<&str>) -> BTreeMap<&'static str, Mark> {
    let Assessment { proposal, facts, .. } = assessment;
    let user = || Mark::Text(proposal.request.user.name.clone());
    let mut due = BTreeMap::new();
    if proposal.does(Transition::Place) {
        due.extend([(PLACED_BY, user()), (PLACED_AT, Mark::Now)]);
        if let Some(fence) = assessment.fence() {
            due.insert(SOURCE, Mark::Text(fence.source.name().to_owned()));
            due.extend(written_out(proposal, fence));
        }
    }
    // A release removes all evidence, even what the same write brings.
    if (proposal.records() && !proposal.does(Transition::Release)) || due.contains_key(METHOD) {
        due.extend([(RECORDED_BY, user()), (RECORDED_AT, Mark::Now)]);
    }
    if let Some(reason) = break_glass {
        due.insert(OVERRIDDEN, Mark::Text(reason.to_owned()));
    }
    if let (Some(old), true) = (proposal.request.write.before(), proposal.does(Transition::Release)) {
        let outage = Outage::ended(old, &proposal.request.user.name, facts.now);
        due.insert(LAST_OUTAGE, Mark::Outage(Box::new(outage)));
    }
    due
}

/// What a source other than the annotations says, written as evidence, so that every record looks
/// the same. A source without a time of the fence knows that the node is fenced by now.
fn written_out(proposal: &Proposal<'_>, fence: &Fence) -> Vec<(&'static str, Mark)> {
    let Some(method) = fence.source.method() else { return Vec::new() };
    let boot_id = match proposal.change(BOOT_ID).1 {
        None => proposal.request.write.current().boot_id(),
        Some(_) => None,
    };
    [
        Some((METHOD, Mark::Text(method.name().to_owned()))),
        Some((FENCED_BY, Mark::Text(fence.source.name().to_owned()))),
        Some((FENCED_AT, fence.at.map_or(Mark::Now, Mark::At))),
        boot_id.map(|boot_id| (BOOT_ID, Mark::Text(boot_id.to_owned()))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How the gate completes a write that it allows: nothing if the write brings all of it already.
pub(in crate::policy) fn stamps(assessment: &Assessment<'_>, break_glass: Option<&str>) -> Stamps {
    let Assessment { proposal, facts, .. } = assessment;
    let Some(node) = proposal.request.write.after() else { return Stamps::new() };
    // A break-glass that this write marks as used was used, even if the gate's first pass removed
    // what it was needed for.
    let marked = proposal.break_glass().filter(|reason| proposal.change(OVERRIDDEN).1 == Some(reason));
    let break_glass = break_glass.or(marked);
    let due = due(assessment, break_glass);
    let gone = obsolete(proposal, break_glass.is_some())
        .into_iter()
        .filter(|key| !due.contains_key(key) && node.annotation(key).is_some())
        .map(|key| (key, None));
    let written = due.iter().filter_map(|(key, mark)| {
        let value = mark.value(facts.now)?;
        let is_there = node
            .annotation(key)
            .is_some_and(|there| there == value || (proposal.writes(key) && mark.is(there, facts.now)));
        (!is_there).then_some((*key, Some(value)))
    });
    gone.chain(written).collect()
}

/// The annotations that are obsolete with this write. A break-glass that a release used stays with
/// its mark, which says that it is spent.
fn obsolete(proposal: &Proposal<'_>, break_glass_used: bool) -> Vec<&'static str> {
    let stays = |node: &Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
    let write = &proposal.request.write;
    if proposal.does(Transition::Release) {
        let marked = [OVERRIDDEN, BREAK_GLASS];
        return EVIDENCE
            .into_iter()
            .chain(STAMPS)
            .chain([BREAK_GLASS])
            .filter(|key| *key != LAST_OUTAGE && !(break_glass_used && marked.contains(key)))
            .collect();
    }
    let was_attested = write.before().is_some_and(stays);
    let is_plain = write.after().is_some_and(|node| !node.is_out_of_service() && !stays(node));
    if was_attested && is_plain { vec![RECORDED_BY, RECORDED_AT, PLACED_BY, PLACED_AT, SOURCE] } else { Vec::new() }
}
