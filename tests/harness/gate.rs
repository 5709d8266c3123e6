//! The gate as it is shipped: the program as a process, and the manifests as `kubectl` applies them.

use std::{fs, path::Path, process::Child, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::plane::{Plane, free_port, keep};
use crate::support::certificates;

/// A gate in front of a control plane.
pub struct Gate {
    pub port: u16,
    telemetry: u16,
    ca: String,
    child: Option<Child>,
    record: std::path::PathBuf,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gate {
    /// Starts the program with the rights of its manifests' service account, and registers it.
    pub async fn guard(plane: &Plane) -> Self {
        let gate = Self::start(plane);
        gate.apply_manifests(plane);
        plane.until("the gate is ready", async |_| gate.telemetry("/readyz").await.starts_with("HTTP/1.1 200")).await;
        // The API server takes a moment to call a webhook that was just registered.
        let probe = json!({"metadata": {"name": "probe", "annotations": {"fencegate.dev/method": "none"}}});
        plane
            .until("guarded writes are denied", async |plane| {
                let path = "/api/v1/nodes?dryRun=All";
                plane
                    .api("admin", http::Method::POST, path, Some(probe.clone()))
                    .await
                    .is_err_and(|refusal| refusal.message.contains("EvidenceMalformed"))
            })
            .await;
        gate
    }

    fn start(plane: &Plane) -> Self {
        let made = certificates();
        let path = |name: &str| plane.folder.path().join(name);
        fs::write(path("gate.crt"), &made.certificate).unwrap();
        fs::write(path("gate.key"), &made.key).unwrap();
        let (port, telemetry) = (free_port(), free_port());
        let arguments = [
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--telemetry-listen=127.0.0.1:{telemetry}"),
            format!("--tls-cert={}", path("gate.crt").display()),
            format!("--tls-key={}", path("gate.key").display()),
        ];
        let program = Path::new(env!("CARGO_BIN_EXE_fencegate"));
        let record = path("gate.log");
        let child = keep(program, &arguments, &record, &[("KUBECONFIG", plane.kubeconfig("gate"))]);
        Self { port, telemetry, ca: made.ca, child: Some(child), record }
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
            *client = json!({"url": format!("https://localhost:{}/validate", self.port), "caBundle": base64(&self.ca)});
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let applied = plane.kubectl("admin", &["apply", "-f", "-"], &list);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }

    /// Kills the program: nobody answers any more.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
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

    /// How many reviews reached the gate.
    pub async fn reviews(&self) -> u64 {
        let text = self.telemetry("/metrics").await;
        let line = text.lines().find(|line| line.starts_with("fencegate_decision_duration_seconds_count"));
        line.unwrap_or_else(|| panic!("no such metric in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Its audit log.
    pub fn record(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.record).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["event"] == "decision").collect()
    }
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
