//! A request: one write that concerns a Node, with the Node before and after it, and the requester.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    annotation::is_meaningless,
    json::null_is_default,
    object::{
        node::{Node, OUT_OF_SERVICE, Taint},
        pod::Pod,
        volume::VolumeAttachment,
    },
    text::NAMED,
};

/// A request to write a Node, or to delete what belongs to one. `admission::review` parses it from
/// an AdmissionReview; [`Door`](super::door::Door) makes it of one that is not about a Node.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The node's name, from the object: `request.name` is empty if a request deletes a collection.
    pub node: String,
    pub user: User,
    pub write: Write,
}

/// The write, with the stored Node as `old` and the Node that would be stored as `new`.
///
/// In a write to `nodes/status`, both have the taints of the stored Node. Such a write cannot
/// change `spec`, but a mutating webhook still sees the client's copy of it, which may be stale.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is boxed")]
pub enum Write {
    Create {
        new: Node,
    },
    Update {
        old: Node,
        new: Node,
    },
    Delete {
        old: Node,
    },
    /// A pod on this Node is deleted without waiting until its containers have ended.
    ForceDelete {
        node: Node,
        pod: Box<Pod>,
    },
    /// A volume counts as detached from this Node from now on, or soon.
    Detach {
        node: Node,
        attachment: Box<VolumeAttachment>,
    },
}

/// Something on a Node, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnNode {
    pub kind: &'static str,
    pub name: String,
}

impl OnNode {
    /// A pod.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self { kind: "pod", name: format!("{namespace}/{name}") }
    }

    /// A VolumeAttachment.
    pub fn attachment(attachment: &VolumeAttachment) -> Self {
        Self { kind: "VolumeAttachment", name: attachment.metadata.name.clone() }
    }
}

impl Write {
    /// The write with this Node before and after it: the inverse of [`before`](Self::before) and
    /// [`after`](Self::after). `None` if there is no Node at all.
    pub fn between(before: Option<Node>, after: Option<Node>) -> Option<Self> {
        match (before, after) {
            (None, Some(new)) => Some(Self::Create { new }),
            (Some(old), Some(new)) => Some(Self::Update { old, new }),
            (Some(old), None) => Some(Self::Delete { old }),
            (None, None) => None,
        }
    }

    /// The write that puts this Node out of service as the procedure has it.
    pub fn placement(stored: &Node) -> Self {
        Self::Update { old: stored.clone(), new: out_of_service(stored) }
    }

    /// The stored Node, before the write. `None` on CREATE.
    pub fn before(&self) -> Option<&Node> {
        match self {
            Self::Create { .. } => None,
            Self::Update { old, .. } | Self::Delete { old } => Some(old),
            Self::ForceDelete { node, .. } | Self::Detach { node, .. } => Some(node),
        }
    }

    /// The Node that would be stored. `None` if something is deleted.
    pub fn after(&self) -> Option<&Node> {
        match self {
            Self::Create { new } | Self::Update { new, .. } => Some(new),
            Self::Delete { .. } | Self::ForceDelete { .. } | Self::Detach { .. } => None,
        }
    }

    /// What is written, if it is not the Node itself.
    pub fn on_node(&self) -> Option<OnNode> {
        match self {
            Self::Create { .. } | Self::Update { .. } | Self::Delete { .. } => None,
            Self::ForceDelete { pod, .. } => Some(OnNode::pod(&pod.metadata.namespace, &pod.metadata.name)),
            Self::Detach { attachment, .. } => Some(OnNode::attachment(attachment)),
        }
    }

    /// Whether the write is to the Node itself.
    pub fn is_to_the_node(&self) -> bool {
        !matches!(self, Self::ForceDelete { .. } | Self::Detach { .. })
    }

    /// The Node whose `status` the gate judges: the stored one, because the `status` that a client
    /// sends in an update is not stored. On CREATE, the new one.
    pub fn current(&self) -> &Node {
        match self {
            Self::Create { new } => new,
            Self::Update { old, .. } | Self::Delete { old } => old,
            Self::ForceDelete { node, .. } | Self::Detach { node, .. } => node,
        }
    }

    /// Drops keys under the gate's prefix that mean nothing, as far as they cannot change the
    /// decision: those that the write leaves as they are, and those beyond what is told. What is
    /// left is short, however many a Node has.
    pub fn forget_meaningless(&mut self) {
        let meaningless = |node: &Node| -> Vec<String> {
            node.gate_annotations().map(|(key, _)| key).filter(|key| is_meaningless(key)).map(str::to_owned).collect()
        };
        let (before, after) = (self.before(), self.after());
        let value = |node: Option<&Node>, key: &str| node.and_then(|node| node.annotation(key)).map(str::to_owned);
        let written = after.map(meaningless).unwrap_or_default().into_iter();
        let written = written.filter(|key| value(before, key) != value(after, key)).take(NAMED + 1);
        let removed = before.map(meaningless).unwrap_or_default().into_iter();
        let removed = removed.filter(|key| after.is_some() && value(after, key).is_none()).take(1);
        let kept: BTreeSet<String> = written.chain(removed).collect();
        let (old, new) = match self {
            Self::Create { new } => (None, Some(new)),
            Self::Update { old, new } => (Some(old), Some(new)),
            Self::Delete { old } => (Some(old), None),
            Self::ForceDelete { node, .. } | Self::Detach { node, .. } => (Some(node), None),
        };
        for annotations in [old, new].into_iter().flatten().filter_map(|node| node.metadata.annotations.as_mut()) {
            annotations.retain(|key, _| !is_meaningless(key) || kept.contains(key));
        }
    }

    /// Whether the API server will refuse this update with 409 Conflict, after the mutating
    /// webhooks: it names another version of the Node than the stored one. The API server compares
    /// numbers, so that only two numbers in canonical form certainly differ; a write with version
    /// `0` or without one replaces any version.
    pub fn is_stale(&self) -> bool {
        let Self::Update { old, new } = self else { return false };
        let (stored, named) = (&old.metadata.resource_version, &new.metadata.resource_version);
        is_canonical(named) && is_canonical(stored) && named != stored
    }

    /// The newest Node in the request: the new one, or if something is deleted the stored one. The
    /// break-glass is read from it (contract section 7).
    pub fn newest(&self) -> &Node {
        self.after().unwrap_or(self.current())
    }
}

/// The Node with the taint. It stays as it is if it has the taint.
pub fn out_of_service(node: &Node) -> Node {
    let mut node = node.clone();
    if !node.is_out_of_service() {
        let [key, value, effect] = [OUT_OF_SERVICE, "nodeshutdown", "NoExecute"].map(str::to_owned);
        node.spec.taints.push(Taint { key, value, effect });
    }
    node
}

/// Whether a version is a positive number, as the API server writes it.
fn is_canonical(version: &str) -> bool {
    !version.starts_with('0') && !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
}

/// The requester: `userInfo` of the request, as the API server authenticated it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    #[serde(rename = "username", deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub uid: String,
    #[serde(deserialize_with = "null_is_default")]
    pub groups: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of every kubelet (`k8s.io/apiserver/pkg/authentication/user`: `NodesGroup`).
const NODES_GROUP: &str = "system:nodes";
/// The prefix of a kubelet's user name. The rest is the name of its node
/// (`k8s.io/kubernetes/pkg/auth/nodeidentifier`).
const NODE_USER_PREFIX: &str = "system:node:";
/// The prefix of a service account's user name. The rest is `namespace:name`
/// (`k8s.io/apiserver/pkg/authentication/serviceaccount`: `ServiceAccountUsernamePrefix`).
pub(super) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// In `extra` of a service account token that is bound to a pod: the node that the pod runs on
/// (`k8s.io/apiserver/pkg/authentication/serviceaccount`: `NodeNameKey`).
const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";

impl User {
    /// Whether the requester is a kubelet, of any node.
    pub fn is_kubelet(&self) -> bool {
        self.groups.iter().any(|group| group == NODES_GROUP)
    }

    /// Whether the requester is a program in the cluster.
    pub fn is_a_service_account(&self) -> bool {
        self.name.starts_with(SERVICE_ACCOUNT_PREFIX)
    }

    /// Whether the requester is the kubelet of this node, or a pod that runs on it. These
    /// credentials are on the machine: if it is compromised, so are they.
    pub fn speaks_from(&self, node: &str) -> bool {
        self.name.strip_prefix(NODE_USER_PREFIX) == Some(node)
            || self.extra.get(NODE_NAME_EXTRA).is_some_and(|nodes| nodes.iter().any(|name| name == node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &str)]) -> User {
        User {
            name: name.to_owned(),
            extra: extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect(),
            ..User::default()
        }
    }

    fn version(version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.resource_version = version.into();
        node
    }

    #[test]
    fn an_update_is_stale_if_it_certainly_names_another_version_than_the_stored_one() {
        for (stored, named, expected) in [
            ("7", "7", false),
            ("7", "6", true),
            ("7", "8", true),
            ("70", "7", true),
            ("7", "99999999999999999999999", true),
            ("7", "", false),
            ("7", "0", false),
            ("7", "007", false),
            ("7", "006", false),
            ("7", " 5", false),
            ("7", "5 ", false),
            ("7", "+5", false),
            ("7", "-5", false),
            ("7", "5.0", false),
            ("7", "five", false),
            ("7", "٥", false),
            ("", "5", false),
        ] {
            let update = Write::Update { old: version(stored), new: version(named) };
            assert_eq!(update.is_stale(), expected, "{named:?} for {stored:?}");
        }
    }

    #[test]
    fn a_creation_and_a_deletion_are_never_stale() {
        assert!(!Write::Create { new: version("5") }.is_stale());
        assert!(!Write::Delete { old: version("5") }.is_stale());
    }

    #[test]
    fn a_kubelet_and_a_pod_speak_from_their_own_node_only() {
        for (who, expected) in [
            (user("system:node:n1", &[]), true),
            (user("system:node:n10", &[]), false),
            (user("n1", &[]), false),
            (user("system:serviceaccount:a:b", &[(NODE_NAME_EXTRA, "n1")]), true),
            (user("system:serviceaccount:a:b", &[(NODE_NAME_EXTRA, "n2")]), false),
            (user("alice", &[("node-name", "n1")]), false),
        ] {
            assert_eq!(who.speaks_from("n1"), expected, "{who:?}");
        }
    }

    #[test]
    fn of_the_keys_that_mean_nothing_only_those_that_the_write_changes_are_kept() {
        let node = |keys: &[(&str, &str)]| {
            let mut node = Node::default();
            let annotations = keys.iter().map(|(key, value)| (format!("fencegate.dev/{key}"), (*value).to_owned()));
            node.metadata.annotations = Some(annotations.collect());
            node
        };
        let kept = |mut write: Write| {
            write.forget_meaningless();
            let keys = |node: Option<&Node>| {
                let keys = node.into_iter().flat_map(|node| node.gate_annotations().map(|(key, _)| key.to_owned()));
                keys.collect::<Vec<_>>()
            };
            (keys(write.before()), keys(write.after()))
        };
        let (a, method) = ("fencegate.dev/a".to_owned(), "fencegate.dev/method".to_owned());
        let update =
            |old: &[(&str, &str)], new: &[(&str, &str)]| kept(Write::Update { old: node(old), new: node(new) });
        let both = [("a", "1"), ("method", "power-off")];
        assert_eq!(update(&both, &both), (vec![method.clone()], vec![method.clone()]));
        assert_eq!(update(&[("a", "1")], &[("a", "2")]), (vec![a.clone()], vec![a.clone()]));
        assert_eq!(update(&[("a", "1")], &[]), (vec![a], vec![]));
        assert_eq!(kept(Write::Delete { old: node(&both) }), (vec![method], vec![]));
    }
}
