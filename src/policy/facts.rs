//! What is known: facts about the cluster as they were read for one decision, each known or not known and why.
//!
//! [`facts_needed`](super::facts_needed) names them, `cluster` reads them, [`decide`](super::decide) judges by them. A fact that was not read is
//! not known, so forgetting to read one can only deny. The types read and write the JSON shape of the Kubernetes objects
//! they stand for, less what the gate does not judge: an audit line holds them whole, and can be replayed from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    json::{null_is_default, object_or_null},
    node::Node,
    pod::Pod,
    source::{
        bare_metal_host::BareMetalHost, fence_agents_remediation::FenceAgentsRemediation, network_fence::NetworkFence,
        self_node_remediation::SelfNodeRemediation,
    },
};

/// A verb on the virtual resource `nodes.fencegate.dev` that a SubjectAccessReview asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// May write evidence and place the taint, with `authorization.attest: rbac`.
    Attest,
    /// May go against the gate (contract section 7).
    BreakGlass,
}

impl Verb {
    /// The role in the manifests that gives the right.
    pub fn role(self) -> &'static str {
        match self {
            Self::Attest => "fencegate-attester",
            Self::BreakGlass => "fencegate-break-glass",
        }
    }

    /// As RBAC rules spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::BreakGlass => "break-glass",
        }
    }
}

/// Something about the cluster that a check needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Lease `kube-node-lease/<node>`.
    Lease,
    /// Pods bound to the node.
    Pods,
    /// VolumeAttachments that name the node, and the PersistentVolumes behind those that a pod may keep
    /// ([`Facts::volumes_in_question`]).
    VolumeAttachments,
    /// Every Node's taints.
    Nodes,
    /// What RBAC lets the requester do to the node.
    Access(Verb),
    /// FenceAgentsRemediations about the node.
    FenceAgentsRemediations,
    /// SelfNodeRemediations about the node.
    SelfNodeRemediations,
    /// NetworkFences that cover an address of the node.
    NetworkFences,
    /// The BareMetalHost that the node names.
    BareMetalHosts,
}

impl Fact {
    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Pods => "pods",
            Self::VolumeAttachments => "volume_attachments",
            Self::Nodes => "nodes",
            Self::Access(_) => "access",
            Self::FenceAgentsRemediations => "fence_agents_remediations",
            Self::SelfNodeRemediations => "self_node_remediations",
            Self::NetworkFences => "network_fences",
            Self::BareMetalHosts => "bare_metal_hosts",
        }
    }
}

/// Objects of a kind that a cluster may not have: `None` where it does not.
pub type Installed<T> = Option<Vec<T>>;

/// The facts that a decision needs: all of them independent of each other, so that they can be read at once.
pub type FactQuery = BTreeSet<Fact>;

/// A fact as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Observed<T> {
    /// Read at `at` by the gate's clock.
    Known { at: Timestamp, value: T },
    /// Could not be read; `why` is for people, in one line.
    Unknown { at: Timestamp, why: String },
}

impl<T> Observed<T> {
    /// The value, or why there is none.
    pub fn value(&self) -> Result<&T, &str> {
        match self {
            Self::Known { value, .. } => Ok(value),
            Self::Unknown { why, .. } => Err(why),
        }
    }
}

/// Everything that was read for one decision. `None` is a fact that was not asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The gate's clock at the decision.
    pub now: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Observed<Option<Lease>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Observed<Vec<Pod>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_attachments: Option<Observed<Vec<VolumeAttachment>>>,
    /// By name; a PersistentVolume that does not exist is known to be none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub persistent_volumes: BTreeMap<String, Observed<Option<PersistentVolume>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Observed<Census>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<Verb, Observed<Access>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_agents_remediations: Option<Observed<Installed<FenceAgentsRemediation>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_node_remediations: Option<Observed<Installed<SelfNodeRemediation>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_fences: Option<Observed<Installed<NetworkFence>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bare_metal_hosts: Option<Observed<Installed<BareMetalHost>>>,
}

/// Facts, and how long each took to read.
#[derive(Debug)]
pub struct Reading {
    pub facts: Facts,
    pub timings: Vec<Timing>,
}

/// How one read went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One of a few fixed names.
    pub fact: &'static str,
    /// Whether it became known.
    pub known: bool,
    pub took: Duration,
}

/// Why a fact is not known that nobody read.
const NOT_READ: &str = "it was not read";

impl Facts {
    /// Nothing is known but the time.
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            lease: None,
            pods: None,
            volume_attachments: None,
            persistent_volumes: BTreeMap::new(),
            nodes: None,
            access: BTreeMap::new(),
            fence_agents_remediations: None,
            self_node_remediations: None,
            network_fences: None,
            bare_metal_hosts: None,
        }
    }

    /// The names of the PersistentVolumes that decide whether an attachment blocks: those attached while some pod may stay
    /// on the node with its claims. Empty where no pod could keep a volume, which spares the reads.
    pub fn volumes_in_question(&self) -> BTreeSet<&str> {
        let (Some(Ok(pods)), Some(Ok(attachments))) =
            (self.pods.as_ref().map(Observed::value), self.volume_attachments.as_ref().map(Observed::value))
        else {
            return BTreeSet::new();
        };
        if !pods.iter().any(|pod| !pod.is_terminating() && pod.claims().next().is_some()) {
            return BTreeSet::new();
        }
        attachments.iter().filter_map(VolumeAttachment::persistent_volume).collect()
    }

    pub(super) fn lease(&self) -> Result<Option<&Lease>, &str> {
        value(self.lease.as_ref()).map(Option::as_ref)
    }

    pub(super) fn pods(&self) -> Result<&[Pod], &str> {
        value(self.pods.as_ref()).map(Vec::as_slice)
    }

    pub(super) fn volume_attachments(&self) -> Result<&[VolumeAttachment], &str> {
        value(self.volume_attachments.as_ref()).map(Vec::as_slice)
    }

    pub(super) fn persistent_volume(&self, name: &str) -> Result<Option<&PersistentVolume>, &str> {
        value(self.persistent_volumes.get(name)).map(Option::as_ref)
    }

    pub(super) fn nodes(&self) -> Result<&Census, &str> {
        value(self.nodes.as_ref())
    }

    pub(super) fn access(&self, verb: Verb) -> Result<&Access, &str> {
        value(self.access.get(&verb))
    }

    pub(super) fn fence_agents_remediations(&self) -> Result<&Installed<FenceAgentsRemediation>, &str> {
        value(self.fence_agents_remediations.as_ref())
    }

    pub(super) fn self_node_remediations(&self) -> Result<&Installed<SelfNodeRemediation>, &str> {
        value(self.self_node_remediations.as_ref())
    }

    pub(super) fn network_fences(&self) -> Result<&Installed<NetworkFence>, &str> {
        value(self.network_fences.as_ref())
    }

    pub(super) fn bare_metal_hosts(&self) -> Result<&Installed<BareMetalHost>, &str> {
        value(self.bare_metal_hosts.as_ref())
    }
}

fn value<T>(observed: Option<&Observed<T>>) -> Result<&T, &str> {
    observed.map_or(Err(NOT_READ), Observed::value)
}

/// A node's Lease in `kube-node-lease`: the kubelet's own sign of life, by the kubelet's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: LeaseSpec,
}

/// `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// Never renewed: none.
    pub renew_time: Option<Timestamp>,
    /// Seconds.
    pub lease_duration_seconds: Option<i32>,
}

/// A VolumeAttachment: while the object exists, the volume counts as attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectName,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: VolumeAttachmentSpec,
}

/// `spec` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSpec {
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    #[serde(deserialize_with = "object_or_null")]
    pub source: VolumeAttachmentSource,
}

/// `spec.source` of a VolumeAttachment: without a PersistentVolume it is an inline volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSource {
    pub persistent_volume_name: Option<String>,
}

impl VolumeAttachment {
    /// The name of the PersistentVolume that is attached, unless the volume is an inline one.
    pub fn persistent_volume(&self) -> Option<&str> {
        self.spec.source.persistent_volume_name.as_deref().filter(|name| !name.is_empty())
    }
}

/// A PersistentVolume: which claim it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeSpec,
}

/// `spec` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeSpec {
    pub claim_ref: Option<ClaimRef>,
}

/// `spec.claimRef` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

/// `metadata` of an object of which only the name is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

/// How many Nodes there are, and which of them are out of service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Census {
    pub total: usize,
    pub out_of_service: BTreeSet<String>,
    /// Whether the node that the decision is about was among them.
    pub counts_node: bool,
}

impl Census {
    /// Counts Nodes, for a decision about `node`.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>, node: &str) -> Self {
        let mut census = Self::default();
        for listed in nodes {
            census.total += 1;
            census.counts_node |= listed.metadata.name == node;
            if listed.is_out_of_service() {
                census.out_of_service.insert(listed.metadata.name.clone());
            }
        }
        census
    }
}

/// The API server's answer to a SubjectAccessReview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub allowed: bool,
}
