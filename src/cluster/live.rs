//! Live reads: consistent, concurrent, paged, each under the call's deadline.

use std::{collections::BTreeMap, error::Error as _, future::Future, time::Duration};

use futures_util::future::join_all;
use http::StatusCode;
use k8s_openapi::{
    NamespaceResourceScope, Resource,
    api::{
        authorization::v1::{
            ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
        },
        coordination::v1 as coordination,
        core::v1 as core,
        storage::v1 as storage,
    },
};
use kube::{
    Client,
    core::{
        Request as UrlBuilder,
        params::{GetParams, ListParams, PostParams},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::observed;
use crate::{
    clock::Clock,
    policy::{
        facts::{
            Access, Census, Fact, FactQuery, Facts, Lease, Observed, PersistentVolume, Reading, Timing, Verb,
            VolumeAttachment,
        },
        json::{Object, null_is_default, objects_or_null},
        node::Node,
        pod::Pod,
        request::{Request, User},
    },
};

/// Objects in one page of a list: what client-go asks for.
const PAGE: u32 = 500;
/// Where kubelets renew their Leases (`k8s.io/api/core/v1`: `NamespaceNodeLease`).
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The most that is told of an error.
const WHY_LENGTH: usize = 240;
/// How long the API server may take to say its version.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// An API server.
#[derive(Clone)]
pub struct Live {
    client: Client,
}

/// Why a read failed.
#[derive(Debug, Error)]
enum ReadError {
    #[error("{0:?} cannot be part of a request")]
    Name(String),
    #[error("{}", told(.0))]
    Ask(#[from] kube::Error),
    #[error("the answer could not be understood: {0}")]
    Understand(#[from] serde_json::Error),
    #[error("the list does not end")]
    Endless,
}

/// One page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default, deserialize_with = "null_is_default")]
    metadata: PageMetadata,
    /// Must be there, or the answer is half an answer; `null` is an empty list.
    #[serde(deserialize_with = "objects_or_null", bound(deserialize = "T: Deserialize<'de>"))]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue", deserialize_with = "null_is_default")]
    next: String,
}

impl Live {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads what `query` asks for, all at once; then the PersistentVolumes that the answers make necessary.
    pub async fn read(&self, request: &Request, query: &FactQuery, clock: &Clock, deadline: Instant) -> Reading {
        let bound = Bound { clock, deadline };
        let node = request.node.as_str();
        let asked = |fact| query.contains(&fact);
        let (lease, pods, attachments, nodes, attest, break_glass) = tokio::join!(
            bound.read_if(asked(Fact::Lease), "lease", self.lease(node)),
            bound.read_if(asked(Fact::Pods), "pods", self.pods(node)),
            bound.read_if(asked(Fact::VolumeAttachments), "volume_attachments", self.volume_attachments(node)),
            bound.read_if(asked(Fact::Nodes), "nodes", self.census(node)),
            bound.read_if(asked(Fact::Access(Verb::Attest)), "access", self.access(request, Verb::Attest)),
            bound.read_if(asked(Fact::Access(Verb::BreakGlass)), "access", self.access(request, Verb::BreakGlass)),
        );
        let mut timings = Vec::new();
        let mut facts = Facts::at(clock.now());
        facts.lease = timed(lease, &mut timings);
        facts.pods = timed(pods, &mut timings);
        facts.volume_attachments = timed(attachments, &mut timings);
        facts.nodes = timed(nodes, &mut timings);
        let access =
            [(Verb::Attest, timed(attest, &mut timings)), (Verb::BreakGlass, timed(break_glass, &mut timings))];
        facts.access = access.into_iter().filter_map(|(verb, access)| Some((verb, access?))).collect();
        facts.persistent_volumes = self.persistent_volumes(&facts, &bound, &mut timings).await;
        facts.now = clock.now();
        Reading { facts, timings }
    }

    /// Whether the API server answers.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn reach(&self) -> Result<(), String> {
        let version = self.client.apiserver_version();
        match tokio::time::timeout(REACH_TIMEOUT, version).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(format!("the API server did not answer within {}s", REACH_TIMEOUT.as_secs())),
        }
    }

    async fn lease(&self, node: &str) -> Result<Option<Lease>, ReadError> {
        self.get(&namespaced::<coordination::Lease>(LEASE_NAMESPACE), node).await
    }

    async fn pods(&self, node: &str) -> Result<Vec<Pod>, ReadError> {
        check_name(node)?;
        let selector = format!("spec.nodeName={node}");
        self.list(&clustered::<core::Pod>(), Some(&selector), |pod: Pod| Some(pod)).await
    }

    /// There is no field selector for them: all are listed, those of the node kept.
    async fn volume_attachments(&self, node: &str) -> Result<Vec<VolumeAttachment>, ReadError> {
        let of_node = |attachment: VolumeAttachment| (attachment.spec.node_name == node).then_some(attachment);
        self.list(&clustered::<storage::VolumeAttachment>(), None, of_node).await
    }

    async fn census(&self, node: &str) -> Result<Census, ReadError> {
        let nodes: Vec<Node> = self.list(&clustered::<core::Node>(), None, Some).await?;
        Ok(Census::of(&nodes, node))
    }

    async fn persistent_volumes(
        &self,
        facts: &Facts,
        bound: &Bound<'_>,
        timings: &mut Vec<Timing>,
    ) -> BTreeMap<String, Observed<Option<PersistentVolume>>> {
        let builder = clustered::<core::PersistentVolume>();
        let reads = facts.volumes_in_question().into_iter().map(|name| {
            let builder = &builder;
            async move { (name.to_owned(), bound.read("persistent_volumes", self.get(builder, name)).await) }
        });
        let read = join_all(reads).await;
        read.into_iter()
            .map(|(name, (observed, timing))| {
                timings.push(timing);
                (name, observed)
            })
            .collect()
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
        let create = clustered::<SubjectAccessReview>().create(&PostParams::default(), serde_json::to_vec(&review)?);
        let answer = self.client.request_text(create.map_err(kube::Error::BuildRequest)?).await?;
        let answer: SubjectAccessReview = serde_json::from_str(&answer)?;
        let allows = |status: SubjectAccessReviewStatus| status.allowed && status.denied != Some(true);
        Ok(Access { allowed: answer.status.is_some_and(allows) })
    }

    /// One object; one that does not exist is a fact.
    async fn get<T: DeserializeOwned>(&self, builder: &UrlBuilder, name: &str) -> Result<Option<T>, ReadError> {
        check_name(name)?;
        let request = builder.get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        match self.client.request_text(request).await {
            Ok(text) => {
                let Object(object) = serde_json::from_str(&text)?;
                Ok(Some(object))
            }
            Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND && status.reason == "NotFound" => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All objects that `keep` keeps, page by page. A list that expired under way is read once more from the start.
    async fn list<T: DeserializeOwned, K>(
        &self,
        builder: &UrlBuilder,
        selector: Option<&str>,
        keep: impl Fn(T) -> Option<K>,
    ) -> Result<Vec<K>, ReadError> {
        match self.pages(builder, selector, &keep).await {
            Err(ReadError::Ask(kube::Error::Api(status))) if status.code == StatusCode::GONE => {
                self.pages(builder, selector, &keep).await
            }
            result => result,
        }
    }

    async fn pages<T: DeserializeOwned, K>(
        &self,
        builder: &UrlBuilder,
        selector: Option<&str>,
        keep: impl Fn(T) -> Option<K>,
    ) -> Result<Vec<K>, ReadError> {
        let mut kept = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        if let Some(selector) = selector {
            params = params.fields(selector);
        }
        loop {
            let request = builder.list(&params).map_err(kube::Error::BuildRequest)?;
            let Object(page): Object<Page<T>> = serde_json::from_str(&self.client.request_text(request).await?)?;
            kept.extend(page.items.into_iter().filter_map(&keep));
            if page.metadata.next.is_empty() {
                return Ok(kept);
            }
            if params.continue_token.as_ref() == Some(&page.metadata.next) {
                return Err(ReadError::Endless);
            }
            params = params.continue_token(&page.metadata.next);
        }
    }
}

/// The time that reads have.
struct Bound<'a> {
    clock: &'a Clock,
    deadline: Instant,
}

impl Bound<'_> {
    /// Cancel-safe: a read that runs out of time is dropped with its request.
    async fn read<T>(
        &self,
        fact: &'static str,
        read: impl Future<Output = Result<T, ReadError>>,
    ) -> (Observed<T>, Timing) {
        let start = Instant::now();
        let result = match timeout_at(self.deadline, read).await {
            Ok(result) => result.map_err(|error| one_line(&error.to_string())),
            Err(_) => Err(format!("no answer within {:.1}s", start.elapsed().as_secs_f64())),
        };
        let timing = Timing { fact, known: result.is_ok(), took: start.elapsed() };
        (observed(self.clock.now(), result), timing)
    }

    async fn read_if<T>(
        &self,
        asked: bool,
        fact: &'static str,
        read: impl Future<Output = Result<T, ReadError>>,
    ) -> Option<(Observed<T>, Timing)> {
        if asked { Some(self.read(fact, read).await) } else { None }
    }
}

fn timed<T>(read: Option<(Observed<T>, Timing)>, timings: &mut Vec<Timing>) -> Option<Observed<T>> {
    let (observed, timing) = read?;
    timings.push(timing);
    Some(observed)
}

fn clustered<K: Resource>() -> UrlBuilder {
    UrlBuilder::new(format!("{}/{}", base::<K>(), K::URL_PATH_SEGMENT))
}

fn namespaced<K: Resource<Scope = NamespaceResourceScope>>(namespace: &str) -> UrlBuilder {
    UrlBuilder::new(format!("{}/namespaces/{namespace}/{}", base::<K>(), K::URL_PATH_SEGMENT))
}

fn base<K: Resource>() -> String {
    if K::GROUP.is_empty() { format!("/api/{}", K::VERSION) } else { format!("/apis/{}/{}", K::GROUP, K::VERSION) }
}

/// Refuses names that would change the meaning of a URL or a selector; no object of Kubernetes' own has one.
fn check_name(name: &str) -> Result<(), ReadError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let only_dots = name.bytes().all(|byte| byte == b'.');
    if name.bytes().all(plain) && !only_dots { Ok(()) } else { Err(ReadError::Name(name.to_owned())) }
}

/// What went wrong, as an operator would say it.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == StatusCode::FORBIDDEN => format!("forbidden: {}", status.message),
        kube::Error::Api(status) => {
            format!("the API server answered {} {}: {}", status.code, status.reason, status.message)
        }
        error => {
            let mut deepest = error.source();
            while let Some(source) = deepest.and_then(std::error::Error::source) {
                deepest = Some(source);
            }
            let cause = deepest.map_or_else(|| error.to_string(), ToString::to_string);
            format!("the API server could not be reached: {cause}")
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(WHY_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for name in ["worker-2", "ip-10-0-0-1.ec2.internal", "pvc-123"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", "../secrets", "n1,spec.nodeName!=n1", "a?b", "a%2fb", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn urls_are_those_of_the_api() {
        assert_eq!(clustered::<core::Pod>().url_path, "/api/v1/pods");
        assert_eq!(clustered::<storage::VolumeAttachment>().url_path, "/apis/storage.k8s.io/v1/volumeattachments");
        assert_eq!(
            namespaced::<coordination::Lease>(LEASE_NAMESPACE).url_path,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        );
    }
}
