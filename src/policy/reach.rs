//! Which checks can fail for which transition. It judges nothing: metrics exist by it before the
//! first event, so that the first event is an increase.

use super::{
    reason::{Code, Mode},
    settings::Settings,
    transition::Transition::{self, Amend, Attest, Delete, DeleteUntainted, Detach, ForceDelete, Place, Release},
};

/// The checks that can fail for a write whose most consequential transition is this one, in the
/// order of the contract. `None`: a review that could not be understood.
pub fn codes_of(leading: Option<Transition>) -> impl Iterator<Item = Code> {
    Code::ALL.iter().copied().filter(move |code| match leading {
        Some(transition) => can_fail(*code, transition),
        None => matches!(code, Code::ReviewMalformed | Code::RecordUnavailable),
    })
}

/// The modes that a check can have under these settings: usually one.
pub fn modes_of(code: Code, settings: &Settings) -> Vec<Mode> {
    let mode = settings.mode(code);
    match code {
        // The right to a break-glass is checked under all settings.
        Code::NotAuthorized => vec![settings.strictest(code)],
        // Without a `boot-id` in the record, the default is a warning.
        Code::NodeNotRebooted if mode == Mode::Enforce => vec![mode, Mode::Warn],
        _ => vec![mode],
    }
}

fn can_fail(code: Code, leading: Transition) -> bool {
    let is_of = |transitions: &[Transition]| transitions.contains(&leading);
    match code {
        Code::CreatedOutOfService | Code::EvidenceExpired | Code::TooManyOutOfService | Code::TooManyNotReady => {
            is_of(&[Place])
        }
        Code::NodeStillReady
        | Code::LeaseStillRenewed
        | Code::EvidenceMissing
        | Code::EvidenceForOtherBoot
        | Code::EffectUndocumented
        | Code::PlacedWithoutEviction => is_of(&[Place, Amend]),
        Code::PodsRemain | Code::VolumesAttached => is_of(&[Release, Delete, Amend]),
        Code::NodeNotRecovered | Code::NodeNotRebooted | Code::BootUnchanged => is_of(&[Release]),
        Code::EvidenceFrozen => is_of(&[Amend, Delete, Attest]),
        Code::UnfencedDeletion => is_of(&[DeleteUntainted]),
        Code::UnfencedForceDeletion => is_of(&[ForceDelete]),
        Code::UnfencedDetach => is_of(&[Detach]),
        // Every write to a Node may attest besides.
        Code::EvidenceMalformed | Code::EvidenceInFuture | Code::SelfAttested | Code::StampForged => {
            !is_of(&[ForceDelete, Detach])
        }
        // A break-glass on the Node may count for every write.
        Code::NotAuthorized | Code::FactsUnavailable | Code::RecordUnavailable => true,
        Code::ReviewMalformed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_can_fail_for_some_write_and_none_is_told_of_a_write_that_it_does_not_judge() {
        let all: Vec<Option<Transition>> = Transition::ALL.into_iter().map(Some).chain([None]).collect();
        for code in Code::ALL {
            assert!(all.iter().any(|leading| codes_of(*leading).any(|of| of == *code)), "{code}");
        }
        assert!(codes_of(Some(Transition::Release)).all(|code| code != Code::NodeStillReady));
        assert!(codes_of(Some(Transition::Place)).all(|code| code != Code::PodsRemain));
        assert_eq!(codes_of(None).count(), 2);
    }
}
