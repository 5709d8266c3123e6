//! A TCP proxy with one address and several endpoints. It replaces a Service, or for a network
//! that a test can cut.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

pub struct Proxy {
    pub port: u16,
    endpoints: Arc<Mutex<Vec<u16>>>,
    /// Changes when all open connections must be closed.
    cut: watch::Sender<()>,
    task: AbortHandle,
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
        let (shared, turn) = (Arc::clone(&endpoints), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let endpoint = {
                    let endpoints = shared.lock().unwrap();
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    endpoints.get(turn % endpoints.len().max(1)).copied()
                };
                let mut is_cut = is_cut.clone();
                is_cut.mark_unchanged();
                tokio::spawn(async move {
                    // Without an endpoint, the connection is closed, as the kernel would do.
                    let Some(endpoint) = endpoint else { return };
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", endpoint)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_cut.changed() => {}
                    }
                });
            }
        });
        Self { port, endpoints, cut, task: task.abort_handle() }
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
}
