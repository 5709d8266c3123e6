//! `NotAuthorized`: with `authorization.attest: rbac`, a requester needs the RBAC verb `attest` to
//! write evidence and to place the taint. To write a break-glass, everyone needs `break-glass`.

use super::{Outcome, Rule};
use crate::policy::{
    annotation::{BREAK_GLASS as REASON, HOLD},
    assessment::Assessment,
    facts::{Fact, Verb},
    proposal::Proposal,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::NotAuthorized,
    applies: |proposal| {
        proposal.settings.attest_needs_rbac && (proposal.does(Transition::Place) || attests_more_than_a_hold(proposal))
    },
    needs: |_| vec![Fact::Access(Verb::Attest)],
    check: |assessment| authorized(assessment, Verb::Attest),
};

/// Otherwise anyone could leave a break-glass for somebody with the right, who does not know of it.
pub(super) const BREAK_GLASS: Rule = Rule {
    code: Code::NotAuthorized,
    applies: |proposal| proposal.writes(REASON),
    needs: |_| vec![Fact::Access(Verb::BreakGlass)],
    check: |assessment| authorized(assessment, Verb::BreakGlass),
};

/// Everyone but a node may set and remove a hold at any time.
fn attests_more_than_a_hold(proposal: &Proposal<'_>) -> bool {
    proposal.attested_keys().any(|key| key != HOLD)
}

/// Checks that RBAC grants the requester `verb` for the node. A break-glass needs this check, too.
pub(in crate::policy) fn authorized(Assessment { proposal, facts, .. }: &Assessment<'_>, verb: Verb) -> Outcome {
    let user = &proposal.request.user.name;
    let node = &proposal.request.node;
    match facts.access(verb) {
        Ok(access) => {
            Outcome::fail_if(!access.allowed, || Reason::NotAuthorized { user: user.clone(), verb, node: node.clone() })
        }
        Err(why) => Outcome::unknown(format!("SubjectAccessReview {} nodes.fencegate.dev/{node}", verb.name()), why),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, placing, run, run_with},
        *,
    };
    use crate::policy::{
        facts::{Access, Observed},
        settings::Settings,
    };

    #[test]
    fn the_verb_attest_is_needed_only_with_attest_rbac() {
        assert_eq!(run(&RULE, &placing(&evidence()), &facts()), None);
        let settings = Settings { attest_needs_rbac: true, ..Settings::default() };
        for allowed in [true, false] {
            let mut facts = facts();
            facts.access.insert(Verb::Attest, Observed::Known { at: facts.now, value: Access { allowed } });
            let outcome = run_with(&RULE, &placing(&evidence()), &facts, &settings).unwrap();
            assert_eq!(outcome.failed.is_none(), allowed);
        }
        let unread = run_with(&RULE, &placing(&evidence()), &facts(), &settings).unwrap().unread;
        assert_eq!(unread[0].what, "SubjectAccessReview attest nodes.fencegate.dev/n1");
    }
}
