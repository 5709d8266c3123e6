//! A TCP proxy with one address and several endpoints. It replaces a Service, or a network that a
//! test can cut, slow down or stop.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

pub struct Proxy {
    pub port: u16,
    endpoints: Arc<Mutex<Vec<u16>>>,
    /// Changes when all open connections must be closed.
    cut: watch::Sender<()>,
    network: watch::Sender<Network>,
    task: AbortHandle,
}

/// How the network behind the proxy carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Clear,
    /// Whatever is sent arrives this much later, in both directions.
    Slow(Duration),
    /// Connections are accepted and stay open, and nothing arrives until the network is clear.
    HalfOpen,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(endpoints: Vec<u16>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoints = Arc::new(Mutex::new(endpoints));
        let (cut, is_cut) = watch::channel(());
        let (network, is_network) = watch::channel(Network::Clear);
        let (shared, turn) = (Arc::clone(&endpoints), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let endpoint = {
                    let endpoints = shared.lock().unwrap();
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    endpoints.get(turn % endpoints.len().max(1)).copied()
                };
                let (mut is_cut, network) = (is_cut.clone(), is_network.clone());
                is_cut.mark_unchanged();
                tokio::spawn(async move {
                    // Without an endpoint, the connection is closed, as the kernel would do.
                    let Some(endpoint) = endpoint else { return };
                    let Ok(server) = TcpStream::connect(("127.0.0.1", endpoint)).await else { return };
                    // What is carried in two writes would wait for an acknowledgement, some 40 ms.
                    for stream in [&client, &server] {
                        stream.set_nodelay(true).unwrap();
                    }
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let both = async {
                        tokio::join!(
                            carry(from_client, to_server, network.clone()),
                            carry(from_server, to_client, network)
                        )
                    };
                    tokio::select! {
                        _ = both => {}
                        _ = is_cut.changed() => {}
                    }
                });
            }
        });
        Self { port, endpoints, cut, network, task: task.abort_handle() }
    }

    /// Adds an endpoint. New connections go to all endpoints in turn.
    pub fn add_endpoint(&self, port: u16) {
        self.endpoints.lock().unwrap().push(port);
    }

    /// Removes an endpoint. Open connections stay.
    pub fn remove_endpoint(&self, port: u16) {
        self.endpoints.lock().unwrap().retain(|endpoint| *endpoint != port);
    }

    /// Removes all endpoints and closes all connections. Returns the endpoints.
    pub fn cut(&self) -> Vec<u16> {
        let removed = std::mem::take(&mut *self.endpoints.lock().unwrap());
        self.cut.send_replace(());
        removed
    }

    /// Restores the endpoints after a [`cut`](Self::cut).
    pub fn restore(&self, endpoints: Vec<u16>) {
        *self.endpoints.lock().unwrap() = endpoints;
    }

    /// From now on, the network carries bytes like this, also those of open connections.
    pub fn becomes(&self, network: Network) {
        self.network.send_replace(network);
    }
}

/// Carries bytes in one direction until the sender ends, as the network lets them through.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        let now = *network.borrow();
        match now {
            Network::Clear => {}
            Network::Slow(delay) => tokio::time::sleep(delay).await,
            // The sender of the state is gone when the test ends.
            Network::HalfOpen => drop(network.wait_for(|network| *network != Network::HalfOpen).await),
        }
        let Some(bytes) = bytes.get(..read).filter(|bytes| !bytes.is_empty()) else { return to.shutdown().await };
        to.write_all(bytes).await?;
    }
}
