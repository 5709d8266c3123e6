//! The HTTP endpoint. The memory of all requests and the number of those that are judged at once
//! are limited, and each request has the deadline that its caller sets.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{Method, StatusCode, header, request},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    memory::{BODY_LIMIT, Buffer, Memory, REVIEWS, Taken},
    paths,
    review::{self, Answer},
    trace::TraceId,
};
use crate::policy::{
    Decision,
    review::{Review, Webhook},
};

/// The length of a body that is read beside the other requests, in a thread of its own. A review of
/// a Node in a large cluster has a fifth of it.
const LONG_BODY: usize = 128 * 1024;
/// How many long bodies are read at once.
const LONG_BODIES: usize = 2;
/// How long a client may take to send the body, even if its call has a longer timeout. An API
/// server needs milliseconds, and a slow client takes memory meanwhile.
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
    /// Decides about a review, and writes the decision to the audit log. A review of something on a
    /// Node gets that Node.
    fn judge(&self, call: &Call, review: &mut Review) -> impl Future<Output = Decision> + Send;

    /// Counts a request that got HTTP 503 because others took all places or all memory.
    fn overloaded(&self);
}

#[derive(Clone)]
struct Endpoint<J> {
    judge: J,
    paths: paths::Source,
    memory: Arc<Memory>,
    /// One permit for each request that is judged.
    capacity: Arc<Semaphore>,
    /// One permit for each long body that is read.
    long: Arc<Semaphore>,
}

/// Answers the calls by these paths. While `in_flight` requests are judged, or reviews take all the
/// memory that they may take, further requests get HTTP 503.
pub fn router<J: Judge>(judge: J, paths: paths::Source, in_flight: usize) -> Router {
    let endpoint = Endpoint {
        judge,
        paths,
        memory: Arc::new(Memory::of(REVIEWS)),
        capacity: Arc::new(Semaphore::new(in_flight)),
        long: Arc::new(Semaphore::new(LONG_BODIES)),
    };
    let answer = async |State(endpoint): State<Endpoint<J>>, request: Request| {
        let (head, body) = request.into_parts();
        endpoint.answer(&head, body).await.unwrap_or_else(|refusal| endpoint.refuse(refusal))
    };
    Router::new().fallback(answer).with_state(endpoint)
}

/// Why a request gets no answer to its review.
enum Refusal {
    /// No webhook is called by this path.
    Stranger,
    NotPosted,
    /// Others take all that there is of this.
    Full(&'static str),
    TooLong,
    Late,
    Incomplete(axum::Error),
    NotAReview(String),
}

impl<J: Judge> Endpoint<J> {
    async fn answer(&self, head: &request::Parts, body: Body) -> Result<Response, Refusal> {
        let now = Instant::now();
        // The accept loop tells the address.
        let address = head.extensions.get().map(|ConnectInfo(address): &ConnectInfo<SocketAddr>| address.ip());
        let address = address.map(|address| address.to_canonical());
        let webhook = self.paths.webhook(head.uri.path(), address).await.ok_or(Refusal::Stranger)?;
        if head.method != Method::POST {
            return Err(Refusal::NotPosted);
        }
        let mut taken = self.memory.take(address).ok_or(Refusal::Full("memory"))?;
        let trace_id = TraceId::of(&head.headers);
        let call = Call { trace_id, ..Call::new(webhook, now, Allowance::of(head.uri.query())) };
        let review = timeout_at(call.facts_by.min(Instant::now() + BODY_TIMEOUT), self.read(body, &mut taken));
        let mut review = review.await.map_err(|_| Refusal::Late)??;
        let _permit = self.capacity.try_acquire().map_err(|_| Refusal::Full("places"))?;
        let decision = self.judge.judge(&call, &mut review).await;
        Ok(Json(Answer::new(webhook, &review, &decision)).into_response())
    }

    /// Reads a body, and parses the review in it.
    async fn read(&self, mut body: Body, taken: &mut Taken) -> Result<Review, Refusal> {
        let mut buffer = Buffer::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Refusal::Incomplete)?.into_data() else { continue };
            if buffer.len() + data.len() > BODY_LIMIT {
                return Err(Refusal::TooLong);
            }
            if !buffer.extend(&data, taken) {
                return Err(Refusal::Full("memory"));
            }
        }
        let is_long = buffer.len() > LONG_BODY;
        let parse = move || review::read(&buffer.into_bytes()).map_err(|error| Refusal::NotAReview(error.to_string()));
        if !is_long {
            return parse();
        }
        let permit = Arc::clone(&self.long).acquire_owned().await;
        // The thread goes on if its caller gives up, and so holds the permit itself.
        let parse = move || {
            let _permit = permit;
            parse()
        };
        spawn_blocking(parse).await.unwrap_or(Err(Refusal::NotAReview("it could not be read".to_owned())))
    }

    /// An HTTP error, which is not a decision. It closes the connection, because the body was not
    /// read to its end.
    fn refuse(&self, refusal: Refusal) -> Response {
        let (status, why) = match refusal {
            Refusal::Stranger => {
                let why = "no webhook is called by this path: the webhook configurations have the paths that are";
                (StatusCode::NOT_FOUND, why.to_owned())
            }
            Refusal::NotPosted => (StatusCode::METHOD_NOT_ALLOWED, "a review is POSTed".to_owned()),
            Refusal::Full(what) => {
                self.judge.overloaded();
                (StatusCode::SERVICE_UNAVAILABLE, format!("too many reviews: no {what} left"))
            }
            Refusal::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 7 MiB".to_owned()),
            Refusal::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
            Refusal::Incomplete(error) => (StatusCode::BAD_REQUEST, format!("the body is incomplete: {error}")),
            Refusal::NotAReview(why) => (StatusCode::BAD_REQUEST, why),
        };
        (status, [(header::CONNECTION, "close")], format!("{why}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    /// Decides nothing.
    #[derive(Clone)]
    struct Nobody;

    impl Judge for Nobody {
        fn judge(&self, _: &Call, _: &mut Review) -> impl Future<Output = Decision> + Send {
            pending()
        }

        fn overloaded(&self) {}
    }

    #[tokio::test]
    async fn a_body_of_more_than_128_kib_waits_until_others_are_read() {
        let endpoint = Endpoint {
            judge: Nobody,
            paths: paths::Source::plain(),
            memory: Arc::new(Memory::of(REVIEWS)),
            capacity: Arc::new(Semaphore::new(1)),
            long: Arc::new(Semaphore::new(0)),
        };
        // What is not a review is told at once, if nothing waits.
        let read = |length: usize| {
            let mut taken = endpoint.memory.take(None).unwrap();
            endpoint.read(Body::from(vec![b' '; length]), &mut taken).now_or_never()
        };
        assert!(matches!(read(131_072), Some(Err(Refusal::NotAReview(_)))));
        assert!(read(131_073).is_none());
    }

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
