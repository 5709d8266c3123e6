//! Generated worlds: a write, its requester, a cluster and the gate's settings. They have the
//! format of the API server, of kubectl and of the configuration file.

use fencegate::{
    admission::review::{self, Answer},
    cluster::{Snapshot, file::SnapshotError},
    config,
    policy::{
        Decision,
        annotation::APPLIED_BY,
        decide,
        facts::{Fact, Facts},
        facts_needed,
        reason::Code,
        review::{Review, Webhook},
        settings::Settings,
        source::Source,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::reviews;

/// The gate's clock.
pub const NOW: &str = "2026-11-22T10:20:00Z";

#[derive(Clone, Debug)]
pub struct World {
    pub operation: &'static str,
    pub subresource: &'static str,
    pub user: Value,
    pub old: Value,
    pub new: Value,
    pub cluster: Vec<Value>,
    pub settings: Settings,
}

impl World {
    pub fn review(&self) -> Value {
        reviews::review(self.operation, self.subresource, &self.user, &self.old, &self.new)
    }

    pub fn parsed(&self) -> Review {
        review::read(self.review().to_string().as_bytes()).unwrap()
    }

    /// The cluster.
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        reviews::snapshot(&self.cluster)
    }

    pub fn facts(&self) -> Facts {
        let review = self.parsed();
        let request = review.request().unwrap();
        self.snapshot().unwrap().read(request, &facts_needed(request, &self.settings), NOW.parse().unwrap())
    }

    /// Every fact that there is, whether the write needs it or not.
    pub fn all_facts(&self) -> Facts {
        self.snapshot().unwrap().read(self.parsed().request().unwrap(), &Fact::all().collect(), NOW.parse().unwrap())
    }

    pub fn decide(&self) -> Decision {
        self.decide_as(Webhook::Validate)
    }

    pub fn decide_as(&self, webhook: Webhook) -> Decision {
        decide(webhook, self.parsed().request().unwrap(), &self.facts(), &self.settings)
    }

    pub fn decide_with(&self, facts: &Facts) -> Decision {
        decide(Webhook::Validate, self.parsed().request().unwrap(), facts, &self.settings)
    }

    /// The world with the write as the mutating webhook completes it after this decision.
    pub fn completed(&self, decision: &Decision) -> Self {
        let mut completed = self.clone();
        for (key, value) in &decision.stamps {
            let removes_the_mark = *key == APPLIED_BY && value.is_none();
            assert!(key.starts_with("fencegate.dev/") || removes_the_mark, "{key} is not the gate's");
            if completed.new["metadata"]["annotations"].is_null() {
                completed.new["metadata"]["annotations"] = json!({});
            }
            let annotations = completed.new["metadata"]["annotations"].as_object_mut().unwrap();
            match value {
                Some(value) => annotations.insert((*key).to_owned(), json!(value)),
                None => annotations.remove(*key),
            };
        }
        completed
    }

    /// The answer, with everything that a user or a controller sees of the decision.
    pub fn answer(&self) -> Value {
        let review = self.parsed();
        serde_json::to_value(Answer::new(Webhook::Validate, &review, &self.decide())).unwrap()
    }
}

/// What the contract says about holding the taint, from the objects themselves.
impl World {
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.cluster.iter().filter(move |object| object["kind"] == kind)
    }

    fn entries(node: &Value) -> Vec<&Value> {
        let taints = node["spec"]["taints"].as_array().unwrap();
        taints.iter().filter(|taint| taint["key"] == "node.kubernetes.io/out-of-service").collect()
    }

    fn is_finished(pod: &Value) -> bool {
        pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
    }

    fn is_ready(&self) -> bool {
        self.old["status"]["conditions"][0]["status"] == "True"
    }

    pub fn nothing_was_evicted(&self) -> bool {
        self.is_ready() && Self::entries(&self.old).iter().all(|entry| entry["effect"] == "NoSchedule")
    }

    pub fn has_volumes_without_attachments(&self) -> bool {
        let volumes = self.old["status"]["volumesAttached"].as_array().unwrap();
        volumes.iter().any(|volume| !volume["name"].as_str().unwrap().starts_with("kubernetes.io/csi/"))
    }

    pub fn holds_the_taint(&self, pod: &Value) -> bool {
        let owners = &self.settings.guarded_owners;
        let has_guarded_owner = owners.iter().any(|owner| pod["metadata"]["ownerReferences"][0]["kind"] == owner.kind);
        let is_orphan = !pod["metadata"]["labels"].is_null();
        let volume = &pod["spec"]["volumes"][0];
        let has_claim = !volume["persistentVolumeClaim"].is_null() || !volume["ephemeral"].is_null();
        has_guarded_owner || (!Self::is_finished(pod) && (is_orphan || (self.settings.guard_claims && has_claim)))
    }

    pub fn may_stay(&self, pod: &Value) -> bool {
        let toleration = &pod["spec"]["tolerations"][0];
        let tolerates = |entry: &&Value| {
            toleration["operator"] == "Exists"
                && (toleration["effect"].is_null() || toleration["effect"] == entry["effect"])
        };
        pod["metadata"]["deletionTimestamp"].is_null()
            && !Self::is_finished(pod)
            && (Self::entries(&self.old).iter().all(tolerates) || self.nothing_was_evicted())
    }

    /// Whether a pod excuses that the volume `pv` of the claim `prod/c` is attached.
    pub fn excuses_the_volume(&self) -> bool {
        let placed_at = &self.old["metadata"]["annotations"]["fencegate.dev/placed-at"];
        self.of_kind("PersistentVolume").next().is_some()
            && self.of_kind("Pod").any(|pod| {
                let created_at = pod["metadata"]["creationTimestamp"].as_str().unwrap();
                let was_there = placed_at.as_str().is_none_or(|placed_at| created_at < placed_at);
                let claims = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "c";
                self.may_stay(pod) && claims && (was_there || (self.is_ready() && pod["status"]["phase"] == "Running"))
            })
    }
}

/// The default configuration, or one with other values.
fn settings() -> impl Strategy<Value = Settings> {
    let names: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
    let sources = (Just(names.clone()).prop_shuffle(), 1..=names.len()).prop_map(|(mut names, count)| {
        names.truncate(count);
        names
    });
    let adjustable: Vec<&str> =
        Code::ALL.iter().filter(|code| code.can_be_turned_off()).map(|code| code.name()).collect();
    let checks = vec((select(adjustable), select(vec!["enforce", "warn", "off"])), 0..4)
        .prop_map(|checks| checks.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let owners = select(vec![
        json!([{"group": "apps", "kind": "StatefulSet"}]),
        json!([{"group": "apps", "kind": "StatefulSet"}, {"group": "apps", "kind": "DaemonSet"}]),
        json!([]),
    ]);
    let limits = select(vec![Value::Null, json!(0), json!(1), json!(2), json!("50%")]);
    let custom = (
        sources,
        checks,
        owners,
        (any::<bool>(), any::<bool>()),
        (limits.clone(), limits),
        select(vec!["anyone", "rbac"]),
        select(vec!["24h", "4m", "0s"]),
        select(vec!["10s", "0s", "1h"]),
    )
        .prop_map(|(sources, checks, owners, release, (max_nodes, max_not_ready), attest, max_age, clock_skew)| {
            let (guard_claims, count_tolerating) = release;
            json!({
                "evidence": {"sources": sources, "maxAge": max_age, "clockSkew": clock_skew},
                "checks": checks,
                "release": {"guardedOwners": owners, "guardClaims": guard_claims, "countTolerating": count_tolerating},
                "place": {"maxNodes": max_nodes, "maxNotReady": max_not_ready},
                "authorization": {"attest": attest},
            })
        });
    prop_oneof![1 => Just(json!({})), 2 => custom].prop_map(|file| config::parse(file.to_string().as_bytes()).unwrap())
}

fn annotations() -> impl Strategy<Value = Value> {
    let pairs = [
        ("fencegate.dev/method", "power-off"),
        ("fencegate.dev/method", "unplugged"),
        ("fencegate.dev/method", "storage-isolation"),
        ("fencegate.dev/fenced-at", "2026-11-22T10:15:00Z"),
        ("fencegate.dev/fenced-at", "2026-11-20T10:15:00Z"),
        ("fencegate.dev/fenced-by", "alice"),
        ("fencegate.dev/proof", "Chassis Power is off"),
        ("fencegate.dev/boot-id", "boot-1"),
        ("fencegate.dev/boot-id", "boot-0"),
        ("fencegate.dev/recorded-by", "alice"),
        ("fencegate.dev/placed-at", "2026-11-22T10:19:45Z"),
        ("fencegate.dev/placed-at", "2026-11-22T10:16:00Z"),
        ("fencegate.dev/source", "annotations"),
        ("fencegate.dev/source", "cloud-shutdown"),
        ("fencegate.dev/source", "network-fence"),
        ("fencegate.dev/fenced-at", "now"),
        ("fencegate.dev/overridden", "split brain drill"),
        ("fencegate.dev/overridden-by", "alice"),
        ("fencegate.dev/overridden-at", "2026-11-22T10:19:45Z"),
        ("fencegate.dev/break-glass", "split brain drill"),
        ("fencegate.dev/break-glass", "rack burnt"),
        ("fencegate.dev/break-glass-by", "alice"),
        ("fencegate.dev/break-glass-by", "bob"),
        ("fencegate.dev/break-glass-at", "2026-11-22T10:16:00Z"),
        ("fencegate.dev/break-glass-at", "2026-11-22T10:01:00Z"),
        ("fencegate.dev/hold", "the disk is being read"),
        ("fencegate.dev/fencedat", "typo"),
        ("node.kubernetes.io/out-of-service-applied-by", "pacemaker"),
        ("example.com/other", "x"),
    ];
    let complete = json!({
        "fencegate.dev/method": "power-off",
        "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
        "fencegate.dev/fenced-by": "alice",
    });
    let some = vec(select(pairs.to_vec()), 0..6).prop_map(|pairs| pairs.into_iter().collect::<Value>());
    prop_oneof![2 => Just(complete), 2 => some, 1 => Just(Value::Null)]
}

fn taints() -> impl Strategy<Value = Vec<Value>> {
    let keys = [
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unreachable",
        "node.cloudprovider.kubernetes.io/shutdown",
    ];
    let entry = (select(keys.to_vec()), select(vec!["NoExecute", "NoSchedule", "PreferNoSchedule"]))
        .prop_map(|(key, effect)| json!({"key": key, "effect": effect, "value": "nodeshutdown"}));
    vec(entry, 0..4)
}

prop_compose! {
    fn node()(
        taints in taints(),
        annotations in annotations(),
        ready in select(vec!["True", "False", "Unknown"]),
        boot in select(vec!["boot-1", "boot-2"]),
        deleting in any::<bool>(),
        finalizers in vec(Just("example.com/hold"), 0..2),
        host in select(vec![
            "metal3://metal3/host-1/machine",
            "metal3://8f3a",
            "baremetalhost:///metal3/host-1/8f3a",
            "aws:///us-east-1/i-0",
        ]),
        address in any::<bool>(),
        created in select(vec!["2026-03-02T08:00:00Z", "2026-11-22T10:18:00Z"]),
        since in select(vec!["2026-11-22T10:14:50Z", "2026-11-22T10:19:50Z"]),
        attached in prop_oneof![3 => Just(vec![]), 1 => vec(select(vec!["kubernetes.io/csi/d^v", "kubernetes.io/iscsi/a"]), 1..3)],
    ) -> Value {
        let attached: Vec<Value> = attached.into_iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        json!({
            "metadata": {
                "name": "n1",
                "creationTimestamp": created,
                "annotations": annotations,
                "finalizers": finalizers,
                "deletionTimestamp": if deleting { json!(NOW) } else { Value::Null },
            },
            "spec": {"taints": taints, "providerID": host},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
                "nodeInfo": {"bootID": boot},
                "volumesAttached": attached,
                "addresses": if address { json!([{"type": "InternalIP", "address": "10.0.0.7"}]) } else { json!([]) },
            },
        })
    }
}

prop_compose! {
    fn pod()(
        number in 0..20_u8,
        kind in select(vec![Value::Null, json!("StatefulSet"), json!("DaemonSet"), json!("StrimziPodSet")]),
        labelled in any::<bool>(),
        created in select(vec!["2026-11-22T10:00:00Z", "2026-11-22T10:16:00Z", "2026-11-22T10:19:50Z"]),
        phase in select(vec![Value::Null, json!("Pending"), json!("Running"), json!("Succeeded"), json!("Failed")]),
        tolerates in select(vec![json!([]), json!([{"operator": "Exists"}]), json!([{"operator": "Exists", "effect": "NoExecute"}])]),
        leaving in any::<bool>(),
        finalizers in vec(Just("example.com/hold"), 0..2),
        volumes in select(vec![
            json!([]),
            json!([{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]),
            json!([{"name": "d", "ephemeral": {}}]),
            json!([{"name": "d", "emptyDir": {}}]),
        ]),
    ) -> Value {
        let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "db", "controller": true}]);
        json!({
            "kind": "Pod",
            "metadata": {
                "namespace": "prod",
                "name": format!("db-{number}"),
                "creationTimestamp": created,
                "deletionTimestamp": if leaving { json!(NOW) } else { Value::Null },
                "finalizers": finalizers,
                "labels": if labelled { json!({"statefulset.kubernetes.io/pod-name": "db-0"}) } else { Value::Null },
                "ownerReferences": if kind.is_null() { Value::Null } else { owner },
            },
            "spec": {"nodeName": "n1", "tolerations": tolerates, "volumes": volumes},
            "status": {"phase": phase},
        })
    }
}

/// Times of a fence: recent, older than a day, in the future, unknown.
fn fence_times() -> impl Strategy<Value = Value> {
    select(vec![
        json!("2026-11-22T10:15:00Z"),
        json!("2026-11-20T10:15:00Z"),
        json!("2026-11-22T10:25:00Z"),
        Value::Null,
    ])
}

/// A custom resource of another project about the node.
fn custom_resource() -> impl Strategy<Value = Value> {
    // Before and after the renewals of the Lease.
    let created = || select(vec![json!("2026-11-22T10:14:30Z"), json!("2026-11-22T10:13:30Z"), Value::Null]);
    let status = select(vec!["True", "False"]);
    let action = select(vec![json!({}), json!({"--action": "off"}), json!({"--action": "reboot"})]);
    let far = (status, fence_times(), action, created()).prop_map(|(status, at, action, created)| {
        json!({"kind": "FenceAgentsRemediation",
            "metadata": {"namespace": "fencing", "name": "n1", "creationTimestamp": created},
            "spec": {"sharedparameters": action}, "status":
            {"conditions": [{"type": "FenceAgentActionSucceeded", "status": status, "lastTransitionTime": at}]}})
    });
    let phase = select(vec!["Reboot-Completed", "Pre-Reboot-Completed"]);
    let snr = (phase, fence_times(), created()).prop_map(|(phase, at, created)| {
        json!({"kind": "SelfNodeRemediation",
            "metadata": {"namespace": "fencing", "name": "n1", "creationTimestamp": created},
            "status": {"phase": phase, "timeAssumedRebooted": at}})
    });
    let host = (any::<bool>(), any::<bool>(), select(vec!["reboot.metal3.io", "reboot.metal3.io/capm3"]));
    let host = host.prop_map(|(on, online, annotation)| {
        json!({"kind": "BareMetalHost",
            "metadata": {"namespace": "metal3", "name": "host-1", "uid": "8f3a", "annotations": {annotation: ""}},
            "spec": {"online": online}, "status": {"poweredOn": on, "operationalStatus": "OK"}})
    });
    prop_oneof![far, snr, host, network_fence()]
}

/// A NetworkFence, the class that it may name, or what a driver tells about the node.
fn network_fence() -> impl Strategy<Value = Value> {
    let spec = select(vec![json!({"driver": "san.test"}), json!({"networkFenceClassName": "san"}), json!({})]);
    let cidrs = select(vec!["10.0.0.7/32", "10.0.0.8/32", "100.64.0.0/16"]);
    let message = select(vec!["fencing operation successful", "unfencing operation successful"]);
    let fence = (spec, cidrs, message, any::<bool>()).prop_map(|(mut spec, cidr, message, leaving)| {
        spec["fenceState"] = json!("Fenced");
        spec["cidrs"] = json!([cidr]);
        json!({"kind": "NetworkFence",
            "metadata": {"name": "rack-7", "deletionTimestamp": if leaving { json!(NOW) } else { Value::Null }},
            "spec": spec, "status": {"result": "Succeeded", "message": message}})
    });
    let class = select(vec!["san.test", "other.test"]).prop_map(
        |driver| json!({"kind": "NetworkFenceClass", "metadata": {"name": "san"}, "spec": {"provisioner": driver}}),
    );
    let clients = vec(Just(json!({"id": "c", "cidrs": ["100.64.0.5/32"]})), 0..2).prop_map(|clients| {
        json!({"kind": "CSIAddonsNode", "metadata": {"namespace": "san", "name": "n1-san"},
            "spec": {"driver": {"name": "san.test", "nodeID": "n1"}},
            "status": {"networkFenceClientStatus": [{"networkFenceClassName": "san", "ClientDetails": clients}]}})
    });
    prop_oneof![3 => fence, 1 => class, 1 => clients]
}

fn access_review() -> impl Strategy<Value = Value> {
    (select(vec!["break-glass", "attest"]), any::<bool>()).prop_map(|(verb, allowed)| {
        json!({"kind": "SubjectAccessReview", "status": {"allowed": allowed}, "spec": {"user": "alice",
            "resourceAttributes": {"group": "fencegate.dev", "resource": "nodes", "verb": verb}}})
    })
}

fn objects() -> impl Strategy<Value = Vec<Value>> {
    let times = ["2026-11-22T10:14:00Z", "2026-11-22T10:19:59Z", "2026-11-23T10:14:00Z"];
    let lease = (select(times.to_vec()), option::of(select(times.to_vec()))).prop_map(|(by_machine, stored)| {
        let entry = |time| json!([{"time": time, "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]);
        json!({"kind": "Lease", "spec": {"renewTime": by_machine}, "metadata":
            {"name": "n1", "namespace": "kube-node-lease", "managedFields": stored.map(entry)}})
    });
    let error = select(vec![Value::Null, json!({"message": "rpc error:\n\u{202e}no", "time": "2026-11-22T10:18:00Z"})]);
    let attachment =
        (any::<bool>(), select(vec![Value::Null, json!(NOW)]), error).prop_map(|(is_attached, deleted, error)| {
            json!({"kind": "VolumeAttachment", "metadata": {"name": "va", "deletionTimestamp": deleted},
            "spec": {"nodeName": "n1", "attacher": "san.test", "source": {"persistentVolumeName": "pv"}},
            "status": {"attached": is_attached, "detachError": error}})
        });
    let volume = select(vec![json!({"driver": "san.test"}), Value::Null]).prop_map(|csi| {
        json!({"kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {"claimRef": {"namespace": "prod", "name": "c"}, "csi": csi}})
    });
    let other = any::<bool>().prop_map(|is_out| {
        let taints = if is_out { json!([{"key": "node.kubernetes.io/out-of-service"}]) } else { json!([]) };
        json!({"kind": "Node", "metadata": {"name": "n2"}, "spec": {"taints": taints}})
    });
    let entries = [r#"{"n3":"2026-11-22T10:19:50Z"}"#, r#"{"n3":"2026-11-22T10:19:00Z"}"#, "{}", "not JSON"];
    let budget = select(entries.to_vec()).prop_map(|entries| {
        json!({"kind": "Lease", "metadata": {"name": "fencegate-budget", "namespace": "fencegate-system",
            "annotations": {"fencegate.dev/admitted": entries}}})
    });
    (
        vec(pod(), 0..4),
        vec(custom_resource(), 0..4),
        vec(access_review(), 0..3),
        option::of(lease),
        option::of(attachment),
        option::of(volume),
        option::of(other),
        option::of(budget),
    )
        .prop_map(|(pods, custom, access, lease, attachment, volume, other, budget)| {
            let single = [lease, attachment, volume, other, budget].into_iter().flatten();
            pods.into_iter().chain(custom).chain(access).chain(single).collect()
        })
}

prop_compose! {
    pub fn world()(
        operation in prop_oneof![6 => Just("UPDATE"), 1 => Just("CREATE"), 1 => Just("DELETE")],
        subresource in prop_oneof![5 => Just(""), 1 => Just("status")],
        user in select(vec![
            json!({"username": "alice", "groups": ["system:authenticated"]}),
            json!({"username": "alice", "groups": ["system:authenticated"]}),
            json!({"username": "system:node:n1", "groups": ["system:nodes"]}),
            json!({"username": "system:node:n2", "groups": ["system:nodes"]}),
        ]),
        old in node(),
        new in node(),
        keeps_status in any::<bool>(),
        cluster in objects(),
        settings in settings(),
    ) -> World {
        let mut new = new;
        if keeps_status {
            new["status"] = old["status"].clone();
        }
        new["spec"]["providerID"] = old["spec"]["providerID"].clone();
        World { operation, subresource, user, old, new, cluster, settings }
    }
}
