//! The words for where a node stands, and for what comes next.

use std::fmt;

/// The state of a node. One of them is true of each node at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It is out of service with pods or volumes on it, and its machine lives: every detach there
    /// is unsafe.
    Alive,
    /// It is out of service, and what is on it does not go.
    Stuck,
    /// Nothing contradicts that its machine is dead, and nobody has said so.
    Silent,
    /// Somebody recorded a fence, and something speaks against a placement.
    Contradicted,
    /// A fact that decides could not be read.
    Unknown,
    /// The fence is recorded, and the gate would let it be put out of service.
    Attested,
    /// It is out of service, and pods and volumes leave it.
    Emptying,
    /// It is out of service and empty, and Ready in another boot than the one that was fenced.
    Recovered,
    /// It is out of service and empty, and Ready in the boot that was fenced.
    SameBoot,
    /// It is out of service and empty, and not Ready.
    Empty,
    /// Its kubelet lives, and is not Ready.
    NotReady,
    /// It is Ready.
    InService,
}

impl State {
    /// All states, the most urgent first.
    pub const ALL: [Self; 12] = [
        Self::Alive,
        Self::Stuck,
        Self::Silent,
        Self::Contradicted,
        Self::Unknown,
        Self::Attested,
        Self::Emptying,
        Self::Recovered,
        Self::SameBoot,
        Self::Empty,
        Self::NotReady,
        Self::InService,
    ];

    /// The name in tables, JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "Alive",
            Self::Stuck => "Stuck",
            Self::Silent => "Silent",
            Self::Contradicted => "Contradicted",
            Self::Unknown => "Unknown",
            Self::Attested => "Attested",
            Self::Emptying => "Emptying",
            Self::Recovered => "Recovered",
            Self::SameBoot => "SameBoot",
            Self::Empty => "Empty",
            Self::NotReady => "NotReady",
            Self::InService => "InService",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What an operator does next about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Look,
    Wait,
    Reboot,
    Release,
    Repair,
    Fence,
    Place,
    Nothing,
}

impl Next {
    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Wait => "wait",
            Self::Reboot => "reboot",
            Self::Release => "release",
            Self::Repair => "repair",
            Self::Fence => "fence",
            Self::Place => "place",
            Self::Nothing => "-",
        }
    }

    /// Whether somebody has to do something now.
    pub fn is_due(self) -> bool {
        match self {
            Self::Look | Self::Reboot | Self::Release | Self::Fence | Self::Place => true,
            Self::Wait | Self::Repair | Self::Nothing => false,
        }
    }
}

/// Something worth knowing beside the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The taint has no record: it was placed before the gate was there, or past it.
    Unrecorded,
    /// A break-glass overruled the gate in this outage.
    Overridden,
    /// It has been `Recovered` for more than 15 minutes.
    Forgotten,
    /// The record of an earlier outage was left behind.
    StaleEvidence,
    /// The machine was heard after the recorded fence: perhaps another one was switched off.
    SameMachine,
}

impl Note {
    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unrecorded => "unrecorded",
            Self::Overridden => "overridden",
            Self::Forgotten => "forgotten",
            Self::StaleEvidence => "stale-evidence",
            Self::SameMachine => "same-machine?",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_in_tables_are_the_published_ones() {
        let states: Vec<String> = State::ALL.iter().map(ToString::to_string).collect();
        let published =
            "Alive Stuck Silent Contradicted Unknown Attested Emptying Recovered SameBoot Empty NotReady InService";
        assert_eq!(states.join(" "), published);
        assert_eq!(State::ALL.map(State::name).join(" "), published);
        let due = [Next::Look, Next::Reboot, Next::Release, Next::Fence, Next::Place];
        assert_eq!(due.map(Next::name), ["look", "reboot", "release", "fence", "place"]);
        let not_due = [Next::Wait, Next::Repair, Next::Nothing];
        assert_eq!(not_due.map(Next::name), ["wait", "repair", "-"]);
        assert!(due.iter().all(|next| next.is_due()) && !not_due.iter().any(|next| next.is_due()));
        let notes = [Note::Unrecorded, Note::Overridden, Note::Forgotten, Note::StaleEvidence, Note::SameMachine];
        assert_eq!(notes.map(Note::name), ["unrecorded", "overridden", "forgotten", "stale-evidence", "same-machine?"]);
    }
}
