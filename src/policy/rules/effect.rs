//! `EffectUndocumented`: the out-of-service procedure uses the effects `NoExecute` and
//! `NoSchedule`. With any other effect, pod GC and the attach/detach controller still act, because
//! they check only the key, but nothing evicts the pods.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    assessment::Assessment,
    reason::{Code, Reason},
    text::quoted,
};

pub(super) const RULE: Rule = Rule {
    code: Code::EffectUndocumented,
    applies: |proposal| proposal.adds_entry(),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let effects: Vec<String> = proposal
            .added_entries()
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
    fn only_no_execute_and_no_schedule_are_allowed() {
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

    #[test]
    fn an_entry_that_was_there_before_is_not_judged_again() {
        let mut old = node(true, evidence());
        old.spec.taints[0].effect = "PreferNoSchedule".into();
        let mut new = old.clone();
        new.spec.taints.push(node(true, evidence()).spec.taints.remove(0));
        assert!(!fails(&RULE, &update(old.clone(), new.clone()), &facts()), "NoExecute is added");
        new.spec.taints.remove(1);
        new.spec.taints[0].value = "other".into();
        assert!(fails(&RULE, &update(old, new), &facts()), "with another value it is another entry");
    }
}
