//! The HTTP side: bounded bodies, bounded concurrency, a deadline that is the caller's own.

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

/// Two objects of 3 MiB, etcd's own limit doubled, and the rest of the review.
pub const BODY_LIMIT: usize = 7 * 1024 * 1024;
/// What any request may hold of a body. A review of a Node as large clusters have them is a tenth
/// of it.
const SMALL: usize = 256 * 1024;
/// Larger bodies at once. With [`SMALL`] and the requests in flight this bounds the memory that
/// bodies take.
const LARGE: usize = 16;
/// How long a body may take, however long the call: an API server's comes in milliseconds, and a
/// slow one holds a place.
const BODY_TIME: Duration = Duration::from_secs(2);
/// For a call that brings no timeout of its own.
const DEFAULT_TIME: Duration = Duration::from_secs(4);
/// The longest that Kubernetes lets a webhook take.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Kept back from the caller's timeout to answer in; never more than a quarter of it.
const MARGIN: Duration = Duration::from_millis(500);

/// Whoever decides about reviews.
pub trait Judge: Clone + Send + Sync + 'static {
    /// Decides about a review, and puts the decision on record. Reads end by `deadline`.
    fn judge(&self, webhook: Webhook, review: &Review, deadline: Instant) -> impl Future<Output = Decision> + Send;

    /// A review was not even read, for want of capacity.
    fn turned_away(&self);
}

#[derive(Clone)]
struct Endpoint<J> {
    judge: J,
    /// Requests in flight: each may hold a body of [`SMALL`].
    capacity: Arc<Semaphore>,
    /// Those that hold a larger one, of up to [`BODY_LIMIT`].
    large: Arc<Semaphore>,
}

/// The webhook's endpoints. Over `in_flight` requests at once, the next are turned away with 503.
pub fn router<J: Judge>(judge: J, in_flight: usize) -> Router {
    let endpoint =
        Endpoint { judge, capacity: Arc::new(Semaphore::new(in_flight)), large: Arc::new(Semaphore::new(LARGE)) };
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
        endpoint.judge.turned_away();
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many reviews in flight");
    };
    let now = Instant::now();
    let deadline = now + time_for(query.as_deref());
    let review = match timeout_at(deadline.min(now + BODY_TIME), read(body, &endpoint.large)).await {
        Ok(Ok(review)) => review,
        Ok(Err(refusal)) => {
            if refusal.0 == StatusCode::SERVICE_UNAVAILABLE {
                endpoint.judge.turned_away();
            }
            return refuse(refusal.0, &refusal.1);
        }
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    };
    let decision = endpoint.judge.judge(webhook, &review, deadline).await;
    Json(Answer::new(webhook, &review, &decision)).into_response()
}

/// Reads a body and the review in it; or says what is wrong with it. What a body takes is given
/// back as soon as it is read.
async fn read(mut body: Body, large: &Semaphore) -> Result<Review, (StatusCode, String)> {
    let mut bytes = Vec::new();
    let mut permit = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > BODY_LIMIT {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 7 MiB".to_owned()));
        }
        if bytes.len() + data.len() > SMALL && permit.is_none() {
            let too_many = |_| (StatusCode::SERVICE_UNAVAILABLE, "too many large reviews in flight".to_owned());
            permit = Some(large.try_acquire().map_err(too_many)?);
        }
        bytes.extend_from_slice(&data);
    }
    review::read(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// Says no to the caller rather than to the write, and closes a connection whose body was not read
/// to its end.
fn refuse(status: StatusCode, why: &str) -> Response {
    (status, [(header::CONNECTION, "close")], format!("{why}\n")).into_response()
}

/// How long a call may take: its `timeout` parameter, which the API server appends from its own
/// deadline, less a margin.
fn time_for(query: Option<&str>) -> Duration {
    let parameter = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("timeout="));
    // Go's own notation for a length of time, which jiff reads.
    let given = parameter.and_then(|text| text.parse::<jiff::SignedDuration>().ok());
    match given.and_then(|given| Duration::try_from(given).ok()).filter(|given| !given.is_zero()) {
        Some(given) => {
            let given = given.min(LONGEST_TIMEOUT);
            given.saturating_sub(MARGIN.min(given / 4))
        }
        None => DEFAULT_TIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_the_callers_less_a_margin() {
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
            assert_eq!(time_for(query), Duration::from_millis(milliseconds), "{query:?}");
        }
    }
}
