//! What a client sends on a connection to the gate: the accept loop, TLS, HTTP/1.1 and HTTP/2, and
//! the endpoints. After the last byte the client sends no more; then the connection ends soon.
//!
//! The first byte chooses the protocol, and whether the rest is sent at once or in two parts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    panic,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use fencegate::{
    admission::{handler, paths},
    audit::Audit,
    certificates::issue::Development,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    gate::Gate,
    policy::settings::Settings,
    tls::{
        Serving,
        accept::{Limits, Shutdown, serve},
        provider,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::memory;

/// The most memory that one connection takes, on both sides together, beside a multiple of what was
/// sent: buffers, windows and streams are limited.
const LEAST: usize = 2 * 1024 * 1024;
const MULTIPLE: usize = 64;
/// Longer than any wait of the gate on a client that sends no more.
const SOON: Duration = Duration::from_secs(15);
/// What every client of HTTP/2 begins with (RFC 9113, 3.4): the preface and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A gate that listens on loopback, and a client for each protocol.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    connectors: [TlsConnector; 2],
}

/// One connection at a time: the memory of each is measured.
static RUNNING: LazyLock<Mutex<Running>> = LazyLock::new(|| Mutex::new(Running::start()));

/// The panics of this process. A connection's task would hide its own.
static PANICS: AtomicUsize = AtomicUsize::new(0);

impl Running {
    fn start() -> Self {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
        let made = Development::make(&["localhost".to_owned()], 30, jiff::Timestamp::now()).unwrap();
        let serving = Serving::parse(&[made.certificate.into_bytes(), made.key.into_bytes()], &[]).unwrap();
        let connectors = ["http/1.1", "h2"].map(|protocol| connector(&made.ca, protocol));
        let cluster = Cluster::of(Snapshot::example().unwrap());
        let gate = Gate::new(cluster, Settings::default(), Clock::at(super::review::now()), Audit::Discard);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::new(ArcSwap::from_pointee(serving));
        runtime.spawn(serve(
            listener,
            Some(serving),
            handler::router(gate, paths::Source::plain(), 16),
            Limits::default(),
            Shutdown::default(),
        ));
        Self { runtime, address, connectors }
    }
}

fn connector(ca: &str, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let versions = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub fn check(data: &[u8]) {
    let Some((choice, sent)) = data.split_first() else { return };
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let panics = PANICS.load(Ordering::SeqCst);
    let parts = if choice & 4 == 0 { (sent, &[][..]) } else { sent.split_at(sent.len() / 2) };
    let talk = async {
        let stream = TcpStream::connect(running.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = || ServerName::try_from("localhost").unwrap();
        match choice & 3 {
            0 | 3 => exchange(running.connectors[0].connect(name(), stream).await.unwrap(), &[parts.0, parts.1]).await,
            1 => {
                let stream = running.connectors[1].connect(name(), stream).await.unwrap();
                exchange(stream, &[PREFACE, parts.0, parts.1]).await
            }
            _ => exchange(stream, &[parts.0, parts.1]).await,
        }
    };
    let (received, peak) = memory::peak(|| running.runtime.block_on(async { timeout(SOON, talk).await }));
    let received = received.unwrap_or_else(|_| panic!("the connection does not end"));
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a task of the connection panicked");
    let most = MULTIPLE * sent.len() + LEAST;
    assert!(peak <= most, "{peak} bytes of memory for a connection with {} bytes", sent.len());
    let is_http1 = matches!(choice & 3, 0 | 3);
    assert!(!is_http1 || received.is_empty() || received.starts_with(b"HTTP/1."), "{received:?}");
}

/// Sends the parts one after the other, and then the end of the stream. Returns what came back
/// until the connection ended, even if it ended with an error.
async fn exchange(stream: impl AsyncRead + AsyncWrite, parts: &[&[u8]]) -> Vec<u8> {
    let (mut reader, mut writer) = split(stream);
    let mut received = Vec::new();
    let send = async {
        for part in parts {
            // The gate may have closed the connection already.
            if writer.write_all(part).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let _ = reader.read_to_end(&mut received).await;
    };
    tokio::join!(send, receive);
    received
}
