//! What is asked: one write to a Node, with both sides of it, and who asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{json::null_is_default, object::node::Node};

/// A write to a Node that someone asks the API server for. `admission::review` makes it from an
/// AdmissionReview.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The node's name, from the object (`request.name` is empty in a delete-collection).
    pub node: String,
    pub user: User,
    pub write: Write,
}

/// The write, with as much of the Node before and after as the operation has.
///
/// In a write to `nodes/status` both sides have the stored Node's taints: such a write cannot
/// change `spec`, and the mutating phase still shows the client's copy of it, which may be stale.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, in a box")]
pub enum Write {
    Create { new: Node },
    Update { old: Node, new: Node },
    Delete { old: Node },
}

impl Write {
    /// The stored Node, before the write.
    pub fn before(&self) -> Option<&Node> {
        match self {
            Self::Create { .. } => None,
            Self::Update { old, .. } | Self::Delete { old } => Some(old),
        }
    }

    /// The Node as it would be stored.
    pub fn after(&self) -> Option<&Node> {
        match self {
            Self::Create { new } | Self::Update { new, .. } => Some(new),
            Self::Delete { .. } => None,
        }
    }

    /// The Node whose `status` is believed: the stored one, because a client's `status` in an
    /// update is not what will be stored; the new one on CREATE.
    pub fn current(&self) -> &Node {
        match self {
            Self::Create { new } => new,
            Self::Update { old, .. } | Self::Delete { old } => old,
        }
    }

    /// The newest object in the request, which is where a break-glass is looked for (contract
    /// section 7): the new one, or on DELETE the old one.
    pub fn newest(&self) -> &Node {
        match self {
            Self::Create { new } | Self::Update { new, .. } => new,
            Self::Delete { old } => old,
        }
    }
}

/// `userInfo` of the request: who the API server says is asking.
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
/// The user name of the kubelet on a node is this and the node's name.
const NODE_USER_PREFIX: &str = "system:node:";
/// Carried by a service account token that is bound to a pod: the node that the pod runs on
/// (`k8s.io/apiserver/pkg/authentication/serviceaccount`: `NodeNameKey`).
const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";

impl User {
    /// Whether this is a kubelet, of any node.
    pub fn is_a_node(&self) -> bool {
        self.groups.iter().any(|group| group == NODES_GROUP)
    }

    /// Whether this is the kubelet of that node, or a pod that runs on it: what is compromised with
    /// the machine.
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
}
