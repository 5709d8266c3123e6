//! Bytes to [`Request`], [`Decision`] to bytes: the AdmissionReview of `admission.k8s.io/v1`.
//!
//! The envelope is read first and the objects after it, so that whatever has a readable `uid` gets an answer with that
//! `uid`: the API server counts any other answer as no answer. The objects stay slices of the body until then.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::patch::patch;
pub use crate::policy::review::Webhook;
use crate::policy::{
    Decision,
    json::{Object, null_is_default, object_or_null},
    message,
    node::Node,
    reason::Code,
    request::{Request, User, Write},
    review::{Asks, Review},
    source::Source,
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// There is nothing that an answer could be addressed to.
#[derive(Debug, Error)]
#[error("not an AdmissionReview with a request.uid: {0}")]
pub struct NoEnvelope(#[from] serde_json::Error);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "null_is_default")]
    api_version: String,
    #[serde(default, deserialize_with = "null_is_default")]
    kind: String,
    #[serde(borrow)]
    request: RawRequest<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequest<'a> {
    uid: String,
    #[serde(default, deserialize_with = "null_is_default")]
    operation: String,
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    sub_resource: String,
    #[serde(default, deserialize_with = "null_is_default")]
    resource: Option<Resource>,
    #[serde(default, deserialize_with = "object_or_null")]
    user_info: User,
    #[serde(default, deserialize_with = "null_is_default")]
    dry_run: bool,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default, deserialize_with = "null_is_default")]
    group: String,
    #[serde(default, deserialize_with = "null_is_default")]
    resource: String,
}

/// The one field that an answer cannot do without.
#[derive(Deserialize)]
struct UidAlone {
    request: Uid,
}

#[derive(Deserialize)]
struct Uid {
    uid: String,
}

/// Reads a review.
///
/// # Errors
/// If the body is no JSON object with a string at `request.uid`. Whatever else is wrong is told in [`Asks::Garbled`].
pub fn read(body: &[u8]) -> Result<Review, NoEnvelope> {
    let envelope: Envelope<'_> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        Err(error) => {
            let UidAlone { request: Uid { uid } } = serde_json::from_slice(body)?;
            return Ok(Review::garbled(uid, format!("the request could not be read: {error}")));
        }
    };
    let Envelope { api_version, kind, request } = envelope;
    if api_version != API_VERSION || kind != KIND {
        let why = format!("this is a {kind:?} of {api_version:?}, not an {KIND} of {API_VERSION}");
        return Ok(Review::garbled(request.uid, why));
    }
    let asks = match request.asks() {
        Ok(None) => Asks::Nothing,
        Ok(Some(asked)) => Asks::About(Box::new(asked)),
        Err(why) => Asks::Garbled { node: request.name, why },
    };
    Ok(Review {
        uid: request.uid,
        dry_run: request.dry_run,
        operation: request.operation,
        subresource: request.sub_resource,
        user: request.user_info,
        asks,
    })
}

impl RawRequest<'_> {
    /// The request, or `None` where it is not a write to a Node; or why it makes no sense.
    fn asks(&self) -> Result<Option<Request>, String> {
        if self.operation == "CONNECT" || self.resource.as_ref().is_some_and(|resource| !resource.is_nodes()) {
            return Ok(None);
        }
        let old = parse("oldObject", self.old_object)?;
        let new = parse("object", self.object)?;
        let write = match (self.operation.as_str(), old, new) {
            ("CREATE", _, Some(new)) => Write::Create { new },
            ("UPDATE", Some(old), Some(new)) => Write::Update { new: self.as_stored(&old, new), old },
            ("DELETE", Some(old), _) => Write::Delete { old },
            ("CREATE" | "UPDATE", _, None) => return Err("object is missing".to_owned()),
            ("UPDATE" | "DELETE", None, _) => return Err("oldObject is missing".to_owned()),
            (operation, ..) => return Err(format!("operation {operation:?} is not one of CREATE, UPDATE, DELETE")),
        };
        let node = self.node(&write)?;
        Ok(Some(Request { node, user: self.user_info.clone(), write }))
    }

    /// The new object with what an update through `nodes/status` leaves as it was: its `spec`.
    fn as_stored(&self, old: &Node, mut new: Node) -> Node {
        if self.sub_resource == "status" {
            new.spec = old.spec.clone();
        }
        new
    }

    /// The node's name: from the objects, since the request's own is empty in a delete-collection.
    fn node(&self, write: &Write) -> Result<String, String> {
        fn named(node: Option<&Node>) -> Option<&str> {
            node.map(|node| node.metadata.name.as_str()).filter(|name| !name.is_empty())
        }
        match (named(write.before()), named(write.after())) {
            (Some(old), Some(new)) if old != new => Err(format!("oldObject is Node {old:?}, object is Node {new:?}")),
            (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
            (None, None) if !self.name.is_empty() => Ok(self.name.clone()),
            (None, None) => Err("the Node has no name".to_owned()),
        }
    }
}

impl Resource {
    fn is_nodes(&self) -> bool {
        self.group.is_empty() && (self.resource == "nodes" || self.resource.is_empty())
    }
}

fn parse(side: &str, object: Option<&RawValue>) -> Result<Option<Node>, String> {
    let Some(object) = object else { return Ok(None) };
    match serde_json::from_str(object.get()) {
        Ok(Object(node)) => Ok(Some(node)),
        Err(error) => Err(format!("{side} is not a Node: {error}")),
    }
}

/// The answer to a review, as it goes over the wire.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    audit_annotations: AuditAnnotations,
}

/// The part of `metav1.Status` that the API server hands on. 403 and `Forbidden`: clients retry 409 and 429.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the field's name is Kubernetes' own")]
struct Status {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct AuditAnnotations {
    decision: &'static str,
    transition: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasons: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
}

impl<'a> Answer<'a> {
    /// Addresses a decision to the review that it answers. Only the mutating webhook's holds a patch: an API server takes one from
    /// the validating side for an error.
    pub fn new(webhook: Webhook, review: &'a Review, decision: &'a Decision) -> Self {
        let patch = match (webhook, review.request().and_then(|request| request.write.after())) {
            (Webhook::Mutate, Some(node)) => patch(node, &decision.stamps),
            (Webhook::Mutate, None) | (Webhook::Validate, _) => None,
        };
        let status = (!decision.allowed).then(|| Status {
            status: "Failure",
            code: 403,
            reason: "Forbidden",
            message: message::denial(decision, review.request()),
        });
        let reasons: Vec<&str> = decision.codes().into_iter().map(Code::name).collect();
        Self {
            api_version: API_VERSION,
            kind: KIND,
            response: Response {
                uid: &review.uid,
                allowed: decision.allowed,
                status,
                warnings: &decision.warnings,
                patch_type: patch.as_ref().map(|_| "JSONPatch"),
                patch: patch.map(|patch| BASE64.encode(patch)),
                audit_annotations: AuditAnnotations {
                    decision: decision.verdict(),
                    transition: decision.transitions.to_string(),
                    reasons: reasons.join(","),
                    source: decision.source().map(Source::name),
                },
            },
        }
    }

    /// What the user reads when the write is denied.
    pub fn message(&self) -> Option<&str> {
        self.response.status.as_ref().map(|status| status.message.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: &serde_json::Value) -> Review {
        let review = json!({"apiVersion": API_VERSION, "kind": KIND, "request": request});
        super::read(review.to_string().as_bytes()).unwrap()
    }

    fn garbled(review: &Review) -> &str {
        match &review.asks {
            Asks::Garbled { why, .. } => why,
            asks => panic!("understood: {asks:?}"),
        }
    }

    #[test]
    fn without_a_uid_there_is_nothing_to_answer() {
        for body in
            ["", "{}", "null", "[]", r#"{"request":{}}"#, r#"{"request":{"uid":7}}"#, r#"{"request":{"uid":"u""#]
        {
            assert!(super::read(body.as_bytes()).is_err(), "{body}");
        }
        assert!(super::read(b"\xff\xfe").is_err());
    }

    #[test]
    fn whatever_has_a_uid_is_answered() {
        for (request, why) in [
            (json!({"uid": "u", "operation": 5}), "could not be read"),
            (json!({"uid": "u", "operation": "UPDATE", "object": {}}), "oldObject is missing"),
            (json!({"uid": "u", "operation": "DELETE"}), "oldObject is missing"),
            (json!({"uid": "u", "operation": "CREATE"}), "object is missing"),
            (json!({"uid": "u", "operation": "CREATE", "object": [1]}), "object is not a Node"),
            (json!({"uid": "u", "operation": "CREATE", "object": {"metadata": {}}}), "the Node has no name"),
            (json!({"uid": "u", "operation": "PATCH", "object": {}, "oldObject": {}}), "is not one of"),
            (json!({"uid": "u"}), "is not one of"),
            (json!({"uid": "u", "userInfo": "root"}), "could not be read"),
        ] {
            let review = read(&request);
            assert_eq!(review.uid, "u");
            assert!(garbled(&review).contains(why), "{:?}", review.asks);
        }
        let other =
            super::read(br#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}"#);
        assert!(garbled(&other.unwrap()).contains("v1beta1"));
    }

    #[test]
    fn a_bomb_of_nested_arrays_is_garbled_and_nothing_worse() {
        let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let review = |object: &str| {
            format!(
                r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","object":{object}}}}}"#
            )
        };
        garbled(&super::read(review(&bomb).as_bytes()).unwrap());
        let hidden = review(&format!(r#"{{"metadata":{{"name":"n"}},"status":{{"images":{bomb}}}}}"#));
        assert!(super::read(hidden.as_bytes()).unwrap().request().is_some(), "skipped without recursion");
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let twice = format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","object":{{"metadata":{{"name":"n"}},"metadata":{{"name":"n"}}}}}}}}"#
        );
        assert!(garbled(&super::read(twice.as_bytes()).unwrap()).contains("duplicate field"));
        let operation = format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","operation":"DELETE"}}}}"#
        );
        assert!(garbled(&super::read(operation.as_bytes()).unwrap()).contains("duplicate field"));
    }

    #[test]
    fn what_is_no_write_to_a_node_is_nothing() {
        let pods = json!({"uid": "u", "operation": "CREATE", "object": {"spec": 5}, "resource": {"version": "v1", "resource": "pods"}});
        let metrics =
            json!({"uid": "u", "operation": "CREATE", "resource": {"group": "metrics.k8s.io", "resource": "nodes"}});
        let connect =
            json!({"uid": "u", "operation": "CONNECT", "subResource": "proxy", "resource": {"resource": "nodes"}});
        for request in [pods, metrics, connect] {
            assert_eq!(read(&request).asks, Asks::Nothing);
        }
    }

    #[test]
    fn a_status_update_cannot_change_the_taints() {
        let taints = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
        let review = read(&json!({"uid": "u", "operation": "UPDATE", "subResource": "status",
            "oldObject": {"metadata": {"name": "n"}, "spec": {"taints": taints}},
            "object": {"metadata": {"name": "n"}, "spec": {}}}));
        let request = review.request().unwrap();
        assert!(crate::policy::transition::Transitions::of(&request.write).is_none());
    }

    #[test]
    fn a_delete_collection_names_the_node_in_the_old_object() {
        let review = read(&json!({"uid": "u", "operation": "DELETE", "name": "", "object": null,
            "oldObject": {"metadata": {"name": "n7"}}}));
        assert_eq!(review.request().unwrap().node, "n7");
    }
}
