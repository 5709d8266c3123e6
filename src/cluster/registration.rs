//! The objects that self-managed certificates need from an API server: the Secret with the CA, the
//! Lease that elects the writer, and `caBundle` and `path` in the two webhook configurations.
//! Entries of other names are left alone.
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
use crate::policy::{reason::Code, review::Webhook};

mod entries;
mod secret;

use entries::{Client as WebhookClient, parse};
pub use entries::{Configuration, Door, Published, Target};
pub use secret::{ROTATE, StoredSecret};

/// The name of the Lease and of both webhook configurations, and the field manager of `caBundle`.
pub(super) const NAME: &str = "fencegate";
/// The entry that guards the taint, in each configuration.
pub const WEBHOOK: &str = "out-of-service.fencegate.dev";
/// The entries that may be beside it, those of the other doors, each with the check that judges
/// what it sends.
pub const DOORS: [(&str, Code); 3] = [
    ("nodes.fencegate.dev", Code::UnfencedDeletion),
    (PODS, Code::UnfencedForceDeletion),
    ("attachments.fencegate.dev", Code::UnfencedDetach),
];
/// The door whose match condition depends on the configuration.
pub(super) const PODS: &str = "pods.fencegate.dev";
/// The field manager of `path`: of its own, so that the managed fields tell when it was written.
const PATH_MANAGER: &str = "fencegate-path";
/// The field manager of what is written to doors. It gives up what it owns when everything is
/// written: no server-side apply could remove an entry of which another manager owns a field.
const DOORS_MANAGER: &str = "fencegate-doors";
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
        let read: Result<Option<(ObjectMeta, Vec<WebhookClient>)>, kube::Error> = match webhook {
            Webhook::Mutate => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                let client = |one: MutatingWebhook| (one.name, one.client_config);
                let read = within(api.get_opt(NAME)).await;
                read.map(|found| {
                    let webhooks = |all: Option<Vec<_>>| all.unwrap_or_default().into_iter().map(client).collect();
                    found.map(|found| (found.metadata, webhooks(found.webhooks)))
                })
            }
            Webhook::Validate => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                let client = |one: ValidatingWebhook| (one.name, one.client_config);
                let read = within(api.get_opt(NAME)).await;
                read.map(|found| {
                    let webhooks = |all: Option<Vec<_>>| all.unwrap_or_default().into_iter().map(client).collect();
                    found.map(|found| (found.metadata, webhooks(found.webhooks)))
                })
            }
        };
        let found = read.map_err(|source| RegistrationError::Read { object: object(), source })?;
        let Some((metadata, clients)) = found else { return Ok(None) };
        let parsed = parse(&metadata, clients);
        parsed.map(Some).ok_or_else(|| RegistrationError::NoWebhook { object: object() })
    }

    /// Writes `caBundle` of the entry that guards the taint and nothing else, unless the
    /// configuration changed since `version` was read: server-side apply of this one field under a
    /// field manager of its own.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn publish(
        &self,
        webhook: Webhook,
        ca_bundle: &str,
        version: &str,
    ) -> Result<Written, RegistrationError> {
        let entry = json!({"name": WEBHOOK, "clientConfig": {"caBundle": encoded(ca_bundle)}});
        self.apply(webhook, NAME, &json!([entry]), version).await
    }

    /// The same for `path`.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn set_path(&self, webhook: Webhook, path: &str, version: &str) -> Result<Written, RegistrationError> {
        let entry = json!({"name": WEBHOOK, "clientConfig": {"service": {"path": path}}});
        self.apply(webhook, PATH_MANAGER, &json!([entry]), version).await
    }

    /// The same for both of every door, under a third field manager.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn complete(
        &self,
        webhook: Webhook,
        doors: &[Published],
        version: &str,
    ) -> Result<Written, RegistrationError> {
        let entry = |door: &Published| {
            let mut client = json!({"caBundle": encoded(&door.ca_bundle)});
            if let (Some(path), Some(client)) = (&door.path, client.as_object_mut()) {
                client.insert("service".to_owned(), json!({"path": path}));
            }
            json!({"name": door.name, "clientConfig": client})
        };
        let entries: Vec<Value> = doors.iter().map(entry).collect();
        self.apply(webhook, DOORS_MANAGER, &json!(entries), version).await
    }

    /// Gives up what [`Self::complete`] made the replicas own: the element of `managedFields` with
    /// this index. No other field changes.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn disown(&self, webhook: Webhook, owned: usize, version: &str) -> Result<Written, RegistrationError> {
        let operations = json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "remove", "path": format!("/metadata/managedFields/{owned}")},
        ]);
        let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError);
        let patch = patch.map_err(|source| RegistrationError::Write { object: configuration_name(webhook), source })?;
        let params = PatchParams { field_manager: Some(DOORS_MANAGER.to_owned()), ..PatchParams::default() };
        self.patch(webhook, &params, &Patch::<Value>::Json(patch)).await
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

    /// Server-side apply of these entries under a field manager of their own.
    async fn apply(
        &self,
        webhook: Webhook,
        manager: &str,
        entries: &Value,
        version: &str,
    ) -> Result<Written, RegistrationError> {
        // A field that someone else owns is replaced. Force overrides their ownership of it; it
        // does not override the resourceVersion.
        let params = PatchParams::apply(manager).force();
        self.patch(webhook, &params, &Patch::Apply(applied(webhook, entries, version))).await
    }

    async fn patch(
        &self,
        webhook: Webhook,
        params: &PatchParams,
        patch: &Patch<Value>,
    ) -> Result<Written, RegistrationError> {
        let written = match webhook {
            Webhook::Mutate => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, params, patch)).await.map(|_| ())
            }
            Webhook::Validate => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, params, patch)).await.map(|_| ())
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

/// Whether this is the name of another door's entry.
pub(super) fn is_door(name: &str) -> bool {
    DOORS.iter().any(|(door, _)| *door == name)
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
fn applied(webhook: Webhook, entries: &Value, version: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind(webhook),
        "metadata": {"name": NAME, "resourceVersion": version},
        "webhooks": entries,
    })
}

fn encoded(ca_bundle: &str) -> ByteString {
    ByteString(ca_bundle.as_bytes().to_vec())
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
    fn what_is_applied_names_the_version_it_replaces_and_no_other_field() {
        let applied = applied(Webhook::Mutate, &json!([{"name": "w", "clientConfig": {"caBundle": "UEVN"}}]), "7");
        assert_eq!(
            applied,
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": "fencegate", "resourceVersion": "7"},
                "webhooks": [{"name": "w", "clientConfig": {"caBundle": "UEVN"}}],
            })
        );
    }
}
