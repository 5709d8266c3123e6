//! The objects that self-managed certificates need from an API server: the Secret with the CA, the
//! Lease that elects the writer, and `caBundle` in the two webhook configurations.
//!
//! It decides nothing; `certificates::plan` does. Every write is conditional on the
//! `resourceVersion` that was read, so of two replicas that write at once one gets a conflict.

use std::{future::Future, time::Duration};

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhook, ValidatingWebhookConfiguration,
            WebhookClientConfig,
        },
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;

use super::{Written, api::describe};
use crate::policy::review::Webhook;

mod secret;

pub use secret::{ROTATE, StoredSecret};

/// The name of the Lease and of both webhook configurations, and the field manager of `caBundle`.
pub(super) const NAME: &str = "fencegate";
/// The only webhook in each configuration.
pub(super) const WEBHOOK: &str = "out-of-service.fencegate.dev";
/// The field manager of `path`: of its own, so that the managed fields tell when it was written.
const PATH_MANAGER: &str = "fencegate-path";
/// The label of the replicas' pods.
const REPLICAS: &str = "app.kubernetes.io/name=fencegate";
/// Pods that may be called. Those that have ended may stay in the list for long.
const NOT_ENDED: &str = "status.phase!=Failed,status.phase!=Succeeded";
/// The annotation of a pod whose replica answers the paths that are published.
const PATHS: &str = "fencegate.dev/paths";
/// Limit on one request. Nothing waits for the result, and the next look is seconds away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an object could not be read or written. The text names the object.
#[derive(Debug, Error)]
pub enum RegistrationError {
    #[error("{object}: {}", describe(.source))]
    Read { object: String, source: kube::Error },
    #[error("{object}: {}", describe(.source))]
    Write { object: String, source: kube::Error },
    #[error("{object} has no webhook {WEBHOOK}")]
    NoWebhook { object: String },
}

/// The Lease as it was read; a write replaces exactly this version.
#[derive(Debug)]
pub struct StoredLease {
    /// Empty if nobody holds it.
    pub holder: String,
    /// Changes with every renewal.
    pub version: String,
    lease: Lease,
}

/// A webhook configuration as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// PEM; empty if it is not set.
    pub ca_bundle: Vec<u8>,
    pub target: Target,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// What API servers call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Url,
    Service {
        /// As API servers call it: `/` if it is not set.
        path: String,
        /// Whether it is the replicas' own, so that nobody else's manifests take it away.
        is_ours: bool,
        /// When a replica changed it, by the API server's clock. Whoever only takes a value over
        /// has no time in the managed fields.
        since: Option<Timestamp>,
    },
}

/// The name of each webhook in a configuration, and how it is called.
type Clients = Vec<(String, WebhookClientConfig)>;

/// A client for these objects.
#[derive(Clone)]
pub struct Registration {
    client: Client,
    namespace: String,
}

impl Registration {
    /// `namespace` holds the Secret and the Lease.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// Reads the Lease; `None` if it does not exist.
    ///
    /// # Errors
    /// If the API server returns an error or does not answer in time.
    pub async fn lease(&self) -> Result<Option<StoredLease>, RegistrationError> {
        let read = within(self.leases().get_opt(NAME)).await;
        let lease = read.map_err(|source| RegistrationError::Read { object: self.lease_name(), source })?;
        Ok(lease.map(|lease| StoredLease {
            holder: lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            lease,
        }))
    }

    /// Takes or renews the Lease for `identity`, unless it changed since it was read.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn take_lease(
        &self,
        stored: Option<StoredLease>,
        identity: &str,
        now: Timestamp,
        duration: Duration,
    ) -> Result<Written, RegistrationError> {
        let spec = Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let written = match stored {
            Some(StoredLease { lease, .. }) => {
                within(self.leases().replace(NAME, &params, &Lease { spec, ..lease })).await
            }
            None => within(self.leases().create(&params, &Lease { metadata: self.metadata(NAME), spec })).await,
        };
        outcome(written, || self.lease_name())
    }

    /// Reads a webhook configuration; `None` if it does not exist.
    ///
    /// # Errors
    /// If the API server returns an error or does not answer in time, or the configuration lacks
    /// the webhook.
    pub async fn configuration(&self, webhook: Webhook) -> Result<Option<Configuration>, RegistrationError> {
        let object = || configuration_name(webhook);
        let read: Result<Option<(ObjectMeta, Clients)>, kube::Error> = match webhook {
            Webhook::Mutate => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                let clients =
                    |webhooks: Vec<MutatingWebhook>| webhooks.into_iter().map(|one| (one.name, one.client_config));
                let read = within(api.get_opt(NAME)).await;
                read.map(|found| {
                    found.map(|found| (found.metadata, clients(found.webhooks.unwrap_or_default()).collect()))
                })
            }
            Webhook::Validate => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                let clients =
                    |webhooks: Vec<ValidatingWebhook>| webhooks.into_iter().map(|one| (one.name, one.client_config));
                let read = within(api.get_opt(NAME)).await;
                read.map(|found| {
                    found.map(|found| (found.metadata, clients(found.webhooks.unwrap_or_default()).collect()))
                })
            }
        };
        let found = read.map_err(|source| RegistrationError::Read { object: object(), source })?;
        let Some((metadata, clients)) = found else { return Ok(None) };
        let ours = clients.into_iter().find(|(name, _)| name == WEBHOOK);
        let (_, client) = ours.ok_or_else(|| RegistrationError::NoWebhook { object: object() })?;
        let target = client.service.map_or(Target::Url, |service| {
            let (is_ours, since) = written_by_us(&metadata);
            Target::Service { path: as_called(&service.path.unwrap_or_default()), is_ours, since }
        });
        Ok(Some(Configuration {
            ca_bundle: client.ca_bundle.map(|bytes| bytes.0).unwrap_or_default(),
            target,
            version: metadata.resource_version.unwrap_or_default(),
        }))
    }

    /// Writes `caBundle` and nothing else, unless the configuration changed since `version` was
    /// read: server-side apply of this one field under a field manager of its own.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn publish(
        &self,
        webhook: Webhook,
        ca_bundle: &str,
        version: &str,
    ) -> Result<Written, RegistrationError> {
        let client_config = json!({"caBundle": ByteString(ca_bundle.as_bytes().to_vec())});
        self.apply(webhook, NAME, client_config, version).await
    }

    /// The same for `path`.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn set_path(&self, webhook: Webhook, path: &str, version: &str) -> Result<Written, RegistrationError> {
        self.apply(webhook, PATH_MANAGER, json!({"service": {"path": path}}), version).await
    }

    /// Whether all replicas that may be called answer the paths that are published.
    ///
    /// # Errors
    /// If the API server returns an error or does not answer in time.
    pub async fn all_replicas_are_current(&self) -> Result<bool, RegistrationError> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(REPLICAS).fields(NOT_ENDED);
        let read = within(pods.list_metadata(&params)).await;
        let object = || format!("pods of namespace {}", self.namespace);
        let pods = read.map_err(|source| RegistrationError::Read { object: object(), source })?;
        let annotations = |metadata: &ObjectMeta| metadata.annotations.clone().unwrap_or_default();
        Ok(pods.items.iter().all(|pod| annotations(&pod.metadata).contains_key(PATHS)))
    }

    /// Server-side apply of these fields under a field manager of their own.
    async fn apply(
        &self,
        webhook: Webhook,
        manager: &str,
        client_config: Value,
        version: &str,
    ) -> Result<Written, RegistrationError> {
        let applied = applied(webhook, &client_config, version);
        // A field that someone else owns is replaced. Force overrides their ownership of it; it
        // does not override the resourceVersion.
        let params = PatchParams::apply(manager).force();
        let patch = Patch::Apply(&applied);
        let written = match webhook {
            Webhook::Mutate => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, &params, &patch)).await.map(|_| ())
            }
            Webhook::Validate => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, &params, &patch)).await.map(|_| ())
            }
        };
        outcome(written, || configuration_name(webhook))
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(self.namespace.clone()), ..ObjectMeta::default() }
    }

    fn lease_name(&self) -> String {
        format!("Lease {}/{NAME}", self.namespace)
    }
}

/// The kind of a webhook's configuration.
pub fn kind(webhook: Webhook) -> &'static str {
    match webhook {
        Webhook::Mutate => "MutatingWebhookConfiguration",
        Webhook::Validate => "ValidatingWebhookConfiguration",
    }
}

fn configuration_name(webhook: Webhook) -> String {
    format!("{} {NAME}", kind(webhook))
}

/// The body of the server-side apply. With `resourceVersion` in it, the API server answers a stale
/// one with 409 instead of merging.
fn applied(webhook: Webhook, client_config: &Value, version: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind(webhook),
        "metadata": {"name": NAME, "resourceVersion": version},
        "webhooks": [{"name": WEBHOOK, "clientConfig": client_config}],
    })
}

/// The path that API servers call if this one is set.
fn as_called(path: &str) -> String {
    format!("/{}", path.trim_matches('/'))
}

/// Whether the path that is there is the replicas' own, and when one of them changed it. Whoever
/// writes another one takes the field over.
fn written_by_us(metadata: &ObjectMeta) -> (bool, Option<Timestamp>) {
    let entries = metadata.managed_fields.iter().flatten();
    let of_path = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).unwrap_or_default();
        entry.manager.as_deref() == Some(PATH_MANAGER) && fields.contains("\"f:path\"")
    });
    let times: Vec<Option<Timestamp>> = of_path.map(|entry| entry.time.as_ref().map(|time| time.0)).collect();
    (!times.is_empty(), times.into_iter().flatten().max())
}

/// Cancel-safe: a request that takes too long is dropped.
async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

fn outcome<T>(written: Result<T, kube::Error>, object: impl FnOnce() -> String) -> Result<Written, RegistrationError> {
    match written {
        Ok(_) => Ok(Written::Done),
        Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT => Ok(Written::Conflict),
        Err(source) => Err(RegistrationError::Write { object: object(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_was_written_when_its_owner_wrote_it() {
        let entry = |manager: &str, field: &str| {
            json!({"manager": manager, "operation": "Apply", "time": "2026-11-30T10:15:00Z",
                "fieldsV1": {"f:webhooks": {"k:{\"name\":\"w\"}": {"f:clientConfig": {"f:service": {field: {}}}}}}})
        };
        let written_at = |entries: Value| {
            let (is_ours, at) = written_by_us(&serde_json::from_value(json!({"managedFields": entries})).unwrap());
            (is_ours, at.map(|at| at.to_string()))
        };
        let ours = entry(PATH_MANAGER, "f:path");
        let at = Some("2026-11-30T10:15:00Z".to_owned());
        assert_eq!(written_at(json!([entry("kubectl", "f:path"), ours.clone()])), (true, at));
        assert_eq!(written_at(json!([entry("kubectl", "f:path"), entry(PATH_MANAGER, "f:name")])), (false, None));
        let mut taken_over = ours;
        taken_over.as_object_mut().unwrap().remove("time");
        assert_eq!(written_at(json!([taken_over])), (true, None));
        for (path, called) in [("", "/"), ("/", "/"), ("/validate", "/validate"), ("/validate/", "/validate")] {
            assert_eq!(as_called(path), called);
        }
    }

    #[test]
    fn what_is_applied_names_the_version_it_replaces_and_no_other_field() {
        let applied = applied(Webhook::Mutate, &json!({"caBundle": "UEVN"}), "7");
        assert_eq!(
            applied,
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": "fencegate", "resourceVersion": "7"},
                "webhooks": [{"name": "out-of-service.fencegate.dev", "clientConfig": {"caBundle": "UEVN"}}],
            })
        );
    }
}
