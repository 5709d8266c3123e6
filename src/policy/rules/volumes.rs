//! `VolumesAttached`: an entry of the taint may go only when every volume is detached, except, when
//! the node returns to service, the volumes of pods that may stay.
//!
//! If the taint is removed earlier, the attach/detach controller waits for the node to report the
//! volume as unmounted: six minutes, or forever. A VolumeAttachment counts as long as it exists,
//! independent of its status. In-tree plugins and FlexVolume have no VolumeAttachments; their
//! volumes are in the Node's status only.

use std::collections::BTreeSet;

use super::{
    Outcome, Rule,
    pods::{pod_list, returning},
};
use crate::policy::{
    assessment::Assessment,
    blocker::{BlockingAttachment, BlockingVolume, DriverError, VolumeName},
    facts::{Fact, Facts, Unread},
    object::{
        node::Node,
        pod::Pod,
        volume::{ClaimRef, VolumeAttachment},
    },
    reason::{Code, Reason},
    text::Foreign,
};

pub(super) const RULE: Rule = Rule {
    code: Code::VolumesAttached,
    applies: |proposal| proposal.removes_entry(),
    needs: |proposal| {
        let mut needed = vec![Fact::VolumeAttachments];
        needed.extend(returning(proposal).map(|_| Fact::Pods));
        needed
    },
    check,
};

fn check(assessment: &Assessment<'_>) -> Outcome {
    let (volumes, unread) = left(assessment);
    let failed = (!volumes.is_empty()).then_some(Reason::VolumesAttached { volumes });
    Outcome { failed, unread, ..Outcome::default() }
}

/// The volumes that hold the taint, or would, and the facts that could not be read.
pub(super) fn left(assessment: &Assessment<'_>) -> (Vec<BlockingVolume>, Vec<Unread>) {
    let Assessment { proposal, facts, .. } = assessment;
    let (mut blocking, mut lacking) = (Vec::new(), Vec::new());
    match facts.volume_attachments.value() {
        Ok(attachments) => {
            let mut in_message_order: Vec<&VolumeAttachment> = attachments.iter().collect();
            in_message_order.sort_unstable_by_key(|attachment| attachment.place_in_message());
            let excused = Excused::by(assessment);
            for attachment in in_message_order {
                match excused.covers(attachment, facts) {
                    Ok(true) => {}
                    Ok(false) => blocking.push(BlockingVolume::Attachment(Box::new(blocker(attachment, facts)))),
                    Err(unread) if lacking.contains(&unread) => {}
                    Err(unread) => lacking.push(unread),
                }
            }
        }
        Err(why) => lacking.push(Unread::unreadable("the list of VolumeAttachments".to_owned(), why)),
    }
    let stored = proposal.request.write.current();
    if !returning(proposal).is_some_and(Node::evicted_nothing) {
        let mut names: Vec<&str> = stored.status.volumes_attached.iter().map(|volume| volume.name.as_str()).collect();
        names.sort_unstable();
        blocking.extend(names.into_iter().map(|name| BlockingVolume::OfNodeStatus(name.into())));
    }
    (blocking, lacking)
}

/// The claims whose volumes may stay attached: those of pods that stay on the node.
enum Excused {
    Claims(BTreeSet<ClaimRef>),
    /// The pods could not be read.
    Unknown(Unread),
}

impl Excused {
    fn by(Assessment { proposal, facts, .. }: &Assessment<'_>) -> Self {
        let Some(node) = returning(proposal) else { return Self::Claims(BTreeSet::new()) };
        match facts.pods.value() {
            Ok(pods) => {
                let keeping = pods.iter().filter(|pod| pod.may_keep_volumes(node));
                Self::Claims(keeping.flat_map(Pod::claimed).collect())
            }
            Err(why) => Self::Unknown(Unread::unreadable(pod_list(proposal), why)),
        }
    }

    /// Whether the attached volume is bound to one of the claims.
    fn covers(&self, attachment: &VolumeAttachment, facts: &Facts) -> Result<bool, Unread> {
        let Some(name) = attachment.persistent_volume() else { return Ok(false) };
        match self {
            Self::Unknown(unread) => Err(unread.clone()),
            Self::Claims(claims) if claims.is_empty() => Ok(false),
            Self::Claims(claims) => {
                let volume = facts
                    .persistent_volume(name)
                    .map_err(|why| Unread::unreadable(format!("PersistentVolume {name}"), why))?;
                let claim = volume.and_then(|volume| volume.spec.claim_ref.as_ref());
                Ok(claim.is_some_and(|claim| claims.contains(claim)))
            }
        }
    }
}

fn blocker(attachment: &VolumeAttachment, facts: &Facts) -> BlockingAttachment {
    let VolumeAttachment { metadata, spec, status } = attachment;
    let age = |at| facts.now.duration_since(at);
    let volume = match attachment.persistent_volume() {
        None => VolumeName::Inline(spec.source.inline_volume_spec.csi.volume_handle.as_str().into()),
        // Only for the words: a volume that could not be read is told by its own name.
        Some(name) => {
            match facts.persistent_volume(name).ok().flatten().and_then(|known| known.spec.claim_ref.as_ref()) {
                Some(claim) => VolumeName::Claim { claim: claim.to_string().into(), volume: name.into() },
                None => VolumeName::PersistentVolume(name.into()),
            }
        }
    };
    BlockingAttachment {
        name: metadata.name.as_str().into(),
        volume,
        driver: spec.attacher.as_str().into(),
        is_attached: status.attached,
        detaching: metadata.deletion_timestamp.map(age),
        finalizers: metadata.finalizers.iter().map(|name| Foreign::from(name.as_str())).collect(),
        error: attachment
            .error()
            .map(|error| DriverError { text: error.message.as_str().into(), age: error.time.map(age) }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]

    use serde_json::{Value, json};

    use super::{
        super::testing::{by, evidence, facts, fails, node, releasing, run, run_with, update},
        *,
    };
    use crate::policy::{
        annotation::PLACED_AT,
        facts::Observed,
        request::{Request, Write},
        settings::Settings,
    };

    fn attachment() -> Value {
        json!({"metadata": {"name": "csi-1"}, "status": {"attached": true},
            "spec": {"nodeName": "n1", "attacher": "d", "source": {"persistentVolumeName": "pv-1"}}})
    }

    /// These attachments, these pods, and the PersistentVolume `pv-1`, bound to `prod/data-db-0`.
    fn attached(attachments: &Value, pods: &Value) -> Facts {
        let at = facts().now;
        let claimed = json!({"spec": {"claimRef": {"namespace": "prod", "name": "data-db-0"}}});
        let mut facts = Facts {
            pods: Observed::Known { at, value: serde_json::from_value(pods.clone()).unwrap() },
            volume_attachments: Observed::Known { at, value: serde_json::from_value(attachments.clone()).unwrap() },
            ..facts()
        };
        let value = serde_json::from_value(claimed).unwrap();
        facts.persistent_volumes.insert("pv-1".into(), Observed::Known { at, value });
        facts
    }

    /// A pod that tolerates the taint and uses the claim, merged with `more`.
    fn staying(more: Value) -> Value {
        let mut pod = json!({"metadata": {"namespace": "prod", "name": "db-0"},
            "spec": {"nodeName": "n1", "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]}});
        json_patch::merge(&mut pod, &more);
        json!([pod])
    }

    /// The release of a node in this state.
    fn release_of(ready: &str, effect: &str, placed_at: Option<&str>) -> Request {
        let mut annotations = evidence();
        if let Some(placed_at) = placed_at {
            annotations[PLACED_AT] = placed_at.into();
        }
        let mut old = node(true, annotations);
        old.status.conditions[0].status = ready.into();
        old.spec.taints[0].effect = effect.into();
        update(old, node(false, evidence()))
    }

    fn told(attachment: Value) -> String {
        let facts = attached(&json!([attachment]), &json!([]));
        run(&RULE, &releasing(), &facts).unwrap().failed.unwrap().to_string()
    }

    #[test]
    fn any_volume_attached_to_the_node_keeps_the_taint_on() {
        assert!(fails(&RULE, &releasing(), &attached(&json!([attachment()]), &json!([]))));
        assert!(!fails(&RULE, &releasing(), &attached(&json!([]), &json!([]))));
    }

    #[test]
    fn the_volume_of_a_pod_that_may_stay_may_stay_attached() {
        let keeps = |more: Value| !fails(&RULE, &releasing(), &attached(&json!([attachment()]), &staying(more)));
        assert!(keeps(json!({})));
        assert!(!keeps(json!({"metadata": {"namespace": "other"}})), "the claim is in another namespace");
        assert!(!keeps(json!({"metadata": {"deletionTimestamp": "2026-11-22T10:16:00Z"}})));
        assert!(!keeps(json!({"status": {"phase": "Succeeded"}})));
        let settings = Settings { count_tolerating: true, ..Settings::default() };
        let outcome = run_with(&RULE, &releasing(), &attached(&json!([attachment()]), &staying(json!({}))), &settings);
        assert!(outcome.unwrap().failed.is_some());
    }

    #[test]
    fn a_pod_excuses_a_volume_if_it_was_there_at_the_placement_or_runs_on_a_node_that_is_back() {
        const PLACED: Option<&str> = Some("2026-11-22T10:16:00Z");
        for (created, phase, ready, placed_at, excuses) in [
            ("2026-11-22T10:15:59Z", "Pending", "Unknown", PLACED, true),
            ("2026-11-22T10:16:00Z", "Pending", "Unknown", PLACED, false),
            ("2026-11-22T10:16:00Z", "Running", "Unknown", PLACED, false),
            ("2026-11-22T10:16:00Z", "Running", "True", PLACED, true),
            ("2026-11-22T10:16:00Z", "Pending", "True", PLACED, false),
            ("2026-11-22T10:16:00Z", "Pending", "Unknown", None, true),
            ("2026-11-22T10:15:59Z", "Pending", "Unknown", Some("then"), false),
            ("once", "Pending", "Unknown", PLACED, false),
        ] {
            let pods = staying(json!({"metadata": {"creationTimestamp": created}, "status": {"phase": phase}}));
            let facts = attached(&json!([attachment()]), &pods);
            let failed = fails(&RULE, &release_of(ready, "NoExecute", placed_at), &facts);
            assert_eq!(!failed, excuses, "{created} {phase} Ready={ready} placed {placed_at:?}");
        }
    }

    #[test]
    fn nothing_is_excused_if_the_node_is_deleted_or_the_taint_is_amended() {
        let facts = attached(&json!([attachment()]), &staying(json!({})));
        let mut amended = node(true, evidence());
        amended.spec.taints[0].value = "other".into();
        assert!(fails(&RULE, &by("alice", Write::Delete { old: node(true, evidence()) }), &facts));
        assert!(fails(&RULE, &update(node(true, evidence()), amended), &facts));
    }

    #[test]
    fn a_volume_in_the_nodes_status_alone_keeps_the_taint_on_unless_nothing_was_evicted() {
        let none = attached(&json!([]), &json!([]));
        for (effect, ready, expected) in
            [("NoExecute", "True", true), ("NoSchedule", "Unknown", true), ("NoSchedule", "True", false)]
        {
            let mut request = release_of(ready, effect, None);
            let Write::Update { old, .. } = &mut request.write else { unreachable!() };
            let status = json!({"volumesAttached": [{"name": "kubernetes.io/iscsi/10.0.0.9:3260:iqn.x:0"}]});
            let volumes = serde_json::from_value::<crate::policy::object::node::NodeStatus>(status).unwrap();
            old.status.volumes_attached = volumes.volumes_attached;
            assert_eq!(fails(&RULE, &request, &none), expected, "{effect} Ready={ready}");
            if expected {
                assert_eq!(
                    run(&RULE, &request, &none).unwrap().failed.unwrap().to_string(),
                    "still on the node: kubernetes.io/iscsi/10.0.0.9:3260:iqn.x:0 (in the Node's status.volumesAttached)"
                );
            }
        }
    }

    #[test]
    fn a_volume_is_told_by_its_claim_with_what_it_waits_for() {
        let mut volume = attachment();
        let claim = "still on the node: prod/data-db-0 (PersistentVolume pv-1, VolumeAttachment csi-1 of driver d:";
        assert_eq!(told(volume.clone()), format!("{claim} attached)"));
        volume["metadata"]["deletionTimestamp"] = json!("2026-11-22T08:17:00Z");
        volume["metadata"]["finalizers"] = json!(["external-attacher/d"]);
        let detaching = format!("{claim} attached, to be detached for 2h3m");
        assert_eq!(told(volume.clone()), format!("{detaching}, waits for finalizer external-attacher/d)"));
        volume["status"]["detachError"] = json!({"message": "404 Not Found", "time": "2026-11-22T10:18:20Z"});
        assert_eq!(told(volume.clone()), format!("{detaching}, fails: \"404 Not Found\" 1m40s ago)"));
        volume["status"] = json!({"attached": false});
        assert!(told(volume.clone()).starts_with(&format!("{claim} not attached, ")));
        volume["spec"]["source"] = json!({"inlineVolumeSpec": {"csi": {"driver": "d", "volumeHandle": "vol-7"}}});
        assert!(
            told(volume).starts_with("still on the node: inline volume vol-7 (VolumeAttachment csi-1 of driver d:")
        );
    }

    #[test]
    fn an_unread_persistent_volume_is_unknown_only_where_it_could_excuse() {
        let unread = |pods: &Value| {
            let mut facts = attached(&json!([attachment()]), pods);
            let why = Observed::Unknown { at: facts.now, why: "forbidden".into() };
            facts.persistent_volumes.insert("pv-1".into(), why);
            run(&RULE, &releasing(), &facts).unwrap()
        };
        let outcome = unread(&staying(json!({})));
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.unread[0].to_string(), "PersistentVolume pv-1 could not be read: forbidden");
        let outcome = unread(&json!([]));
        assert_eq!(outcome.unread, []);
        let told = outcome.failed.unwrap().to_string();
        assert_eq!(told, "still on the node: PersistentVolume pv-1 (VolumeAttachment csi-1 of driver d: attached)");
    }

    #[test]
    fn a_list_of_pods_that_two_volumes_need_is_told_once() {
        let mut facts = attached(&json!([attachment(), attachment()]), &json!([]));
        facts.pods = Observed::Unknown { at: facts.now, why: "forbidden".into() };
        let outcome = run(&RULE, &releasing(), &facts).unwrap();
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.unread.len(), 1, "{:?}", outcome.unread);
    }

    #[test]
    fn a_missing_persistent_volume_has_no_claim() {
        let mut facts = attached(&json!([attachment()]), &staying(json!({})));
        facts.persistent_volumes.insert("pv-1".into(), Observed::Known { at: facts.now, value: None });
        assert!(fails(&RULE, &releasing(), &facts));
    }

    #[test]
    fn if_nothing_is_attached_no_other_fact_is_needed() {
        let none = Facts { volume_attachments: Observed::Known { at: facts().now, value: vec![] }, ..facts() };
        assert_eq!(run(&RULE, &releasing(), &none), Some(Outcome::pass()));
        assert_eq!(run(&RULE, &releasing(), &facts()).unwrap().unread[0].what, "the list of VolumeAttachments");
    }
}
