//! The stamps and the evidence that the mutating webhook adds to a write that it allows. The
//! validating webhook computes them again and accepts exactly these as the gate's own.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::outage::Outage;
use crate::policy::{
    annotation::{
        APPLIED_BY, BOOT_ID, BREAK_GLASS, EVIDENCE, FENCED_AT, FENCED_BY, LAST_OUTAGE, METHOD, OVERRIDDEN, PACEMAKER,
        PLACED_AT, PLACED_BY, PROOF, RECORDED_AT, RECORDED_BY, SOURCE, STAMPS,
    },
    assessment::Assessment,
    evidence::parse_time,
    object::node::Node,
    proposal::Proposal,
    request::{Request, Write},
    source::Fence,
    transition::Transition,
};

/// The most that a stamped time may differ from the gate's clock. Another replica may have written
/// the stamp, by another clock, and up to one webhook call earlier: Kubernetes allows 30 s for a
/// call.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// Annotations to set, by key; `None` removes the annotation. All keys are the gate's, but for
/// pacemaker's mark, which a release removes.
pub type Stamps = BTreeMap<&'static str, Option<String>>;

/// The request as the mutating webhook completes it: with these stamps on the Node.
pub(in crate::policy) fn completed(request: &Request, stamps: &Stamps) -> Request {
    let mut request = request.clone();
    if let Write::Create { new } | Write::Update { new, .. } = &mut request.write {
        let annotations = new.metadata.annotations.get_or_insert_default();
        for (key, value) in stamps {
            match value {
                Some(value) => annotations.insert((*key).to_owned(), value.clone()),
                None => annotations.remove(*key),
            };
        }
    }
    request
}

/// The value that the gate writes for a key.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::policy) enum Expected {
    Text(String),
    /// The time of the fence, from the source.
    At(Timestamp),
    /// The time of the gate's clock.
    Now,
    /// The outage that ends.
    Outage(Box<Outage>),
}

impl Expected {
    /// Whether an annotation has this value, with a tolerance for the gate's clock.
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

    /// The annotation's value. The time of the gate's clock is written in whole seconds.
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

/// The record that the gate writes for this write, by key. `break_glass` is the reason of a
/// break-glass that was used.
pub(in crate::policy) fn expected(
    assessment: &Assessment<'_>,
    break_glass: Option<&str>,
) -> BTreeMap<&'static str, Expected> {
    let Assessment { proposal, facts, .. } = assessment;
    let user = || Expected::Text(proposal.request.user.name.clone());
    let mut expected = BTreeMap::new();
    if proposal.does(Transition::Place) {
        expected.extend([(PLACED_BY, user()), (PLACED_AT, Expected::Now)]);
        if let Some(fence) = assessment.fence() {
            expected.insert(SOURCE, Expected::Text(fence.source.name().to_owned()));
            expected.extend(written_out(proposal, fence));
        }
    }
    // A release removes all evidence, even evidence that comes with the same write.
    if (proposal.writes_evidence() && !proposal.does(Transition::Release)) || expected.contains_key(METHOD) {
        expected.extend([(RECORDED_BY, user()), (RECORDED_AT, Expected::Now)]);
    }
    if let Some(reason) = break_glass {
        expected.insert(OVERRIDDEN, Expected::Text(reason.to_owned()));
    }
    if let (Some(old), true) = (proposal.request.write.before(), proposal.does(Transition::Release)) {
        let outage = Outage::ended(old, &proposal.request.user.name, facts.now);
        expected.insert(LAST_OUTAGE, Expected::Outage(Box::new(outage)));
    }
    expected
}

/// The fence of a source other than the annotations, written as evidence, so that every record has
/// the same form. If the source does not know the time of the fence, `fenced-at` is the time of the
/// gate's clock.
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
/// has all of them already.
pub(in crate::policy) fn stamps(assessment: &Assessment<'_>, break_glass: Option<&str>) -> Stamps {
    let Assessment { proposal, facts, .. } = assessment;
    let Some(node) = proposal.request.write.after() else { return Stamps::new() };
    // If this write stamps a break-glass as used, it was used, even if the first call of the
    // mutating webhook removed the evidence that made it necessary.
    let stamped = proposal.break_glass().filter(|reason| proposal.change(OVERRIDDEN).1 == Some(reason));
    let break_glass = break_glass.or(stamped);
    let expected = expected(assessment, break_glass);
    // A proof that was there before is not about the fence that is written out.
    let is_foreign_proof = expected.contains_key(METHOD) && !proposal.changes(PROOF);
    let removed = obsolete(proposal, break_glass.is_some())
        .into_iter()
        .chain(is_foreign_proof.then_some(PROOF))
        .filter(|key| !expected.contains_key(key) && node.annotation(key).is_some())
        .map(|key| (key, None));
    let written = expected.iter().filter_map(|(key, expected)| {
        let value = expected.value(facts.now)?;
        let is_set = node
            .annotation(key)
            .is_some_and(|set| set == value || (proposal.writes(key) && expected.matches(set, facts.now)));
        (!is_set).then_some((*key, Some(value)))
    });
    removed.chain(written).collect()
}

/// The annotations that this write makes obsolete. If a release used a break-glass, the annotation
/// stays together with its stamp `overridden`, so that the reason cannot be used again. Pacemaker's
/// mark goes with a release, whoever left it there: it is about this outage, and a later one must
/// not find it.
fn obsolete(proposal: &Proposal<'_>, break_glass_used: bool) -> Vec<&'static str> {
    let has_evidence = |node: &Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
    let write = &proposal.request.write;
    if proposal.does(Transition::Release) {
        let used = [OVERRIDDEN, BREAK_GLASS];
        let is_marked = write.after().is_some_and(|node| node.annotation(APPLIED_BY) == Some(PACEMAKER));
        return EVIDENCE
            .into_iter()
            .chain(STAMPS)
            .chain([BREAK_GLASS])
            .chain(is_marked.then_some(APPLIED_BY))
            .filter(|key| *key != LAST_OUTAGE && !(break_glass_used && used.contains(key)))
            .collect();
    }
    let removes_evidence = write.before().is_some_and(has_evidence)
        && write.after().is_some_and(|node| !node.is_out_of_service() && !has_evidence(node));
    if removes_evidence { vec![RECORDED_BY, RECORDED_AT, PLACED_BY, PLACED_AT, SOURCE] } else { Vec::new() }
}
