//! The facts about the cluster that were read for one decision. A fact is known, or it is unknown
//! for a reason, or it was not read.
//!
//! [`facts_needed`](super::facts_needed) lists them, `cluster` reads them, and
//! [`decide`](super::decide) judges by them. A fact that was not read counts as unknown, so a
//! forgotten read can only lead to a denial. An audit line contains all facts of its decision, and
//! the decision can be repeated from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    object::{
        lease::Lease,
        node_brief::NodeBrief,
        pod::Pod,
        volume::{ClaimRef, PersistentVolume, VolumeAttachment},
    },
    request::Write,
    text::NAMED,
};

mod budget;
mod custom;
mod life;

pub use budget::BudgetAnswer;
pub use custom::{CustomFacts, CustomKind};
pub use life::{SignOfLife, lease_name};

/// A verb on the virtual resource `nodes.fencegate.dev`. A SubjectAccessReview checks whether the
/// requester has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Needed to write evidence and to place the taint, with `authorization.attest: rbac`.
    Attest,
    /// Needed to use a break-glass (contract section 7).
    BreakGlass,
    /// Who has it is believed that a machine is gone, and may delete its Node (contract section
    /// 13).
    Vouch,
    /// Every verb: whoever has it was not given one of the others on purpose.
    Every,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 4] = [Self::Attest, Self::BreakGlass, Self::Vouch, Self::Every];

    /// The ClusterRole that grants the verb: one of the manifests, or Kubernetes' own.
    pub fn role(self) -> &'static str {
        match self {
            Self::Attest => "fencegate-attester",
            Self::BreakGlass => "fencegate-break-glass",
            Self::Vouch => "fencegate-voucher",
            Self::Every => "cluster-admin",
        }
    }

    /// The name in RBAC rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::BreakGlass => "break-glass",
            Self::Vouch => "vouch",
            Self::Every => "*",
        }
    }
}

/// Something about the cluster that a check needs. It is read with one request or one paged list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Lease `kube-node-lease/<node>`.
    Lease,
    /// Pods bound to the node.
    Pods,
    /// VolumeAttachments of the node, and some of the PersistentVolumes behind them
    /// ([`Facts::volumes_to_read`]).
    VolumeAttachments,
    /// Every Node's taints, and whether it is Ready.
    Nodes,
    /// The Lease in which the gate enters the nodes that it lets be put out of service.
    Budget,
    /// Whether RBAC grants the requester this verb for the node.
    Access(Verb),
    /// Custom resources about the node.
    Custom(CustomKind),
}

impl Fact {
    /// All facts.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Lease, Self::Pods, Self::VolumeAttachments, Self::Nodes, Self::Budget]
            .into_iter()
            .chain(Verb::ALL.map(Self::Access))
            .chain(CustomKind::ALL.iter().copied().map(Self::Custom))
    }

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Pods => "pods",
            Self::VolumeAttachments => "volume_attachments",
            Self::Nodes => "nodes",
            Self::Budget => "budget",
            Self::Access(_) => "access",
            Self::Custom(kind) => kind.name(),
        }
    }
}

/// The facts that a decision needs. They do not depend on each other and can be read concurrently.
pub type FactQuery = BTreeSet<Fact>;

/// The objects of a custom kind. `None` if the cluster does not have the kind.
pub type Installed<T> = Option<Vec<T>>;

/// The result of reading a fact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Observed<T> {
    /// The fact was not read.
    #[default]
    NotRead,
    /// The fact was read at `at`, by the gate's clock.
    Known { at: Timestamp, value: T },
    /// The fact could not be read. `why` is one line for people.
    Unknown { at: Timestamp, why: String },
}

impl<T> Observed<T> {
    /// The result of a read that ended at `at`.
    pub fn new<E: fmt::Display>(at: Timestamp, result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known { at, value },
            Err(error) => Self::Unknown { at, why: error.to_string() },
        }
    }

    /// The value, if it is known.
    ///
    /// # Errors
    /// Why the fact is not known, as one line for people.
    pub fn value(&self) -> Result<&T, &str> {
        match self {
            Self::NotRead => Err("it was not read"),
            Self::Known { value, .. } => Ok(value),
            Self::Unknown { why, .. } => Err(why),
        }
    }

    fn is_not_read(&self) -> bool {
        matches!(self, Self::NotRead)
    }
}

impl Observed<Infallible> {
    /// Converts a result without a value to any type.
    fn of<T>(self) -> Observed<T> {
        match self {
            Self::NotRead => Observed::NotRead,
            Self::Known { value, .. } => match value {},
            Self::Unknown { at, why } => Observed::Unknown { at, why },
        }
    }
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum FactValue {
    Lease(LeaseAnswer),
    Pods(Vec<Pod>),
    VolumeAttachments(Vec<VolumeAttachment>),
    Nodes(NodeSummary),
    Budget(BudgetAnswer),
    Access(Verb, Access),
    /// Objects of a custom kind, as JSON.
    Custom(CustomKind, Installed<Value>),
}

/// All facts that were read for one decision. This is `facts` in an audit line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The time of the decision, by the gate's clock.
    pub now: Timestamp,
    #[serde(default, skip_serializing_if = "Observed::is_not_read")]
    pub lease: Observed<LeaseAnswer>,
    #[serde(default, skip_serializing_if = "Observed::is_not_read")]
    pub pods: Observed<Vec<Pod>>,
    #[serde(default, skip_serializing_if = "Observed::is_not_read")]
    pub volume_attachments: Observed<Vec<VolumeAttachment>>,
    /// By name. `None`: the PersistentVolume does not exist.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub persistent_volumes: BTreeMap<String, Observed<Option<PersistentVolume>>>,
    /// By claim, as `namespace/name`. `None`: the claim is bound to no PersistentVolume that
    /// exists.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claimed_volumes: BTreeMap<String, Observed<Option<PersistentVolume>>>,
    #[serde(default, skip_serializing_if = "Observed::is_not_read")]
    pub nodes: Observed<NodeSummary>,
    #[serde(default, skip_serializing_if = "Observed::is_not_read")]
    pub budget: Observed<BudgetAnswer>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<Verb, Observed<Access>>,
    #[serde(default, flatten)]
    pub custom: CustomFacts,
}

impl Facts {
    /// Only the time is known.
    pub fn at(now: Timestamp) -> Self {
        Self { now, ..Self::default() }
    }

    /// Now, by the clock that the times of Leases and of managed fields are by: when the API server
    /// answered about the Lease. The gate's clock, if that answer is not known. Evidence is judged
    /// by it, so that two replicas whose clocks differ judge the same.
    pub fn api_now(&self) -> Timestamp {
        self.lease.value().map_or(self.now, |answer| answer.date)
    }

    /// Stores a fact that was read at `at`.
    pub fn learn(&mut self, at: Timestamp, value: FactValue) {
        match value {
            FactValue::Lease(value) => self.lease = Observed::Known { at, value },
            FactValue::Pods(value) => self.pods = Observed::Known { at, value },
            FactValue::VolumeAttachments(value) => self.volume_attachments = Observed::Known { at, value },
            FactValue::Nodes(value) => self.nodes = Observed::Known { at, value },
            FactValue::Budget(value) => self.budget = Observed::Known { at, value },
            FactValue::Access(verb, value) => {
                self.access.insert(verb, Observed::Known { at, value });
            }
            FactValue::Custom(kind, objects) => self.custom.learn(at, kind, objects),
        }
    }

    /// Stores that a fact could not be read. `why` is one line for people.
    pub fn fail(&mut self, at: Timestamp, fact: Fact, why: String) {
        self.put(fact, Observed::Unknown { at, why });
    }

    /// Removes a fact, as if it had not been read.
    pub fn forget(&mut self, fact: Fact) {
        self.put(fact, Observed::NotRead);
    }

    /// Why a fact is not known. `None` if it is.
    pub fn why_unknown(&self, fact: Fact) -> Option<&str> {
        match fact {
            Fact::Lease => self.lease.value().err(),
            Fact::Pods => self.pods.value().err(),
            Fact::VolumeAttachments => self.volume_attachments.value().err(),
            Fact::Nodes => self.nodes.value().err(),
            Fact::Budget => self.budget.value().err(),
            Fact::Access(verb) => self.access(verb).err(),
            Fact::Custom(kind) => self.custom.why_unknown(kind),
        }
    }

    fn put(&mut self, fact: Fact, missing: Observed<Infallible>) {
        match fact {
            Fact::Lease => self.lease = missing.of(),
            Fact::Pods => self.pods = missing.of(),
            Fact::VolumeAttachments => self.volume_attachments = missing.of(),
            Fact::Nodes => self.nodes = missing.of(),
            Fact::Budget => self.budget = missing.of(),
            Fact::Access(verb) => {
                self.access.insert(verb, missing.of());
            }
            Fact::Custom(kind) => self.custom.put(kind, missing),
        }
    }

    /// The names of the PersistentVolumes to read, too, if the taint is on the stored Node or the
    /// Node is deleted: they say which claims are attached. All attached ones, if the write returns
    /// the node to service and a pod may keep its volumes there. Otherwise they cannot change the
    /// verdict, and only those that a denial names are read.
    pub fn volumes_to_read(&self, write: &Write) -> BTreeSet<&str> {
        let is_deleted = matches!(write, Write::Delete { .. });
        let stored = write.before().filter(|node| is_deleted || node.is_out_of_service());
        let (Some(node), Ok(attachments)) = (stored, self.volume_attachments.value()) else { return BTreeSet::new() };
        let returns = write.after().is_some_and(|node| !node.is_out_of_service());
        let keeps_volumes = |pod: &Pod| pod.may_keep_volumes(node) && pod.claimed().next().is_some();
        let may_be_kept = returns && self.pods.value().is_ok_and(|pods| pods.iter().any(keeps_volumes));
        let mut in_message_order: Vec<&VolumeAttachment> = attachments.iter().collect();
        in_message_order.sort_unstable_by_key(|attachment| attachment.place_in_message());
        let read = if may_be_kept { attachments.len() } else { NAMED };
        in_message_order.into_iter().take(read).filter_map(VolumeAttachment::persistent_volume).collect()
    }

    /// The claims whose PersistentVolumes must be read, too: those of the node's pods, if there is
    /// a NetworkFence that may vouch.
    pub fn claims_to_read(&self) -> BTreeSet<ClaimRef> {
        match (self.custom.network_fences.value(), self.pods.value()) {
            (Ok(Some(fences)), Ok(pods)) if !fences.is_empty() => pods.iter().flat_map(Pod::claimed).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The PersistentVolume that is bound to this claim. `None` if there is none.
    pub(super) fn claimed_volume(&self, claim: &ClaimRef) -> Result<Option<&PersistentVolume>, &str> {
        self.claimed_volumes.get(&claim.to_string()).unwrap_or(&Observed::NotRead).value().map(Option::as_ref)
    }

    /// The PersistentVolume with this name. `None` if it does not exist.
    pub(super) fn persistent_volume(&self, name: &str) -> Result<Option<&PersistentVolume>, &str> {
        self.persistent_volumes.get(name).unwrap_or(&Observed::NotRead).value().map(Option::as_ref)
    }

    /// Whether RBAC grants the requester this verb.
    pub(super) fn access(&self, verb: Verb) -> Result<&Access, &str> {
        self.access.get(&verb).unwrap_or(&Observed::NotRead).value()
    }
}

/// A fact that is not known, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Names the fact, for example `Lease kube-node-lease/worker-2`.
    pub what: String,
    /// The rest of the sentence: `could not be read: forbidden`.
    pub why: String,
}

impl Unread {
    /// The fact could not be read, for this reason.
    pub fn unreadable(what: String, why: &str) -> Self {
        Self { what, why: format!("could not be read: {why}") }
    }

    /// The fact was read and says nothing, for this reason.
    pub fn silent(what: String, why: &str) -> Self {
        Self { what, why: format!("says nothing: {why}") }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.what, self.why)
    }
}

/// Facts, and how long each read took.
#[derive(Debug)]
pub struct Reading {
    pub facts: Facts,
    pub timings: Vec<Timing>,
}

/// The duration and the outcome of one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The label in metrics, one of a few fixed names.
    pub fact: &'static str,
    /// Whether the fact is known now.
    pub known: bool,
    pub took: Duration,
}

/// The API server's answer about a node's Lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// When the API server answered, by its own clock: the answer's `Date`, in whole seconds. The
    /// times in the Lease's managed fields are by the same clock.
    pub date: Timestamp,
    /// `None`: the Lease does not exist.
    pub lease: Option<Lease>,
}

/// The number of Nodes, the names of those that are out of service, and how many are not Ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    pub total: usize,
    /// Names of Nodes.
    pub out_of_service: BTreeSet<String>,
    /// Whether `total` includes the node that the decision is about.
    pub counts_node: bool,
    /// How many Nodes are not Ready, without the node that the decision is about.
    pub others_not_ready: usize,
}

impl NodeSummary {
    /// Summarises a list of Nodes, for a decision about `node`.
    pub fn of(nodes: impl IntoIterator<Item = NodeBrief>, node: &str) -> Self {
        let mut summary = Self::default();
        for listed in nodes {
            summary.total += 1;
            let is_another = listed.name() != node;
            summary.counts_node |= !is_another;
            summary.others_not_ready += usize::from(is_another && !listed.is_ready());
            if listed.is_out_of_service() {
                summary.out_of_service.insert(listed.name().to_owned());
            }
        }
        summary
    }
}

/// The API server's answer to a SubjectAccessReview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub allowed: bool,
}

#[cfg(test)]
mod tests;
