//! Writes to Nodes for people. The gate judges them like anyone's.

use std::collections::BTreeMap;

use http::StatusCode;
use k8s_openapi::api::core::v1 as core;
use kube::core::params::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    Listed, Live,
    api::{ReadError, check_name, clustered, namespaced},
};
use crate::policy::object::{
    node::{NodeMetadata, Taint},
    pod::Pod,
};

/// How a write is sent.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// The API server checks the write, and stores nothing.
    pub dry_run: bool,
    pub field_manager: String,
}

/// Annotations to set, by key; `None` removes one.
pub type Changes = BTreeMap<&'static str, Option<String>>;

impl Listed {
    /// A merge patch of annotations.
    pub fn patch_of_annotations(&self, annotations: &Changes) -> Value {
        json!({"metadata": self.patched_metadata(annotations)})
    }

    /// A merge patch that replaces the entries of the out-of-service taint by these. `spec.taints`
    /// is replaced as a whole, so the patch names the version that it was made from: no taint that
    /// somebody else adds meanwhile is lost.
    pub fn patch_of_taints(&self, entries: &[Taint], annotations: &Changes) -> Value {
        let entries = entries.iter().map(|entry| json!(entry));
        let taints: Vec<Value> = self.about.other_taints().cloned().chain(entries).collect();
        json!({"metadata": self.patched_metadata(annotations), "spec": {"taints": taints}})
    }

    /// Of a patch of this Node, in the version that was read, and of no other one that has its
    /// name.
    fn patched_metadata(&self, annotations: &Changes) -> Value {
        let NodeMetadata { uid, resource_version, .. } = &self.node.metadata;
        json!({"uid": uid, "resourceVersion": resource_version, "annotations": annotations})
    }
}

/// Why a write to a Node was not stored.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Admission or RBAC denied it. Holds the API server's words.
    #[error("{0}")]
    Denied(String),
    /// The Node was changed since it was read, or is another Node of the same name.
    #[error("the Node was changed meanwhile")]
    Conflict,
    #[error("{0}")]
    Failed(String),
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Request(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT => Self::Conflict,
            ReadError::Request(kube::Error::Api(status)) if status.code == StatusCode::FORBIDDEN => {
                Self::Denied(status.message)
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Live {
    /// Merges `patch` into a Node. Returns the Node as it is stored then.
    ///
    /// # Errors
    /// If the write is denied, conflicts with another one, or fails.
    pub async fn patch_node(&self, name: &str, patch: &Value, manner: &Manner) -> Result<Value, WriteError> {
        check_name(name)?;
        let field_manager = Some(manner.field_manager.clone());
        let params = PatchParams { dry_run: manner.dry_run, field_manager, ..PatchParams::default() };
        let request = clustered::<core::Node>().patch(name, &params, &Patch::Merge(patch));
        let request = request.map_err(|error| ReadError::from(kube::Error::BuildRequest(error)))?;
        Ok(self.api.send(request).await?)
    }

    /// Deletes the Node with this name and UID, as it was in this version.
    ///
    /// # Errors
    /// If the deletion is denied, if the Node is another one, or if it fails.
    pub async fn delete_node(&self, name: &str, uid: &str, version: &str, manner: &Manner) -> Result<(), WriteError> {
        check_name(name)?;
        let preconditions =
            Some(Preconditions { uid: Some(uid.to_owned()), resource_version: Some(version.to_owned()) });
        let params = DeleteParams { dry_run: manner.dry_run, preconditions, ..DeleteParams::default() };
        let request = clustered::<core::Node>().delete(name, &params);
        let request = request.map_err(|error| ReadError::from(kube::Error::BuildRequest(error)))?;
        self.api.send::<Value>(request).await?;
        Ok(())
    }

    /// The node that a pod of this name runs on. `None` if it does not run.
    ///
    /// # Errors
    /// Why it could not be read, as one line for people.
    pub async fn where_it_runs(&self, namespace: &str, name: &str) -> Result<Option<String>, String> {
        let read = async {
            check_name(namespace)?;
            self.api.get::<Pod>(&namespaced::<core::Pod>(namespace), name).await
        };
        let pod = read.await.map_err(|error| error.to_string())?;
        Ok(pod.filter(|pod| pod.status.phase == "Running").map(|pod| pod.spec.node_name))
    }
}
