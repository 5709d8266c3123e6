//! What alerts, dashboard and documents say about metrics, against the program's own registry. When
//! alerts fire is tested by `make monitoring`, and on real replicas in `tests/end_to_end`.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use fencegate::{
    metrics::Metrics,
    policy::{Decision, facts::Timing, reason::Mode, settings::Settings},
};
use regex::Regex;
use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap()
}

/// The rules that are installed.
fn rules() -> Vec<Value> {
    let object: Value = serde_saphyr::from_str(&read("charts/fencegate/files/monitoring/rules.yaml")).unwrap();
    let groups = object["spec"]["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

/// Labels that Prometheus gives to every series, and that of several clusters.
const OF_TARGETS: &[&str] = &["cluster", "instance", "job", "namespace", "pod"];

/// The metrics of others, with their labels.
const OF_OTHERS: &[(&str, &[&str])] = &[
    ("ALERTS", &["alertname", "alertstate", "severity"]),
    ("apiserver_admission_webhook_admission_duration_seconds_bucket", &["name", "type", "operation", "rejected", "le"]),
    ("apiserver_admission_webhook_fail_open_count", &["name", "type"]),
    ("apiserver_admission_webhook_rejection_count", &["name", "type", "operation", "error_type", "rejection_code"]),
    ("kube_node_spec_taint", &["node", "key", "value", "effect"]),
    ("kube_node_status_condition", &["node", "condition", "status"]),
    ("kube_pod_container_status_restarts_total", &["container"]),
    ("kube_pod_info", &["node"]),
    ("kube_pod_owner", &["owner_kind", "owner_name"]),
    ("kube_pod_spec_volumes_persistentvolumeclaims_info", &["volume", "persistentvolumeclaim"]),
    ("kube_pod_status_phase", &["phase"]),
    ("kube_pod_tolerations", &["key", "operator", "value", "effect"]),
    ("kube_volumeattachment_info", &["volumeattachment", "attacher", "node"]),
];

/// The labels of a metric, with all values that are there from the start. Those of others have
/// none.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Every metric that an expression may name.
static KNOWN: LazyLock<BTreeMap<String, Labels>> = LazyLock::new(|| {
    let mut known: BTreeMap<String, Labels> = BTreeMap::new();
    let series = Regex::new(r"(?m)^([a-z_]+)(?:\{(.*)\})? \S+$").unwrap();
    let label = Regex::new(r#"([a-z_]+)="([^"]*)""#).unwrap();
    let text = registry();
    for found in series.captures_iter(&text) {
        let labels = known.entry(found[1].to_owned()).or_default();
        for pair in label.captures_iter(found.get(2).map_or("", |text| text.as_str())) {
            labels.entry(pair[1].to_owned()).or_default().insert(pair[2].to_owned());
        }
    }
    let of_others = OF_OTHERS.iter().map(|(name, labels)| (*name, labels.to_vec()));
    for (name, labels) in of_others {
        known.insert(name.into(), labels.into_iter().map(|label| (label.to_owned(), BTreeSet::new())).collect());
    }
    for rule in rules().iter().filter(|rule| rule["record"].is_string()) {
        let of_rule = rule["labels"].as_object().into_iter().flat_map(|labels| labels.keys().cloned());
        let labels = named(text_of(rule)).groupings.into_iter().flatten().chain(of_rule);
        let labels: Vec<String> = labels.collect();
        let entry = known.entry(text_of_name(rule)).or_default();
        entry.extend(labels.into_iter().map(|label| (label, BTreeSet::new())));
    }
    known
});

fn text_of(rule: &Value) -> &str {
    text(&rule["expr"])
}

fn text_of_name(rule: &Value) -> String {
    text(&rule["record"]).to_owned()
}

/// What a replica serves, with a reading of each fact and each kind of series.
fn registry() -> String {
    let metrics = Metrics::default();
    metrics.config_reloaded(Some(&Settings::default()), jiff::Timestamp::UNIX_EPOCH);
    let timings = [true, false].map(|known| Timing { fact: "lease", known, took: std::time::Duration::from_millis(1) });
    let decision = Decision::malformed(String::new(), "why".into(), Mode::Enforce);
    metrics.decided("validate", &decision, &timings, 0.1);
    metrics.encode().unwrap()
}

/// What an expression names.
#[derive(Default)]
struct Named {
    /// Metrics, each with its matchers: label, operator, value.
    selectors: Vec<(String, Vec<[String; 3]>)>,
    /// The lists of labels after `by`, `on` and others.
    groupings: Vec<Vec<String>>,
}

/// Reads an expression word by word: enough of PromQL to find what it names.
fn named(expression: &str) -> Named {
    const GROUPING: &[&str] = &["by", "on", "without", "ignoring", "group_left", "group_right"];
    const KEYWORDS: &[&str] = &["and", "or", "unless", "offset", "bool"];
    let word = Regex::new(r#""[^"]*"|\[[^\]]*\]|[0-9][\w.]*|[\w:]+|=~|!~|!=|[^\s]"#).unwrap();
    let words: Vec<&str> = word.find_iter(expression).map(|found| found.as_str()).collect();
    let mut named = Named::default();
    let mut rest = words.as_slice();
    while let [word, after @ ..] = rest {
        rest = after;
        let upto = |end: &str| after.iter().position(|word| *word == end).unwrap();
        if GROUPING.contains(word) {
            let labels = after[1..upto(")")].iter().filter(|label| **label != ",");
            named.groupings.push(labels.map(ToString::to_string).collect());
            rest = &after[upto(")")..];
        } else if word.starts_with(|first: char| first.is_alphabetic()) && !KEYWORDS.contains(word) {
            let next = after.first().copied().unwrap_or_default();
            let is_function = next == "(" || GROUPING.contains(&next);
            let inside = if next == "{" { &after[1..upto("}")] } else { &[] };
            let matchers = inside.split(|word| *word == ",").filter_map(|matcher| {
                let [label, operator, value] = matcher else { return None };
                Some([(*label).into(), (*operator).into(), value.trim_matches('"').into()])
            });
            if !is_function {
                named.selectors.push(((*word).into(), matchers.collect()));
                rest = &after[if next == "{" { upto("}") } else { 0 }..];
            }
        }
    }
    named
}

/// Asserts that every metric, label and value in an expression exists.
fn holds(whose: &str, expression: &str) {
    let Named { selectors, groupings } = named(expression);
    assert!(!selectors.is_empty(), "{whose}: no metric is in {expression}");
    let mut there: BTreeSet<&str> = OF_TARGETS.iter().copied().collect();
    for (metric, matchers) in &selectors {
        let labels = KNOWN.get(metric).unwrap_or_else(|| panic!("{whose}: there is no metric {metric}: {expression}"));
        for [label, operator, value] in matchers {
            let is_known = labels.contains_key(label) || OF_TARGETS.contains(&label.as_str());
            assert!(is_known, "{whose}: {metric} has no label {label}");
            let values = labels.get(label).filter(|values| !values.is_empty() && !value.contains('$'));
            for value in value.split('|').filter(|value| operator.starts_with('=') && !value.is_empty()) {
                assert!(
                    values.is_none_or(|values| values.contains(value)),
                    "{whose}: {metric} is never {label}={value}"
                );
            }
        }
        there.extend(labels.keys().map(String::as_str));
    }
    for labels in groupings {
        let unknown: Vec<&String> = labels.iter().filter(|label| !there.contains(label.as_str())).collect();
        assert!(unknown.is_empty(), "{whose}: no metric has {unknown:?}: {expression}");
    }
}

#[test]
fn every_metric_label_and_value_in_the_rules_exists() {
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
        holds(name, text_of(&rule));
    }
}

#[test]
fn no_rule_mixes_clusters_or_depends_on_a_job() {
    for rule in rules() {
        let expression = text_of(&rule);
        for labels in named(expression).groupings {
            assert_eq!(labels[0], "cluster", "{labels:?} in {expression}");
        }
        assert!(!expression.contains("job"), "everybody names it differently: {expression}");
    }
}

#[test]
fn every_query_in_a_document_exists() {
    let mut queries = 0;
    for path in pages().into_iter().chain(["docs/operations.md".into()]) {
        for block in read(&path).split("```promql").skip(1) {
            holds(&path, block.split("```").next().unwrap());
            queries += 1;
        }
    }
    assert!(queries >= 2, "{queries}");
}

/// The pages of the runbook.
fn pages() -> BTreeSet<String> {
    let entries = fs::read_dir(repository("docs/runbooks")).unwrap();
    entries.map(|entry| format!("docs/runbooks/{}", entry.unwrap().file_name().into_string().unwrap())).collect()
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() {
    let mut needed = BTreeSet::from(["docs/runbooks/a-node-died.md".to_owned()]);
    for alert in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = text(&alert["alert"]);
        let page = format!("docs/runbooks/{}.md", name.to_lowercase());
        let url = format!("https://github.com/fencegate/fencegate/blob/main/{page}");
        assert_eq!(alert["annotations"]["runbook_url"], url);
        let words = read(&page);
        let headings: Vec<&str> = words.lines().filter(|line| line.starts_with('#')).collect();
        let title = format!("# {name}");
        assert_eq!(headings, [&title, "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]);
        needed.insert(page);
    }
    assert_eq!(pages(), needed);
}

#[test]
fn every_alert_fires_in_a_unit_test() {
    let tests = read("monitoring/alerts.yaml") + &read("monitoring/days.yaml");
    for alert in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let (name, severity) = (text(&alert["alert"]), text(&alert["labels"]["severity"]));
        let firing = format!(r#"ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}""#);
        assert!(tests.contains(&firing), "{firing} is not expected anywhere");
    }
}

#[test]
fn every_alert_has_a_severity_and_says_what_is_wrong() {
    for alert in rules().iter().filter(|rule| rule["alert"].is_string()) {
        assert!(["critical", "warning", "info"].contains(&text(&alert["labels"]["severity"])), "{alert}");
        for annotation in ["summary", "description"] {
            assert!(text(&alert["annotations"][annotation]).ends_with(['.', '?']), "{alert}");
        }
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("charts/fencegate/files/monitoring/dashboard.json")).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

#[test]
fn every_metric_label_and_value_in_the_dashboard_exists() {
    let dashboard = dashboard();
    let mut queries = 0;
    for panel in list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row") {
        for target in list(&panel["targets"]) {
            holds(text(&panel["title"]), text(&target["expr"]));
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries}");
    for annotation in list(&dashboard["annotations"]["list"]) {
        holds("an annotation", text(&annotation["expr"]));
    }
}

#[test]
fn the_dashboard_works_with_any_data_source_cluster_and_namespace() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "fencegate");
    assert_eq!(dashboard["tags"], serde_json::json!(["fencegate", "kubernetes-mixin"]));
    // Grafana 11. Newer ones migrate it.
    assert_eq!(dashboard["schemaVersion"], 39);
    let variables: Vec<&str> =
        list(&dashboard["templating"]["list"]).iter().map(|variable| text(&variable["name"])).collect();
    assert_eq!(variables, ["datasource", "cluster", "namespace"]);
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    let mut places = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut rows = Vec::new();
    for panel in list(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have an id: {panel}");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(place("x") + x < 24, "too far right: {panel}");
            assert!(places.insert((place("x") + x, place("y") + y)), "two panels are in one place: {panel}");
        }
        if panel["type"] == "row" {
            rows.push(text(&panel["title"]));
            continue;
        }
        assert!(["bargauge", "stat", "table", "timeseries"].contains(&text(&panel["type"])), "{panel}");
        assert!(!text(&panel["description"]).is_empty() && panel["datasource"] == source, "{panel}");
        for target in list(&panel["targets"]) {
            assert_eq!(target["datasource"], source);
            assert!(text(&target["expr"]).contains("cluster=~\"$cluster\""), "{target}");
        }
    }
    assert_eq!(rows, ["Now", "Decisions", "Health"]);
}
