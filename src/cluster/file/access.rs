//! SubjectAccessReviews in a file: the answers of RBAC that were recorded.

use serde::Deserialize;

use super::{VIRTUAL_GROUP, VIRTUAL_RESOURCE};
use crate::policy::{facts::Access, json::null_is_default, request::User};

#[derive(Clone, Debug, Deserialize)]
pub(super) struct AccessReview {
    spec: AccessReviewSpec,
    #[serde(default, deserialize_with = "null_is_default")]
    status: AccessReviewStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessReviewSpec {
    #[serde(default, deserialize_with = "null_is_default")]
    user: String,
    #[serde(default, deserialize_with = "null_is_default")]
    groups: Vec<String>,
    resource_attributes: ResourceAttributes,
}

#[derive(Clone, Debug, Deserialize)]
struct ResourceAttributes {
    #[serde(default, deserialize_with = "null_is_default")]
    group: String,
    #[serde(default, deserialize_with = "null_is_default")]
    resource: String,
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    verb: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct AccessReviewStatus {
    #[serde(default, deserialize_with = "null_is_default")]
    allowed: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    denied: bool,
}

/// The answer of these reviews: allowed if one of them allows and none denies. What was not
/// recorded is a no.
pub(super) fn answer(reviews: &[AccessReview], user: &User, verb: &str, node: &str) -> Access {
    let about = reviews.iter().filter(|review| review.is_about(user, verb, node));
    let (allowed, denied) = about.fold((false, false), |(allowed, denied), review| {
        (allowed || review.status.allowed, denied || review.status.denied)
    });
    Access { allowed: allowed && !denied }
}

impl AccessReview {
    /// Whether this review is about that requester, verb and node. A field that the review leaves
    /// out matches everything.
    fn is_about(&self, user: &User, verb: &str, node: &str) -> bool {
        let ResourceAttributes { group, resource, name, verb: recorded_verb } = &self.spec.resource_attributes;
        let matches = |recorded: &str, asked: &str| recorded == "*" || recorded == asked;
        matches(recorded_verb, verb)
            && matches(group, VIRTUAL_GROUP)
            && matches(resource, VIRTUAL_RESOURCE)
            && (name.is_empty() || matches(name, node))
            && (self.spec.user.is_empty() || self.spec.user == user.name)
            && !(self.spec.user.is_empty() && self.spec.groups.is_empty())
            && self.spec.groups.iter().all(|group| user.groups.contains(group))
    }
}
