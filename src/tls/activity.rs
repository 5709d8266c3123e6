//! What a connection does: whether it waits for its client, or its client waits for it. And the
//! limit on the time a client takes to send a header.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// An API server needs milliseconds to send a request. A client that takes longer may be told to
/// come back.
const PROMPT: Duration = Duration::from_millis(100);

/// The requests of one connection.
#[derive(Debug)]
pub struct Activity(Mutex<Requests>);

#[derive(Debug)]
struct Requests {
    begun: usize,
    in_flight: usize,
    /// Those in flight that the client has sent completely.
    received: usize,
    /// Since when some are in flight, or none.
    since: Instant,
}

/// How far a connection is from being of use to anyone, the farthest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idleness {
    /// Its client has not sent a whole request, and has had the time to.
    Slow,
    /// Its client has had answers, and may send another request.
    Kept,
    /// Its client is sending a request.
    Prompt,
}

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Requests { begun: 0, in_flight: 0, received: 0, since: Instant::now() })))
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut requests = self.requests();
        if requests.in_flight == 0 {
            requests.since = Instant::now();
        }
        requests.begun += 1;
        requests.in_flight += 1;
        InFlight { activity: Arc::clone(self), is_received: AtomicBool::new(false) }
    }

    /// No code that holds the lock can panic.
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How idle the connection is, and since when: the idlest sorts first. `None` while a client
    /// waits for an answer.
    pub fn idleness(&self) -> Option<(Idleness, Instant)> {
        let requests = self.requests();
        let idleness = match *requests {
            Requests { received: 1.., .. } => return None,
            Requests { begun: 0, .. } => Idleness::Slow,
            Requests { in_flight: 0, .. } => Idleness::Kept,
            Requests { since, .. } if since.elapsed() < PROMPT => Idleness::Prompt,
            Requests { .. } => Idleness::Slow,
        };
        Some((idleness, requests.since))
    }

    /// Returns once no request has been in flight for `idle`. Cancel-safe.
    pub async fn idle_for(&self, idle: Duration) {
        loop {
            let Requests { in_flight, since, .. } = *self.requests();
            let until = if in_flight > 0 { Instant::now() + idle } else { since + idle };
            if in_flight == 0 && until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    activity: Arc<Activity>,
    is_received: AtomicBool,
}

impl InFlight {
    /// The client has sent the whole request.
    pub fn received(&self) {
        if !self.is_received.swap(true, Ordering::AcqRel) {
            self.activity.requests().received += 1;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut requests = self.activity.requests();
        requests.received -= usize::from(*self.is_received.get_mut());
        requests.in_flight -= 1;
        if requests.in_flight == 0 {
            requests.since = Instant::now();
        }
    }
}

/// The body of a request, which tells when all of it has come.
pub struct Incomplete {
    pub body: Incoming,
    pub request: Arc<InFlight>,
}

impl Body for Incomplete {
    type Data = <Incoming as Body>::Data;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.request.received();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose reads fail once a request's header has begun but has not ended in time.
///
/// hyper's own header timeout also runs while a kept-alive connection waits for its next request.
/// The API server keeps connections for 90 s and does not retry a POST that meets a closing one, so
/// here the time starts with the header's first byte.
pub struct HeaderTimeout<S> {
    stream: S,
    activity: Arc<Activity>,
    limit: Duration,
    running: Option<Pin<Box<Sleep>>>,
    /// How many requests had begun when the time started; one more means the header is complete.
    begun: usize,
}

impl<S> HeaderTimeout<S> {
    pub fn new(stream: S, activity: Arc<Activity>, limit: Duration) -> Self {
        Self { stream, activity, limit, running: None, begun: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Requests { begun, in_flight, .. } = *this.activity.requests();
        if this.begun != begun {
            this.begun = begun;
            this.running = None;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let came = read.is_ready() && buffer.filled().len() > before;
        if came && in_flight == 0 && this.running.is_none() {
            this.running = Some(Box::pin(sleep(this.limit)));
        }
        let is_late = this.running.as_mut().is_some_and(|running| running.as_mut().poll(context).is_ready());
        if is_late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { read }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
