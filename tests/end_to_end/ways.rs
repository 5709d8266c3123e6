//! Every way to write to a Node is guarded.

use std::process::Output;

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{gate::Gate, plane::Plane},
    world::{
        PLACE, REMOVE, TAINT, accepts, attach, detach, evidence, is_tainted, kubectl, lone_node, of_node,
        plane_with_alice, rejects, said, without_conflict,
    },
};

/// The name of a way, and a function that writes to a Node in this way.
type Way<'a> = (&'static str, Box<dyn Fn(&str) -> Output + 'a>);

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_place_the_taint_is_guarded() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let merge = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}}).to_string();
    let by_json =
        json!([{"op": "add", "path": "/spec/taints", "value": [{"key": TAINT, "effect": "NoExecute"}]}]).to_string();
    let applied = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}})
        .to_string()
    };
    for (n, has_evidence) in [false, true].into_iter().enumerate() {
        let verdict = |way: &str, output: Output| match (way, has_evidence) {
            // kubectl deletes the Node and creates it again.
            ("force", _) => rejects(output, &["CreatedOutOfService"]),
            (_, true) => accepts(output),
            (_, false) => rejects(output, &["EvidenceMissing"]),
        };
        let ways: Vec<Way<'_>> = vec![
            ("taint", Box::new(|node| kubectl(&plane, &["taint", "node", node, PLACE]))),
            (
                "two",
                Box::new(|node| kubectl(&plane, &["taint", "node", node, PLACE, &format!("{TAINT}=x:NoSchedule")])),
            ),
            ("overwrite", Box::new(|node| kubectl(&plane, &["taint", "--overwrite", "node", node, PLACE]))),
            ("dry-run", Box::new(|node| kubectl(&plane, &["taint", "--dry-run=server", "node", node, PLACE]))),
            ("merge", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=merge", "-p", &merge]))),
            ("strategic", Box::new(|node| kubectl(&plane, &["patch", "node", node, "-p", &merge]))),
            ("json", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=json", "-p", &by_json]))),
            (
                "apply",
                Box::new(|node| {
                    plane.kubectl("alice", &["apply", "--server-side", "--force-conflicts", "-f", "-"], &applied(node))
                }),
            ),
            ("replace", Box::new(|node| replace(&plane, node, &[]))),
            ("force", Box::new(|node| replace(&plane, node, &["--force"]))),
            ("edit", Box::new(|node| edit(&plane, node))),
        ];
        for (way, write) in ways {
            let node = format!("{way}-{n}");
            lone_node(&plane, &node, has_evidence).await;
            verdict(way, without_conflict(|| write(&node)));
            let expected = has_evidence && !["dry-run", "force"].contains(&way);
            assert_eq!(is_tainted(&of_node(&plane, &node).await), expected, "{way}");
        }
    }
    let create = |object: &str| plane.kubectl("alice", &["apply", "--server-side", "-f", "-"], object);
    rejects(create(&applied("created")), &["CreatedOutOfService", "EvidenceMissing"]);
    let mut with_evidence: Value = serde_json::from_str(&applied("created")).unwrap();
    with_evidence["metadata"]["annotations"] = evidence();
    rejects(create(&with_evidence.to_string()), &["CreatedOutOfService"]);

    // A cut-off machine's Node, deleted and created again with taint and evidence.
    lone_node(&plane, "again", false).await;
    accepts(kubectl(&plane, &["delete", "node", "again"]));
    with_evidence["metadata"]["name"] = json!("again");
    rejects(create(&with_evidence.to_string()), &["CreatedOutOfService"]);
    assert!(of_node(&plane, "again").await.is_null());
    assert!(gate.audit_log().iter().any(|line| line["dryRun"] == true));
}

/// Replaces the Node by itself with the taint.
fn replace(plane: &Plane, node: &str, flags: &[&str]) -> Output {
    let read = kubectl(plane, &["get", "node", node, "-o", "json"]);
    let mut object: Value = serde_json::from_slice(&read.stdout).unwrap();
    object["spec"]["taints"] = json!([{"key": TAINT, "effect": "NoExecute"}]);
    if !flags.is_empty() {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("resourceVersion");
        metadata.remove("uid");
        // With `--force`, kubectl creates the Node again, and a new Node may not have stamps.
        for stamp in ["recorded-by", "recorded-at"] {
            if let Some(annotations) = metadata["annotations"].as_object_mut() {
                annotations.remove(&format!("fencegate.dev/{stamp}"));
            }
        }
    }
    let arguments: Vec<&str> = ["replace", "-f", "-"].into_iter().chain(flags.iter().copied()).collect();
    plane.kubectl("alice", &arguments, &object.to_string())
}

/// Runs `kubectl edit` with an editor that adds the taint. The Node may have taints of the node
/// controller already.
fn edit(plane: &Plane, node: &str) -> Output {
    let editor = plane.folder.path().join("editor");
    let entry = format!("\\n  - key: {TAINT}\\n    effect: NoExecute");
    let script = format!(
        "#!/bin/sh\nif grep -q '^  taints:' \"$1\"; then sed -i 's|^  taints:|  taints:{entry}|' \"$1\"\n\
         else sed -i 's|^spec:.*|spec:\\n  taints:{entry}|' \"$1\"; fi\n"
    );
    std::fs::write(&editor, script).unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    plane.kubectl_with("alice", &["edit", "node", node], "", &[("KUBE_EDITOR", editor.display().to_string())])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_remove_the_taint_is_guarded() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    let nothing = json!({"spec": {"taints": null}}).to_string();
    let ways: Vec<Way<'_>> = vec![
        ("untaint", Box::new(|node| kubectl(&plane, &["taint", "node", node, REMOVE]))),
        ("patch", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=merge", "-p", &nothing]))),
        ("delete", Box::new(|node| kubectl(&plane, &["delete", "node", node, "--wait=false"]))),
        (
            "selector",
            Box::new(|node| kubectl(&plane, &["delete", "node", "-l", &format!("name={node}"), "--wait=false"])),
        ),
    ];
    for (way, write) in ways {
        lone_node(&plane, way, true).await;
        accepts(kubectl(&plane, &["label", "node", way, &format!("name={way}")]));
        accepts(kubectl(&plane, &["taint", "node", way, PLACE]));
        attach(&plane, way, way).await;
        rejects(write(way), &["VolumesAttached"]);
        assert!(is_tainted(&of_node(&plane, way).await), "{way}");
        detach(&plane, way).await;
        accepts(write(way));
        assert!(!is_tainted(&of_node(&plane, way).await), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_all_nodes_is_denied_because_of_a_node_out_of_service() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "held", true).await;
    accepts(kubectl(&plane, &["taint", "node", "held", PLACE]));
    attach(&plane, "va", "held").await;
    let error = plane.api("alice", Method::DELETE, "/api/v1/nodes", None).await.unwrap_err();
    assert!(error.code == 403 && error.message.contains("node \"held\" may not be deleted"), "{error:?}");
    detach(&plane, "va").await;
    plane.api("alice", Method::DELETE, "/api/v1/nodes", None).await.unwrap();
    assert!(plane.get("/api/v1/nodes/held").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_finalizer_of_a_node_out_of_service_is_guarded() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "held", true).await;
    accepts(kubectl(&plane, &["patch", "node", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#]));
    accepts(kubectl(&plane, &["taint", "node", "held", PLACE]));
    accepts(kubectl(&plane, &["delete", "node", "held", "--wait=false"]));
    attach(&plane, "va", "held").await;
    let remove_finalizer = ["patch", "node", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    rejects(kubectl(&plane, &remove_finalizer), &["VolumesAttached"]);
    let through_status: Vec<&str> = remove_finalizer.into_iter().chain(["--subresource=status"]).collect();
    rejects(kubectl(&plane, &through_status), &["VolumesAttached"]);
    detach(&plane, "va").await;
    accepts(kubectl(&plane, &remove_finalizer));
    assert!(plane.get("/api/v1/nodes/held").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_cannot_vouch_for_its_node_by_any_path() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "n1", false).await;
    let annotate = ["annotate", "node", "n1", "fencegate.dev/method=power-off"];
    rejects(plane.kubectl("node-n1", &annotate, ""), &["SelfAttested"]);
    let patch = json!({"metadata": {"annotations": {"fencegate.dev/method": "power-off"}}});
    let through_status = plane.api("node-n1", Method::PATCH, "/api/v1/nodes/n1/status", Some(patch)).await.unwrap_err();
    assert!(through_status.message.contains("SelfAttested"), "{through_status:?}");
    let registered = json!({"metadata": {"name": "n2", "annotations": {"fencegate.dev/method": "power-off"}}});
    let error = plane.api("node-n2", Method::POST, "/api/v1/nodes", Some(registered)).await.unwrap_err();
    assert!(error.code == 403 && error.message.contains("SelfAttested"), "{error:?}");
    let tainted = plane.kubectl("node-n1", &["taint", "node", "n1", PLACE], "");
    assert!(!tainted.status.success() && said(&tainted).contains("not allowed to modify taints"), "{}", said(&tainted));
}
