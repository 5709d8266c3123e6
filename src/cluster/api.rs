//! Requests to an API server. Reads are consistent, lists are parsed while they arrive, and every
//! error says what went wrong.

use std::{error::Error as _, time::Duration};

use http::{StatusCode, header::DATE};
use http_body_util::{BodyExt as _, Collected, Limited};
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, Resource};
use kube::{
    Client,
    core::{
        ApiResource, DynamicObject, Request as UrlBuilder, Resource as _, Status,
        params::{GetParams, ListParams, PostParams},
    },
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use thiserror::Error;

use super::{
    Written,
    items::{SplitError, Splitter, may_have},
};
use crate::policy::{
    json::{Object, null_is_default},
    object::custom::Kind,
};

/// Objects in one page of a list. Forty times as many as in client-go's (`tools/pager`): a page is
/// not collected here, and each costs the API server some milliseconds more.
const PAGE: u32 = 20_000;
/// The most bytes of an answer that tells an error.
const LONGEST_FAILURE: usize = 64 * 1024;
/// How long the API server may take to answer with its version: as long as for a review.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a read, or the write of a reservation, failed.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("{0:?} cannot be part of a request")]
    Name(String),
    #[error("{}", describe(.0))]
    Request(#[from] kube::Error),
    #[error("the answer could not be understood: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("the list could not be understood: {0}")]
    List(#[from] SplitError),
    /// The API server returned the same `continue` token twice.
    #[error("the list does not end")]
    Endless,
    /// Without the API server's time, its clock cannot be compared with the times that it stored.
    #[error("the answer has no Date")]
    NoDate,
    #[error("the gate's own namespace is not known: set --namespace")]
    NoNamespace,
}

/// Why an API server could not be reached.
#[derive(Debug, Error)]
pub enum ReachError {
    #[error("{}", describe(.0))]
    Request(#[from] kube::Error),
    #[error("the API server did not answer within {}s", REACH_TIMEOUT.as_secs())]
    Timeout,
}

/// One page of a list, without its items.
#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "null_is_default")]
    metadata: PageMetadata,
    /// Required: an answer without `items` is incomplete. `null` is an empty list.
    #[serde(rename = "items", deserialize_with = "taken_out")]
    _items: (),
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue", deserialize_with = "null_is_default")]
    next: String,
}

/// Accepts a list whose items were taken out, or `null`.
fn taken_out<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    Option::<[IgnoredAny; 0]>::deserialize(deserializer).map(drop)
}

/// Which objects of a kind a list has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selection<'a> {
    All,
    /// All are listed; those that do not have this text, plain ASCII, are dropped unread.
    Having(&'a str),
    /// Those that a field selector selects.
    Fields(&'a str),
    /// Those that a label selector selects.
    Labels(&'a str),
}

/// A client of an API server.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
}

impl Api {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client itself, for what is not here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Checks that the API server answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn reach(&self) -> Result<(), ReachError> {
        let version = self.client.apiserver_version();
        match tokio::time::timeout(REACH_TIMEOUT, version).await {
            Ok(result) => Ok(result.map(drop)?),
            Err(_) => Err(ReachError::Timeout),
        }
    }

    /// Creates an object, and returns the object in the API server's answer.
    pub async fn create<T: Resource + Serialize + DeserializeOwned>(&self, object: &T) -> Result<T, ReadError> {
        let create = clustered::<T>().create(&PostParams::default(), serde_json::to_vec(object)?);
        self.send(create.map_err(kube::Error::BuildRequest)?).await
    }

    /// Creates an object, or replaces the version that it names.
    pub async fn store(&self, builder: &UrlBuilder, name: &str, object: &Value) -> Result<Written, ReadError> {
        let body = serde_json::to_vec(object)?;
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let request = match version {
            Some(_) => builder.replace(name, &PostParams::default(), body),
            None => builder.create(&PostParams::default(), body),
        };
        match self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await {
            Ok(_) => Ok(Written::Done),
            Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT => Ok(Written::Conflict),
            // It was deleted since it was read.
            Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND && version.is_some() => {
                Ok(Written::Conflict)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The objects of a custom kind that `keep` returns, from one namespace or all. `None` if the
    /// kind is not installed.
    pub async fn list_custom<T: DeserializeOwned>(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selector: Option<&str>,
        keep: impl Fn(T) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ReadError> {
        let resource = ApiResource {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            api_version: format!("{}/{}", kind.group, kind.version),
            kind: kind.name.to_owned(),
            plural: kind.plural.to_owned(),
        };
        let builder = UrlBuilder::new(DynamicObject::url_path(&resource, namespace));
        match self.list(&builder, selector.map_or(Selection::All, Selection::Fields), keep).await {
            Ok(objects) => Ok(Some(objects)),
            // For an installed kind, the API server answers a list request with 200, even if the
            // list is empty.
            Err(ReadError::Request(kube::Error::Api(status))) if status.code == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request, and returns the object in the answer.
    pub async fn send<T: DeserializeOwned>(&self, request: http::Request<Vec<u8>>) -> Result<T, ReadError> {
        Ok(serde_json::from_str(&self.client.request_text(request).await?)?)
    }

    /// One object. `None` if it does not exist.
    pub async fn get<T: DeserializeOwned>(&self, builder: &UrlBuilder, name: &str) -> Result<Option<T>, ReadError> {
        Ok(self.answer(builder, name).await?.object)
    }

    /// One object, with the time of the answer by the API server's own clock.
    pub async fn get_dated<T: DeserializeOwned>(
        &self,
        builder: &UrlBuilder,
        name: &str,
    ) -> Result<(Timestamp, Option<T>), ReadError> {
        let Answer { date, object } = self.answer(builder, name).await?;
        Ok((date.ok_or(ReadError::NoDate)?, object))
    }

    async fn answer<T: DeserializeOwned>(&self, builder: &UrlBuilder, name: &str) -> Result<Answer<T>, ReadError> {
        check_name(name)?;
        let request = builder.get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        // `Client::request_text` would hide the headers.
        let (head, body) = self.client.send(request.map(Into::into)).await?.into_parts();
        let date = head.headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(parse_date);
        let body = body.collect().await?.to_bytes();
        if head.status.is_success() {
            let Object(object) = serde_json::from_slice(&body)?;
            return Ok(Answer { date, object: Some(object) });
        }
        match failure(head.status, &body) {
            status if status.code == StatusCode::NOT_FOUND && status.reason == "NotFound" => {
                Ok(Answer { date, object: None })
            }
            status => Err(kube::Error::Api(Box::new(status)).into()),
        }
    }

    /// All objects that `keep` returns, read page by page. If the list expires between two pages,
    /// it is read once more from the start.
    pub async fn list<T: DeserializeOwned, K>(
        &self,
        builder: &UrlBuilder,
        selection: Selection<'_>,
        keep: impl Fn(T) -> Option<K>,
    ) -> Result<Vec<K>, ReadError> {
        match self.pages(builder, selection, &keep).await {
            Err(ReadError::Request(kube::Error::Api(status))) if status.code == StatusCode::GONE => {
                self.pages(builder, selection, &keep).await
            }
            result => result,
        }
    }

    async fn pages<T: DeserializeOwned, K>(
        &self,
        builder: &UrlBuilder,
        selection: Selection<'_>,
        keep: impl Fn(T) -> Option<K>,
    ) -> Result<Vec<K>, ReadError> {
        let is_of_use = |item: &[u8]| match selection {
            Selection::Having(text) => may_have(item, text),
            _ => true,
        };
        let mut kept = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        params = match selection {
            Selection::All | Selection::Having(_) => params,
            Selection::Fields(selector) => params.fields(selector),
            Selection::Labels(selector) => params.labels(selector),
        };
        loop {
            let Object(page) = self.page(builder, &params, is_of_use, &keep, &mut kept).await?;
            if page.metadata.next.is_empty() {
                return Ok(kept);
            }
            if params.continue_token.as_ref() == Some(&page.metadata.next) {
                return Err(ReadError::Endless);
            }
            params = params.continue_token(&page.metadata.next);
        }
    }

    /// One page. Each item is parsed as soon as it is there, and dropped unless it is kept.
    async fn page<T: DeserializeOwned, K>(
        &self,
        builder: &UrlBuilder,
        params: &ListParams,
        is_of_use: impl Fn(&[u8]) -> bool,
        keep: &impl Fn(T) -> Option<K>,
        kept: &mut Vec<K>,
    ) -> Result<Object<Page>, ReadError> {
        let request = builder.list(params).map_err(kube::Error::BuildRequest)?;
        let (head, mut body) = self.client.send(request.map(Into::into)).await?.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, LONGEST_FAILURE).collect().await;
            let body = body.map_or_else(|error| error.to_string().into(), Collected::to_bytes);
            return Err(kube::Error::Api(Box::new(failure(head.status, &body))).into());
        }
        let mut splitter = Splitter::new();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            splitter.feed(&bytes, |item| {
                if !is_of_use(item) {
                    return Ok(());
                }
                let Object(item) = serde_json::from_slice(item)?;
                kept.extend(keep(item));
                Ok::<_, ReadError>(())
            })?;
        }
        Ok(serde_json::from_slice(splitter.envelope_without_items())?)
    }
}

/// The API server's answer to a GET.
struct Answer<T> {
    /// The answer's `Date`, if it has one.
    date: Option<Timestamp>,
    /// `None`: the object does not exist.
    object: Option<T>,
}

/// The `Status` in an answer that is not a success. A proxy answers with text instead.
fn failure(code: StatusCode, body: &[u8]) -> Status {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        Status::failure(text.trim(), "Failed to parse error data").with_code(code.as_u16())
    })
}

/// Parses the HTTP header `Date`, for example `Sun, 22 Nov 2026 10:20:00 GMT`.
fn parse_date(date: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

/// The URL of a cluster-scoped kind, or of a namespaced kind in all namespaces.
pub(super) fn clustered<K: Resource>() -> UrlBuilder {
    UrlBuilder::new(format!("{}/{}", base::<K>(), K::URL_PATH_SEGMENT))
}

/// The URL of a namespaced kind in one namespace.
pub(super) fn namespaced<K: Resource<Scope = NamespaceResourceScope>>(namespace: &str) -> UrlBuilder {
    UrlBuilder::new(format!("{}/namespaces/{namespace}/{}", base::<K>(), K::URL_PATH_SEGMENT))
}

fn base<K: Resource>() -> String {
    if K::GROUP.is_empty() { format!("/api/{}", K::VERSION) } else { format!("/apis/{}/{}", K::GROUP, K::VERSION) }
}

/// Rejects names that would change the meaning of a URL or a selector. No Kubernetes object has
/// such a name.
pub(super) fn check_name(name: &str) -> Result<(), ReadError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let only_dots = name.bytes().all(|byte| byte == b'.');
    if name.bytes().all(plain) && !only_dots { Ok(()) } else { Err(ReadError::Name(name.to_owned())) }
}

/// Describes an error for an operator.
pub(super) fn describe(error: &kube::Error) -> String {
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core, storage::v1 as storage};

    use super::*;

    #[test]
    fn a_name_cannot_change_the_url_or_the_selector() {
        for name in ["worker-2", "ip-10-0-0-1.ec2.internal", "pvc-123"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", "../secrets", "n1,spec.nodeName!=n1", "a?b", "a%2fb", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn urls_match_the_kubernetes_api() {
        assert_eq!(clustered::<core::Pod>().url_path, "/api/v1/pods");
        assert_eq!(clustered::<storage::VolumeAttachment>().url_path, "/apis/storage.k8s.io/v1/volumeattachments");
        assert_eq!(
            namespaced::<coordination::Lease>("kube-node-lease").url_path,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        );
    }
}
