//! The writes of other projects' automation, call by call as in their code, with their service
//! accounts: first with the default manifests, then with the overlay for the project. The results
//! are the table in `docs/interoperability.md`.
//!
//! The sequences come from the sources of the projects. Each test names the source file and the
//! version.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::plane::{ApiError, Plane},
    world::TAINT,
};

mod clouds;
mod medik8s;
mod others;

/// The automation of another project.
struct Writer<'a> {
    plane: &'a Plane,
    token: String,
}

type Written = Result<Value, ApiError>;

impl Writer<'_> {
    async fn read(&self, node: &str) -> Value {
        self.plane.api(&self.token, Method::GET, &format!("/api/v1/nodes/{node}"), None).await.unwrap()
    }

    /// Reads the Node, changes its taints, and writes the whole Node with its `resourceVersion`.
    /// Retries after a conflict.
    async fn update(&self, node: &str, change: impl Fn(&mut Vec<Value>)) -> Written {
        loop {
            let mut object = self.read(node).await;
            let mut taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
            change(&mut taints);
            object["spec"]["taints"] = json!(taints);
            let written =
                self.plane.api(&self.token, Method::PUT, &format!("/api/v1/nodes/{node}"), Some(object)).await;
            if !written.as_ref().is_err_and(|error| error.code == 409) {
                return written;
            }
        }
    }

    async fn patch(&self, content_type: &str, node: &str, body: Value) -> Written {
        self.plane.patch(&self.token, content_type, &format!("/api/v1/nodes/{node}"), body).await
    }

    /// The current taints of the Node, changed.
    async fn taints(&self, node: &str, change: impl Fn(&mut Vec<Value>)) -> Vec<Value> {
        let mut taints = self.read(node).await["spec"]["taints"].as_array().cloned().unwrap_or_default();
        change(&mut taints);
        taints
    }
}

/// The taint as most projects write it.
fn out_of_service() -> Value {
    json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"})
}

/// The same with `timeAdded`, which some projects set.
fn out_of_service_now() -> Value {
    let mut taint = out_of_service();
    taint["timeAdded"] = json!(crate::world::now());
    taint
}

fn without(key: &str) -> impl Fn(&mut Vec<Value>) {
    move |taints| taints.retain(|taint| taint["key"] != key)
}

/// Asserts that the write was denied with a code that no client retries at once, and returns the
/// message.
#[track_caller]
fn denied(written: Written) -> String {
    let error = written.unwrap_err();
    assert_eq!(error.code, 403, "{error:?}");
    error.message
}
