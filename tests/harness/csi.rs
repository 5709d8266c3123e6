//! The least CSI driver that the real external-attacher works with: a storage that attaches and
//! detaches whatever it is asked to.
//!
//! gRPC over a Unix socket, spelled out: each answer is a message of a few bytes, framed, with its
//! status in the trailers.

use std::{convert::Infallible, path::Path};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::StreamBody;
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixListener, task::AbortHandle};

/// The driver's name.
pub const DRIVER: &str = "san.test";

/// Serves the driver on a socket.
pub fn serve(socket: &Path) -> AbortHandle {
    let listener = UnixListener::bind(socket).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(
                TokioIo::new(stream),
                service_fn(async |request| Ok::<_, Infallible>(answer(&request))),
            );
            tokio::spawn(connection);
        }
    });
    task.abort_handle()
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn answer(request: &Request<Incoming>) -> Response<Body> {
    // One byte that says "not compressed", four of length, the message.
    let message = message(request.uri().path());
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![Ok(Frame::data(framed.into())), Ok(Frame::trailers(trailers))];
    let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
    response.body(StreamBody::new(stream::iter(frames))).unwrap()
}

/// The answer to a method, as protobuf of `csi.v1`. An empty message is one whose fields all have
/// their defaults.
fn message(method: &str) -> Vec<u8> {
    /// Field 1 of a message, a text or a message of its own.
    const FIELD_1: u8 = 0x0a;
    // `capabilities { service { type: N } }` and `capabilities { rpc { type: N } }` look the same
    // on the wire.
    let capability = |kind: u8| vec![FIELD_1, 4, FIELD_1, 2, 0x08, kind];
    match method {
        "/csi.v1.Identity/GetPluginInfo" => {
            let mut name = vec![FIELD_1, u8::try_from(DRIVER.len()).unwrap()];
            name.extend(DRIVER.bytes());
            name
        }
        // CONTROLLER_SERVICE
        "/csi.v1.Identity/GetPluginCapabilities" => capability(1),
        // PUBLISH_UNPUBLISH_VOLUME
        "/csi.v1.Controller/ControllerGetCapabilities" => capability(2),
        _ => Vec::new(),
    }
}
