//! Reads facts from the objects of a file.
//!
//! A file without any Pod, VolumeAttachment, Node or kubelet's Lease leaves that fact unknown,
//! unless it has an empty list of that kind: nobody can tell a cluster that has none from a file
//! that was written without them. A PersistentVolume that the file does not have does not exist,
//! a custom kind that it does not have is not installed, and a SubjectAccessReview that it does not
//! have is a no.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use super::{
    SnapshotError,
    access::{self, AccessReview},
    inventory::{Inventory, Type, metadata},
};
use crate::cluster::Listed;
use crate::policy::{
    facts::{
        BudgetAnswer, CustomKind, Fact, FactQuery, FactValue, Facts, Installed, LeaseAnswer, NodeSummary, Observed,
    },
    json::Object,
    object::{
        budget::{self, Budget},
        lease::Lease,
        node::Node,
        pod::Pod,
        volume::{ClaimRef, PersistentVolume, VolumeAttachment},
    },
    request::Request,
};

/// Objects of the kinds that the gate reads.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    nodes: Found<Listed>,
    pods: Found<Pod>,
    volume_attachments: Found<VolumeAttachment>,
    /// Those of the kubelets, by node.
    leases: Option<BTreeMap<String, Lease>>,
    budget: Option<Budget>,
    persistent_volumes: BTreeMap<String, PersistentVolume>,
    access_reviews: Vec<AccessReview>,
    /// By kind, as JSON. A kind without an entry is not installed.
    custom: BTreeMap<CustomKind, Vec<Value>>,
}

/// All objects of a kind. `None` if the file has neither such an object nor an empty list of them.
type Found<T> = Option<Vec<T>>;

/// Why a file says nothing about a fact.
#[derive(Debug, Error)]
#[error(
    "the file has no {kind}; if the cluster has none either, add {{\"kind\": \"{kind}List\", \"items\": []}} to it"
)]
struct NotInFile {
    kind: &'static str,
}

impl Objects {
    pub(super) fn of(inventory: Inventory) -> Result<Self, SnapshotError> {
        let mut objects = Self::default();
        inventory.entries().try_for_each(|(of, object)| objects.insert(&of, object))?;
        Ok(objects)
    }

    /// Adds an object by its kind. Without an object, there is an empty list of this kind.
    fn insert(&mut self, of: &Type, object: Option<Value>) -> Result<(), SnapshotError> {
        if of.is("", "Node") {
            add(&mut self.nodes, of, object)
        } else if of.is("", "Pod") {
            add(&mut self.pods, of, object)
        } else if of.is("storage.k8s.io", "VolumeAttachment") {
            add(&mut self.volume_attachments, of, object)
        } else if of.is("coordination.k8s.io", "Lease") {
            self.add_lease(of, object)
        } else if let Some(kind) = CustomKind::ALL.iter().find(|custom| of.is(custom.kind().group, custom.kind().name))
        {
            self.add_custom(*kind, of, object)
        } else if let Some(object) = object {
            self.add_other(of, &object)
        } else {
            Ok(())
        }
    }

    /// Adds a Lease, if it is a kubelet's or the gate's budget.
    fn add_lease(&mut self, of: &Type, object: Option<Value>) -> Result<(), SnapshotError> {
        /// The namespace of the kubelets' Leases (`k8s.io/api/core/v1`: `NamespaceNodeLease`).
        const NAMESPACE: &str = "kube-node-lease";
        match object {
            Some(object) if metadata(&object, "namespace") == NAMESPACE => {
                let node = metadata(&object, "name").to_owned();
                let lease: Lease = typed(of, &object)?;
                self.leases.get_or_insert_default().insert(node, lease.with_managed_fields());
            }
            Some(object) if metadata(&object, "name") == budget::NAME => self.budget = Some(typed(of, &object)?),
            Some(_) => {}
            None => {
                self.leases.get_or_insert_default();
            }
        }
        Ok(())
    }

    fn add_custom(&mut self, kind: CustomKind, of: &Type, object: Option<Value>) -> Result<(), SnapshotError> {
        let objects = self.custom.entry(kind).or_default();
        if let Some(object) = object {
            kind.check(&object).map_err(|source| malformed(of, &object, source))?;
            objects.push(object);
        }
        Ok(())
    }

    /// Adds an object of a kind whose absence is a known fact.
    fn add_other(&mut self, of: &Type, object: &Value) -> Result<(), SnapshotError> {
        if of.is("", "PersistentVolume") {
            self.persistent_volumes.insert(metadata(object, "name").to_owned(), typed(of, object)?);
        } else if of.is("authorization.k8s.io", "SubjectAccessReview") {
            self.access_reviews.push(typed(of, object)?);
        }
        Ok(())
    }

    /// The newest renewal of a kubelet's Lease.
    pub(super) fn newest_renewal(&self) -> Option<Timestamp> {
        self.leases.iter().flatten().filter_map(|(_, lease)| lease.renewed_at()).max()
    }

    /// All Nodes. `None` if the file has none.
    pub(super) fn listed(&self) -> Option<&[Listed]> {
        self.nodes.as_deref()
    }

    /// Reads the facts in `query`, at `now`.
    pub(super) fn read(&self, request: &Request, query: &FactQuery, now: Timestamp) -> Facts {
        let mut facts = Facts::at(now);
        for fact in query {
            match self.fact(*fact, request, now) {
                Ok(value) => facts.learn(now, value),
                Err(not_in_file) => facts.fail(now, *fact, not_in_file.to_string()),
            }
        }
        let volumes = facts.volumes_to_read(&request.write).into_iter().map(|name| {
            (name.to_owned(), Observed::Known { at: now, value: self.persistent_volumes.get(name).cloned() })
        });
        facts.persistent_volumes = volumes.collect();
        let claims = facts.claims_to_read();
        let volumes =
            claims.iter().map(|claim| (claim.to_string(), Observed::Known { at: now, value: self.bound_to(claim) }));
        facts.claimed_volumes = volumes.collect();
        facts
    }

    fn fact(&self, fact: Fact, request: &Request, now: Timestamp) -> Result<FactValue, NotInFile> {
        let node = &request.node;
        Ok(match fact {
            Fact::Lease => {
                let leases = self.leases.as_ref().ok_or(NotInFile { kind: "Lease" })?;
                FactValue::Lease(LeaseAnswer { date: now, lease: leases.get(node).cloned() })
            }
            Fact::Pods => {
                let all = self.pods.as_ref().ok_or(NotInFile { kind: "Pod" })?;
                FactValue::Pods(all.iter().filter(|pod| pod.spec.node_name == *node).cloned().collect())
            }
            Fact::VolumeAttachments => {
                let all = self.volume_attachments.as_ref().ok_or(NotInFile { kind: "VolumeAttachment" })?;
                let of_node = all.iter().filter(|attachment| attachment.spec.node_name == *node);
                FactValue::VolumeAttachments(of_node.cloned().collect())
            }
            Fact::Nodes => {
                let all = self.nodes.as_ref().ok_or(NotInFile { kind: "Node" })?;
                FactValue::Nodes(NodeSummary::of(all.iter().map(|listed| (&listed.node).into()), node))
            }
            Fact::Budget => FactValue::Budget(BudgetAnswer { date: now, lease: self.budget.clone() }),
            Fact::Access(verb) => {
                FactValue::Access(verb, access::answer(&self.access_reviews, &request.user, verb.name(), node))
            }
            Fact::Custom(kind) => FactValue::Custom(kind, self.custom(kind, request.write.current())),
        })
    }

    pub(super) fn node(&self, name: &str) -> Result<Option<Node>, String> {
        let all = self.nodes.as_ref().ok_or_else(|| NotInFile { kind: "Node" }.to_string())?;
        Ok(all.iter().map(|listed| &listed.node).find(|node| node.metadata.name == name).cloned())
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        let all = self.pods.as_ref().ok_or_else(|| NotInFile { kind: "Pod" }.to_string())?;
        let is_it = |pod: &&Pod| pod.metadata.namespace == namespace && pod.metadata.name == name;
        Ok(all.iter().find(is_it).cloned())
    }

    /// The PersistentVolume that is bound to a claim. It names the claim, so that a file without
    /// PersistentVolumeClaims is enough.
    fn bound_to(&self, claim: &ClaimRef) -> Option<PersistentVolume> {
        self.persistent_volumes.values().find(|volume| volume.spec.claim_ref.as_ref() == Some(claim)).cloned()
    }

    /// The objects of a custom kind that are about the node.
    fn custom(&self, kind: CustomKind, node: &Node) -> Installed<Value> {
        let about = |objects: &Vec<Value>| {
            objects.iter().filter(|object| kind.may_be_about(object, node)).cloned().collect::<Vec<_>>()
        };
        self.custom.get(&kind).map(about)
    }
}

/// Adds an object to those of its kind, if there is one: the kind is found in any case.
fn add<T: DeserializeOwned>(found: &mut Found<T>, of: &Type, object: Option<Value>) -> Result<(), SnapshotError> {
    let found = found.get_or_insert_default();
    if let Some(object) = object {
        found.push(typed(of, &object)?);
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(of: &Type, object: &Value) -> Result<T, SnapshotError> {
    Object::deserialize(object).map(|Object(typed)| typed).map_err(|source| malformed(of, object, source))
}

fn malformed(of: &Type, object: &Value, source: serde_json::Error) -> SnapshotError {
    SnapshotError::Object { kind: of.name.clone(), name: metadata(object, "name").to_owned(), source }
}
