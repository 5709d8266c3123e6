//! What self-managed certificates need of an API server: the Secret that replicas agree through, the Lease that says which of them writes,
//! and `caBundle` in the webhook configurations.
//!
//! Nothing is decided here; `certificates` does. Every write of the Secret and the Lease says which version it is about, so that of two
//! replicas that write at once one is outrun and told so.

use std::{collections::BTreeMap, future::Future, time::Duration};

use http::StatusCode;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::api::describe;

/// The name of the webhook configurations, and the field manager that owns their `caBundle`.
const NAME: &str = "fencegate";
/// The only webhook in each of them.
const WEBHOOK: &str = "out-of-service.fencegate.dev";
/// Holds the CA.
const SECRET: &str = "fencegate-ca";
/// The one field of it.
const FIELD: &str = "authority.json";
/// How long one request may take: nobody waits for it, and the next look comes soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// The API server, as far as certificates go.
#[derive(Clone)]
pub struct Registration {
    client: Client,
    namespace: String,
}

/// What was read, and the version that a write replaces.
#[derive(Debug)]
pub struct Stored {
    /// Empty where the Secret lacks its field.
    pub bytes: Vec<u8>,
    secret: Secret,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// Someone else wrote first.
    Outrun,
}

/// Who holds the Lease.
#[derive(Debug)]
pub struct Held {
    pub holder: String,
    /// Changes with every renewal.
    pub version: String,
    lease: Lease,
}

/// One of the two webhook configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Mutating,
    Validating,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Mutating, Self::Validating];

    fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }
}

impl Registration {
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// What the Secret holds; `None` where there is no Secret.
    ///
    /// # Errors
    /// Why it could not be read, for people.
    pub async fn secret(&self) -> Result<Option<Stored>, String> {
        let read = within(self.secrets().get_opt(SECRET)).await;
        let secret = read.map_err(|error| format!("Secret {}/{SECRET}: {}", self.namespace, describe(&error)))?;
        Ok(secret.map(|secret| {
            let field = secret.data.as_ref().and_then(|data| data.get(FIELD));
            Stored { bytes: field.map(|bytes| bytes.0.clone()).unwrap_or_default(), secret }
        }))
    }

    /// Creates the Secret, or replaces what was read of it.
    ///
    /// # Errors
    /// Why it could not be written, for people.
    pub async fn write_secret(&self, stored: Option<Stored>, bytes: Vec<u8>) -> Result<Written, String> {
        let data = Some(BTreeMap::from([(FIELD.to_owned(), ByteString(bytes))]));
        let params = PostParams::default();
        let written = if let Some(Stored { secret, .. }) = stored {
            let secret = Secret { data, string_data: None, ..secret };
            within(self.secrets().replace(SECRET, &params, &secret)).await
        } else {
            let secret = Secret { metadata: self.metadata(SECRET), data, ..Secret::default() };
            within(self.secrets().create(&params, &secret)).await
        };
        outcome(written).map_err(|why| format!("Secret {}/{SECRET}: {why}", self.namespace))
    }

    /// Who holds the Lease; `None` where there is none.
    ///
    /// # Errors
    /// Why it could not be read, for people.
    pub async fn lease(&self) -> Result<Option<Held>, String> {
        let lease = within(self.leases().get_opt(NAME)).await.map_err(|error| self.about_lease(&describe(&error)))?;
        Ok(lease.map(|lease| Held {
            holder: lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            lease,
        }))
    }

    /// Takes or renews the Lease, if it still is as it was read.
    ///
    /// # Errors
    /// Why it could not be written, for people.
    pub async fn hold(
        &self,
        held: Option<Held>,
        identity: &str,
        now: jiff::Timestamp,
        duration: Duration,
    ) -> Result<Written, String> {
        let spec = Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let written = match held {
            Some(Held { lease, .. }) => within(self.leases().replace(NAME, &params, &Lease { spec, ..lease })).await,
            None => within(self.leases().create(&params, &Lease { metadata: self.metadata(NAME), spec })).await,
        };
        outcome(written).map_err(|why| self.about_lease(&why))
    }

    /// The `caBundle` that an API server finds in a webhook configuration: empty where it has none, `None` where there is no such
    /// configuration: either of the two works alone.
    ///
    /// # Errors
    /// Why it could not be read, or that its webhook is not there.
    pub async fn bundle(&self, side: Side) -> Result<Option<Vec<u8>>, String> {
        let about = |why: &str| format!("{} {NAME}: {why}", side.kind());
        let webhooks: Option<Vec<(String, Option<ByteString>)>> = match side {
            Side::Mutating => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                let read = within(api.get_opt(NAME)).await.map_err(|error| about(&describe(&error)))?;
                let webhooks = read.map(|read| read.webhooks.unwrap_or_default().into_iter());
                webhooks.map(|webhooks| webhooks.map(|hook| (hook.name, hook.client_config.ca_bundle)).collect())
            }
            Side::Validating => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                let read = within(api.get_opt(NAME)).await.map_err(|error| about(&describe(&error)))?;
                let webhooks = read.map(|read| read.webhooks.unwrap_or_default().into_iter());
                webhooks.map(|webhooks| webhooks.map(|hook| (hook.name, hook.client_config.ca_bundle)).collect())
            }
        };
        let Some(webhooks) = webhooks else { return Ok(None) };
        let ours = webhooks.into_iter().find(|(name, _)| name == WEBHOOK);
        let (_, bundle) = ours.ok_or_else(|| about(&format!("has no webhook {WEBHOOK}")))?;
        Ok(Some(bundle.map(|bytes| bytes.0).unwrap_or_default()))
    }

    /// Writes `caBundle`, and nothing else: server-side apply of that one field under a field manager of its own.
    ///
    /// # Errors
    /// Why it could not be written, for people.
    pub async fn publish(&self, side: Side, bundle: &str) -> Result<(), String> {
        let kind = side.kind();
        let webhook = json!({"name": WEBHOOK, "clientConfig": {"caBundle": ByteString(bundle.as_bytes().to_vec())}});
        let applied = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": NAME},
            "webhooks": [webhook]});
        // Someone else's caBundle is a broken one, whoever put it there.
        let params = PatchParams::apply(NAME).force();
        let patch = Patch::Apply(&applied);
        let written = match side {
            Side::Mutating => {
                let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, &params, &patch)).await.map(|_| ())
            }
            Side::Validating => {
                let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
                within(api.patch(NAME, &params, &patch)).await.map(|_| ())
            }
        };
        written.map_err(|error| format!("{kind} {NAME}: {}", describe(&error)))
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(self.namespace.clone()), ..ObjectMeta::default() }
    }

    fn about_lease(&self, why: &impl std::fmt::Display) -> String {
        format!("Lease {}/{NAME}: {why}", self.namespace)
    }
}

/// Cancel-safe: a request that takes too long is dropped.
async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match timeout(PATIENCE, request).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

fn outcome<T>(written: Result<T, kube::Error>) -> Result<Written, String> {
    match written {
        Ok(_) => Ok(Written::Done),
        // Created or replaced by someone else since it was read.
        Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT => Ok(Written::Outrun),
        Err(error) => Err(describe(&error)),
    }
}
