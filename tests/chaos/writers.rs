//! Writers of every kind. Each knows before it writes whether the gate guards the write.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    harness::plane::{MERGE, Plane, send},
    history::objects::TAINT,
    random::Random,
};

/// How the names of Nodes start that are written to before the gate is registered. No law holds for
/// them.
pub const BASELINE: &str = "baseline";
pub const JSON: &str = "application/json";

/// A machine behind a Node.
pub struct Machine {
    pub name: String,
    /// Whether its kubelet sends heartbeats.
    pub on: AtomicBool,
    /// Whether somebody follows the procedure, and keeps the machine off.
    pub held: AtomicBool,
    pub boot: AtomicU64,
}

/// The answer to one write.
#[derive(Clone, Debug)]
pub struct Sample {
    pub kind: &'static str,
    pub guarded: bool,
    pub of_node: bool,
    pub start: Instant,
    pub took: Duration,
    /// 0: there was no answer.
    pub code: u16,
    /// What admission said.
    pub refused: Option<String>,
}

/// What all writers share.
pub struct Writers {
    pub machines: Vec<Machine>,
    pub samples: Mutex<Vec<Sample>>,
    /// The number of answers.
    pub answers: AtomicUsize,
    pub stop: AtomicBool,
    pub admin: Client,
    pub alice: Client,
    pub oncall: Client,
    pub kubelets: Vec<Client>,
}

impl Writers {
    /// The Nodes `n1` to `n<count>`, or those before the gate is registered.
    pub fn new(plane: &Plane, count: usize, is_baseline: bool) -> Arc<Self> {
        let prefix = if is_baseline { BASELINE } else { "n" };
        let machine = |number: usize| Machine {
            name: format!("{prefix}{number}"),
            on: AtomicBool::new(number.is_multiple_of(2)),
            held: AtomicBool::new(false),
            boot: AtomicU64::new(1),
        };
        Arc::new(Self {
            machines: (1..=count).map(machine).collect(),
            samples: Mutex::default(),
            answers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            admin: plane.client("admin"),
            alice: plane.client("alice"),
            oncall: plane.client("oncall"),
            kubelets: ["node-n1", "node-n2", "node-n3"].map(|token| plane.client(token)).to_vec(),
        })
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Creates all Nodes.
    pub async fn create_nodes(&self) {
        for machine in &self.machines {
            let node = json!({"metadata": {"name": machine.name, "labels": {"chaos": "true"}}});
            send(&self.admin, Method::POST, JSON, "/api/v1/nodes", Some(node)).await.unwrap();
        }
    }

    /// Writes what nobody guards, until all stop.
    pub async fn write(self: Arc<Self>, mut random: Random) {
        let mut copy = Value::Null;
        while !self.is_stopped() {
            let machine = random.pick(&self.machines);
            self.unguarded(&mut random, machine, &mut copy).await;
        }
    }

    /// Writes guarded things in any order, until all stop.
    pub async fn tamper(self: Arc<Self>, mut random: Random) {
        while !self.is_stopped() {
            let machine = random.pick(&self.machines);
            self.any(&mut random, machine).await;
        }
    }

    /// Follows Kubernetes' procedure, in the right order, until all stop.
    pub async fn follow(self: Arc<Self>, mut random: Random) {
        while !self.is_stopped() {
            let machine = random.pick(&self.machines);
            if machine.held.swap(true, Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            machine.on.store(false, Ordering::Relaxed);
            self.condition(machine, "Unknown").await;
            // The Lease's duration, 1 s, and the gate's clockSkew, 1 s, in whole seconds.
            tokio::time::sleep(Duration::from_millis(3_100)).await;
            let path = node_path(machine);
            let evidence = json!({"metadata": {"annotations": evidence(&mut random, "follower")}});
            self.insist("attest", &self.alice, &path, &evidence).await;
            if self.insist("place", &self.alice, &path, &tainted(&json!([entry("NoExecute", "nodeshutdown")]))).await {
                for number in 0..4 {
                    self.unbind(machine, number).await;
                }
                self.insist("release", &self.alice, &path, &tainted(&Value::Null)).await;
            }
            machine.boot.fetch_add(1, Ordering::Relaxed);
            machine.on.store(true, Ordering::Relaxed);
            self.condition(machine, "True").await;
            machine.held.store(false, Ordering::Relaxed);
        }
    }

    /// Repeats a guarded write a few times. Whether it was stored.
    async fn insist(&self, kind: &'static str, client: &Client, path: &str, change: &Value) -> bool {
        for _ in 0..6 {
            if self.guarded(kind, client, Method::PATCH, path, change.clone()).await.is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// The kubelet, or the node controller, writes the `Ready` condition.
    pub async fn condition(&self, machine: &Machine, status: &str) {
        let now = Timestamp::now().strftime("%FT%TZ").to_string();
        let boot = machine.boot.load(Ordering::Relaxed);
        let ready = json!({"type": "Ready", "status": status, "reason": "r", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let mut patch = json!({"status": {"conditions": [ready]}});
        if status == "True" {
            patch["status"]["nodeInfo"] = json!({"bootID": format!("boot-{boot}"), "architecture": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "",
                "osImage": "", "systemUUID": ""});
        }
        let kind = if status == "True" { "heartbeat" } else { "condition" };
        self.patch(kind, &format!("{}/status", node_path(machine)), patch).await;
        if status == "True" {
            self.renew(machine).await;
        }
    }

    pub async fn renew(&self, machine: &Machine) {
        let time = Timestamp::now().strftime("%FT%T.%6fZ").to_string();
        let lease = json!({"metadata": {"name": machine.name},
            "spec": {"holderIdentity": machine.name, "leaseDurationSeconds": 1, "renewTime": time}});
        let path = format!("{LEASES}/{}", machine.name);
        if self.other("renew", Method::PATCH, &path, Some(lease.clone())).await == 404 {
            self.other("renew", Method::POST, LEASES, Some(lease)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        let text = send(&self.admin, Method::GET, JSON, path, None).await.ok()?;
        serde_json::from_str(&text).ok()
    }

    /// An unguarded merge patch of a Node.
    pub async fn patch(&self, kind: &'static str, path: &str, change: Value) -> Option<String> {
        self.request(kind, false, &self.admin, Method::PATCH, MERGE, path, Some(change)).await
    }

    pub async fn guarded(
        &self,
        kind: &'static str,
        client: &Client,
        method: Method,
        path: &str,
        body: Value,
    ) -> Option<String> {
        let content = if method == Method::PATCH { MERGE } else { JSON };
        self.request(kind, true, client, method, content, path, Some(body)).await
    }

    /// A write to something else than a Node. Returns the code, 200 for all that are good.
    pub async fn other(&self, kind: &'static str, method: Method, path: &str, body: Option<Value>) -> u16 {
        let content = if method == Method::PATCH { MERGE } else { JSON };
        let start = Instant::now();
        let answer = send(&self.admin, method, content, path, body).await;
        self.keep(kind, false, false, start, answer.as_ref().err()).await
    }

    #[expect(clippy::too_many_arguments, reason = "a request has that many parts")]
    pub async fn request(
        &self,
        kind: &'static str,
        guarded: bool,
        client: &Client,
        method: Method,
        content: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<String> {
        let start = Instant::now();
        let answer = send(client, method, content, path, body).await;
        self.keep(kind, guarded, true, start, answer.as_ref().err()).await;
        answer.ok()
    }

    async fn keep(
        &self,
        kind: &'static str,
        guarded: bool,
        of_node: bool,
        start: Instant,
        error: Option<&crate::harness::plane::ApiError>,
    ) -> u16 {
        let took = start.elapsed();
        let code = error.map_or(200, |error| error.code);
        let is_of_admission = |text: &&String| text.contains("webhook") || text.contains("ValidatingAdmissionPolicy");
        let refused = error.map(|error| &error.message).filter(is_of_admission).cloned();
        self.samples.lock().unwrap().push(Sample { kind, guarded, of_node, start, took, code, refused });
        if code == 0 {
            // The API server is down. Its clients wait before they try again.
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        code
    }
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

pub fn node_path(machine: &Machine) -> String {
    format!("/api/v1/nodes/{}", machine.name)
}

pub fn entry(effect: &str, value: &str) -> Value {
    json!({"key": TAINT, "effect": effect, "value": value})
}

/// A patch that replaces all taints.
pub fn tainted(taints: &Value) -> Value {
    json!({"spec": {"taints": taints}})
}

/// Complete evidence. Its time is told by the gate or by the writer, who may have written it down a
/// while ago.
pub fn evidence(random: &mut Random, by: &str) -> Value {
    let method = *random.pick(&["power-off", "instance-stop", "hardware-removal", "power-off"]);
    let ago = jiff::SignedDuration::from_secs(*random.pick(&[0, 1, 2, 35]));
    let time = (Timestamp::now() - ago).strftime("%FT%TZ").to_string();
    let at = random.pick(&["now".to_owned(), time]).clone();
    json!({"fencegate.dev/method": method, "fencegate.dev/fenced-at": at, "fencegate.dev/fenced-by": by})
}
