//! The other doors to the same harm (contract section 13): a pod is force-deleted, or a volume is
//! detached by hand. An AdmissionReview of such a write does not have the Node that it is about.
//! With the Node, it is a [`Request`] like any other.
//!
//! The match conditions of the webhooks `pods.fencegate.dev` and `attachments.fencegate.dev` let
//! through what is a [`Door`] here, and nothing else.

use super::{
    object::{node::Node, pod::Pod, volume::VolumeAttachment},
    request::{OnNode, Request, User, Write},
    transition::Transition,
};

/// All controllers of kube-controller-manager, if they share one account.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// Pod GC, if each controller has an account of its own
/// (`cmd/kube-controller-manager`: `--use-service-account-credentials`).
const POD_GC: &str = "system:serviceaccount:kube-system:pod-garbage-collector";
/// The attach/detach controller, likewise.
const ATTACH_DETACH: &str = "system:serviceaccount:kube-system:attachdetach-controller";

/// A write to something on a node that may lead to two writers on one volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    pub user: User,
    pub subject: Subject,
}

/// What is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A pod that is bound to a node and not finished is deleted without a grace period.
    Pod(Box<Pod>),
    /// The same by an eviction, which only names the pod.
    Eviction { namespace: String, name: String },
    /// A VolumeAttachment is deleted, or loses its last finalizer while it is attached.
    Attachment(Box<VolumeAttachment>),
}

/// The grace periods that count when a pod is deleted, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// `gracePeriodSeconds` of the request.
    pub asked: Option<i64>,
    /// `spec.terminationGracePeriodSeconds` of the pod.
    pub own: Option<i64>,
}

impl Grace {
    /// Whether this deletion takes away what is left of the pod's time
    /// (`k8s.io/apiserver/pkg/registry/rest/delete.go`: `BeforeDelete`). If none is left, an
    /// earlier deletion took it, which was judged; any other one then completes that, for example
    /// the namespace controller's just after the kubelet's.
    pub fn is_none(self, pod: &Pod) -> bool {
        self.asked.or(self.own.filter(|_| !pod.is_terminating())) == Some(0)
    }
}

impl Door {
    /// The deletion of a pod. `None` if it cannot lead to two writers, or if a kubelet or pod GC
    /// does it.
    pub fn deletes_pod(user: User, pod: Pod, grace: Grace) -> Option<Self> {
        let is_judged = grace.is_none(&pod) && may_run(&pod) && !is_of_the_node(&user);
        is_judged.then(|| Self { user, subject: Subject::Pod(Box::new(pod)) })
    }

    /// The eviction of a pod with `gracePeriodSeconds` in its `deleteOptions`.
    pub fn evicts_pod(user: User, namespace: String, name: String, asked: Option<i64>) -> Option<Self> {
        let is_judged = asked == Some(0) && !is_of_the_node(&user);
        is_judged.then_some(Self { user, subject: Subject::Eviction { namespace, name } })
    }

    /// The deletion of a VolumeAttachment. `None` if the attach/detach controller does it.
    pub fn deletes_attachment(user: User, attachment: VolumeAttachment) -> Option<Self> {
        let is_controllers = [CONTROLLER_MANAGER, ATTACH_DETACH].contains(&user.name.as_str());
        (!is_controllers).then(|| Self { user, subject: Subject::Attachment(Box::new(attachment)) })
    }

    /// An update of a VolumeAttachment. `None` unless it removes the last finalizer while the
    /// volume is attached.
    ///
    /// The external-attacher does that, too, of an attachment that is being deleted, once the
    /// driver has detached the volume, and only then reports it as detached
    /// (`github.com/kubernetes-csi/external-attacher/v4`, `pkg/controller/util.go`:
    /// `markAsDetached`). Its service account has another name with each driver, so that any
    /// service account may.
    pub fn updates_attachment(user: User, old: VolumeAttachment, new: &VolumeAttachment) -> Option<Self> {
        let is_freed = !old.metadata.finalizers.is_empty() && new.metadata.finalizers.is_empty();
        let is_attachers = old.metadata.deletion_timestamp.is_some() && user.is_a_service_account();
        let is_judged = is_freed && old.status.attached && !is_attachers;
        is_judged.then(|| Self { user, subject: Subject::Attachment(Box::new(old)) })
    }

    /// What the write does.
    pub fn transition(&self) -> Transition {
        match self.subject {
            Subject::Pod(_) | Subject::Eviction { .. } => Transition::ForceDelete,
            Subject::Attachment(_) => Transition::Detach,
        }
    }

    /// What is written.
    pub fn on_node(&self) -> OnNode {
        match &self.subject {
            Subject::Pod(pod) => OnNode::pod(&pod.metadata.namespace, &pod.metadata.name),
            Subject::Eviction { namespace, name } => OnNode::pod(namespace, name),
            Subject::Attachment(attachment) => OnNode::attachment(attachment),
        }
    }

    /// The name of the node. `None` if the pod must be read first.
    pub fn node(&self) -> Option<&str> {
        match &self.subject {
            Subject::Pod(pod) => Some(&pod.spec.node_name),
            Subject::Eviction { .. } => None,
            Subject::Attachment(attachment) => Some(&attachment.spec.node_name),
        }
    }

    /// The same with the pod that an eviction names. `None` if the eviction cannot lead to two
    /// writers.
    #[must_use]
    pub fn with_pod(self, pod: Pod) -> Option<Self> {
        may_run(&pod).then(|| Self { subject: Subject::Pod(Box::new(pod)), ..self })
    }

    /// The request about this Node. `None` if the pod that an eviction names is not known.
    pub fn request(self, node: Node) -> Option<Request> {
        let name = self.node()?.to_owned();
        let write = match self.subject {
            Subject::Pod(pod) => Write::ForceDelete { node, pod },
            Subject::Attachment(attachment) => Write::Detach { node, attachment },
            Subject::Eviction { .. } => return None,
        };
        Some(Request { node: name, user: self.user, write })
    }
}

/// Whether the pod may still write: it was bound to a node, and its containers have not ended.
fn may_run(pod: &Pod) -> bool {
    !pod.spec.node_name.is_empty() && !pod.is_finished()
}

/// A kubelet deletes a pod once its containers have ended; pod GC, once its node is out of service
/// or gone.
fn is_of_the_node(user: &User) -> bool {
    user.is_kubelet() || [CONTROLLER_MANAGER, POD_GC].contains(&user.name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|group| (*group).into()).collect(), ..User::default() }
    }

    fn pod(more: &Value) -> Pod {
        let mut pod = json!({"metadata": {"namespace": "prod", "name": "db-0"}, "spec": {"nodeName": "n1"}});
        json_patch::merge(&mut pod, more);
        from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_is_force_deleted_if_the_api_server_does_not_wait_for_its_kubelet() {
        let alive = json!({});
        let terminating = |remaining: Value| json!({"metadata": {"deletionTimestamp": "2026-11-22T10:20:00Z", "deletionGracePeriodSeconds": remaining}});
        for (pod_, asked, own, forced, what) in [
            (&alive, Some(0), Some(30), true, "kubectl delete pod --force"),
            (&alive, Some(1), Some(30), false, "kubectl delete pod --now"),
            (&alive, Some(-1), Some(30), false, "the API server makes it 1"),
            (&alive, None, Some(30), false, "an ordinary deletion"),
            (&alive, None, Some(0), true, "the pod's own grace period"),
            (&alive, Some(30), Some(0), false, "longer than the pod's own"),
            (&terminating(json!(30)), None, Some(0), false, "the deletion that is under way goes on"),
            (&terminating(json!(30)), Some(0), Some(30), true, "a second deletion, forced"),
            (&terminating(json!(30)), Some(5), Some(30), false, "a shorter grace period"),
            (&terminating(json!(0)), None, Some(30), false, "completes a deletion that was judged"),
            (&terminating(json!(0)), Some(0), Some(30), true, "forced once more"),
            (&terminating(Value::Null), Some(30), Some(30), false, "no grace period is left"),
        ] {
            assert_eq!(Grace { asked, own }.is_none(&pod(pod_)), forced, "{what}");
        }
    }

    #[test]
    fn a_pod_that_cannot_write_any_more_and_the_requests_of_its_node_are_no_doors() {
        let alice = || user("alice", &["system:masters"]);
        for (user, more, is_judged) in [
            (alice(), json!({}), true),
            (alice(), json!({"status": {"phase": "Running"}}), true),
            (alice(), json!({"status": {"phase": "Succeeded"}}), false),
            (alice(), json!({"status": {"phase": "Failed"}}), false),
            (alice(), json!({"spec": {"nodeName": ""}}), false),
            (user("system:node:n1", &["system:nodes"]), json!({}), false),
            (user("system:serviceaccount:kube-system:pod-garbage-collector", &[]), json!({}), false),
            (user("system:kube-controller-manager", &[]), json!({}), false),
            (user("system:serviceaccount:default:pod-garbage-collector", &[]), json!({}), true),
            (user("system:serviceaccount:kube-system:statefulset-controller", &[]), json!({}), true),
        ] {
            let grace = Grace { asked: Some(0), own: None };
            let deleted = Door::deletes_pod(user.clone(), pod(&more), grace);
            assert_eq!(deleted.is_some(), is_judged, "{} {more}", user.name);
            let evicted = Door::evicts_pod(user.clone(), "prod".into(), "db-0".into(), Some(0));
            let evicted = evicted.and_then(|door| door.with_pod(pod(&more)));
            assert_eq!(evicted, deleted, "{} {more}", user.name);
        }
        assert_eq!(Door::evicts_pod(alice(), "prod".into(), "db-0".into(), None), None);
    }

    #[test]
    fn a_volume_is_detached_by_hand_if_it_is_neither_the_controller_nor_the_driver() {
        let attachment = |finalizers: &[&str], attached: bool| -> VolumeAttachment {
            from_value(json!({"metadata": {"name": "csi-1", "finalizers": finalizers},
                "spec": {"nodeName": "n1"}, "status": {"attached": attached}}))
            .unwrap()
        };
        for (name, is_judged) in [
            ("alice", true),
            ("system:serviceaccount:kube-system:attachdetach-controller", false),
            ("system:kube-controller-manager", false),
            ("system:serviceaccount:kube-system:generic-garbage-collector", true),
        ] {
            let door = Door::deletes_attachment(user(name, &[]), attachment(&["a"], true));
            assert_eq!(door.is_some(), is_judged, "{name}");
        }
        for (before, attached, after, is_judged) in [
            (&["a"][..], true, &[][..], true),
            (&["a"], false, &[], false),
            (&["a", "b"], true, &["b"], false),
            (&[], true, &[], false),
        ] {
            let (old, new) = (attachment(before, attached), attachment(after, attached));
            let by_controller = user("system:serviceaccount:kube-system:attachdetach-controller", &[]);
            let door = Door::updates_attachment(by_controller, old, &new);
            assert_eq!(door.is_some(), is_judged, "{before:?} attached={attached} {after:?}");
        }
        // The attacher, once the volume is detached.
        for (name, is_judged) in [("system:serviceaccount:csi:attacher", false), ("alice", true)] {
            let (mut old, new) = (attachment(&["a"], true), attachment(&[], true));
            old.metadata.deletion_timestamp = Some("2026-11-22T10:19:00Z".parse().unwrap());
            assert_eq!(Door::updates_attachment(user(name, &[]), old, &new).is_some(), is_judged, "{name}");
        }
    }
}
