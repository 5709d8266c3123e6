//! A snapshot of a cluster from a file: the output of `kubectl get … -o yaml|json`, or one line of
//! the audit log.
//!
//! From objects, the same facts are read as from an API server. An audit line contains the facts of
//! its decision, so the decision can be repeated.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use super::{VIRTUAL_GROUP, VIRTUAL_RESOURCE};
use crate::policy::{
    facts::{
        Access, BudgetAnswer, CustomKind, Fact, FactQuery, FactValue, Facts, Installed, LeaseAnswer, NodeSummary,
        Observed,
    },
    json::{Object, null_is_default},
    object::{
        budget::{self, Budget},
        lease::Lease,
        node::Node,
        pod::Pod,
        volume::{ClaimRef, PersistentVolume, VolumeAttachment},
    },
    request::{Request, User},
};

/// The built-in example cluster: `worker-2` is dead, and a database pod and its volume are still on
/// it.
const EXAMPLE: &str = include_str!("example.yaml");

/// A snapshot of a cluster.
#[derive(Clone, Debug)]
pub enum Snapshot {
    Objects(Box<Objects>),
    /// Facts as an audit line recorded them.
    Recorded(Box<Facts>),
}

/// Objects of the kinds that the gate reads.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    nodes: Vec<Node>,
    leases: BTreeMap<String, Lease>,
    budget: Option<Budget>,
    pods: Vec<Pod>,
    volume_attachments: Vec<VolumeAttachment>,
    persistent_volumes: BTreeMap<String, PersistentVolume>,
    access_reviews: Vec<AccessReview>,
    /// By kind, as JSON. A kind without an entry is not installed.
    custom: BTreeMap<CustomKind, Vec<Value>>,
}

/// Why a file is not a snapshot of a cluster.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("neither JSON nor YAML: {0}")]
    Parse(String),
    #[error("{kind} {name:?}: {source}")]
    Object { kind: String, name: String, source: serde_json::Error },
    #[error("a document is not a Kubernetes object: every document needs a kind")]
    NoKind,
    #[error("the facts in the audit line cannot be parsed: {0}")]
    Recorded(serde_json::Error),
    #[error("the file has {0} documents, and one of them is a line of the audit log: give that line alone")]
    ManyLines(usize),
}

#[derive(Clone, Debug, Deserialize)]
struct AccessReview {
    spec: AccessReviewSpec,
    #[serde(default, deserialize_with = "null_is_default")]
    status: AccessReviewStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessReviewSpec {
    #[serde(default, deserialize_with = "null_is_default")]
    user: String,
    #[serde(default, deserialize_with = "null_is_default")]
    groups: Vec<String>,
    resource_attributes: ResourceAttributes,
}

#[derive(Clone, Debug, Deserialize)]
struct ResourceAttributes {
    #[serde(default, deserialize_with = "null_is_default")]
    group: String,
    #[serde(default, deserialize_with = "null_is_default")]
    resource: String,
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    verb: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct AccessReviewStatus {
    #[serde(default, deserialize_with = "null_is_default")]
    allowed: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    denied: bool,
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
    /// kinds that the gate does not read are ignored.
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
        let mut objects = Objects::default();
        for document in documents {
            objects.insert(document, None)?;
        }
        Ok(Self::Objects(Box::new(objects)))
    }

    /// The time of the decision, if the snapshot is an audit line.
    pub fn recorded_at(&self) -> Option<Timestamp> {
        match self {
            Self::Objects(_) => None,
            Self::Recorded(facts) => Some(facts.now),
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

impl Objects {
    fn read(&self, request: &Request, query: &FactQuery, now: Timestamp) -> Facts {
        let mut facts = Facts::at(now);
        for fact in query {
            facts.learn(now, self.fact(*fact, request, now));
        }
        let volumes = facts.volumes_to_read(&request.write).into_iter().map(|name| {
            (name.to_owned(), Observed::Known { at: now, value: self.persistent_volumes.get(name).cloned() })
        });
        facts.persistent_volumes = volumes.collect();
        let claims = facts.claims_to_read();
        let volumes =
            claims.iter().map(|claim| (claim.to_string(), Observed::Known { at: now, value: self.bound_to(claim) }));
        facts.claimed_volumes = volumes.collect();
        facts
    }

    fn fact(&self, fact: Fact, request: &Request, now: Timestamp) -> FactValue {
        let node = &request.node;
        match fact {
            Fact::Lease => FactValue::Lease(LeaseAnswer { date: now, lease: self.leases.get(node).cloned() }),
            Fact::Pods => {
                let bound = self.pods.iter().filter(|pod| pod.spec.node_name == *node);
                FactValue::Pods(bound.cloned().collect())
            }
            Fact::VolumeAttachments => {
                let of_node = self.volume_attachments.iter().filter(|volume| volume.spec.node_name == *node);
                FactValue::VolumeAttachments(of_node.cloned().collect())
            }
            Fact::Nodes => FactValue::Nodes(NodeSummary::of(&self.nodes, node)),
            Fact::Budget => FactValue::Budget(BudgetAnswer { date: now, lease: self.budget.clone() }),
            Fact::Access(verb) => FactValue::Access(verb, self.access(&request.user, verb.name(), node)),
            Fact::Custom(kind) => FactValue::Custom(kind, self.custom(kind, request.write.current())),
        }
    }

    /// The PersistentVolume that is bound to a claim. It names the claim, so that a file without
    /// PersistentVolumeClaims is enough.
    fn bound_to(&self, claim: &ClaimRef) -> Option<PersistentVolume> {
        self.persistent_volumes.values().find(|volume| volume.spec.claim_ref.as_ref() == Some(claim)).cloned()
    }

    /// The objects of a custom kind that are about the node.
    fn custom(&self, kind: CustomKind, node: &Node) -> Installed<Value> {
        let about = |objects: &Vec<Value>| {
            objects.iter().filter(|object| kind.may_be_about(object, node)).cloned().collect::<Vec<_>>()
        };
        self.custom.get(&kind).map(about)
    }

    /// The answer of the SubjectAccessReviews in the file: allowed if one of them allows and none
    /// denies.
    fn access(&self, user: &User, verb: &str, node: &str) -> Access {
        let mut about = self.access_reviews.iter().filter(|review| review.is_about(user, verb, node)).peekable();
        let recorded = about.peek().is_some();
        let (allowed, denied) = about.fold((false, false), |(allowed, denied), review| {
            (allowed || review.status.allowed, denied || review.status.denied)
        });
        Access { allowed: recorded && allowed && !denied }
    }

    /// Adds an object by its kind. In a typed list such as a PodList, items have no `kind`; it
    /// comes from the list.
    fn insert(&mut self, object: Value, kind_in_list: Option<&str>) -> Result<(), SnapshotError> {
        let text = |field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
        let kind = match (text("kind"), kind_in_list) {
            (Some(kind), _) => kind,
            (None, Some(kind)) => kind.to_owned(),
            (None, None) if object.is_null() => return Ok(()),
            (None, None) => return Err(SnapshotError::NoKind),
        };
        let metadata = |field: &str| {
            object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (name, namespace) = (metadata("name"), metadata("namespace"));
        match (kind.as_str(), kind.strip_suffix("List")) {
            (_, Some(item_kind)) => {
                let item_kind = Some(item_kind).filter(|kind| !kind.is_empty());
                let items = object.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                items.into_iter().try_for_each(|item| self.insert(item, item_kind))?;
            }
            ("Node", _) => self.nodes.push(typed(&kind, &name, object)?),
            ("Lease", _) if namespace == "kube-node-lease" => {
                let lease: Lease = typed(&kind, &name, object)?;
                self.leases.insert(name.clone(), lease.with_managed_fields());
            }
            ("Lease", _) if name == budget::NAME => self.budget = Some(typed(&kind, &name, object)?),
            ("Pod", _) => self.pods.push(typed(&kind, &name, object)?),
            ("VolumeAttachment", _) => self.volume_attachments.push(typed(&kind, &name, object)?),
            ("PersistentVolume", _) => {
                self.persistent_volumes.insert(name.clone(), typed(&kind, &name, object)?);
            }
            ("SubjectAccessReview", _) => self.access_reviews.push(typed(&kind, &name, object)?),
            (other, _) => {
                if let Some(custom) = CustomKind::ALL.iter().find(|custom| custom.kind().name == other) {
                    custom.check(&object).map_err(|source| SnapshotError::Object { kind, name, source })?;
                    self.custom.entry(*custom).or_default().push(object);
                }
            }
        }
        Ok(())
    }
}

impl AccessReview {
    /// Whether this review is about that requester, verb and node. A field that the review leaves
    /// out matches everything.
    fn is_about(&self, user: &User, verb: &str, node: &str) -> bool {
        let ResourceAttributes { group, resource, name, verb: recorded_verb } = &self.spec.resource_attributes;
        let matches = |recorded: &str, asked: &str| recorded == "*" || recorded == asked;
        matches(recorded_verb, verb)
            && matches(group, VIRTUAL_GROUP)
            && matches(resource, VIRTUAL_RESOURCE)
            && (name.is_empty() || matches(name, node))
            && (self.spec.user.is_empty() || self.spec.user == user.name)
            && !(self.spec.user.is_empty() && self.spec.groups.is_empty())
            && self.spec.groups.iter().all(|group| user.groups.contains(group))
    }
}

fn typed<T: DeserializeOwned>(kind: &str, name: &str, object: Value) -> Result<T, SnapshotError> {
    serde_json::from_value(object).map(|Object(typed)| typed).map_err(|source| SnapshotError::Object {
        kind: kind.to_owned(),
        name: name.to_owned(),
        source,
    })
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
    use crate::policy::{facts::Verb, request::Write};

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
            ("kind: Pod\nmetadata: {name: p}\nspec: 7", r#"Pod "p": "#),
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
        assert!(known(&read(&lease("default"), Fact::Lease).lease).lease.is_none());
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
        assert!(matches!(Snapshot::example().unwrap(), Snapshot::Objects(objects) if objects.nodes.len() == 3));
    }
}
