//! Overlays that people write themselves: components that are combined, and another namespace.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, apply_beside_registration, customized, source_arguments},
        kinds::{FENCE_AGENTS_REMEDIATION, NETWORK_FENCE},
        plane::Plane,
    },
    operators::fencegate,
    sources::{agent_succeeds, remediate_by_agent},
    world::{PLACE, accepts, attach, dead_node, kubectl, plane_with_alice, record_on, rejects, said},
};

const COMBINED: &str = "
resources: [REPOSITORY/manifests/overlays/default]
components: [REPOSITORY/manifests/components/csi-addons, REPOSITORY/manifests/components/medik8s]
";

#[tokio::test(flavor = "multi_thread")]
async fn the_sources_of_two_components_are_both_in_force() {
    let plane = plane_with_alice().await;
    let objects = customized(&plane, COMBINED);
    let arguments = source_arguments(&objects);
    let names = ["network-fence", "fence-agents-remediation", "self-node-remediation"];
    assert_eq!(arguments, names.map(|name| format!("--source={name}")));
    let gate = Gate::start(&plane, 1, &arguments).await;
    gate.until_ready(&plane).await;
    apply_beside_registration(&plane, objects.clone());
    FENCE_AGENTS_REMEDIATION.install(&plane).await;
    NETWORK_FENCE.install(&plane).await;

    let elsewhere = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.8"}]}});
    for (node, more) in [("n7", json!({})), ("n8", elsewhere)] {
        dead_node(&plane, node, more).await;
        attach(&plane, &format!("disk-of-{node}"), node).await;
        rejects(kubectl(&plane, &["taint", "node", node, PLACE]), &["EvidenceMissing"]);
    }
    let spec = json!({"driver": "other.test", "fenceState": "Fenced", "cidrs": ["10.0.0.7/32", "fd00::/64"]});
    NETWORK_FENCE.create(&plane, "", json!({"metadata": {"name": "n7"}, "spec": spec})).await;
    let succeeded = json!({"result": "Succeeded", "message": "fencing operation successful"});
    NETWORK_FENCE.report(&plane, "", "n7", succeeded).await;
    remediate_by_agent(&plane, "n8", "off").await;
    agent_succeeds(&plane, "n8").await;
    // The command judges before it writes, by the sources that the pods' arguments name.
    for (node, source) in [("n7", "network-fence"), ("n8", "fence-agents-remediation")] {
        accepts(fencegate(&plane, "alice", "place", &[node]));
        assert_eq!(record_on(&plane, node).await["source"], source);
    }
}

/// With the component that can be added to any overlay. `monitoring` has the PodMonitor.
const MOVED: &str = "
namespace: NAMESPACE
resources: [REPOSITORY/manifests/overlays/OVERLAY]
components: [REPOSITORY/manifests/components/flow-schema]
transformers: [REPOSITORY/manifests/transformers/namespace]
";

/// The objects as text, by kind and name.
fn by_name(objects: &[Value]) -> BTreeMap<String, String> {
    let text = |object: &Value| {
        let mut object = object.clone();
        // Kustomize takes policies for namespaced, and the API server takes no notice.
        if object["kind"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy") {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        object.to_string()
    };
    objects.iter().map(|one| (format!("{} {}", one["kind"], one["metadata"]["name"]), text(one))).collect()
}

fn moved(plane: &Plane, overlay: &str, namespace: &str) -> Vec<Value> {
    customized(plane, &MOVED.replace("OVERLAY", overlay).replace("NAMESPACE", namespace))
}

/// The overlay in `docs/operations.md`.
fn documented(plane: &Plane) -> Vec<Value> {
    let page = include_str!("../../docs/operations.md");
    let (_, section) = page.split_once("### An overlay of your own").unwrap();
    let block = section.split("```").nth(1).unwrap().strip_prefix("yaml").unwrap();
    let block = block.replace("../../", "REPOSITORY/manifests/").replace("../", "REPOSITORY/manifests/overlays/");
    customized(plane, &block)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_moves_everything_and_the_gate_guards_from_there() {
    let plane = plane_with_alice().await;
    for overlay in [
        "default",
        "warn",
        "cert-manager",
        "tls-files",
        "medik8s",
        "csi-addons",
        "metal3",
        "two-node-fencing",
        "monitoring",
        "auto-release",
        "doors",
    ] {
        let there = by_name(&moved(&plane, overlay, "guard"));
        for (name, object) in by_name(&moved(&plane, overlay, "fencegate-system")) {
            assert_eq!(
                there.get(&name.replace("fencegate-system", "guard")),
                Some(&object.replace("fencegate-system", "guard"))
            );
        }
        let left: Vec<&String> = there.values().filter(|object| object.contains("fencegate-system")).collect();
        assert!(left.is_empty(), "{overlay}: {left:?}");
    }
    let objects = documented(&plane);
    assert!(!json!(objects).to_string().contains("fencegate-system"));
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, &format!("registry.example.com/fencegate:{}", env!("CARGO_PKG_VERSION")));
    let arguments: Vec<String> = source_arguments(&objects).into_iter().map(str::to_owned).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(arguments.len(), 3);
    let gate = Gate::install(&plane, ("guard", "gate-in-guard"), objects, &[0, 0], &arguments).await;
    gate.until_ready(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    rejects(kubectl(&plane, &["taint", "node", "n7", PLACE]), &["EvidenceMissing"]);
    let secret = plane.get("/api/v1/namespaces/guard/secrets/fencegate-ca").await.unwrap();
    assert_eq!(secret["metadata"]["namespace"], "guard");
    assert!(plane.get("/api/v1/namespaces/fencegate-system").await.is_err());
    let checked = fencegate(&plane, "alice", "check", &["--gate-namespace=guard"]);
    assert!(said(&checked).contains("is denied by the webhook"), "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_are_called_and_fail_as_the_first_entry_whatever_the_order_of_components() {
    let plane = Plane::without_controllers().await;
    let component = |name: &str| format!("REPOSITORY/manifests/components/{name}");
    let render = |base: &str, components: &[&str], more: &str| {
        let components: Vec<String> = components.iter().map(|name| component(name)).collect();
        let text = format!("resources: [REPOSITORY/manifests/{base}]\ncomponents: {components:?}\n{more}");
        let objects = customized(&plane, &text);
        let kind = json!("ValidatingWebhookConfiguration");
        let entries = objects.iter().find(|object| object["kind"] == kind).unwrap()["webhooks"].clone();
        let entries = entries.as_array().unwrap().clone();
        let names: Vec<&str> = entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        let doors = ["nodes", "pods", "attachments"].map(|door| format!("{door}.fencegate.dev"));
        assert_eq!(names[0], "out-of-service.fencegate.dev");
        assert_eq!(names[1..], doors);
        for entry in &entries {
            for field in ["clientConfig", "failurePolicy", "timeoutSeconds"] {
                assert_eq!(entry[field], entries[0][field], "{field} of {} in {text}", entry["name"]);
            }
        }
        let mutating = objects.iter().find(|object| object["kind"] == "MutatingWebhookConfiguration").unwrap();
        assert_eq!(mutating["webhooks"].as_array().unwrap().len(), 1);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        assert_eq!(arguments.iter().filter(|argument| **argument == "--doors=enforce").count(), 1, "{arguments:?}");
        let service = &entries[0]["clientConfig"]["service"];
        (
            service["path"].as_str().unwrap_or_default().to_owned(),
            service["namespace"].clone(),
            entries[0]["failurePolicy"].clone(),
        )
    };
    let there = |namespace: &str, path: &str, policy: &str| (path.to_owned(), json!(namespace), json!(policy));
    let shipped = |path: &str, policy: &str| there("fencegate-system", path, policy);
    for components in
        [["doors", "warn", "self-managed"], ["self-managed", "warn", "doors"], ["warn", "self-managed", "doors"]]
    {
        assert_eq!(render("base", &components, ""), shipped("", "Ignore"), "{components:?}");
    }
    assert_eq!(render("overlays/warn", &["doors"], ""), shipped("", "Ignore"));
    assert_eq!(render("overlays/doors", &["medik8s", "auto-release", "vouch-karpenter"], ""), shipped("", "Fail"));
    for overlay in ["overlays/tls-files", "overlays/cert-manager"] {
        assert_eq!(render(overlay, &["doors"], ""), shipped("/validate", "Fail"));
    }
    let moved = "namespace: guard\ntransformers: [REPOSITORY/manifests/transformers/namespace]\n";
    assert_eq!(render("overlays/cert-manager", &["doors"], moved), there("guard", "/validate", "Fail"));
}
