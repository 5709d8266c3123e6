//! The stamps and the evidence that the mutating webhook adds to a write that it allows. The
//! validating webhook computes them again and accepts exactly these as the gate's own.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::outage::Outage;
use crate::policy::{
    annotation::{
        BOOT_ID, BREAK_GLASS, BREAK_GLASS_AT, BREAK_GLASS_BY, FENCED_AT, FENCED_BY, LAST_OUTAGE, METHOD, OVERRIDDEN,
        OVERRIDDEN_AT, OVERRIDDEN_BY, PLACED_AT, PLACED_BY, PROOF, RECORDED_AT, RECORDED_BY, SOURCE,
    },
    assessment::Assessment,
    break_glass::CLOCKS_DIFFER,
    evidence::parse_time,
    proposal::Proposal,
    source::Fence,
    transition::Transition,
};

/// Annotations to set, by key; `None` removes the annotation. All keys are the gate's, but for
/// pacemaker's mark, which a release removes.
pub type Stamps = BTreeMap<&'static str, Option<String>>;

/// The value that the gate writes for a key.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::policy) enum Expected {
    Text(String),
    /// The time of the fence, from the source.
    At(Timestamp),
    /// The time of the write: [`Facts::api_now`](super::super::facts::Facts::api_now).
    Now,
    /// The outage that ends.
    Outage(Box<Outage>),
}

impl Expected {
    /// Whether an annotation has this value, with a tolerance for the clocks of replicas.
    pub fn matches(&self, value: &str, now: Timestamp) -> bool {
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

    /// The annotation's value. The time of the write is written in whole seconds.
    fn value(&self, now: Timestamp) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::At(at) => Some(at.to_string()),
            Self::Now => Some(written(now)),
            Self::Outage(outage) => serde_json::to_string(outage).ok(),
        }
    }
}

/// A time as the gate writes it: RFC 3339 in UTC, in whole seconds.
pub(super) fn written(time: Timestamp) -> String {
    time.strftime("%FT%TZ").to_string()
}

/// Another replica may have written the stamp, by another clock.
fn is_near(at: Timestamp, now: Timestamp) -> bool {
    at.duration_since(now).abs() <= CLOCKS_DIFFER
}

/// The record that the gate writes for this write, by key. `used` is the reason of a break-glass
/// that was used.
pub(in crate::policy) fn expected(assessment: &Assessment<'_>, used: Option<&str>) -> BTreeMap<&'static str, Expected> {
    let Assessment { proposal, facts, .. } = assessment;
    let requester = || Expected::Text(proposal.request.user.name.clone());
    let mut expected = BTreeMap::new();
    if proposal.does(Transition::Place) {
        expected.extend([(PLACED_BY, requester()), (PLACED_AT, Expected::Now)]);
        if let Some(fence) = assessment.fence() {
            expected.insert(SOURCE, Expected::Text(fence.source.name().to_owned()));
            expected.extend(written_out(proposal, fence));
        }
    }
    // A release removes all evidence, even evidence that comes with the same write.
    if (proposal.writes_evidence() && !proposal.does(Transition::Release)) || expected.contains_key(METHOD) {
        expected.extend([(RECORDED_BY, requester()), (RECORDED_AT, Expected::Now)]);
    }
    match used {
        Some(reason) => expected.extend([
            (OVERRIDDEN, Expected::Text(reason.to_owned())),
            (OVERRIDDEN_BY, requester()),
            (OVERRIDDEN_AT, Expected::Now),
        ]),
        None if proposal.writes(BREAK_GLASS) && !proposal.does(Transition::Release) => {
            expected.extend([(BREAK_GLASS_BY, requester()), (BREAK_GLASS_AT, Expected::Now)]);
        }
        None => {}
    }
    if let (Some(old), true) = (proposal.request.write.before(), proposal.does(Transition::Release)) {
        let outage = Outage::ended(old, &proposal.request.user.name, facts.api_now());
        expected.insert(LAST_OUTAGE, Expected::Outage(Box::new(outage)));
    }
    expected
}

/// The fence of a source other than the annotations, written as evidence, so that every record has
/// the same form. If the source does not know the time of the fence, `fenced-at` is the time of the
/// write.
fn written_out(proposal: &Proposal<'_>, fence: &Fence) -> Vec<(&'static str, Expected)> {
    let Some(method) = fence.source.method() else { return Vec::new() };
    let recorded = proposal.change(BOOT_ID).1;
    let boot_id = proposal.request.write.current().boot_id().filter(|current| recorded != Some(current));
    [
        Some((METHOD, Expected::Text(method.name().to_owned()))),
        Some((FENCED_BY, Expected::Text(fence.source.name().to_owned()))),
        Some((FENCED_AT, fence.at.map_or(Expected::Now, Expected::At))),
        boot_id.map(|boot_id| (BOOT_ID, Expected::Text(boot_id.to_owned()))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The changes by which the mutating webhook completes a write that it allows. Empty if the write
/// has all of them already. `used` is the reason of a break-glass that was used.
pub(in crate::policy) fn stamps(assessment: &Assessment<'_>, used: Option<&str>) -> Stamps {
    let Assessment { proposal, facts, .. } = assessment;
    let Some(node) = proposal.request.write.after() else { return Stamps::new() };
    // If this write stamps a break-glass as used, it was used, even if the first call of the
    // mutating webhook removed what made it necessary.
    let used = used.or_else(|| assessment.break_glass().reason().filter(|_| proposal.is_stamped_as_overridden()));
    let expected = expected(assessment, used);
    // A proof that was there before is not about the fence that is written out.
    let is_foreign_proof = expected.contains_key(METHOD) && !proposal.changes(PROOF);
    let removed = proposal
        .obsolete(used.is_some())
        .into_iter()
        .chain(is_foreign_proof.then_some(PROOF))
        .filter(|key| !expected.contains_key(key) && node.annotation(key).is_some())
        .map(|key| (key, None));
    let written = expected.iter().filter_map(|(key, expected)| {
        let value = expected.value(facts.api_now())?;
        let is_set = node.annotation(key).is_some_and(|set| set == value);
        (!is_set).then_some((*key, Some(value)))
    });
    removed.chain(written).collect()
}
