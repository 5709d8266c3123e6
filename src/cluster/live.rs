//! Live reads: consistent, concurrent, paged, each under the call's deadline.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus},
    coordination::v1 as coordination,
    core::v1 as core,
    storage::v1 as storage,
};
use kube::Client;
use tokio::time::{Instant, timeout_at};

use super::{
    api::{Api, ReadError, check_name, clustered, namespaced},
    observed,
};
use crate::{
    clock::Clock,
    policy::{
        facts::{
            Access, Census, Fact, FactQuery, Facts, Installed, Lease, Observed, PersistentVolume, Reading, Timing,
            Verb, VolumeAttachment,
        },
        node::Node,
        pod::Pod,
        request::{Request, User},
        source::{
            bare_metal_host::{self, BareMetalHost},
            fence_agents_remediation, network_fence, self_node_remediation,
        },
    },
};

/// Where kubelets renew their Leases (`k8s.io/api/core/v1`: `NamespaceNodeLease`).
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The most that is told of an error.
const WHY_LENGTH: usize = 240;

/// An API server.
#[derive(Clone)]
pub struct Live {
    api: Api,
}

impl Live {
    pub fn new(client: Client) -> Self {
        Self { api: Api::new(client) }
    }

    /// Reads what `query` asks for, all at once; then the PersistentVolumes that the answers make necessary.
    pub async fn read(&self, request: &Request, query: &FactQuery, clock: &Clock, deadline: Instant) -> Reading {
        let bound = Bound { query, clock, deadline, timings: Mutex::default() };
        let (name, node) = (request.node.as_str(), request.write.condition());
        let (lease, pods, volume_attachments, nodes, attest, break_glass, far, snr, network_fences, hosts) = tokio::join!(
            bound.read_if(Fact::Lease, self.lease(name)),
            bound.read_if(Fact::Pods, self.pods(name)),
            bound.read_if(Fact::VolumeAttachments, self.volume_attachments(name)),
            bound.read_if(Fact::Nodes, self.census(name)),
            bound.read_if(Fact::Access(Verb::Attest), self.access(request, Verb::Attest)),
            bound.read_if(Fact::Access(Verb::BreakGlass), self.access(request, Verb::BreakGlass)),
            bound.read_if(
                Fact::FenceAgentsRemediations,
                self.api.list_custom(fence_agents_remediation::KIND, None, None, |remediation| {
                    fence_agents_remediation::is_about(remediation, name)
                })
            ),
            bound.read_if(
                Fact::SelfNodeRemediations,
                self.api.list_custom(self_node_remediation::KIND, None, None, |remediation| {
                    self_node_remediation::is_about(remediation, name)
                })
            ),
            bound.read_if(
                Fact::NetworkFences,
                self.api.list_custom(network_fence::KIND, None, None, |fence| network_fence::is_about(fence, node))
            ),
            bound.read_if(Fact::BareMetalHosts, self.bare_metal_host(node)),
        );
        let access = [(Verb::Attest, attest), (Verb::BreakGlass, break_glass)];
        let mut facts = Facts {
            lease,
            pods,
            volume_attachments,
            nodes,
            access: access.into_iter().filter_map(|(verb, access)| Some((verb, access?))).collect(),
            fence_agents_remediations: far,
            self_node_remediations: snr,
            network_fences,
            bare_metal_hosts: hosts,
            ..Facts::at(clock.now())
        };
        facts.persistent_volumes = self.persistent_volumes(&facts, &bound).await;
        facts.now = clock.now();
        Reading { facts, timings: bound.timings.into_inner().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Whether the API server answers.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn reach(&self) -> Result<(), String> {
        self.api.reach().await
    }

    async fn lease(&self, node: &str) -> Result<Option<Lease>, ReadError> {
        self.api.get(&namespaced::<coordination::Lease>(LEASE_NAMESPACE), node).await
    }

    async fn pods(&self, node: &str) -> Result<Vec<Pod>, ReadError> {
        check_name(node)?;
        let selector = format!("spec.nodeName={node}");
        self.api.list(&clustered::<core::Pod>(), Some(&selector), |pod: Pod| Some(pod)).await
    }

    /// There is no field selector for them: all are listed, those of the node kept.
    async fn volume_attachments(&self, node: &str) -> Result<Vec<VolumeAttachment>, ReadError> {
        let of_node = |attachment: VolumeAttachment| (attachment.spec.node_name == node).then_some(attachment);
        self.api.list(&clustered::<storage::VolumeAttachment>(), None, of_node).await
    }

    async fn census(&self, node: &str) -> Result<Census, ReadError> {
        let nodes: Vec<Node> = self.api.list(&clustered::<core::Node>(), None, Some).await?;
        Ok(Census::of(&nodes, node))
    }

    /// The host that the node names, where it names one.
    async fn bare_metal_host(&self, node: &Node) -> Result<Installed<BareMetalHost>, ReadError> {
        let Some((namespace, host)) = bare_metal_host::named_by(node) else { return Ok(Some(Vec::new())) };
        check_name(namespace)?;
        check_name(host)?;
        let selector = format!("metadata.name={host}");
        let is_it = |host: &BareMetalHost| bare_metal_host::is_about(host, node);
        self.api.list_custom(bare_metal_host::KIND, Some(namespace), Some(&selector), is_it).await
    }

    async fn persistent_volumes(
        &self,
        facts: &Facts,
        bound: &Bound<'_>,
    ) -> BTreeMap<String, Observed<Option<PersistentVolume>>> {
        let builder = clustered::<core::PersistentVolume>();
        let reads = facts.volumes_in_question().into_iter().map(|name| {
            let builder = &builder;
            async move { (name.to_owned(), bound.read("persistent_volumes", self.api.get(builder, name)).await) }
        });
        join_all(reads).await.into_iter().collect()
    }

    /// Asks on behalf of the requester, with all groups and extras.
    async fn access(&self, request: &Request, verb: Verb) -> Result<Access, ReadError> {
        let User { name, uid, groups, extra } = request.user.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(name),
                uid: Some(uid).filter(|uid| !uid.is_empty()),
                groups: Some(groups),
                extra: Some(extra),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(super::file::VIRTUAL_GROUP.to_owned()),
                    resource: Some(super::file::VIRTUAL_RESOURCE.to_owned()),
                    name: Some(request.node.clone()),
                    verb: Some(verb.name().to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.api.create(&review).await?;
        let allows = |status: SubjectAccessReviewStatus| status.allowed && status.denied != Some(true);
        Ok(Access { allowed: answer.status.is_some_and(allows) })
    }
}

/// The time that reads have, and what they took of it.
struct Bound<'a> {
    query: &'a FactQuery,
    clock: &'a Clock,
    deadline: Instant,
    timings: Mutex<Vec<Timing>>,
}

impl Bound<'_> {
    /// Cancel-safe: a read that runs out of time is dropped with its request.
    async fn read<T>(&self, fact: &'static str, read: impl Future<Output = Result<T, ReadError>>) -> Observed<T> {
        let start = Instant::now();
        let result = match timeout_at(self.deadline, read).await {
            Ok(result) => result.map_err(|error| one_line(&error.to_string())),
            Err(_) => Err(format!("no answer within {:.1}s", start.elapsed().as_secs_f64())),
        };
        let timing = Timing { fact, known: result.is_ok(), took: start.elapsed() };
        self.timings.lock().unwrap_or_else(PoisonError::into_inner).push(timing);
        observed(self.clock.now(), result)
    }

    async fn read_if<T>(&self, fact: Fact, read: impl Future<Output = Result<T, ReadError>>) -> Option<Observed<T>> {
        if self.query.contains(&fact) { Some(self.read(fact.name(), read).await) } else { None }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(WHY_LENGTH).collect()
}
