//! A write, its requester, a cluster and the settings, made of choices. They have the format of the
//! API server, of kubectl and of the configuration.

use fencegate::{
    cluster::{Snapshot, file::SnapshotError},
    config,
    policy::{reason::Code, settings::Settings, source::Source},
};
use serde_json::{Map, Value, json};

use super::{choices::Choices, reviews};

/// The gate's clock, and times before and after it.
const NOW: &str = "2026-11-22T10:20:00Z";
const TIMES: &[&str] = &[
    "2026-11-22T10:15:00Z",
    "2026-11-22T10:14:00Z",
    "2026-11-22T10:16:00Z",
    "2026-11-22T10:19:50Z",
    "2026-11-22T10:19:59Z",
    NOW,
    "2026-11-22T10:20:05Z",
    "2026-11-22T10:25:00Z",
    "2026-11-20T10:15:00Z",
    "2026-11-22T11:15:00.5+01:00",
    "0000-01-01T00:00:00+23:59",
    "9999-12-28T00:00:00Z",
    "now",
    "yesterday",
];

const TAINT: &str = "node.kubernetes.io/out-of-service";

/// The annotations that mean something, and some that do not.
const KEYS: &[&str] = &[
    "fencegate.dev/method",
    "fencegate.dev/fenced-at",
    "fencegate.dev/fenced-by",
    "fencegate.dev/proof",
    "fencegate.dev/boot-id",
    "fencegate.dev/recorded-by",
    "fencegate.dev/recorded-at",
    "fencegate.dev/placed-by",
    "fencegate.dev/placed-at",
    "fencegate.dev/source",
    "fencegate.dev/last-outage",
    "fencegate.dev/break-glass",
    "fencegate.dev/break-glass-by",
    "fencegate.dev/break-glass-at",
    "fencegate.dev/overridden",
    "fencegate.dev/overridden-by",
    "fencegate.dev/overridden-at",
    "fencegate.dev/hold",
    "fencegate.dev/fencedat",
    "node.kubernetes.io/out-of-service-applied-by",
    "example.com/other",
];

/// Values of annotations, names and other texts.
const TEXTS: &[&str] = &[
    "alice",
    "bob",
    "power-off",
    "instance-stop",
    "network-isolation",
    "storage-isolation",
    "hardware-removal",
    "annotations",
    "cloud-shutdown",
    "network-fence",
    "fence-agents-remediation",
    "self-node-remediation",
    "bare-metal-host",
    "pacemaker",
    "boot-1",
    "boot-0",
    "system:node:n1",
    "",
    " ",
    "<you>",
    "a\nPWNED: nothing holds the node",
    "a\r\n  kubectl PWNED",
    "\u{85}PWNED\u{2028}PWNED\u{b}PWNED",
    "\u{1b}[2J\u{202e}txt\u{e0041}",
    "' $(PWNED) ` \" \\",
];

/// A long text: more than any message shows.
const LONG: usize = 5000;

/// Everything that one decision is made of.
pub struct World {
    pub operation: &'static str,
    pub subresource: &'static str,
    user: Value,
    pub old: Value,
    pub new: Value,
    cluster: Vec<Value>,
    pub settings: Settings,
}

impl World {
    pub fn of(choices: &mut Choices<'_>) -> Self {
        let operation = choices.of_these(&["UPDATE", "UPDATE", "UPDATE", "UPDATE", "CREATE", "DELETE"]);
        let subresource = choices.of_these(&["", "", "", "status"]);
        let settings = settings(choices);
        let user = user(choices);
        let old = node(choices);
        let new = changed(&old, choices);
        let cluster = (0..choices.below(10)).map(|_| object(choices)).collect();
        Self { operation, subresource, user, old, new, cluster, settings }
    }

    /// The AdmissionReview.
    pub fn review(&self) -> Value {
        reviews::review(self.operation, self.subresource, &self.user, &self.old, &self.new)
    }

    /// The cluster.
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        reviews::snapshot(&self.cluster)
    }
}

fn settings(choices: &mut Choices<'_>) -> Settings {
    if choices.flag() {
        return Settings::default();
    }
    let mut sources: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
    sources.rotate_left(choices.below(Source::ALL.len()));
    sources.truncate(1 + choices.below(Source::ALL.len()));
    let adjustable: Vec<&Code> = Code::ALL.iter().filter(|code| code.can_be_turned_off()).collect();
    let checks: Map<String, Value> = (0..choices.below(4))
        .map(|_| {
            (choices.of_these(&adjustable).name().to_owned(), json!(choices.of_these(&["enforce", "warn", "off"])))
        })
        .collect();
    let limits = [Value::Null, json!(0), json!(1), json!("50%")];
    let owners = [json!(null), json!([]), json!([{"group": "apps", "kind": "DaemonSet"}])];
    let file = json!({
        "mode": choices.of_these(&["enforce", "enforce", "enforce", "warn"]),
        "evidence": {"sources": sources, "maxAge": choices.of_these(&["24h", "4m", "0s"]),
            "clockSkew": choices.of_these(&["10s", "0s", "1h"])},
        "checks": checks,
        "release": {"guardedOwners": choices.of_these(&owners), "guardClaims": choices.flag(),
            "countTolerating": choices.flag()},
        "place": {"maxNodes": choices.of_these(&limits), "maxNotReady": choices.of_these(&limits)},
        "authorization": {"attest": choices.of_these(&["anyone", "rbac"])},
    });
    config::parse(file.to_string().as_bytes()).unwrap()
}

fn user(choices: &mut Choices<'_>) -> Value {
    match choices.below(5) {
        0 | 1 => json!({"username": "alice", "groups": ["system:authenticated"]}),
        2 => json!({"username": "system:node:n1", "groups": ["system:nodes"]}),
        3 => json!({"username": "system:serviceaccount:kube-system:pod-garbage-collector", "groups": null,
            "extra": {"authentication.kubernetes.io/node-name": ["n1"]}}),
        _ => json!({"username": text(choices), "uid": text(choices), "groups": [text(choices)]}),
    }
}

fn text(choices: &mut Choices<'_>) -> String {
    match choices.below(8) {
        0 => choices.text(),
        1 => choices.text().chars().cycle().take(LONG).collect(),
        _ => choices.of_these(TEXTS).to_owned(),
    }
}

fn time(choices: &mut Choices<'_>) -> Value {
    if choices.below(8) == 7 { Value::Null } else { json!(choices.of_these(TIMES)) }
}

fn name(choices: &mut Choices<'_>) -> String {
    if choices.below(8) == 7 { text(choices) } else { "n1".to_owned() }
}

fn taint(choices: &mut Choices<'_>) -> Value {
    let key = choices.of_these(&[
        TAINT,
        TAINT,
        "node.kubernetes.io/unreachable",
        "node.cloudprovider.kubernetes.io/shutdown",
    ]);
    let effect = choices.of_these(&["NoExecute", "NoExecute", "NoSchedule", "PreferNoSchedule", ""]);
    json!({"key": key, "effect": effect, "value": choices.of_these(&["nodeshutdown", "", "'\n"])})
}

/// The three annotations that make complete evidence, or others.
fn annotations(choices: &mut Choices<'_>) -> Value {
    let mut annotations = Map::new();
    if choices.flag() {
        for (key, value) in KEYS.iter().zip(["power-off", "2026-11-22T10:15:00Z", "alice"]) {
            annotations.insert((*key).to_owned(), json!(value));
        }
    }
    for _ in 0..choices.below(6) {
        let (key, value) = annotation(choices);
        annotations.insert(key, value);
    }
    if annotations.is_empty() && choices.flag() { Value::Null } else { Value::Object(annotations) }
}

fn annotation(choices: &mut Choices<'_>) -> (String, Value) {
    let key = choices.of_these(KEYS);
    let value = if key.ends_with("-at") { time(choices) } else { json!(text(choices)) };
    (key.to_owned(), value)
}

fn node(choices: &mut Choices<'_>) -> Value {
    let taints: Vec<Value> = (0..choices.below(3)).map(|_| taint(choices)).collect();
    let attached = choices.of_these(&[json!([]), json!([{"name": "kubernetes.io/csi/d^v"}]), json!([{"name": "a/b"}])]);
    json!({
        "metadata": {
            "name": name(choices),
            "creationTimestamp": choices.of_these(&["2026-03-02T08:00:00Z", "2026-11-22T10:18:00Z"]),
            "annotations": annotations(choices),
            "finalizers": choices.of_these(&[Value::Null, json!(["example.com/hold"])]),
            "deletionTimestamp": choices.of_these(&[Value::Null, Value::Null, json!(NOW)]),
        },
        "spec": {"taints": taints, "providerID": choices.of_these(&["metal3://metal3/host-1/machine",
            "metal3://8f3a", "baremetalhost:///metal3/host-1/8f3a", "aws:///us-east-1/i-0"])},
        "status": {
            "conditions": [{"type": "Ready", "status": choices.of_these(&["Unknown", "True", "False"]),
                "lastTransitionTime": time(choices)}],
            "nodeInfo": {"bootID": choices.of_these(&["boot-1", "boot-2", ""])},
            "volumesAttached": attached,
            "addresses": choices.of_these(&[json!([{"type": "InternalIP", "address": "10.0.0.7"}]), json!([])]),
        },
    })
}

/// The Node after some changes.
fn changed(old: &Value, choices: &mut Choices<'_>) -> Value {
    let mut new = if choices.below(4) == 3 { node(choices) } else { old.clone() };
    for _ in 0..choices.below(4) {
        match choices.below(8) {
            0 => new["spec"]["taints"] = json!([taint(choices)]),
            1 => new["spec"]["taints"] = json!([]),
            2 => new["metadata"]["annotations"] = annotations(choices),
            3 | 4 => {
                let (key, value) = annotation(choices);
                new["metadata"]["annotations"][key] = value;
            }
            5 => {
                let key = choices.of_these(KEYS);
                if let Some(annotations) = new["metadata"]["annotations"].as_object_mut() {
                    annotations.remove(key);
                }
            }
            6 => new["metadata"]["finalizers"] = Value::Null,
            _ => new["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
        }
    }
    new
}

/// An object of the cluster.
fn object(choices: &mut Choices<'_>) -> Value {
    match choices.below(9) {
        0 => pod(choices),
        1 => lease(choices),
        2 => attachment(choices),
        3 => remediation(choices),
        4 => network_fence(choices),
        5 => json!({"kind": "SubjectAccessReview", "status": {"allowed": choices.flag()}, "spec": {"user": "alice",
            "resourceAttributes": {"group": "fencegate.dev", "resource": "nodes",
                "verb": choices.of_these(&["break-glass", "attest"])}}}),
        6 => json!({"kind": "Node", "metadata": {"name": "n2"}, "spec": {"taints": [taint(choices)]}}),
        7 => json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
            "claimRef": {"namespace": "prod", "name": choices.of_these(&["c", "d'\n"])},
            "csi": choices.of_these(&[json!({"driver": "san.test"}), Value::Null])}}),
        _ => json!({"kind": "Lease", "metadata": {"name": "fencegate-budget", "namespace": "fencegate-system",
            "annotations": {
                "fencegate.dev/admitted": choices.of_these(&[r#"{"n3":"2026-11-22T10:19:50Z"}"#, "{}", "x"])}}}),
    }
}

fn pod(choices: &mut Choices<'_>) -> Value {
    let kind = choices.of_these(&["StatefulSet", "DaemonSet", "", "StrimziPodSet"]);
    let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "db", "controller": true}]);
    let volumes = [
        json!([]),
        json!([{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]),
        json!([{"name": "d", "ephemeral": {}}]),
        json!([{"name": "d", "emptyDir": {}}]),
    ];
    let tolerations =
        [json!([]), json!([{"operator": "Exists"}]), json!([{"operator": "Exists", "effect": "NoExecute"}])];
    json!({
        "kind": "Pod",
        "metadata": {
            "namespace": "prod",
            "name": format!("db-{}{}", choices.below(9), choices.of_these(&["", "", "\nPWNED"])),
            "creationTimestamp": time(choices),
            "deletionTimestamp": choices.of_these(&[Value::Null, json!(NOW)]),
            "finalizers": choices.of_these(&[Value::Null, json!(["example.com/hold\nPWNED"])]),
            "labels": choices.of_these(&[Value::Null, json!({"statefulset.kubernetes.io/pod-name": "db-0"})]),
            "ownerReferences": if kind.is_empty() { Value::Null } else { owner },
        },
        "spec": {"nodeName": name(choices), "tolerations": choices.of_these(&tolerations),
            "volumes": choices.of_these(&volumes)},
        "status": {"phase": choices.of_these(&["Running", "Pending", "Succeeded", "Failed"])},
    })
}

fn lease(choices: &mut Choices<'_>) -> Value {
    let fields = json!([{"time": time(choices), "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]);
    json!({"kind": "Lease", "spec": {"renewTime": time(choices)}, "metadata": {"name": name(choices),
        "namespace": "kube-node-lease", "managedFields": choices.of_these(&[fields, Value::Null])}})
}

fn attachment(choices: &mut Choices<'_>) -> Value {
    let error = json!({"message": text(choices), "time": "2026-11-22T10:18:00Z"});
    let source = [json!({"persistentVolumeName": "pv"}), json!({"inlineVolumeSpec": {}}), Value::Null];
    json!({"kind": "VolumeAttachment",
        "metadata": {"name": "va", "deletionTimestamp": choices.of_these(&[Value::Null, json!(NOW)])},
        "spec": {"nodeName": name(choices), "attacher": "san.test", "source": choices.of_these(&source)},
        "status": {"attached": choices.flag(), "detachError": choices.of_these(&[Value::Null, error])}})
}

/// What other projects write about a fence of the machine.
fn remediation(choices: &mut Choices<'_>) -> Value {
    let metadata = json!({"namespace": "fencing", "name": name(choices), "creationTimestamp": time(choices)});
    match choices.below(3) {
        0 => json!({"kind": "FenceAgentsRemediation", "metadata": metadata,
            "spec": {"sharedparameters": {"--action": choices.of_these(&["reboot", "off", "x\n", ""])}},
            "status": {"conditions": [{"type": "FenceAgentActionSucceeded",
                "status": choices.of_these(&["True", "False"]), "lastTransitionTime": time(choices)}]}}),
        1 => json!({"kind": "SelfNodeRemediation", "metadata": metadata,
            "status": {"phase": choices.of_these(&["Reboot-Completed", "Pre-Reboot-Completed"]),
                "timeAssumedRebooted": time(choices)}}),
        _ => json!({"kind": "BareMetalHost",
            "metadata": {"namespace": "metal3", "name": "host-1", "uid": "8f3a",
                "annotations": {choices.of_these(&["reboot.metal3.io", "reboot.metal3.io/capm3"]): ""}},
            "spec": {"online": choices.flag()},
            "status": {"poweredOn": choices.flag(), "operationalStatus": choices.of_these(&["OK", "error"])}}),
    }
}

fn network_fence(choices: &mut Choices<'_>) -> Value {
    match choices.below(3) {
        0 => json!({"kind": "NetworkFence",
            "metadata": {"name": "rack-7", "deletionTimestamp": choices.of_these(&[Value::Null, json!(NOW)])},
            "spec": {"fenceState": "Fenced",
                "cidrs": [choices.of_these(&["10.0.0.7/32", "10.0.0.8/32", "100.64.0.0/16"])],
                "driver": choices.of_these(&["san.test", ""]), "networkFenceClassName": choices.of_these(&["san", ""])},
            "status": {"result": choices.of_these(&["Succeeded", "Failed"]),
                "message": choices.of_these(&[
                    "fencing operation successful", "unfencing operation successful", "\nPWNED"])}}),
        1 => json!({"kind": "NetworkFenceClass", "metadata": {"name": "san"},
            "spec": {"provisioner": choices.of_these(&["san.test", "other.test"])}}),
        _ => json!({"kind": "CSIAddonsNode", "metadata": {"namespace": "san", "name": "n1-san"},
            "spec": {"driver": {"name": "san.test", "nodeID": name(choices)}},
            "status": {"networkFenceClientStatus": [{"networkFenceClassName": "san",
                "ClientDetails": [{"id": "c", "cidrs": [
                    choices.of_these(&["100.64.0.5/32", "10.0.0.7/32", "x"])]}]}]}}),
    }
}
