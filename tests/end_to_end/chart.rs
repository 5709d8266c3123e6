//! What the values of the chart change, and its `helm test`.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, program, rendered},
        plane::{MERGE, Plane},
        process::binaries,
    },
    install::{NAMESPACE, chart, helm, objects},
    world::{accepts, plane_with_alice, said},
};

/// What Helm renders with these values, or what it says.
fn render(values: &Value) -> Result<Vec<Value>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    let output = Command::new(binaries().join("helm"))
        .args(["template", "fencegate", chart().to_str().unwrap(), "--namespace", NAMESPACE, "--values"])
        .arg(file)
        .env("HOME", folder.path())
        .output()
        .unwrap();
    if output.status.success() { Ok(objects(std::str::from_utf8(&output.stdout).unwrap())) } else { Err(said(&output)) }
}

/// The same, with an image, by kind and name. Helm's files have empty documents.
fn with(mut values: Value) -> BTreeMap<String, Value> {
    json_patch::merge(&mut values, &json!({"image": {"repository": "r.test/fencegate"}}));
    let objects = render(&values).unwrap().into_iter().filter(|object| !object.is_null());
    let name = |object: &Value| {
        format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
    };
    objects.map(|object| (name(&object), object)).collect()
}

fn pod(objects: &BTreeMap<String, Value>) -> &Value {
    &objects["Deployment fencegate"]["spec"]["template"]["spec"]
}

fn container(objects: &BTreeMap<String, Value>) -> &Value {
    &pod(objects)["containers"][0]
}

/// The value of an environment variable of the gate.
fn variable<'a>(objects: &'a BTreeMap<String, Value>, name: &str) -> &'a Value {
    container(objects)["env"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// Values that turn on everything that the chart can install.
fn everything() -> Value {
    json!({
        "image": {"repository": "r.test/fencegate"},
        "sources": ["annotations", "fence-agents-remediation", "network-fence", "bare-metal-host"],
        "flowSchema": {"enabled": true},
        "metrics": {"podMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true}},
        "commonLabels": {"team": "storage"},
        "commonAnnotations": {"example.com/owner": "alice"},
        "serviceAccount": {"annotations": {"example.com/role": "gate"}},
        "podLabels": {"tier": "guard"},
        "podAnnotations": {"example.com/scrape": "true"},
        "placement": "control-plane",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "fencegate"}}}],
        "webhook": {"port": 10250, "timeoutSeconds": 7, "clientCA": "-----BEGIN CERTIFICATE-----\n"},
        "networkPolicy": {"extraEgress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]},
        "global": {"imagePullSecrets": ["pull", {"name": "mirror"}]},
        "extraArgs": ["--max-in-flight=9"],
        "autoRelease": {"mode": "recovered"},
        "doors": {"nodes": "enforce", "pods": "warn", "attachments": "enforce",
            "vouchers": [{"kind": "ServiceAccount", "name": "karpenter", "namespace": "kube-system"}]},
        "extraEnv": [{"name": "RUST_LOG", "value": "debug"}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra", "namespace": "{{ .Release.Namespace }}"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: extra-{{ .Values.replicas }}\n",
        ],
    })
}

#[test]
fn nothing_is_installed_without_an_image_and_its_digest_wins() {
    let image = |values: &Value| {
        let objects = render(values)?.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
        Ok::<_, String>(objects["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
    };
    for none in [json!({}), json!({"image": {"tag": "1"}})] {
        let why = image(&none).unwrap_err();
        assert!(why.contains("image.repository is not set") && why.contains("make image"), "{why}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let digest = format!("sha256:{}", "7".repeat(64));
    for (values, expected) in [
        (json!({"image": {"repository": "r.test/fencegate"}}), format!("r.test/fencegate:{version}")),
        (json!({"image": {"repository": "fencegate", "tag": "1"}}), "fencegate:1".to_owned()),
        (json!({"image": {"repository": "r.test/f", "tag": "1", "digest": digest}}), format!("r.test/f@{digest}")),
        (json!({"global": {"imageRegistry": "r.test/a/"}}), format!("r.test/a/fencegate:{version}")),
        (
            json!({"global": {"imageRegistry": "r.test"}, "image": {"repository": "ghcr.io/o/f", "tag": "1"}}),
            "r.test/o/f:1".to_owned(),
        ),
        (
            json!({"global": {"imageRegistry": "r.test"}, "image": {"repository": "team/f", "tag": "1"}}),
            "r.test/team/f:1".to_owned(),
        ),
    ] {
        assert_eq!(image(&values).unwrap(), expected, "{values}");
    }
}

/// The recommended labels of Kubernetes; Helm adds one for the chart.
const RECOMMENDED: [&str; 6] = ["name", "instance", "version", "component", "part-of", "managed-by"];

#[track_caller]
fn is_labelled(object: &Value) {
    for label in RECOMMENDED {
        let value = &object["metadata"]["labels"][format!("app.kubernetes.io/{label}")];
        assert!(value.is_string(), "{label}: {} {}", object["kind"], object["metadata"]);
    }
    let version = &object["metadata"]["labels"]["app.kubernetes.io/version"];
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_has_the_recommended_labels_and_no_selector_has_more_than_before() {
    let plane = Plane::without_controllers().await;
    let name = json!({"app.kubernetes.io/name": "fencegate"});
    let has_selectors = |objects: &[&Value]| {
        let mut selectors = 0;
        for object in objects {
            let spec = &object["spec"];
            for selector in [&spec["selector"]["matchLabels"], &spec["podSelector"]["matchLabels"], &spec["selector"]] {
                if selector.is_object() && selector.get("matchLabels").is_none() {
                    assert_eq!(selector, &name, "{} {}", object["kind"], object["metadata"]["name"]);
                    selectors += 1;
                }
            }
        }
        assert!(selectors >= 5, "{selectors}");
    };
    for overlay in ["default", "cert-manager", "medik8s", "csi-addons", "metal3", "monitoring", "auto-release"] {
        let objects = rendered(&plane, overlay);
        objects.iter().for_each(is_labelled);
        has_selectors(&objects.iter().collect::<Vec<_>>());
    }
    let objects = with(everything());
    for (name, object) in objects.iter().filter(|(name, _)| !name.contains("extra")) {
        is_labelled(object);
        assert_eq!(object["metadata"]["labels"]["helm.sh/chart"], format!("fencegate-{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(object["metadata"]["labels"]["team"], "storage", "{name}");
        assert_eq!(object["metadata"]["annotations"]["example.com/owner"], "alice", "{name}");
        let is_registration = name.contains("WebhookConfiguration");
        let component = &object["metadata"]["labels"]["app.kubernetes.io/component"];
        assert_eq!(component == "registration", is_registration, "{name}");
        // The Service, the budget and the certificates' search for pods go by this label.
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/name"] == "fencegate",
            component != "test",
            "{name}"
        );
    }
    has_selectors(&objects.values().collect::<Vec<_>>());
    let metadata = &objects["Deployment fencegate"]["spec"]["template"]["metadata"];
    assert_eq!(
        metadata["labels"],
        json!({"app.kubernetes.io/name": "fencegate", "app.kubernetes.io/instance": "fencegate",
            "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"), "app.kubernetes.io/component": "gate",
            "app.kubernetes.io/part-of": "fencegate", "team": "storage", "tier": "guard"})
    );
    assert_eq!(
        metadata["annotations"],
        json!({"fencegate.dev/paths": "published", "example.com/owner": "alice", "example.com/scrape": "true"})
    );
    assert_eq!(objects["ServiceAccount fencegate"]["metadata"]["annotations"]["example.com/role"], "gate");
}

#[test]
fn the_placement_adds_to_the_defaults_or_replaces_them() {
    let tolerated = |objects: &BTreeMap<String, Value>| -> Vec<String> {
        let tolerations = pod(objects)["tolerations"].as_array().into_iter().flatten();
        tolerations.map(|one| one["key"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let spread = |objects: &BTreeMap<String, Value>| pod(objects)["topologySpreadConstraints"].as_array().map(Vec::len);
    let mine = json!({"tolerations": [{"key": "infra", "operator": "Exists"}], "nodeSelector": {"disk": "ssd"}});

    let any = with(mine.clone());
    assert_eq!(
        (tolerated(&any), spread(&any)),
        (vec!["unreachable".into(), "not-ready".into(), "infra".into()], Some(2))
    );
    assert_eq!(pod(&any)["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(pod(&any)["priorityClassName"], "system-cluster-critical");
    assert!(pod(&any)["affinity"].is_null());

    let mut values = mine.clone();
    let beside = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}});
    json_patch::merge(&mut values, &json!({"placement": "control-plane", "affinity": beside}));
    let control_plane = with(values);
    assert_eq!(tolerated(&control_plane), ["unreachable", "not-ready", "control-plane", "infra"]);
    let terms = &pod(&control_plane)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let expected = json!([{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]);
    assert_eq!(terms["nodeSelectorTerms"][0]["matchExpressions"], expected);
    assert!(pod(&control_plane)["affinity"]["podAffinity"].is_object());
    let both =
        json!({"image": {"repository": "f"}, "placement": "control-plane", "affinity": {"nodeAffinity": {"a": 1}}});
    assert!(render(&both).unwrap_err().contains("placement control-plane has its own"));

    let mut values = mine;
    json_patch::merge(&mut values, &json!({"placement": "own", "priorityClassName": "mine"}));
    let own = with(values);
    assert_eq!((tolerated(&own), spread(&own)), (vec!["infra".to_owned()], None));
    assert_eq!(pod(&own)["priorityClassName"], "mine");
}

/// The ports of the gate's container: the one for reviews, and the one for probes.
fn ports(objects: &BTreeMap<String, Value>) -> Vec<u64> {
    let ports = container(objects)["ports"].as_array().unwrap();
    ports.iter().map(|port| port["containerPort"].as_u64().unwrap()).collect()
}

#[test]
fn the_service_and_the_network_policy_follow_the_port() {
    for (webhook, review, telemetry) in [
        (json!({}), 8443, 8080),
        (json!({"port": 10250}), 10250, 8080),
        (json!({"port": 9443, "telemetryPort": 9080, "hostNetwork": true}), 9443, 9080),
    ] {
        let objects = with(json!({"webhook": webhook}));
        assert_eq!(ports(&objects), [review, telemetry]);
        assert_eq!(variable(&objects, "FENCEGATE_LISTEN")["value"], format!("0.0.0.0:{review}"));
        assert_eq!(variable(&objects, "FENCEGATE_TELEMETRY_LISTEN")["value"], format!("0.0.0.0:{telemetry}"));
        assert_eq!(objects["Service fencegate"]["spec"]["ports"][0]["targetPort"], "webhook");
        assert_eq!(objects["Service fencegate-metrics"]["spec"]["ports"][0]["targetPort"], "telemetry");
        let ingress = &objects["NetworkPolicy fencegate"]["spec"]["ingress"];
        assert_eq!(ingress, &json!([{"ports": [{"port": "webhook"}, {"port": "telemetry"}]}]));
    }
    let policy = json!({"apiServerPorts": [8443], "extraEgress": [{"ports": [{"port": 53}]}]});
    let objects = with(json!({"networkPolicy": policy}));
    let egress = &objects["NetworkPolicy fencegate"]["spec"]["egress"];
    assert_eq!(egress, &json!([{"ports": [{"port": 8443}]}, {"ports": [{"port": 53}]}]));
}

#[test]
fn on_the_network_of_its_node_a_rollout_needs_no_third_node_and_each_replica_has_its_own_identity() {
    let objects = with(json!({"webhook": {"hostNetwork": true}}));
    assert_eq!(pod(&objects)["hostNetwork"], true);
    assert_eq!(pod(&objects)["dnsPolicy"], "ClusterFirstWithHostNet");
    let rollout = |objects: &BTreeMap<String, Value>| {
        objects["Deployment fencegate"]["spec"]["strategy"]["rollingUpdate"].clone()
    };
    assert_eq!(rollout(&objects), json!({"maxUnavailable": 1, "maxSurge": 0}));
    let identity = variable(&objects, "FENCEGATE_IDENTITY");
    assert_eq!(identity["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    let objects = with(json!({}));
    assert_eq!(rollout(&objects), json!({"maxUnavailable": 0, "maxSurge": 1}));
    assert!(pod(&objects)["hostNetwork"].is_null() && variable(&objects, "FENCEGATE_IDENTITY").is_null());
}

#[test]
fn warn_turns_down_the_gate_the_binding_and_the_failure_policy_together() {
    for (mode, actions, failure_policy, is_tested) in
        [("enforce", json!(["Deny", "Audit"]), "Fail", true), ("warn", json!(["Warn", "Audit"]), "Ignore", false)]
    {
        let objects = with(json!({"mode": mode, "webhook": {"timeoutSeconds": 9}}));
        let config: Value =
            serde_saphyr::from_str(objects["ConfigMap fencegate"]["data"]["config.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(config["mode"] == "warn", mode == "warn");
        assert_eq!(objects["ValidatingAdmissionPolicyBinding fencegate"]["spec"]["validationActions"], actions);
        let registration = &objects["ValidatingAdmissionPolicyBinding fencegate-registration"];
        assert_eq!(registration["spec"]["validationActions"], json!(["Deny", "Audit"]));
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            let webhook = &objects[&format!("{kind} fencegate")]["webhooks"][0];
            assert_eq!((&webhook["failurePolicy"], &webhook["timeoutSeconds"]), (&json!(failure_policy), &json!(9)));
        }
        assert_eq!(objects.contains_key("Pod fencegate-check"), is_tested);
    }
}

/// The name and the failurePolicy of every entry of the validating webhook.
fn entries(objects: &BTreeMap<String, Value>) -> Vec<(String, String)> {
    let entries = objects["ValidatingWebhookConfiguration fencegate"]["webhooks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().trim_end_matches(".fencegate.dev").to_owned();
    entries.iter().map(|entry| (text(&entry["name"]), text(&entry["failurePolicy"]))).collect()
}

#[test]
fn each_door_has_a_mode_and_what_is_off_is_not_installed() {
    let installed = |values: &Value| {
        let objects = with(values.clone());
        let config: Value =
            serde_saphyr::from_str(objects["ConfigMap fencegate"]["data"]["config.yaml"].as_str().unwrap()).unwrap();
        let may_read = objects.contains_key("ClusterRole fencegate-doors");
        assert_eq!(may_read, objects.contains_key("ClusterRoleBinding fencegate-doors"));
        let doors = entries(&objects)[1..].iter().map(|(name, policy)| format!("{name} {policy}")).collect::<Vec<_>>();
        (doors, config["doors"].clone(), may_read)
    };
    for off in [json!({}), json!({"doors": {"nodes": "off", "pods": false}})] {
        assert_eq!(installed(&off), (vec![], Value::Null, false), "{off}");
    }
    let doors = json!({"nodes": "enforce", "attachments": "warn"});
    assert_eq!(
        installed(&json!({"doors": doors})),
        (vec!["nodes Fail".to_owned(), "attachments Ignore".to_owned()], doors.clone(), true)
    );
    let warn = installed(&json!({"doors": {"pods": "enforce"}, "mode": "warn"}));
    assert_eq!(warn, (vec!["pods Ignore".to_owned()], json!({"pods": "enforce"}), true));
}

#[test]
fn the_door_for_pods_sends_those_of_the_guarded_owners_and_vouchers_are_bound() {
    let sends = |release: Value| {
        let objects = with(json!({"doors": {"pods": "enforce"}, "config": {"release": release}}));
        let entries = &objects["ValidatingWebhookConfiguration fencegate"]["webhooks"];
        let expression = entries[1]["matchConditions"][0]["expression"].as_str().unwrap();
        let line = expression.lines().find(|line| line.contains(".exists(guarded,")).unwrap();
        line.split(".exists(guarded,").next().unwrap().trim().rsplit("exists(o, ").next().unwrap().to_owned()
    };
    assert_eq!(sends(json!({})), "[['apps', 'StatefulSet']]");
    assert_eq!(sends(json!({"guardedOwners": []})), "[]");
    let owners = json!([{"group": "apps", "kind": "StatefulSet"}, {"kind": "ReplicationController"}]);
    assert_eq!(sends(json!({"guardedOwners": owners})), "[['apps', 'StatefulSet'], ['', 'ReplicationController']]");

    assert!(!with(json!({"doors": {"nodes": "enforce"}})).contains_key("ClusterRoleBinding fencegate-vouchers"));
    let subject = json!({"kind": "ServiceAccount", "name": "karpenter", "namespace": "kube-system"});
    let objects = with(json!({"doors": {"vouchers": [subject]}}));
    let binding = &objects["ClusterRoleBinding fencegate-vouchers"];
    assert_eq!((&binding["roleRef"]["name"], &binding["subjects"]), (&json!("fencegate-voucher"), &json!([subject])));
}

#[test]
fn each_part_can_be_left_out() {
    for (values, name) in [
        (json!({"networkPolicy": {"enabled": false}}), "NetworkPolicy fencegate"),
        (json!({"podDisruptionBudget": {"enabled": false}}), "PodDisruptionBudget fencegate"),
        (json!({"metrics": {"service": false}}), "Service fencegate-metrics"),
        (json!({"tests": {"enabled": false}}), "Pod fencegate-check"),
    ] {
        assert!(with(json!({})).contains_key(name));
        let without = with(values);
        let left: Vec<&String> =
            without.keys().filter(|one| name == *one || name.contains("check") && one.contains("check")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    for name in ["FlowSchema fencegate", "PodMonitor fencegate"] {
        assert!(!with(json!({})).contains_key(name) && with(everything()).contains_key(name), "{name}");
    }
}

#[test]
fn the_readme_of_the_chart_describes_each_value_as_values_yaml_does() {
    let charts = chart().parent().unwrap().to_owned();
    let output = Command::new(binaries().join("helm-docs"))
        .args(["--sort-values-order", "file", "--dry-run", "--log-level", "warning", "--chart-search-root"])
        .arg(charts)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let made = String::from_utf8(output.stdout).unwrap();
    let kept = fs::read_to_string(chart().join("README.md")).unwrap();
    assert_eq!(made.trim_end(), kept.trim_end(), "make chart-readme");
    let rows: Vec<&str> = kept.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")).collect();
    let undescribed: Vec<&&str> = rows.iter().filter(|row| row.ends_with("|  |")).collect();
    assert!(rows.len() > 40 && undescribed.is_empty(), "{undescribed:?}");
}

/// Definitions that accept every object of a kind.
async fn define(plane: &Plane, group: &str, kind: &str, plural: &str) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()}, "versions": [version]}});
    plane.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let list = format!("/apis/{group}/v1/{plural}");
    plane.until("the kind is served", async |plane| plane.get(&list).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_the_chart_has_can_be_installed_and_a_single_replica_can_be_drained() {
    let plane = plane_with_alice().await;
    define(&plane, "monitoring.coreos.com", "PodMonitor", "podmonitors").await;
    define(&plane, "monitoring.coreos.com", "PrometheusRule", "prometheusrules").await;
    let file = plane.folder.path().join("values.yaml");
    let mut values = everything();
    values["replicas"] = json!(1);
    fs::write(&file, values.to_string()).unwrap();
    let run = |verb: &str| {
        let (chart, file) = (chart(), file.to_str().unwrap());
        let arguments = [verb, "fencegate", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--values", file];
        accepts(helm(&plane, &[&arguments[..], &["--create-namespace"]].concat()));
    };
    run("install");
    let stored = async |path: &str| plane.get(path).await.unwrap();
    let in_namespace = |group: &str| format!("/apis/{group}/namespaces/{NAMESPACE}");
    let deployment = stored(&format!("{}/deployments/fencegate", in_namespace("apps/v1"))).await;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    assert_eq!(arguments[..2], [json!("serve"), json!("--config=/config/config.yaml")]);
    assert!(arguments.contains(&json!("--client-ca=/config/client-ca.crt")), "{arguments:?}");
    assert_eq!(arguments.last().unwrap(), "--max-in-flight=9", "those of people come last");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}, {"name": "mirror"}]));
    assert!(
        container["volumeMounts"].to_string().contains("/scratch") && pod["volumes"].to_string().contains("scratch")
    );
    assert!(container["env"].as_array().unwrap().contains(&json!({"name": "RUST_LOG", "value": "debug"})));
    for name in ["fencegate-extra", "extra-1"] {
        stored(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")).await;
    }
    let config = stored(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps/fencegate")).await;
    assert_eq!(config["data"]["client-ca.crt"], "-----BEGIN CERTIFICATE-----\n");
    let monitor = stored(&format!("{}/podmonitors/fencegate", in_namespace("monitoring.coreos.com/v1"))).await;
    assert_eq!(
        (&monitor["metadata"]["labels"]["release"], &monitor["spec"]["podMetricsEndpoints"][0]["interval"]),
        (&json!("prometheus"), &json!("30s"))
    );
    let schema = stored("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/fencegate").await;
    assert_eq!(
        schema["spec"]["rules"][0]["subjects"][0]["serviceAccount"],
        json!({"name": "fencegate", "namespace": NAMESPACE})
    );
    plane
        .until("the priority level is there", async |plane| {
            let schema = plane.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/fencegate").await.unwrap();
            schema["status"]["conditions"].to_string().contains(r#""status":"False","type":"Dangling""#)
        })
        .await;

    is_healthy(&plane).await;
    let budget = format!("{}/poddisruptionbudgets/fencegate", in_namespace("policy/v1"));
    let may_go = async |plane: &Plane| {
        let status = plane.get(&budget).await.unwrap()["status"].clone();
        status["expectedPods"] == 1 && status["currentHealthy"] == 1 && status["disruptionsAllowed"] == 1
    };
    plane.until("the only replica may be drained", may_go).await;
    run("upgrade");
}

/// What a kubelet would do: the only pod of the gate becomes ready.
async fn is_healthy(plane: &Plane) {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let count = async |plane: &Plane| plane.get(&pods).await.unwrap()["items"].as_array().unwrap().len();
    plane.until("there is a pod", async |plane| count(plane).await == 1).await;
    let name = plane.get(&pods).await.unwrap()["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    plane.patch("admin", MERGE, &format!("{pods}/{name}/status"), ready).await.unwrap();
}

/// Runs the program with the arguments of the test's Pod, as its ServiceAccount.
fn helm_test(plane: &Plane, pod: &Value) -> (Option<i32>, String) {
    let container = &pod["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    // Not the minute for an installation that is not complete yet.
    let arguments = arguments.filter(|argument| !argument.starts_with("--wait="));
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
    let output = Command::new(program())
        .args(arguments)
        .args(["--kubeconfig", &plane.kubeconfig("admin")])
        .arg(format!("--as=system:serviceaccount:{NAMESPACE}:{account}"))
        .env("HOME", Path::new("/nowhere"))
        .output()
        .unwrap();
    (output.status.code(), said(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_test_passes_with_exactly_its_rights_and_fails_without_any_layer() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let endpoint =
        |address: &str, node: &str| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}});
    let slice = json!({"metadata": {"name": "fencegate-1", "labels": {"kubernetes.io/service-name": "fencegate"}},
        "addressType": "IPv4", "endpoints": [endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b")],
        "ports": [{"name": "webhook", "port": 8443}]});
    plane.create(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"), slice).await;

    let rendered = with(json!({}));
    let hooks: Vec<&Value> =
        rendered.values().filter(|one| one["metadata"]["annotations"]["helm.sh/hook"] == "test").collect();
    let (pods, rights): (Vec<&Value>, Vec<&Value>) = hooks.iter().partition(|object| object["kind"] == "Pod");
    assert_eq!((pods.len(), rights.len()), (1, 5));
    let pod = pods[0];
    let weight = |object: &Value| {
        object["metadata"]["annotations"]["helm.sh/hook-weight"].as_str().unwrap().parse::<i32>().unwrap()
    };
    assert!(rights.iter().all(|object| weight(object) < weight(pod)), "the rights are there before the Pod");
    let apply = |objects: &[&Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        accepts(plane.kubectl("admin", &["apply", "--namespace", NAMESPACE, "-f", "-"], &list));
    };
    // The namespace of the manifests asks for the Pod Security Standard `restricted`.
    apply(&rights);
    apply(&pods);
    plane.until("the test passes", async |plane| helm_test(plane, pod).0 == Some(0)).await;
    let (_, told) = helm_test(&plane, pod);
    let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with("context ")).collect();
    assert!(lines.len() == 7 && lines.iter().all(|line| line.starts_with("√ ")), "{told}");

    // None of its rights can be left out.
    for role in rights.iter().filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap())) {
        let rules = role["rules"].as_array().unwrap();
        for (number, rule) in rules.iter().enumerate() {
            let mut less = (*role).clone();
            less["rules"].as_array_mut().unwrap().remove(number);
            apply(&[&less]);
            plane.until(&format!("without {rule}"), async |plane| helm_test(plane, pod).0 != Some(0)).await;
            apply(&[role]);
            plane.until("the right is back", async |plane| helm_test(plane, pod).0 == Some(0)).await;
        }
    }
    let layers = [
        ("validatingadmissionpolicybindings", "fencegate"),
        ("validatingadmissionpolicybindings", "fencegate-registration"),
        ("validatingwebhookconfigurations", "fencegate"),
        ("mutatingwebhookconfigurations", "fencegate"),
    ];
    for (plural, name) in layers {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{name}");
        let mut layer = plane.get(&path).await.unwrap();
        plane.api("admin", Method::DELETE, &path, None).await.unwrap();
        let (code, told) = helm_test(&plane, pod);
        assert!(code == Some(1) && told.contains("\n× "), "without {plural} {name}: {told}");
        for field in ["resourceVersion", "uid", "managedFields"] {
            layer["metadata"].as_object_mut().unwrap().remove(field);
        }
        plane.create(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), layer).await;
        plane.until("it is back", async |plane| helm_test(plane, pod).0 == Some(0)).await;
    }
    drop(gate);
}
