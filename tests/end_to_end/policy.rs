//! The ValidatingAdmissionPolicy by itself: what it denies without the gate, and that its grammar
//! is the program's.

use fencegate::policy::{
    annotation::{BOOT_ID, FENCED_AT},
    evidence::malformed,
};
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        accounts::{Account, bind},
        gate::{policy_alone, rendered},
        plane::{ApiError, Plane},
    },
    world::{TAINT, evidence, now, plane_with_alice},
};

/// The reason with which the policy denied a write, if it did.
fn denied_by_policy(written: Result<Value, ApiError>) -> Option<String> {
    let error = written.err()?;
    let (_, said) = error.message.split_once("denied request: ").unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(error.code, 403, "{error:?}");
    Some(said.split(':').next().unwrap().to_owned())
}

/// A stored Node, who writes it, what the merge patch changes, and the reason of the denial, if
/// any.
type Row = (Value, &'static str, Value, Option<&'static str>);

/// All of these merged into one object.
fn all<const N: usize>(parts: [Value; N]) -> Value {
    let mut whole = json!({});
    for part in &parts {
        json_patch::merge(&mut whole, part);
    }
    whole
}

fn tainted(effects: &[&str]) -> Value {
    let entry = |effect: &&str| json!({"key": TAINT, "value": "nodeshutdown", "effect": effect});
    json!({"spec": {"taints": effects.iter().map(entry).collect::<Vec<_>>()}})
}

fn annotated(annotations: Value) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

/// One of the gate's annotations, without its prefix.
fn key(key: &str, value: impl Into<Value>) -> Value {
    annotated(json!({format!("fencegate.dev/{key}"): value.into()}))
}

fn recorded() -> Value {
    annotated(evidence())
}

fn ready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn boot(id: &str) -> Value {
    json!({"status": {"nodeInfo": {"bootID": id, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}})
}

const NO_EXECUTE: &[&str] = &["NoExecute"];

fn placements() -> Vec<Row> {
    let place = |part: Value| all([tainted(NO_EXECUTE), recorded(), part]);
    let mark = |value: &str| annotated(json!({"node.kubernetes.io/out-of-service-applied-by": value}));
    let shutdown = json!({"key": "node.cloudprovider.kubernetes.io/shutdown", "effect": "NoSchedule"});
    let stopped = json!({"spec": {"taints": [shutdown]}});
    let stopped_and_out = json!({"spec": {"taints": [shutdown, {"key": TAINT, "effect": "NoExecute"}]}});
    let row = |old: Value, patch: Value, reason| (old, "admin", patch, reason);
    vec![
        row(json!({}), place(json!({})), None),
        row(ready(), place(json!({})), Some("NodeStillReady")),
        row(json!({}), tainted(NO_EXECUTE), Some("EvidenceMissing")),
        row(json!({}), place(key("fenced-at", Value::Null)), Some("EvidenceMissing")),
        row(json!({}), place(key("method", "unplugged")), Some("EvidenceMalformed")),
        row(json!({}), place(key("fenced-at", "now")), Some("EvidenceMalformed")),
        row(json!({}), place(key("fenced-by", "<who>")), Some("EvidenceMalformed")),
        row(json!({}), place(key("fenced-by", " \u{a0}")), Some("EvidenceMalformed")),
        row(json!({}), place(key("fenced-by", "a\nb")), Some("EvidenceMalformed")),
        row(json!({}), place(key("fenced-by", "Zo\u{eb} \u{4f50}\u{85e4}, <OPS-123> on call")), None),
        row(json!({}), place(key("fenced-by", "\u{eb}".repeat(256))), None),
        row(json!({}), place(key("fenced-by", "x".repeat(257))), Some("EvidenceMalformed")),
        row(json!({}), place(key("proof", "")), None),
        row(json!({}), place(key("proof", "\u{eb}".repeat(1024))), None),
        row(json!({}), place(key("proof", "x".repeat(1025))), Some("EvidenceMalformed")),
        row(
            key("method", "unplugged"),
            all([tainted(NO_EXECUTE), key("fenced-by", "a"), key("fenced-at", "2026-11-22T10:15:00Z")]),
            Some("EvidenceMalformed"),
        ),
        row(boot("b1"), place(key("boot-id", "b1")), None),
        row(boot("b1"), place(key("boot-id", "b2")), Some("EvidenceForOtherBoot")),
        row(json!({}), place(key("boot-id", "b1")), Some("EvidenceForOtherBoot")),
        row(json!({}), all([recorded(), tainted(&["NoSchedule"])]), None),
        row(json!({}), all([recorded(), tainted(&["NoExecute", "PreferNoSchedule"])]), Some("EffectUndocumented")),
        row(json!({}), place(all([key("source", "pacemaker"), mark("pacemaker")])), None),
        row(json!({}), place(key("source", "pacemaker")), Some("EvidenceMissing")),
        row(mark("pacemaker"), place(key("source", "pacemaker")), Some("EvidenceMissing")),
        row(stopped, all([recorded(), key("source", "cloud-shutdown"), stopped_and_out.clone()]), None),
        row(json!({}), all([recorded(), key("source", "cloud-shutdown"), stopped_and_out]), Some("EvidenceMissing")),
        // The policy cannot see pods and volumes, so only the webhooks judge a release.
        row(all([tainted(NO_EXECUTE), recorded()]), json!({"spec": {"taints": null}}), None),
    ]
}

fn amendments() -> Vec<Row> {
    let out = || all([tainted(NO_EXECUTE), recorded()]);
    let row = |old: Value, patch: Value, reason| (old, "admin", patch, reason);
    vec![
        row(out(), tainted(&["NoExecute", "NoSchedule"]), None),
        row(all([out(), ready()]), tainted(&["NoExecute", "NoSchedule"]), Some("NodeStillReady")),
        row(out(), tainted(&["NoExecute", "PreferNoSchedule"]), Some("EffectUndocumented")),
        row(all([out(), tainted(&["PreferNoSchedule"])]), tainted(&["PreferNoSchedule", "NoSchedule"]), None),
        row(
            all([out(), ready()]),
            json!({"spec": {"taints": [{"key": TAINT, "value": "other", "effect": "NoExecute"}]}}),
            Some("NodeStillReady"),
        ),
        row(all([out(), tainted(&["NoExecute", "NoSchedule"]), ready()]), tainted(NO_EXECUTE), None),
    ]
}

fn records() -> Vec<Row> {
    let out = || all([tainted(NO_EXECUTE), recorded()]);
    let row = |old: Value, patch: Value, reason| (old, "admin", patch, reason);
    vec![
        row(json!({}), key("fenced-at", "yesterday"), Some("EvidenceMalformed")),
        row(key("fenced-at", "yesterday"), key("proof", "seen"), None),
        row(key("fenced-at", "yesterday"), key("fenced-at", Value::Null), None),
        row(out(), key("hold", "a disk is being replaced"), None),
        row(out(), key("hold", ""), Some("EvidenceMalformed")),
        row(out(), key("hold", "x".repeat(257)), Some("EvidenceMalformed")),
        row(key("hold", "why"), key("hold", Value::Null), None),
        row(out(), key("proof", "late"), Some("EvidenceFrozen")),
        row(out(), key("method", Value::Null), Some("EvidenceFrozen")),
        row(out(), key("placed-by", "me"), Some("EvidenceFrozen")),
        row(out(), key("last-outage", "{}"), Some("EvidenceFrozen")),
        row(out(), all([key("overridden", "why"), key("overridden-by", "alice")]), None),
        row(out(), annotated(json!({"example.com/a": "b", "fencegate.dev/unknown": "c"})), None),
        // A taint that is older than the gate gets its record late: a whole one, without a boot.
        row(tainted(NO_EXECUTE), all([recorded(), key("proof", "seen"), key("recorded-by", "admin")]), None),
        row(tainted(NO_EXECUTE), key("method", "power-off"), Some("EvidenceFrozen")),
        row(all([tainted(NO_EXECUTE), key("method", "power-off")]), recorded(), Some("EvidenceFrozen")),
        row(tainted(NO_EXECUTE), all([recorded(), key("boot-id", "b1")]), Some("EvidenceFrozen")),
        row(tainted(NO_EXECUTE), all([recorded(), key("placed-by", "me")]), Some("EvidenceFrozen")),
    ]
}

/// `oncall` may write Nodes and nothing else; `alice` and `admin` may break the glass.
fn break_glasses() -> Vec<Row> {
    let place = |part: Value| all([tainted(NO_EXECUTE), part]);
    let glass = || key("break-glass", "drill");
    let stored_by = |user: &str| all([ready(), glass(), key("break-glass-by", user)]);
    let overridden = |by: &str| all([key("overridden-by", by), key("overridden-at", "2026-11-22T10:15:00Z")]);
    vec![
        (ready(), "alice", place(glass()), None),
        (ready(), "alice", place(key("break-glass", " ")), Some("NodeStillReady")),
        (ready(), "oncall", place(glass()), Some("NodeStillReady")),
        (json!({}), "oncall", glass(), Some("NotAuthorized")),
        (glass(), "oncall", key("break-glass", "another"), Some("NotAuthorized")),
        (glass(), "oncall", key("break-glass", Value::Null), None),
        // Nobody hands the break-glass of one person to another.
        (glass(), "oncall", key("break-glass-by", "oncall"), Some("NotAuthorized")),
        (glass(), "oncall", key("break-glass-at", "2026-11-22T10:20:00Z"), Some("NotAuthorized")),
        (glass(), "alice", key("break-glass-by", "oncall"), Some("NotAuthorized")),
        (glass(), "alice", key("break-glass-by", "alice"), None),
        (glass(), "alice", key("break-glass", "another"), None),
        (json!({}), "alice", key("break-glass", ""), Some("EvidenceMalformed")),
        // The stored one counts for the person who wrote it.
        (stored_by("alice"), "alice", place(json!({})), None),
        (stored_by("alice"), "admin", place(json!({})), Some("NodeStillReady")),
        (stored_by("oncall"), "oncall", place(json!({})), Some("NodeStillReady")),
        (all([ready(), glass()]), "alice", place(json!({})), Some("NodeStillReady")),
        // The mutating webhook turns one that is used into stamps.
        (stored_by("alice"), "alice", place(all([overridden("alice"), key("break-glass", Value::Null)])), None),
        (ready(), "alice", place(overridden("alice")), None),
        (ready(), "admin", place(overridden("alice")), Some("NodeStillReady")),
        (ready(), "oncall", place(overridden("oncall")), Some("NodeStillReady")),
        (all([ready(), overridden("alice")]), "alice", place(json!({})), Some("NodeStillReady")),
        // A reason that was used before may be written again: by a person, at a moment.
        (all([ready(), key("overridden", "drill"), overridden("alice")]), "alice", place(glass()), None),
        (all([tainted(NO_EXECUTE), recorded()]), "alice", all([glass(), key("proof", "late")]), None),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_alone_denies_every_violation_that_it_can_see() {
    let plane = plane_with_alice().await;
    let rules = json!([{"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["get", "patch"]}]);
    bind(&plane, "writer", rules, json!({"kind": "User", "name": "oncall"})).await;
    let rows = [placements(), amendments(), records(), break_glasses()].concat();
    for (number, (stored, ..)) in rows.iter().enumerate() {
        let node = all([stored.clone(), json!({"metadata": {"name": format!("p{number}")}})]);
        plane.create("/api/v1/nodes", node).await;
    }
    policy_alone(&plane).await;
    for (number, (stored, user, patch, reason)) in rows.into_iter().enumerate() {
        let path = format!("/api/v1/nodes/p{number}");
        if stored["status"].get("conditions").is_some() {
            // The node controller has set it to Unknown meanwhile. A heartbeat counts for 10 s.
            let heartbeat = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now()});
            let status = json!({"status": {"conditions": [heartbeat]}});
            plane.api("admin", Method::PATCH, &format!("{path}/status"), Some(status)).await.unwrap();
        }
        let written = plane.api(user, Method::PATCH, &path, Some(patch.clone())).await;
        assert_eq!(denied_by_policy(written).as_deref(), reason, "{stored} by {user}: {patch}");
    }
    let created = all([tainted(NO_EXECUTE), recorded(), json!({"metadata": {"name": "new"}})]);
    let created = plane.api("admin", Method::POST, "/api/v1/nodes", Some(created)).await;
    assert_eq!(denied_by_policy(created).as_deref(), Some("CreatedOutOfService"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_lets_no_node_speak_about_itself() {
    let plane = plane_with_alice().await;
    let agent = Account::create(&plane, "agents", "agent", &["get", "patch"]).await;
    for name in ["n1", "n2"] {
        plane.create("/api/v1/nodes", all([recorded(), json!({"metadata": {"name": name}})])).await;
    }
    let on_n1 = agent.token_on(&plane, "n1").await;
    policy_alone(&plane).await;
    let write = async |user: &str, path: &str, patch: Value| {
        denied_by_policy(plane.api(user, Method::PATCH, &format!("/api/v1/nodes/{path}"), Some(patch)).await)
    };
    for path in ["n1", "n1/status"] {
        for annotation in ["method", "hold", "break-glass", "last-outage"] {
            let said = write("node-n1", path, key(annotation, "instance-stop")).await;
            assert_eq!(said.as_deref(), Some("SelfAttested"), "{annotation} of {path}");
        }
        assert_eq!(write("node-n1", path, annotated(json!({"example.com/a": path}))).await, None);
    }
    // A pod on a node speaks from that node, and from no other.
    assert_eq!(write(&on_n1, "n1", tainted(NO_EXECUTE)).await.as_deref(), Some("SelfAttested"));
    assert_eq!(write(&on_n1, "n1", key("proof", "seen")).await.as_deref(), Some("SelfAttested"));
    assert_eq!(write(&on_n1, "n1", key("hold", "why")).await.as_deref(), Some("SelfAttested"));
    assert_eq!(write(&on_n1, "n2", key("hold", "why")).await, None);
    assert_eq!(write(&on_n1, "n2", tainted(NO_EXECUTE)).await, None);
    assert_eq!(write(&on_n1, "n2", tainted(&["NoExecute", "NoSchedule"])).await, None);
    assert_eq!(write("admin", "n1", tainted(NO_EXECUTE)).await, None);
    let amended = write(&on_n1, "n1", tainted(&["NoExecute", "NoSchedule"])).await;
    assert_eq!(amended.as_deref(), Some("SelfAttested"));
    assert_eq!(write(&on_n1, "n1", json!({"spec": {"taints": null}})).await, None, "the webhooks judge a release");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_and_the_program_accept_the_same_times() {
    let plane = plane_with_alice().await;
    plane.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    policy_alone(&plane).await;
    let shapes = [
        "",
        "now",
        "2026-11-22",
        "2026-11-22T10:15Z",
        "2026-11-22T10:15:00",
        "2026-11-22 10:15:00Z",
        "1763806500",
        "2026-11-22T10:15:00Z",
        "2026-11-22t10:15:00z",
        "2026-11-22T10:15:00.25+01:00",
        "2026-11-22T10:15:00.Z",
        "2026-11-22T10:15:00,5Z",
        "2026-11-22T10:15:00+01",
        "2026-11-22T10:15:00+0100",
        "2026-11-22T10:15:00-00:00",
        "2026-11-22T10:15:00+23:59",
        "2026-11-22T10:15:00+24:00",
        "2026-11-22T10:15:00-23:60",
        "2026-11-22T10:15:00Z[UTC]",
        "2026-11-22T10:15:00Z ",
        " 2026-11-22T10:15:00Z",
        "+02026-11-22T10:15:00Z",
        "-2026-11-22T10:15:00Z",
        "2026-11-22T10:15:00\u{e9}",
        "20\u{e9}6-11-22T10:15:00Z",
        "2026-11-22T10:15:00Z\n",
        "\u{662}026-11-22T10:15:00Z",
        "2026-11-22T23:59:59Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T10:60:00Z",
        "2026-11-22T10:15:60Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00+23:59",
        "0000-02-29T00:00:00Z",
        "9999-12-28T23:59:59-23:59",
        "9999-12-29T00:00:00Z",
        "9999-12-31T23:59:59+23:59",
        "2026-11-22T10:15:00.0000000000000000000000000000000000000000000Z",
        "2026-11-22T10:15:00.00000000000000000000000000000000000000000000Z",
    ];
    let days = [1900, 2000, 2023, 2024].into_iter().flat_map(|year| {
        (1..=12).flat_map(move |month| [28, 29, 30, 31].map(|day| format!("{year}-{month:02}-{day}T10:15:00Z")))
    });
    let edges = ["2024-00-10", "2024-13-10", "2024-01-00", "2024-01-32", "2024-1-10", "0400-02-29", "2100-02-29"];
    let days = days.chain(edges.map(|day| format!("{day}T10:15:00Z")));
    let mut accepted = 0;
    for time in shapes.map(str::to_owned).into_iter().chain(days) {
        let path = "/api/v1/nodes/n1?dryRun=All";
        let written = plane.api("admin", Method::PATCH, path, Some(key("fenced-at", time.as_str()))).await;
        let denied = denied_by_policy(written).is_some();
        assert_eq!(denied, malformed(FENCED_AT, &time).is_some(), "{time:?}");
        accepted += usize::from(!denied);
    }
    assert!(accepted > 150, "{accepted}");
}

/// A policy on ConfigMaps with the grammar of the shipped one: text under `good…` has only
/// printable characters that are not spaces, under `space…` only spaces, and under `bad…` none is
/// printable.
fn grammar(plane: &Plane) -> Vec<Value> {
    let objects = rendered(plane, "default");
    let is_policy =
        |object: &&Value| object["kind"] == "ValidatingAdmissionPolicy" && object["metadata"]["name"] == "fencegate";
    let policy = objects.iter().find(is_policy).unwrap();
    let variables = policy["spec"]["variables"].as_array().unwrap();
    let named = |name: &str| variables.iter().find(|variable| variable["name"] == name).unwrap().clone();
    let agrees = "object.data.all(k, \
        k.startsWith('good') ? object.data[k].matches(variables.printable) && object.data[k].matches('^' + variables.notBlank + '*$') : \
        k.startsWith('space') ? object.data[k].matches(variables.printable) && !object.data[k].matches(variables.notBlank) : \
        !object.data[k].matches(variables.printable))";
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "characters"}, "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [{"name": "ours", "expression": "object.metadata.name.startsWith('characters')"}],
            "variables": [named("printable"), named("notBlank")],
            "validations": [{"expression": agrees, "reason": "Forbidden"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "characters"}, "spec": {"policyName": "characters", "validationActions": ["Deny"]}});
    vec![policy, binding]
}

/// Sorts every character by the program's grammar into texts for [`grammar`], each with its key.
fn characters() -> Vec<(String, String)> {
    let (mut good, mut spaces, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for character in '\0'..=char::MAX {
        let code = u32::from(character);
        if malformed(BOOT_ID, &format!("x{character}")).is_some() {
            texts.push((format!("bad-{code:x}"), character.to_string()));
        } else if malformed(BOOT_ID, &character.to_string()).is_some() {
            spaces.push(character);
        } else {
            good.push(character);
        }
    }
    let text = |name: &str, characters: &[char]| {
        (format!("{name}-{:x}", u32::from(characters[0])), characters.iter().collect())
    };
    texts.extend(good.chunks(256).map(|characters| text("good", characters)));
    texts.push(text("space", &spaces));
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_and_the_program_accept_the_same_characters() {
    /// Less than 1 MiB, which is a ConfigMap's limit, and than what an expression may cost.
    const AT_ONCE: usize = 900;
    let plane = plane_with_alice().await;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": grammar(&plane)}).to_string();
    assert!(plane.kubectl("admin", &["apply", "-f", "-"], &list).status.success());
    let write = async |texts: &[(String, String)]| {
        let data: serde_json::Map<String, Value> =
            texts.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
        let object = json!({"metadata": {"name": "characters"}, "data": data});
        plane.api("admin", Method::POST, "/api/v1/namespaces/default/configmaps?dryRun=All", Some(object)).await
    };
    let untrue = async |_: &Plane| write(&[("bad-78".to_owned(), "x".to_owned())]).await.is_err();
    plane.until("the policy is in force", untrue).await;
    let texts = characters();
    assert!(texts.len() > 140_000, "{}", texts.len());
    for some in texts.chunks(AT_ONCE) {
        let (first, last) = (&some[0].0, &some[some.len() - 1].0);
        let written = write(some).await;
        assert!(written.is_ok(), "the policy and the program differ between {first} and {last}: {written:?}");
    }
}
