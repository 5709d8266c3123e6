//! Installing, upgrading and uninstalling, with kubectl and with Helm.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fencegate::{
    cluster::{
        Written,
        registration::{Door, Published, Registration},
    },
    policy::review::Webhook,
};
use http::Method;
use serde_json::{Value, json};

use crate::{
    certificates::{are_secret, door_paths, paths},
    harness::{
        gate::{Gate, Replica, rendered, shipped_arguments, source_arguments},
        plane::{MERGE, Plane},
    },
    replicas::Load,
    support,
    world::{
        PLACE, REMOVE, TAINT, accepts, attach, dead_node, detach, evidence, kubectl, lone_node, plane_with_alice,
        record_on, rejects, said,
    },
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub const NAMESPACE: &str = "fencegate-system";

/// The chart has none of its own.
pub const IMAGE: &str = "image.repository=fencegate";

pub fn helm(plane: &Plane, arguments: &[&str]) -> Output {
    Command::new(plane.tool("helm"))
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig("admin"))
        .env("HOME", plane.folder.path())
        .output()
        .unwrap()
}

pub fn chart() -> PathBuf {
    repository("charts/fencegate")
}

/// Renders a chart, which may be a folder or a package.
fn template(plane: &Plane, namespace: &str, chart: &Path, values: &[&str]) -> Output {
    let mut arguments = vec!["template", "fencegate", chart.to_str().unwrap(), "--namespace", namespace];
    // Only what the manifests install.
    arguments.extend(["--set", IMAGE, "--skip-tests"]);
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    helm(plane, &arguments)
}

fn text(plane: &Plane, namespace: &str, chart: &Path, values: &[&str]) -> String {
    let output = template(plane, namespace, chart, values);
    assert!(output.status.success(), "{values:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// Each overlay, and the values that make the chart install the same.
const OVERLAYS: [(&str, &[&str]); 11] = [
    ("default", &[]),
    ("warn", &["mode=\"warn\""]),
    ("cert-manager", &["certificates=\"cert-manager\""]),
    ("tls-files", &["certificates=\"files\""]),
    ("medik8s", &[r#"sources=["annotations","cloud-shutdown","fence-agents-remediation","self-node-remediation"]"#]),
    ("csi-addons", &[r#"sources=["annotations","cloud-shutdown","network-fence"]"#]),
    ("metal3", &[r#"sources=["annotations","cloud-shutdown","bare-metal-host"]"#]),
    ("two-node-fencing", &[r#"sources=["annotations","cloud-shutdown","pacemaker"]"#]),
    ("auto-release", &["autoRelease.mode=\"recovered\""]),
    ("doors", &[r#"doors={"nodes":"enforce","pods":"enforce","attachments":"enforce"}"#]),
    (
        "monitoring",
        &[r#"metrics={"podMonitor":{"enabled":true},"prometheusRule":{"enabled":true},"dashboard":{"enabled":true}}"#],
    ),
];

/// Objects by kind and name, without what may differ between the two ways of installing: labels,
/// and the namespace, which Helm creates itself. A component names its source and the mode of
/// doors in an argument, the chart in the configuration: here all are in the configuration.
fn substance(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let sources = source_arguments(&objects);
    let is_of_doors = |argument: &&str| argument.starts_with("--doors=");
    let doors: Option<String> = shipped_arguments(&objects).into_iter().find(is_of_doors).map(str::to_owned);
    let arguments: Vec<String> = sources.into_iter().map(str::to_owned).chain(doors.clone()).collect();
    let objects = objects.into_iter().filter(|object| !object.is_null() && object["kind"] != "Namespace");
    objects
        .map(|mut object| {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("labels");
            metadata.remove("namespace");
            if let Some(text) = object["data"]["config.yaml"].as_str() {
                let mut config: Value = serde_saphyr::from_str(text).unwrap();
                let sources = arguments.iter().filter_map(|argument| argument.strip_prefix("--source="));
                config["evidence"]["sources"].as_array_mut().unwrap().extend(sources.map(|source| json!(source)));
                if let Some(mode) = doors.as_ref().and_then(|argument| argument.strip_prefix("--doors=")) {
                    config["doors"] = json!({"nodes": mode, "pods": mode, "attachments": mode});
                }
                object["data"] = config;
            }
            if object["kind"] == "Deployment" {
                let given = object["spec"]["template"]["spec"]["containers"][0]["args"].as_array_mut().unwrap();
                given.retain(|argument| !arguments.iter().any(|folded| folded == argument));
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
async fn the_chart_refuses_values_that_it_does_not_know_or_that_cannot_work() {
    let plane = Plane::start().await;
    for (value, named) in [
        ("replicaCount=3", "replicaCount"),
        ("replicas=0", "replicas"),
        ("certificates=\"none\"", "certificates"),
        ("sources=[\"anotations\"]", "sources"),
        ("config={\"checks\":{\"PodsRemain\":\"maybe\"}}", "PodsRemain"),
        ("mode=\"off\"", "mode"),
        ("config={\"mode\":\"warn\"}", "mode"),
        ("image={\"registry\":\"r\"}", "registry"),
        ("image={\"digest\":\"sha256:1\"}", "digest"),
        ("webhook={\"ports\":1}", "ports"),
        ("webhook={\"port\":443}", "port"),
        ("webhook={\"timeoutSeconds\":31}", "timeoutSeconds"),
        ("webhook={\"hostNetwork\":true,\"port\":10250}", "kubelet"),
        ("placement=\"master\"", "placement"),
        ("affinity={\"node\":{}}", "affinity"),
        ("podDisruptionBudget={\"minAvailable\":1}", "minAvailable"),
        ("podDisruptionBudget={\"maxUnavailable\":0}", "maxUnavailable"),
        ("networkPolicy={\"apiServerPorts\":[]}", "apiServerPorts"),
        ("metrics={\"serviceMonitor\":{}}", "serviceMonitor"),
        ("metrics={\"podMonitor\":{\"interval\":30}}", "interval"),
        ("tests={\"image\":\"\"}", "image"),
        ("serviceAccount={\"name\":\"x\"}", "name"),
        ("commonLabels={\"a\":1}", "commonLabels"),
        ("extraEnv={\"a\":\"b\"}", "extraEnv"),
        ("doors={\"nodes\":true}", "nodes"),
        ("doors={\"pods\":\"deny\"}", "pods"),
        ("doors={\"volumes\":\"warn\"}", "volumes"),
        ("doors={\"vouchers\":[\"karpenter\"]}", "vouchers"),
        ("config={\"doors\":{}}", "doors"),
        ("config={\"release\":{\"guardedOwners\":[{\"kind\":\"a'b\"}]}}", "guardedOwners"),
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
                &[
                    "install",
                    "fencegate",
                    folder.to_str().unwrap(),
                    "--namespace",
                    NAMESPACE,
                    "--create-namespace",
                    "--set",
                    IMAGE,
                ],
            )
        },
        || helm(&plane, &["uninstall", "fencegate", "--namespace", NAMESPACE]),
    )
    .await;
}

/// Helm would take out what it does not render, and would put back what it rendered before.
#[tokio::test(flavor = "multi_thread")]
async fn the_chart_keeps_the_path_that_the_replicas_published() {
    let plane = plane_with_alice().await;
    let folder = chart();
    let run = |verb: &str, more: &[&str]| {
        let folder = folder.to_str().unwrap();
        let arguments = [verb, "fencegate", folder, "--namespace", NAMESPACE, "--create-namespace", "--set", IMAGE];
        accepts(helm(&plane, &arguments.iter().chain(more).copied().collect::<Vec<_>>()));
    };
    let doors = ["--set-json", r#"doors={"nodes":"enforce","pods":"warn","attachments":"enforce"}"#];
    run("install", &doors);
    assert_eq!(paths(&plane).await, ["", ""]);
    let registration = Registration::new(plane.client("admin"), NAMESPACE.to_owned());
    for generation in ["1", "2"] {
        for webhook in Webhook::ALL {
            let read = registration.configuration(webhook).await.unwrap().unwrap();
            let path = format!("/{}/{}", webhook.name(), generation.repeat(32));
            assert_eq!(registration.set_path(webhook, &path, &read.version).await.unwrap(), Written::Done);
        }
        // Each entry keeps its own: those of other doors follow a little later.
        let read = registration.configuration(Webhook::Validate).await.unwrap().unwrap();
        let followed = |door: &Door| {
            let path = Some(format!("/validate/{}", (generation.to_owned() + "a").repeat(16)));
            Published { name: door.name.clone(), ca_bundle: support::certificates().ca, path }
        };
        let followed: Vec<Published> = read.doors.iter().map(followed).collect();
        assert_eq!(followed.len(), 3);
        let written = registration.complete(Webhook::Validate, &followed, &read.version).await.unwrap();
        assert_eq!(written, Written::Done);
        let published = (paths(&plane).await, door_paths(&plane).await);
        assert!(are_secret(&published.0) && published.1.iter().all(|path| path.contains(generation)));
        run("upgrade", &[&doors[..], &["--set-json", &format!("replicas={generation}")]].concat());
        assert_eq!((paths(&plane).await, door_paths(&plane).await), published);
    }
    // A door that is turned off is gone, once no replica owns a field of it.
    let read = registration.configuration(Webhook::Validate).await.unwrap().unwrap();
    let written = registration.disown(Webhook::Validate, read.owned.unwrap(), &read.version).await.unwrap();
    assert_eq!(written, Written::Done);
    run("upgrade", &["--set-json", r#"doors={"nodes":"enforce"}"#]);
    assert_eq!(door_paths(&plane).await.len(), 1);
    // From files, whose secret people set. Helm asks to be told that it may take the path over.
    let from_files = ["--set-json", r#"certificates="files""#, "--set-json", r#"pathSecret="0123456789abcdefghij""#];
    let with_door = ["--set-json", r#"doors={"nodes":"enforce"}"#, "--force-conflicts"];
    run("upgrade", &[&from_files[..], &with_door].concat());
    assert_eq!(paths(&plane).await, ["/mutate/0123456789abcdefghij", "/validate/0123456789abcdefghij"]);
    assert_eq!(door_paths(&plane).await, ["/validate/0123456789abcdefghij"]);
}

/// A node in the middle of an outage, as version 0.1.0 recorded it: it did not know which boot was
/// fenced, and a break-glass that was used stayed on the Node.
async fn outage_of_the_previous_version(plane: &Plane, node: &str) {
    let record = json!({
        "fencegate.dev/method": "power-off",
        "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
        "fencegate.dev/fenced-by": "alice",
        "fencegate.dev/recorded-by": "alice",
        "fencegate.dev/recorded-at": "2026-11-22T10:16:00Z",
        "fencegate.dev/placed-by": "admin",
        "fencegate.dev/placed-at": "2026-11-22T10:17:00Z",
        "fencegate.dev/source": "annotations",
        "fencegate.dev/break-glass": "INC-7",
        "fencegate.dev/overridden": "INC-7",
    });
    let taint = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    dead_node(plane, node, json!({"metadata": {"annotations": record}, "spec": {"taints": [taint]}})).await;
    attach(plane, "va", node).await;
}

/// Ends that outage, and begins the next one.
async fn ends_well(plane: &Plane, node: &str) {
    let release = || kubectl(plane, &["taint", "node", node, REMOVE]);
    let refused = release();
    assert!(said(&refused).contains("counts only for whoever wrote it"), "{}", said(&refused));
    rejects(refused, &["VolumesAttached"]);
    let proof = kubectl(plane, &["annotate", "node", node, "fencegate.dev/proof=late"]);
    rejects(proof, &["EvidenceFrozen"]);
    detach(plane, "va").await;
    accepts(release());
    let left = record_on(plane, node).await;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["last-outage", "overridden"], "{left:?}");
    assert!(left["last-outage"].contains("INC-7"), "{left:?}");
    let next =
        json!({"metadata": {"annotations": evidence()}, "spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}});
    plane.patch("admin", MERGE, &format!("/api/v1/nodes/{node}"), next).await.unwrap();
    let record = record_on(plane, node).await;
    assert_eq!(record["boot-id"], "boot-7", "{record:?}");
    assert!(!record.contains_key("overridden"), "{record:?}");
}

/// Does for the Deployment's pods, which nothing runs, what a kubelet and a rollout would do.
async fn pods_of_the_previous_version_end(plane: &Plane) {
    let is_older = |metadata: &Value| metadata["annotations"]["fencegate.dev/paths"].is_null();
    let list = async |path: &str| plane.get(path).await.unwrap()["items"].as_array().unwrap().clone();
    let sets = format!("/apis/apps/v1/namespaces/{NAMESPACE}/replicasets");
    let mut older = 0;
    for set in list(&sets).await {
        if is_older(&set["spec"]["template"]["metadata"]) {
            let path = format!("{sets}/{}?propagationPolicy=Orphan", set["metadata"]["name"].as_str().unwrap());
            plane.api("admin", Method::DELETE, &path, None).await.unwrap();
            older += 1;
        }
    }
    assert_eq!(older, 1);
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    for pod in list(&pods).await {
        if is_older(&pod["metadata"]) {
            let path = format!("{pods}/{}?gracePeriodSeconds=0", pod["metadata"]["name"].as_str().unwrap());
            plane.api("admin", Method::DELETE, &path, None).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_in_the_middle_of_an_outage_loses_no_call_and_ends_well() {
    let plane = plane_with_alice().await;
    outage_of_the_previous_version(&plane, "dead").await;
    fs::write(plane.folder.path().join("config.yaml"), "{}").unwrap();
    let apply = |objects: Vec<Value>| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        accepts(plane.kubectl("admin", &["apply", "--server-side", "-f", "-"], &list));
    };
    let mut gate = Gate::without_replicas().await;
    let previous = fs::read_to_string(repository("tests/upgrade/previous.yaml")).unwrap();
    let previous: Vec<Value> = serde_saphyr::from_multiple(&previous).unwrap();
    apply(previous.into_iter().map(|object| gate.within_reach(object)).collect());
    gate.join(&plane, Replica::start(&plane, 0, &[]).await).await;
    gate.until_called(&plane, &["mutate", "validate"]).await;

    lone_node(&plane, "busy", false).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 100).await;
    let (registration, others): (Vec<Value>, Vec<Value>) = rendered(&plane, "default")
        .into_iter()
        .map(|object| gate.within_reach(object))
        .partition(|object| object["metadata"]["labels"]["app.kubernetes.io/component"] == "registration");
    assert_eq!(registration.len(), 2);
    apply(others);
    for number in 1..=2 {
        gate.join(&plane, Replica::start(&plane, number, &[]).await).await;
        load.goes_on(&plane, 100).await;
    }
    gate.replicas[0].terminate();
    plane.until("the old one is not ready", async |_| !gate.replicas[0].is_ready().await).await;
    gate.remove_endpoint(0);
    plane.until("the old one is gone", async |_| !gate.replicas[0].is_alive().await).await;
    assert_eq!(paths(&plane).await, ["/mutate", "/validate"], "as long as an older one may be called");
    pods_of_the_previous_version_end(&plane).await;
    plane.until("the paths are secret", async |plane| are_secret(&paths(plane).await)).await;
    let secret = paths(&plane).await;
    apply(registration);
    load.goes_on(&plane, 200).await;
    assert_eq!(paths(&plane).await, secret, "the manifests say nothing about it");
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    gate.until_called(&plane, &["mutate", "validate"]).await;
    rejects(kubectl(&plane, &["taint", "node", "busy", PLACE]), &["EvidenceMissing"]);
    ends_well(&plane, "dead").await;
    println!("{calls} guarded writes during the upgrade, none failed");
}
