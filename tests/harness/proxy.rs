//! What a Service is to the API server, and a network to everyone: one address, each new connection
//! to one of its endpoints in turn.

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
    /// Changes when everything that is open is to be closed.
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
                    // A connection to nobody is closed, as the kernel would.
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

    /// Sends new connections there, too.
    pub fn lead_to(&self, port: u16) {
        self.endpoints.lock().unwrap().push(port);
    }

    /// Sends no new connection there any more.
    pub fn leave_out(&self, port: u16) {
        self.endpoints.lock().unwrap().retain(|endpoint| *endpoint != port);
    }

    /// Leads nowhere any more, and ends what is open; returns where it led.
    pub fn cut(&self) -> Vec<u16> {
        let led = std::mem::take(&mut *self.endpoints.lock().unwrap());
        self.cut.send_replace(());
        led
    }

    /// Leads there again.
    pub fn mend(&self, endpoints: Vec<u16>) {
        *self.endpoints.lock().unwrap() = endpoints;
    }
}
