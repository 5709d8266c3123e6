//! The evidence sources that are custom resources, read from a real API server.

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        kinds::{CSI_ADDONS_NODE, FENCE_AGENTS_REMEDIATION, NETWORK_FENCE, NETWORK_FENCE_CLASS, SELF_NODE_REMEDIATION},
        plane::Plane,
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
async fn remediate_by_agent(plane: &Plane, node: &str, action: &str) {
    let spec = json!({"agent": "fence_ipmilan", "remediationStrategy": "OutOfServiceTaint",
        "sharedparameters": {"--action": action}});
    FENCE_AGENTS_REMEDIATION.create(plane, "default", json!({"metadata": {"name": node}, "spec": spec})).await;
}

/// The fence agent reports that it succeeded just now.
async fn agent_succeeds(plane: &Plane, node: &str) {
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
