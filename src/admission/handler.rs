//! The HTTP endpoints. The size of bodies and the number of concurrent requests are limited, and
//! each request has the deadline that its caller sets.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    review::{self, Answer},
    trace::TraceId,
};
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
/// For a call without the parameter `timeout`. The API server always sends one; both are less than
/// the 5 s of the webhook configurations.
const DEFAULT: Allowance = Allowance { facts: Duration::from_secs(4), record: Duration::from_millis(4250) };
/// The longest timeout that Kubernetes allows for a webhook.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of the caller's timeout that no read may use, but never more than a quarter of it: half
/// of it is for the audit log, half for the answer.
const MARGIN: Duration = Duration::from_millis(500);

/// A call of a webhook, except the review.
#[derive(Clone, Debug)]
pub struct Call {
    pub webhook: Webhook,
    /// All reads of facts end by then.
    pub facts_by: Instant,
    /// The decision is on record by then, or the write is denied.
    pub record_by: Instant,
    /// The trace that the call belongs to, if the caller sent one.
    pub trace_id: Option<TraceId>,
}

impl Call {
    /// A call at `now` that has `allowance` until its answer.
    pub fn new(webhook: Webhook, now: Instant, allowance: Allowance) -> Self {
        let Allowance { facts, record } = allowance;
        Self { webhook, facts_by: now + facts, record_by: now + record, trace_id: None }
    }
}

/// How long the steps of a call may take, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Until all facts are read.
    pub facts: Duration,
    /// Until the decision is on record.
    pub record: Duration,
}

impl Allowance {
    /// For a caller that waits this long for its answer.
    pub fn within(timeout: Duration) -> Self {
        let margin = MARGIN.min(timeout / 4);
        Self { facts: timeout.saturating_sub(margin), record: timeout.saturating_sub(margin / 2) }
    }

    /// For the parameter `timeout`, which the API server sets to its own timeout for the call.
    fn of(query: Option<&str>) -> Self {
        let mut pairs = query.into_iter().flat_map(|query| query.split('&'));
        let parameter = pairs.find_map(|pair| pair.strip_prefix("timeout="));
        // A length of time in Go's notation, which jiff parses, too.
        let given = parameter.and_then(|text| text.parse::<jiff::SignedDuration>().ok());
        let given = given.and_then(|given| Duration::try_from(given).ok()).filter(|given| !given.is_zero());
        given.map_or(DEFAULT, |given| Self::within(given.min(LONGEST_TIMEOUT)))
    }
}

/// Decides about reviews. [`Gate`](crate::gate::Gate) implements it.
pub trait Judge: Clone + Send + Sync + 'static {
    /// Decides about a review, and writes the decision to the audit log.
    fn judge(&self, call: &Call, review: &Review) -> impl Future<Output = Decision> + Send;

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
        .route("/mutate", post(|state, query, head, body| answer::<J>(Webhook::Mutate, state, query, head, body)))
        .route("/validate", post(|state, query, head, body| answer::<J>(Webhook::Validate, state, query, head, body)))
        .with_state(endpoint)
}

async fn answer<J: Judge>(
    webhook: Webhook,
    State(endpoint): State<Endpoint<J>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(_permit) = endpoint.capacity.try_acquire() else {
        endpoint.judge.overloaded();
        return http_error(StatusCode::SERVICE_UNAVAILABLE, "too many reviews in flight");
    };
    let now = Instant::now();
    let trace_id = TraceId::of(&headers);
    let call = Call { trace_id, ..Call::new(webhook, now, Allowance::of(query.as_deref())) };
    let review = match timeout_at(call.facts_by.min(now + BODY_TIMEOUT), read(body, &endpoint.large)).await {
        Ok(Ok(review)) => review,
        Ok(Err((status, why))) => {
            if status == StatusCode::SERVICE_UNAVAILABLE {
                endpoint.judge.overloaded();
            }
            return http_error(status, &why);
        }
        Err(_) => return http_error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    let decision = endpoint.judge.judge(&call, &review).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_its_callers_timeout_minus_a_margin() {
        for (query, facts, record) in [
            (None, 4000, 4250),
            (Some("timeout=5s"), 4500, 4750),
            (Some("a=b&timeout=10s"), 9500, 9750),
            (Some("timeout=1s"), 750, 875),
            (Some("timeout=1m0s"), 29_500, 29_750),
            (Some("timeout=500ms"), 375, 437),
            (Some("timeout=0s"), 4000, 4250),
            (Some("timeout=-5s"), 4000, 4250),
            (Some("timeout=soon"), 4000, 4250),
            (Some("timeout="), 4000, 4250),
        ] {
            let Allowance { facts: until_facts, record: until_record } = Allowance::of(query);
            assert_eq!((until_facts.as_millis(), until_record.as_millis()), (facts, record), "{query:?}");
        }
    }
}
