//! What operators see: the metrics of real replicas, in a real Prometheus with the rules that are
//! shipped.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        prometheus::{Prometheus, complaints},
    },
    world::{PLACE, REMOVE, World, accepts, dead_node, kubectl, now, plane_with_alice, rejects, until_silent},
};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rules that the manifests and the chart install.
fn rules() -> Value {
    let mut object: Value = serde_saphyr::from_str(&read("charts/fencegate/files/monitoring/rules.yaml")).unwrap();
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

/// The panels of the dashboard, each with what its queries find now, or during the last `seconds`
/// if it has an axis of time.
async fn panels(prometheus: &Prometheus, seconds: i64) -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("charts/fencegate/files/monitoring/dashboard.json")).unwrap();
    let mut panels = dashboard["panels"].as_array().unwrap().clone();
    for panel in &mut panels {
        let over_time = panel["type"] == "timeseries";
        for target in panel["targets"].as_array_mut().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let expression = [("$cluster", ".*"), ("$namespace", ".*"), ("$__rate_interval", "5s"), ("$__range", "1h")]
                .iter()
                .fold(expression.to_owned(), |text, (variable, value)| text.replace(variable, value));
            assert!(!expression.contains('$'), "an unknown variable: {expression}");
            let found = if over_time {
                prometheus.query_range(&expression, seconds).await
            } else {
                prometheus.query(&expression).await
            };
            target["found"] = found;
        }
    }
    panels
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_tell_the_story_of_an_outage() {
    let world = World::start().await;
    let gate = Gate::guard_with(&world.plane, 2).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let prometheus = Prometheus::start(plane, &gate, &rules()).await;
    let begin = jiff::Timestamp::now();
    let becomes = async |alert: &str, state: &str| {
        let what = format!("{alert} becomes {state}");
        plane.until(&what, async |_| prometheus.state(alert).await == state).await;
    };
    let taint = || kubectl(plane, &["taint", "node", node, PLACE]);

    rejects(taint(), &["NodeStillReady", "EvidenceMissing"]);
    world.machine().power_off();
    let fenced_at = format!("fencegate.dev/fenced-at={}", now());
    // Pending: it fires if that is so for five minutes.
    becomes("NodeNeedsFencing", "pending").await;
    rejects(taint(), &["EvidenceMissing"]);
    until_silent(plane, node).await;
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice"];
    accepts(kubectl(plane, &["annotate", "node", node, by[0], by[1], &fenced_at]));
    accepts(taint());
    rejects(kubectl(plane, &["taint", "node", node, REMOVE]), &["PodsRemain", "VolumesAttached"]);
    becomes("NodeNeedsFencing", "inactive").await;
    world.until_moved().await;
    becomes("NodeOutOfServiceStuck", "inactive").await;
    assert_eq!(prometheus.state("NodeOutOfServiceForgotten").await, "inactive", "the machine is still off");
    world.machine().boot();
    becomes("NodeOutOfServiceForgotten", "pending").await;

    dead_node(plane, "rack-7", json!({})).await;
    accepts(kubectl(plane, &["annotate", "node", "rack-7", "fencegate.dev/break-glass=the rack burnt down"]));
    accepts(kubectl(plane, &["taint", "node", "rack-7", PLACE]));
    becomes("FencegateBreakGlassUsed", "firing").await;
    for both in ["sum(fencegate:node_out_of_service)", "sum(max by (state) (fencegate_out_of_service_nodes))"] {
        plane.until(both, async |_| prometheus.query(both).await[0]["value"][1] == "2").await;
    }

    let seconds = jiff::Timestamp::now().as_second() - begin.as_second();
    let panels = panels(&prometheus, seconds).await;
    for panel in &panels {
        let mut found = panel["targets"].as_array().into_iter().flatten();
        let is_empty = panel["type"] != "row" && found.all(|target| target["found"].as_array().unwrap().is_empty());
        assert!(!is_empty || panel["title"] == "Would have been denied", "no data: {panel}");
    }
    if let Some(file) = std::env::var_os("PANELS") {
        fs::write(file, json!({"seconds": seconds, "panels": panels}).to_string()).unwrap();
    }
    accepts(kubectl(plane, &["taint", "node", node, REMOVE]));
    becomes("NodeOutOfServiceForgotten", "inactive").await;
}
