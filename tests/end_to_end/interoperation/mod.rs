//! What others' automation writes, call for call as their code does it, under their service
//! accounts: with the default manifests, then with the overlay for them. What becomes of them is
//! the table in `docs/interoperability.md`.
//!
//! The sequences were read in the projects' sources, named where each is played.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::plane::{Plane, Refusal},
    world::TAINT,
};

mod clouds;
mod medik8s;
mod others;

/// Someone's automation.
struct Writer<'a> {
    plane: &'a Plane,
    token: String,
}

type Written = Result<Value, Refusal>;

impl Writer<'_> {
    async fn read(&self, node: &str) -> Value {
        self.plane.api(&self.token, Method::GET, &format!("/api/v1/nodes/{node}"), None).await.unwrap()
    }

    /// Reads the Node, changes its taints, and puts the whole Node back with its `resourceVersion`;
    /// again where someone else came first.
    async fn update(&self, node: &str, change: impl Fn(&mut Vec<Value>)) -> Written {
        loop {
            let mut object = self.read(node).await;
            let mut taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
            change(&mut taints);
            object["spec"]["taints"] = json!(taints);
            let written =
                self.plane.api(&self.token, Method::PUT, &format!("/api/v1/nodes/{node}"), Some(object)).await;
            if !written.as_ref().is_err_and(|refusal| refusal.code == 409) {
                return written;
            }
        }
    }

    async fn patch(&self, content_type: &str, node: &str, body: Value) -> Written {
        self.plane.patch(&self.token, content_type, &format!("/api/v1/nodes/{node}"), body).await
    }

    /// The taints that are there now, changed.
    async fn taints(&self, node: &str, change: impl Fn(&mut Vec<Value>)) -> Vec<Value> {
        let mut taints = self.read(node).await["spec"]["taints"].as_array().cloned().unwrap_or_default();
        change(&mut taints);
        taints
    }
}

/// The taint as most write it.
fn out_of_service() -> Value {
    json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"})
}

/// The same with the time, as those write it who use the constructor for it.
fn out_of_service_now() -> Value {
    let mut taint = out_of_service();
    taint["timeAdded"] = json!(crate::world::now());
    taint
}

fn without(key: &str) -> impl Fn(&mut Vec<Value>) {
    move |taints| taints.retain(|taint| taint["key"] != key)
}

/// A refusal that no client takes for a conflict to be tried again at once; what it says.
#[track_caller]
fn denied(written: Written) -> String {
    let refusal = written.unwrap_err();
    assert_eq!(refusal.code, 403, "{refusal:?}");
    refusal.message
}
