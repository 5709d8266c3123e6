//! When something last happened on a connection, and how long a client may take over a request's header.

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

/// What a connection is doing, seen from its requests.
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

    /// A request begins; it ends when the guard is dropped.
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

    /// Whether there ever was a request, and when the last one ended; `None` while one is in flight.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        (!self.is_busy()).then(|| (self.begun() > 0, self.last()))
    }

    /// Returns when no request was in flight for `idle`. Cancel-safe.
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

/// A stream that fails its reader when a request's header was begun and not finished in time.
///
/// hyper's own header timeout also runs while a kept-alive connection waits for its next request; the API server keeps
/// connections for 90 s and does not repeat a POST that meets a closing one. So the time starts with the header's first byte.
pub struct HeaderTimeout<S> {
    stream: S,
    activity: Arc<Activity>,
    limit: Duration,
    running: Option<Pin<Box<Sleep>>>,
    /// How many requests had begun when the time started to run: one more, and the header was complete.
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
