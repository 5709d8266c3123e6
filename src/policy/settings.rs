//! The settings of the checks (contract section 8). `config` reads them from YAML.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::SignedDuration;

use super::{
    reason::{Code, Mode},
    source::Source,
    transition::Transition,
};

/// The settings that an operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The strictest mode that a check may have, except `StampForged`: `Warn` if the whole gate
    /// only warns.
    pub mode: Mode,
    /// The maximum age of evidence, from `fenced-at` to now.
    pub max_age: SignedDuration,
    /// The maximum difference between the clocks of the gate, of the system that fences, and of the
    /// kubelets.
    pub clock_skew: SignedDuration,
    /// The accepted evidence sources, in the order in which they are consulted.
    pub sources: Vec<Source>,
    /// The modes that the configuration sets. Other checks have their default mode.
    pub modes: BTreeMap<Code, Mode>,
    /// Before a release, pods with a controller of one of these kinds must be gone from the node.
    pub guarded_owners: Vec<OwnerKind>,
    /// Whether pods that mount a PersistentVolumeClaim must be gone, too, whoever owns them.
    pub guard_claims: bool,
    /// Whether pods that could stay must be gone, too: those that tolerate the taint, and those
    /// that `NoSchedule` did not evict.
    pub count_tolerating: bool,
    /// How many nodes may be out of service at once. `None`: no limit.
    pub max_nodes: Option<NodeLimit>,
    /// How many nodes may be not Ready when another one is put out of service, that one included.
    /// `None`: no limit.
    pub max_not_ready: Option<NodeLimit>,
    /// Whether writing evidence and placing the taint need the RBAC verb `attest` on
    /// `nodes.fencegate.dev`.
    pub attest_needs_rbac: bool,
    pub doors: Doors,
    pub watch: Watch,
    pub auto_release: AutoRelease,
}

/// Which of the other doors to the same harm are guarded (contract section 13). `None`: the
/// configuration does not say, and the door is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// `UnfencedDeletion`.
    pub nodes: Option<Mode>,
    /// `UnfencedForceDeletion`.
    pub pods: Option<Mode>,
    /// `UnfencedDetach`.
    pub attachments: Option<Mode>,
}

impl Doors {
    /// These, and `mode` where they do not say.
    #[must_use]
    pub fn or(self, mode: Option<Mode>) -> Self {
        Self { nodes: self.nodes.or(mode), pods: self.pods.or(mode), attachments: self.attachments.or(mode) }
    }
}

/// How nodes that are out of service are watched. No decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub enabled: bool,
    /// How long a node may be `Recovered` before its taint counts as forgotten.
    pub forgotten_after: SignedDuration,
    /// How long nothing may have left a node before it counts as stuck.
    pub stuck_after: SignedDuration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            enabled: false,
            forgotten_after: SignedDuration::from_mins(15),
            stuck_after: SignedDuration::from_mins(5),
        }
    }
}

/// Whether nodes are returned to service without a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoRelease {
    pub when: AutoReleaseWhen,
    /// How long it must have been so, without a break.
    pub after: SignedDuration,
}

impl Default for AutoRelease {
    fn default() -> Self {
        Self { when: AutoReleaseWhen::Never, after: SignedDuration::from_mins(2) }
    }
}

/// When a node is returned to service without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoReleaseWhen {
    Never,
    /// Nothing holds the taint, and the node is Ready and, as far as that is known, in another boot
    /// than the one that was fenced.
    Recovered,
    /// The same, and it is known to be another boot.
    Rebooted,
}

impl AutoReleaseWhen {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Never, Self::Recovered, Self::Rebooted];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "off",
            Self::Recovered => "recovered",
            Self::Rebooted => "rebooted",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            max_age: SignedDuration::from_hours(24),
            clock_skew: SignedDuration::from_secs(10),
            sources: vec![Source::Annotations, Source::CloudShutdown],
            modes: BTreeMap::new(),
            guarded_owners: vec![OwnerKind { group: "apps".to_owned(), kind: "StatefulSet".to_owned() }],
            guard_claims: true,
            count_tolerating: false,
            max_nodes: None,
            max_not_ready: None,
            attest_needs_rbac: false,
            doors: Doors::default(),
            watch: Watch::default(),
            auto_release: AutoRelease::default(),
        }
    }
}

impl Settings {
    /// The same settings, with these sources after their own. A source that is there already stays
    /// where it is.
    #[must_use]
    pub fn with_sources(mut self, more: &[Source]) -> Self {
        for source in more {
            if !self.sources.contains(source) {
                self.sources.push(*source);
            }
        }
        self
    }

    /// The same settings, with no check turned down: what is true of a node does not depend on
    /// what the gate denies.
    #[must_use]
    pub fn strict(&self) -> Self {
        let modes = self.modes.iter().filter(|(_, mode)| **mode == Mode::Enforce);
        Self { mode: Mode::Enforce, modes: modes.map(|(code, mode)| (*code, *mode)).collect(), ..self.clone() }
    }

    /// The mode of a check. A mode in the configuration takes precedence. Otherwise, the setting
    /// that `NotAuthorized`, `TooManyOutOfService` or `TooManyNotReady` needs also turns the check
    /// on, and a door has a mode of its own.
    pub fn mode(&self, code: Code) -> Mode {
        let turned_on = |is_on: bool| is_on.then_some(Mode::Enforce);
        let set = match code {
            Code::NotAuthorized => turned_on(self.attest_needs_rbac),
            Code::TooManyOutOfService => turned_on(self.max_nodes.is_some()),
            Code::TooManyNotReady => turned_on(self.max_not_ready.is_some()),
            Code::UnfencedDeletion => self.doors.nodes,
            Code::UnfencedForceDeletion => self.doors.pods,
            Code::UnfencedDetach => self.doors.attachments,
            _ => None,
        };
        let mode = self.modes.get(&code).copied().or(set).unwrap_or(code.default_mode());
        mode.min(self.strictest(code))
    }

    /// The strictest mode in which a write with this transition is judged: a door may be off.
    pub fn mode_of(&self, transition: Transition) -> Mode {
        Code::of_door(transition).map_or(Mode::Enforce, |code| self.mode(code))
    }

    /// The same settings, with every door off.
    #[must_use]
    pub fn without_doors(&self) -> Cow<'_, Self> {
        let doors = || Transition::ALL.into_iter().filter_map(Code::of_door);
        if doors().all(|code| self.mode(code) == Mode::Off) {
            return Cow::Borrowed(self);
        }
        let mut settings = self.clone();
        settings.modes.extend(doors().map(|code| (code, Mode::Off)));
        Cow::Owned(settings)
    }

    /// The mode of a check that the configuration cannot turn off one by one.
    pub fn strictest(&self, code: Code) -> Mode {
        // Whoever forges a stamp speaks in another's name: that is no part of any rollout.
        if code == Code::StampForged { Mode::Enforce } else { self.mode }
    }
}

/// A kind of object that owns pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerKind {
    /// API group, empty for the core group.
    pub group: String,
    pub kind: String,
}

/// How many nodes may be in a state at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLimit {
    Count(usize),
    /// A percentage of all nodes, 0 to 100. It is never rounded up: 1 of 3 nodes is more than 33%.
    Percent(u8),
}

impl NodeLimit {
    /// Whether `nodes` of `total` nodes are within the limit.
    pub fn allows(self, nodes: usize, total: usize) -> bool {
        match self {
            Self::Count(count) => nodes <= count,
            Self::Percent(percent) => nodes.saturating_mul(100) <= total.saturating_mul(usize::from(percent)),
        }
    }
}

impl fmt::Display for NodeLimit {
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
        assert!(NodeLimit::Percent(34).allows(1, 3));
        assert!(!NodeLimit::Percent(33).allows(1, 3));
        assert!(NodeLimit::Percent(50).allows(2, 4));
        assert!(!NodeLimit::Percent(50).allows(3, 5), "50% of 5 nodes are 2");
        assert!(!NodeLimit::Percent(0).allows(1, 100));
        assert!(!NodeLimit::Count(1).allows(2, 100));
    }

    #[test]
    fn a_setting_turns_on_the_check_that_needs_it_and_a_mode_takes_precedence() {
        let mut settings = Settings::default();
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Off);
        settings.max_nodes = Some(NodeLimit::Count(1));
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Enforce);
        settings.modes.insert(Code::TooManyOutOfService, Mode::Warn);
        assert_eq!(settings.mode(Code::TooManyOutOfService), Mode::Warn);
        assert_eq!(settings.mode(Code::TooManyNotReady), Mode::Off);
        settings.max_not_ready = Some(NodeLimit::Count(1));
        assert_eq!(settings.mode(Code::TooManyNotReady), Mode::Enforce);
    }

    #[test]
    fn a_gate_that_only_warns_denies_forged_stamps_alone() {
        let modes = BTreeMap::from([(Code::PodsRemain, Mode::Enforce), (Code::NodeStillReady, Mode::Off)]);
        let settings =
            Settings { mode: Mode::Warn, max_nodes: Some(NodeLimit::Count(1)), modes, ..Settings::default() };
        let denying: Vec<_> = Code::ALL.iter().filter(|code| settings.mode(**code) == Mode::Enforce).collect();
        assert_eq!(denying, [&Code::StampForged]);
        assert_eq!(settings.mode(Code::PodsRemain), Mode::Warn);
        assert_eq!(settings.mode(Code::NodeStillReady), Mode::Off);
    }
}
