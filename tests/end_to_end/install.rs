//! Installing, upgrading and uninstalling, with kubectl and with Helm.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, Replica, rendered},
        plane::Plane,
    },
    replicas::Load,
    support,
    world::{PLACE, accepts, kubectl, lone_node, plane_with_alice, rejects, said},
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

const NAMESPACE: &str = "fencegate-system";

fn helm(plane: &Plane, arguments: &[&str]) -> Output {
    Command::new(plane.helm_path())
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig("admin"))
        .env("HOME", plane.folder.path())
        .output()
        .unwrap()
}

fn chart() -> PathBuf {
    repository("charts/fencegate")
}

/// Renders a chart, which may be a folder or a package.
fn template(plane: &Plane, namespace: &str, chart: &Path, values: &[&str]) -> Output {
    let mut arguments = vec!["template", "fencegate", chart.to_str().unwrap(), "--namespace", namespace];
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    helm(plane, &arguments)
}

fn text(plane: &Plane, namespace: &str, chart: &Path, values: &[&str]) -> String {
    let output = template(plane, namespace, chart, values);
    assert!(output.status.success(), "{values:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// Each overlay, and the values that make the chart install the same.
const OVERLAYS: [(&str, &[&str]); 7] = [
    ("default", &[]),
    ("cert-manager", &["certificates=\"cert-manager\""]),
    ("tls-files", &["certificates=\"files\""]),
    ("medik8s", &[r#"sources=["annotations","cloud-shutdown","fence-agents-remediation","self-node-remediation"]"#]),
    ("csi-addons", &[r#"sources=["annotations","cloud-shutdown","network-fence"]"#]),
    ("metal3", &[r#"sources=["annotations","cloud-shutdown","bare-metal-host"]"#]),
    ("two-node-fencing", &[r#"sources=["annotations","cloud-shutdown","pacemaker"]"#]),
];

/// Objects by kind and name, without what may differ between the two ways of installing: labels,
/// and the namespace, which Helm creates itself.
fn substance(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let objects = objects.into_iter().filter(|object| !object.is_null() && object["kind"] != "Namespace");
    objects
        .map(|mut object| {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("labels");
            metadata.remove("namespace");
            if let Some(text) = object["data"]["config.yaml"].as_str() {
                object["data"] = serde_saphyr::from_str(text).unwrap();
            }
            fold(&mut object);
            (format!("{} {}", object["kind"], object["metadata"]["name"]), object)
        })
        .collect()
}

/// Joins the lines of every text, such as a CEL program's: the YAML writer decides where they
/// break.
fn fold(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.split_whitespace().collect::<Vec<_>>().join(" "),
        Value::Array(values) => values.iter_mut().for_each(fold),
        Value::Object(fields) => fields.values_mut().for_each(fold),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_the_same_objects_as_the_manifests() {
    let plane = Plane::start().await;
    for (overlay, values) in OVERLAYS {
        let chart = substance(objects(&text(&plane, NAMESPACE, &chart(), values)));
        let manifests = substance(rendered(&plane, overlay));
        assert_eq!(chart.keys().collect::<Vec<_>>(), manifests.keys().collect::<Vec<_>>(), "{overlay}");
        for (name, object) in &chart {
            assert_eq!(object, &manifests[name], "{overlay}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_binding_takes_its_actions_from_the_values() {
    let plane = Plane::start().await;
    for actions in [json!(["Warn", "Audit"]), json!(["Deny"])] {
        let objects = objects(&text(&plane, NAMESPACE, &chart(), &[&format!("policy.validationActions={actions}")]));
        let is_binding = |object: &&Value| object["kind"] == "ValidatingAdmissionPolicyBinding";
        let bindings: Vec<_> = objects.iter().filter(is_binding).collect();
        assert_eq!(bindings.len(), 1);
        assert_eq!(bindings[0]["spec"]["validationActions"], actions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_refuses_values_that_it_does_not_know_or_that_cannot_work() {
    let plane = Plane::start().await;
    for (value, named) in [
        ("replicaCount=3", "replicaCount"),
        ("replicas=0", "replicas"),
        ("certificates=\"none\"", "certificates"),
        ("sources=[\"anotations\"]", "sources"),
        ("config={\"checks\":{\"PodsRemain\":\"maybe\"}}", "PodsRemain"),
        ("policy.validationActions=[\"Refuse\"]", "validationActions"),
        ("policy.validationActions=[\"Deny\",\"Warn\"]", "validationActions"),
    ] {
        let refused = template(&plane, NAMESPACE, &chart(), &[value]);
        assert!(!refused.status.success() && said(&refused).contains(named), "{value}: {}", said(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_can_be_installed_in_any_namespace() {
    let plane = Plane::start().await;
    for (overlay, values) in OVERLAYS {
        let here = text(&plane, NAMESPACE, &chart(), values);
        let there = text(&plane, "guard", &chart(), values);
        assert!(!there.contains("fencegate-system"), "{overlay}: {there}");
        assert_eq!(there, here.replace("fencegate-system", "guard"), "{overlay}");
    }
}

/// What `helm package` writes.
fn package(plane: &Plane) -> PathBuf {
    let folder = plane.folder.path().join("package");
    accepts(helm(plane, &["package", chart().to_str().unwrap(), "--destination", folder.to_str().unwrap()]));
    folder.join(format!("fencegate-{}.tgz", env!("CARGO_PKG_VERSION")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packaged_chart_installs_the_same_objects_as_its_folder() {
    let plane = Plane::start().await;
    let package = package(&plane);
    let listed = Command::new("tar").arg("-tvzf").arg(&package).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() > 20 && listed.lines().all(|line| line.starts_with('-')), "only files: {listed}");
    assert!(!listed.contains("kustomization.yaml"), "{listed}");
    for (overlay, values) in OVERLAYS {
        assert_eq!(text(&plane, NAMESPACE, &package, values), text(&plane, NAMESPACE, &chart(), values), "{overlay}");
    }
}

/// Without replicas: guarded writes are denied while the gate is installed, and allowed afterwards.
async fn installs_and_leaves_nothing_that_blocks(
    plane: &Plane,
    install: impl Fn() -> Output,
    uninstall: impl Fn() -> Output,
) {
    accepts(install());
    lone_node(plane, "n1", false).await;
    let denied =
        async |_: &Plane| !kubectl(plane, &["taint", "--dry-run=server", "node", "n1", PLACE]).status.success();
    plane.until("it is guarded", denied).await;
    accepts(uninstall());
    let free =
        async |plane: &Plane| kubectl(plane, &["taint", "--dry-run=server", "node", "n1", PLACE]).status.success();
    plane.until("nothing blocks any more", free).await;
    accepts(kubectl(plane, &["delete", "node", "n1"]));
    let left = kubectl(
        plane,
        &[
            "get",
            "-A",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/name=fencegate",
            "validatingwebhookconfigurations,mutatingwebhookconfigurations,validatingadmissionpolicies,clusterroles,clusterrolebindings",
        ],
    );
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_leaves_nothing_that_blocks() {
    let plane = plane_with_alice().await;
    let overlay = repository("manifests/overlays/default");
    let by_kubectl = |verb: &[&str]| {
        let arguments: Vec<&str> = verb.iter().copied().chain(["-k", overlay.to_str().unwrap()]).collect();
        plane.kubectl("admin", &arguments, "")
    };
    installs_and_leaves_nothing_that_blocks(
        &plane,
        || by_kubectl(&["apply", "--server-side"]),
        || by_kubectl(&["delete", "--wait=false"]),
    )
    .await;
    let gone = async |plane: &Plane| plane.get("/api/v1/namespaces/fencegate-system").await.is_err();
    plane.until("the namespace is gone", gone).await;
    let folder = chart();
    installs_and_leaves_nothing_that_blocks(
        &plane,
        || {
            helm(
                &plane,
                &["install", "fencegate", folder.to_str().unwrap(), "--namespace", NAMESPACE, "--create-namespace"],
            )
        },
        || helm(&plane, &["uninstall", "fencegate", "--namespace", NAMESPACE]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_from_the_previous_version_loses_no_call() {
    let plane = plane_with_alice().await;
    let path = |name: &str| plane.folder.path().join(name);
    let made = support::certificates();
    for (name, content) in [("gate.crt", &made.certificate), ("gate.key", &made.key), ("config.yaml", &"{}".to_owned())]
    {
        fs::write(path(name), content).unwrap();
    }
    let apply = |objects: Vec<Value>| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        accepts(plane.kubectl("admin", &["apply", "--server-side", "-f", "-"], &list));
    };
    // Installed as the README of that version says: one webhook, with a certificate and a caBundle
    // made by hand.
    let files =
        [format!("--tls-cert={}", path("gate.crt").display()), format!("--tls-key={}", path("gate.key").display())];
    let old = Replica::start(&plane, 0, &[&files[0], &files[1]]).await;
    let mut gate = Gate::without_replicas().await;
    let previous = fs::read_to_string(repository("tests/upgrade/previous.yaml")).unwrap();
    let previous: Vec<Value> = serde_saphyr::from_multiple(&previous).unwrap();
    apply(previous.into_iter().map(|object| gate.with_url(object)).collect());
    let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &made.ca);
    let patch = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]).to_string();
    accepts(kubectl(&plane, &["patch", "validatingwebhookconfiguration", "fencegate", "--type=json", "-p", &patch]));
    gate.join(&plane, old).await;
    gate.until_called(&plane, &["validate"]).await;

    lone_node(&plane, "busy", false).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 100).await;
    apply(rendered(&plane, "default").into_iter().map(|object| gate.with_url(object)).collect());
    for number in 1..=2 {
        gate.join(&plane, Replica::start(&plane, number, &[]).await).await;
        load.goes_on(&plane, 100).await;
    }
    gate.replicas[0].terminate();
    plane.until("the old one is not ready", async |_| !gate.replicas[0].is_ready().await).await;
    gate.remove_endpoint(0);
    plane.until("the old one is gone", async |_| !gate.replicas[0].is_alive().await).await;
    load.goes_on(&plane, 200).await;
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    gate.until_called(&plane, &["mutate", "validate"]).await;
    rejects(kubectl(&plane, &["taint", "node", "busy", PLACE]), &["EvidenceMissing"]);
    println!("{calls} guarded writes during the upgrade, none failed");
}
