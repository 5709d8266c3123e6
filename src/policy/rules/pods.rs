//! `PodsRemain`: an entry of the taint may go only when no pod is bound to the node that the outage
//! displaced.
//!
//! Pod GC force-deletes pods only while the taint is on. A pod that remains would run again when
//! the node returns, at the same time as its replacement.

use super::{Outcome, Rule};
use crate::policy::{
    assessment::Assessment,
    blocker::{BlockingPod, Leaving},
    facts::{Fact, Facts, Unread},
    object::{node::Node, pod::Pod},
    proposal::Proposal,
    reason::{Code, Reason},
    settings::Settings,
    text::{Foreign, NAMED},
    transition::Transition,
};

pub(super) const RULE: Rule =
    Rule { code: Code::PodsRemain, applies: |proposal| proposal.removes_entry(), needs: |_| vec![Fact::Pods], check };

/// The stored Node, if pods may stay on it and keep their volumes: the write returns it to service.
/// Nothing is excused if the Node is deleted, or if the taint stays with other entries.
pub(super) fn returning<'a>(proposal: &Proposal<'a>) -> Option<&'a Node> {
    let returns = proposal.does(Transition::Release) && !proposal.does(Transition::Delete);
    proposal.request.write.before().filter(|_| returns && !proposal.settings.count_tolerating)
}

fn check(assessment: &Assessment<'_>) -> Outcome {
    match left(assessment) {
        Ok((pods, warnings)) => {
            let failed = (!pods.is_empty()).then_some(Reason::PodsRemain { pods });
            Outcome { failed, warnings, ..Outcome::default() }
        }
        Err(unread) => Outcome { unread: vec![unread], ..Outcome::default() },
    }
}

/// The pods that hold the taint, or would, and warnings about those that may stay.
pub(super) fn left(assessment: &Assessment<'_>) -> Result<(Vec<BlockingPod>, Vec<String>), Unread> {
    let Assessment { proposal, facts, .. } = assessment;
    let pods = facts.pods.value().map_err(|why| Unread::unreadable(pod_list(proposal), why))?;
    let (mut staying, remaining): (Vec<&Pod>, Vec<&Pod>) = pods
        .iter()
        .filter(|pod| holds_the_taint(pod, proposal.settings))
        .partition(|pod| returning(proposal).is_some_and(|node| pod.may_stay(node)));
    let stored = proposal.request.write.current();
    let mut blocking: Vec<BlockingPod> = remaining.into_iter().map(|pod| blocker(pod, stored, facts)).collect();
    blocking.sort_unstable_by(|one, other| (!one.is_stuck(), &one.name).cmp(&(!other.is_stuck(), &other.name)));
    staying.sort_unstable_by_key(|pod| pod.full_name());
    Ok((blocking, staying_warnings(&staying, stored)))
}

/// The name of the list of pods in messages.
pub(super) fn pod_list(proposal: &Proposal<'_>) -> String {
    format!("the list of Pods on {}", proposal.request.node)
}

/// Whether the pod must not run twice: it has a guarded owner, or it may still write to a volume of
/// its own. A finished pod does not write any more, but a guarded owner does not replace it before
/// it is gone.
pub(super) fn holds_the_taint(pod: &Pod, settings: &Settings) -> bool {
    let has_guarded_owner = pod.controller().is_some_and(|owner| {
        settings.guarded_owners.iter().any(|kind| kind.group == owner.group() && kind.kind == owner.kind)
    });
    let has_claim = settings.guard_claims && pod.claimed().next().is_some();
    has_guarded_owner || (!pod.is_finished() && (pod.is_of_a_stateful_set() || has_claim))
}

fn blocker(pod: &Pod, stored: &Node, facts: &Facts) -> BlockingPod {
    let leaving = if pod.is_terminating() {
        Leaving::Terminating {
            since: pod.terminating_since().map(|at| facts.now.duration_since(at)),
            finalizers: pod.metadata.finalizers.iter().map(|name| Foreign::from(name.as_str())).collect(),
        }
    } else if !stored.is_out_of_service() {
        Leaving::Bound
    } else if pod.tolerates(stored) {
        Leaving::Tolerates
    } else if stored.evicts_nothing() {
        Leaving::NotEvicted
    } else {
        Leaving::Evicted
    };
    BlockingPod { name: pod.full_name().into(), leaving }
}

/// One warning for each of the first five pods, one for the rest.
fn staying_warnings(staying: &[&Pod], stored: &Node) -> Vec<String> {
    let warning = |pod: &&Pod| {
        let why = if pod.tolerates(stored) { "tolerates the taint" } else { "NoSchedule evicted nothing" };
        format!("stays on the node ({why}): {}", Foreign::from(pod.full_name()))
    };
    let mut warnings: Vec<String> = staying.iter().take(NAMED).map(warning).collect();
    if let Some(more) = staying.len().checked_sub(NAMED).filter(|more| *more > 0) {
        warnings.push(format!("and {more} more pods stay on the node"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]

    use serde_json::{Value, json};

    use super::{
        super::testing::{by, evidence, facts, fails, node, releasing, run, run_with, update},
        *,
    };
    use crate::policy::{facts::Observed, request::Write};

    fn pods(pods: &Value) -> Facts {
        let value = serde_json::from_value(pods.clone()).unwrap();
        Facts { pods: Observed::Known { at: facts().now, value }, ..facts() }
    }

    /// Pod `prod/db-0` of a StatefulSet, merged with `more`.
    fn pod(more: Value) -> Value {
        let mut pod = json!({
            "metadata": {"namespace": "prod", "name": "db-0", "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
            "spec": {"nodeName": "n1"},
        });
        json_patch::merge(&mut pod, &more);
        pod
    }

    fn claim() -> Value {
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}])
    }

    #[test]
    fn a_pod_holds_the_taint_by_its_owner_its_label_or_its_claim() {
        let owned_by =
            |api_version: &str, kind: &str| json!([{"apiVersion": api_version, "kind": kind, "controller": true}]);
        let labelled = json!({"statefulset.kubernetes.io/pod-name": "db-0"});
        let finished = json!({"phase": "Succeeded"});
        for (more, expected, what) in [
            (json!({}), true, "of a StatefulSet"),
            (json!({"metadata": {"ownerReferences": owned_by("apps/v1beta2", "StatefulSet")}}), true, "of any version"),
            (json!({"status": finished}), true, "a finished pod of a StatefulSet"),
            (
                json!({"metadata": {"ownerReferences": owned_by("v1", "ReplicationController")}}),
                false,
                "of another kind",
            ),
            (
                json!({"metadata": {"ownerReferences": owned_by("apps.kruise.io/v1", "StatefulSet")}}),
                false,
                "of another group",
            ),
            (json!({"metadata": {"ownerReferences": null}}), false, "of nobody"),
            (json!({"metadata": {"ownerReferences": null, "labels": labelled}}), true, "an orphan"),
            (
                json!({"metadata": {"ownerReferences": null, "labels": labelled}, "status": finished}),
                false,
                "a finished orphan",
            ),
            (json!({"metadata": {"ownerReferences": null}, "spec": {"volumes": claim()}}), true, "with a claim"),
            (
                json!({"metadata": {"ownerReferences": null}, "spec": {"volumes": claim()}, "status": finished}),
                false,
                "a finished pod with a claim",
            ),
            (
                json!({"metadata": {"ownerReferences": null}, "spec": {"volumes": claim()}, "status": {"phase": "Odd"}}),
                true,
                "in a phase that nobody knows",
            ),
        ] {
            assert_eq!(fails(&RULE, &releasing(), &pods(&json!([pod(more)]))), expected, "{what}");
        }
        let unowned = pods(&json!([pod(json!({"metadata": {"ownerReferences": null}, "spec": {"volumes": claim()}}))]));
        let settings = Settings { guard_claims: false, ..Settings::default() };
        assert!(run_with(&RULE, &releasing(), &unowned, &settings).unwrap().failed.is_none(), "claims are not guarded");
    }

    #[test]
    fn five_pods_that_may_stay_are_named_and_more_are_counted() {
        let warnings = |count: usize| {
            let tolerant = pod(json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
            let mut warnings = run(&RULE, &releasing(), &pods(&json!(vec![tolerant; count]))).unwrap().warnings;
            (warnings.len(), warnings.pop().unwrap())
        };
        let named = "stays on the node (tolerates the taint): prod/db-0".to_owned();
        assert_eq!(warnings(5), (5, named));
        assert_eq!(warnings(6), (6, "and 1 more pods stay on the node".to_owned()));
    }

    #[test]
    fn a_pod_that_may_stay_is_only_named_in_a_warning() {
        let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let staying = pods(&json!([pod(tolerant.clone())]));
        let outcome = run(&RULE, &releasing(), &staying).unwrap();
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.warnings, ["stays on the node (tolerates the taint): prod/db-0"]);

        for leaving in
            [json!({"metadata": {"deletionTimestamp": "2026-11-22T10:16:00Z"}}), json!({"status": {"phase": "Failed"}})]
        {
            let mut pod = pod(tolerant.clone());
            json_patch::merge(&mut pod, &leaving);
            assert!(fails(&RULE, &releasing(), &pods(&json!([pod]))), "{leaving}");
        }
        let settings = Settings { count_tolerating: true, ..Settings::default() };
        assert!(run_with(&RULE, &releasing(), &staying, &settings).unwrap().failed.is_some());
    }

    #[test]
    fn a_pod_that_no_schedule_did_not_evict_may_stay_if_the_node_is_back() {
        let there = pods(&json!([pod(json!({}))]));
        for (effects, ready, expected) in [
            (vec!["NoSchedule"], "True", false),
            (vec!["NoSchedule"], "Unknown", true),
            (vec!["NoSchedule", "NoExecute"], "True", true),
            (vec!["PreferNoSchedule"], "True", true),
        ] {
            let mut old = node(true, evidence());
            old.status.conditions[0].status = ready.into();
            let entry = old.spec.taints.remove(0);
            old.spec.taints.extend(effects.iter().map(|effect| {
                let effect = (*effect).to_owned();
                crate::policy::object::node::Taint { effect, ..entry.clone() }
            }));
            assert_eq!(
                fails(&RULE, &update(old, node(false, evidence())), &there),
                expected,
                "{effects:?}, Ready={ready}"
            );
        }
    }

    #[test]
    fn a_pod_may_stay_only_if_it_tolerates_every_out_of_service_taint() {
        let mut two = node(true, evidence());
        two.spec.taints.push(two.spec.taints[0].clone());
        two.spec.taints[1].effect = "NoSchedule".into();
        let request = update(two, node(false, evidence()));
        let half = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/out-of-service", "operator": "Exists", "effect": "NoExecute"}]}});
        assert!(fails(&RULE, &request, &pods(&json!([pod(half)]))));
    }

    #[test]
    fn nothing_may_stay_if_the_node_is_deleted_or_the_taint_is_amended() {
        let staying = pods(&json!([pod(json!({"spec": {"tolerations": [{"operator": "Exists"}]}}))]));
        let deletion = by("alice", Write::Delete { old: node(true, evidence()) });
        let mut amended = node(true, evidence());
        amended.spec.taints[0].value = "other".into();
        for request in [deletion, update(node(true, evidence()), amended.clone())] {
            let outcome = run(&RULE, &request, &staying).unwrap();
            let told = "still bound to the node: prod/db-0 (tolerates the taint, nothing evicts it)";
            assert_eq!(outcome.failed.unwrap().to_string(), told);
            assert_eq!(outcome.warnings, Vec::<String>::new());
        }
        let mut second = node(true, evidence());
        second.spec.taints.push(amended.spec.taints.remove(0));
        assert_eq!(run(&RULE, &update(node(true, evidence()), second), &staying), None, "no entry goes");
    }

    #[test]
    fn a_message_says_what_a_pod_waits_for_and_names_those_first_that_do_not_go_by_themselves() {
        let named = |name: &str, more: Value| {
            let mut pod = pod(json!({"metadata": {"name": name}}));
            json_patch::merge(&mut pod, &more);
            pod
        };
        let since = |finalizers: Value| json!({"metadata": {"deletionTimestamp": "2026-11-22T10:16:48Z", "finalizers": finalizers}});
        let bound = pods(&json!([
            named("a", json!({})),
            named("b", since(json!([]))),
            named("c", since(json!(["example.com/backup"]))),
        ]));
        let failed = run(&RULE, &releasing(), &bound).unwrap().failed.unwrap();
        assert_eq!(
            failed.to_string(),
            "still bound to the node: prod/c (terminating for 3m12s, waits for finalizer example.com/backup), \
             prod/a, prod/b (terminating for 3m12s)"
        );
        for at in ["2026-11-22T10:20:00Z", "2026-11-22T10:20:01Z"] {
            let just_now = pods(&json!([named("a", json!({"metadata": {"deletionTimestamp": at}}))]));
            let failed = run(&RULE, &releasing(), &just_now).unwrap().failed.unwrap();
            assert_eq!(failed.to_string(), "still bound to the node: prod/a (terminating)", "{at}");
        }
        let mut no_schedule = node(true, evidence());
        no_schedule.spec.taints[0].effect = "NoSchedule".into();
        let failed = run(&RULE, &update(no_schedule, node(false, evidence())), &pods(&json!([pod(json!({}))])));
        let told = failed.unwrap().failed.unwrap().to_string();
        assert_eq!(told, "still bound to the node: prod/db-0 (NoSchedule alone does not evict it)");
    }

    #[test]
    fn an_unread_list_of_pods_is_unknown() {
        assert_eq!(run(&RULE, &releasing(), &facts()).unwrap().unread[0].what, "the list of Pods on n1");
    }
}
