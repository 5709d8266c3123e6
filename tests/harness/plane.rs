//! A real control plane on loopback: etcd, API server, controller manager, scheduler, and the
//! kubectl of the same version.
//!
//! `make control-plane` builds the binaries into `target/cluster`. If `KUBEBUILDER_ASSETS` names a
//! directory, the binaries there are used instead. Every process stops when the test ends, even if
//! the test is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use http::{Method, Request, header::CONTENT_TYPE};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::AbortHandle;

use super::{
    csi,
    process::{Part, binaries, free_port, keep, signal},
};

/// The users of the API server: token, user name, groups.
const USERS: &[(&str, &str, &str)] = &[
    ("admin", "admin", "system:masters"),
    ("alice", "alice", "operators"),
    ("kcm", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("gate", "system:serviceaccount:fencegate-system:fencegate", "system:serviceaccounts"),
    ("gate-in-guard", "system:serviceaccount:guard:fencegate", "system:serviceaccounts"),
    ("oncall", "oncall", "oncall"),
    ("tenant", "tenant", "tenants"),
    ("attacher", "system:serviceaccount:csi:attacher", "system:serviceaccounts,system:masters"),
    ("crowd", "kwok", "system:nodes,system:masters"),
    ("node-n1", "system:node:n1", "system:nodes"),
    ("node-n2", "system:node:n2", "system:nodes"),
    ("node-n3", "system:node:n3", "system:nodes"),
];

/// Instead of a token: the client sends none.
pub const ANONYMOUS: &str = "anonymous";

/// How long a test waits for a condition: longer than any takes on a machine with two cores.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A running control plane.
pub struct Plane {
    pub folder: TempDir,
    binaries: PathBuf,
    url: String,
    /// The port on which etcd serves clients, also by HTTP.
    pub etcd: u16,
    parts: Vec<Part>,
}

/// What becomes of the control plane's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nobody needs it after the test, so etcd does not wait for the disk.
    Volatile,
    /// etcd waits for the disk, so that it can be killed. It keeps every version of every object,
    /// as JSON. There is no audit log of the API server.
    Durable,
}

impl Drop for Plane {
    /// Keeps the logs of a test that failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("the logs of all processes are in {}", self.folder.path().display());
        }
    }
}

/// An error status of the API server.
#[derive(Debug)]
pub struct ApiError {
    /// The HTTP status code; 0 if there was no answer.
    pub code: u16,
    pub message: String,
}

impl Plane {
    /// Starts all parts and waits until the API server is ready.
    pub async fn start() -> Self {
        Self::start_with(Data::Volatile).await
    }

    /// The same, with a choice about its data.
    pub async fn start_with(data: Data) -> Self {
        let mut plane = Self::with_api_server(data, &["--enable-admission-plugins=NodeRestriction"]).await;
        plane.start_controllers();
        plane
            .until("the default service account exists", async |plane| {
                plane.get("/api/v1/namespaces/default/serviceaccounts/default").await.is_ok()
            })
            .await;
        plane
    }

    /// Starts etcd and the API server alone: nothing changes a Node but the test, and no other
    /// plugin refuses what a kubelet writes.
    pub async fn without_controllers() -> Self {
        Self::with_api_server(Data::Volatile, &["--disable-admission-plugins=TaintNodesByCondition"]).await
    }

    /// The same, with an etcd that is filled before the API server starts. `fill` gets its port.
    pub async fn filled(fill: impl AsyncFnOnce(u16)) -> Self {
        let mut plane = Self::with_etcd(Data::Volatile);
        fill(plane.etcd).await;
        plane.begin(Data::Volatile, &["--disable-admission-plugins=TaintNodesByCondition"]).await;
        plane
    }

    /// Starts etcd and the API server, which gets these arguments, too, and waits until it is
    /// ready.
    async fn with_api_server(data: Data, arguments: &[&str]) -> Self {
        let mut plane = Self::with_etcd(data);
        plane.begin(data, arguments).await;
        plane
    }

    fn with_etcd(data: Data) -> Self {
        let folder = tempfile::Builder::new().prefix("fencegate-plane-").tempdir().unwrap();
        let mut plane = Self { folder, binaries: binaries(), url: String::new(), etcd: free_port(), parts: Vec::new() };
        plane.write_files();
        plane.start_etcd(data, free_port());
        plane
    }

    /// Starts the API server.
    async fn begin(&mut self, data: Data, arguments: &[&str]) {
        let port = free_port();
        self.url = format!("https://127.0.0.1:{port}");
        self.start_api_server(data, port, arguments);
        self.until("the API server is ready", async |plane| plane.text("admin", "/readyz").await.is_ok()).await;
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write_files(&self) {
        let tokens: Vec<String> =
            USERS.iter().map(|(token, user, groups)| format!("{token},{user},{user},\"{groups}\"")).collect();
        fs::write(self.path("tokens.csv"), tokens.join("\n")).unwrap();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "RequestResponse", "resources": [{"group": "", "resources": ["nodes", "nodes/status"]}]}],
        });
        fs::write(self.path("audit-policy.yaml"), policy.to_string()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(self.path("sa.key"), key.serialize_pem()).unwrap();
        fs::write(self.path("sa.pub"), key.public_key_pem()).unwrap();
    }

    fn start_etcd(&mut self, data: Data, peer: u16) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.etcd), format!("http://127.0.0.1:{peer}"));
        let mut arguments = vec![
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=warn".to_owned(),
        ];
        arguments.push(match data {
            Data::Volatile => "--unsafe-no-fsync".to_owned(),
            // 8 GiB: the whole history of hundreds of thousands of writes.
            Data::Durable => format!("--quota-backend-bytes={}", 8_u64 << 30),
        });
        self.spawn("etcd", &arguments);
    }

    fn start_api_server(&mut self, data: Data, port: u16, more: &[&str]) {
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", self.path("api")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", self.path("sa.key")),
            format!("--service-account-key-file={}", self.path("sa.pub")),
            format!("--token-auth-file={}", self.path("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        ];
        arguments.extend(match data {
            Data::Volatile => [
                format!("--audit-policy-file={}", self.path("audit-policy.yaml")),
                format!("--audit-log-path={}", self.path("audit.log")),
            ],
            Data::Durable => {
                ["--etcd-compaction-interval=0".to_owned(), "--storage-media-type=application/json".to_owned()]
            }
        });
        arguments.extend(more.iter().map(ToString::to_string));
        self.spawn("kube-apiserver", &arguments);
    }

    fn start_controllers(&mut self) {
        let common = |kubeconfig: &str| {
            vec![
                format!("--kubeconfig={kubeconfig}"),
                format!("--authentication-kubeconfig={kubeconfig}"),
                format!("--authorization-kubeconfig={kubeconfig}"),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ]
        };
        let mut manager = common(&self.kubeconfig("kcm"));
        manager.push(format!("--service-account-private-key-file={}", self.path("sa.key")));
        manager.push("--use-service-account-credentials".to_owned());
        // Shorter than the defaults, so that a dead node is noticed within seconds. The order of
        // events is the same as in a real cluster.
        manager.push("--node-monitor-grace-period=10s".to_owned());
        manager.push("--node-monitor-period=1s".to_owned());
        self.spawn("kube-controller-manager", &manager);
        let scheduler = common(&self.kubeconfig("scheduler"));
        self.spawn("kube-scheduler", &scheduler);
    }

    /// Starts the external-attacher, with a service account, and its CSI driver.
    pub fn start_attacher(&mut self) -> AbortHandle {
        let socket = self.folder.path().join("csi.sock");
        let driver = csi::serve(&socket);
        let arguments = [
            format!("--csi-address=unix://{}", socket.display()),
            format!("--kubeconfig={}", self.kubeconfig("attacher")),
            "--leader-election=false".to_owned(),
            "--retry-interval-start=100ms".to_owned(),
        ];
        self.spawn("csi-attacher", &arguments);
        driver
    }

    /// Starts kwok, which simulates the kubelets of all Nodes with the label `crowd=true`, with one
    /// account for all of them.
    pub fn start_crowd(&mut self) {
        let stages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/stages.yaml");
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig("crowd")),
            format!("--config={}", stages.display()),
            "--manage-nodes-with-label-selector=crowd=true".to_owned(),
            "--node-lease-duration-seconds=10".to_owned(),
            format!("--server-address=127.0.0.1:{}", free_port()),
        ];
        self.spawn("kwok", &arguments);
    }

    /// Starts a process of the control plane.
    fn spawn(&mut self, name: &str, arguments: &[String]) {
        let keeper = self.keep(name, arguments);
        self.parts.push(Part { name: name.to_owned(), arguments: arguments.to_vec(), keeper });
    }

    fn keep(&self, name: &str, arguments: &[String]) -> Child {
        keep(&self.binaries.join(name), arguments, &self.folder.path().join(format!("{name}.log")), &[])
    }

    fn part(&mut self, name: &str) -> &mut Part {
        self.parts.iter_mut().find(|part| part.name == name).unwrap()
    }

    /// Kills a process of the control plane, until [`restart`](Self::restart).
    pub fn kill(&mut self, name: &str) {
        self.part(name).kill();
    }

    /// Starts a process that was killed, with the arguments and the data that it had.
    pub fn restart(&mut self, name: &str) {
        let arguments = self.part(name).arguments.clone();
        let keeper = self.keep(name, &arguments);
        self.part(name).keeper = keeper;
    }

    /// Sends a process of the control plane the signal with this name.
    pub fn signal(&mut self, name: &str, signal_name: &str) {
        signal(&mut self.part(name).keeper, signal_name);
    }

    /// The port of the API server.
    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The path of a kubeconfig for the user with this token.
    pub fn kubeconfig(&self, token: &str) -> String {
        self.write_kubeconfig(token, token, &self.url)
    }

    /// The same, for a user who connects through another port.
    pub fn kubeconfig_via(&self, token: &str, port: u16, number: usize) -> String {
        self.write_kubeconfig(&format!("{token}-{number}"), token, &format!("https://127.0.0.1:{port}"))
    }

    /// The same, for a user with a token that is not one of [`USERS`].
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> String {
        self.write_kubeconfig(name, token, &self.url)
    }

    /// Writes the file only once, because a program that was just started may be reading it.
    fn write_kubeconfig(&self, name: &str, token: &str, server: &str) -> String {
        let path = self.path(&format!("{name}.kubeconfig"));
        if Path::new(&path).exists() {
            return path;
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// A client for the user with this token: one of [`USERS`], a service account's, or
    /// [`ANONYMOUS`].
    pub fn client(&self, token: &str) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token).filter(|token| *token != ANONYMOUS).map(|token| token.to_owned().into());
        Client::try_from(config).unwrap()
    }

    /// The answer to a GET, as it is.
    pub async fn text(&self, token: &str, path: &str) -> Result<String, ApiError> {
        send(&self.client(token), Method::GET, "application/json", path, None).await
    }

    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.api("admin", Method::GET, path, None).await
    }

    /// Creates an object.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        self.api("admin", Method::POST, path, Some(object)).await.unwrap()
    }

    /// Sends one request as the user with this token. A PATCH is a merge patch.
    pub async fn api(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Result<Value, ApiError> {
        call(&self.client(token), method, path, body).await
    }

    /// Sends a PATCH of this content type.
    pub async fn patch(&self, token: &str, content_type: &str, path: &str, body: Value) -> Result<Value, ApiError> {
        let text = send(&self.client(token), Method::PATCH, content_type, path, Some(body)).await?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The path of a tool: `helm`, `krew`, or the kubectl of this version.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Runs kubectl as the user with this token.
    pub fn kubectl(&self, token: &str, arguments: &[&str], input: &str) -> Output {
        self.kubectl_with(token, arguments, input, &[])
    }

    /// The same, with environment variables.
    pub fn kubectl_with(&self, token: &str, arguments: &[&str], input: &str, environment: &[(&str, String)]) -> Output {
        let mut child = Command::new(self.tool("kubectl"))
            .arg(format!("--kubeconfig={}", self.kubeconfig(token)))
            .arg(format!("--cache-dir={}", self.path("kubectl-cache")))
            .args(arguments)
            .env("HOME", self.folder.path())
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Waits until a condition is true.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self).await {
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last lines of all logs, for a test that failed.
    pub fn logs(&self) -> String {
        let tail = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("== {}\n{}\n", path.display(), lines.join("\n"))
        };
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_log = |path: &PathBuf| path.extension().is_some_and(|end| end == "log") && !path.ends_with("audit.log");
        entries.filter(is_log).map(tail).collect()
    }

    /// The API server's audit log of requests about Nodes.
    pub fn audit_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All stored versions of a Node, in order. They are the answers to its writers in the API
    /// server's audit log.
    pub fn stored_versions(&self, node: &str) -> Vec<Value> {
        let is_write = |line: &Value| {
            let verb = line["verb"].as_str().unwrap_or_default();
            line["objectRef"]["name"] == node
                && ["create", "update", "patch"].contains(&verb)
                && line["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300)
        };
        let version =
            |object: &Value| -> u64 { object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap() };
        let mut versions: Vec<Value> =
            self.audit_log().into_iter().filter(is_write).map(|line| line["responseObject"].clone()).collect();
        versions.sort_by_key(version);
        // A write that changes nothing gets the current version as its answer.
        versions.dedup_by_key(|object| version(object));
        versions
    }
}

/// Content types of patches.
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Sends one request, and returns the answer as JSON.
pub async fn call(client: &Client, method: Method, path: &str, body: Option<Value>) -> Result<Value, ApiError> {
    let content_type = if method == Method::PATCH { MERGE } else { "application/json" };
    let text = send(client, method, content_type, path, body).await?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Sends one request, and returns the answer as text.
pub async fn send(
    client: &Client,
    method: Method,
    content_type: &str,
    path: &str,
    body: Option<Value>,
) -> Result<String, ApiError> {
    let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type).body(bytes).unwrap();
    client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) => ApiError { code: status.code, message: status.message },
        error => ApiError { code: 0, message: error.to_string() },
    })
}
