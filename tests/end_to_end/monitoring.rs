//! What operators see: the metrics of real replicas, in a real Prometheus with the rules that are
//! shipped.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        prometheus::{Prometheus, complaints},
    },
    world::{PLACE, REMOVE, accepts, dead_node, kubectl, plane_with_alice, rejects},
};

/// The rules that the manifests and the chart install.
fn rules() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fencegate/files/monitoring/rules.yaml");
    let mut object: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    object["spec"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_no_complaint_about_what_a_replica_serves() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    dead_node(&plane, "n1", json!({})).await;
    rejects(kubectl(&plane, &["taint", "node", "n1", PLACE]), &["EvidenceMissing"]);
    let response = gate.replicas[0].telemetry("/metrics").await;
    let (head, metrics) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for metric in ["fencegate_decisions_total{", "fencegate_fact_read_duration_seconds_bucket{", "process_open_fds "] {
        assert!(metrics.contains(&format!("\n{metric}")), "{metric} is not in\n{metrics}");
    }
    assert_eq!(complaints(&plane, metrics), "");
    let wrong = metrics.replace("# TYPE fencegate_decisions_total counter", "# TYPE fencegate_decisions_total gauge");
    assert!(complaints(&plane, &wrong).contains("fencegate_decisions_total"), "promtool reads what it is given");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_fires_when_somebody_overrules_the_gate() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 2).await;
    dead_node(&plane, "n1", json!({})).await;
    let prometheus = Prometheus::start(&plane, &gate, &rules()).await;

    rejects(kubectl(&plane, &["taint", "node", "n1", PLACE]), &["EvidenceMissing"]);
    let denied = r#"sum(fencegate_decisions_total{webhook="mutate",decision="deny",reason="EvidenceMissing"})"#;
    plane.until("Prometheus has the denial", async |_| prometheus.query(denied).await[0]["value"][1] == "1").await;
    assert_eq!(prometheus.state("FencegateBreakGlassUsed").await, "inactive", "a denial is no break-glass");

    accepts(kubectl(&plane, &["annotate", "node", "n1", "fencegate.dev/break-glass=the rack burnt down"]));
    accepts(kubectl(&plane, &["taint", "node", "n1", PLACE]));
    plane.until("the alert fires", async |_| prometheus.state("FencegateBreakGlassUsed").await == "firing").await;
    accepts(kubectl(&plane, &["taint", "node", "n1", REMOVE]));
    let firing = prometheus.query(r#"ALERTS{alertstate="firing"}"#).await;
    let names: Vec<&str> =
        firing.as_array().unwrap().iter().map(|alert| alert["metric"]["alertname"].as_str().unwrap()).collect();
    assert_eq!(names, ["FencegateBreakGlassUsed"]);
}
