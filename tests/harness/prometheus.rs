//! A real Prometheus, which scrapes the replicas, the API server and kube-state-metrics, and
//! evaluates the rules that are shipped.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    gate::Gate,
    plane::Plane,
    process::{Part, free_port, keep},
};

/// A running Prometheus. It scrapes and evaluates once a second.
pub struct Prometheus {
    port: u16,
    _parts: [Part; 2],
}

impl Prometheus {
    /// Starts Prometheus with these rules, and waits until every target is up and every rule was
    /// evaluated.
    pub async fn start(plane: &Plane, gate: &Gate, rules: &Value) -> Self {
        let path = |name: &str| plane.folder.path().join(name).display().to_string();
        let replicas: Vec<String> =
            gate.replicas.iter().map(|replica| format!("127.0.0.1:{}", replica.telemetry)).collect();
        let (states, telemetry) = (free_port(), free_port());
        let kube_state_metrics = start(
            plane,
            "kube-state-metrics",
            vec![
                format!("--kubeconfig={}", plane.kubeconfig("admin")),
                "--host=127.0.0.1".to_owned(),
                format!("--port={states}"),
                "--telemetry-host=127.0.0.1".to_owned(),
                format!("--telemetry-port={telemetry}"),
            ],
        );
        // JSON is YAML.
        let configuration = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [path("rules.yaml")],
            "scrape_configs": [
                {"job_name": "fencegate", "static_configs": [{"targets": replicas}]},
                // As users of the Prometheus Operator have it: a series keeps its own labels.
                {"job_name": "kube-state-metrics", "honor_labels": true, "static_configs": [{"targets": [format!("127.0.0.1:{states}")]}]},
                {"job_name": "apiserver", "scheme": "https", "static_configs": [{"targets": [format!("127.0.0.1:{}", plane.port())]}],
                    "tls_config": {"insecure_skip_verify": true}, "authorization": {"credentials": "admin"}},
            ],
        });
        fs::write(path("prometheus.yaml"), configuration.to_string()).unwrap();
        fs::write(path("rules.yaml"), rules.to_string()).unwrap();
        let port = free_port();
        let arguments = vec![
            format!("--config.file={}", path("prometheus.yaml")),
            format!("--storage.tsdb.path={}", path("prometheus")),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--log.level=warn".to_owned(),
        ];
        let part = start(plane, "prometheus", arguments);
        let prometheus = Self { port, _parts: [part, kube_state_metrics] };
        let targets = (replicas.len() + 2).to_string();
        plane
            .until("Prometheus scrapes every target", async |_| {
                let up = prometheus.query("sum(up)").await;
                up[0]["value"][1] == targets.as_str()
            })
            .await;
        plane.until("every rule was evaluated", async |_| prometheus.rules().await.iter().all(is_evaluated)).await;
        prometheus
    }

    /// All rules, as `/api/v1/rules` describes them.
    pub async fn rules(&self) -> Vec<Value> {
        let groups = self.get("/api/v1/rules").await;
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// The state of an alert: `inactive`, `pending` or `firing`.
    pub async fn state(&self, alert: &str) -> String {
        let rules = self.rules().await;
        let rule = rules.iter().find(|rule| rule["name"] == alert).unwrap_or_else(|| panic!("no rule {alert}"));
        rule["state"].as_str().unwrap().to_owned()
    }

    /// What an expression is now.
    pub async fn query(&self, expression: &str) -> Value {
        let path = format!("/api/v1/query?query={}", escaped(expression));
        self.get(&path).await["result"].take()
    }

    /// What an expression was during the last `seconds`, with one value for each second.
    pub async fn query_range(&self, expression: &str, seconds: i64) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let path =
            format!("/api/v1/query_range?step=1&start={}&end={now}&query={}", now - seconds, escaped(expression));
        self.get(&path).await["result"].take()
    }

    /// The `data` of an answer. `null` before Prometheus answers at all.
    async fn get(&self, path: &str) -> Value {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return Value::Null };
        // The answer to HTTP/1.0 is not in chunks.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let mut answer: Value = serde_json::from_str(body).unwrap_or_default();
        assert!(answer["status"] != "error", "{path}: {answer}");
        answer["data"].take()
    }
}

/// Starts a program that ends with its test.
fn start(plane: &Plane, name: &str, arguments: Vec<String>) -> Part {
    let log = plane.folder.path().join(format!("{name}.log"));
    let keeper = keep(&tool(plane, name), &arguments, &log, &[]);
    Part { name: name.into(), arguments, keeper }
}

fn is_evaluated(rule: &Value) -> bool {
    assert!(rule["health"] != "err", "{rule}");
    rule["health"] == "ok"
}

/// A query in a URL.
fn escaped(expression: &str) -> String {
    expression.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat()
}

/// What `promtool check metrics` complains of, in metrics in the text format. Empty if all is well.
pub fn complaints(plane: &Plane, metrics: &str) -> String {
    let mut child = Command::new(tool(plane, "promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { said } else { format!("{}: {said}", output.status) }
}

fn tool(plane: &Plane, name: &str) -> std::path::PathBuf {
    let path = plane.tool(name);
    assert!(path.exists(), "{} is not there: run make control-plane", path.display());
    path
}
