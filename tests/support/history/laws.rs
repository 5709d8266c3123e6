//! The laws, one step of a Node's history at a time.

use std::{collections::BTreeMap, ops::RangeInclusive};

use jiff::{SignedDuration, Timestamp};

use super::{
    Decision, Findings, History, Law, Version, Violation, in_force,
    objects::{Node, OVERRIDDEN_STAMPS, Pod, REQUIRED, SHUTDOWN, Taint, known},
};

/// One step of a Node's history: the stored version that a write replaced, and what it stored.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) node: &'a str,
    pub(super) revision: u64,
    /// The revision of `old`.
    replaced: u64,
    pub(super) old: Option<&'a Node>,
    pub(super) new: Option<&'a Node>,
}

impl<'a> Step<'a> {
    pub(super) fn was_tainted(&self) -> bool {
        self.old.is_some_and(Node::is_tainted)
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.new.is_some_and(Node::is_tainted)
    }

    pub(super) fn change(&self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        (self.old.and_then(|old| old.gate(key)), self.new.and_then(|new| new.gate(key)))
    }

    pub(super) fn changes(&self, key: &str) -> bool {
        let (old, new) = self.change(key);
        old != new
    }

    /// The entries of the taint that one side has and the other has not.
    fn beyond(one: Option<&'a Node>, other: Option<&'a Node>) -> Vec<&'a Taint> {
        let known = other.map(Node::entries).unwrap_or_default();
        one.map(Node::entries).unwrap_or_default().into_iter().filter(|entry| !known.contains(entry)).collect()
    }

    /// Whether the gate must have judged this write.
    fn is_guarded(&self) -> bool {
        if self.new.is_none() {
            return self.was_tainted();
        }
        let (added, gone) = (Self::beyond(self.new, self.old), Self::beyond(self.old, self.new));
        !added.is_empty() || !gone.is_empty() || known().any(|key| self.changes(key))
    }

    fn name(&self) -> &'static str {
        match (self.was_tainted(), self.is_tainted(), self.new.is_some()) {
            (false, true, _) => "placed",
            (true, false, true) => "released",
            (true, _, false) => "deleted with the taint",
            (true, true, _) if !Self::beyond(self.new, self.old).is_empty() => "amended",
            (true, true, _) if !Self::beyond(self.old, self.new).is_empty() => "amended",
            _ if !self.is_guarded() => "unguarded",
            _ => "attested",
        }
    }
}

/// Judges every stored version of every Node.
pub(super) fn judge(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (node, versions) in &history.nodes {
        let mut last: Option<&Version<Node>> = None;
        for version in versions {
            let step = Step {
                node,
                revision: version.revision,
                replaced: last.map_or(0, |last| last.revision),
                old: last.and_then(|last| last.object.as_ref()),
                new: version.object.as_ref(),
            };
            let before = versions.iter().take_while(|earlier| earlier.revision < version.revision);
            *findings.tally.entry(step.name()).or_default() += 1;
            if step.is_guarded() {
                let judged = Judged { history, step };
                if judged.is_raced(before) {
                    *findings.tally.entry("deleted with the taint, raced").or_default() += 1;
                } else {
                    findings.violations.extend(judged.violations(&mut findings.tally));
                }
            }
            last = Some(version);
        }
    }
    findings
}

/// A step, with everything there is about it.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a> {
    pub(super) history: &'a History,
    pub(super) step: Step<'a>,
}

type Tally = BTreeMap<&'static str, usize>;

impl<'a> Judged<'a> {
    pub(super) fn violation(&self, law: Law, why: impl Into<String>) -> Violation {
        Violation { law, node: self.step.node.to_owned(), revision: self.step.revision, why: why.into() }
    }

    /// Whether this is the API server's own race, which no admission sees: an update that empties
    /// the finalizers of a Node that is being deleted is admitted for one version, and then the API
    /// server deletes whatever version is stored (`registry/generic/registry/store.go`:
    /// `deleteWithoutFinalizers`). Here it was admitted for a version without the taint.
    fn is_raced(&self, before: impl Iterator<Item = &'a Version<Node>>) -> bool {
        let (Some(old), None) = (self.step.old, self.step.new) else { return false };
        let waits = !old.metadata.finalizers.is_empty() && old.metadata.deletion_timestamp.is_some();
        let is_admissible = |node: &Node| {
            node.metadata.uid == old.metadata.uid && node.metadata.deletion_timestamp.is_some() && !node.is_tainted()
        };
        waits
            && self.decisions("validate").next().is_none()
            && before.filter_map(|version| version.object.as_ref()).any(is_admissible)
    }

    /// The decisions of this webhook that allowed this write.
    fn decisions(self, webhook: &'a str) -> impl Iterator<Item = &'a Decision> {
        let Step { node, replaced, old, new, .. } = self.step;
        let replaced = replaced.to_string();
        let of_node = self.history.decisions.get(node).into_iter().flatten();
        of_node.filter(move |Decision { line, .. }| {
            let is_of_version = match (&line.before, old) {
                (Some(before), Some(_)) => before.metadata.resource_version == replaced,
                (None, None) => line.operation == "CREATE",
                _ => false,
            };
            let is_of_write = match (&line.after, new) {
                (None, None) => line.operation == "DELETE",
                // The update that removes the last finalizer.
                (Some(after), None) => after.metadata.finalizers.is_empty(),
                // The mutating webhook does not see its own stamps yet.
                (Some(after), Some(new)) => webhook == "mutate" || after.is_judged_like(new),
                (None, Some(_)) => false,
            };
            line.webhook == webhook && line.decision == "allow" && !line.dry_run && is_of_version && is_of_write
        })
    }

    /// The laws that the step breaks. If several decisions allowed the same write, one that keeps
    /// them is enough.
    fn violations(self, tally: &mut Tally) -> Vec<Violation> {
        let mut fewest: Option<Vec<Violation>> = None;
        for decision in self.decisions("validate") {
            let broken = self.violations_by(decision);
            if fewest.as_ref().is_none_or(|fewest| broken.len() < fewest.len()) {
                fewest = Some(broken);
            }
            if self.is_overridden(decision) {
                *tally.entry("overridden").or_default() += 1;
            }
        }
        let mut violations = fewest.unwrap_or_else(|| {
            let mut broken = self.facts(self.step.replaced..=self.step.revision - 1, None);
            broken
                .push(self.violation(Law::Logged, "no replica logged that the validating webhook allowed this write"));
            broken
        });
        if self.decisions("mutate").next().is_none() {
            violations
                .push(self.violation(Law::Logged, "no replica logged that the mutating webhook allowed this write"));
        }
        violations
    }

    fn violations_by(self, decision: &Decision) -> Vec<Violation> {
        let Self { history, step } = self;
        let first = history.surely_before(decision.began).max(step.replaced);
        let last = history.maybe_before(decision.at).min(step.revision - 1);
        if first > last {
            let why =
                format!("it was judged at {}, which is not while the version it replaced was stored", decision.at);
            return vec![self.violation(Law::Logged, why)];
        }
        let mut violations = self.record(decision);
        if !self.is_overridden(decision) {
            violations.extend(self.facts(first..=last, Some(decision.at)));
            violations.extend(self.frozen());
        }
        violations
    }

    /// Whether a break-glass permits the write. It permits no forgery.
    fn is_overridden(self, decision: &Decision) -> bool {
        let Step { old, new, .. } = self.step;
        let user = Some(decision.line.user.name.as_str());
        match new {
            Some(new) => {
                self.step.changes("overridden-at")
                    && OVERRIDDEN_STAMPS.iter().all(|key| new.gate(key).is_some())
                    && new.gate("overridden-by") == user
            }
            None => decision.line.break_glass.is_some() && old.and_then(|old| old.gate("break-glass-by")) == user,
        }
    }

    /// L1 and L2: what the facts say. `at`: when the decision was made, if that is known.
    fn facts(self, range: RangeInclusive<u64>, at: Option<Timestamp>) -> Vec<Violation> {
        let Step { old, new, .. } = self.step;
        let mut violations = Vec::new();
        let mut fence = |why: String| violations.push(self.violation(Law::Fence, why));
        let added = Step::beyond(new, old);
        if let (false, Some(new)) = (added.is_empty(), new) {
            if old.is_none() {
                fence("the Node was created with the taint".to_owned());
            }
            if added.iter().any(|taint| taint.effect == "PreferNoSchedule") {
                fence("the effect is PreferNoSchedule".to_owned());
            }
            if old.is_some_and(Node::is_ready) {
                fence("the stored Node was Ready".to_owned());
            }
            let is_placed = !self.step.was_tainted();
            if is_placed {
                self.evidence(new, at).into_iter().for_each(&mut fence);
            }
            // An entry that is added later needs silence alone, but for the first one that evicts.
            let begins_to_evict = old.is_some_and(|old| old.is_tainted() && !old.evicts()) && new.evicts();
            if begins_to_evict {
                self.incomplete(new).into_iter().for_each(&mut fence);
            }
            let fenced_at = new.gate("fenced-at").and_then(|text| text.parse().ok());
            let is_compared = begins_to_evict || (is_placed && new.gate("source") == Some("annotations"));
            let fenced_at = fenced_at.filter(|_| is_compared);
            if let (Some(old), Some(at)) = (old, at) {
                self.silence(old, &range, at, fenced_at).into_iter().for_each(&mut fence);
            }
        }
        let is_gone = !Step::beyond(old, new).is_empty();
        if let (true, Some(old)) = (is_gone, old) {
            let is_released = new.is_some_and(|new| !new.is_tainted());
            violations
                .extend(self.bound(old, is_released, &range).into_iter().map(|why| self.violation(Law::Release, why)));
        }
        violations
    }

    /// What a record lacks under which an entry begins to evict.
    fn incomplete(self, new: &Node) -> Vec<String> {
        new.lacks(&REQUIRED).into_iter().chain(self.other_boot(new)).collect()
    }

    /// The boot that was fenced, if the node is in another one.
    fn other_boot(self, new: &Node) -> Option<String> {
        let boot = self.step.old.map(|old| old.status.node_info.boot_id.as_str()).filter(|boot| !boot.is_empty());
        let is_other = new.gate("boot-id").is_some() && new.gate("boot-id") != boot;
        is_other.then(|| format!("another boot was fenced: the node is in {boot:?}"))
    }

    /// What the evidence on the new object lacks.
    fn evidence(self, new: &Node, at: Option<Timestamp>) -> Vec<String> {
        let mut why = new.lacks(&REQUIRED);
        why.extend(new.lacks(&["placed-by", "placed-at", "source", "recorded-by", "recorded-at"]));
        let methods = ["power-off", "instance-stop", "network-isolation", "storage-isolation", "hardware-removal"];
        if new.gate("method").is_some_and(|method| !methods.contains(&method)) {
            why.push("the method is none".to_owned());
        }
        if new.gate("fenced-by").is_some_and(|by| by.trim().is_empty()) {
            why.push("fenced-by is empty".to_owned());
        }
        let fenced_at = new.gate("fenced-at").map(str::parse::<Timestamp>);
        if let (Some(Ok(fenced_at)), Some(at)) = (&fenced_at, at) {
            // Whoever vouches, the time is by the API server's clock.
            if *fenced_at > at + self.history.clock_skew {
                why.push(format!("the fence is in the future, at {fenced_at}"));
            }
            if *fenced_at < at - SignedDuration::from_hours(25) {
                why.push(format!("the fence was long ago, at {fenced_at}"));
            }
        } else if matches!(fenced_at, Some(Err(_))) {
            why.push("fenced-at is no time".to_owned());
        }
        let was_shut_down = self.step.old.is_some_and(|old| old.spec.taints.iter().any(|taint| taint.key == SHUTDOWN));
        match new.gate("source") {
            Some("annotations") | None => {}
            Some("cloud-shutdown") if was_shut_down => {}
            Some(source) => why.push(format!("the source {source} did not vouch")),
        }
        why.extend(self.other_boot(new));
        why
    }

    /// Why the machine was not silent, if it was not by any state of its Lease.
    fn silence(
        self,
        old: &Node,
        range: &RangeInclusive<u64>,
        at: Timestamp,
        fenced_at: Option<Timestamp>,
    ) -> Option<String> {
        let skew = self.history.clock_skew;
        let versions = self.history.leases.get(self.step.node).map(Vec::as_slice).unwrap_or_default();
        let mut why = None;
        let judge = |lease: Option<&super::Lease>| -> Option<String> {
            // A renewal that lies ahead of the clock says nothing.
            let known =
                lease.and_then(|lease| Some((lease, lease.renewed_at().filter(|renewed| *renewed <= at + skew)?)));
            let Some((lease, renewed)) = known else {
                let age = old.metadata.creation_timestamp.map(|created| at.duration_since(created));
                let is_old = age.is_some_and(|age| age > SignedDuration::from_mins(5));
                let is_unknown = old.ready().all(|status| status == "Unknown");
                return (!is_old || !is_unknown).then(|| "there was no Lease, and the Node was young".to_owned());
            };
            let silent = at.duration_since(renewed);
            if silent < lease.duration() + skew {
                return Some(format!("its Lease was renewed {silent} before"));
            }
            let is_after = fenced_at.is_some_and(|fenced_at| renewed.duration_since(fenced_at) > skew);
            is_after.then(|| format!("its Lease was renewed at {renewed}, after the fence"))
        };
        if versions.first().is_none_or(|first| first.revision > *range.start()) {
            why = Some(judge(None)?);
        }
        for version in in_force(versions, range) {
            why = Some(judge(version.object.as_ref())?);
        }
        why
    }

    /// What held the taint in every state that the gate can have read.
    fn bound(self, old: &Node, is_released: bool, range: &RangeInclusive<u64>) -> Vec<String> {
        let Self { history, step } = self;
        let holds =
            |pod: &Pod| pod.spec.node_name == step.node && pod.holds_the_taint() && !(is_released && pod.may_stay(old));
        let pod = held_throughout(&history.pods, range, holds).map(|name| format!("Pod {name} was bound"));
        let attached = |attachment: &super::Attachment| attachment.spec.node_name == step.node;
        let volume = held_throughout(&history.attachments, range, attached)
            .map(|name| format!("VolumeAttachment {name} was there"));
        pod.into_iter().chain(volume).collect()
    }
}

/// The name of one of the objects that held throughout this range of revisions: at none of them,
/// nothing held.
fn held_throughout<T>(
    all: &super::Versions<T>,
    range: &RangeInclusive<u64>,
    holds: impl Fn(&T) -> bool,
) -> Option<String> {
    let mut spans: Vec<(u64, u64, &str)> = Vec::new();
    for (name, versions) in all {
        for version in in_force(versions, range) {
            if version.object.as_ref().is_some_and(&holds) {
                let next = versions.partition_point(|other| other.revision <= version.revision);
                let until = versions.get(next).map_or(u64::MAX, |next| next.revision);
                spans.push((version.revision, until, name));
            }
        }
    }
    spans.sort_unstable();
    let mut free = *range.start();
    let mut holder = None;
    for (from, until, name) in spans {
        if from > free {
            return None;
        }
        if until > free {
            (free, holder) = (until, Some(name));
        }
    }
    (free > *range.end()).then(|| holder.map(str::to_owned))?
}
