//! The gate as it is shipped: the program as a process, and the manifests as `kubectl` applies them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use super::plane::{Plane, free_port, keep};
use crate::support::certificates;

/// Replicas of the gate in front of a control plane, behind an address of their own.
pub struct Gate {
    pub replicas: Vec<Replica>,
    service: Service,
    ca: String,
}

/// One process.
pub struct Replica {
    port: u16,
    telemetry: u16,
    child: Option<Child>,
    record: PathBuf,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Gate {
    /// Starts one replica and registers it.
    pub async fn guard(plane: &Plane) -> Self {
        Self::guard_with(plane, 1).await
    }

    /// Starts replicas with the rights of the manifests' service account, and registers them.
    pub async fn guard_with(plane: &Plane, replicas: usize) -> Self {
        let made = certificates();
        let path = |name: &str| plane.folder.path().join(name);
        fs::write(path("gate.crt"), &made.certificate).unwrap();
        fs::write(path("gate.key"), &made.key).unwrap();
        let replicas: Vec<Replica> = (0..replicas).map(|number| Replica::start(plane, number)).collect();
        let service = Service::start(replicas.iter().map(|replica| replica.port).collect()).await;
        let gate = Self { replicas, service, ca: made.ca };
        gate.apply_manifests(plane);
        for replica in &gate.replicas {
            plane.until("the gate is ready", async |_| replica.is_ready().await).await;
        }
        // The API server takes a moment to call a webhook that was just registered.
        let probe = json!({"metadata": {"name": "probe", "annotations": {"fencegate.dev/method": "none"}}});
        plane
            .until("guarded writes are denied", async |plane| {
                let path = "/api/v1/nodes?dryRun=All";
                let created = plane.api("admin", http::Method::POST, path, Some(probe.clone())).await;
                created.is_err_and(|refusal| refusal.message.contains("EvidenceMalformed"))
            })
            .await;
        gate
    }

    /// Applies `manifests/overlays/default` as it is, but for the Service: a URL in its place, as envtest has it.
    fn apply_manifests(&self, plane: &Plane) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/overlays/default");
        let rendered = plane.kubectl("admin", &["kustomize", folder.to_str().unwrap()], "");
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let text = String::from_utf8(rendered.stdout).unwrap();
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for object in objects.iter_mut().filter(|object| object["kind"] == "ValidatingWebhookConfiguration") {
            let client = &mut object["webhooks"][0]["clientConfig"];
            assert_eq!(client["service"]["path"], "/validate");
            let url = format!("https://localhost:{}/validate", self.service.port);
            *client = json!({"url": url, "caBundle": base64(&self.ca)});
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let applied = plane.kubectl("admin", &["apply", "-f", "-"], &list);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }

    /// Kills every replica: nobody answers any more.
    pub fn stop(&mut self) {
        self.replicas.iter_mut().for_each(Replica::kill);
    }

    /// Sends no new connection to a replica any more, as a Service does once it is not ready or gone.
    pub fn leave_out(&self, number: usize) {
        let port = self.replicas[number].port;
        self.service.endpoints.lock().unwrap().retain(|endpoint| *endpoint != port);
    }

    /// How many reviews reached the gate.
    pub async fn reviews(&self) -> u64 {
        let mut sum = 0;
        for replica in &self.replicas {
            let text = replica.telemetry("/metrics").await;
            let line = text.lines().find(|line| line.starts_with("fencegate_decision_duration_seconds_count"));
            let line = line.unwrap_or_else(|| panic!("no such metric in\n{text}"));
            sum += line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        }
        sum
    }

    /// The audit log of all replicas.
    pub fn record(&self) -> Vec<Value> {
        let text: String = self.replicas.iter().map(|replica| fs::read_to_string(&replica.record).unwrap()).collect();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["event"] == "decision").collect()
    }
}

impl Replica {
    fn start(plane: &Plane, number: usize) -> Self {
        let path = |name: &str| plane.folder.path().join(name);
        let (port, telemetry) = (free_port(), free_port());
        let arguments = [
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--telemetry-listen=127.0.0.1:{telemetry}"),
            format!("--tls-cert={}", path("gate.crt").display()),
            format!("--tls-key={}", path("gate.key").display()),
            "--drain=3s".to_owned(),
        ];
        let record = path(&format!("gate-{number}.log"));
        let child = keep(&program(), &arguments, &record, &[("KUBECONFIG", plane.kubeconfig("gate"))]);
        Self { port, telemetry, child: Some(child), record }
    }

    /// Ends it as the kubelet does.
    pub fn terminate(&mut self) {
        self.child.as_mut().unwrap().stdin.as_mut().unwrap().write_all(b"TERM\n").unwrap();
    }

    /// Ends it as a power failure does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    pub async fn is_ready(&self) -> bool {
        self.telemetry("/readyz").await.starts_with("HTTP/1.1 200")
    }

    /// Whether it still answers on the telemetry port.
    pub async fn is_alive(&self) -> bool {
        self.telemetry("/livez").await.starts_with("HTTP/1.1 200")
    }

    async fn telemetry(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.telemetry)).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut text).await
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        text
    }
}

/// What a Service is to the API server: one address, each new connection to one of its endpoints in turn.
struct Service {
    port: u16,
    endpoints: Arc<Mutex<Vec<u16>>>,
    task: AbortHandle,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    async fn start(endpoints: Vec<u16>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoints = Arc::new(Mutex::new(endpoints));
        let (shared, turn) = (Arc::clone(&endpoints), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let endpoint = {
                    let endpoints = shared.lock().unwrap();
                    endpoints[turn.fetch_add(1, Ordering::Relaxed) % endpoints.len()]
                };
                tokio::spawn(async move {
                    // A connection to nobody is closed, as the kernel would.
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", endpoint)).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, endpoints, task: task.abort_handle() }
    }
}

/// The program under test: cargo says where it is to tests; an example stands beside it.
fn program() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("fencegate");
    option_env!("CARGO_BIN_EXE_fencegate").map_or_else(beside, PathBuf::from)
}

/// Base64 as a `caBundle` has it.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| -> String {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = |index: usize| {
            if index <= chunk.len() { char::from(ALPHABET[(bits >> (18 - 6 * index)) as usize & 63]) } else { '=' }
        };
        (0..4).map(digit).collect()
    };
    text.as_bytes().chunks(3).map(encode).collect()
}
