//! What an installation of the gate looks like from outside, for people who check it.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1 as admission, authorization::v1::ResourceAttributes,
        coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    },
};
use kube::core::params::PostParams;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Live, VIRTUAL_GROUP, VIRTUAL_RESOURCE,
    api::{ReadError, Selection, check_name, clustered, namespaced},
    live::one_line,
    registration::{NAME, PODS, WEBHOOK, is_door},
};
use crate::policy::{
    facts::Verb,
    json::null_is_default,
    object::{
        lease::{Lease, LeaseSpec},
        node::OUT_OF_SERVICE,
    },
    review::Webhook,
    settings::OwnerKind,
};

/// How much clocks of the control plane may differ.
const CLOCKS: SignedDuration = SignedDuration::from_secs(30);

/// The version of an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `v1.37.2`.
    pub name: String,
    /// Major and minor. `None` if they are no numbers.
    pub number: Option<(u32, u32)>,
}

/// A webhook as it is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Registered {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    client_config: ClientConfig,
    #[serde(deserialize_with = "null_is_default")]
    pub failure_policy: String,
    #[serde(deserialize_with = "null_is_default")]
    match_conditions: Vec<MatchCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct MatchCondition {
    #[serde(default, deserialize_with = "null_is_default")]
    expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientConfig {
    ca_bundle: Option<ByteString>,
}

impl Registered {
    /// `caBundle`, PEM. Empty if it is not set.
    pub fn ca_bundle(&self) -> &[u8] {
        self.client_config.ca_bundle.as_ref().map_or(&[], |bytes| &bytes.0)
    }

    /// The other door of this entry, for example `nodes`. `None`: it guards the taint.
    pub fn door(&self) -> Option<&str> {
        (self.name != WEBHOOK).then(|| self.name.split('.').next().unwrap_or_default())
    }

    /// Whether the match condition of this entry sends pods of this controller to the gate. Those
    /// of other doors do not depend on controllers.
    pub fn sends_pods_of(&self, owner: &OwnerKind) -> bool {
        let named = format!("['{}','{}']", owner.group, owner.kind);
        let plain = |text: &str| text.replace('"', "'").split_whitespace().collect::<String>();
        self.name != PODS || self.match_conditions.iter().all(|one| plain(&one.expression).contains(&named))
    }
}

/// A policy without a call, and what its binding does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub has_policy: bool,
    /// `validationActions` of the binding; `None` if there is no binding.
    pub actions: Option<Vec<String>>,
}

/// The ready replicas behind the Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The node of each ready endpoint, if it is known.
    pub nodes: Vec<Option<String>>,
}

/// A container of the gate, as its pod declares it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Container {
    name: String,
    pub image: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub args: Vec<String>,
}

/// What came of a write that the gate must deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was allowed.
    Allowed,
    /// Admission denied it, with these words.
    Denied(String),
    /// RBAC denied it before admission saw it.
    NoRight(String),
    /// It failed otherwise, for example because the gate could not be called.
    Failed(String),
}

impl Live {
    /// The API server's version.
    ///
    /// # Errors
    /// Why it could not be read, as one line for people.
    pub async fn version(&self) -> Result<Version, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Info {
            major: String,
            minor: String,
            git_version: String,
        }
        let request = http::Request::get("/version").body(Vec::new()).map_err(|error| error.to_string())?;
        let info: Info = self.api.send(request).await.map_err(|error| told(&error))?;
        // A provider may append to the minor: `33+`.
        let number = info.major.parse().ok().zip(info.minor.trim_end_matches('+').parse().ok());
        Ok(Version { name: info.git_version, number })
    }

    /// How this webhook of the gate is registered: the entry that guards the taint, and those of
    /// the other doors.
    ///
    /// # Errors
    /// Why it could not be read, as one line for people.
    pub async fn registered(&self, webhook: Webhook) -> Result<Vec<Registered>, String> {
        #[derive(Deserialize)]
        struct Configuration {
            #[serde(default, deserialize_with = "null_is_default")]
            webhooks: Vec<Registered>,
        }
        let builder = match webhook {
            Webhook::Mutate => clustered::<admission::MutatingWebhookConfiguration>(),
            Webhook::Validate => clustered::<admission::ValidatingWebhookConfiguration>(),
        };
        let found: Option<Configuration> = self.api.get(&builder, NAME).await.map_err(|error| told(&error))?;
        let is_ours = |one: &Registered| one.name == WEBHOOK || is_door(&one.name);
        Ok(found.map(|found| found.webhooks.into_iter().filter(is_ours).collect()).unwrap_or_default())
    }

    /// The policy of this name, and its binding of the same name.
    ///
    /// # Errors
    /// Why they could not be read, as one line for people.
    pub async fn bound(&self, name: &str) -> Result<Bound, String> {
        #[derive(Deserialize)]
        struct Binding {
            spec: Spec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            policy_name: String,
            #[serde(default, deserialize_with = "null_is_default")]
            validation_actions: Vec<String>,
        }
        let policies = clustered::<admission::ValidatingAdmissionPolicy>();
        let bindings = clustered::<admission::ValidatingAdmissionPolicyBinding>();
        let policy: Option<Value> = self.api.get(&policies, name).await.map_err(|error| told(&error))?;
        let binding: Option<Binding> = self.api.get(&bindings, name).await.map_err(|error| told(&error))?;
        let spec = binding.map(|binding| binding.spec).filter(|spec| spec.policy_name == name);
        Ok(Bound { has_policy: policy.is_some(), actions: spec.map(|spec| spec.validation_actions) })
    }

    /// The ready endpoints of the Service in this namespace.
    ///
    /// # Errors
    /// Why they could not be read, as one line for people.
    pub async fn endpoints(&self, namespace: &str) -> Result<Endpoints, String> {
        #[derive(Deserialize)]
        struct Slice {
            #[serde(default, deserialize_with = "null_is_default")]
            endpoints: Vec<Endpoint>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Endpoint {
            #[serde(default, deserialize_with = "null_is_default")]
            conditions: Conditions,
            #[serde(default)]
            node_name: Option<String>,
        }
        #[derive(Default, Deserialize)]
        struct Conditions {
            /// Absent means ready (`k8s.io/api/discovery/v1`: `EndpointConditions`).
            #[serde(default)]
            ready: Option<bool>,
        }
        let read = async {
            check_name(namespace)?;
            let of_service = format!("kubernetes.io/service-name={NAME}");
            let builder = namespaced::<discovery::EndpointSlice>(namespace);
            self.api.list(&builder, Selection::Labels(&of_service), |slice: Slice| Some(slice)).await
        };
        let slices = read.await.map_err(|error| told(&error))?;
        let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.conditions.ready != Some(false));
        Ok(Endpoints { nodes: ready.map(|endpoint| endpoint.node_name).collect() })
    }

    /// The container of each of the gate's pods.
    ///
    /// # Errors
    /// Why they could not be read, as one line for people.
    pub async fn containers(&self, namespace: &str) -> Result<Vec<Container>, String> {
        #[derive(Deserialize)]
        struct Pod {
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Spec {
            containers: Vec<Container>,
        }
        let read = async {
            check_name(namespace)?;
            let of_gate = format!("app.kubernetes.io/name={NAME}");
            self.api.list(&namespaced::<core::Pod>(namespace), Selection::Labels(&of_gate), |pod: Pod| Some(pod)).await
        };
        let containers = read.await.map_err(|error| told(&error))?.into_iter().flat_map(|pod| pod.spec.containers);
        Ok(containers.filter(|container| container.name == NAME).collect())
    }

    /// Creates a Node of this name with the taint, as a dry run: the gate must deny it, and nothing
    /// is stored.
    pub async fn attempt(&self, name: &str) -> Attempt {
        let taint = json!({"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}});
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let created = async {
            let request = clustered::<core::Node>().create(&params, serde_json::to_vec(&node)?);
            let request = request.map_err(kube::Error::BuildRequest)?;
            self.api.send::<Value>(request).await
        };
        match created.await {
            Ok(_) => Attempt::Allowed,
            Err(ReadError::Request(kube::Error::Api(status))) if status.code == StatusCode::FORBIDDEN => {
                // RBAC's words have this form; those of admission follow it, after a colon.
                let is_rbac = status.message.starts_with("nodes is forbidden: User ");
                let by_rbac = is_rbac && status.message.contains(" cannot create resource ");
                if by_rbac { Attempt::NoRight(one_line(&status.message)) } else { Attempt::Denied(status.message) }
            }
            Err(error) => Attempt::Failed(told(&error)),
        }
    }

    /// Since when kube-controller-manager has been silent: it deletes the pods and detaches the
    /// volumes. `None` if it runs, or if that could not be found out.
    pub async fn controllers_silent_since(&self) -> Option<Timestamp> {
        let leases = namespaced::<coordination::Lease>("kube-system");
        let (date, lease) = self.api.get_dated::<Lease>(&leases, "kube-controller-manager").await.ok()?;
        let LeaseSpec { renew_time, lease_duration_seconds } = lease?.spec;
        let (renewed, duration) = (renew_time?, SignedDuration::from_secs(lease_duration_seconds?.into()));
        // Its clock may differ from the API server's.
        (date.duration_since(renewed) > duration + CLOCKS).then_some(renewed)
    }

    /// Whether this client may use `verb` on a resource, written as RBAC writes it: `nodes`, or
    /// `leases.coordination.k8s.io`.
    ///
    /// # Errors
    /// Why the API server did not say, as one line for people.
    pub async fn may(&self, verb: &str, resource: &str, namespace: Option<&str>) -> Result<bool, String> {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            namespace: namespace.map(str::to_owned),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        self.may_itself(Some(attributes)).await.map_err(|error| told(&error))
    }

    /// Whether this client has a right that only the gate asks for.
    ///
    /// # Errors
    /// Why the API server did not say, as one line for people.
    pub async fn may_ask_gate(&self, verb: Verb) -> Result<bool, String> {
        self.may(verb.name(), &format!("{VIRTUAL_RESOURCE}.{VIRTUAL_GROUP}"), None).await
    }
}

fn told(error: &ReadError) -> String {
    one_line(&error.to_string())
}
