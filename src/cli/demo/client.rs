//! Calls the webhooks as the API server does: a POST over TLS on a persistent HTTP/1.1 connection.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::{policy::review::Webhook, tls::provider};

/// The part of an answer that the API server uses.
#[derive(Debug, Deserialize)]
struct Answer {
    response: Response,
}

#[derive(Debug, Deserialize)]
pub struct Response {
    pub allowed: bool,
    #[serde(default)]
    pub status: Option<Status>,
    /// A JSON patch in base64.
    #[serde(default)]
    pub patch: Option<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Status {
    pub message: String,
}

/// A client that trusts one CA and keeps its connection open.
pub struct Caller {
    address: SocketAddr,
    tls: TlsConnector,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
    connections: JoinSet<()>,
}

impl Caller {
    /// A client of the server at `address` that trusts only `ca`, in PEM.
    pub fn new(address: SocketAddr, ca: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { address, tls, sender: None, connections: JoinSet::new() })
    }

    /// Sends one review to a webhook, and waits for its answer.
    pub async fn post(&mut self, webhook: Webhook, review: &Value) -> anyhow::Result<Response> {
        let body = Full::new(Bytes::from(serde_json::to_vec(review)?));
        let request = Request::post(format!("/{}?timeout=5s", webhook.name()))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(Self::connect(self.address, &self.tls, &mut self.connections).await?),
        };
        // The previous answer was read to its end, but the connection may not be ready again yet.
        sender.ready().await.context("the webhook closed the connection")?;
        let answer = sender.send_request(request).await.context("the webhook did not answer")?;
        let body = answer.into_body().collect().await?.to_bytes();
        let answer: Answer =
            serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())?;
        Ok(answer.response)
    }

    async fn connect(
        address: SocketAddr,
        tls: &TlsConnector,
        connections: &mut JoinSet<()>,
    ) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(address).await?;
        let stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        connections.spawn(async move {
            // If the connection fails, the request on it returns the error.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
