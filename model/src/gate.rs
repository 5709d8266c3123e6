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
    facts::{Access, CustomKind, Fact, FactValue, Facts, LeaseAnswer, Observed},
    object::{
        lease::{Lease, LeaseFields, LeaseMetadata, LeaseSpec, LeaseSpecFields, ManagedFields, Owned},
        node::{
            Condition, Node, NodeInfo, NodeMetadata, NodeSpec, NodeStatus, OUT_OF_SERVICE, OwnedCondition,
            OwnedConditions, OwnedFields, OwnedStatus, ReadyOwner, Taint,
        },
        pod::Pod,
        volume::{PersistentVolume, VolumeAttachment},
    },
    reason::{Code, Mode},
    request::{Request, User, Write},
    review::Webhook,
    settings::Settings,
    source::Source,
};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::world::{self, Attachment, Ready, Seconds, World};

/// The name of the suspect node.
const NAME: &str = "a";
/// The name of the disk's PersistentVolume.
const VOLUME: &str = "pv-1";

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
}

impl Actor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Alice => "alice",
            Self::Oncall => "oncall",
            Self::Kubelet => "system:node:a",
            Self::PodOnNode => "system:serviceaccount:shop:agent",
            Self::Far => "system:serviceaccount:medik8s:far",
        }
    }

    pub fn may_break_glass(self) -> bool {
        self == Self::Oncall
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

/// What the gate is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    before: Option<world::Node>,
    after: Option<world::Node>,
    actor: Actor,
    clocks: Clocks,
    now: Seconds,
    lease: Option<world::Lease>,
    pod: world::Pod,
    attachment: bool,
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
    /// The gate with the settings of a default installation and the overlay of fence agents.
    /// `without`: this check is taken out.
    pub fn new(without: Option<Code>) -> Self {
        let mut settings = Settings::default();
        settings.sources.push(Source::FenceAgentsRemediation);
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
        let Some(settings) = &self.settings else { return Admission::Stored { node: after, broke_glass: false } };
        let seen = Seen {
            before: world.node.clone(),
            after,
            actor,
            clocks,
            now: world.now,
            lease: world.lease.clone(),
            pod: world.pod,
            attachment: world.attachment != Attachment::Gone,
            remediation: world.remediation.clone(),
        };
        if let Some(known) = self.answers.get(&seen) {
            return known.clone();
        }
        let answer = answer(&seen, settings);
        self.answers.insert(seen, answer.clone());
        answer
    }
}

fn answer(seen: &Seen, settings: &Settings) -> Admission {
    let mut after = seen.after.clone();
    let mut broke_glass = false;
    for (webhook, ahead) in [(Webhook::Mutate, seen.clocks.0), (Webhook::Validate, seen.clocks.1)] {
        let write = Write::between(seen.before.as_ref().map(node), after.as_ref().map(node));
        let Some(write) = write else { return Admission::Stored { node: None, broke_glass } };
        let request = Request { node: NAME.to_owned(), user: seen.actor.user(), write };
        let facts = facts(seen, &request, settings, time(seen.now + ahead));
        let decision = policy::decide(webhook, &request, &facts, settings);
        if !decision.allowed {
            let codes: Vec<&str> = decision.codes().into_iter().map(Code::name).collect();
            let reasons: Vec<String> = decision.findings.iter().map(|finding| finding.reason.to_string()).collect();
            return Admission::Denied(format!("{}: {}", codes.join(", "), reasons.join("; ")));
        }
        broke_glass |= decision.break_glass.used().is_some();
        if let (Some(after), Webhook::Mutate) = (after.as_mut(), webhook) {
            for (key, value) in &decision.stamps {
                after.annotate(key, value.as_deref().map(interned));
            }
        }
    }
    Admission::Stored { node: after, broke_glass }
}

/// The facts that the policy asks for, and no other.
fn facts(seen: &Seen, request: &Request, settings: &Settings, now: Timestamp) -> Facts {
    let mut facts = Facts::at(now);
    for fact in policy::facts_needed(request, settings) {
        let value = match fact {
            Fact::Lease => {
                FactValue::Lease(LeaseAnswer { date: time(seen.now), lease: seen.lease.as_ref().map(lease) })
            }
            Fact::Pods => FactValue::Pods(pod(seen.pod)),
            Fact::VolumeAttachments => FactValue::VolumeAttachments(attachment(seen.attachment)),
            Fact::Access(verb) => FactValue::Access(verb, Access { allowed: seen.actor.may_break_glass() }),
            Fact::Custom(CustomKind::FenceAgentsRemediation) => {
                let objects = seen.remediation.iter().map(remediation).collect();
                FactValue::Custom(CustomKind::FenceAgentsRemediation, Some(objects))
            }
            Fact::Custom(kind) => FactValue::Custom(kind, None),
            // No check of the model's settings asks for these.
            Fact::Nodes | Fact::Budget => continue,
        };
        facts.learn(now, value);
    }
    let read: Vec<String> = facts.volumes_to_read(&request.write).into_iter().map(str::to_owned).collect();
    let volumes = read.into_iter().map(|name| (name, Observed::Known { at: now, value: volume() }));
    facts.persistent_volumes.extend(volumes);
    facts
}

/// The moment of the model as a time.
fn time(at: Seconds) -> Timestamp {
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

fn node(node: &world::Node) -> Node {
    let since = Some(time(node.ready_since));
    let condition = |status: &str| Condition {
        kind: "Ready".to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: since,
        last_transition_time: since,
    };
    let owner = |at: Option<Seconds>, status: Option<Owned>, heartbeat: Option<Owned>| ReadyOwner {
        time: at.map(time),
        fields_v1: OwnedFields {
            status: OwnedStatus { conditions: OwnedConditions { ready: Some(OwnedCondition { status, heartbeat }) } },
        },
    };
    let (conditions, owners) = match node.ready {
        Ready::True | Ready::False => {
            let status = if node.ready == Ready::True { "True" } else { "False" };
            (vec![condition(status)], vec![owner(Some(node.ready_since), Some(Owned {}), Some(Owned {}))])
        }
        Ready::Unknown => {
            let of_kubelet = owner(node.reported, None, Some(Owned {}));
            (vec![condition("Unknown")], vec![of_kubelet, owner(Some(node.ready_since), Some(Owned {}), None)])
        }
        Ready::Absent => (Vec::new(), Vec::new()),
    };
    let annotations = node.annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let taint = |effect: &world::Effect| Taint {
        key: OUT_OF_SERVICE.to_owned(),
        value: "nodeshutdown".to_owned(),
        effect: effect.name().to_owned(),
    };
    Node {
        metadata: NodeMetadata {
            name: NAME.to_owned(),
            creation_timestamp: Some(time(node.created)),
            managed_fields: Some(owners),
            annotations: Some(annotations),
            ..NodeMetadata::default()
        },
        spec: NodeSpec { taints: node.taint.iter().map(taint).collect(), ..NodeSpec::default() },
        status: NodeStatus {
            conditions,
            node_info: NodeInfo { boot_id: node.boot.map(boot_id).unwrap_or_default() },
            ..NodeStatus::default()
        },
    }
}

fn lease(lease: &world::Lease) -> Lease {
    let renewed = Some(time(lease.renewed));
    let renewal = ManagedFields {
        time: renewed,
        fields_v1: LeaseFields { spec: LeaseSpecFields { renew_time: Some(Owned {}) } },
    };
    let managed_fields = lease.managed.then(|| vec![renewal]);
    Lease {
        metadata: LeaseMetadata { managed_fields },
        spec: LeaseSpec { renew_time: renewed, lease_duration_seconds: Some(40) },
    }
}

/// The pod of a StatefulSet, with a claim.
fn pod(pod: world::Pod) -> Vec<Pod> {
    let deleted = match pod {
        world::Pod::Gone => return Vec::new(),
        world::Pod::Bound => Value::Null,
        world::Pod::Terminating => json!("2026-11-22T10:00:00Z"),
    };
    let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true});
    parsed(json!({
        "metadata": {
            "namespace": "shop",
            "name": "db-0",
            "creationTimestamp": "2026-11-22T08:00:00Z",
            "deletionTimestamp": deleted,
            "labels": {"statefulset.kubernetes.io/pod-name": "db-0"},
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": NAME,
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}],
        },
        "status": {"phase": "Running"},
    }))
    .into_iter()
    .collect()
}

fn attachment(is_there: bool) -> Vec<VolumeAttachment> {
    let attachment = json!({
        "metadata": {"name": "csi-1"},
        "spec": {"attacher": "csi.example.com", "nodeName": NAME, "source": {"persistentVolumeName": VOLUME}},
        "status": {"attached": true},
    });
    parsed(attachment).into_iter().filter(|_| is_there).collect()
}

/// The claim of the disk's PersistentVolume.
fn volume() -> Option<PersistentVolume> {
    parsed(json!({
        "metadata": {"name": VOLUME},
        "spec": {"claimRef": {"namespace": "shop", "name": "data-db-0"}},
    }))
}

fn remediation(remediation: &world::Remediation) -> Value {
    let at = |at: Seconds| time(at).to_string();
    let condition =
        |at_time| json!({"type": "FenceAgentActionSucceeded", "status": "True", "lastTransitionTime": at(at_time)});
    json!({
        "metadata": {"name": NAME, "namespace": "medik8s", "creationTimestamp": at(remediation.created)},
        "status": {"conditions": remediation.succeeded.map(condition).into_iter().collect::<Vec<_>>()},
    })
}

/// An object of the policy from its JSON. The model's own objects can always be parsed; a test
/// holds it.
fn parsed<T: DeserializeOwned>(object: Value) -> Option<T> {
    serde_json::from_value(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_can_read_the_models_objects() {
        assert_eq!(pod(world::Pod::Bound).len(), 1);
        assert!(pod(world::Pod::Terminating).iter().all(Pod::is_terminating));
        assert_eq!(attachment(true).len(), 1);
        assert!(volume().is_some());
        let read = CustomKind::FenceAgentsRemediation.check(&remediation(&world::Remediation {
            created: 0,
            rebooted: true,
            succeeded: Some(30),
        }));
        assert!(read.is_ok());
    }
}
