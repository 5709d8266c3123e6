//! `VolumesAttached`: the taint may be removed only when every volume is detached, except volumes
//! of pods that may stay.
//!
//! If the taint is removed earlier, the attach/detach controller waits for the node to report the
//! volume as unmounted: six minutes, or forever. A VolumeAttachment counts as long as it exists,
//! independent of its status.

use std::collections::BTreeSet;

use super::{
    Outcome, Rule,
    pods::{may_stay, pod_list, removes_taint},
};
use crate::policy::{
    assessment::Assessment,
    facts::{Fact, Unread},
    object::{pod::Pod, volume::VolumeAttachment},
    reason::{Code, Reason},
};

pub(super) const RULE: Rule = Rule {
    code: Code::VolumesAttached,
    applies: removes_taint,
    needs: |_| vec![Fact::Pods, Fact::VolumeAttachments],
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let attachments = match assessment.facts.volume_attachments.value() {
        Ok(attachments) => attachments,
        Err(why) => return Outcome::unknown("the list of VolumeAttachments".to_owned(), why),
    };
    let mut outcome = Outcome::pass();
    let mut attached = Vec::new();
    for attachment in attachments {
        match may_stay_attached(assessment, attachment) {
            Ok(true) => {}
            Ok(false) => attached.push(described(attachment)),
            Err(unread) if outcome.unread.contains(&unread) => {}
            Err(unread) => outcome.unread.push(unread),
        }
    }
    attached.sort_unstable();
    outcome.failed = (!attached.is_empty()).then_some(Reason::VolumesAttached { volumes: attached });
    outcome
}

/// Whether the volume belongs to a pod that may stay on the node.
fn may_stay_attached(assessment: &Assessment<'_>, attachment: &VolumeAttachment) -> Result<bool, Unread> {
    let Assessment { proposal, facts, .. } = assessment;
    let Some(name) = attachment.persistent_volume().filter(|_| !proposal.settings.count_tolerating) else {
        return Ok(false);
    };
    let pods = facts.pods.value().map_err(|why| Unread::unreadable(pod_list(proposal), why))?;
    let claims: BTreeSet<(&str, String)> =
        pods.iter().filter(|pod| may_stay(proposal, pod)).flat_map(claims_of).collect();
    if claims.is_empty() {
        return Ok(false);
    }
    let volume =
        facts.persistent_volume(name).map_err(|why| Unread::unreadable(format!("PersistentVolume {name}"), why))?;
    let claim = volume.and_then(|volume| volume.spec.claim_ref.as_ref());
    Ok(claim.is_some_and(|claim| claims.contains(&(claim.namespace.as_str(), claim.name.clone()))))
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = (&str, String)> {
    pod.claims().map(|claim| (pod.metadata.namespace.as_str(), claim))
}

fn described(attachment: &VolumeAttachment) -> String {
    let name = &attachment.metadata.name;
    match attachment.persistent_volume() {
        Some(volume) => format!("{volume} (VolumeAttachment {name})"),
        None => format!("an inline volume (VolumeAttachment {name})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::testing::{facts, fails, releasing, run, run_with},
        *,
    };
    use crate::policy::{
        facts::{Facts, Observed},
        settings::Settings,
    };

    /// One attached volume `pv-1`, bound to the claim `data-db-0` if `volume` says so, and these
    /// pods.
    fn attached(pods: &Value, volume: Option<Observed<Value>>) -> Facts {
        let at = facts().now;
        let attachments = json!([{"metadata": {"name": "csi-1"},
            "spec": {"nodeName": "n1", "source": {"persistentVolumeName": "pv-1"}}}]);
        let mut facts = Facts {
            pods: Observed::Known { at, value: serde_json::from_value(pods.clone()).unwrap() },
            volume_attachments: Observed::Known { at, value: serde_json::from_value(attachments).unwrap() },
            ..facts()
        };
        if let Some(volume) = volume {
            let volume = match volume {
                Observed::Known { value, .. } => Observed::Known { at, value: serde_json::from_value(value).unwrap() },
                Observed::Unknown { why, .. } => Observed::Unknown { at, why },
                Observed::NotRead => Observed::NotRead,
            };
            facts.persistent_volumes.insert("pv-1".into(), volume);
        }
        facts
    }

    fn claimed(namespace: &str) -> Observed<Value> {
        let value = json!({"spec": {"claimRef": {"namespace": namespace, "name": "data-db-0"}}});
        Observed::Known { at: facts().now, value }
    }

    fn staying(deleted: Option<&str>) -> Value {
        json!([{"metadata": {"namespace": "prod", "name": "db-0", "deletionTimestamp": deleted},
            "spec": {"nodeName": "n1", "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]}}])
    }

    #[test]
    fn any_volume_attached_to_the_node_keeps_the_taint_on() {
        assert!(fails(&RULE, &releasing(), &attached(&json!([]), None)));
        let message = run(&RULE, &releasing(), &attached(&json!([]), None)).unwrap().failed.unwrap().to_string();
        assert_eq!(message, "still attached to the node: pv-1 (VolumeAttachment csi-1)");
    }

    #[test]
    fn the_volume_of_a_pod_that_may_stay_may_stay_attached() {
        assert!(!fails(&RULE, &releasing(), &attached(&staying(None), Some(claimed("prod")))));
        assert!(
            fails(&RULE, &releasing(), &attached(&staying(None), Some(claimed("other")))),
            "the claim is in another namespace"
        );
        assert!(fails(&RULE, &releasing(), &attached(&staying(Some("2026-11-22T10:16:00Z")), Some(claimed("prod")))));
        let settings = Settings { count_tolerating: true, ..Settings::default() };
        let outcome = run_with(&RULE, &releasing(), &attached(&staying(None), Some(claimed("prod"))), &settings);
        assert!(outcome.unwrap().failed.is_some());
    }

    #[test]
    fn a_missing_volume_has_no_claim_and_an_unread_volume_is_unknown() {
        let none = Some(Observed::Known { at: facts().now, value: Value::Null });
        assert!(fails(&RULE, &releasing(), &attached(&staying(None), none)));
        let unread = Some(Observed::Unknown { at: facts().now, why: "forbidden".into() });
        let outcome = run(&RULE, &releasing(), &attached(&staying(None), unread)).unwrap();
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.unread[0].to_string(), "PersistentVolume pv-1 could not be read: forbidden");
    }

    #[test]
    fn if_nothing_is_attached_no_other_fact_is_needed() {
        let none = Facts { volume_attachments: Observed::Known { at: facts().now, value: vec![] }, ..facts() };
        assert_eq!(run(&RULE, &releasing(), &none), Some(Outcome::pass()));
        assert_eq!(run(&RULE, &releasing(), &facts()).unwrap().unread[0].what, "the list of VolumeAttachments");
    }
}
