//! Laws that hold for every request, cluster and order of things, not only for those someone thought of.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use fencegate::{
    admission::review::{self, Answer, Webhook},
    cluster::Snapshot,
    policy::{
        Decision, decide,
        facts::{Facts, Observed},
        facts_needed,
        review::Review,
        settings::Settings,
    },
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

const NOW: &str = "2026-11-22T10:20:00Z";

/// A request and a cluster, as the API server and kubectl write them.
#[derive(Clone, Debug)]
struct World {
    operation: &'static str,
    subresource: &'static str,
    user: Value,
    old: Value,
    new: Value,
    cluster: Vec<Value>,
}

impl World {
    fn review(&self) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "operation": self.operation,
                "subResource": self.subresource,
                "resource": {"group": "", "version": "v1", "resource": "nodes"},
                "userInfo": self.user,
                "oldObject": if self.operation == "CREATE" { Value::Null } else { self.old.clone() },
                "object": if self.operation == "DELETE" { Value::Null } else { self.new.clone() },
            },
        })
    }

    fn understood(&self) -> Review {
        review::read(self.review().to_string().as_bytes()).unwrap()
    }

    fn facts(&self) -> Facts {
        let snapshot = Snapshot::parse(&json!({"kind": "List", "items": self.cluster}).to_string()).unwrap();
        let review = self.understood();
        let request = review.request().unwrap();
        snapshot.read(request, &facts_needed(request, &Settings::default()), NOW.parse().unwrap())
    }

    fn decide(&self) -> Decision {
        self.decide_with(&self.facts())
    }

    fn decide_with(&self, facts: &Facts) -> Decision {
        decide(self.understood().request().unwrap(), facts, &Settings::default())
    }

    /// Whether the write says of a break-glass that it was used. With more against a write that becomes true, and its mark right; without
    /// anything against it, it is a forgery.
    fn marks_a_break_glass(&self) -> bool {
        let mark = |node: &Value| node["metadata"]["annotations"]["fencegate.dev/overridden"].clone();
        !mark(&self.new).is_null() && (self.operation == "CREATE" || mark(&self.new) != mark(&self.old))
    }

    /// Everything that a user or a controller sees of the decision.
    fn answer(&self) -> Value {
        let review = self.understood();
        serde_json::to_value(Answer::new(Webhook::Validate, &review, &self.decide())).unwrap()
    }
}

fn annotations() -> impl Strategy<Value = Value> {
    let pairs = [
        ("fencegate.dev/method", "power-off"),
        ("fencegate.dev/method", "unplugged"),
        ("fencegate.dev/fenced-at", "2026-11-22T10:15:00Z"),
        ("fencegate.dev/fenced-at", "2026-11-20T10:15:00Z"),
        ("fencegate.dev/fenced-by", "alice"),
        ("fencegate.dev/proof", "Chassis Power is off"),
        ("fencegate.dev/boot-id", "boot-1"),
        ("fencegate.dev/boot-id", "boot-0"),
        ("fencegate.dev/recorded-by", "alice"),
        ("fencegate.dev/placed-at", "2026-11-22T10:19:45Z"),
        ("fencegate.dev/source", "cloud-shutdown"),
        ("fencegate.dev/overridden", "spent"),
        ("fencegate.dev/break-glass", "spent"),
        ("fencegate.dev/break-glass", "split brain drill"),
        ("fencegate.dev/fencedat", "typo"),
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
    ) -> Value {
        json!({
            "metadata": {
                "name": "n1",
                "annotations": annotations,
                "finalizers": finalizers,
                "deletionTimestamp": if deleting { json!(NOW) } else { Value::Null },
            },
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "nodeInfo": {"bootID": boot}},
        })
    }
}

prop_compose! {
    fn pod()(
        number in 0..20_u8,
        kind in select(vec!["StatefulSet", "DaemonSet"]),
        tolerates in any::<bool>(),
        leaving in any::<bool>(),
        claims in any::<bool>(),
    ) -> Value {
        json!({
            "kind": "Pod",
            "metadata": {
                "namespace": "prod",
                "name": format!("db-{number}"),
                "deletionTimestamp": if leaving { json!(NOW) } else { Value::Null },
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "db", "controller": true}],
            },
            "spec": {
                "nodeName": "n1",
                "tolerations": if tolerates { json!([{"operator": "Exists"}]) } else { json!([]) },
                "volumes": if claims { json!([{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]) } else { json!([]) },
            },
        })
    }
}

fn objects() -> impl Strategy<Value = Vec<Value>> {
    let lease = select(vec!["2026-11-22T10:14:00Z", "2026-11-22T10:19:59Z"]).prop_map(
        |time| json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"renewTime": time}}),
    );
    let attachment = Just(json!({"kind": "VolumeAttachment", "metadata": {"name": "va"},
        "spec": {"nodeName": "n1", "source": {"persistentVolumeName": "pv"}}}));
    let volume = Just(json!({"kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"claimRef": {"namespace": "prod", "name": "c"}}}));
    let access = Just(json!({"kind": "SubjectAccessReview", "spec": {"user": "alice", "resourceAttributes":
        {"group": "fencegate.dev", "resource": "nodes", "verb": "break-glass"}}, "status": {"allowed": true}}));
    let lease = proptest::option::of(lease);
    let (attachment, volume, access) =
        (proptest::option::of(attachment), proptest::option::of(volume), proptest::option::of(access));
    (vec(pod(), 0..4), lease, attachment, volume, access).prop_map(|(pods, lease, attachment, volume, access)| {
        pods.into_iter().chain(lease).chain(attachment).chain(volume).chain(access).collect()
    })
}

prop_compose! {
    fn world()(
        operation in prop_oneof![6 => Just("UPDATE"), 1 => Just("CREATE"), 1 => Just("DELETE")],
        subresource in prop_oneof![5 => Just(""), 1 => Just("status")],
        user in select(vec![
            json!({"username": "alice", "groups": ["system:authenticated"]}),
            json!({"username": "system:node:n1", "groups": ["system:nodes"]}),
        ]),
        old in node(),
        new in node(),
        keeps_status in any::<bool>(),
        cluster in objects(),
    ) -> World {
        let mut new = new;
        if keeps_status {
            new["status"] = old["status"].clone();
        }
        World { operation, subresource, user, old, new, cluster }
    }
}

fn reversed(value: &mut Value) {
    if let Some(list) = value.as_array_mut() {
        list.reverse();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_never_depends_on_the_order_of_things(world in world()) {
        let mut turned = world.clone();
        for node in [&mut turned.old, &mut turned.new] {
            reversed(&mut node["spec"]["taints"]);
            if let Some(annotations) = node["metadata"]["annotations"].as_object_mut() {
                *annotations = std::mem::take(annotations).into_iter().rev().collect();
            }
        }
        turned.cluster.reverse();
        let (one, other) = (world.answer(), turned.answer());
        prop_assert_eq!(&one["response"]["allowed"], &other["response"]["allowed"]);
        prop_assert_eq!(&one["response"]["auditAnnotations"], &other["response"]["auditAnnotations"]);
    }

    #[test]
    fn a_contradiction_never_turns_a_denial_into_consent(world in world(), which in 0..6_u8) {
        prop_assume!(!world.marks_a_break_glass());
        let mut contradicted = world.clone();
        match which {
            0 => for node in [&mut contradicted.old, &mut contradicted.new] {
                node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            },
            1 => {
                contradicted.cluster.retain(|object| object["kind"] != "Lease");
                contradicted.cluster.push(json!({"kind": "Lease",
                    "metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"renewTime": NOW}}));
            }
            2 => contradicted.cluster.push(json!({"kind": "Pod", "metadata": {"namespace": "prod", "name": "late-0",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": true}]},
                "spec": {"nodeName": "n1"}})),
            3 => contradicted.cluster.push(json!({"kind": "VolumeAttachment", "metadata": {"name": "late"},
                "spec": {"nodeName": "n1", "source": {"inlineVolumeSpec": {}}}})),
            4 => contradicted.user = json!({"username": "system:node:n1", "groups": ["system:nodes"]}),
            _ => contradicted.cluster.retain(|object| object["kind"] != "SubjectAccessReview"),
        }
        prop_assert!(world.decide().allowed || !contradicted.decide().allowed);
    }

    #[test]
    fn a_fact_that_is_lost_never_turns_a_denial_into_consent(world in world(), which in 0..4_u8) {
        prop_assume!(!world.marks_a_break_glass());
        let facts = world.facts();
        let mut less = facts.clone();
        let (at, why) = (facts.now, "lost".to_owned());
        match which {
            0 => less.lease = facts.lease.clone().map(|_| Observed::Unknown { at, why }),
            1 => less.pods = facts.pods.clone().map(|_| Observed::Unknown { at, why }),
            2 => less.volume_attachments = facts.volume_attachments.clone().map(|_| Observed::Unknown { at, why }),
            _ => less.access.clear(),
        }
        prop_assert!(world.decide_with(&facts).allowed || !world.decide_with(&less).allowed);
        prop_assert!(world.decide_with(&facts).allowed || !world.decide_with(&Facts::at(at)).allowed, "nothing at all");
    }

    #[test]
    fn a_write_that_touches_nothing_guarded_reads_no_fact(world in world(), cordon in any::<bool>()) {
        let mut untouched = World { operation: "UPDATE", new: world.old.clone(), ..world };
        // The last finalizer of a Node that is being deleted stays where it is.
        untouched.new["spec"]["unschedulable"] = json!(cordon);
        untouched.new["metadata"]["labels"] = json!({"team": "a"});
        untouched.new["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": NOW}]);
        let review = untouched.understood();
        prop_assert!(facts_needed(review.request().unwrap(), &Settings::default()).is_empty());
        let decision = untouched.decide();
        prop_assert!(decision.allowed && !decision.is_on_record() && decision.warnings.is_empty());
    }

    #[test]
    fn an_unrelated_field_never_changes_the_verdict(world in world(), before in any::<bool>(), after in any::<bool>()) {
        let mut patched = world.clone();
        for (node, touched) in [(&mut patched.old, before), (&mut patched.new, after)] {
            if touched {
                node["metadata"]["labels"] = json!({"team": "a"});
                node["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
                node["spec"]["podCIDR"] = json!("10.0.0.0/24");
                node["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": "example.com/mine", "effect": "NoSchedule"}));
                node["status"]["images"] = json!([{"names": ["a"], "sizeBytes": 1}]);
                node["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "DiskPressure", "status": "True"}));
            }
        }
        prop_assert_eq!(world.answer(), patched.answer());
    }

    #[test]
    fn a_taint_newly_on_has_evidence_or_a_voucher_or_a_broken_glass(world in world()) {
        let decision = world.decide();
        let places = decision.transitions.to_string().starts_with("Place");
        let broken = decision.findings.iter().any(|finding| finding.waived);
        prop_assert!(!places || !decision.allowed || decision.source().is_some() || broken);
    }

    #[test]
    fn what_one_side_allows_and_completes_the_other_accepts_as_it_is(world in world()) {
        let first = world.decide();
        prop_assert!(first.allowed || first.stamps.is_empty(), "a denied write is not completed");
        let mut completed = world.clone();
        for (key, value) in &first.stamps {
            prop_assert!(key.starts_with("fencegate.dev/"));
            if completed.new["metadata"]["annotations"].is_null() {
                completed.new["metadata"]["annotations"] = json!({});
            }
            let annotations = completed.new["metadata"]["annotations"].as_object_mut().unwrap();
            match value {
                Some(value) => annotations.insert((*key).to_owned(), json!(value)),
                None => annotations.remove(*key),
            };
        }
        let second = completed.decide();
        prop_assert_eq!(first.allowed, second.allowed, "{:?}\n{:?}", first, second);
        // What a release consumes cannot be waived a second time.
        let is_cured = first.findings.iter().any(|finding| finding.waived);
        prop_assert!(is_cured || first.leading_code() == second.leading_code(), "{:?}\n{:?}", first, second);
        prop_assert!(second.stamps.is_empty(), "again {:?} after {:?}", second.stamps, first.stamps);
    }

    #[test]
    fn warnings_are_short_lines(world in world()) {
        for warning in world.decide().warnings {
            prop_assert!(warning.chars().count() <= 120 && !warning.chars().any(char::is_control), "{warning:?}");
        }
    }

    #[test]
    fn parsing_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let _ = review::read(&bytes);
        let _ = Snapshot::parse(&String::from_utf8_lossy(&bytes));
        let _ = fencegate::config::parse(&bytes);
    }

    #[test]
    fn a_damaged_review_is_an_error_or_a_denial_or_unharmed(world in world(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = world.review().to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let Ok(review) = review::read(&bytes) else { return Ok(()) };
        if let Some(request) = review.request() {
            let decision = decide(request, &Facts::at(NOW.parse().unwrap()), &Settings::default());
            prop_assert!(!Answer::new(Webhook::Validate, &review, &decision).message().is_some_and(str::is_empty));
        }
    }
}
