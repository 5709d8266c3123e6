//! Installing, upgrading and getting rid of it, with kubectl and with Helm.

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
    world::{PUT_ON, accepts, kubectl, lone_node, plane_with_alice, rejects, said},
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn helm(plane: &Plane, arguments: &[&str]) -> Output {
    Command::new(plane.helm_path())
        .args(arguments)
        .arg("--namespace=fencegate-system")
        .env("KUBECONFIG", plane.kubeconfig("admin"))
        .env("HOME", plane.folder.path())
        .output()
        .unwrap()
}

/// What the chart renders to with these values.
fn chart(plane: &Plane, values: &[&str]) -> Output {
    let chart = repository("charts/fencegate");
    let mut arguments = vec!["template", "fencegate", chart.to_str().unwrap()];
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    helm(plane, &arguments)
}

/// Objects by kind and name, without what the two ways of installing may differ in: labels, and the namespace, which Helm makes itself.
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

/// White space in a text, such as a program's, is where a YAML writer broke its lines.
fn fold(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.split_whitespace().collect::<Vec<_>>().join(" "),
        Value::Array(values) => values.iter_mut().for_each(fold),
        Value::Object(fields) => fields.values_mut().for_each(fold),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_says_what_the_manifests_say() {
    let plane = Plane::start().await;
    let sources = |more: &str| format!("sources=[\"annotations\",\"cloud-shutdown\",{more}]");
    for (overlay, values) in [
        ("default", vec![]),
        ("cert-manager", vec!["certificates=\"cert-manager\"".to_owned()]),
        ("tls-files", vec!["certificates=\"files\"".to_owned()]),
        ("medik8s", vec![sources("\"fence-agents-remediation\",\"self-node-remediation\"")]),
        ("csi-addons", vec![sources("\"network-fence\"")]),
        ("metal3", vec![sources("\"bare-metal-host\"")]),
        ("two-node-fencing", vec![sources("\"pacemaker\"")]),
    ] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let output = chart(&plane, &values);
        assert!(output.status.success(), "{overlay}: {}", said(&output));
        let objects = serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let (chart, manifests) = (substance(objects), substance(rendered(&plane, overlay)));
        assert_eq!(chart.keys().collect::<Vec<_>>(), manifests.keys().collect::<Vec<_>>(), "{overlay}");
        for (name, object) in &chart {
            assert_eq!(object, &manifests[name], "{overlay}: {name}");
        }
    }
    for (value, told) in [
        ("replicaCount=3", "replicaCount"),
        ("replicas=0", "replicas"),
        ("certificates=\"none\"", "certificates"),
        ("sources=[\"anotations\"]", "sources"),
        ("config={\"checks\":{\"PodsRemain\":\"maybe\"}}", "PodsRemain"),
    ] {
        let refused = chart(&plane, &[value]);
        assert!(!refused.status.success() && said(&refused).contains(told), "{value}: {}", said(&refused));
    }
}

/// Without the gate's replicas: what is registered denies, what is gone does not.
async fn installs_and_leaves_nothing_that_blocks(
    plane: &Plane,
    install: impl Fn() -> Output,
    uninstall: impl Fn() -> Output,
) {
    accepts(install());
    lone_node(plane, "n1", false).await;
    let denied =
        async |_: &Plane| !kubectl(plane, &["taint", "--dry-run=server", "node", "n1", PUT_ON]).status.success();
    plane.until("it is guarded", denied).await;
    accepts(uninstall());
    let free =
        async |plane: &Plane| kubectl(plane, &["taint", "--dry-run=server", "node", "n1", PUT_ON]).status.success();
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
async fn what_is_installed_is_uninstalled_without_a_trace_that_blocks() {
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
    let folder = repository("charts/fencegate");
    installs_and_leaves_nothing_that_blocks(
        &plane,
        || helm(&plane, &["install", "fencegate", folder.to_str().unwrap(), "--create-namespace"]),
        || helm(&plane, &["uninstall", "fencegate"]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_from_the_version_before_loses_no_call() {
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
    // As the README of that version had it installed: one webhook, with a certificate and a caBundle by hand.
    let files =
        [format!("--tls-cert={}", path("gate.crt").display()), format!("--tls-key={}", path("gate.key").display())];
    let old = Replica::start(&plane, 0, &[&files[0], &files[1]]).await;
    let mut gate = Gate::of_nobody().await;
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
    gate.leave_out(0);
    plane.until("the old one is gone", async |_| !gate.replicas[0].is_alive().await).await;
    load.goes_on(&plane, 200).await;
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    gate.until_called(&plane, &["mutate", "validate"]).await;
    rejects(kubectl(&plane, &["taint", "node", "busy", PUT_ON]), &["EvidenceMissing"]);
    println!("{calls} guarded writes during the upgrade, none failed");
}
