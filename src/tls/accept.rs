//! The accept loop. It is our own so that one slow client cannot delay the others.
//!
//! Each connection has its own task from its first byte. Every wait on a client has a limit, and so
//! has the number of connections.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{Router, body::Body, extract::ConnectInfo};
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    Serving,
    activity::{Activity, HeaderTimeout, Incomplete},
    slots::{Slot, Slots},
};

/// Limits on the time a client may take and on the number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; above it, a new connection evicts the idlest one.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time from the first byte of a request's header to the last.
    pub header: Duration,
    /// Time without a request. The API server closes an idle connection after 90 s; this is longer,
    /// so that fencegate never closes one that the API server is about to use.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_mins(2),
        }
    }
}

/// The two phases of a shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Keep serving, but close each connection after its next response.
    pub draining: CancellationToken,
    /// Accept no more connections, and finish the requests in flight.
    pub stopping: CancellationToken,
}

/// Bytes buffered for one connection: enough for a request's header. The handler limits bodies.
const READ_BUFFER: usize = 64 * 1024;
/// Concurrent streams on one HTTP/2 connection.
const STREAMS: u32 = 64;
/// Bytes that an HTTP/2 client may send before they are read: of one stream, and of a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// How long a connection may take to end: the longest timeout of a webhook.
const FAREWELL: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 peer is pinged.
const PING: Duration = Duration::from_secs(30);
/// Pause after `accept` failed, doubled after each further failure: if the process has run out of
/// file descriptors, trying again at once fails again.
const BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Accepts connections until `shutdown.stopping`, then waits for the open ones to end.
///
/// A new connection is served with the certificate that `serving` holds at that moment. `None`:
/// without TLS.
pub async fn serve(
    listener: TcpListener,
    serving: Option<Arc<ArcSwap<Serving>>>,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    let tasks = TaskTracker::new();
    let slots = Arc::new(Slots::new(limits.connections));
    let mut back_off = BACK_OFF;
    loop {
        // Both arms are cancel-safe: an accept that did not finish took no connection.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                back_off = BACK_OFF;
                let Some(slot) = slots.take(address.ip().to_canonical()) else {
                    tracing::warn!(
                        limit = limits.connections,
                        "connection limit reached and every connection is busy: closed a new connection"
                    );
                    continue;
                };
                let tls = serving.as_ref().map(|serving| TlsAcceptor::from(Arc::clone(&serving.load().config)));
                tasks.spawn(connection(
                    stream,
                    tls,
                    Client { router: router.clone(), address },
                    limits,
                    shutdown.clone(),
                    slot,
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

/// Whether the error concerns one connection that ended before it was accepted; the next may be
/// fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// What answers the requests of one client.
#[derive(Clone)]
struct Client {
    router: Router,
    address: SocketAddr,
}

/// One connection, from handshake to end.
async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    client: Client,
    limits: Limits,
    shutdown: Shutdown,
    slot: Slot,
) {
    // A response is one small write: waiting to fill a segment only delays it.
    let _ = stream.set_nodelay(true);
    let result = match tls {
        None => http1(stream, client, &slot, limits, &shutdown).await,
        Some(acceptor) => {
            let handshake = timeout(limits.handshake, acceptor.accept(stream));
            let stream = tokio::select! {
                // Cancel-safe: dropping an unfinished handshake closes its connection, as intended.
                finished = handshake => match finished {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => return tracing::debug!("TLS handshake timed out"),
                },
                () = shutdown.stopping.cancelled() => return,
                () = slot.evicted() => return,
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2(stream, client, &slot, limits, &shutdown).await
            } else {
                http1(stream, client, &slot, limits, &shutdown).await
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    slot: &Slot,
    limits: Limits,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let stream = HeaderTimeout::new(stream, Arc::clone(&slot.activity), limits.header);
    let connection = conn::http1::Builder::new()
        // `HeaderTimeout` replaces it: its time starts with the header's first byte.
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                answer(request, client.clone(), Arc::clone(&slot.activity), shutdown.draining.clone())
            }),
        );
    until_closed(connection, slot, limits.idle, shutdown).await
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    slot: &Slot,
    limits: Limits,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let connection = conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(16 * 1024)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                answer(request, client.clone(), Arc::clone(&slot.activity), shutdown.draining.clone())
            }),
        );
    until_closed(connection, slot, limits.idle, shutdown).await
}

/// Serves a connection until the client closes it, it was idle for too long, its slot was given to
/// another connection, or the server stops.
async fn until_closed(
    connection: impl GracefulConnection<Error = hyper::Error>,
    slot: &Slot,
    idle: Duration,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    // Cancel-safe: the connection is only borrowed, and polled again below.
    tokio::select! {
        result = connection.as_mut() => return result,
        () = slot.activity.idle_for(idle) => {}
        // No client waits for an answer on it, and its slot counts for another one already.
        () = slot.evicted() => return Ok(()),
        () = shutdown.stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    // An HTTP/2 client that does not answer would hold it for ever.
    timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    activity: Arc<Activity>,
    draining: CancellationToken,
) -> Result<Response<Body>, Infallible> {
    let in_flight = Arc::new(activity.begin());
    let version = request.version();
    let mut request = request.map(|body| Body::new(Incomplete { body, request: Arc::clone(&in_flight) }));
    request.extensions_mut().insert(ConnectInfo(client.address));
    let mut response = client.router.oneshot(request).await?;
    if version == Version::HTTP_2 {
        // HTTP/2 has no such header; GOAWAY closes its connections.
        response.headers_mut().remove(CONNECTION);
    } else if draining.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
