//! The API server's admission of one write to the Node: the program's own policy, as the mutating
//! and then the validating webhook.
//!
//! This file is all that the model knows of the program. It shows the policy what an API server
//! would show, never the truth about the machine.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, RwLock},
};

use dashmap::DashMap;
use fencegate::policy::{
    self,
    decision::Decision,
    door::{Door, Grace},
    facts::{Access, CustomKind, Fact, FactValue, Facts, LeaseAnswer, Observed, Verb},
    reason::{Code, Mode},
    request::{Request, User, Write},
    review::Webhook,
    settings::{Doors, Settings},
    source::Source,
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    shown,
    world::{self, Attachment, Owner, Seconds, World},
};

/// The name of the suspect node.
pub const NAME: &str = "a";

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// An operator without any right of the gate's.
    Alice,
    /// An operator who may use a break-glass.
    Oncall,
    /// The kubelet of the suspect node.
    Kubelet,
    /// A pod on the suspect node, with a token that is bound to it.
    PodOnNode,
    /// The controller of fence agents.
    Far,
    /// A cloud's node controller, which deletes the Nodes of machines that are gone.
    Cloud,
}

impl Actor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Alice => "alice",
            Self::Oncall => "oncall",
            Self::Kubelet => "system:node:a",
            Self::PodOnNode => "system:serviceaccount:shop:agent",
            Self::Far => "system:serviceaccount:medik8s:far",
            Self::Cloud => "system:serviceaccount:kube-system:cloud-node-lifecycle-controller",
        }
    }

    pub fn may_break_glass(self) -> bool {
        self == Self::Oncall
    }

    fn may(self, verb: Verb) -> bool {
        match verb {
            Verb::BreakGlass => self.may_break_glass(),
            Verb::Vouch => self == Self::Cloud,
            Verb::Attest | Verb::Every => false,
        }
    }

    pub fn is_on_the_node(self) -> bool {
        matches!(self, Self::Kubelet | Self::PodOnNode)
    }

    fn user(self) -> User {
        let groups = if self == Self::Kubelet { vec!["system:nodes".to_owned()] } else { Vec::new() };
        let extra = match self {
            Self::PodOnNode => {
                BTreeMap::from([("authentication.kubernetes.io/node-name".to_owned(), vec![NAME.to_owned()])])
            }
            _ => BTreeMap::new(),
        };
        User { name: self.name().to_owned(), groups, extra, ..User::default() }
    }
}

/// The clocks of the replicas that answer the mutating and the validating call: how far each is
/// ahead of the API server's.
pub type Clocks = (Seconds, Seconds);

/// Another door to the harm than the taint, beside the deletion of the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The pod is deleted with a grace period of 0.
    ForceDelete,
    /// The VolumeAttachment is deleted: its driver detaches the disk.
    Detach,
    /// The VolumeAttachment that is being deleted loses its finalizer: nothing waits for its
    /// driver.
    Unfinalize,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    /// This Node is stored; `None`: it is deleted.
    Node(Option<world::Node>),
    Way(Way),
}

/// What the gate is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    before: Option<world::Node>,
    asked: Asked,
    actor: Actor,
    clocks: Clocks,
    now: Seconds,
    lease: Option<world::Lease>,
    pod: world::Pod,
    owner: Owner,
    attachment: Attachment,
    remediation: Option<world::Remediation>,
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It is stored as this Node; `None` if the Node is deleted.
    Stored { node: Option<world::Node>, broke_glass: bool },
    /// The codes and the text of the denial.
    Denied(String),
}

/// The gate in front of the API server; or none.
pub struct Gate {
    settings: Option<Settings>,
    answers: DashMap<Seen, Admission>,
}

impl Gate {
    /// The gate with the settings of a default installation and the overlay of fence agents, and
    /// the overlay of the other doors if they count. `without`: this check is taken out.
    pub fn new(without: Option<Code>, doors: bool) -> Self {
        let mut settings = Settings::default();
        settings.sources.push(Source::FenceAgentsRemediation);
        settings.doors = Doors::default().or(doors.then_some(Mode::Enforce));
        settings.modes.extend(without.map(|code| (code, Mode::Off)));
        Self { settings: Some(settings), answers: DashMap::new() }
    }

    /// A cluster without the gate.
    pub fn absent() -> Self {
        Self { settings: None, answers: DashMap::new() }
    }

    /// Whether there is a gate.
    pub fn is_there(&self) -> bool {
        self.settings.is_some()
    }

    /// The API server's answer to a write of the Node.
    pub fn admit(&self, world: &World, after: Option<world::Node>, actor: Actor, clocks: Clocks) -> Admission {
        self.answer(world, Asked::Node(after), actor, clocks)
    }

    /// The API server's answer to a request that takes another door. The Node stays as it is.
    pub fn admit_way(&self, world: &World, way: Way, actor: Actor) -> Admission {
        self.answer(world, Asked::Way(way), actor, (0, 0))
    }

    fn answer(&self, world: &World, asked: Asked, actor: Actor, clocks: Clocks) -> Admission {
        let Some(settings) = &self.settings else {
            let node = match asked {
                Asked::Node(after) => after,
                Asked::Way(_) => world.node.clone(),
            };
            return Admission::Stored { node, broke_glass: false };
        };
        let seen = Seen {
            before: world.node.clone(),
            asked,
            actor,
            clocks,
            now: world.now,
            lease: world.lease.clone(),
            pod: world.pod,
            owner: world.owner,
            attachment: world.attachment,
            remediation: world.remediation.clone(),
        };
        if let Some(known) = self.answers.get(&seen) {
            return known.clone();
        }
        let answer = match &seen.asked {
            Asked::Node(after) => to_write(&seen, after.clone(), settings),
            Asked::Way(way) => to_way(&seen, *way, settings),
        };
        self.answers.insert(seen, answer.clone());
        answer
    }
}

fn to_write(seen: &Seen, mut after: Option<world::Node>, settings: &Settings) -> Admission {
    let mut broke_glass = false;
    for (webhook, ahead) in [(Webhook::Mutate, seen.clocks.0), (Webhook::Validate, seen.clocks.1)] {
        let write = Write::between(seen.before.as_ref().map(shown::node), after.as_ref().map(shown::node));
        let Some(write) = write else { return Admission::Stored { node: None, broke_glass } };
        let request = Request { node: NAME.to_owned(), user: seen.actor.user(), write };
        let decision = match decide(webhook, seen, &request, settings, ahead) {
            Ok(decision) => decision,
            Err(denied) => return denied,
        };
        broke_glass |= decision.break_glass.used().is_some();
        if let (Some(after), Webhook::Mutate) = (after.as_mut(), webhook) {
            for (key, value) in &decision.stamps {
                after.annotate(key, value.as_deref().map(interned));
            }
        }
    }
    Admission::Stored { node: after, broke_glass }
}

/// Only the validating webhook is asked, and only about what is a [`Door`] on a Node that is there.
fn to_way(seen: &Seen, way: Way, settings: &Settings) -> Admission {
    let node = || seen.before.clone();
    let request = door(seen, way).zip(seen.before.as_ref()).and_then(|(door, node)| door.request(shown::node(node)));
    let Some(request) = request else { return Admission::Stored { node: node(), broke_glass: false } };
    match decide(Webhook::Validate, seen, &request, settings, 0) {
        Ok(decision) => Admission::Stored { node: node(), broke_glass: decision.break_glass.used().is_some() },
        Err(denied) => denied,
    }
}

fn door(seen: &Seen, way: Way) -> Option<Door> {
    let user = seen.actor.user();
    match way {
        Way::ForceDelete => {
            let grace = Grace { asked: Some(0), own: Some(30) };
            Door::deletes_pod(user, shown::pod(seen.pod, seen.owner)?, grace)
        }
        Way::Detach => Door::deletes_attachment(user, shown::attachment(seen.attachment)?),
        Way::Unfinalize => {
            let old = shown::attachment(seen.attachment)?;
            let mut new = old.clone();
            new.metadata.finalizers.clear();
            Door::updates_attachment(user, old, &new)
        }
    }
}

/// The decision, if the write is allowed.
fn decide(
    webhook: Webhook,
    seen: &Seen,
    request: &Request,
    settings: &Settings,
    ahead: Seconds,
) -> Result<Decision, Admission> {
    let facts = facts(seen, request, settings, time(seen.now + ahead));
    let decision = policy::decide(webhook, request, &facts, settings);
    if decision.allowed {
        return Ok(decision);
    }
    let codes: Vec<&str> = decision.codes().into_iter().map(Code::name).collect();
    let reasons: Vec<String> = decision.findings.iter().map(|finding| finding.reason.to_string()).collect();
    Err(Admission::Denied(format!("{}: {}", codes.join(", "), reasons.join("; "))))
}

/// The facts that the policy asks for, and no other.
fn facts(seen: &Seen, request: &Request, settings: &Settings, now: Timestamp) -> Facts {
    let mut facts = Facts::at(now);
    for fact in policy::facts_needed(request, settings) {
        let value = match fact {
            Fact::Lease => {
                FactValue::Lease(LeaseAnswer { date: time(seen.now), lease: seen.lease.as_ref().map(shown::lease) })
            }
            Fact::Pods => FactValue::Pods(shown::pod(seen.pod, seen.owner).into_iter().collect()),
            Fact::VolumeAttachments => {
                FactValue::VolumeAttachments(shown::attachment(seen.attachment).into_iter().collect())
            }
            Fact::Access(verb) => FactValue::Access(verb, Access { allowed: seen.actor.may(verb) }),
            Fact::Custom(CustomKind::FenceAgentsRemediation) => {
                let objects = seen.remediation.iter().map(shown::remediation).collect();
                FactValue::Custom(CustomKind::FenceAgentsRemediation, Some(objects))
            }
            Fact::Custom(kind) => FactValue::Custom(kind, None),
            // No check of the model's settings asks for these.
            Fact::Nodes | Fact::Budget => continue,
        };
        facts.learn(now, value);
    }
    let read: Vec<String> = facts.volumes_to_read(&request.write).into_iter().map(str::to_owned).collect();
    let volumes = read.into_iter().map(|name| (name, Observed::Known { at: now, value: shown::volume() }));
    facts.persistent_volumes.extend(volumes);
    facts
}

/// The moment of the model as a time.
pub fn time(at: Seconds) -> Timestamp {
    static START: LazyLock<Timestamp> =
        LazyLock::new(|| "2026-11-22T10:00:00Z".parse().unwrap_or(Timestamp::UNIX_EPOCH));
    *START + SignedDuration::from_secs(at.into())
}

/// The value of `fenced-at` for this moment.
pub fn written(at: Seconds) -> &'static str {
    interned(&time(at).to_string())
}

/// The moment of a `fenced-at`. `None` if it is not a time.
pub fn moment(text: &str) -> Option<Seconds> {
    let time_of: Timestamp = text.parse().ok()?;
    Seconds::try_from(time_of.duration_since(time(0)).as_secs()).ok()
}

/// The boot ID that a kubelet reports in its nth boot.
pub fn boot_id(boot: u8) -> String {
    format!("boot-{boot}")
}

/// The same text, kept for the rest of the program: states compare and copy it often.
pub fn interned(text: &str) -> &'static str {
    static TEXTS: LazyLock<RwLock<BTreeMap<String, &'static str>>> = LazyLock::new(RwLock::default);
    let known = |texts: &BTreeMap<String, &'static str>| texts.get(text).copied();
    let read = TEXTS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(kept) = known(&read) {
        return kept;
    }
    drop(read);
    let mut texts = TEXTS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    known(&texts).unwrap_or_else(|| {
        let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
        texts.insert(text.to_owned(), kept);
        kept
    })
}
