//! The AdmissionReview of `admission.k8s.io/v1`: parses a body into a [`Request`], and turns a
//! [`Decision`] into the answer.
//!
//! Every review with a readable `uid` gets an answer with that `uid`, even if its objects are
//! malformed, because the API server accepts no other answer. So a body whose objects are not Nodes
//! is read a second time: the envelope, with the objects as slices of the body. `doors` reads
//! those of other kinds.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::patch::patch;
use crate::policy::{
    Decision,
    door::Door,
    json::{Object, null_is_default},
    message,
    object::node::Node,
    reason::Code,
    request::{Request, User, Write},
    review::{Content, Review, Webhook},
    source::Source,
};

mod doors;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The most bytes of `userInfo`. An API server takes a requester's name, groups and extras from the
/// headers of a request, a certificate or a token, some KiB in all.
const LONGEST_USER: usize = 256 * 1024;

/// The body has no readable `uid`, so it cannot be answered.
#[derive(Debug, Error)]
#[error("not an AdmissionReview with a request.uid: {0}")]
pub struct NoEnvelope(#[from] serde_json::Error);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
struct Envelope<'a, O> {
    #[serde(default, deserialize_with = "null_is_default")]
    api_version: String,
    #[serde(default, deserialize_with = "null_is_default")]
    kind: String,
    #[serde(borrow)]
    request: Object<RawRequest<'a, O>>,
}

/// `O` is what an object is parsed as.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
struct RawRequest<'a, O> {
    uid: String,
    #[serde(default, deserialize_with = "null_is_default")]
    operation: String,
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    namespace: String,
    #[serde(default, deserialize_with = "null_is_default")]
    sub_resource: String,
    #[serde(default)]
    resource: Option<Object<Resource>>,
    #[serde(borrow, default)]
    user_info: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "null_is_default")]
    dry_run: bool,
    #[serde(borrow, default)]
    options: Option<&'a RawValue>,
    #[serde(default)]
    object: Option<O>,
    #[serde(default)]
    old_object: Option<O>,
}

/// An object of a request: as a Node, or as a slice of the body that may be one.
trait NodeObject {
    fn node(self) -> serde_json::Result<Node>;
}

impl NodeObject for Object<Node> {
    fn node(self) -> serde_json::Result<Node> {
        Ok(self.0)
    }
}

impl NodeObject for &RawValue {
    fn node(self) -> serde_json::Result<Node> {
        serde_json::from_str(self.get()).map(|Object(node)| node)
    }
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default, deserialize_with = "null_is_default")]
    group: String,
    #[serde(default, deserialize_with = "null_is_default")]
    resource: String,
}

/// The only field that an answer needs.
#[derive(Deserialize)]
struct UidAlone {
    request: Object<Uid>,
}

#[derive(Deserialize)]
struct Uid {
    uid: String,
}

/// Why a review with a `uid` is malformed.
#[derive(Debug, Error)]
enum Malformed {
    #[error("the request could not be read: {0}")]
    Request(serde_json::Error),
    #[error("this is a {kind:?} of {api_version:?}, not an {KIND} of {API_VERSION}")]
    Kind { kind: String, api_version: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("operation {0:?} is not one of CREATE, UPDATE, DELETE")]
    Operation(String),
    #[error("{side} is not a {kind}: {source}")]
    Object { side: &'static str, kind: &'static str, source: serde_json::Error },
    #[error("oldObject is Node {old:?}, object is Node {new:?}")]
    Names { old: String, new: String },
    #[error("the Node has no name")]
    NoName,
    #[error("userInfo has more than {LONGEST_USER} bytes")]
    LongUser,
}

/// Parses a review.
///
/// # Errors
/// If the body is not a JSON object with a string at `request.uid`. Any other error becomes
/// [`Content::Malformed`].
pub fn read(body: &[u8]) -> Result<Review, NoEnvelope> {
    if let Ok(Object(envelope)) = serde_json::from_slice::<Object<Envelope<'_, Object<Node>>>>(body)
        && !envelope.is_of_a_door()
    {
        return Ok(envelope.review(|_, _| Ok(None)));
    }
    match serde_json::from_slice::<Object<Envelope<'_, &RawValue>>>(body) {
        Ok(Object(envelope)) => Ok(envelope.review(doors::door)),
        Err(error) => {
            let Object(UidAlone { request: Object(Uid { uid }) }) = serde_json::from_slice(body)?;
            Ok(Review::malformed(uid, Malformed::Request(error).to_string()))
        }
    }
}

/// Reads a request that may be about something on a Node.
type ReadDoor<'a, O> = fn(&RawRequest<'a, O>, &User) -> Result<Option<Door>, Malformed>;

impl<'a, O: NodeObject> Envelope<'a, O> {
    fn is_of_a_door(&self) -> bool {
        let Object(request) = &self.request;
        request.resource.as_ref().is_some_and(|Object(resource)| doors::is_guarded(resource))
    }

    fn review(self, door: ReadDoor<'a, O>) -> Review {
        let Envelope { api_version, kind, request: Object(mut request) } = self;
        if api_version != API_VERSION || kind != KIND {
            return Review::malformed(request.uid, Malformed::Kind { kind, api_version }.to_string());
        }
        let user = match request.user() {
            Ok(user) => user,
            Err(error) => return Review::malformed(request.uid, error.to_string()),
        };
        let content = request.node_write(&user).and_then(|write| match write {
            Some(write) => Ok(Content::Node(Box::new(write))),
            None => Ok(door(&request, &user)?.map_or(Content::Unrelated, |door| Content::Door(Box::new(door)))),
        });
        let content = match content {
            Ok(content) => content,
            Err(error) => Content::Malformed { node: request.name, why: error.to_string() },
        };
        Review {
            uid: request.uid,
            dry_run: request.dry_run,
            operation: request.operation,
            subresource: request.sub_resource,
            user,
            content,
        }
    }
}

impl<O: NodeObject> RawRequest<'_, O> {
    fn user(&self) -> Result<User, Malformed> {
        let Some(user) = self.user_info else { return Ok(User::default()) };
        if user.get().len() > LONGEST_USER {
            return Err(Malformed::LongUser);
        }
        serde_json::from_str(user.get()).map(|Object(user)| user).map_err(Malformed::Request)
    }

    /// The write to a Node. `None` if the request is not a write to a Node.
    fn node_write(&mut self, user: &User) -> Result<Option<Request>, Malformed> {
        if self.operation == "CONNECT" || self.resource.as_ref().is_some_and(|Object(resource)| !resource.is_nodes()) {
            return Ok(None);
        }
        let node = |side, object: &mut Option<O>| {
            object.take().map(O::node).transpose().map_err(|source| Malformed::Object { side, kind: "Node", source })
        };
        let old = node("oldObject", &mut self.old_object)?;
        let new = node("object", &mut self.object)?;
        let mut write = match (self.operation.as_str(), old, new) {
            ("CREATE", _, Some(new)) => Write::Create { new },
            ("UPDATE", Some(old), Some(new)) => Write::Update { new: self.as_stored(&old, new), old },
            ("DELETE", Some(old), _) => Write::Delete { old },
            ("CREATE" | "UPDATE", _, None) => return Err(Malformed::Missing("object")),
            ("UPDATE" | "DELETE", None, _) => return Err(Malformed::Missing("oldObject")),
            (operation, ..) => return Err(Malformed::Operation(operation.to_owned())),
        };
        write.forget_meaningless();
        let node = self.node(&write)?;
        Ok(Some(Request { node, user: user.clone(), write }))
    }

    /// The new object as the API server will store it: a write to `nodes/status` cannot change
    /// `spec`.
    fn as_stored(&self, old: &Node, mut new: Node) -> Node {
        if self.sub_resource == "status" {
            new.spec = old.spec.clone();
        }
        new
    }

    /// The node's name, from the objects: `request.name` is empty if a request deletes a
    /// collection.
    fn node(&self, write: &Write) -> Result<String, Malformed> {
        fn named(node: Option<&Node>) -> Option<&str> {
            node.map(|node| node.metadata.name.as_str()).filter(|name| !name.is_empty())
        }
        match (named(write.before()), named(write.after())) {
            (Some(old), Some(new)) if old != new => Err(Malformed::Names { old: old.to_owned(), new: new.to_owned() }),
            (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
            (None, None) if !self.name.is_empty() => Ok(self.name.clone()),
            (None, None) => Err(Malformed::NoName),
        }
    }
}

impl Resource {
    fn is_nodes(&self) -> bool {
        self.group.is_empty() && (self.resource == "nodes" || self.resource.is_empty())
    }
}

/// The answer to a review: an AdmissionReview with a `response`.
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
    /// A JSON patch in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    audit_annotations: AuditAnnotations,
}

/// The part of `metav1.Status` that the API server passes to the client. The code is 403
/// (`Forbidden`), because clients retry 409 and 429.
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
    /// The answer to a review. Only the mutating webhook answers with a patch: from a validating
    /// webhook, the API server treats a patch as an error.
    pub fn new(webhook: Webhook, review: &'a Review, decision: &'a Decision) -> Self {
        let patch = match (webhook, review.request().and_then(|request| request.write.after())) {
            (Webhook::Mutate, Some(node)) => patch(node, &decision.stamps),
            (Webhook::Mutate, None) | (Webhook::Validate, _) => None,
        };
        let status = (!decision.allowed).then(|| Status {
            status: "Failure",
            code: 403,
            reason: "Forbidden",
            message: message::denial(decision, &review.content),
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

    /// The message for the user, if the write is denied.
    pub fn message(&self) -> Option<&str> {
        self.response.status.as_ref().map(|status| status.message.as_str())
    }
}

#[cfg(test)]
mod tests;
