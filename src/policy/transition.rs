//! What a write does to the taint and to the gate's annotations, or which other door to the same
//! harm it takes. It is derived from the write and from nothing else.

use std::{collections::BTreeSet, fmt};

use super::{
    object::node::{Node, Taint},
    request::Write,
};

/// One change that a write makes (contract sections 3 and 13). The order is from the most to the
/// least consequential: the first line of a denial names the first transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// The taint is absent before the write and present after it.
    Place,
    /// A Node with the taint is deleted, or its last finalizer is removed while it is being
    /// deleted.
    Delete,
    /// The taint is present before the write and absent after it.
    Release,
    /// The taint stays, with another value or effect.
    Amend,
    /// A Node without the taint is deleted, or its last finalizer is removed while it is being
    /// deleted.
    DeleteUntainted,
    /// A pod is deleted without waiting until its containers have ended.
    ForceDelete,
    /// A VolumeAttachment is deleted, or its last finalizer is removed.
    Detach,
    /// An annotation under the gate's prefix is added, changed or removed.
    Attest,
}

impl Transition {
    /// All transitions, the most consequential first.
    pub const ALL: [Self; 8] = [
        Self::Place,
        Self::Delete,
        Self::Release,
        Self::Amend,
        Self::DeleteUntainted,
        Self::ForceDelete,
        Self::Detach,
        Self::Attest,
    ];

    /// The name in the contract, in metrics and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Place => "Place",
            Self::Delete => "Delete",
            Self::Release => "Release",
            Self::Amend => "Amend",
            Self::Attest => "Attest",
            Self::DeleteUntainted => "DeleteUntainted",
            Self::ForceDelete => "ForceDelete",
            Self::Detach => "Detach",
        }
    }

    fn happens(self, write: &Write) -> bool {
        let (before, after) = (write.before(), write.after());
        let was = before.is_some_and(Node::is_out_of_service);
        let stays = after.is_some_and(Node::is_out_of_service);
        match (self, write) {
            (Self::Place, _) => !was && stays,
            (Self::Release, Write::Update { .. }) => was && !stays,
            (Self::Amend, Write::Update { old, new }) => was && stays && entries(old) != entries(new),
            (Self::Delete, Write::Delete { .. }) => was,
            (Self::Delete, Write::Update { old, new }) => was && removes_last_finalizer(old, new),
            (Self::Attest, Write::Create { new }) => new.gate_annotations().next().is_some(),
            (Self::Attest, Write::Update { old, new }) => !old.gate_annotations().eq(new.gate_annotations()),
            (Self::DeleteUntainted, Write::Delete { old }) => !was && old.metadata.finalizers.is_empty(),
            (Self::DeleteUntainted, Write::Update { old, new }) => !was && removes_last_finalizer(old, new),
            (Self::ForceDelete, Write::ForceDelete { .. }) | (Self::Detach, Write::Detach { .. }) => true,
            (Self::Release | Self::Amend | Self::Delete | Self::DeleteUntainted, Write::Create { .. })
            | (Self::Release | Self::Amend | Self::Attest, Write::Delete { .. })
            | (Self::ForceDelete | Self::Detach, _)
            | (_, Write::ForceDelete { .. } | Write::Detach { .. }) => false,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// All transitions of one write. Empty if the write touches nothing that the gate guards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transitions(Vec<Transition>);

impl Transitions {
    /// Derives the transitions of a write.
    pub fn of(write: &Write) -> Self {
        Self(Transition::ALL.into_iter().filter(|transition| transition.happens(write)).collect())
    }

    /// Only those that this accepts.
    #[must_use]
    pub fn only(self, keep: impl Fn(Transition) -> bool) -> Self {
        Self(self.0.into_iter().filter(|one| keep(*one)).collect())
    }

    /// Whether the write touches nothing that the gate guards.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the write makes this transition.
    pub fn contains(&self, transition: Transition) -> bool {
        self.0.contains(&transition)
    }

    /// All but this transition.
    #[must_use]
    pub fn without(&self, transition: Transition) -> Self {
        self.clone().only(|one| one != transition)
    }

    /// The most consequential first.
    pub fn iter(&self) -> impl Iterator<Item = Transition> + '_ {
        self.0.iter().copied()
    }

    /// The most consequential transition.
    pub fn first(&self) -> Option<Transition> {
        self.0.first().copied()
    }
}

impl From<Transition> for Transitions {
    fn from(transition: Transition) -> Self {
        Self(vec![transition])
    }
}

impl fmt::Display for Transitions {
    /// For example `Place,Attest`; `None` if there is no transition.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return formatter.write_str("None");
        }
        formatter.write_str(&self.0.iter().map(|transition| transition.name()).collect::<Vec<_>>().join(","))
    }
}

/// An entry of the guarded taint: its effect and value. A change of `timeAdded` alone changes no
/// entry.
fn entry(taint: &Taint) -> (&str, &str) {
    (&taint.effect, &taint.value)
}

fn entries(node: &Node) -> BTreeSet<(&str, &str)> {
    node.out_of_service().map(entry).collect()
}

/// The entries of the taint on `node` that `other` does not have.
pub(super) fn entries_beyond<'a>(node: &'a Node, other: Option<&'a Node>) -> impl Iterator<Item = &'a Taint> {
    let known = other.map(entries).unwrap_or_default();
    node.out_of_service().filter(move |taint| !known.contains(&entry(taint)))
}

/// Whether this update removes the last finalizer of a Node that is being deleted: the API server
/// then deletes the Node.
fn removes_last_finalizer(old: &Node, new: &Node) -> bool {
    old.metadata.deletion_timestamp.is_some()
        && !old.metadata.finalizers.is_empty()
        && new.metadata.finalizers.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_shown_by_its_name() {
        for transition in Transition::ALL {
            assert_eq!(transition.to_string(), transition.name());
        }
    }
}
