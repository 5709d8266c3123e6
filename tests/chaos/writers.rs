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
    harness::plane::{MERGE, Plane, STRATEGIC, send},
    history::objects::{EVIDENCE, TAINT},
    random::Random,
};

/// How the names of Nodes start that are written to before the gate is registered. No law holds for
/// them.
pub const BASELINE: &str = "baseline";
const JSON: &str = "application/json";

/// A machine behind a Node.
pub struct Machine {
    pub name: String,
    /// Whether its kubelet sends heartbeats.
    pub on: AtomicBool,
    /// Whether somebody follows the procedure, and keeps the machine off.
    held: AtomicBool,
    boot: AtomicU64,
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
    admin: Client,
    alice: Client,
    oncall: Client,
    kubelets: Vec<Client>,
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

    async fn any(&self, random: &mut Random, machine: &Machine) {
        match random.below(10) {
            0..=2 => self.things(random, machine).await,
            3..=5 => self.attest(random, machine).await,
            6 | 7 => self.taint(random, machine).await,
            8 => self.life(random, machine).await,
            _ => self.break_rules(random, machine).await,
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
    async fn insist(&self, kind: &'static str, client: &Client, path: &str, patch: &Value) -> bool {
        for _ in 0..6 {
            if self.guarded(kind, client, Method::PATCH, path, patch.clone()).await.is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// Writes that touch neither the taint nor the gate's annotations.
    async fn unguarded(&self, random: &mut Random, machine: &Machine, copy: &mut Value) {
        let path = node_path(machine);
        let label = json!({"metadata": {"labels": {"at": random.below(1 << 30).to_string()}}});
        let is_on = machine.on.load(Ordering::Relaxed);
        match random.below(14) {
            0 | 1 => drop(self.patch("label", &path, label).await),
            2 | 3 if is_on => self.condition(machine, "True").await,
            2 | 3 => self.condition(machine, *random.pick(&["Unknown", "False"])).await,
            4 | 5 if is_on => self.renew(machine).await,
            4..=6 => {
                let annotation = json!({"metadata": {"annotations": {"example.com/at": random.below(9).to_string()}}});
                self.patch("annotation of others", &path, annotation).await;
            }
            7 => {
                let value = random.below(9).to_string();
                self.add_taint("taint of others", &path, json!({"key": "example.com/mine", "value": value, "effect": "NoSchedule"})).await;
            }
            8 => drop(self.patch("cordon", &path, json!({"spec": {"unschedulable": random.percent(50)}})).await),
            9 => drop(self.patch("dry run", &format!("{path}?dryRun=All"), label).await),
            10 => {
                let finalizers = json!({"metadata": {"finalizers": ["example.com/hold"]}});
                self.patch("finalizer", &path, finalizers).await;
            }
            // The copy is current, or another writer comes first.
            11 | 12 => {
                let Some(mut node) = self.get(&path).await else { return };
                node["metadata"]["labels"]["at"] = json!(random.below(1 << 30).to_string());
                let (kind, path) = if random.percent(50) { ("put", path) } else { ("put status", format!("{path}/status")) };
                *copy = node.clone();
                self.request(kind, false, &self.admin, Method::PUT, JSON, &path, Some(node)).await;
            }
            // The copy is stale, or of a Node that is gone.
            _ => {
                let Some(name) = copy["metadata"]["name"].as_str() else { return };
                let path = format!("/api/v1/nodes/{name}");
                let path = if random.percent(50) { path } else { format!("{path}/status") };
                self.request("stale put", false, &self.admin, Method::PUT, JSON, &path, Some(copy.clone())).await;
            }
        }
    }

    /// Pods and attachments come and go.
    async fn things(&self, random: &mut Random, machine: &Machine) {
        let number = random.below(4);
        if random.percent(60) {
            return self.unbind(machine, number).await;
        }
        if number == 3 {
            let attachment = json!({"metadata": {"name": format!("va-{}", machine.name)}, "spec": {"attacher": "other.test",
                "nodeName": machine.name, "source": {"persistentVolumeName": format!("pv-{}", machine.name)}}});
            self.other("attach", Method::POST, ATTACHMENTS, Some(attachment)).await;
            return;
        }
        let mut pod = json!({"metadata": {"name": format!("p{number}-{}", machine.name)}, "spec": {"nodeName": machine.name,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "i"}]}});
        match number {
            0 => pod["metadata"]["labels"] = json!({"statefulset.kubernetes.io/pod-name": "db-0"}),
            1 => pod["spec"]["volumes"] = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]),
            _ => {
                pod["spec"]["volumes"] = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]);
                pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
            }
        }
        self.other("bind", Method::POST, PODS, Some(pod)).await;
    }

    /// Removes a pod or the attachment.
    async fn unbind(&self, machine: &Machine, number: u64) {
        let (kind, path) = match number {
            3 => ("detach", format!("{ATTACHMENTS}/va-{}", machine.name)),
            _ => ("unbind", format!("{PODS}/p{number}-{}", machine.name)),
        };
        self.other(kind, Method::DELETE, &path, Some(json!({"gracePeriodSeconds": 0}))).await;
    }

    /// Evidence that is complete, in part, malformed, withdrawn, or through another subresource.
    async fn attest(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let mut annotations = evidence(random, "someone");
        let mut target = path.clone();
        let kind = match random.below(8) {
            0..=2 => "attest",
            3 => {
                annotations = json!({"fencegate.dev/proof": random.below(99).to_string()});
                "attest in part"
            }
            4 => {
                annotations["fencegate.dev/fenced-at"] = json!(random.pick(&["yesterday", "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"]));
                "attest wrongly"
            }
            5 => {
                for key in EVIDENCE {
                    annotations[format!("fencegate.dev/{key}")] = Value::Null;
                }
                "withdraw evidence"
            }
            6 => {
                target = format!("{path}/status");
                "attest through status"
            }
            _ => {
                annotations = json!({"fencegate.dev/hold": random.pick(&[json!("wait"), Value::Null])});
                "hold"
            }
        };
        self.guarded(kind, &self.alice, Method::PATCH, &target, json!({"metadata": {"annotations": annotations}})).await;
    }

    /// The taint comes, changes and goes, in the right order or not.
    async fn taint(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let effect = *random.pick(&["NoExecute", "NoExecute", "NoSchedule", "PreferNoSchedule"]);
        let value = *random.pick(&["nodeshutdown", "other", ""]);
        let placed = tainted(&json!([entry(effect, value)]));
        let client = &self.alice;
        match random.below(9) {
            0 => drop(self.guarded("place", client, Method::PATCH, &path, placed).await),
            1 | 2 => {
                let mut both = placed;
                both["metadata"] = json!({"annotations": evidence(random, "at once")});
                self.guarded("place with evidence", client, Method::PATCH, &path, both).await;
            }
            3 => {
                let dry = format!("{path}?dryRun=All");
                self.guarded("place, dry run", client, Method::PATCH, &dry, placed).await;
            }
            4 => {
                let apply = format!("{path}?fieldManager=chaos&force=true");
                let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": machine.name}, "spec": placed["spec"]});
                let content = "application/apply-patch+yaml";
                self.request("apply the taint", true, client, Method::PATCH, content, &apply, Some(object)).await;
            }
            5 => {
                let two = tainted(&json!([entry("NoExecute", value), entry("NoSchedule", "")]));
                self.guarded("place twice", client, Method::PATCH, &path, two).await;
            }
            6 => {
                let Some(mut node) = self.get(&path).await else { return };
                node["spec"]["taints"] = json!([entry(effect, value)]);
                if random.percent(50) {
                    node["metadata"]["resourceVersion"] = json!("1");
                }
                self.guarded("put the taint", client, Method::PUT, &path, node).await;
            }
            7 => {
                // A cloud says that the instance is stopped.
                let key = "node.cloudprovider.kubernetes.io/shutdown";
                self.add_taint("cloud shutdown", &path, json!({"key": key, "effect": "NoSchedule"})).await;
            }
            _ => drop(self.guarded("release", client, Method::PATCH, &path, tainted(&Value::Null)).await),
        }
    }

    /// Machines stop and start, Nodes are deleted and created again.
    async fn life(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let name = &machine.name;
        match random.below(10) {
            0..=2 => machine.on.store(false, Ordering::Relaxed),
            3 | 4 if !machine.held.load(Ordering::Relaxed) => {
                machine.boot.fetch_add(1, Ordering::Relaxed);
                machine.on.store(true, Ordering::Relaxed);
                self.renew(machine).await;
            }
            5 => {
                self.guarded("delete", &self.alice, Method::DELETE, &path, json!({})).await;
                let node = json!({"metadata": {"name": name, "labels": {"chaos": "true"}}});
                self.request("create", false, &self.admin, Method::POST, JSON, "/api/v1/nodes", Some(node)).await;
            }
            3 | 4 | 6 | 7 => {
                let node = json!({"metadata": {"name": name, "labels": {"chaos": "true"}}});
                self.request("create", false, &self.admin, Method::POST, JSON, "/api/v1/nodes", Some(node)).await;
            }
            8 => {
                let mut node = json!({"metadata": {"name": name, "annotations": evidence(random, "creator")}});
                if random.percent(50) {
                    node["spec"] = json!({"taints": [entry("NoExecute", "")]});
                }
                self.guarded("create guarded", &self.alice, Method::POST, "/api/v1/nodes", node).await;
            }
            // Whether it is guarded depends on what others did meanwhile.
            _ => {
                let free = json!({"metadata": {"finalizers": null}});
                self.guarded("empty the finalizers", &self.alice, Method::PATCH, &path, free).await;
            }
        }
    }

    /// Forged stamps, kubelets that vouch for a node, and people who break the glass.
    async fn break_rules(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let ago = Timestamp::now() - jiff::SignedDuration::from_mins(4);
        match random.below(6) {
            0 => {
                let stamp = *random.pick(&["placed-at", "recorded-at", "overridden-at", "break-glass-at"]);
                let forged = json!({"metadata": {"annotations": {format!("fencegate.dev/{stamp}"): ago.to_string()}}});
                self.guarded("forge a time", &self.alice, Method::PATCH, &path, forged).await;
            }
            1 => {
                let stamp = *random.pick(&["placed-by", "recorded-by", "overridden-by", "source", "last-outage"]);
                let value = random.pick(&[json!("alice"), json!("bob"), Value::Null]).clone();
                let forged = json!({"metadata": {"annotations": {format!("fencegate.dev/{stamp}"): value}}});
                self.guarded("forge a name", &self.alice, Method::PATCH, &path, forged).await;
            }
            2 => {
                let mut both = tainted(&json!([entry("NoExecute", "")]));
                both["metadata"] = json!({"annotations": evidence(random, "forger")});
                both["metadata"]["annotations"]["fencegate.dev/placed-at"] = json!(ago.to_string());
                self.guarded("place with a stamp", &self.alice, Method::PATCH, &path, both).await;
            }
            3 => {
                let (number, kubelet) = (random.below(3), json!({"metadata": {"annotations": evidence(random, "kubelet")}}));
                let path = format!("/api/v1/nodes/{}", self.machines[usize::try_from(number).unwrap()].name);
                let path = if random.percent(50) { path } else { format!("{path}/status") };
                let client = &self.kubelets[usize::try_from(number).unwrap()];
                self.guarded("vouch for itself", client, Method::PATCH, &path, kubelet).await;
            }
            4 => {
                let place = random.percent(50);
                let mut both = tainted(&if place { json!([entry("NoExecute", "")]) } else { Value::Null });
                both["metadata"] = json!({"annotations": {"fencegate.dev/break-glass": "drill"}});
                self.guarded("break the glass", &self.oncall, Method::PATCH, &path, both).await;
            }
            _ => {
                let drill = json!({"metadata": {"annotations": {"fencegate.dev/break-glass": random.pick(&[json!("drill"), Value::Null])}}});
                self.guarded("break-glass", &self.oncall, Method::PATCH, &path, drill).await;
            }
        }
    }

    /// The kubelet, or the node controller, writes the `Ready` condition.
    async fn condition(&self, machine: &Machine, status: &str) {
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

    async fn renew(&self, machine: &Machine) {
        let time = Timestamp::now().strftime("%FT%T.%6fZ").to_string();
        let lease = json!({"metadata": {"name": machine.name},
            "spec": {"holderIdentity": machine.name, "leaseDurationSeconds": 1, "renewTime": time}});
        let path = format!("{LEASES}/{}", machine.name);
        if self.other("renew", Method::PATCH, &path, Some(lease.clone())).await == 404 {
            self.other("renew", Method::POST, LEASES, Some(lease)).await;
        }
    }

    /// Adds a taint of others as the node controllers do: with the whole list, and with the version
    /// that the list was read from.
    async fn add_taint(&self, kind: &'static str, path: &str, taint: Value) {
        let Some(node) = self.get(path).await else { return };
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|other| other["key"] != taint["key"]);
        taints.push(taint);
        let patch = json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
        self.request(kind, false, &self.admin, Method::PATCH, STRATEGIC, path, Some(patch)).await;
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let text = send(&self.admin, Method::GET, JSON, path, None).await.ok()?;
        serde_json::from_str(&text).ok()
    }

    /// An unguarded merge patch of a Node.
    async fn patch(&self, kind: &'static str, path: &str, patch: Value) -> Option<String> {
        self.request(kind, false, &self.admin, Method::PATCH, MERGE, path, Some(patch)).await
    }

    async fn guarded(&self, kind: &'static str, client: &Client, method: Method, path: &str, body: Value) -> Option<String> {
        let content = if method == Method::PATCH { MERGE } else { JSON };
        self.request(kind, true, client, method, content, path, Some(body)).await
    }

    /// A write to something else than a Node. Returns the code, 200 for all that are good.
    async fn other(&self, kind: &'static str, method: Method, path: &str, body: Option<Value>) -> u16 {
        let content = if method == Method::PATCH { MERGE } else { JSON };
        let start = Instant::now();
        let answer = send(&self.admin, method, content, path, body).await;
        self.keep(kind, false, false, start, answer.as_ref().err()).await
    }

    #[expect(clippy::too_many_arguments, reason = "a request has that many parts")]
    async fn request(
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

const PODS: &str = "/api/v1/namespaces/default/pods";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn node_path(machine: &Machine) -> String {
    format!("/api/v1/nodes/{}", machine.name)
}

fn entry(effect: &str, value: &str) -> Value {
    json!({"key": TAINT, "effect": effect, "value": value})
}

/// A patch that replaces all taints.
fn tainted(taints: &Value) -> Value {
    json!({"spec": {"taints": taints}})
}

/// Complete evidence. Its time is told by the gate or by the writer, who may have written it down a
/// while ago.
fn evidence(random: &mut Random, by: &str) -> Value {
    let method = *random.pick(&["power-off", "instance-stop", "hardware-removal", "power-off"]);
    let ago = jiff::SignedDuration::from_secs(*random.pick(&[0, 1, 2, 35]));
    let time = (Timestamp::now() - ago).strftime("%FT%TZ").to_string();
    let at = random.pick(&["now".to_owned(), time]).clone();
    json!({"fencegate.dev/method": method, "fencegate.dev/fenced-at": at, "fencegate.dev/fenced-by": by})
}
