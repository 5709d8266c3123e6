//! Simulates what a cluster cannot see: the real state of machines, and disks that know who writes
//! to them.
//!
//! A machine is on or off, and it reaches the API server or not. Its kubelet is a task that calls
//! the API server with the node's own credentials. As long as the machine is on, its processes
//! write to the disks that it has mounted, independent of the state in the API.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::{
    csi::DRIVER,
    plane::{ApiError, Plane, call},
};

/// The storage. For every disk, it knows which process wrote to it, and when.
#[derive(Default)]
pub struct San {
    writers: Mutex<BTreeMap<String, BTreeMap<String, Instant>>>,
    shared: Mutex<Vec<String>>,
}

/// A process writes every 100 ms, so if two processes wrote within this time, both are alive.
const ALIVE: Duration = Duration::from_millis(500);

/// Aborts tasks when the test ends.
pub struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl San {
    fn write(&self, disk: &str, process: &str) {
        let mut writers = lock(&self.writers);
        let of_disk = writers.entry(disk.to_owned()).or_default();
        of_disk.insert(process.to_owned(), Instant::now());
        let alive: Vec<&String> =
            of_disk.iter().filter(|(_, last)| last.elapsed() < ALIVE).map(|(process, _)| process).collect();
        if alive.len() > 1 {
            lock(&self.shared).push(format!("{disk}: {alive:?}"));
        }
    }

    /// The disks that two processes wrote to at the same time. This is the corruption that the gate
    /// must prevent.
    pub fn corrupted(&self) -> Vec<String> {
        lock(&self.shared).clone()
    }

    /// The number of disks that were written to.
    pub fn disks(&self) -> usize {
        lock(&self.writers).len()
    }
}

/// A machine, with the name of its Node.
pub struct Machine {
    pub name: String,
    state: Arc<Mutex<State>>,
}

struct State {
    on: bool,
    reaches_api: bool,
    unmounts: bool,
    boot: u32,
    /// The running pods: by UID, name and disks.
    running: BTreeMap<String, (String, Vec<String>)>,
    /// The mounted disks, by the pod's UID.
    mounted: BTreeMap<String, Vec<String>>,
}

impl State {
    /// Whether the machine runs in this boot. Nothing that a kubelet does outlives its boot.
    fn is_in(&self, boot: u32) -> bool {
        self.on && self.boot == boot
    }

    /// The boot in which the machine runs and reaches the API server.
    fn reaches_in(&self) -> Option<u32> {
        (self.on && self.reaches_api).then_some(self.boot)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Machine {
    /// Turns the machine off. No process runs and no disk is mounted any more.
    pub fn power_off(&self) {
        let mut state = lock(&self.state);
        state.on = false;
        state.running.clear();
        state.mounted.clear();
    }

    /// Turns the machine on, in a new boot, or boots it again.
    pub fn boot(&self) {
        self.power_off();
        let mut state = lock(&self.state);
        state.on = true;
        state.boot += 1;
    }

    pub fn is_on(&self) -> bool {
        lock(&self.state).on
    }

    /// Cuts the machine off from the API server. Its processes keep running.
    pub fn cut_off(&self) {
        lock(&self.state).reaches_api = false;
    }

    /// Ends [`Machine::cut_off`]. The machine is still in the same boot.
    pub fn reconnect(&self) {
        lock(&self.state).reaches_api = true;
    }

    /// From now on, every unmount hangs.
    pub fn hang_unmounts(&self) {
        lock(&self.state).unmounts = false;
    }

    /// The disks that are really mounted.
    pub fn mounted(&self) -> Vec<String> {
        lock(&self.state).mounted.values().flatten().cloned().collect()
    }
}

/// Starts machines `n1` to `n3`, their processes, and the storage behind them.
pub fn start(plane: &mut Plane) -> (Vec<Machine>, Arc<San>, Tasks) {
    let san = Arc::new(San::default());
    let mut tasks = vec![plane.start_attacher()];
    let machines: Vec<Machine> = ["n1", "n2", "n3"]
        .into_iter()
        .map(|name| {
            let state = State {
                on: true,
                reaches_api: true,
                unmounts: true,
                boot: 1,
                running: BTreeMap::new(),
                mounted: BTreeMap::new(),
            };
            Machine { name: name.to_owned(), state: Arc::new(Mutex::new(state)) }
        })
        .collect();
    for machine in &machines {
        let (name, state, san) = (machine.name.clone(), Arc::clone(&machine.state), Arc::clone(&san));
        tasks.push(tokio::spawn(processes(name.clone(), Arc::clone(&state), san)).abort_handle());
        let kubelet =
            Kubelet { client: plane.client(&format!("node-{name}")), admin: plane.client("admin"), name, state };
        tasks.push(tokio::spawn(kubelet.run()).abort_handle());
    }
    (machines, san, Tasks(tasks))
}

async fn processes(name: String, state: Arc<Mutex<State>>, san: Arc<San>) {
    loop {
        let running: Vec<(String, Vec<String>)> = {
            let state = lock(&state);
            if state.on { state.running.values().cloned().collect() } else { Vec::new() }
        };
        for (pod, disks) in running {
            for disk in &disks {
                san.write(disk, &format!("{pod} on {name}"));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

struct Kubelet {
    client: Client,
    /// Reads which volumes are attached. A real kubelet learns this from its Node's status.
    admin: Client,
    name: String,
    state: Arc<Mutex<State>>,
}

impl Kubelet {
    async fn run(self) {
        let mut last: Option<(Instant, Vec<String>)> = None;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(boot) = lock(&self.state).reaches_in() else {
                last = None;
                continue;
            };
            // An error is ignored, and the call is repeated in the next round, as a kubelet does.
            let _ = self.sync_pods(boot).await;
            let in_use = self.in_use();
            let due = last.as_ref().is_none_or(|(at, used)| at.elapsed() > Duration::from_secs(2) || *used != in_use);
            if due && self.heartbeat(boot, &in_use).await.is_ok() {
                last = Some((Instant::now(), in_use));
            }
        }
    }

    fn in_use(&self) -> Vec<String> {
        let state = lock(&self.state);
        state.mounted.values().flatten().map(|disk| format!("kubernetes.io/csi/{DRIVER}^{disk}")).collect()
    }

    async fn heartbeat(&self, boot: u32, in_use: &[String]) -> Result<(), ApiError> {
        let node = format!("/api/v1/nodes/{}", self.name);
        match call(&self.client, Method::GET, &node, None).await {
            Ok(_) => {}
            Err(ApiError { code: 404, .. }) => self.register().await?,
            Err(error) => return Err(error),
        }
        if lock(&self.state).reaches_in() != Some(boot) {
            return Ok(());
        }
        let now = jiff::Timestamp::now();
        let condition = |kind: &str, status: &str| {
            let at = now.strftime("%FT%TZ").to_string();
            json!({"type": kind, "status": status, "reason": "r", "message": "m", "lastHeartbeatTime": at, "lastTransitionTime": at})
        };
        let status = json!({
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"), condition("PIDPressure", "False")],
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "volumesInUse": in_use,
            "nodeInfo": {"bootID": format!("boot-{boot}"), "machineID": "m", "systemUUID": "s", "kernelVersion": "6",
                "osImage": "x", "containerRuntimeVersion": "c://1", "kubeletVersion": "v1.37.2", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64"},
        });
        call(&self.client, Method::PATCH, &format!("{node}/status"), Some(json!({"status": status}))).await?;
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": 8,
            "renewTime": now.strftime("%FT%T%.6fZ").to_string()});
        let renewed =
            call(&self.client, Method::PATCH, &format!("{leases}/{}", self.name), Some(json!({"spec": spec}))).await;
        if matches!(renewed, Err(ApiError { code: 404, .. })) {
            let lease = json!({"metadata": {"name": self.name}, "spec": spec});
            call(&self.client, Method::POST, leases, Some(lease)).await?;
        }
        Ok(())
    }

    async fn register(&self) -> Result<(), ApiError> {
        let labels = json!({"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"});
        let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        let node = json!({
            "metadata": {"name": self.name, "labels": labels, "annotations": annotations},
            "spec": {"providerID": format!("test://{}", self.name)},
        });
        let node = call(&self.client, Method::POST, "/api/v1/nodes", Some(node)).await?;
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": node["metadata"]["uid"]}]);
        let csi_node = json!({
            "metadata": {"name": self.name, "ownerReferences": owner},
            "spec": {"drivers": [{"name": DRIVER, "nodeID": self.name, "topologyKeys": []}]},
        });
        let created = call(&self.client, Method::POST, "/apis/storage.k8s.io/v1/csinodes", Some(csi_node)).await;
        match created {
            Ok(_) | Err(ApiError { code: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn sync_pods(&self, boot: u32) -> Result<(), ApiError> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let pods = call(&self.client, Method::GET, &path, None).await?;
        let mut seen = Vec::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            seen.push(pod["metadata"]["uid"].as_str().unwrap().to_owned());
            self.sync_pod(boot, pod).await?;
        }
        let mut state = lock(&self.state);
        if !state.is_in(boot) {
            return Ok(());
        }
        let unmounts = state.unmounts;
        state.running.retain(|uid, _| seen.contains(uid));
        state.mounted.retain(|uid, _| !unmounts || seen.contains(uid));
        Ok(())
    }

    async fn sync_pod(&self, boot: u32, pod: &Value) -> Result<(), ApiError> {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (uid, name) = (text("uid"), text("name"));
        let path = format!("/api/v1/namespaces/{}/pods/{name}", text("namespace"));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            lock(&self.state).running.remove(&uid);
            if !lock(&self.state).unmounts && lock(&self.state).mounted.contains_key(&uid) {
                return self.report_ended(&path, pod).await;
            }
            lock(&self.state).mounted.remove(&uid);
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            call(&self.client, Method::DELETE, &path, Some(options)).await?;
            return Ok(());
        }
        if lock(&self.state).running.contains_key(&uid) {
            return Ok(());
        }
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let disks: Vec<String> = volumes
            .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned))
            .collect();
        if self.attached().await? < disks.len() {
            return Ok(());
        }
        {
            let mut state = lock(&self.state);
            if !state.is_in(boot) {
                return Ok(());
            }
            state.mounted.insert(uid.clone(), disks.clone());
            state.running.insert(uid, (name, disks));
        }
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "x", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-22T10:00:00Z"}}})
        });
        let status = json!({"phase": "Running", "containerStatuses": containers.collect::<Vec<_>>(),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T10:00:00Z"}]});
        call(&self.client, Method::PATCH, &format!("{path}/status"), Some(json!({"status": status}))).await?;
        Ok(())
    }

    /// Reports that the pod's processes have ended. The pod stays until its volumes are unmounted.
    async fn report_ended(&self, path: &str, pod: &Value) -> Result<(), ApiError> {
        let ended = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "x", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0}}})
        });
        let status = json!({"phase": "Succeeded", "containerStatuses": ended.collect::<Vec<_>>()});
        call(&self.client, Method::PATCH, &format!("{path}/status"), Some(json!({"status": status}))).await?;
        Ok(())
    }

    /// The number of volumes that are attached to this node and are not being detached.
    async fn attached(&self) -> Result<usize, ApiError> {
        let list = call(&self.admin, Method::GET, ATTACHMENTS, None).await?;
        let here = list["items"].as_array().into_iter().flatten().filter(|attachment| {
            attachment["spec"]["nodeName"] == self.name.as_str()
                && attachment["status"]["attached"] == true
                && attachment["metadata"]["deletionTimestamp"].is_null()
        });
        Ok(here.count())
    }
}
