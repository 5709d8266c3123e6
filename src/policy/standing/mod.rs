//! Where a node stands in the out-of-service procedure, and what comes next. Commands and the
//! watcher show it.
//!
//! It has no rules of its own: it asks [`decide`] about the writes that come next, and says in a
//! word what the answers mean.

use jiff::{SignedDuration, Timestamp};

use super::{
    annotation::{BOOT_ID, FENCED_AT, OVERRIDDEN, PLACED_AT, PLACED_BY, REQUIRED_EVIDENCE},
    assessment::is_overtaken,
    blocker::{BlockingPod, BlockingVolume},
    decide,
    decision::{Decision, Finding},
    evidence::parse_time,
    facts::{Fact, FactQuery, Facts, SignOfLife},
    facts_needed,
    object::{node::Node, pod::Pod},
    reason::{Code, Reason},
    request::{Request, User, Write, out_of_service},
    review::Webhook,
    settings::{Settings, Watch},
    source::Doubt,
    text::Foreign,
};

mod state;

pub use state::{Next, Note, State};

/// A step of the procedure: the write that a command makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Puts the node out of service, with the entry that the procedure has.
    Place,
    /// Removes every entry of the taint.
    Release,
    /// Deletes the Node.
    Delete,
}

impl Step {
    /// The write of this step to the stored Node.
    pub fn write(self, stored: &Node) -> Write {
        match self {
            Self::Place => Write::placement(stored),
            Self::Release => Write::Update { old: stored.clone(), new: stored.in_service() },
            Self::Delete => Write::Delete { old: stored.clone() },
        }
    }

    /// The request for it.
    pub fn request(self, stored: &Node, user: &User) -> Request {
        Request { node: stored.metadata.name.clone(), user: user.clone(), write: self.write(stored) }
    }
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub state: State,
    pub next: Next,
    pub notes: Vec<Note>,
    /// Since when the node is out of service, if the record says so.
    pub out_since: Option<Timestamp>,
    /// The last sign of life of its kubelet, if the Lease could be read and one is known.
    pub sign_of_life: Option<SignOfLife>,
    /// Whether the kubelet was heard within the duration of its own Lease. `None` if that is not
    /// known: the Lease could not be read, or says nothing.
    pub is_heard: Option<bool>,
    /// Whether the machine runs the boot that was fenced. `None` if either is not known.
    pub is_in_recorded_boot: Option<bool>,
    /// The pods that hold the taint, or would be displaced by it.
    pub pods: Vec<BlockingPod>,
    /// The volumes that hold the taint, or would be detached.
    pub volumes: Vec<BlockingVolume>,
    /// What the gate would say to the steps that are possible.
    pub verdicts: Verdicts,
    /// The facts that could not be read, with the reason.
    pub unread: Vec<(Fact, String)>,
}

impl Standing {
    /// The next step, and what the gate would say to it. `None` where no step makes sense.
    pub fn next_step(&self) -> Option<(Step, &Decision)> {
        let Verdicts { place, release, .. } = &self.verdicts;
        let place = place.as_ref().map(|decision| (Step::Place, decision));
        release.as_ref().map(|decision| (Step::Release, decision)).or(place)
    }

    /// The codes that deny the next step.
    pub fn denying(&self) -> impl Iterator<Item = Code> {
        let findings = self.next_step().into_iter().flat_map(|(_, decision)| &decision.findings);
        findings.filter(|finding| finding.denies()).map(|finding| finding.reason.code())
    }

    /// Whether the volume of this name is among those that hold the taint: the name of a
    /// VolumeAttachment, or one in the Node's `status.volumesAttached`.
    pub fn holds_volume(&self, name: &str) -> bool {
        let name = Foreign::from(name);
        self.volumes.iter().any(|volume| *volume.name() == name)
    }
}

/// What the gate would say. `None`: the step makes no sense here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    pub place: Option<Decision>,
    pub release: Option<Decision>,
    pub delete: Option<Decision>,
}

/// The request and the facts to read for it: a release, even of a node that is in service, because
/// what holds a release is what the taint displaces.
pub fn facts_of(node: &Node, user: &User, settings: &Settings) -> (Request, FactQuery) {
    let release = Step::Release.request(&out_of_service(node), user);
    let mut query = FactQuery::from([Fact::Lease]);
    if !is_in_service(node) {
        let place = Step::Place.request(&node.in_service(), user);
        let delete = Step::Delete.request(node, user);
        for settings in [settings, &settings.strict()] {
            query.extend([&release, &place, &delete].into_iter().flat_map(|step| facts_needed(step, settings)));
        }
    }
    (release, query)
}

/// Where the stored Node stands, for `user`, by the facts of [`facts_of`]. A check that is turned
/// down counts here: its absence makes no machine dead and no node empty.
pub fn standing(node: &Node, user: &User, facts: &Facts, settings: &Settings) -> Standing {
    let strict = settings.strict();
    let judge = |stored: &Node, step: Step, settings: &Settings| {
        decide(Webhook::Mutate, &step.request(stored, user), facts, settings)
    };
    let is_out = node.is_out_of_service();
    let held = judge(&out_of_service(node), Step::Release, &strict);
    let fence = judge(&node.in_service(), Step::Place, &strict);
    let (pods, volumes) = if is_in_service(node) { (Vec::new(), Vec::new()) } else { blockers(&held) };
    let (_, query) = facts_of(node, user, settings);
    let unread: Vec<(Fact, String)> =
        query.iter().filter_map(|fact| Some((*fact, facts.why_unknown(*fact)?.to_owned()))).collect();
    let sign_of_life = facts.lease.value().ok().and_then(|answer| SignOfLife::last(node, answer, settings.clock_skew));
    let view = View {
        node,
        now: facts.api_now(),
        clock_skew: settings.clock_skew,
        watch: &settings.watch,
        sign_of_life,
        is_heard: is_heard(sign_of_life, facts, &fence, settings.clock_skew),
        is_held: !pods.is_empty() || !volumes.is_empty(),
        lacks_facts: if is_out {
            denies(&held, Code::FactsUnavailable)
        } else {
            denies(&fence, Code::FactsUnavailable) || !unread.is_empty()
        },
        fence: &fence,
        last_change: last_change(node, facts),
    };
    let state = view.state();
    Standing {
        state,
        next: view.next(state),
        notes: view.notes(state),
        out_since: view.out_since(),
        sign_of_life,
        is_heard: view.is_heard,
        is_in_recorded_boot: is_in_recorded_boot(node),
        pods,
        volumes,
        verdicts: Verdicts {
            place: (!is_out && !is_in_service(node)).then(|| judge(node, Step::Place, settings)),
            release: is_out.then(|| judge(node, Step::Release, settings)),
            delete: is_out.then(|| judge(node, Step::Delete, settings)),
        },
        unread,
    }
}

/// Whether nothing is to be found out about the node: it is Ready, and not out of service.
pub fn is_in_service(node: &Node) -> bool {
    !node.is_out_of_service() && node.ready().is_some()
}

/// Whether the kubelet was heard within the duration of its Lease. `None` if that is not known: the
/// Lease could not be read, or says nothing and the node has not been silent for long enough.
fn is_heard(last: Option<SignOfLife>, facts: &Facts, fence: &Decision, clock_skew: SignedDuration) -> Option<bool> {
    let answer = facts.lease.value().ok()?;
    match last {
        Some(sign) => Some(answer.date.duration_since(sign.at) < answer.runs_out_after(clock_skew)),
        None if denies(fence, Code::FactsUnavailable) => None,
        None => Some(false),
    }
}

fn denies(decision: &Decision, code: Code) -> bool {
    decision.findings.iter().any(|finding| finding.denies() && finding.reason.code() == code)
}

/// The pods and volumes that hold the taint, even if the check is turned down to a warning.
fn blockers(release: &Decision) -> (Vec<BlockingPod>, Vec<BlockingVolume>) {
    let (mut held_pods, mut held_volumes) = (Vec::new(), Vec::new());
    for finding in &release.findings {
        match &finding.reason {
            Reason::PodsRemain { pods } => held_pods.clone_from(pods),
            Reason::VolumesAttached { volumes } => held_volumes.clone_from(volumes),
            _ => {}
        }
    }
    (held_pods, held_volumes)
}

/// When something last happened on a node that is out of service, as far as its objects tell: it
/// was put out of service, or a pod or a volume began to leave.
fn last_change(node: &Node, facts: &Facts) -> Option<Timestamp> {
    let pods = facts.pods.value().into_iter().flatten().filter_map(Pod::terminating_since);
    let attachments = facts.volume_attachments.value().into_iter().flatten();
    let volumes = attachments.filter_map(|attachment| attachment.metadata.deletion_timestamp);
    pods.chain(volumes).chain(time_of(node, PLACED_AT)).filter(|at| *at <= facts.api_now()).max()
}

/// Whether the machine runs the boot that was fenced. `None` if either is not known.
fn is_in_recorded_boot(node: &Node) -> Option<bool> {
    Some(node.annotation(BOOT_ID)? == node.boot_id()?)
}

fn time_of(node: &Node, key: &str) -> Option<Timestamp> {
    node.annotation(key).and_then(parse_time)
}

/// What a state is told from.
struct View<'a> {
    node: &'a Node,
    now: Timestamp,
    clock_skew: SignedDuration,
    watch: &'a Watch,
    sign_of_life: Option<SignOfLife>,
    /// [`Standing::is_heard`].
    is_heard: Option<bool>,
    /// Whether a pod or a volume holds the taint, or would be displaced.
    is_held: bool,
    /// Whether there may be more that holds it, or more against a placement.
    lacks_facts: bool,
    /// What speaks against a placement by what is on record, if no check is turned down.
    fence: &'a Decision,
    last_change: Option<Timestamp>,
}

impl View<'_> {
    fn state(&self) -> State {
        // What a break-glass waives is true all the same.
        let is_denied = self.fence.findings.iter().any(Finding::is_enforced);
        match self.is_heard {
            _ if self.node.is_out_of_service() => self.state_out_of_service(self.node.ready().is_some()),
            _ if is_in_service(self.node) => State::InService,
            _ if !is_denied => State::Attested,
            Some(true) if !self.is_contradicted() => State::NotReady,
            _ if self.lacks_facts => State::Unknown,
            _ if self.is_contradicted() => State::Contradicted,
            _ => State::Silent,
        }
    }

    fn state_out_of_service(&self, is_ready: bool) -> State {
        if self.is_held {
            let is_of_other_boot = is_in_recorded_boot(self.node) == Some(false);
            return match self.is_heard {
                _ if is_of_other_boot => self.emptying(),
                Some(true) => State::Alive,
                _ if is_ready => State::Alive,
                Some(false) => self.emptying(),
                None => State::Unknown,
            };
        }
        match (self.lacks_facts, is_ready, is_in_recorded_boot(self.node)) {
            (true, ..) => State::Unknown,
            (false, true, Some(true)) => State::SameBoot,
            (false, true, _) => State::Recovered,
            (false, false, _) => State::Empty,
        }
    }

    /// Whether it goes on emptying, or nothing has left it for some time. Where no time is known,
    /// nobody should wait.
    fn emptying(&self) -> State {
        let is_moving = self.last_change.is_some_and(|at| self.now.duration_since(at) <= self.watch.stuck_after);
        if is_moving { State::Emptying } else { State::Stuck }
    }

    /// Whether somebody said that the machine was fenced, and the denial is not for want of that: a
    /// word does not count any more, or something else speaks against the placement.
    fn is_contradicted(&self) -> bool {
        let is_recorded = self.node.has_record();
        let mut denying = self.fence.findings.iter().filter(|finding| finding.is_enforced());
        denying.any(|finding| match &finding.reason {
            Reason::EvidenceMissing { unvouched } => {
                unvouched.iter().any(|unvouched| matches!(unvouched.why, Doubt::Refuted { .. }))
            }
            _ => is_recorded,
        })
    }

    fn next(&self, state: State) -> Next {
        match state {
            State::Emptying => Next::Wait,
            State::SameBoot => Next::Reboot,
            State::Recovered => Next::Release,
            State::Empty => Next::Repair,
            State::Contradicted if self.contradicts_the_fence() => Next::Fence,
            State::Unknown | State::Alive | State::Stuck | State::NotReady | State::Contradicted => Next::Look,
            State::Attested => Next::Place,
            State::Silent if self.is_held => Next::Fence,
            State::Silent | State::InService => Next::Nothing,
        }
    }

    /// Whether a new fence is what is missing. Otherwise somebody's rights or a limit are.
    fn contradicts_the_fence(&self) -> bool {
        const OF_THE_FENCE: [Code; 5] = [
            Code::LeaseStillRenewed,
            Code::EvidenceMalformed,
            Code::EvidenceExpired,
            Code::EvidenceInFuture,
            Code::EvidenceForOtherBoot,
        ];
        OF_THE_FENCE.iter().any(|code| self.fence.codes().contains(code))
    }

    fn out_since(&self) -> Option<Timestamp> {
        time_of(self.node, PLACED_AT).filter(|_| self.node.is_out_of_service())
    }

    fn notes(&self, state: State) -> Vec<Note> {
        let is_out = self.node.is_out_of_service();
        let has = |key: &str| self.node.annotation(key).is_some();
        let back_since = self.node.ready().and_then(|ready| ready.last_transition_time);
        let is_forgotten = back_since.is_some_and(|since| self.now.duration_since(since) > self.watch.forgotten_after);
        let overtakes = |at| self.sign_of_life.is_some_and(|sign| is_overtaken(at, sign, self.clock_skew));
        let is_overtaken = time_of(self.node, FENCED_AT).is_some_and(overtakes);
        let is_old_record = !is_out && state == State::InService && REQUIRED_EVIDENCE.iter().any(|key| has(key));
        let all = [
            (Note::Unrecorded, is_out && !has(PLACED_BY)),
            (Note::Overridden, is_out && has(OVERRIDDEN)),
            (Note::Forgotten, state == State::Recovered && is_forgotten),
            (Note::StaleEvidence, is_old_record),
            (
                Note::SameMachine,
                is_overtaken && self.node.ready().is_none() && is_in_recorded_boot(self.node) != Some(false),
            ),
        ];
        all.into_iter().filter(|(_, holds)| *holds).map(|(note, _)| note).collect()
    }
}

#[cfg(test)]
mod tests;
