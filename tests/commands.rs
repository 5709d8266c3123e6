//! Every command that fencegate tells people to type can be pasted as it is into sh, bash and zsh:
//! the commands of messages with odd names in them, of the documents, of the chart's notes and of
//! the policies. `tests/cases.rs` does the same for every message of the table of cases.
//!
//! In a document, a block marked `sh` has one command a line and nothing else. In a block marked
//! `console`, commands follow `$ `, and the rest is output. Other blocks are no commands. Code
//! within a sentence is the name of a command, not a command to paste.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{fs, path::Path};

use fencegate::policy::{
    decide,
    facts::{FactValue, Facts},
    message::denial,
    object::node::Node,
    request::{Request, User, Write},
    review::{Content, Webhook},
    settings::Settings,
    shell::Command,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "support/shells.rs"]
mod shells;

use shells::paste;

const TAINT: &str = "node.kubernetes.io/out-of-service";

fn node(name: &str, tainted: bool) -> Node {
    let taints =
        if tainted { json!([{"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"}]) } else { json!([]) };
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap()
}

/// The commands of the denial that `user` gets for this write to the Node `name`.
fn commands(name: &str, user: &str, write: Write, facts: &Facts) -> Vec<String> {
    let request = Request { node: name.into(), user: User { name: user.into(), ..User::default() }, write };
    let decision = decide(Webhook::Validate, &request, facts, &Settings::default());
    let message = denial(&decision, &Content::Node(Box::new(request)));
    let lines = message.lines().filter_map(|line| line.strip_prefix("  "));
    lines.filter(|line| line.starts_with("kubectl ")).map(str::to_owned).collect()
}

/// One pod and one volume hold the node.
fn held(name: &str) -> Facts {
    let mut facts = Facts::at("2026-11-22T10:20:00Z".parse().unwrap());
    let pod = json!({"metadata": {"namespace": "prod", "name": "db-0", "ownerReferences":
        [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}});
    let attachment = json!({"metadata": {"name": "csi-1"},
        "spec": {"nodeName": name, "source": {"persistentVolumeName": "pv-1"}}});
    facts.learn(facts.now, FactValue::Pods(vec![serde_json::from_value(pod).unwrap()]));
    facts.learn(facts.now, FactValue::VolumeAttachments(vec![serde_json::from_value(attachment).unwrap()]));
    facts
}

/// Names that mean something to a shell. No API server stores such a Node, but a user may have any
/// name that an identity provider gives.
const ODD_NAMES: &[&str] = &[
    "worker-2",
    "o'brien; rm -rf $HOME",
    "$(touch pwned)`touch pwned`",
    "a < b",
    "a > pwned",
    "a && touch pwned | b & c",
    "hello! !! !kubectl ^a^b",
    "''",
    "it's 'quoted' \"twice\" \\",
    "=kubectl",
    "~ * ? [a-z] {a,b} #c",
    "Zoë 佐藤",
];

#[test]
fn an_odd_name_is_one_argument_in_every_command_of_a_message() {
    for name in ODD_NAMES {
        let facts = Facts::at("2026-11-22T10:20:00Z".parse().unwrap());
        let place = Write::Update { old: node(name, false), new: node(name, true) };
        let ran = paste(&commands(name, name, place, &facts));
        let by = format!("fencegate.dev/fenced-by={name}");
        let record =
            ["kubectl", "annotate", "node", name, "fencegate.dev/method=power-off", &by, "fencegate.dev/fenced-at=now"];
        assert_eq!(ran.calls, [record]);
        assert!(ran.files.is_empty(), "{name}: {ran:?}");

        let release = Write::Update { old: node(name, true), new: node(name, false) };
        let ran = paste(&commands(name, name, release, &held(name)));
        let selector = format!("spec.nodeName={}", name.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\="));
        assert_eq!(ran.calls[0][1..6], ["get", "pods", "--all-namespaces", "--field-selector", &selector]);
        let filter = format!("[?(@.spec.nodeName==\"{}\")]", name.replace('\\', "\\\\").replace('"', "\\\""));
        assert!(ran.calls[1][4].contains(&filter), "{ran:?}");
        assert!(ran.calls.len() == 2 && ran.files.is_empty(), "{name}: {ran:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn every_shell_reads_the_words_of_a_command_as_they_are(words in prop::collection::vec("[ -~]{0,12}|\\PC{0,6}", 200)) {
        let typed: Vec<(String, &String)> =
            words.iter().filter_map(|word| Some((Command::new("kubectl").arg(word).typed()?, word))).collect();
        let ran = paste(&typed.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>());
        let expected: Vec<Vec<String>> = typed.iter().map(|(_, word)| vec!["kubectl".to_owned(), (*word).clone()]).collect();
        prop_assert_eq!(ran.calls, expected);
        prop_assert!(ran.files.is_empty());
    }
}

/// The documents with commands, by their paths in the repository.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned).into();
    for folder in ["docs", "docs/runbooks"] {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let files = files
            .map(|name| name.into_string().unwrap())
            .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"));
        names.extend(files.map(|name| format!("{folder}/{name}")));
    }
    names.sort();
    let read = |name: String| (fs::read_to_string(root.join(&name)).unwrap(), name);
    names.into_iter().map(read).map(|(text, name)| (name, text)).collect()
}

/// The blocks of a document: what follows the opening fence, and the lines.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language, Vec::new())),
            (None, Some((_, lines))) => lines.push(line.trim_start()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// Pastes commands, one a line. Each calls one program, and none writes a file.
fn paste_lines(whose: &str, lines: &[String]) {
    let ran = paste(lines);
    assert_eq!(ran.calls.len(), lines.len(), "{whose}: {lines:#?} became {:#?}", ran.calls);
    assert!(ran.files.is_empty(), "{whose}: a redirection makes {:?}", ran.files);
    for (line, call) in lines.iter().zip(&ran.calls) {
        let is_placeholder = |word: &String| word.contains(['<', '>', '…']);
        assert!(!call.iter().any(is_placeholder), "{whose}: {line} has a placeholder");
        assert!(line.starts_with(&call[0]), "{whose}: {line} calls {}", call[0]);
    }
}

#[test]
fn the_commands_of_the_documents_can_be_pasted() {
    const OTHERS: &[&str] = &["promql", "text", "yaml"];
    let mut commands = 0;
    for (name, text) in documents() {
        let mut lines: Vec<String> = Vec::new();
        for (language, block) in blocks(&text) {
            match language {
                "sh" => lines.extend(block.iter().map(|line| (*line).to_owned())),
                // The commands in the output of a denial are commands as well.
                "console" => lines.extend(block.iter().filter_map(|line| {
                    line.strip_prefix("$ ").or(line.starts_with("kubectl ").then_some(line)).map(str::to_owned)
                })),
                other => assert!(OTHERS.contains(&other), "{name}: a block is marked {other:?}"),
            }
        }
        if !lines.is_empty() {
            paste_lines(&name, &lines);
        }
        commands += lines.len();
    }
    assert!(commands >= 20, "{commands} commands: does this test still recognise them?");
}

#[test]
fn a_command_within_a_sentence_has_no_placeholder() {
    for (name, text) in documents() {
        let sentences: String = text.split("```").step_by(2).collect();
        for code in sentences.split('`').skip(1).step_by(2) {
            let is_command = shells::PROGRAMS.iter().any(|program| code.starts_with(&format!("{program} ")));
            let is_placeholder = |word: &str| {
                word.contains(['<', '…', '{'])
                    || (word.len() > 1 && word.chars().all(|character| character.is_ascii_uppercase()))
            };
            assert!(!is_command || !code.split_whitespace().any(is_placeholder), "{name}: `{code}`");
        }
    }
}

#[test]
fn the_commands_of_the_charts_notes_can_be_pasted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fencegate/templates/NOTES.txt");
    let notes = fs::read_to_string(path).unwrap();
    let notes =
        notes.replace("{{ .Release.Namespace }}", "fencegate-system").replace("{{ .Release.Name }}", "fencegate");
    let lines: Vec<String> = notes.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    paste_lines("NOTES.txt", &lines);
}

/// What a term of an expression is for alice and worker-2.
fn value_of(term: &str, variables: &[Value]) -> String {
    match term {
        "variables.name" | "variables.nodes[0]" => "worker-2".to_owned(),
        "variables.fencedBy" => "'fencegate.dev/fenced-by=alice'".to_owned(),
        "request.?userInfo.?username.orValue('')" => "alice".to_owned(),
        "variables.malformed.join(', ')" => "fencegate.dev/method".to_owned(),
        _ => {
            let name = term.strip_prefix("variables.").unwrap_or_else(|| panic!("what is {term}?"));
            let variable = variables.iter().find(|variable| variable["name"] == name).unwrap();
            joined(variable["expression"].as_str().unwrap(), variables)
        }
    }
}

/// The text that an expression joins from literals in single quotes and from other terms.
fn joined(expression: &str, variables: &[Value]) -> String {
    let mut text = String::new();
    let mut rest = expression.trim();
    while !rest.is_empty() {
        if let Some(literal) = rest.strip_prefix('\'') {
            let (literal, after) = literal.split_once('\'').unwrap();
            text.push_str(literal);
            rest = after;
        } else {
            let (term, after) = rest.split_once(" +").unwrap_or((rest, ""));
            text.push_str(&value_of(term.trim(), variables));
            rest = after;
        }
        rest = rest.trim_start().trim_start_matches('+').trim_start();
    }
    text
}

#[test]
fn the_commands_of_the_policies_can_be_pasted() {
    let mut commands = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fencegate/files");
    for path in files(&folder) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("messageExpression") {
            continue;
        }
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for policy in objects.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicy") {
            let variables = policy["spec"]["variables"].as_array().cloned().unwrap_or_default();
            for validation in policy["spec"]["validations"].as_array().unwrap() {
                let Some(expression) = validation["messageExpression"].as_str() else { continue };
                let message = joined(expression, &variables);
                // A command is the end of the message, after a colon.
                if let Some((_, command)) = message.split_once(": kubectl ") {
                    commands.push(format!("kubectl {command}"));
                }
                assert!(message.matches("kubectl ").count() <= 1, "{message}");
            }
        }
    }
    assert!(commands.len() >= 5, "{commands:?}");
    // The time is the only substitution.
    let meant = "$(date -u +%Y-%m-%dT%H:%M:%SZ)";
    assert!(commands.iter().all(|command| !command.replace(meant, "").contains(['$', '`', '<', '>'])), "{commands:?}");
    let commands: Vec<String> = commands.iter().map(|command| command.replace(meant, "now")).collect();
    paste_lines("the policies", &commands);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
