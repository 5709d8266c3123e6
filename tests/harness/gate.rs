//! The gate as it is shipped: the program as a process, and the manifests as `kubectl` applies them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    plane::{Plane, free_port, keep},
    proxy::Proxy,
};

/// Replicas of the gate in front of a control plane, behind an address of their own.
pub struct Gate {
    pub replicas: Vec<Replica>,
    service: Proxy,
}

/// One process.
pub struct Replica {
    pub port: u16,
    /// Its way to the API server.
    pub uplink: Proxy,
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

    /// Starts replicas with the rights and the rules of the default manifests, and registers them.
    pub async fn guard_with(plane: &Plane, replicas: usize) -> Self {
        let gate = Self::start(plane, replicas, &[]).await;
        gate.until_ready(plane).await;
        gate
    }

    /// The same with more arguments, and without waiting until they are ready.
    pub async fn start(plane: &Plane, replicas: usize, arguments: &[&str]) -> Self {
        let path = |name: &str| plane.folder.path().join(name);
        let objects = rendered(plane, "default");
        fs::write(path("config.yaml"), rules(&objects)).unwrap();
        let mut gate = Self::of_nobody().await;
        for number in 0..replicas {
            let replica = Replica::start(plane, number, arguments).await;
            gate.service.lead_to(replica.port);
            gate.replicas.push(replica);
        }
        let (webhooks, others): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(is_webhook);
        apply_all_but_webhooks(plane, &others).await;
        let webhooks: Vec<Value> = webhooks.into_iter().map(|webhook| gate.with_url(webhook)).collect();
        apply(plane, &webhooks);
        gate
    }

    /// An address without replicas.
    pub async fn of_nobody() -> Self {
        Self { replicas: Vec::new(), service: Proxy::start(Vec::new()).await }
    }

    /// Takes one more replica in, as a Service does: once it is ready.
    pub async fn join(&mut self, plane: &Plane, replica: Replica) {
        plane.until("it is ready", async |_| replica.is_ready().await).await;
        self.service.lead_to(replica.port);
        self.replicas.push(replica);
    }

    /// Waits until all replicas are ready and called: the API server takes a moment to call a webhook that was just registered.
    pub async fn until_ready(&self, plane: &Plane) {
        for replica in &self.replicas {
            plane.until("the gate is ready", async |_| replica.is_ready().await).await;
        }
        self.until_called(plane, &["mutate", "validate"]).await;
    }

    /// Goes over to the rights and the rules of another overlay.
    pub async fn adopt(&self, plane: &Plane, overlay: &str) {
        let mut objects = rendered(plane, overlay);
        self.take_rules(plane, &rules(&objects)).await;
        objects.retain(|object| !is_webhook(object));
        apply(plane, &objects);
    }

    /// Goes over to other rules.
    pub async fn take_rules(&self, plane: &Plane, rules: &str) {
        let taken = || -> Vec<usize> {
            self.replicas.iter().map(|replica| replica.log().matches("\"reloaded\"").count()).collect()
        };
        let before = taken();
        fs::write(plane.folder.path().join("config.yaml"), rules).unwrap();
        let all_have = || taken().iter().zip(&before).all(|(now, before)| now > before);
        plane.until("the rules are in force", async |_| all_have()).await;
    }

    /// Waits until the API server calls these webhooks, in this order, and no other.
    pub async fn until_called(&self, plane: &Plane, webhooks: &[&str]) {
        // Evidence that is fine, on a Node that is never there.
        let probe = json!({"metadata": {"name": "probe", "annotations": {"fencegate.dev/proof": "probe"}}});
        plane
            .until("the API server calls the webhooks", async |plane| {
                let before = self.record().len();
                let path = "/api/v1/nodes?dryRun=All";
                let _ = plane.api("admin", http::Method::POST, path, Some(probe.clone())).await;
                let record = self.record();
                let called: Vec<&str> = record[before..].iter().filter_map(|line| line["webhook"].as_str()).collect();
                called == webhooks
            })
            .await;
    }

    /// A webhook called at a URL in the Service's place, as envtest does.
    pub fn with_url(&self, mut webhook: Value) -> Value {
        if !is_webhook(&webhook) {
            return webhook;
        }
        let client = &mut webhook["webhooks"][0]["clientConfig"];
        let path = client["service"]["path"].as_str().unwrap();
        let url = format!("https://localhost:{}{path}", self.service.port);
        *client = json!({"url": url});
        webhook
    }

    /// Kills every replica: nobody answers any more.
    pub fn stop(&mut self) {
        self.replicas.iter_mut().for_each(Replica::kill);
    }

    /// Sends no new connection to a replica any more, as a Service does once it is not ready or gone.
    pub fn leave_out(&self, number: usize) {
        let port = self.replicas[number].port;
        self.service.leave_out(port);
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
        let text: String = self.replicas.iter().map(Replica::log).collect();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut lines: Vec<Value> = lines.filter(|line: &Value| line["event"] == "decision").collect();
        lines.sort_by_key(|line| line["ts"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
        lines
    }
}

impl Replica {
    pub async fn start(plane: &Plane, number: usize, more: &[&str]) -> Self {
        let uplink = Proxy::start(vec![plane.port()]).await;
        let kubeconfig = plane.kubeconfig_via("gate", uplink.port, number);
        let path = |name: &str| plane.folder.path().join(name);
        let (port, telemetry) = (free_port(), free_port());
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--telemetry-listen=127.0.0.1:{telemetry}"),
            format!("--config={}", path("config.yaml").display()),
            "--namespace=fencegate-system".to_owned(),
            "--tls-host=localhost".to_owned(),
            format!("--identity=replica-{number}"),
            "--certificate-interval=500ms".to_owned(),
            "--drain=3s".to_owned(),
        ];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let record = path(&format!("gate-{number}.log"));
        let child = keep(&program(), &arguments, &record, &[("KUBECONFIG", kubeconfig)]);
        Self { port, uplink, telemetry, child: Some(child), record }
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.record).unwrap()
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

    /// What it says on the telemetry port.
    pub async fn telemetry(&self, path: &str) -> String {
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

/// The program under test: cargo says where it is to tests; an example stands beside it.
fn program() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("fencegate");
    option_env!("CARGO_BIN_EXE_fencegate").map_or_else(beside, PathBuf::from)
}

/// The objects of an overlay, as they are shipped.
pub fn rendered(plane: &Plane, overlay: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/overlays").join(overlay);
    let rendered = plane.kubectl("admin", &["kustomize", folder.to_str().unwrap()], "");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout).unwrap()).unwrap()
}

/// The rules that the gate runs with in a set of manifests.
fn rules(objects: &[Value]) -> String {
    let is_rules = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "fencegate";
    objects.iter().find(is_rules).unwrap()["data"]["config.yaml"].as_str().unwrap().to_owned()
}

/// What holds when nobody registered the gate: the default manifests without the webhooks.
pub async fn policy_alone(plane: &Plane) {
    let mut objects = rendered(plane, "default");
    objects.retain(|object| !is_webhook(object));
    apply_all_but_webhooks(plane, &objects).await;
}

/// With the webhooks in front of it, nothing would show when the policy is in force.
async fn apply_all_but_webhooks(plane: &Plane, objects: &[Value]) {
    apply(plane, objects);
    plane.until("the policy is in force", async |plane| denied_by_policy(plane).await).await;
}

fn is_webhook(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("WebhookConfiguration"))
}

fn apply(plane: &Plane, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let applied = plane.kubectl("admin", &["apply", "-f", "-"], &list);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// Whether the policy judges a Node that comes with the taint and nothing else.
async fn denied_by_policy(plane: &Plane) -> bool {
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"});
    let probe = json!({"metadata": {"name": "probe"}, "spec": {"taints": [taint]}});
    let created = plane.api("admin", http::Method::POST, "/api/v1/nodes?dryRun=All", Some(probe)).await;
    created.is_err_and(|refusal| refusal.message.contains("ValidatingAdmissionPolicy 'fencegate'"))
}
