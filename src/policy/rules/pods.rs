//! `PodsRemain`: the taint may be removed only when every guarded pod that must leave is gone from
//! the node.
//!
//! Pod GC force-deletes pods only while the taint is on. A pod that remains would run again when
//! the node returns, at the same time as its replacement.

use super::{Outcome, Rule};
use crate::policy::{
    assessment::Assessment,
    facts::Fact,
    object::pod::Pod,
    proposal::Proposal,
    reason::{Code, Reason},
    settings::OwnerKind,
    transition::Transition,
};

pub(super) const RULE: Rule =
    Rule { code: Code::PodsRemain, applies: removes_taint, needs: |_| vec![Fact::Pods], check };

/// Whether the write removes the taint, or deletes the Node with it.
pub(super) fn removes_taint(proposal: &Proposal<'_>) -> bool {
    proposal.does(Transition::Release) || proposal.does(Transition::Delete)
}

/// Whether the pod may stay on the node: it tolerates the out-of-service taints of the stored Node.
pub(super) fn may_stay(proposal: &Proposal<'_>, pod: &Pod) -> bool {
    !proposal.settings.count_tolerating
        && proposal.request.write.before().is_some_and(|node| pod.may_stay(node.out_of_service()))
}

fn check(Assessment { proposal, facts, .. }: &Assessment<'_>) -> Outcome {
    let pods = match facts.pods.value() {
        Ok(pods) => pods,
        Err(why) => return Outcome::unknown(pod_list(proposal), why),
    };
    let (staying, remaining): (Vec<&Pod>, Vec<&Pod>) = pods
        .iter()
        .filter(|pod| is_guarded(pod, &proposal.settings.guarded_owners))
        .partition(|pod| may_stay(proposal, pod));
    let mut remaining: Vec<String> = remaining.into_iter().map(described).collect();
    let mut staying: Vec<String> = staying.into_iter().map(Pod::full_name).collect();
    remaining.sort_unstable();
    staying.sort_unstable();
    let failed = (!remaining.is_empty()).then_some(Reason::PodsRemain { pods: remaining });
    Outcome { failed, warnings: staying_warnings(&staying), ..Outcome::default() }
}

/// The name of the list of pods in messages.
pub(super) fn pod_list(proposal: &Proposal<'_>) -> String {
    format!("the list of Pods on {}", proposal.request.node)
}

fn is_guarded(pod: &Pod, guarded: &[OwnerKind]) -> bool {
    pod.controller()
        .is_some_and(|owner| guarded.iter().any(|kind| kind.group == owner.group() && kind.kind == owner.kind))
}

fn described(pod: &Pod) -> String {
    let name = pod.full_name();
    if pod.is_terminating() { format!("{name} (terminating)") } else { name }
}

/// One warning for each of the first five pods, one for the rest.
fn staying_warnings(staying: &[String]) -> Vec<String> {
    /// As many as a message names (contract section 9).
    const NAMED: usize = 5;
    let mut warnings: Vec<String> =
        staying.iter().take(NAMED).map(|pod| format!("pod {pod} stays on the node: it tolerates the taint")).collect();
    if let Some(more) = staying.len().checked_sub(NAMED).filter(|more| *more > 0) {
        warnings.push(format!("and {more} more pods stay on the node: they tolerate the taint"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::testing::{evidence, facts, fails, node, releasing, run, run_with, update},
        *,
    };
    use crate::policy::{
        facts::{Facts, Observed},
        settings::Settings,
    };

    fn pods(pods: &Value) -> Facts {
        let value = serde_json::from_value(pods.clone()).unwrap();
        Facts { pods: Observed::Known { at: facts().now, value }, ..facts() }
    }

    fn pod(owner: &Value, more: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"namespace": "prod", "name": "db-0", "ownerReferences": [owner]},
            "spec": {"nodeName": "n1"},
        });
        for (part, fields) in more.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                pod[part][field] = value.clone();
            }
        }
        pod
    }

    fn stateful_set() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true})
    }

    #[test]
    fn only_pods_with_a_guarded_controller_keep_the_taint_on() {
        for (owner, expected) in [
            (stateful_set(), true),
            (json!({"apiVersion": "apps/v1beta2", "kind": "StatefulSet", "controller": true}), true),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": false}), false),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet"}), false),
            (json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "controller": true}), false),
            (json!({"apiVersion": "apps.kruise.io/v1", "kind": "StatefulSet", "controller": true}), false),
        ] {
            assert_eq!(fails(&RULE, &releasing(), &pods(&json!([pod(&owner, &json!({}))]))), expected, "{owner}");
        }
    }

    #[test]
    fn a_pod_that_may_stay_is_only_named_in_a_warning() {
        let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let staying = pods(&json!([pod(&stateful_set(), &tolerant)]));
        let outcome = run(&RULE, &releasing(), &staying).unwrap();
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.warnings, ["pod prod/db-0 stays on the node: it tolerates the taint"]);

        let terminating = json!({"spec": tolerant["spec"], "metadata": {"deletionTimestamp": "2026-11-22T10:16:00Z"}});
        assert!(fails(&RULE, &releasing(), &pods(&json!([pod(&stateful_set(), &terminating)]))));

        let settings = Settings { count_tolerating: true, ..Settings::default() };
        assert!(run_with(&RULE, &releasing(), &staying, &settings).unwrap().failed.is_some());
    }

    #[test]
    fn a_pod_may_stay_only_if_it_tolerates_every_out_of_service_taint() {
        let mut two = node(true, evidence());
        two.spec.taints.push(two.spec.taints[0].clone());
        two.spec.taints[1].effect = "NoSchedule".into();
        let request = update(two, node(false, evidence()));
        let half = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/out-of-service", "operator": "Exists", "effect": "NoExecute"}]}});
        assert!(fails(&RULE, &request, &pods(&json!([pod(&stateful_set(), &half)]))));
    }

    #[test]
    fn a_terminating_pod_is_named_as_such() {
        let gone = json!({"metadata": {"deletionTimestamp": "2026-11-22T10:16:00Z"}});
        let failed = run(&RULE, &releasing(), &pods(&json!([pod(&stateful_set(), &gone)]))).unwrap().failed.unwrap();
        assert_eq!(failed.to_string(), "still bound to the node: prod/db-0 (terminating)");
    }

    #[test]
    fn an_unread_list_of_pods_is_unknown() {
        assert_eq!(run(&RULE, &releasing(), &facts()).unwrap().unread[0].what, "the list of Pods on n1");
    }
}
