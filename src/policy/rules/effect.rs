//! `EffectUndocumented`: pod GC and the attach/detach controller act on the key alone. With an
//! effect that the procedure does not know they do the harm, and nothing evicts the pods.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    object::node::Node,
    reason::{Code, Reason},
    text::quoted,
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EffectUndocumented,
    applies: |proposal| proposal.does(Transition::Place) || proposal.does(Transition::Amend),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let effects: Vec<String> = proposal
            .request
            .write
            .after()
            .into_iter()
            .flat_map(Node::out_of_service)
            .map(|taint| taint.effect.as_str())
            .filter(|effect| !matches!(*effect, "NoExecute" | "NoSchedule"))
            .map(|effect| if effect == "PreferNoSchedule" { effect.to_owned() } else { quoted(effect) })
            .collect();
        Outcome::fail_if(!effects.is_empty(), || Reason::EffectUndocumented { effects })
    },
};

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, update},
        *,
    };

    #[test]
    fn the_procedure_knows_two_effects() {
        for (effect, expected) in
            [("NoExecute", false), ("NoSchedule", false), ("PreferNoSchedule", true), ("", true), ("noexecute", true)]
        {
            let mut tainted = node(true, evidence());
            tainted.spec.taints[0].effect = effect.into();
            assert_eq!(fails(&RULE, &update(node(false, evidence()), tainted.clone()), &facts()), expected, "{effect}");
            let amended = update(node(true, evidence()), tainted);
            assert_eq!(fails(&RULE, &amended, &facts()), expected, "amended to {effect}");
        }
    }
}
