//! When a connection was last used, and the limit on the time a client takes to send a header.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// The requests of one connection: how many began, how many are in flight, when the last one ended.
#[derive(Debug)]
pub struct Activity {
    begun: AtomicUsize,
    in_flight: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { begun: AtomicUsize::new(0), in_flight: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(self))
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the connection ever had a request, and when the last one ended (or the connection
    /// began); `None` while one is in flight. Sorts the idlest connection first.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        (!self.is_busy()).then(|| (self.begun() > 0, self.last()))
    }

    /// Returns once no request has been in flight for `idle`. Cancel-safe.
    pub async fn idle_for(&self, idle: Duration) {
        loop {
            let until = if self.is_busy() { Instant::now() + idle } else { self.last() + idle };
            if !self.is_busy() && until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
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
        if this.begun != this.activity.begun() {
            this.begun = this.activity.begun();
            this.running = None;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let came = read.is_ready() && buffer.filled().len() > before;
        if came && !this.activity.is_busy() && this.running.is_none() {
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
