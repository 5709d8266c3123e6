//! Parses the configuration, one YAML file (contract section 8), into [`Settings`].
//!
//! Every mistake is an error that names the field. A typing error must not turn off a check that an
//! operator relies on.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;
use thiserror::Error;

use crate::policy::{
    json::null_is_default,
    reason::{Code, Mode},
    settings::{AutoReleaseWhen, Doors, NodeLimit, OwnerKind, Settings, Watch},
    source::Source,
};

const API_VERSION: &str = "fencegate.dev/v1";
const KIND: &str = "GateConfig";

/// Why a configuration is invalid.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("is empty; {{}} keeps all defaults")]
    Empty,
    #[error("not UTF-8: {0}")]
    Encoding(#[from] std::str::Utf8Error),
    #[error("{0}")]
    Parse(#[from] serde_saphyr::Error),
    #[error("{field}: {why}")]
    Field { field: String, why: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: Option<String>,
    kind: Option<String>,
    mode: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    evidence: EvidenceSection,
    #[serde(deserialize_with = "null_is_default")]
    checks: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    release: ReleaseSection,
    #[serde(deserialize_with = "null_is_default")]
    place: PlaceSection,
    #[serde(deserialize_with = "null_is_default")]
    authorization: AuthorizationSection,
    #[serde(deserialize_with = "null_is_default")]
    watch: WatchSection,
    #[serde(deserialize_with = "null_is_default")]
    doors: DoorsSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct EvidenceSection {
    max_age: Option<String>,
    clock_skew: Option<String>,
    sources: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ReleaseSection {
    guarded_owners: Option<Vec<Owner>>,
    guard_claims: Option<bool>,
    count_tolerating: Option<bool>,
    auto: Option<String>,
    auto_after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    #[serde(default, deserialize_with = "null_is_default")]
    group: String,
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PlaceSection {
    max_nodes: Option<Limit>,
    max_not_ready: Option<Limit>,
}

/// A count, or a percentage such as `30%`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Limit {
    Count(usize),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct AuthorizationSection {
    attest: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct WatchSection {
    enabled: Option<bool>,
    forgotten_after: Option<String>,
    stuck_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct DoorsSection {
    nodes: Option<String>,
    pods: Option<String>,
    attachments: Option<String>,
}

/// Parses a configuration. `{}` keeps all defaults. An empty file is an error, because a file that
/// another program is just writing is empty, too.
///
/// # Errors
/// If the bytes are not YAML, or if a field is unknown or has an invalid value.
pub fn parse(bytes: &[u8]) -> Result<Settings, ConfigError> {
    let text = std::str::from_utf8(bytes)?;
    if text.trim().is_empty() {
        return Err(ConfigError::Empty);
    }
    let file: Option<File> = serde_saphyr::from_str(text)?;
    file.unwrap_or_default().settings()
}

/// What the command line adds to the configuration, whatever the file says: kustomize components
/// can add arguments, and cannot change a part of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Additions {
    /// Accepted after those of the file.
    pub sources: Vec<Source>,
    /// As `watch.enabled: true`.
    pub watch: bool,
    /// As `release.auto`.
    pub auto_release: Option<AutoReleaseWhen>,
    /// The mode of each door that the file leaves out.
    pub doors: Option<Mode>,
}

impl Additions {
    /// The settings with these.
    #[must_use]
    pub fn to(&self, settings: Settings) -> Settings {
        let mut settings = settings.with_sources(&self.sources);
        settings.watch.enabled |= self.watch;
        settings.doors = settings.doors.or(self.doors);
        settings.auto_release.when = self.auto_release.unwrap_or(settings.auto_release.when);
        settings
    }
}

impl File {
    fn settings(self) -> Result<Settings, ConfigError> {
        expect("apiVersion", self.api_version, API_VERSION)?;
        expect("kind", self.kind, KIND)?;
        let mut settings = Settings { mode: mode_of_all(self.mode.as_deref())?, ..Settings::default() };
        if let Some(text) = self.evidence.max_age {
            settings.max_age = duration("evidence.maxAge", &text)?;
        }
        if let Some(text) = self.evidence.clock_skew {
            settings.clock_skew = duration("evidence.clockSkew", &text)?;
        }
        if let Some(names) = self.evidence.sources {
            settings.sources = sources(&names)?;
        }
        settings.modes = self.checks.into_iter().map(|(name, mode)| check(&name, &mode)).collect::<Result<_, _>>()?;
        if let Some(owners) = self.release.guarded_owners {
            settings.guarded_owners =
                owners.into_iter().map(|Owner { group, kind }| OwnerKind { group, kind }).collect();
        }
        settings.guard_claims = self.release.guard_claims.unwrap_or(settings.guard_claims);
        settings.count_tolerating = self.release.count_tolerating.unwrap_or(settings.count_tolerating);
        settings.max_nodes = self.place.max_nodes.map(|limit| node_limit("place.maxNodes", limit)).transpose()?;
        settings.max_not_ready =
            self.place.max_not_ready.map(|limit| node_limit("place.maxNotReady", limit)).transpose()?;
        settings.attest_needs_rbac = match self.authorization.attest.as_deref() {
            None | Some("anyone") => false,
            Some("rbac") => true,
            Some(other) => return Err(field("authorization.attest", format!("{other:?} is not one of anyone, rbac"))),
        };
        settings.watch = self.watch.settings()?;
        settings.doors = self.doors.doors()?;
        if let Some(name) = self.release.auto {
            settings.auto_release.when = auto_release("release.auto", &name)?;
        }
        if let Some(text) = self.release.auto_after {
            settings.auto_release.after = duration("release.autoAfter", &text)?;
        }
        Ok(settings)
    }
}

impl WatchSection {
    fn settings(self) -> Result<Watch, ConfigError> {
        let mut watch = Watch::default();
        watch.enabled = self.enabled.unwrap_or(watch.enabled);
        if let Some(text) = self.forgotten_after {
            watch.forgotten_after = duration("watch.forgottenAfter", &text)?;
        }
        if let Some(text) = self.stuck_after {
            watch.stuck_after = duration("watch.stuckAfter", &text)?;
        }
        Ok(watch)
    }
}

impl DoorsSection {
    fn doors(self) -> Result<Doors, ConfigError> {
        let door = |name: &str, text: Option<String>| {
            text.map(|text| mode(&text).map_err(|why| field(format!("doors.{name}"), why))).transpose()
        };
        Ok(Doors {
            nodes: door("nodes", self.nodes)?,
            pods: door("pods", self.pods)?,
            attachments: door("attachments", self.attachments)?,
        })
    }
}

fn auto_release(name: &str, text: &str) -> Result<AutoReleaseWhen, ConfigError> {
    let known = AutoReleaseWhen::ALL.into_iter().find(|when| when.name() == text);
    known.ok_or_else(|| field(name, format!("{text:?} is not one of off, recovered, rebooted")))
}

fn field(field: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: field.into(), why: why.into() }
}

fn expect(name: &str, given: Option<String>, expected: &str) -> Result<(), ConfigError> {
    match given {
        Some(given) if given != expected => Err(field(name, format!("{given:?} is not {expected:?}"))),
        _ => Ok(()),
    }
}

fn mode_of_all(mode: Option<&str>) -> Result<Mode, ConfigError> {
    match mode {
        None | Some("enforce") => Ok(Mode::Enforce),
        Some("warn") => Ok(Mode::Warn),
        Some(other) => Err(field("mode", format!("{other:?} is not one of enforce, warn"))),
    }
}

/// Parses a length of time in Kubernetes' notation: `24h`, `10s`, `1h30m`.
fn duration(name: &str, text: &str) -> Result<SignedDuration, ConfigError> {
    let duration: SignedDuration = text.parse().map_err(|error| field(name, format!("{text:?}: {error}")))?;
    if duration.is_negative() { Err(field(name, format!("{text:?} is negative"))) } else { Ok(duration) }
}

/// Parses the name of a source.
///
/// # Errors
/// If there is no such source. The error names those that there are.
pub fn source(text: &str) -> Result<Source, String> {
    let known = || Source::ALL.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ");
    Source::parse(text).ok_or_else(|| format!("{text:?} is not one of {}", known()))
}

fn sources(names: &[String]) -> Result<Vec<Source>, ConfigError> {
    let name = "evidence.sources";
    if names.is_empty() {
        return Err(field(name, "is empty: without a source no node could ever be put out of service"));
    }
    let mut sources = Vec::new();
    for text in names {
        let source = source(text).map_err(|why| field(name, why))?;
        if sources.contains(&source) {
            return Err(field(name, format!("{text:?} is there twice")));
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Parses the mode of a check.
///
/// # Errors
/// If there is no such mode. The error names those that there are.
pub fn mode(text: &str) -> Result<Mode, String> {
    let known = [Mode::Enforce, Mode::Warn, Mode::Off].into_iter().find(|known| known.name() == text);
    known.ok_or_else(|| format!("{text:?} is not one of enforce, warn, off"))
}

fn check(name: &str, given: &str) -> Result<(Code, Mode), ConfigError> {
    let at = format!("checks.{name}");
    let code = Code::ALL.iter().find(|code| code.name() == name).ok_or_else(|| field(&at, "there is no such check"))?;
    let mode = mode(given).map_err(|why| field(&at, why))?;
    if mode != Mode::Enforce && !code.can_be_turned_off() {
        return Err(field(&at, "the mode of this check cannot be changed"));
    }
    Ok((*code, mode))
}

fn node_limit(name: &str, limit: Limit) -> Result<NodeLimit, ConfigError> {
    let text = match limit {
        Limit::Count(count) => return Ok(NodeLimit::Count(count)),
        Limit::Text(text) => text,
    };
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(NodeLimit::Percent),
        None => text.parse().ok().map(NodeLimit::Count),
    };
    parsed.ok_or_else(|| field(name, format!("{text:?} is neither a count nor a percentage")))
}

#[cfg(test)]
mod tests;
