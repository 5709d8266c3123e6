//! `fencegate check-config`: find mistakes in a configuration before a replica reads it.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use serde_json::Value;

use super::print;
use crate::{
    config,
    policy::{
        reason::{Code, Mode},
        settings::{NodeLimit, Settings},
    },
};

/// Check a configuration as `serve` reads it, and show what differs from the defaults.
#[derive(Debug, ClapArgs)]
#[command(after_help = "The file is a configuration, or manifests with a ConfigMap that has the key config.yaml.

Exit codes: 0 valid, 1 the configuration has a mistake, 2 error.

Examples:
  fencegate check-config config.yaml
  kubectl kustomize manifests/overlays/default | fencegate check-config -
  kubectl -n fencegate-system get configmap fencegate -o yaml | fencegate check-config -")]
pub struct Args {
    /// The file, or - for standard input
    file: PathBuf,
}

/// The exit code for a configuration with a mistake.
const MISTAKE: u8 = 1;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = if args.file == Path::new("-") { "standard input".to_owned() } else { args.file.display().to_string() };
    let bytes = read(&args.file).with_context(|| format!("cannot read {file}"))?;
    let (name, configuration) = match in_config_map(&bytes).with_context(|| file.clone())? {
        Some((config_map, text)) => (format!("{file}: ConfigMap {config_map}: config.yaml"), text.into_bytes()),
        None => (file, bytes),
    };
    match config::parse(&configuration) {
        Ok(settings) => {
            print(&report(&name, &settings))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            print(&format!("{name}: {error}\n"))?;
            Ok(ExitCode::from(MISTAKE))
        }
    }
}

/// What is in force.
fn report(name: &str, settings: &Settings) -> String {
    let mut lines = vec![format!("{name}: OK")];
    lines.extend(differences(settings).into_iter().map(|line| format!("  {line}")));
    if lines.len() == 1 {
        lines.push("  all defaults".to_owned());
    }
    lines.extend(warnings(settings).into_iter().map(|line| format!("warning: {line}")));
    lines.join("\n") + "\n"
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return fs::read(file);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The name and the configuration of the ConfigMap in these manifests. `None` if they are no
/// manifests, but a configuration, or nothing that can be read.
fn in_config_map(bytes: &[u8]) -> anyhow::Result<Option<(String, String)>> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let Ok(mut documents) = serde_saphyr::from_multiple::<Value>(text) else { return Ok(None) };
    documents.retain(|document| !document.is_null());
    if let Some(items) = documents.iter().find_map(|list| list.get("items")?.as_array().cloned()) {
        documents.extend(items);
    }
    let texts = documents.iter().filter(|document| kind(document) == "ConfigMap").filter_map(|config_map| {
        let name = config_map.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        Some((name.to_owned(), config_map.pointer("/data/config.yaml")?.as_str()?.to_owned()))
    });
    let mut texts: Vec<(String, String)> = texts.collect();
    let is_configuration = |document: &Value| ["", "GateConfig"].contains(&kind(document));
    match (texts.pop(), texts.len()) {
        (Some(text), 0) => Ok(Some(text)),
        (Some(_), others) => bail!("{} ConfigMaps have the key config.yaml: give only one", others + 1),
        (None, _) if documents.len() <= 1 && documents.iter().all(is_configuration) => Ok(None),
        (None, _) => bail!("there is no ConfigMap with the key config.yaml"),
    }
}

fn kind(document: &Value) -> &str {
    document.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// Each field of the configuration, except `checks`, with its value.
fn fields(settings: &Settings) -> Vec<(&'static str, String)> {
    let owners = settings.guarded_owners.iter().map(|owner| format!("{}/{}", owner.group, owner.kind));
    let limit = |limit: Option<NodeLimit>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let door = |mode: Option<Mode>| mode.unwrap_or(Mode::Off).name().to_owned();
    let attest = if settings.attest_needs_rbac { "rbac" } else { "anyone" };
    vec![
        ("mode", settings.mode.name().to_owned()),
        ("evidence.maxAge", format!("{:#}", settings.max_age)),
        ("evidence.clockSkew", format!("{:#}", settings.clock_skew)),
        ("evidence.sources", list(settings.sources.iter().map(|source| source.name().to_owned()))),
        ("release.guardedOwners", list(owners)),
        ("release.guardClaims", settings.guard_claims.to_string()),
        ("release.countTolerating", settings.count_tolerating.to_string()),
        ("release.auto", settings.auto_release.when.name().to_owned()),
        ("release.autoAfter", format!("{:#}", settings.auto_release.after)),
        ("place.maxNodes", limit(settings.max_nodes)),
        ("place.maxNotReady", limit(settings.max_not_ready)),
        ("authorization.attest", attest.to_owned()),
        ("doors.nodes", door(settings.doors.nodes)),
        ("doors.pods", door(settings.doors.pods)),
        ("doors.attachments", door(settings.doors.attachments)),
        ("watch.enabled", settings.watch.enabled.to_string()),
        ("watch.forgottenAfter", format!("{:#}", settings.watch.forgotten_after)),
        ("watch.stuckAfter", format!("{:#}", settings.watch.stuck_after)),
    ]
}

fn list(names: impl Iterator<Item = String>) -> String {
    format!("[{}]", names.collect::<Vec<_>>().join(", "))
}

fn differences(settings: &Settings) -> Vec<String> {
    let defaults = Settings::default();
    let fields = fields(settings).into_iter().zip(fields(&defaults));
    let fields = fields.filter(|((_, value), (_, default))| value != default);
    let fields = fields.map(|((field, value), (_, default))| format!("{field}: {value} (default: {default})"));
    let checks = settings.modes.iter().filter(|(code, mode)| **mode != code.default_mode());
    let checks =
        checks.map(|(code, mode)| format!("checks.{code}: {} (default: {})", mode.name(), code.default_mode().name()));
    fields.chain(checks).collect()
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.mode == Mode::Warn {
        warnings.push(format!("mode: warn denies nothing but {}", Code::StampForged));
    }
    let turned_down = settings.modes.iter().filter(|(code, mode)| **mode < code.default_mode());
    warnings.extend(
        turned_down
            .map(|(code, mode)| format!("checks.{code}: {}: a write that fails this check is allowed", mode.name())),
    );
    if settings.guarded_owners.is_empty() && !settings.guard_claims {
        warnings.push("release: no pod holds the taint".to_owned());
    }
    warnings
}
