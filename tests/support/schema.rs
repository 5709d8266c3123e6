//! JSON Schema, as far as the published ones use it.

#![allow(dead_code, reason = "each test uses a part of this")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{fs, path::Path};

use serde_json::Value;

/// The published schema of a command's output.
pub fn published(command: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{command}-v1.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The keywords that say nothing about what is valid.
const NOTES: [&str; 5] = ["$schema", "title", "description", "default", "properties"];

/// Whether a value is valid, by the part of JSON Schema that the published one uses.
pub fn accepts(schema: &Value, value: &Value) -> bool {
    let rules = schema.as_object().unwrap().iter().filter(|(keyword, _)| !NOTES.contains(&keyword.as_str()));
    let fields = value.as_object().into_iter().flatten();
    let each_field = fields.into_iter().all(|(name, field)| match &schema["properties"][name] {
        Value::Null => match &schema["additionalProperties"] {
            Value::Bool(allowed) => *allowed,
            Value::Null => true,
            of_others => accepts(of_others, field),
        },
        of_field => accepts(of_field, field),
    });
    let items = || value.as_array().into_iter().flatten();
    let has_type = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "null" => value.is_null(),
        other => panic!("what is {other}?"),
    };
    each_field
        && rules.into_iter().all(|(keyword, rule)| match (keyword.as_str(), rule) {
            ("additionalProperties", _) => true,
            ("type", Value::Array(names)) => names.iter().any(has_type),
            ("type", name) => has_type(name),
            ("enum", Value::Array(values)) => values.contains(value),
            ("anyOf", Value::Array(schemas)) => schemas.iter().any(|schema| accepts(schema, value)),
            ("required", Value::Array(names)) => {
                !value.is_object() || names.iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            ("items", of_item) => items().all(|item| accepts(of_item, item)),
            ("minItems", least) => value.as_array().is_none_or(|items| items.len() as u64 >= least.as_u64().unwrap()),
            ("minimum", least) => value.as_i64().is_none_or(|number| number >= least.as_i64().unwrap()),
            ("uniqueItems", _) => items().enumerate().all(|(n, item)| !items().skip(n + 1).any(|other| other == item)),
            (other, _) => panic!("what is {other}?"),
        })
}
