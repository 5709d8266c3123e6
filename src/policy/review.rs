//! An AdmissionReview as the gate judges it. `admission::review` parses and answers it.

use super::{
    door::Door,
    request::{OnNode, Request, User},
};

/// The gate's two admission webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Webhook {
    /// The mutating webhook: it judges, and adds stamps to a write that it allows.
    Mutate,
    /// The validating webhook: it judges the object that will be stored.
    Validate,
}

impl Webhook {
    /// Both webhooks.
    pub const ALL: [Self; 2] = [Self::Mutate, Self::Validate];

    /// The name in the audit log, in metrics and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// An AdmissionReview with a readable `uid`.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    pub uid: String,
    pub dry_run: bool,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: String,
    /// For example `status`. Empty for the object itself.
    pub subresource: String,
    pub user: User,
    pub content: Content,
}

/// The content of a review.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A request that the gate does not judge.
    Unrelated,
    /// A request about something on a Node, before that Node is known.
    Door(Box<Door>),
    /// A write to a Node, or to something on it.
    Node(Box<Request>),
    /// A request that could not be parsed, although it has a `uid`.
    Malformed {
        /// The node's name, from `request.name`. Empty if that could not be parsed either.
        node: String,
        /// The error, one line for people.
        why: String,
    },
}

impl Content {
    /// What is written, if it is not the Node itself.
    pub fn on_node(&self) -> Option<OnNode> {
        match self {
            Self::Node(request) => request.write.on_node(),
            Self::Door(door) => Some(door.on_node()),
            Self::Unrelated | Self::Malformed { .. } => None,
        }
    }
}

impl Review {
    /// A review with nothing but a `uid` that could be parsed.
    pub fn malformed(uid: String, why: String) -> Self {
        Self {
            uid,
            dry_run: false,
            operation: String::new(),
            subresource: String::new(),
            user: User::default(),
            content: Content::Malformed { node: String::new(), why },
        }
    }

    /// The content as this webhook judges it. Mutating webhooks run before the API server checks
    /// versions, so that the mutating side leaves a stale write to the API server: its writer
    /// reads a conflict, and tries again with the current Node. The validating side only sees
    /// what passed that check, and it alone judges what is about something on a Node.
    pub fn content_for(&self, webhook: Webhook) -> &Content {
        match (webhook, &self.content) {
            (Webhook::Mutate, Content::Node(request))
                if request.write.is_stale() || !request.write.is_to_the_node() =>
            {
                &Content::Unrelated
            }
            (Webhook::Mutate, Content::Door(_)) => &Content::Unrelated,
            (Webhook::Mutate | Webhook::Validate, content) => content,
        }
    }

    /// The write to a Node, if the review has one that could be parsed.
    pub fn request(&self) -> Option<&Request> {
        match &self.content {
            Content::Node(request) => Some(request),
            Content::Unrelated | Content::Door(_) | Content::Malformed { .. } => None,
        }
    }
}
