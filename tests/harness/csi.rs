//! A minimal CSI driver for the real external-attacher. Its storage succeeds at every attach and
//! detach.
//!
//! It serves gRPC over a Unix socket without a library: each answer is a framed message of a few
//! bytes, with its status in the trailers.

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

/// The driver's name, in CSIDriver, CSINode and PersistentVolume objects.
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
    // gRPC frames a message with one byte 0 for "not compressed" and four bytes of length.
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

/// The answer to a method, in the protobuf encoding of `csi.v1`. In an empty message, all fields
/// have their defaults.
fn message(method: &str) -> Vec<u8> {
    /// The protobuf tag of field 1, which is a string or a message.
    const FIELD_1: u8 = 0x0a;
    // `capabilities { service { type: N } }` and `capabilities { rpc { type: N } }` have the same
    // encoding.
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
