//! What the manifests, the chart and the workflows must contain, read as files. What an API server
//! does with them is tested in `tests/end_to_end`.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use fencegate::{
    config,
    policy::{facts::CustomKind, settings::Settings, source::Source},
};
use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The objects in a file of the repository.
fn objects(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(repository(path)).unwrap()).unwrap()
}

/// The objects in a file that kustomize and the chart share.
fn shared(path: &str) -> Vec<Value> {
    objects(&format!("charts/fencegate/files/{path}"))
}

/// The match conditions: the name of each, and its program on one line.
fn conditions(conditions: &Value) -> Vec<(String, String)> {
    let on_one_line = |text: &Value| text.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let conditions = conditions.as_array().unwrap();
    conditions
        .iter()
        .map(|condition| (on_one_line(&condition["name"]), on_one_line(&condition["expression"])))
        .collect()
}

#[test]
fn both_webhooks_follow_the_contract_and_share_their_match_condition_with_the_policy() {
    let validating = &shared("base/validating-webhook.yaml")[0];
    let mutating = &shared("base/mutating-webhook.yaml")[0];
    let policy = &shared("base/admission-policy.yaml")[0];
    for (configuration, path) in [(validating, "/validate"), (mutating, "/mutate")] {
        assert_eq!(configuration["metadata"]["name"], "fencegate");
        let webhooks = configuration["webhooks"].as_array().unwrap();
        assert_eq!(webhooks.len(), 1);
        let webhook = &webhooks[0];
        for (field, value) in [
            ("name", json!("out-of-service.fencegate.dev")),
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("admissionReviewVersions", json!(["v1"])),
            ("sideEffects", json!("NoneOnDryRun")),
            ("timeoutSeconds", json!(5)),
        ] {
            assert_eq!(webhook[field], value, "{field} for {path}");
        }
        assert_eq!(webhook["clientConfig"]["service"]["path"], path);
        let rule = |operations: Value, resource: &str| json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": [resource], "scope": "Cluster"});
        let all = json!(["CREATE", "UPDATE", "DELETE"]);
        assert_eq!(webhook["rules"], json!([rule(all, "nodes"), rule(json!(["UPDATE"]), "nodes/status")]));
    }
    let guarded = conditions(&validating["webhooks"][0]["matchConditions"]);
    assert_eq!(guarded.len(), 1);
    assert_eq!(conditions(&policy["spec"]["matchConditions"]), guarded);
    let of_mutating = conditions(&mutating["webhooks"][0]["matchConditions"]);
    assert_eq!(of_mutating[0], guarded[0]);
    let names: Vec<&str> = of_mutating.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["guarded", "current"]);
}

#[test]
fn the_match_condition_and_the_policy_know_every_annotation_of_the_gate() {
    let policy = &shared("base/admission-policy.yaml")[0]["spec"];
    let (_, guarded) = &conditions(&policy["matchConditions"])[0];
    let variables = conditions(&json!(policy["variables"]));
    let of_policy: Vec<&str> = ["evidence", "stamps", "unfrozen"]
        .map(|name| variables.iter().find(|(other, _)| other == name).unwrap().1.as_str())
        .into();
    for key in fencegate::policy::annotation::known() {
        let quoted = format!("'{key}'");
        assert_eq!(guarded.matches(&quoted).count(), 1, "{key} is in the match condition");
        assert_eq!(of_policy.iter().filter(|keys| keys.contains(&quoted)).count(), 1, "{key} is in the policy");
    }
}

#[test]
fn every_denial_of_the_policy_is_forbidden_and_names_a_known_reason() {
    let (policy, binding) =
        (&shared("base/admission-policy.yaml")[0], &shared("base/admission-policy-binding.yaml")[0]);
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    let (policy, binding) = (&policy["spec"], &binding["spec"]);
    assert_eq!(policy["failurePolicy"], "Fail");
    assert_eq!(binding["validationActions"], json!(["Deny", "Audit"]));
    assert!(binding["matchResources"].is_null(), "no requester and no object is exempt");
    for validation in policy["validations"].as_array().unwrap() {
        let message = validation["messageExpression"].as_str().unwrap();
        let code = message.trim_start_matches('\'').split(':').next().unwrap();
        assert!(fencegate::policy::reason::Code::ALL.iter().any(|known| known.name() == code), "{code}");
        assert_eq!(validation["reason"], "Forbidden", "{code}");
    }
}

/// The entries of the other doors, from the JSON patch that kustomize applies and the chart reads.
fn doors() -> Vec<Value> {
    let patch = shared("doors/webhooks.yaml").remove(0);
    let is_added = |one: &&Value| one["op"] == "add" && one["path"] == "/webhooks/-";
    assert!(
        patch.as_array().unwrap().iter().all(|one| is_added(&one)),
        "at the end, so that the first stays the first"
    );
    patch.as_array().unwrap().iter().map(|one| one["value"].clone()).collect()
}

#[test]
fn each_door_has_an_entry_that_is_called_as_the_first_and_only_where_it_must() {
    let first = &shared("base/validating-webhook.yaml")[0]["webhooks"][0];
    let rule = |group: &str, operations: &[&str], resource: &str, scope: &str| json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": [resource], "scope": scope});
    let expected = [
        (
            "nodes.fencegate.dev",
            "deletion",
            json!([
                rule("", &["UPDATE", "DELETE"], "nodes", "Cluster"),
                rule("", &["UPDATE"], "nodes/status", "Cluster")
            ]),
        ),
        (
            "pods.fencegate.dev",
            "at-once",
            json!([rule("", &["DELETE"], "pods", "Namespaced"), rule("", &["CREATE"], "pods/eviction", "Namespaced")]),
        ),
        (
            "attachments.fencegate.dev",
            "by-hand",
            json!([rule("storage.k8s.io", &["UPDATE", "DELETE"], "volumeattachments", "Cluster")]),
        ),
    ];
    let doors = doors();
    assert_eq!(doors.len(), expected.len());
    for (door, (name, condition, rules)) in doors.iter().zip(expected) {
        assert_eq!((&door["name"], &door["rules"]), (&json!(name), &rules));
        let fields = [
            "clientConfig",
            "failurePolicy",
            "matchPolicy",
            "admissionReviewVersions",
            "sideEffects",
            "timeoutSeconds",
        ];
        for field in fields {
            assert_eq!(door[field], first[field], "{field} of {name}");
        }
        let conditions = conditions(&door["matchConditions"]);
        // The API server would evaluate all of several, and so would pay for each.
        assert_eq!(conditions.len(), 1, "{name}");
        assert_eq!(conditions[0].0, condition);
    }
    // What the chart replaces.
    let pods = doors[1]["matchConditions"][0]["expression"].as_str().unwrap();
    let guarded: Vec<String> = Settings::default()
        .guarded_owners
        .iter()
        .map(|owner| format!("['{}', '{}']", owner.group, owner.kind))
        .collect();
    assert_eq!(pods.matches(&format!("[{}].exists(", guarded.join(", "))).count(), 1, "{pods}");
}

#[test]
fn the_doors_need_to_read_single_nodes_and_pods_and_those_who_vouch_have_that_right_alone() {
    let role = &shared("doors/rbac.yaml")[0];
    let get = |resource: &str| (String::new(), resource.to_owned(), vec!["get".to_owned()]);
    assert_eq!(rules(role), [get("pods"), get("nodes")]);
    let components = fs::read_dir(repository("manifests/components")).unwrap();
    let names = components.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut vouchers: Vec<String> = names.filter(|name| name.starts_with("vouch-")).collect();
    vouchers.sort();
    assert_eq!(vouchers, ["vouch-cloud-controller-manager", "vouch-cluster-autoscaler", "vouch-karpenter"]);
    for name in vouchers {
        let bindings = objects(&format!("manifests/components/{name}/binding.yaml"));
        assert_eq!(bindings.len(), 1);
        assert_eq!(bindings[0]["roleRef"]["name"], "fencegate-voucher");
        for subject in bindings[0]["subjects"].as_array().unwrap() {
            assert_eq!(subject["kind"], "ServiceAccount", "{name}");
        }
    }
}

/// Group, resource and verbs of every rule.
fn rules(role: &Value) -> Vec<(String, String, Vec<String>)> {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let of_rule = |rule: &Value| {
        let (groups, verbs) = (strings(&rule["apiGroups"]), strings(&rule["verbs"]));
        strings(&rule["resources"])
            .into_iter()
            .map(move |resource| (groups[0].clone(), resource, verbs.clone()))
            .collect::<Vec<_>>()
    };
    role["rules"].as_array().unwrap().iter().flat_map(of_rule).collect()
}

#[test]
fn the_gate_may_read_what_its_rules_need_and_write_one_lease_in_its_namespace() {
    let objects = shared("base/rbac.yaml");
    let role = objects.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let mut given = rules(role);
    given.sort();
    let may = |verb: &str, group: &str, resource: &str| (group.to_owned(), resource.to_owned(), vec![verb.to_owned()]);
    let needed = [
        may("list", "", "nodes"),
        may("get", "", "persistentvolumes"),
        may("list", "", "pods"),
        may("create", "authorization.k8s.io", "subjectaccessreviews"),
        may("get", "coordination.k8s.io", "leases"),
        may("list", "storage.k8s.io", "volumeattachments"),
    ];
    assert_eq!(given, needed);
    let roles: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Role").collect();
    let lease = |verbs: Value| json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let mut named = lease(json!(["get", "update"]));
    named["resourceNames"] = json!(["fencegate-budget"]);
    assert_eq!(
        roles.iter().map(|role| &role["rules"]).collect::<Vec<_>>(),
        [&json!([lease(json!(["create"])), named])]
    );
}

#[test]
fn the_roles_for_rights_that_the_gate_asks_for_are_bound_to_nobody() {
    let roles = shared("base/roles.yaml");
    assert!(roles.iter().all(|object| object["kind"] == "ClusterRole"));
    let given: Vec<_> = roles.iter().map(|role| (role["metadata"]["name"].as_str().unwrap(), rules(role))).collect();
    let right = |verb: &str| vec![("fencegate.dev".to_owned(), "nodes".to_owned(), vec![verb.to_owned()])];
    let roles = [
        ("fencegate-attester", "attest"),
        ("fencegate-break-glass", "break-glass"),
        ("fencegate-configurer", "configure"),
        ("fencegate-voucher", "vouch"),
    ];
    assert_eq!(given, roles.map(|(role, verb)| (role, right(verb))));
}

#[test]
fn each_overlay_enables_its_sources_and_permits_reading_their_kinds() {
    let base = objects("manifests/base/config.yaml");
    let settings = config::parse(base[0]["data"]["config.yaml"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(settings, Settings::default(), "the manifests have the default settings");

    let medik8s = [CustomKind::FenceAgentsRemediation, CustomKind::SelfNodeRemediation];
    let csi_addons = [CustomKind::NetworkFence, CustomKind::NetworkFenceClass, CustomKind::CsiAddonsNode];
    let overlays: [(&str, Vec<Source>, &[CustomKind]); 4] = [
        ("medik8s", vec![Source::FenceAgentsRemediation, Source::SelfNodeRemediation], &medik8s),
        ("csi-addons", vec![Source::NetworkFence], &csi_addons),
        ("metal3", vec![Source::BareMetalHost], &[CustomKind::BareMetalHost]),
        ("two-node-fencing", vec![Source::Pacemaker], &[]),
    ];
    for (name, sources, kinds) in overlays {
        let overlay = &objects(&format!("manifests/overlays/{name}/kustomization.yaml"))[0];
        assert_eq!(overlay["components"], json!([format!("../../components/{name}")]));
        let component = &objects(&format!("manifests/components/{name}/kustomization.yaml"))[0];
        let patch: Value = serde_saphyr::from_str(component["patches"][0]["patch"].as_str().unwrap()).unwrap();
        let argument = |source: &Source| json!({"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": format!("--source={}", source.name())});
        assert_eq!(patch, json!(sources.iter().map(argument).collect::<Vec<_>>()), "{name}");
        let right =
            |group: &str, resource: &str, verb: &str| (group.to_owned(), resource.to_owned(), vec![verb.to_owned()]);
        let kinds_to_list = kinds.iter().map(|kind| right(kind.kind().group, kind.kind().plural, "list"));
        let claims = (name == "csi-addons").then(|| right("", "persistentvolumeclaims", "get"));
        let needed: Vec<_> = kinds_to_list.chain(claims).collect();
        let rights = || shared(&format!("{name}/rbac.yaml"));
        let given = if kinds.is_empty() { Vec::new() } else { rules(&rights()[0]) };
        assert_eq!(given, needed, "{name}");
        assert_eq!(component["resources"].is_null(), kinds.is_empty(), "{name}");
    }
}

#[test]
fn the_overlay_warn_changes_nothing_but_modes() {
    let component = &objects("manifests/components/warn/kustomization.yaml")[0];
    let patches: Vec<Value> = component["patches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|patch| serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap())
        .collect();
    let replace = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    let expected = [
        replace("/spec/validationActions", json!(["Warn", "Audit"])),
        replace("/webhooks/0/failurePolicy", json!("Ignore")),
        replace("/data/config.yaml", patches[2][0]["value"].clone()),
    ];
    assert_eq!(patches, expected);
    let settings = config::parse(patches[2][0]["value"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(settings, Settings { mode: fencegate::policy::reason::Mode::Warn, ..Settings::default() });
}

#[test]
fn a_replica_that_waits_for_the_api_server_is_not_killed() {
    let container = &shared("base/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0];
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "telemetry"}), "{probe}");
    }
}

/// All files under a folder, whatever they are.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

#[test]
fn no_file_that_is_installed_is_a_symbolic_link() {
    let found = [files(&repository("charts")), files(&repository("manifests"))].concat();
    assert!(found.len() > 40, "{found:?}");
    for path in found {
        assert!(path.symlink_metadata().unwrap().is_file(), "{}", path.display());
    }
}

#[test]
fn every_action_of_the_workflows_is_pinned_to_a_commit() {
    let mut used = 0;
    for path in files(&repository(".github/workflows")) {
        let text = fs::read_to_string(path).unwrap();
        let workflow: Value = serde_saphyr::from_str(&text).unwrap();
        assert!(workflow["permissions"].is_object(), "a workflow without it has all permissions");
        for action in text.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")) {
            let (_, rest) = action.split_once('@').unwrap();
            let commit = rest.split(' ').next().unwrap();
            assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}");
            assert!(rest.contains(" # v"), "{action} does not name its version");
            used += 1;
        }
    }
    assert!(used > 0);
}

#[test]
fn cargo_the_chart_the_image_and_the_labels_have_the_same_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = &objects("charts/fencegate/Chart.yaml")[0];
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let container = &shared("base/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], format!("fencegate:{version}"));
    let images = chart["annotations"]["artifacthub.io/images"].as_str().unwrap();
    let images: Value = serde_saphyr::from_str(images).unwrap();
    assert_eq!(images, json!([{"name": "fencegate", "image": format!("fencegate:{version}")}]));
    let labels = &objects("manifests/transformers/labels/labels.yaml")[0]["labels"];
    assert_eq!(labels["app.kubernetes.io/version"], version);
}

#[test]
fn the_toolchain_is_the_oldest_rust_that_is_supported() {
    let text = fs::read_to_string(repository("rust-toolchain.toml")).unwrap();
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    assert_eq!(channel, format!("\"{}.0\"", env!("CARGO_PKG_RUST_VERSION")));
}
