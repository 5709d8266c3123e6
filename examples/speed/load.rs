//! The load: oha, which `make speed` builds.

use std::process::Command;

use serde_json::Value;

/// Calls of one server.
pub struct Load {
    pub port: u16,
    pub path: String,
    pub body: Value,
}

#[derive(Clone, Copy)]
pub enum Protocol {
    Http1,
    /// All calls on one connection, as an API server sends them.
    Http2,
}

/// How the calls of one load were answered.
pub struct Answered {
    pub calls: f64,
    /// Calls a second.
    pub rate: f64,
    /// Milliseconds.
    pub median: f64,
    pub p99: f64,
}

impl Load {
    /// Sends calls for `SECONDS`, at most `most` a second: as many at once as told. A call that
    /// cannot be sent in time counts from when it should have been sent.
    pub fn send(&self, protocol: Protocol, at_once: usize, most: Option<f64>) -> Answered {
        let seconds = std::env::var("SECONDS").unwrap_or_else(|_| "8".to_owned());
        let oha = std::env::var("OHA").unwrap_or_else(|_| "target/tools/bin/oha".to_owned());
        let body = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(body.path(), self.body.to_string()).unwrap();
        let mut command = Command::new(oha);
        command.args(["--no-tui", "--output-format", "json", "--insecure", "-m", "POST", "-w", "-z"]);
        command.arg(format!("{seconds}s")).args(["-T", "application/json", "-D"]).arg(body.path());
        let at_once = at_once.to_string();
        match protocol {
            Protocol::Http1 => command.args(["-c", &at_once]),
            Protocol::Http2 => command.args(["--http2", "-c", "1", "-p", &at_once]),
        };
        if let Some(most) = most {
            command.args(["--latency-correction", "-q", &format!("{most:.0}")]);
        }
        let output = command.arg(format!("https://localhost:{}{}", self.port, self.path)).output().unwrap();
        assert!(output.status.success(), "oha: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let answers = report["statusCodeDistribution"].as_object().unwrap();
        let calls = answers.get("200").and_then(Value::as_f64).unwrap_or_default();
        assert!(
            answers.len() == 1 && calls > 0.0,
            "not all calls were answered: {answers:?} {}",
            report["errorDistribution"]
        );
        let milliseconds = |name: &str| report["latencyPercentiles"][name].as_f64().unwrap() * 1e3;
        Answered {
            calls,
            rate: report["summary"]["requestsPerSec"].as_f64().unwrap(),
            median: milliseconds("p50"),
            p99: milliseconds("p99"),
        }
    }
}
