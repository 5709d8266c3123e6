use serde_json::{from_value, json};

use super::*;
use crate::policy::object::node::Node;
use crate::policy::object::node::OUT_OF_SERVICE;

const NOW: &str = "2026-11-22T10:20:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn node(name: &str, is_out: bool, is_ready: bool) -> Node {
    let taints = if is_out { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
    let ready = if is_ready { "True" } else { "Unknown" };
    from_value(json!({
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

/// A pod with a volume or without one, which tolerates the taint or is evicted.
fn pod(has_volume: bool, tolerates: bool) -> Pod {
    let volumes = if has_volume { json!([{"persistentVolumeClaim": {"claimName": "data"}}]) } else { json!([]) };
    let tolerations = if tolerates { json!([{"operator": "Exists"}]) } else { json!([]) };
    from_value(json!({
        "metadata": {"namespace": "prod", "name": "db-0"},
        "spec": {"volumes": volumes, "tolerations": tolerations},
    }))
    .unwrap()
}

#[test]
fn what_is_forgotten_was_not_read_and_is_not_written_down() {
    let mut facts = Facts::at(now());
    assert_eq!(serde_json::to_value(&facts).unwrap(), json!({"now": NOW}));
    facts.learn(now(), FactValue::Pods(Vec::new()));
    assert_eq!(facts.why_unknown(Fact::Pods), None);
    assert!(serde_json::to_value(&facts).unwrap()["pods"].is_object());
    facts.forget(Fact::Pods);
    assert_eq!(facts.why_unknown(Fact::Pods), Some("it was not read"));
    assert_eq!(serde_json::to_value(&facts).unwrap(), json!({"now": NOW}));
}

#[test]
fn all_volumes_are_read_if_a_pod_may_keep_one_at_a_release_and_otherwise_those_that_are_named() {
    let attachments: Vec<VolumeAttachment> = (0..=NAMED)
        .map(|number| {
            let source = json!({"persistentVolumeName": format!("pv-{number}")});
            from_value(
                json!({"metadata": {"name": format!("va-{number}")}, "spec": {"nodeName": "n1", "source": source}}),
            )
            .unwrap()
        })
        .collect();
    let out = || node("n1", true, true);
    let release = Write::Update { old: out(), new: node("n1", false, true) };
    let stays = Write::Update { old: out(), new: out() };
    let in_service = Write::Update { old: node("n1", false, true), new: node("n1", false, true) };
    let deleted = Write::Delete { old: out() };
    for (write, pod, read) in [
        (&release, pod(true, true), NAMED + 1),
        (&release, pod(false, true), NAMED),
        (&release, pod(true, false), NAMED),
        (&stays, pod(true, true), NAMED),
        (&deleted, pod(true, true), NAMED),
        (&in_service, pod(true, true), 0),
    ] {
        let mut facts = Facts::at(now());
        facts.learn(now(), FactValue::VolumeAttachments(attachments.clone()));
        facts.learn(now(), FactValue::Pods(vec![pod.clone()]));
        assert_eq!(facts.volumes_to_read(write).len(), read, "{write:?} {pod:?}");
    }
}

#[test]
fn claims_are_read_if_there_is_a_network_fence() {
    let claims = |fences: Option<serde_json::Value>| {
        let mut facts = Facts::at(now());
        facts.learn(now(), FactValue::Pods(vec![pod(true, false)]));
        let fences = fences.map(|fences| from_value(fences).unwrap());
        facts.learn(now(), FactValue::Custom(CustomKind::NetworkFence, fences));
        facts.claims_to_read().len()
    };
    let fence = json!({"metadata": {"name": "fence"}, "spec": {"cidrs": ["10.0.0.2/32"]}});
    assert_eq!(claims(Some(json!([fence]))), 1);
    assert_eq!(claims(Some(json!([]))), 0);
    assert_eq!(claims(None), 0);
}

#[test]
fn a_summary_counts_the_others_that_are_not_ready() {
    let nodes = [node("n1", true, false), node("n2", false, false), node("n3", false, true)];
    let of = |name: &str| NodeSummary::of(nodes.iter().map(NodeBrief::from), name);
    let out_of_service = BTreeSet::from(["n1".to_owned()]);
    assert_eq!(
        of("n1"),
        NodeSummary { total: 3, out_of_service: out_of_service.clone(), counts_node: true, others_not_ready: 1 }
    );
    assert_eq!(of("n3"), NodeSummary { total: 3, out_of_service, counts_node: true, others_not_ready: 2 });
    assert!(!of("n4").counts_node);
}

#[test]
fn of_a_renewal_and_a_report_at_once_the_renewal_is_told() {
    let heartbeat = json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}}});
    let stored: Node = from_value(json!({
        "metadata": {"name": "n1", "managedFields": [{"time": "2026-11-22T10:10:00Z", "fieldsV1": heartbeat}]},
    }))
    .unwrap();
    let heard = |renewed: &str| {
        let lease: crate::policy::object::lease::Lease =
            from_value(json!({"spec": {"renewTime": renewed, "leaseDurationSeconds": 40}})).unwrap();
        let answer = LeaseAnswer { date: now(), lease: Some(lease.with_managed_fields()) };
        SignOfLife::last(&stored, &answer, jiff::SignedDuration::ZERO)
    };
    let at = Some("2026-11-22T10:10:00Z".parse().unwrap());
    assert_eq!(stored.reported_at(), at);
    assert_eq!(heard("2026-11-22T10:10:00Z").map(|sign| (Some(sign.at), sign.of_status)), Some((at, false)));
    assert_eq!(heard("2026-11-22T10:09:59Z").map(|sign| (Some(sign.at), sign.of_status)), Some((at, true)));
}
