//! `NodeNotRebooted`: if a node is Ready and still in the boot that was fenced, its volumes may
//! still be mounted from before the fence.

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::BOOT_ID,
    assessment::Assessment,
    reason::{Code, Reason},
    transition::Transition,
};

pub(super) const RULE: Rule = Rule {
    code: Code::NodeNotRebooted,
    applies: |proposal| proposal.does(Transition::Release),
    needs: no_facts,
    check: |Assessment { proposal, .. }| {
        let node = proposal.request.write.current();
        match (node.ready(), node.boot_id()) {
            (Some(_), Some(current)) if proposal.change(BOOT_ID).0 == Some(current) => {
                Outcome::fail(Reason::NodeNotRebooted { boot_id: current.to_owned() })
            }
            _ => Outcome::pass(),
        }
    },
};

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, update},
        *,
    };

    #[test]
    fn a_node_that_is_ready_in_the_fenced_boot_fails_the_check() {
        for (ready, fenced, expected) in [
            ("True", Some("boot-1"), true),
            ("True", Some("boot-0"), false),
            ("True", None, false),
            ("Unknown", Some("boot-1"), false),
        ] {
            let mut annotations = evidence();
            if let Some(fenced) = fenced {
                annotations[BOOT_ID] = fenced.into();
            }
            let mut old = node(true, annotations.clone());
            old.status.conditions[0].status = ready.into();
            let request = update(old, node(false, annotations));
            assert_eq!(fails(&RULE, &request, &facts()), expected, "Ready={ready}, fenced {fenced:?}");
        }
    }
}
