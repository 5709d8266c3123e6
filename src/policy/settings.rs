//! The rules' settings (contract section 8), as `config` reads them from YAML.

use std::{collections::BTreeMap, fmt};

use jiff::SignedDuration;

use super::{
    reason::{Code, Mode},
    source::Source,
};

/// What an operator can choose about the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Older evidence does not count.
    pub max_age: SignedDuration,
    /// How far the clocks of the gate, of whoever fences and of the kubelets may lie apart.
    pub clock_skew: SignedDuration,
    /// Accepted evidence sources, in the order they are tried.
    pub sources: Vec<Source>,
    /// Modes that differ from the default.
    pub modes: BTreeMap<Code, Mode>,
    /// Pods with a controller of one of these kinds must be gone before a release.
    pub guarded_owners: Vec<OwnerKind>,
    /// Whether pods that tolerate the taint must be gone as well.
    pub count_tolerating: bool,
    pub max_nodes: Option<MaxNodes>,
    /// Whether RBAC decides who may write evidence and place the taint.
    pub attest_needs_rbac: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_age: SignedDuration::from_hours(24),
            clock_skew: SignedDuration::from_secs(10),
            sources: vec![Source::Annotations, Source::CloudShutdown],
            modes: BTreeMap::new(),
            guarded_owners: vec![OwnerKind { group: "apps".to_owned(), kind: "StatefulSet".to_owned() }],
            count_tolerating: false,
            max_nodes: None,
            attest_needs_rbac: false,
        }
    }
}

impl Settings {
    /// The mode of a check. A mode that is given has the last word; otherwise the two checks that
    /// are off by default are enforced where the setting they need is given.
    pub fn mode(&self, code: Code) -> Mode {
        let asked_for = match code {
            Code::NotAuthorized => self.attest_needs_rbac,
            Code::TooManyOutOfService => self.max_nodes.is_some(),
            _ => false,
        };
        let default = if asked_for { Mode::Enforce } else { code.default_mode() };
        self.modes.get(&code).copied().unwrap_or(default)
    }
}

/// A kind of object that owns pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerKind {
    /// API group, empty for the core group.
    pub group: String,
    pub kind: String,
}

/// How many nodes may be out of service at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxNodes {
    Count(usize),
    /// Of all nodes, 0 to 100. Compared exactly: 1 of 3 nodes is more than 33%.
    Percent(u8),
}

impl MaxNodes {
    /// Whether `out` of `total` nodes are within the limit.
    pub fn allows(self, out: usize, total: usize) -> bool {
        match self {
            Self::Count(count) => out <= count,
            Self::Percent(percent) => out.saturating_mul(100) <= total.saturating_mul(usize::from(percent)),
        }
    }
}

impl fmt::Display for MaxNodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(formatter, "{count}"),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_compared_exactly() {
        assert!(MaxNodes::Percent(34).allows(1, 3));
        assert!(!MaxNodes::Percent(33).allows(1, 3));
        assert!(MaxNodes::Percent(50).allows(2, 4));
        assert!(!MaxNodes::Count(1).allows(2, 100));
    }

    #[test]
    fn a_check_that_needs_a_setting_is_on_once_the_setting_is_there() {
        let mut settings = Settings::default();
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Off);
        settings.max_nodes = Some(MaxNodes::Count(1));
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Enforce);
        settings.modes.insert(Code::TooManyOutOfService, Mode::Warn);
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Warn);
    }
}
