//! The accept loop: our own, because one slow client must not hold up the others.
//!
//! Each connection has a task of its own from its first byte. Nothing that a client does or leaves undone is waited for
//! without a limit, and there are only so many connections.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    Serving,
    activity::{Activity, HeaderTimeout},
    seats::{Seat, Seats},
};

/// What a client may take, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; over it the one that has done nothing for longest makes room for the next.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From a header's first byte to its last.
    pub header: Duration,
    /// Without a request. More than the 90 s after which the API server drops an idle connection by itself, so that it is
    /// never we who close one that it is about to use.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_mins(2),
        }
    }
}

/// The two steps of going away.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Serve on, but let every answer close its connection.
    pub draining: CancellationToken,
    /// Accept nothing more, and finish what is in flight.
    pub stopping: CancellationToken,
}

/// A request's header and buffers; reviews themselves are bounded by the handler.
const READ_BUFFER: usize = 64 * 1024;
/// Streams at once on one HTTP/2 connection.
const STREAMS: u32 = 64;
/// How often a silent HTTP/2 peer is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// What is waited after accepting failed, doubled each time it fails again: a full table of file descriptors does not mend at once.
const BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Accepts connections until told to stop, then waits for those that are open.
///
/// New connections are served with what `serving` holds when they come.
pub async fn serve(
    listener: TcpListener,
    serving: Arc<ArcSwap<Serving>>,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    let tasks = TaskTracker::new();
    let seats = Arc::new(Seats::new(limits.connections));
    let mut back_off = BACK_OFF;
    loop {
        // Both arms are cancel-safe: an accept that did not finish took no connection.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                back_off = BACK_OFF;
                let Some(seat) = seats.take() else {
                    tracing::warn!(
                        limit = limits.connections,
                        "too many connections, all of them busy: one was closed unread"
                    );
                    continue;
                };
                let config = Arc::clone(&serving.load().config);
                tasks.spawn(connection(
                    stream,
                    TlsAcceptor::from(config),
                    router.clone(),
                    limits,
                    shutdown.clone(),
                    seat,
                ));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, wait = ?back_off, "accepting failed");
                sleep(back_off).await;
                back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Errors of a connection that ended before it was accepted; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// One connection, from handshake to end.
async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
    seat: Seat,
) {
    // Answers are one small write each: waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let handshake = timeout(limits.handshake, acceptor.accept(stream));
    let stream = tokio::select! {
        // Dropping a handshake half-way drops its connection, which is what is wanted.
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake timed out"),
        },
        () = shutdown.stopping.cancelled() => return,
        () = seat.is_needed() => return,
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let result = if is_http2 {
        http2(stream, router, &seat, limits, &shutdown).await
    } else {
        http1(stream, router, &seat, limits, &shutdown).await
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn http1(
    stream: TlsStream<TcpStream>,
    router: Router,
    seat: &Seat,
    limits: Limits,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let stream = HeaderTimeout::new(stream, Arc::clone(&seat.activity), limits.header);
    let connection = conn::http1::Builder::new()
        // Ours starts with the header's first byte: see `HeaderTimeout`.
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                answer(request, router.clone(), Arc::clone(&seat.activity), shutdown.draining.clone())
            }),
        );
    until_told(connection, seat, limits.idle, shutdown).await
}

async fn http2(
    stream: TlsStream<TcpStream>,
    router: Router,
    seat: &Seat,
    limits: Limits,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let connection = conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                answer(request, router.clone(), Arc::clone(&seat.activity), shutdown.draining.clone())
            }),
        );
    until_told(connection, seat, limits.idle, shutdown).await
}

/// Serves a connection to its end: the client's, an idle one, one whose place is needed, or ours.
async fn until_told(
    connection: impl GracefulConnection<Error = hyper::Error>,
    seat: &Seat,
    idle: Duration,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    // A connection may be polled again after either of the others won.
    tokio::select! {
        result = connection.as_mut() => return result,
        () = seat.activity.idle_for(idle) => {}
        () = seat.is_needed() => {}
        () = shutdown.stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    activity: Arc<Activity>,
    draining: CancellationToken,
) -> Result<Response<Body>, Infallible> {
    let _in_flight = activity.begin();
    let version = request.version();
    let mut response = router.oneshot(request.map(Body::new)).await?;
    if version == Version::HTTP_2 {
        // HTTP/2 has no such header; its connections are told to go by GOAWAY.
        response.headers_mut().remove(CONNECTION);
    } else if draining.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
