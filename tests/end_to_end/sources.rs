//! The evidence sources that are custom resources, read from a real API server.

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    harness::{
        accounts::bind,
        gate::Gate,
        kinds::{
            BARE_METAL_HOST, CSI_ADDONS_NODE, FENCE_AGENTS_REMEDIATION, NETWORK_FENCE, NETWORK_FENCE_CLASS,
            SELF_NODE_REMEDIATION,
        },
        plane::{ApiError, MERGE, Plane},
    },
    world::{
        PLACE, World, accepts, attach, dead_node, is_tainted, kubectl, now, of_node, plane_with_alice, record_on,
        rejects, renew, said, until_silent,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_installed_differs_from_one_that_rbac_forbids() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    dead_node(&plane, "n1", json!({})).await;
    let place = || kubectl(&plane, &["taint", "node", "n1", PLACE]);
    let denied_with = |text: &str| {
        let output = place();
        assert!(!output.status.success() && said(&output).contains(text), "{text} is not in {}", said(&output));
    };
    denied_with("fence-agents-remediation, self-node-remediation: not installed");
    assert!(!said(&place()).contains("FactsUnavailable"), "a kind that is not installed is a known fact");
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    denied_with(
        "fence-agents-remediation: there is no FenceAgentsRemediation for the node; self-node-remediation: not installed",
    );

    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fencegate-medik8s";
    plane.api("admin", Method::DELETE, binding, None).await.unwrap();
    let forbidden = async |_: &_| said(&place()).contains("FactsUnavailable");
    plane.until("the permission is gone", forbidden).await;
    rejects(place(), &["EvidenceMissing", "FactsUnavailable"]);
    denied_with("fence-agents-remediation: could not be read; self-node-remediation: could not be read");
    denied_with("fenceagentsremediations.fence-agents-remediation.medik8s.io could not be read: forbidden: ");
    // If the annotations vouch, what the other sources need does not matter.
    accepts(kubectl(
        &plane,
        &[
            "annotate",
            "node",
            "n1",
            "fencegate.dev/method=power-off",
            "fencegate.dev/fenced-by=alice",
            &format!("fencegate.dev/fenced-at={}", now()),
        ],
    ));
    accepts(place());
}

/// A pod on Node `n7` that claims a volume of this driver.
async fn claim(plane: &Plane, name: &str, driver: &str) {
    let storage = json!({"storage": "1Gi"});
    let claimed = json!({"namespace": "default", "name": name});
    let volume = json!({"metadata": {"name": format!("pv-{name}")}, "spec": {"capacity": storage,
        "accessModes": ["ReadWriteMany"], "claimRef": claimed, "csi": {"driver": driver, "volumeHandle": name}}});
    plane.create("/api/v1/persistentvolumes", volume).await;
    let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteMany"],
        "storageClassName": "", "volumeName": format!("pv-{name}"), "resources": {"requests": storage}}});
    plane.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n7", "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]}});
    plane.create("/api/v1/namespaces/default/pods", pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network_fences_vouch_once_they_cover_every_address_for_every_driver_of_the_node() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "csi-addons").await;
    for kind in [&NETWORK_FENCE, &NETWORK_FENCE_CLASS, &CSI_ADDONS_NODE] {
        kind.install(&plane).await;
    }
    dead_node(&plane, "n7", json!({})).await;
    let place = || said(&kubectl(&plane, &["taint", "node", "n7", PLACE]));
    let denied_with = |text: &str| {
        let said = place();
        assert!(said.contains(text) && said.contains("\n  EvidenceMissing: "), "{text} is not in {said}");
    };
    let succeeded = json!({"result": "Succeeded", "message": "fencing operation successful"});
    let fence = async |name: &str, driver: Value, cidrs: &[&str], status: Value| {
        let mut fence = json!({"metadata": {"name": name}, "spec": driver, "status": status});
        fence["spec"]["fenceState"] = json!("Fenced");
        fence["spec"]["cidrs"] = json!(cidrs);
        NETWORK_FENCE.create(&plane, "", fence).await;
    };
    denied_with("network-fence: there is no NetworkFence");
    fence("n7-disks", json!({"driver": "other.test"}), &["10.0.0.7/32", "fd00::/64"], json!({})).await;
    denied_with("network-fence: the node has no volume");
    attach(&plane, "disk", "n7").await;
    denied_with("n7-disks has no result yet");
    NETWORK_FENCE.report(&plane, "", "n7-disks", succeeded.clone()).await;

    // A volume that is mounted and never attached is found by its claim.
    claim(&plane, "files", "files.test").await;
    denied_with("the storage of \"files.test\" does not block \"10.0.0.7\", \"fd00::7\" (n7-disks is for the driver");
    let class = json!({"metadata": {"name": "files"}, "spec": {"provisioner": "files.test"}});
    NETWORK_FENCE_CLASS.create(&plane, "", class).await;
    // Its storage knows the node by an address of its own.
    let clients = json!({"metadata": {"name": "n7-files"},
        "spec": {"driver": {"name": "files.test", "nodeID": "n7", "endpoint": "pod://files.default:9070"}},
        "status": {"networkFenceClientStatus": [{"networkFenceClassName": "files",
            "ClientDetails": [{"id": "c", "cidrs": ["100.64.0.5/32"]}]}]}});
    CSI_ADDONS_NODE.create(&plane, "default", clients).await;
    let by_class = json!({"networkFenceClassName": "files"});
    fence("n7-files", by_class.clone(), &["10.0.0.7/32", "fd00::/64"], succeeded.clone()).await;
    denied_with("the storage of \"files.test\" does not block \"100.64.0.5/32\" (n7-files does not cover it)");
    fence("n7-files-client", by_class, &["100.64.0.5/32"], succeeded).await;
    accepts(kubectl(&plane, &["taint", "node", "n7", PLACE]));
    let record = record_on(&plane, "n7").await;
    assert_eq!((record["source"].as_str(), record["method"].as_str()), ("network-fence", "storage-isolation"));
    assert_eq!(record["boot-id"], "boot-7");
}

/// A remediation by medik8s that began just now, of the node of the same name.
pub async fn remediate_by_agent(plane: &Plane, node: &str, action: &str) {
    let spec = json!({"agent": "fence_ipmilan", "remediationStrategy": "OutOfServiceTaint",
        "sharedparameters": {"--action": action}});
    FENCE_AGENTS_REMEDIATION.create(plane, "default", json!({"metadata": {"name": node}, "spec": spec})).await;
}

/// The fence agent reports that it succeeded just now.
pub async fn agent_succeeds(plane: &Plane, node: &str) {
    let condition = json!({"type": "FenceAgentActionSucceeded", "status": "True", "reason": "FenceAgentSucceeded",
        "message": "", "lastTransitionTime": now()});
    FENCE_AGENTS_REMEDIATION.report(plane, "default", node, json!({"conditions": [condition]})).await;
}

/// The times of Kubernetes' objects are whole seconds.
async fn another_second(plane: &Plane) {
    let second = now();
    plane.until("another second", async |_| now() > second).await;
}

impl World {
    fn place(&self) -> std::process::Output {
        kubectl(&self.plane, &["taint", "node", &self.node, PLACE])
    }

    /// The machine dies, and its node is not Ready.
    async fn dies(&self) {
        self.machine().power_off();
        self.until_ready(false).await;
    }

    /// The machine boots, which takes longer than the rest of this second, and its pod writes to
    /// its disk again.
    async fn comes_back(&self) {
        another_second(&self.plane).await;
        self.machine().boot();
        self.until_ready(true).await;
        self.plane.until("the pod runs again", async |_| !self.machine().mounted().is_empty()).await;
    }

    /// The machine is cut off and keeps writing. Its node is not Ready, and its Lease runs out.
    async fn is_cut_off(&self) {
        self.machine().cut_off();
        self.until_ready(false).await;
        until_silent(&self.plane, &self.node).await;
    }

    /// The old word of a remediation does not put the machine out of service, which writes to its
    /// disk.
    async fn stays_in_service(&self) {
        let denied = self.place();
        assert!(said(&denied).contains(": it may have come back"), "{}", said(&denied));
        rejects(denied, &["EvidenceMissing"]);
        assert!(!is_tainted(&of_node(&self.plane, &self.node).await));
        assert!(!self.machine().mounted().is_empty());
    }

    /// The machine is put out of service, and the database moves.
    async fn fails_over(&self) {
        accepts(self.place());
        self.until_moved().await;
        assert_eq!(self.san.corrupted(), Vec::<String>::new());
    }

    async fn renewed_at(&self) -> String {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", self.node);
        self.plane.get(&path).await.unwrap()["spec"]["renewTime"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_came_back_from_the_reboot_of_its_fence_agent_is_not_fenced_by_it() {
    let world = World::start().await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let gate = Gate::guard(plane).await;
    gate.apply_overlay(plane, "medik8s").await;
    FENCE_AGENTS_REMEDIATION.install(plane).await;

    // The agent is slower than the boot: its success is later than the last word of the new
    // kubelet.
    world.dies().await;
    remediate_by_agent(plane, node, "reboot").await;
    world.comes_back().await;
    world.is_cut_off().await;
    agent_succeeds(plane, node).await;
    world.stays_in_service().await;

    // The node is healthy again, and the remediation ends. In the next one, the kubelet's last word
    // is later than the success, by less than the clock skew.
    world.machine().reconnect();
    world.until_ready(true).await;
    FENCE_AGENTS_REMEDIATION.delete(plane, "default", node).await;
    world.dies().await;
    remediate_by_agent(plane, node, "reboot").await;
    world.comes_back().await;
    agent_succeeds(plane, node).await;
    let succeeded = now();
    plane.until("the kubelet renews its Lease", async |_| world.renewed_at().await > succeeded).await;
    world.machine().cut_off();
    let last: Timestamp = world.renewed_at().await.parse().unwrap();
    let since_success = last.duration_since(succeeded.parse().unwrap()).as_secs();
    assert!((0..10).contains(&since_success), "{since_success} s is not within the clock skew");
    world.is_cut_off().await;
    world.stays_in_service().await;

    // Fenced once more, the machine stays silent.
    FENCE_AGENTS_REMEDIATION.delete(plane, "default", node).await;
    remediate_by_agent(plane, node, "reboot").await;
    world.machine().power_off();
    agent_succeeds(plane, node).await;
    world.fails_over().await;
    assert_eq!(record_on(plane, node).await["source"], "fence-agents-remediation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_came_back_before_it_is_assumed_to_have_rebooted_itself_is_not_fenced() {
    let world = World::start().await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let gate = Gate::guard(plane).await;
    gate.apply_overlay(plane, "medik8s").await;
    SELF_NODE_REMEDIATION.install(plane).await;
    let remediate = async |ahead: i64| {
        let assumed = Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
        let assumed_rebooted = assumed.strftime("%FT%TZ").to_string();
        let status = json!({"phase": "Pre-Reboot-Completed", "timeAssumedRebooted": assumed_rebooted});
        SELF_NODE_REMEDIATION.create(plane, "default", json!({"metadata": {"name": node}, "status": status})).await;
        assumed
    };
    // The phase follows when that time is over, whatever became of the machine.
    let completes = async |assumed: Timestamp| {
        plane.until("the reboot is assumed", async |_| Timestamp::now() > assumed).await;
        let phase = json!({"phase": "Reboot-Completed"});
        SELF_NODE_REMEDIATION.report(plane, "default", node, phase).await;
    };
    world.dies().await;
    let assumed = remediate(60).await;
    world.comes_back().await;
    world.machine().cut_off();
    assert!(world.renewed_at().await < assumed.to_string(), "the assumed time lies ahead of the last renewal");
    world.is_cut_off().await;
    completes(assumed).await;
    world.stays_in_service().await;

    SELF_NODE_REMEDIATION.delete(plane, "default", node).await;
    let assumed = remediate(3).await;
    world.machine().power_off();
    completes(assumed).await;
    world.fails_over().await;
    assert_eq!(record_on(plane, node).await["source"], "self-node-remediation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_agent_that_switches_the_machine_off_vouches_although_the_node_lived_after_the_remediation_began() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.apply_overlay(&plane, "medik8s").await;
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    for (node, action) in [("n7", "reboot"), ("n8", "off")] {
        dead_node(&plane, node, json!({})).await;
        remediate_by_agent(&plane, node, action).await;
        another_second(&plane).await;
        renew(&plane, node, Timestamp::now()).await;
        until_silent(&plane, node).await;
        agent_succeeds(&plane, node).await;
    }
    let denied = kubectl(&plane, &["taint", "node", "n7", PLACE]);
    assert!(said(&denied).contains("ran its agent with --action \"reboot\""), "{}", said(&denied));
    rejects(denied, &["EvidenceMissing"]);
    accepts(kubectl(&plane, &["taint", "node", "n8", PLACE]));
}

/// Which node a remediation of medik8s is about, if it is not the one of its name.
fn about(node: &str) -> Value {
    json!({"metadata": {"annotations": {"remediation.medik8s.io/node-name": node}}})
}

/// Asserts that the policy of an overlay denied the write.
#[track_caller]
fn refused(written: Result<Value, ApiError>, words: &str) {
    let Err(error) = written else { panic!("allowed: {words}") };
    assert!(error.code == 403 && error.message.contains(words), "{words}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_a_source_cannot_be_turned_to_another_node_nor_come_from_its_own() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    for kind in [FENCE_AGENTS_REMEDIATION, SELF_NODE_REMEDIATION, NETWORK_FENCE, BARE_METAL_HOST] {
        kind.install(&plane).await;
    }
    for overlay in ["medik8s", "csi-addons", "metal3"] {
        gate.apply_overlay(&plane, overlay).await;
    }
    let groups = [
        "fence-agents-remediation.medik8s.io",
        "self-node-remediation.medik8s.io",
        "csiaddons.openshift.io",
        "metal3.io",
    ];
    let everything = json!([{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]);
    bind(&plane, "sources", everything, json!({"kind": "User", "name": "system:node:n1"})).await;
    let far = |name: &str| format!("{}/{name}", FENCE_AGENTS_REMEDIATION.path("default"));
    let snr = format!("{}/n1", SELF_NODE_REMEDIATION.path("default"));
    let fence = format!("{}/rack-7", NETWORK_FENCE.path(""));
    let host = format!("{}/host-1", BARE_METAL_HOST.path("default"));
    let patch = async |user: &str, path: &str, change: Value| plane.patch(user, MERGE, path, change).await;

    remediate_by_agent(&plane, "n1", "reboot").await;
    remediate_by_agent(&plane, "n2", "reboot").await;
    let probe = json!({"metadata": {"annotations": {"asked-again-at": "1"}}});
    let denied =
        async |_: &Plane| patch("node-n1", &far("n1"), probe.clone()).await.is_err_and(|error| error.code == 403);
    plane
        .until("the policy of medik8s is in force, and RBAC has the rule", async |plane| {
            denied(plane).await && patch("node-n1", &far("n2"), probe.clone()).await.is_ok()
        })
        .await;

    // Before it has succeeded, it may still be turned.
    patch("admin", &far("n2"), about("n3")).await.unwrap();
    patch("admin", &far("n2"), about("n2")).await.unwrap();
    agent_succeeds(&plane, "n2").await;
    refused(patch("admin", &far("n2"), about("n3")).await, "has succeeded for node \"n2\"");
    let off = json!({"spec": {"sharedparameters": {"--action": "off"}}});
    refused(patch("admin", &far("n2"), off).await, "what its agent did");
    let of_node = json!({"spec": {"nodeparameters": {"--action": {"n2": "off"}}}});
    refused(patch("admin", &far("n2"), of_node).await, "what its agent did");
    patch("admin", &far("n2"), probe.clone()).await.unwrap();
    let status = json!({"status": {"conditions": []}});
    for path in [far("n1"), format!("{}/status", far("n1"))] {
        refused(patch("node-n1", &path, status.clone()).await, "speaks from node \"n1\"");
    }
    refused(patch("node-n1", &far("n2"), about("n1")).await, "has succeeded for node");

    SELF_NODE_REMEDIATION.create(&plane, "default", json!({"metadata": {"name": "n1"}})).await;
    let phase = json!({"status": {"phase": "Reboot-Completed", "timeAssumedRebooted": now()}});
    refused(patch("node-n1", &format!("{snr}/status"), phase.clone()).await, "speaks from node \"n1\"");
    patch("admin", &format!("{snr}/status"), phase).await.unwrap();
    refused(patch("admin", &snr, about("n2")).await, "has succeeded for node \"n1\"");

    let spec = json!({"driver": "san.test", "fenceState": "Fenced", "cidrs": ["10.0.0.7/32"]});
    let succeeded = json!({"result": "Succeeded", "message": "fencing operation successful"});
    NETWORK_FENCE.create(&plane, "", json!({"metadata": {"name": "rack-7"}, "spec": spec})).await;
    let other = json!({"spec": {"cidrs": ["10.0.0.8/32"]}});
    patch("admin", &fence, other.clone()).await.unwrap();
    NETWORK_FENCE.report(&plane, "", "rack-7", succeeded).await;
    for change in
        [json!({"cidrs": ["10.0.0.9/32"]}), json!({"driver": "nas.test"}), json!({"networkFenceClassName": "nas"})]
    {
        refused(patch("admin", &fence, json!({"spec": change})).await, "this fence has succeeded");
    }
    patch("admin", &fence, json!({"spec": {"fenceState": "Unfenced"}})).await.unwrap();
    refused(patch("node-n1", &format!("{fence}/status"), json!({"status": {"result": ""}})).await, "no node can vouch");

    BARE_METAL_HOST.create(&plane, "default", json!({"metadata": {"name": "host-1"}, "spec": {"online": true}})).await;
    refused(
        patch("node-n1", &format!("{host}/status"), json!({"status": {"poweredOn": false}})).await,
        "no node can vouch",
    );
    patch("admin", &format!("{host}/status"), json!({"status": {"poweredOn": false}})).await.unwrap();
}
