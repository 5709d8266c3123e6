//! The HTTP endpoints. The size of bodies and the number of concurrent requests are limited, and
//! each request has the deadline that its caller sets.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::review::{self, Answer};
use crate::policy::{
    Decision,
    review::{Review, Webhook},
};

/// The most bytes of a body: two objects of 3 MiB, which is twice etcd's limit of 1.5 MiB for a
/// request, and 1 MiB for the rest of the review.
pub const BODY_LIMIT: usize = 7 * 1024 * 1024;
/// The bytes of a body that every request may hold. A review of a Node in a large cluster needs a
/// tenth of it.
const SMALL_BODY: usize = 256 * 1024;
/// The number of larger bodies at once. Together, they take at most 112 MiB, about a fifth of the
/// memory limit in the manifests.
const LARGE_BODIES: usize = 16;
/// How long a client may take to send the body, even if its call has a longer timeout. An API
/// server needs milliseconds, and a slow client uses one of the permitted requests.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// For a call without the parameter `timeout`. The API server always sends one; 4 s is less than
/// the 5 s of the webhook configurations.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest timeout that Kubernetes allows for a webhook.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of the caller's timeout that is reserved for the answer, but never more than a quarter
/// of it.
const MARGIN: Duration = Duration::from_millis(500);

/// Decides about reviews. [`Gate`](crate::gate::Gate) implements it.
pub trait Judge: Clone + Send + Sync + 'static {
    /// Decides about a review, and writes the decision to the audit log. All reads end by
    /// `deadline`.
    fn judge(&self, webhook: Webhook, review: &Review, deadline: Instant) -> impl Future<Output = Decision> + Send;

    /// Counts a request that got HTTP 503 because too many were in flight.
    fn overloaded(&self);
}

#[derive(Clone)]
struct Endpoint<J> {
    judge: J,
    /// One permit for each request in flight. It may hold [`SMALL_BODY`] bytes of a body.
    capacity: Arc<Semaphore>,
    /// One permit for each request that holds a larger body, of up to [`BODY_LIMIT`] bytes.
    large: Arc<Semaphore>,
}

/// The endpoints `/mutate` and `/validate`. While `in_flight` requests are in flight, further
/// requests get HTTP 503.
pub fn router<J: Judge>(judge: J, in_flight: usize) -> Router {
    let endpoint = Endpoint {
        judge,
        capacity: Arc::new(Semaphore::new(in_flight)),
        large: Arc::new(Semaphore::new(LARGE_BODIES)),
    };
    Router::new()
        .route("/mutate", post(|state, query, body| answer::<J>(Webhook::Mutate, state, query, body)))
        .route("/validate", post(|state, query, body| answer::<J>(Webhook::Validate, state, query, body)))
        .with_state(endpoint)
}

async fn answer<J: Judge>(
    webhook: Webhook,
    State(endpoint): State<Endpoint<J>>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let Ok(_permit) = endpoint.capacity.try_acquire() else {
        endpoint.judge.overloaded();
        return http_error(StatusCode::SERVICE_UNAVAILABLE, "too many reviews in flight");
    };
    let now = Instant::now();
    let deadline = now + timeout_of(query.as_deref());
    let review = match timeout_at(deadline.min(now + BODY_TIMEOUT), read(body, &endpoint.large)).await {
        Ok(Ok(review)) => review,
        Ok(Err((status, why))) => {
            if status == StatusCode::SERVICE_UNAVAILABLE {
                endpoint.judge.overloaded();
            }
            return http_error(status, &why);
        }
        Err(_) => return http_error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    let decision = endpoint.judge.judge(webhook, &review, deadline).await;
    Json(Answer::new(webhook, &review, &decision)).into_response()
}

/// Reads a body and parses the review in it, or returns the HTTP status and the text of an error.
/// The body's memory and its permit are released as soon as the review is parsed.
async fn read(mut body: Body, large: &Semaphore) -> Result<Review, (StatusCode, String)> {
    let mut bytes = Vec::new();
    let mut permit = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is incomplete: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > BODY_LIMIT {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 7 MiB".to_owned()));
        }
        if bytes.len() + data.len() > SMALL_BODY && permit.is_none() {
            let too_many = |_| (StatusCode::SERVICE_UNAVAILABLE, "too many large reviews in flight".to_owned());
            permit = Some(large.try_acquire().map_err(too_many)?);
        }
        bytes.extend_from_slice(&data);
    }
    review::read(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// An HTTP error, which is not a decision. It closes the connection, because the body was not read
/// to its end.
fn http_error(status: StatusCode, why: &str) -> Response {
    (status, [(header::CONNECTION, "close")], format!("{why}\n")).into_response()
}

/// How long a call may take: the parameter `timeout`, which the API server sets to its own timeout
/// for the call, minus [`MARGIN`].
fn timeout_of(query: Option<&str>) -> Duration {
    let parameter = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("timeout="));
    // A length of time in Go's notation, which jiff parses, too.
    let given = parameter.and_then(|text| text.parse::<jiff::SignedDuration>().ok());
    match given.and_then(|given| Duration::try_from(given).ok()).filter(|given| !given.is_zero()) {
        Some(given) => {
            let given = given.min(LONGEST_TIMEOUT);
            given.saturating_sub(MARGIN.min(given / 4))
        }
        None => DEFAULT_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_its_callers_timeout_minus_a_margin() {
        for (query, milliseconds) in [
            (None, 4000),
            (Some("timeout=5s"), 4500),
            (Some("a=b&timeout=10s"), 9500),
            (Some("timeout=1s"), 750),
            (Some("timeout=1m0s"), 29_500),
            (Some("timeout=500ms"), 375),
            (Some("timeout=0s"), 4000),
            (Some("timeout=-5s"), 4000),
            (Some("timeout=soon"), 4000),
            (Some("timeout="), 4000),
        ] {
            assert_eq!(timeout_of(query), Duration::from_millis(milliseconds), "{query:?}");
        }
    }
}
