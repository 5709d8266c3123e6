//! The limit: a server of hyper and rustls that reads the body and answers with as many bytes.

use std::{convert::Infallible, fs, path::Path, sync::Arc};

use fencegate::tls::Serving;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves with the certificate in this folder. Each answer has `length` bytes.
pub async fn serve(port: u16, folder: &Path, length: usize) {
    let files = ["tls.crt", "tls.key"].map(|name| fs::read(folder.join(name)).unwrap());
    let serving = Serving::parse(&files, &[]).unwrap();
    let acceptor = TlsAcceptor::from(Arc::clone(&serving.config));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let answer = Bytes::from(format!("{{}}{}", " ".repeat(length - 2)));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let _ = request.into_body().collect().await;
                    let answer = Response::builder().header("content-type", "application/json").body(Full::new(answer));
                    Ok::<_, Infallible>(answer.unwrap())
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
