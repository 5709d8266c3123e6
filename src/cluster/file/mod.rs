//! A snapshot of a cluster from a file: the output of `kubectl get … -o yaml|json`, or one line of
//! the audit log.
//!
//! From objects, the same facts are read as from an API server. What a file does not have is not
//! taken for what a cluster does not have: `objects` tells which facts it leaves unknown. An audit
//! line contains the facts of its decision, so the decision can be repeated.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;

use self::{inventory::Inventory, objects::Objects};
use super::{ListError, Listed, VIRTUAL_GROUP, VIRTUAL_RESOURCE, Wanted};
use crate::policy::{
    facts::{FactQuery, Facts},
    object::{node::Node, pod::Pod},
    request::Request,
};

mod access;
mod inventory;
mod objects;

/// The built-in example cluster: `worker-2` is dead, and a database pod and its volume are still on
/// it.
const EXAMPLE: &str = include_str!("example.yaml");

/// An audit line has what its decision needed, and nothing else.
const NOT_RECORDED: &str = "the audit line does not have it";

/// A snapshot of a cluster.
#[derive(Clone, Debug)]
pub enum Snapshot {
    Objects(Box<Objects>),
    /// Facts as an audit line recorded them.
    Recorded(Box<Facts>),
}

/// Why a file is not a snapshot of a cluster.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("neither JSON nor YAML: {0}")]
    Parse(String),
    #[error("{kind} {name:?} is malformed")]
    Object { kind: String, name: String, source: serde_json::Error },
    #[error("a document is not a Kubernetes object: every document needs a kind")]
    NoKind,
    #[error("the facts in the audit line cannot be parsed: {0}")]
    Recorded(serde_json::Error),
    #[error("the file has {0} documents, and one of them is a line of the audit log: give that line alone")]
    ManyLines(usize),
}

impl Snapshot {
    /// The built-in example cluster.
    ///
    /// # Errors
    /// Never: a test parses the example.
    pub fn example() -> Result<Self, SnapshotError> {
        Self::parse(EXAMPLE)
    }

    /// Parses a file: JSON or YAML, one or several documents, each an object or a List. Objects of
    /// kinds that the gate does not read are ignored. An object that is there twice counts once, in
    /// its later version.
    ///
    /// # Errors
    /// If the text is neither JSON nor YAML, if a document has no `kind`, or if an object of a kind
    /// that the gate reads is malformed.
    ///
    /// # Example
    ///
    /// ```
    /// use fencegate::cluster::Snapshot;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pod = "kind: Pod\nmetadata: {name: db-0}\nspec: {nodeName: worker-2}\n";
    /// assert!(matches!(Snapshot::parse(pod)?, Snapshot::Objects(_)));
    ///
    /// let line = r#"{"event": "decision", "facts": {"now": "2026-11-22T10:20:00Z"}}"#;
    /// assert_eq!(Snapshot::parse(line)?.recorded_at(), Some("2026-11-22T10:20:00Z".parse()?));
    ///
    /// assert!(Snapshot::parse("hello: [").is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        let documents = documents(text)?;
        let is_decision = |document: &&Value| document.get("event").and_then(Value::as_str) == Some("decision");
        if let Some(decision) = documents.iter().find(is_decision) {
            if documents.len() > 1 {
                return Err(SnapshotError::ManyLines(documents.len()));
            }
            let facts = decision.get("facts").cloned().unwrap_or_default();
            return Ok(Self::Recorded(serde_json::from_value(facts).map_err(SnapshotError::Recorded)?));
        }
        let mut inventory = Inventory::default();
        documents.into_iter().try_for_each(|document| inventory.add(document))?;
        Ok(Self::Objects(Box::new(Objects::of(inventory)?)))
    }

    /// The time of the decision, if the snapshot is an audit line.
    pub fn recorded_at(&self) -> Option<Timestamp> {
        match self {
            Self::Objects(_) => None,
            Self::Recorded(facts) => Some(facts.now),
        }
    }

    /// The newest renewal of a kubelet's Lease: about when the file was written.
    pub fn newest_renewal(&self) -> Option<Timestamp> {
        match self {
            Self::Objects(objects) => objects.newest_renewal(),
            Self::Recorded(facts) => Some(facts.now),
        }
    }

    /// Lists Nodes for people.
    pub(super) fn list(&self, wanted: &Wanted) -> Result<Vec<Listed>, ListError> {
        let listed = match self {
            Self::Objects(objects) => objects.listed().ok_or(ListError::NotInFile)?,
            Self::Recorded(_) => return Err(ListError::NotInFile),
        };
        let find = |name: &String| {
            let named = listed.iter().find(|listed| listed.node.metadata.name == *name).cloned();
            named
                .ok_or_else(|| ListError::missing(name, listed.iter().map(|listed| listed.node.metadata.name.as_str())))
        };
        match wanted {
            Wanted::All => Ok(listed.to_vec()),
            Wanted::Labels(_) => Err(ListError::LabelsInFile),
            Wanted::Names(names) => names.iter().map(find).collect(),
        }
    }

    /// The Node with this name. `None` if there is none.
    ///
    /// # Errors
    /// If the file says nothing about Nodes.
    pub(super) fn node(&self, name: &str) -> Result<Option<Node>, String> {
        match self {
            Self::Objects(objects) => objects.node(name),
            Self::Recorded(_) => Err(NOT_RECORDED.to_owned()),
        }
    }

    /// The pod with this name. `None` if there is none.
    ///
    /// # Errors
    /// If the file says nothing about pods.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        match self {
            Self::Objects(objects) => objects.pod(namespace, name),
            Self::Recorded(_) => Err(NOT_RECORDED.to_owned()),
        }
    }

    /// Reads the facts in `query`, at `now`. An audit line has only the facts of its own decision.
    pub fn read(&self, request: &Request, query: &FactQuery, now: Timestamp) -> Facts {
        match self {
            Self::Objects(objects) => objects.read(request, query, now),
            Self::Recorded(facts) => Facts { now, ..facts.as_ref().clone() },
        }
    }
}

/// Tries JSON first: large dumps are JSON, and JSON is parsed much faster.
fn documents(text: &str) -> Result<Vec<Value>, SnapshotError> {
    let text = text.strip_prefix('\u{feff}').map_or(Cow::Borrowed(text), Cow::Borrowed);
    if let Ok(documents) = serde_json::Deserializer::from_str(&text).into_iter().collect() {
        return Ok(documents);
    }
    // The file is the operator's own, so it needs no budget against hostile YAML, and a dump of a
    // real cluster would exceed one. As in Kubernetes, only `true` and `false` are booleans: `off`
    // and `yes` are strings.
    let options = serde_saphyr::options! { budget: None, strict_booleans: true };
    serde_saphyr::from_multiple_with_options(&text, options).map_err(|error| SnapshotError::Parse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        facts::{CustomKind, Fact, Observed, Verb},
        request::{User, Write},
    };

    fn request(user: &str, groups: &[&str]) -> Request {
        Request {
            node: "n1".into(),
            user: User { name: user.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() },
            write: Write::Delete { old: Node::default() },
        }
    }

    fn read(text: &str, fact: Fact) -> Facts {
        Snapshot::parse(text).unwrap().read(
            &request("alice", &["dev"]),
            &FactQuery::from([fact]),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn known<T: Clone>(observed: &Observed<T>) -> T {
        observed.value().unwrap().clone()
    }

    const POD: &str = r#"{"kind":"Pod","metadata":{"name":"p"},"spec":{"nodeName":"n1"}}"#;

    #[test]
    fn json_yaml_lists_and_several_documents_are_all_parsed() {
        for text in [
            POD.to_owned(),
            format!("{POD}\n{POD}").replacen("\"p\"", "\"q\"", 1).replacen("n1", "n2", 1),
            format!(r#"{{"kind":"List","items":[{POD}]}}"#),
            r#"{"kind":"PodList","items":[{"metadata":{"name":"p"},"spec":{"nodeName":"n1"}}]}"#.to_owned(),
            "---\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: n1}\n---\n# nothing\n".to_owned(),
            "apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n  metadata: {name: p}\n  spec: {nodeName: n1}\n"
                .to_owned(),
        ] {
            assert_eq!(known(&read(&text, Fact::Pods).pods).len(), 1, "{text}");
        }
    }

    #[test]
    fn an_error_says_why_a_file_is_not_a_snapshot() {
        for (text, why) in [
            ("hello: [", "neither JSON nor YAML"),
            ("a: 1", "needs a kind"),
            ("kind: Pod\nmetadata: {name: p}\nspec: 7", r#"Pod "p" is malformed"#),
        ] {
            let error = Snapshot::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn an_audit_line_must_be_the_only_document() {
        let line = r#"{"event":"decision","facts":{"now":"2026-11-22T10:20:00Z"}}"#;
        let recorded = Snapshot::parse(line).unwrap();
        assert_eq!(recorded.recorded_at(), Some("2026-11-22T10:20:00Z".parse().unwrap()));
        let two = Snapshot::parse(&format!("{line}\n{line}\n")).unwrap_err().to_string();
        assert!(two.contains("that line alone"), "{two}");
    }

    #[test]
    fn only_leases_in_kube_node_lease_count() {
        let lease = |namespace| format!("kind: Lease\nmetadata: {{name: n1, namespace: {namespace}}}\nspec: {{}}");
        assert!(known(&read(&lease("kube-node-lease"), Fact::Lease).lease).lease.is_some());
        let both = format!("{}\n---\n{}", lease("kube-node-lease").replace("n1", "n2"), lease("default"));
        assert!(known(&read(&both, Fact::Lease).lease).lease.is_none());
        assert!(read(&lease("default"), Fact::Lease).lease.value().is_err());
    }

    /// Why a fact is unknown.
    type Why = fn(&Facts) -> Option<String>;

    #[test]
    fn a_kind_that_the_file_does_not_have_is_unknown_unless_there_is_an_empty_list_of_it() {
        let facts = |text: &str| {
            let facts = [Fact::Lease, Fact::Pods, Fact::VolumeAttachments, Fact::Nodes];
            Snapshot::parse(text).unwrap().read(&request("alice", &[]), &FactQuery::from(facts), Timestamp::UNIX_EPOCH)
        };
        let kinds: [(&str, Why); 4] = [
            ("Lease", |facts| facts.lease.value().err().map(str::to_owned)),
            ("Pod", |facts| facts.pods.value().err().map(str::to_owned)),
            ("VolumeAttachment", |facts| facts.volume_attachments.value().err().map(str::to_owned)),
            ("Node", |facts| facts.nodes.value().err().map(str::to_owned)),
        ];
        for (kind, why) in kinds {
            let told = why(&facts("kind: List\nitems: []\n")).unwrap();
            let advice = format!(r#"add {{"kind": "{kind}List", "items": []}} to it"#);
            assert!(told.starts_with(&format!("the file has no {kind};")) && told.ends_with(&advice), "{told}");
            assert_eq!(why(&facts(&format!("{{kind: {kind}List, items: []}}\n"))), None);
            let of_another = format!("kind: {kind}\nmetadata: {{name: n2, namespace: kube-node-lease}}\n");
            assert_eq!(why(&facts(&of_another)), None, "there are some, but none of this node");
            let namesake = format!("apiVersion: example.com/v1\n{of_another}");
            assert!(why(&facts(&namesake)).is_some(), "another group's {kind} is none of them");
        }
    }

    #[test]
    fn a_custom_kind_that_the_file_does_not_have_is_not_installed() {
        let hosts = |text: &str| {
            let query = FactQuery::from([Fact::Custom(CustomKind::BareMetalHost)]);
            let facts = Snapshot::parse(text).unwrap().read(&request("alice", &[]), &query, Timestamp::UNIX_EPOCH);
            known(&facts.custom.bare_metal_hosts).map(|hosts| hosts.len())
        };
        assert_eq!(hosts("kind: List\nitems: []\n"), None);
        assert_eq!(hosts("{kind: BareMetalHostList, items: []}\n"), Some(0));
    }

    #[test]
    fn access_is_denied_unless_a_recorded_review_allows_it() {
        let review = |who: &str, name: &str, allowed: bool| {
            format!(
                "kind: SubjectAccessReview\nspec:\n  {who}\n  resourceAttributes: {{group: fencegate.dev, resource: nodes, \
                 verb: break-glass, name: \"{name}\"}}\nstatus: {{allowed: {allowed}}}\n"
            )
        };
        for (text, expected) in [
            (review("user: alice", "n1", true), true),
            (review("user: alice", "", true), true),
            (review("groups: [dev]", "n1", true), true),
            (review("user: alice", "n1", false), false),
            (review("user: alice", "n2", true), false),
            (review("user: bob", "n1", true), false),
            (
                review("{user: alice, groups: [ops]}", "n1", true)
                    .replace("  {user: alice, groups: [ops]}", "  user: alice\n  groups: [ops]"),
                false,
            ),
            ("kind: List".to_owned(), false),
        ] {
            let access = read(&text, Fact::Access(Verb::BreakGlass)).access;
            assert_eq!(access[&Verb::BreakGlass].value().unwrap().allowed, expected, "{text}");
        }
    }

    #[test]
    fn the_example_cluster_can_be_parsed() {
        assert!(matches!(Snapshot::example().unwrap(), Snapshot::Objects(_)));
        let nodes = known(
            &Snapshot::example()
                .unwrap()
                .read(&request("alice", &[]), &FactQuery::from([Fact::Nodes]), Timestamp::UNIX_EPOCH)
                .nodes,
        );
        assert_eq!(nodes.total, 3);
    }
}
