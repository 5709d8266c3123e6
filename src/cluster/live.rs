//! Live reads from an API server: consistent, concurrent and in pages, all within the deadline of
//! the call.

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures_util::{
    future::join_all,
    stream::{self, StreamExt as _},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
        SubjectAccessReviewSpec, SubjectAccessReviewStatus,
    },
    coordination::v1 as coordination,
    core::v1 as core,
    storage::v1 as storage,
};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    ListError, Listed, ReachError, VIRTUAL_GROUP, VIRTUAL_RESOURCE, Wanted, Written,
    api::{Api, ReadError, Selection, check_name, clustered, namespaced},
};
use crate::{
    clock::Clock,
    policy::{
        Reservation,
        facts::{
            Access, BudgetAnswer, CustomKind, Fact, FactQuery, FactValue, Facts, Installed, LeaseAnswer, NodeSummary,
            Observed, Reading, Timing, Verb,
        },
        json::null_is_default,
        object::{
            budget::{self, Budget},
            node::Node,
            node_brief::NodeBrief,
            pod::Pod,
            volume::{ClaimRef, PersistentVolume, PersistentVolumeClaim, VolumeAttachment},
        },
        request::{Request, User},
    },
};

/// The namespace of the kubelets' Leases (`k8s.io/api/core/v1`: `NamespaceNodeLease`).
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The most characters of an error: a denial shows it, and the other reasons must stay visible.
const WHY_LENGTH: usize = 240;

/// The facts of an API server.
#[derive(Clone)]
pub struct Live {
    pub(super) api: Api,
    /// The gate's own namespace, if it is known.
    namespace: Option<String>,
    /// Whether the requester of every request is whoever this client is.
    asks_for_itself: bool,
}

impl Live {
    /// Reads facts with this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::new(client), namespace: None, asks_for_itself: false }
    }

    /// The same, for a person who asks about writes of their own: they may ask for their own
    /// rights, and not for those of others.
    #[must_use]
    pub fn asking_for_itself(self) -> Self {
        Self { asks_for_itself: true, ..self }
    }

    /// The same, for a gate in this namespace.
    #[must_use]
    pub fn in_namespace(self, namespace: Option<String>) -> Self {
        Self { namespace, ..self }
    }

    /// Reads all facts in `query` concurrently, then the PersistentVolumes that these facts make
    /// necessary ([`Facts::volumes_to_read`] and [`Facts::claims_to_read`]).
    pub async fn read(&self, request: &Request, query: &FactQuery, clock: &Clock, deadline: Instant) -> Reading {
        let limit = Reads { clock, deadline };
        let mut facts = Facts::at(clock.now());
        let mut timings = Vec::new();
        let reads = query.iter().map(|fact| limit.read(fact.name(), self.fact(*fact, request)));
        for (fact, Read { at, result, timing }) in query.iter().zip(join_all(reads).await) {
            match result {
                Ok(value) => facts.learn(at, value),
                Err(why) => facts.fail(at, *fact, why),
            }
            timings.push(timing);
        }
        let volumes: Vec<String> = facts.volumes_to_read(&request.write).into_iter().map(str::to_owned).collect();
        let builder = clustered::<core::PersistentVolume>();
        let reads: Vec<_> =
            volumes.iter().map(|name| limit.read("persistent_volumes", self.api.get(&builder, name))).collect();
        for (name, Read { at, result, timing }) in volumes.iter().zip(some_at_once(reads).await) {
            facts.persistent_volumes.insert(name.clone(), Observed::new(at, result));
            timings.push(timing);
        }
        let claims = facts.claims_to_read();
        let reads: Vec<_> =
            claims.iter().map(|claim| limit.read("persistent_volume_claims", self.claimed_volume(claim))).collect();
        for (claim, Read { at, result, timing }) in claims.iter().zip(some_at_once(reads).await) {
            facts.claimed_volumes.insert(claim.to_string(), Observed::new(at, result));
            timings.push(timing);
        }
        facts.now = clock.now();
        Reading { facts, timings }
    }

    /// Writes the Lease of a reservation, unless it changed since it was read.
    ///
    /// # Errors
    /// Why it could not be written by `deadline`, as one line for people.
    pub async fn reserve(&self, reservation: &Reservation, deadline: Instant) -> Result<Written, String> {
        let write = async {
            let namespace = self.own_namespace()?;
            let builder = namespaced::<coordination::Lease>(namespace);
            self.api.store(&builder, budget::NAME, &reservation.lease(namespace)).await
        };
        match timeout_at(deadline, write).await {
            Ok(result) => result.map_err(|error| one_line(&error.to_string())),
            Err(_) => Err("the write was not answered in time".to_owned()),
        }
    }

    /// Checks that the API server answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn reach(&self) -> Result<(), ReachError> {
        self.api.reach().await
    }

    /// Lists Nodes for people.
    pub(super) async fn list(&self, wanted: &Wanted) -> Result<Vec<Listed>, ListError> {
        let unreadable = |error: ReadError| ListError::Unreadable(one_line(&error.to_string()));
        let builder = clustered::<core::Node>();
        let names = match wanted {
            Wanted::All => return self.api.list(&builder, Selection::All, Some).await.map_err(unreadable),
            Wanted::Labels(labels) => {
                return self.api.list(&builder, Selection::Labels(labels), Some).await.map_err(unreadable);
            }
            Wanted::Names(names) => names,
        };
        let mut listed = Vec::new();
        for name in names {
            let Some(node) = self.api.get(&builder, name).await.map_err(unreadable)? else {
                let known: Vec<Listed> = self.api.list(&builder, Selection::All, Some).await.map_err(unreadable)?;
                let known = known.iter().map(|listed| listed.node.metadata.name.as_str());
                return Err(ListError::missing(name, known));
            };
            listed.push(node);
        }
        Ok(listed)
    }

    /// Who this client is, as the API server authenticates it.
    ///
    /// # Errors
    /// If the API server does not say, as one line for people.
    pub async fn whoami(&self) -> Result<User, String> {
        let answer = self.api.create(&SelfSubjectReview::default()).await;
        let answer = answer.map_err(|error| one_line(&error.to_string()))?;
        let info = answer.status.and_then(|status| status.user_info).unwrap_or_default();
        Ok(User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        })
    }

    /// A value of a ConfigMap in the gate's namespace. `None` if there is no such value.
    ///
    /// # Errors
    /// Why it could not be read, as one line for people.
    pub async fn config_map(&self, name: &str, key: &str) -> Result<Option<String>, String> {
        /// Only what is read: the whole type would make the program larger.
        #[derive(Deserialize)]
        struct ConfigMap {
            #[serde(default, deserialize_with = "null_is_default")]
            data: BTreeMap<String, String>,
        }
        let read = async {
            let builder = namespaced::<core::ConfigMap>(self.own_namespace()?);
            let found: Option<ConfigMap> = self.api.get(&builder, name).await?;
            Ok::<_, ReadError>(found)
        };
        let found = read.await.map_err(|error| one_line(&error.to_string()))?;
        Ok(found.and_then(|mut found| found.data.remove(key)))
    }

    async fn fact(&self, fact: Fact, request: &Request) -> Result<FactValue, ReadError> {
        let node = &request.node;
        Ok(match fact {
            Fact::Lease => FactValue::Lease(self.lease(node).await?),
            Fact::Pods => FactValue::Pods(self.pods(node).await?),
            Fact::VolumeAttachments => FactValue::VolumeAttachments(self.volume_attachments(node).await?),
            Fact::Nodes => FactValue::Nodes(self.nodes(node).await?),
            Fact::Budget => FactValue::Budget(self.budget().await?),
            Fact::Access(verb) => FactValue::Access(verb, self.access(request, verb).await?),
            Fact::Custom(kind) => FactValue::Custom(kind, self.custom(kind, request.write.current()).await?),
        })
    }

    async fn lease(&self, node: &str) -> Result<LeaseAnswer, ReadError> {
        let (date, lease) = self.api.get_dated(&namespaced::<coordination::Lease>(LEASE_NAMESPACE), node).await?;
        Ok(LeaseAnswer { date, lease })
    }

    async fn pods(&self, node: &str) -> Result<Vec<Pod>, ReadError> {
        check_name(node)?;
        let selector = format!("spec.nodeName={node}");
        self.api.list(&clustered::<core::Pod>(), Selection::Fields(&selector), |pod: Pod| Some(pod)).await
    }

    /// VolumeAttachments have no field selector for the node, so all are listed, and those of the
    /// node are kept.
    async fn volume_attachments(&self, node: &str) -> Result<Vec<VolumeAttachment>, ReadError> {
        check_name(node)?;
        let of_node = |attachment: VolumeAttachment| (attachment.spec.node_name == node).then_some(attachment);
        self.api.list(&clustered::<storage::VolumeAttachment>(), Selection::Having(node), of_node).await
    }

    /// The PersistentVolume that is bound to a claim. `None` if there is none.
    async fn claimed_volume(&self, claim: &ClaimRef) -> Result<Option<PersistentVolume>, ReadError> {
        let ClaimRef { namespace, name } = claim;
        check_name(namespace)?;
        let builder = namespaced::<core::PersistentVolumeClaim>(namespace);
        let bound: Option<PersistentVolumeClaim> = self.api.get(&builder, name).await?;
        match bound.map(|claim| claim.spec.volume_name).filter(|volume| !volume.is_empty()) {
            Some(volume) => self.api.get(&clustered::<core::PersistentVolume>(), &volume).await,
            None => Ok(None),
        }
    }

    async fn nodes(&self, node: &str) -> Result<NodeSummary, ReadError> {
        let nodes: Vec<NodeBrief> = self.api.list(&clustered::<core::Node>(), Selection::All, Some).await?;
        Ok(NodeSummary::of(nodes, node))
    }

    async fn budget(&self) -> Result<BudgetAnswer, ReadError> {
        let builder = namespaced::<coordination::Lease>(self.own_namespace()?);
        let (date, lease): (_, Option<Budget>) = self.api.get_dated(&builder, budget::NAME).await?;
        Ok(BudgetAnswer { date, lease })
    }

    fn own_namespace(&self) -> Result<&str, ReadError> {
        let namespace = self.namespace.as_deref().ok_or(ReadError::NoNamespace)?;
        check_name(namespace)?;
        Ok(namespace)
    }

    /// The objects of a custom kind that are about the node.
    async fn custom(&self, kind: CustomKind, node: &Node) -> Result<Installed<Value>, ReadError> {
        let scope = kind.scope(node);
        for name in [scope.namespace, scope.name].into_iter().flatten() {
            check_name(name)?;
        }
        let selector = scope.name.map(|name| format!("metadata.name={name}"));
        let about = |object: Value| Some(object).filter(|object| kind.may_be_about(object, node));
        self.api.list_custom(kind.kind(), scope.namespace, selector.as_deref(), about).await
    }

    /// Sends a SelfSubjectAccessReview: whether this client may do that itself.
    pub(super) async fn may_itself(&self, resource_attributes: Option<ResourceAttributes>) -> Result<bool, ReadError> {
        let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        Ok(self.api.create(&review).await?.status.as_ref().is_some_and(allows))
    }

    /// Sends a SubjectAccessReview for the requester, with all groups and extras; or, for a client
    /// that asks for itself, a SelfSubjectAccessReview.
    async fn access(&self, request: &Request, verb: Verb) -> Result<Access, ReadError> {
        let resource_attributes = Some(ResourceAttributes {
            group: Some(VIRTUAL_GROUP.to_owned()),
            resource: Some(VIRTUAL_RESOURCE.to_owned()),
            name: Some(request.node.clone()),
            verb: Some(verb.name().to_owned()),
            ..ResourceAttributes::default()
        });
        if self.asks_for_itself {
            return Ok(Access { allowed: self.may_itself(resource_attributes).await? });
        }
        let User { name, uid, groups, extra } = request.user.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(name),
                uid: Some(uid).filter(|uid| !uid.is_empty()),
                groups: Some(groups),
                extra: Some(extra),
                resource_attributes,
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.api.create(&review).await?;
        Ok(Access { allowed: answer.status.as_ref().is_some_and(allows) })
    }
}

/// Whether an answer to an access review grants it.
fn allows(status: &SubjectAccessReviewStatus) -> bool {
    status.allowed && status.denied != Some(true)
}

/// The clock and the deadline of all reads of one decision.
pub(super) struct Reads<'a> {
    pub clock: &'a Clock,
    pub deadline: Instant,
}

/// The result of one read.
pub(super) struct Read<T> {
    /// When the read ended, by the gate's clock.
    pub at: Timestamp,
    /// The value, or the error in one line.
    pub result: Result<T, String>,
    pub timing: Timing,
}

impl Reads<'_> {
    /// Runs one read until the deadline. Cancel-safe: if the deadline passes, the read is dropped
    /// together with its request.
    pub async fn read<T>(&self, fact: &'static str, read: impl Future<Output = Result<T, ReadError>>) -> Read<T> {
        let start = Instant::now();
        if start >= self.deadline {
            // Not even asked: the API server is slow enough.
            let timing = Timing { fact, known: false, took: Duration::ZERO };
            return Read { at: self.clock.now(), result: Err("no time was left to read it".to_owned()), timing };
        }
        let result = match timeout_at(self.deadline, read).await {
            Ok(result) => result.map_err(|error| one_line(&error.to_string())),
            Err(_) => Err(format!("no answer within {:.1}s", start.elapsed().as_secs_f64())),
        };
        let timing = Timing { fact, known: result.is_ok(), took: start.elapsed() };
        Read { at: self.clock.now(), result, timing }
    }
}

/// Reads one object each, a few at a time: a node may have hundreds of volumes.
async fn some_at_once<R: Future>(reads: Vec<R>) -> Vec<R::Output> {
    const AT_ONCE: usize = 16;
    stream::iter(reads).buffered(AT_ONCE).collect().await
}

pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(WHY_LENGTH).collect()
}
