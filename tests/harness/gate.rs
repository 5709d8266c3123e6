//! The gate as users install it: the program as a process, and the manifests, applied with
//! `kubectl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    plane::Plane,
    process::{free_port, keep, memory, signal},
    proxy::Proxy,
};

/// Where a gate is installed: its namespace, and the token of its ServiceAccount there.
pub type Home = (&'static str, &'static str);

/// Where the manifests install it.
pub const HOME: Home = ("fencegate-system", "gate");

/// Replicas of the gate in front of a control plane. A proxy stands for their Service.
pub struct Gate {
    pub replicas: Vec<Replica>,
    /// The network between the API server and the replicas.
    pub service: Proxy,
}

/// One replica of the gate: a process.
pub struct Replica {
    pub port: u16,
    /// The replica's connection to the API server, which a test can cut.
    pub uplink: Proxy,
    pub telemetry: u16,
    child: Option<Child>,
    log: PathBuf,
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

    /// Starts replicas with the permissions and the configuration of the default manifests, and
    /// registers them.
    pub async fn guard_with(plane: &Plane, replicas: usize) -> Self {
        let gate = Self::start(plane, replicas, &[]).await;
        gate.until_ready(plane).await;
        gate
    }

    /// The same, with more arguments, and without waiting until they are ready.
    pub async fn start(plane: &Plane, replicas: usize, arguments: &[&str]) -> Self {
        Self::start_at(plane, &vec![0; replicas], arguments).await
    }

    /// The same, with one replica for each of these clocks: how many seconds it is ahead.
    pub async fn start_at(plane: &Plane, clocks: &[i64], arguments: &[&str]) -> Self {
        Self::install(plane, HOME, rendered(plane, "default"), clocks, arguments).await
    }

    /// Starts replicas with these manifests.
    pub async fn install(plane: &Plane, home: Home, objects: Vec<Value>, clocks: &[i64], arguments: &[&str]) -> Self {
        fs::write(plane.folder.path().join("config.yaml"), configuration(&objects)).unwrap();
        let mut gate = Self::without_replicas().await;
        let arguments = [&shipped_arguments(&objects), arguments].concat();
        for (number, clock) in clocks.iter().enumerate() {
            let replica = Replica::start_in(plane, home, number, &arguments, *clock).await;
            gate.service.add_endpoint(replica.port);
            gate.replicas.push(replica);
        }
        let objects = objects.into_iter().map(|object| gate.within_reach(object));
        let (webhooks, others): (Vec<Value>, Vec<Value>) = objects.partition(is_webhook);
        apply_all_but_webhooks(plane, &others).await;
        apply(plane, &webhooks);
        gate
    }

    /// A Service without replicas.
    pub async fn without_replicas() -> Self {
        Self { replicas: Vec::new(), service: Proxy::start(Vec::new()).await }
    }

    /// Adds a replica to the Service as soon as it is ready, as Kubernetes does.
    pub async fn join(&mut self, plane: &Plane, replica: Replica) {
        plane.until("the new replica is ready", async |_| replica.is_ready().await).await;
        self.service.add_endpoint(replica.port);
        self.replicas.push(replica);
    }

    /// Waits until all replicas are ready, and until the API server calls the webhooks: this takes
    /// a moment after they are registered.
    pub async fn until_ready(&self, plane: &Plane) {
        for replica in &self.replicas {
            plane.until("the gate is ready", async |_| replica.is_ready().await).await;
        }
        self.until_called(plane, &["mutate", "validate"]).await;
    }

    /// Applies the permissions and the configuration of another overlay.
    pub async fn apply_overlay(&self, plane: &Plane, overlay: &str) {
        let objects = rendered(plane, overlay);
        self.configure(plane, &configuration(&objects)).await;
        apply_beside_registration(plane, objects);
    }

    /// Replaces the configuration, and waits until every replica has reloaded it.
    pub async fn configure(&self, plane: &Plane, configuration: &str) {
        // A replica logs every reload at level INFO with the names of the files.
        let is_reload = |line: &&str| line.contains(r#""level":"INFO""#) && line.contains("config.yaml");
        let reloads = || -> Vec<usize> {
            self.replicas.iter().map(|replica| replica.log().lines().filter(is_reload).count()).collect()
        };
        let before = reloads();
        fs::write(plane.folder.path().join("config.yaml"), configuration).unwrap();
        let all_have = || reloads().iter().zip(&before).all(|(now, before)| now > before);
        plane.until("the configuration is in force", async |_| all_have()).await;
    }

    /// Waits until the API server calls these webhooks, in this order, and no other.
    pub async fn until_called(&self, plane: &Plane, webhooks: &[&str]) {
        // Valid evidence on a Node that is never stored.
        let probe = json!({"metadata": {"name": "probe", "annotations": {"fencegate.dev/proof": "probe"}}});
        plane
            .until("the API server calls the webhooks", async |plane| {
                let before = self.audit_log().len();
                let path = "/api/v1/nodes?dryRun=All";
                let _ = plane.api("admin", http::Method::POST, path, Some(probe.clone())).await;
                let log = self.audit_log();
                let called: Vec<&str> = log[before..].iter().filter_map(|line| line["webhook"].as_str()).collect();
                called == webhooks
            })
            .await;
    }

    /// The Service as a name of this machine, and webhook configurations that call its port here.
    pub fn within_reach(&self, mut object: Value) -> Value {
        if is_webhook(&object) {
            for entry in object["webhooks"].as_array_mut().unwrap() {
                entry["clientConfig"]["service"]["port"] = json!(self.service.port);
            }
        } else if object["kind"] == "Service" {
            object["spec"] = json!({"type": "ExternalName", "externalName": "localhost"});
        }
        object
    }

    /// Kills all replicas.
    pub fn stop(&mut self) {
        self.replicas.iter_mut().for_each(Replica::kill);
    }

    /// Removes a replica from the Service: it gets no new connections, as if it were not ready or
    /// gone.
    pub fn remove_endpoint(&self, number: usize) {
        let port = self.replicas[number].port;
        self.service.remove_endpoint(port);
    }

    /// The number of reviews that reached the gate.
    pub async fn reviews(&self) -> u64 {
        let mut sum = 0;
        for replica in &self.replicas {
            let text = replica.telemetry("/metrics").await;
            let line = text.lines().find(|line| line.starts_with("fencegate_decision_duration_seconds_count"));
            let line = line.unwrap_or_else(|| panic!("the metric is not in\n{text}"));
            sum += line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        }
        sum
    }

    /// The audit log of all replicas, in order of time.
    pub fn audit_log(&self) -> Vec<Value> {
        let text: String = self.replicas.iter().map(Replica::log).collect();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut lines: Vec<Value> = lines.filter(|line: &Value| line["event"] == "decision").collect();
        lines.sort_by_key(|line| line["ts"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
        lines
    }
}

impl Replica {
    pub async fn start(plane: &Plane, number: usize, more: &[&str]) -> Self {
        Self::start_at(plane, number, more, 0).await
    }

    /// The same, with a wall clock that is this many seconds ahead.
    pub async fn start_at(plane: &Plane, number: usize, more: &[&str], clock: i64) -> Self {
        Self::start_in(plane, HOME, number, more, clock).await
    }

    async fn start_in(plane: &Plane, home: Home, number: usize, more: &[&str], clock: i64) -> Self {
        let (namespace, token) = home;
        let uplink = Proxy::start(vec![plane.port()]).await;
        let kubeconfig = plane.kubeconfig_via(token, uplink.port, number);
        let path = |name: &str| plane.folder.path().join(name);
        let (port, telemetry) = (free_port(), free_port());
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--telemetry-listen=127.0.0.1:{telemetry}"),
            format!("--config={}", path("config.yaml").display()),
            format!("--namespace={namespace}"),
            format!("--identity=replica-{number}"),
            "--certificate-interval=500ms".to_owned(),
            "--drain=3s".to_owned(),
        ];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let log = path(&format!("gate-{number}.log"));
        let mut environment = vec![("KUBECONFIG", kubeconfig)];
        if clock != 0 {
            environment.extend([("LD_PRELOAD", clock_library(plane)), ("CLOCK_OFFSET", clock.to_string())]);
        }
        let child = keep(&program(), &arguments, &log, &environment);
        Self { port, uplink, telemetry, child: Some(child), log }
    }

    /// Everything that the replica wrote to standard output and standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGTERM, as the kubelet does.
    pub fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// Sends the signal with this name.
    pub fn signal(&mut self, name: &str) {
        signal(self.child.as_mut().unwrap(), name);
    }

    /// The most memory that the program has had in RAM so far, in bytes.
    pub fn most_memory(&self) -> u64 {
        let keeper = self.child.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        memory(children.split(' ').next().unwrap().parse().unwrap(), "VmHWM:")
    }

    /// Sends SIGKILL, which has the effect of a power failure.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    pub async fn is_ready(&self) -> bool {
        self.telemetry("/readyz").await.starts_with("HTTP/1.1 200")
    }

    /// Whether the replica still answers on the telemetry port.
    pub async fn is_alive(&self) -> bool {
        self.telemetry("/livez").await.starts_with("HTTP/1.1 200")
    }

    /// The HTTP response of the telemetry port to a GET. Empty if there is none.
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

/// The path of the library that moves a program's wall clock. It is built once for each control
/// plane, with the C compiler that Rust needs as its linker.
fn clock_library(plane: &Plane) -> String {
    let library = plane.folder.path().join("clock.so");
    if !library.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(built.unwrap().success(), "the library that moves a clock could not be built");
    }
    library.display().to_string()
}

/// The program under test. Cargo tells tests its path; an example is built next to it, or is told
/// by `FENCEGATE`.
pub fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("FENCEGATE") {
        return given.into();
    }
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("fencegate");
    option_env!("CARGO_BIN_EXE_fencegate").map_or_else(beside, PathBuf::from)
}

/// The objects of an overlay, rendered with kustomize.
pub fn rendered(plane: &Plane, overlay: &str) -> Vec<Value> {
    built(plane, &Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/overlays").join(overlay))
}

/// The objects of a folder, rendered with kustomize.
pub fn built(plane: &Plane, folder: &Path) -> Vec<Value> {
    let rendered = plane.kubectl("admin", &["kustomize", folder.to_str().unwrap()], "");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout).unwrap()).unwrap()
}

/// The objects of an overlay with this text, in which REPOSITORY is the path of the repository.
pub fn customized(plane: &Plane, kustomization: &str) -> Vec<Value> {
    let folder = tempfile::tempdir_in(plane.folder.path()).unwrap();
    // Kustomize reads no folder by its absolute path.
    let up = "../".repeat(folder.path().components().count() - 1);
    let repository = format!("{up}{}", env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
    fs::write(folder.path().join("kustomization.yaml"), kustomization.replace("REPOSITORY", &repository)).unwrap();
    built(plane, folder.path())
}

/// The gate's configuration in a set of manifests, with the sources that the Deployment names. A
/// replica that runs reloads only its configuration.
pub fn configuration(objects: &[Value]) -> String {
    let is_config_map = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "fencegate";
    let text = objects.iter().find(is_config_map).unwrap()["data"]["config.yaml"].as_str().unwrap();
    let mut configuration: Value = serde_saphyr::from_str(text).unwrap();
    let sources = source_arguments(objects).into_iter().map(|source| json!(source.trim_start_matches("--source=")));
    configuration["evidence"]["sources"].as_array_mut().unwrap().extend(sources);
    configuration.to_string()
}

/// The arguments of the Deployment that name sources.
pub fn source_arguments(objects: &[Value]) -> Vec<&str> {
    shipped_arguments(objects).into_iter().filter(|argument| argument.starts_with("--source=")).collect()
}

/// The arguments of the Deployment that do not name files of its pods.
pub fn shipped_arguments(objects: &[Value]) -> Vec<&str> {
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let arguments = arguments.iter().map(|argument| argument.as_str().unwrap());
    let names_file = |argument: &&str| argument.starts_with("--config=") || argument.starts_with("--tls-");
    arguments.skip(1).filter(|argument| !names_file(argument)).collect()
}

/// Applies the default manifests without the webhooks, so that only the ValidatingAdmissionPolicy
/// guards the taint.
pub async fn policy_alone(plane: &Plane) {
    let mut objects = rendered(plane, "default");
    objects.retain(|object| !is_webhook(object));
    apply_all_but_webhooks(plane, &objects).await;
}

/// Applies all objects except the webhooks, and waits until the policy is in force. With the
/// webhooks, a test could not tell which of them denied a write.
pub async fn apply_all_but_webhooks(plane: &Plane, objects: &[Value]) {
    apply(plane, objects);
    plane.until("the policy is in force", async |plane| denied_by_policy(plane).await).await;
}

/// Applies objects, except what stands between the API server and the replicas.
pub fn apply_beside_registration(plane: &Plane, mut objects: Vec<Value>) {
    objects.retain(|object| !is_webhook(object) && object["kind"] != "Service");
    apply(plane, &objects);
}

pub fn is_webhook(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("WebhookConfiguration"))
}

pub fn apply(plane: &Plane, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let applied = plane.kubectl("admin", &["apply", "-f", "-"], &list);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// Whether the policy denies a Node with the taint and without evidence.
async fn denied_by_policy(plane: &Plane) -> bool {
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"});
    let probe = json!({"metadata": {"name": "probe"}, "spec": {"taints": [taint]}});
    let created = plane.api("admin", http::Method::POST, "/api/v1/nodes?dryRun=All", Some(probe)).await;
    created.is_err_and(|error| error.message.contains("ValidatingAdmissionPolicy 'fencegate'"))
}
