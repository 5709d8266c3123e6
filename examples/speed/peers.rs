//! The policy engines, with a policy that asks the first question only: the taint is refused on a
//! Node without evidence. Each is set up as its own chart does, as far as that matters here.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Certificate, Row,
    harness::{plane::Plane, process::free_port},
    load::{Load, Protocol},
    measured,
    server::{Memory, Server},
};

const REGO: &str = r#"
package evidence
violation[{"msg": "the node is not known to be fenced"}] {
  input.review.object.spec.taints[_].key == "node.kubernetes.io/out-of-service"
  not input.review.object.metadata.annotations["fencegate.dev/fenced-at"]
}
"#;

const CEL: &str = r#"
!has(object.spec.taints)
|| !object.spec.taints.exists(taint, taint.key == "node.kubernetes.io/out-of-service")
|| (has(object.metadata.annotations) && "fencegate.dev/fenced-at" in object.metadata.annotations)
"#;

const CONSTRAINT: &str = r#"
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: Evidence
metadata: {name: evidence}
spec: {match: {kinds: [{apiGroups: [""], kinds: [Node]}]}}
"#;

/// Kyverno's chart excludes Nodes; this configuration does not.
const KYVERNO: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: kyverno}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kyverno, namespace: kyverno}
data: {resourceFilters: "", excludeGroups: system:nodes}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kyverno-metrics, namespace: kyverno}
"#;

/// The policy in CEL, as Gatekeeper and Kyverno both read it.
fn validations() -> Value {
    json!([{"message": "the node is not known to be fenced", "expression": CEL.trim()}])
}

/// Gatekeeper's, in this language.
fn constraint_template(language: &str) -> String {
    let mut target = json!({"target": "admission.k8s.gatekeeper.sh"});
    match language {
        "Rego" => target["rego"] = json!(REGO),
        _ => {
            target["code"] = json!([{"engine": "K8sNativeValidation", "source": {"validations": validations()}}]);
        }
    }
    let template = json!({
        "apiVersion": "templates.gatekeeper.sh/v1",
        "kind": "ConstraintTemplate",
        "metadata": {"name": "evidence"},
        "spec": {"crd": {"spec": {"names": {"kind": "Evidence"}}}, "targets": [target]},
    });
    template.to_string()
}

/// Kyverno's.
fn validating_policy() -> String {
    let nodes =
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["nodes"]});
    let policy = json!({
        "apiVersion": "policies.kyverno.io/v1",
        "kind": "ValidatingPolicy",
        "metadata": {"name": "evidence"},
        "spec": {
            "validationActions": ["Deny"],
            "matchConstraints": {"resourceRules": [nodes]},
            "validations": validations(),
        },
    });
    policy.to_string()
}

/// A policy engine, which is set up once and then started again to be measured.
struct Peer<'a> {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    load: Load,
    plane: &'a Plane,
}

/// Measures those that `make peers` has built.
pub async fn measure(
    plane: &Plane,
    certificate: &Certificate,
    denial: &Value,
    rows: &mut Vec<Row>,
    memory: &mut Vec<Memory>,
) {
    let folder = std::env::var_os("PEERS").map_or_else(|| PathBuf::from("target/peers"), PathBuf::from);
    apply(plane, &["-R", "-f", folder.join("gatekeeper-crds").to_str().unwrap()], "");
    apply(plane, &["-R", "-f", folder.join("kyverno-crds").to_str().unwrap()], "");
    kubectl(plane, &["wait", "--for=condition=Established", "crd", "--all"], "");
    for language in ["Rego", "CEL"] {
        let peer = gatekeeper(plane, certificate, &folder, language, denial);
        peer.measure(&[&constraint_template(language), CONSTRAINT], rows, memory).await;
        kubectl(plane, &["delete", "--wait=false", "constrainttemplate/evidence"], "");
    }
    kyverno(plane, &folder, denial).measure(&[&validating_policy()], rows, memory).await;
}

impl Peer<'_> {
    /// Starts it, applies its policy, and starts it again: then it does what it always does.
    async fn measure(self, policy: &[&str], rows: &mut Vec<Row>, memory: &mut Vec<Memory>) {
        let is_denied = |answer: &Value| answer["response"]["allowed"] == false;
        let mut first = self.start();
        for manifest in policy {
            // Gatekeeper makes the second manifest's kind from the first one.
            let mut applied = false;
            for _ in 0..300 {
                applied =
                    self.plane.kubectl("admin", &["apply", "--server-side", "-f", "-"], manifest).status.success();
                if applied {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            assert!(applied, "{}: not applied: {manifest}", self.name);
        }
        first.until(&self.load, is_denied).await;
        drop(first);
        let mut server = self.start();
        server.until(&self.load, is_denied).await;
        rows.push(measured(&format!("denial, {}", self.name), &server, &self.load, Protocol::Http1));
        memory.push(server.memory());
    }

    fn start(&self) -> Server {
        Server::start(&self.name, &self.program, &self.arguments, &self.environment)
    }
}

fn gatekeeper<'a>(
    plane: &'a Plane,
    certificate: &Certificate,
    folder: &Path,
    language: &str,
    denial: &Value,
) -> Peer<'a> {
    apply(plane, &["-f", "-"], "{apiVersion: v1, kind: Namespace, metadata: {name: gatekeeper-system}}");
    let port = free_port();
    Peer {
        name: format!("Gatekeeper, {language}"),
        program: folder.join("gatekeeper"),
        arguments: vec![
            "--operation=webhook".to_owned(),
            // The kinds of constraints.
            "--operation=generate".to_owned(),
            "--host=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--health-addr=127.0.0.1:{}", free_port()),
            format!("--prometheus-port={}", free_port()),
            format!("--cert-dir={}", certificate.folder().display()),
            "--disable-cert-rotation".to_owned(),
            "--debug-use-fake-pod".to_owned(),
        ],
        environment: vec![
            ("KUBECONFIG", plane.kubeconfig("admin")),
            ("POD_NAMESPACE", "gatekeeper-system".to_owned()),
            ("POD_NAME", "no-pod".to_owned()),
        ],
        load: Load { port, path: "/v1/admit?timeout=5s".to_owned(), body: denial.clone() },
        plane,
    }
}

fn kyverno<'a>(plane: &'a Plane, folder: &Path, denial: &Value) -> Peer<'a> {
    apply(plane, &["-f", "-"], KYVERNO);
    let port = free_port();
    let names = [
        ("KYVERNO_NAMESPACE", "kyverno"),
        ("KYVERNO_SERVICEACCOUNT_NAME", "kyverno"),
        ("KYVERNO_ROLE_NAME", "kyverno"),
        ("KYVERNO_DEPLOYMENT", "kyverno"),
        ("KYVERNO_POD_NAME", "kyverno"),
        ("KYVERNO_SVC", "kyverno-svc"),
        ("INIT_CONFIG", "kyverno"),
        ("METRICS_CONFIG", "kyverno-metrics"),
    ];
    Peer {
        name: "Kyverno, CEL".to_owned(),
        program: folder.join("kyverno"),
        arguments: vec![
            format!("--kubeconfig={}", plane.kubeconfig("admin")),
            format!("--serverIP=127.0.0.1:{port}"),
            "--webhookServerHost=127.0.0.1".to_owned(),
            format!("--webhookServerPort={port}"),
            "--caSecretName=kyverno-ca".to_owned(),
            "--tlsSecretName=kyverno-tls".to_owned(),
            "--disableMetrics=true".to_owned(),
            "--controllerRuntimeMetricsAddress=0".to_owned(),
        ],
        environment: names.map(|(name, value)| (name, value.to_owned())).to_vec(),
        load: Load { port, path: "/vpol/evidence?timeout=5s".to_owned(), body: denial.clone() },
        plane,
    }
}

fn apply(plane: &Plane, what: &[&str], input: &str) {
    kubectl(plane, &[&["apply", "--server-side"], what].concat(), input);
}

fn kubectl(plane: &Plane, arguments: &[&str], input: &str) {
    let done = plane.kubectl("admin", arguments, input);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
