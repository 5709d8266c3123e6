//! The record on the Node (contract section 2): what the gate's mutating side writes with a write that it allows, and what its
//! validating side therefore takes for the gate's own.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    annotation::{
        BOOT_ID, BREAK_GLASS, EVIDENCE, FENCED_AT, FENCED_BY, LAST_OUTAGE, METHOD, OVERRIDDEN, PLACED_AT, PLACED_BY,
        RECORDED_AT, RECORDED_BY, SOURCE, STAMPS,
    },
    evidence::parse_time,
    node::Node,
    outage::Outage,
    question::Question,
    source::Fence,
    transition::Transition,
};

/// How far a stamped time may lie from the gate's clock: another replica's may have written it.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// Annotations to set, or, where there is no value, to remove. All of them are the gate's.
pub type Stamps = BTreeMap<&'static str, Option<String>>;

/// What belongs under a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mark {
    Text(String),
    /// A time that someone else told.
    At(Timestamp),
    /// The gate's clock.
    Now,
    /// The outage that ends.
    Outage(Box<Outage>),
}

impl Mark {
    /// Whether this value says it.
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

    /// The value that says it. Times are told in whole seconds.
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

/// What the record says of this write, by key; `break_glass` is the reason of one that was used.
pub(super) fn due(question: &Question<'_>, break_glass: Option<&str>, now: Timestamp) -> BTreeMap<&'static str, Mark> {
    let user = || Mark::Text(question.request.user.name.clone());
    let mut due = BTreeMap::new();
    if question.does(Transition::Place) {
        due.extend([(PLACED_BY, user()), (PLACED_AT, Mark::Now)]);
        if let Ok(fence) = &question.fence {
            due.insert(SOURCE, Mark::Text(fence.source.name().to_owned()));
            due.extend(written_out(question, fence));
        }
    }
    // A release consumes evidence, also what comes with it.
    if (question.records() && !question.does(Transition::Release)) || due.contains_key(METHOD) {
        due.extend([(RECORDED_BY, user()), (RECORDED_AT, Mark::Now)]);
    }
    if let Some(reason) = break_glass {
        due.insert(OVERRIDDEN, Mark::Text(reason.to_owned()));
    }
    if let (Some(old), true) = (question.request.write.before(), question.does(Transition::Release)) {
        let outage = Outage::ended(old, &question.request.user.name, now);
        due.insert(LAST_OUTAGE, Mark::Outage(Box::new(outage)));
    }
    due
}

/// What another source than the annotations says, as evidence: so the record always looks the same. One without a time knows that the
/// node is fenced by now.
fn written_out(question: &Question<'_>, fence: &Fence) -> Vec<(&'static str, Mark)> {
    let Some(method) = fence.source.method() else { return Vec::new() };
    let boot_id = match question.change(BOOT_ID).1 {
        None => question.request.write.condition().boot_id(),
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

/// How the gate completes a write that it allows. Nothing where the write brings all of it already.
pub(super) fn stamps(question: &Question<'_>, break_glass: Option<&str>, now: Timestamp) -> Stamps {
    let Some(node) = question.request.write.after() else { return Stamps::new() };
    // One that this write marks as used was used, also where the gate's first pass cured what it was used for.
    let marked = question.break_glass().filter(|reason| question.change(OVERRIDDEN).1 == Some(reason));
    let break_glass = break_glass.or(marked);
    let due = due(question, break_glass, now);
    let gone = over(question, break_glass.is_some())
        .into_iter()
        .filter(|key| !due.contains_key(key) && node.annotation(key).is_some())
        .map(|key| (key, None));
    let written = due.iter().filter_map(|(key, mark)| {
        let value = mark.value(now)?;
        let is_there =
            node.annotation(key).is_some_and(|there| there == value || (question.writes(key) && mark.is(there, now)));
        (!is_there).then_some((*key, Some(value)))
    });
    gone.chain(written).collect()
}

/// The annotations that are about something which this write ends. A break-glass that carries a release through stays with its
/// mark, so that it is spent.
fn over(question: &Question<'_>, break_glass_used: bool) -> Vec<&'static str> {
    let stays = |node: &Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
    let write = &question.request.write;
    if question.does(Transition::Release) {
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
