//! The published JSON Schema of the configuration, held against the parser: what one of them
//! accepts, the other accepts as well.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{fs, path::Path};

use fencegate::{
    config,
    policy::{reason::Code, source::Source},
};
use serde_json::{Value, json};

#[path = "support/schema.rs"]
mod schema;

use schema::accepts;

fn read(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()).unwrap()
}

fn schema() -> Value {
    read("docs/gateconfig.schema.json")
}

/// Configurations for each setting: with each of its values and with wrong ones, and with a field
/// that does not exist beside it.
fn tried(schema: &Value, at: &mut Vec<String>, found: &mut Vec<Value>) {
    let within = |at: &[String], value: Value| at.iter().rev().fold(value, |value, name| json!({name: value}));
    let properties = schema["properties"].as_object();
    for (name, of_field) in properties.into_iter().flatten() {
        at.push(name.clone());
        let mut values =
            vec![json!(null), json!(true), json!(7), json!(-1), json!("nonsense"), json!([]), json!({}), json!([{}])];
        values.extend(of_field["enum"].as_array().into_iter().flatten().cloned());
        values.extend(of_field.get("default").cloned());
        let items = of_field["items"]["enum"].as_array().into_iter().flatten();
        values.extend(items.flat_map(|item| [json!([item]), json!([item, item]), json!(item)]));
        let owner = json!({"group": "apps", "kind": "StatefulSet"});
        values.extend([
            json!([owner]),
            json!([{"kind": "Pod"}]),
            json!([{"group": "apps"}]),
            json!([{"kind": "Pod", "name": "x"}]),
        ]);
        found.extend(values.into_iter().map(|value| within(at, value)));
        tried(of_field, at, found);
        at.pop();
    }
    if properties.is_some() {
        at.push("nonsense".to_owned());
        found.push(within(at, json!("x")));
        at.pop();
    }
}

#[test]
fn the_schema_and_the_parser_accept_the_same_configurations() {
    let schema = schema();
    let mut configurations = Vec::new();
    tried(&schema, &mut Vec::new(), &mut configurations);
    let mut accepted = 0;
    for configuration in &configurations {
        let parsed = config::parse(configuration.to_string().as_bytes());
        let valid = accepts(&schema, configuration);
        // Lengths of time and percentages are text; only the parser reads them.
        let is_text = parsed.as_ref().is_err_and(|error| {
            ["maxAge", "clockSkew", "autoAfter", "forgottenAfter", "stuckAfter", "maxNodes", "maxNotReady"]
                .iter()
                .any(|field| error.to_string().contains(&format!("{field}: \"")))
        });
        assert!(
            is_text || valid == parsed.is_ok(),
            "{configuration}: the schema accepts it: {valid}, the parser: {parsed:?}"
        );
        accepted += usize::from(valid);
    }
    assert!(accepted > 100 && configurations.len() - accepted > 300, "{accepted} of {}", configurations.len());
}

#[test]
fn the_schema_knows_every_check_and_every_source() {
    let schema = schema();
    let checks: Vec<&str> =
        schema["properties"]["checks"]["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    codes.sort_unstable();
    assert_eq!(checks, codes);
    let sources: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
    assert_eq!(schema["properties"]["evidence"]["properties"]["sources"]["items"]["enum"], json!(sources));
}

#[test]
fn the_chart_refuses_the_settings_that_the_schema_does_not_know() {
    let chart = read("charts/fencegate/values.schema.json");
    let (chart, schema) = (&chart["properties"]["config"], schema());
    // Values of the chart itself.
    let elsewhere = ["apiVersion", "kind", "mode", "sources", "auto", "enabled", "doors"];
    let names = |schema: &Value| -> Vec<String> {
        let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
        names.filter(|name| !elsewhere.contains(&name.as_str())).collect()
    };
    assert_eq!(names(chart), names(&schema));
    for section in names(&schema).into_iter().filter(|section| section != "checks") {
        let of = |schema: &Value| names(&schema["properties"][&section]);
        assert_eq!(of(chart), of(&schema), "{section}");
        assert_eq!(chart["properties"][&section]["additionalProperties"], json!(false), "{section}");
    }
}
