//! An AdmissionReview, as far as it could be understood. Read and answered by `admission::review`.

use super::request::{Request, User};

/// The webhook that is called, as the audit log and the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Webhook {
    /// Decides, and completes what it allows.
    Mutate,
    /// Decides.
    Validate,
}

impl Webhook {
    pub const ALL: [Self; 2] = [Self::Mutate, Self::Validate];

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
    pub asks: Asks,
}

/// What the review is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Asks {
    /// Something that is not a write to a Node.
    Nothing,
    About(Box<Request>),
    /// The `uid` could be read, the rest not.
    Garbled {
        /// Empty where not even that could be read.
        node: String,
        why: String,
    },
}

impl Review {
    /// A review of which only the `uid` could be read.
    pub fn garbled(uid: String, why: String) -> Self {
        Self {
            uid,
            dry_run: false,
            operation: String::new(),
            subresource: String::new(),
            user: User::default(),
            asks: Asks::Garbled { node: String::new(), why },
        }
    }

    /// The request, where there is one that could be understood.
    pub fn request(&self) -> Option<&Request> {
        match &self.asks {
            Asks::About(request) => Some(request),
            Asks::Nothing | Asks::Garbled { .. } => None,
        }
    }
}
