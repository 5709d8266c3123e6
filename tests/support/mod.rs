//! Shared by several tests: a server on loopback, and a TLS client for it.

#![allow(clippy::panic, clippy::unwrap_used, dead_code, reason = "each test uses a part of this")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fencegate::{
    audit::Audit,
    certificates::issue::Development,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    config::Additions,
    server::{Certificates, Options, Server},
    tls::{accept::Limits, clients::Clients, provider},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A CA and a certificate for a test server.
pub fn certificates() -> Development {
    Development::make(&["localhost".to_owned()], 1, jiff::Timestamp::now()).unwrap()
}

/// A running server, and everything that a test may use of it.
pub struct Running {
    pub address: SocketAddr,
    pub telemetry: SocketAddr,
    pub ca: String,
    pub folder: tempfile::TempDir,
    pub audit: mpsc::UnboundedReceiver<String>,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
}

impl Running {
    /// Starts a server on the example cluster. `change` sets the options that the test is about.
    pub async fn start(change: impl FnOnce(&mut Options)) -> Self {
        let made = certificates();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| -> PathBuf {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let (sender, audit) = mpsc::unbounded_channel();
        let mut options = Options {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            telemetry_listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
            certificates: Certificates::Files {
                certificate: write("tls.crt", &made.certificate),
                key: write("tls.key", &made.key),
                clients: Clients::default(),
                path_secret: None,
            },
            config: None,
            cluster: Cluster::of(Snapshot::example().unwrap()),
            clock: Clock::System,
            audit: Audit::Channel(sender),
            limits: Limits::default(),
            in_flight: 16,
            drain: Duration::ZERO,
            reload_interval: Duration::from_millis(20),
            additions: Additions::default(),
            upkeep: None,
        };
        change(&mut options);
        let server = Server::bind(options).await.unwrap();
        let (address, telemetry) = (server.address().unwrap(), server.telemetry_address().unwrap().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async move { drop(stopped.await) }));
        Self { address, telemetry, ca: made.ca, folder, audit, stop: Some(stop), task }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address, &self.ca)
    }

    /// Requests the shutdown of the server, as SIGTERM does.
    pub fn request_shutdown(&mut self) {
        drop(self.stop.take());
    }

    /// Sends a GET to the telemetry port, and returns status and body.
    pub async fn telemetry(&self, path: &str) -> (u16, String) {
        get(self.telemetry, path).await
    }

    /// Waits until the telemetry port answers as `is_so` demands.
    pub async fn until(&self, path: &str, is_so: impl Fn(u16, &str) -> bool) {
        until(self.telemetry, path, is_so).await;
    }
}

/// Sends a GET without TLS, and returns status and body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (status, text(response).await)
}

/// Waits until a GET is answered as `is_so` demands.
pub async fn until(address: SocketAddr, path: &str, is_so: impl Fn(u16, &str) -> bool) {
    for _ in 0..500 {
        let (status, text) = get(address, path).await;
        if is_so(status, &text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} never answered as expected: {:?}", get(address, path).await);
}

/// A client of a server, with its TLS settings.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// The client's own address. `None`: what the system chooses.
    pub from: Option<Ipv4Addr>,
    pub ca: String,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub alpn: Vec<&'static str>,
    /// The server's name.
    pub host: &'static str,
    pub path: &'static str,
    /// Certificate and key.
    pub identity: Option<(String, String)>,
    /// The parameter `timeout` of a call, and other headers.
    pub timeout: &'static str,
    pub headers: Vec<(&'static str, String)>,
}

impl Client {
    pub fn new(address: SocketAddr, ca: &str) -> Self {
        let versions = vec![&TLS13, &TLS12];
        Self {
            address,
            from: None,
            ca: ca.to_owned(),
            versions,
            alpn: vec!["http/1.1"],
            host: "localhost",
            path: "/validate",
            identity: None,
            timeout: "5s",
            headers: Vec::new(),
        }
    }

    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from(self.host).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// POSTs a body on a new connection.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
        let stream = TokioIo::new(self.connect().await?);
        let uri = format!("https://{}{}?timeout={}", self.host, self.path, self.timeout);
        let request = Request::post(uri).header("host", self.host);
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let request = request.body(Full::new(body.into())).unwrap();
        if self.alpn == ["h2"] {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        }
    }

    /// POSTs a review and returns its answer.
    pub async fn ask(&self, review: &Value) -> Value {
        let response = self.post(review.to_string()).await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_str(&text(response).await).unwrap()
    }
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A review that places the taint on `worker-2` without evidence: denied.
pub fn bare_taint() -> Value {
    let node = |taints: Value| {
        json!({
            "metadata": {"name": "worker-2"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        })
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "resource": {"group": "", "version": "v1", "resource": "nodes"},
            "operation": "UPDATE",
            "userInfo": {"username": "alice"},
            "oldObject": node(json!([])),
            "object": node(json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])),
        },
    })
}
