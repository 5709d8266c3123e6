//! An AdmissionReview, as far as it could be understood. `admission::review` reads and answers it.

use super::request::{Request, User};

/// The gate's two admission webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Webhook {
    /// Judges, and stamps what it allows.
    Mutate,
    /// Judges.
    Validate,
}

impl Webhook {
    pub const ALL: [Self; 2] = [Self::Mutate, Self::Validate];

    /// The name in the audit log, in metrics and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// An AdmissionReview whose `uid` is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    pub uid: String,
    pub dry_run: bool,
    pub operation: String,
    pub subresource: String,
    pub user: User,
    pub content: Content,
}

/// What a review is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Something other than a write to a Node.
    Unrelated,
    /// A write to a Node.
    Node(Box<Request>),
    /// Only the `uid` could be read.
    Malformed {
        /// The node's name; empty where it could not be read either.
        node: String,
        why: String,
    },
}

impl Review {
    /// A review of which only the `uid` could be read.
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

    /// The write to a Node, where the review has one that could be understood.
    pub fn request(&self) -> Option<&Request> {
        match &self.content {
            Content::Node(request) => Some(request),
            Content::Unrelated | Content::Malformed { .. } => None,
        }
    }
}
