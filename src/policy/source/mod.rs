//! Who vouches that a node was fenced (contract section 6): facts in, a fence or why not out. One file a source.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    annotation,
    evidence::Method,
    facts::{Fact, Facts},
    reason::Unread,
    request::Write,
};

mod annotations;
pub mod bare_metal_host;
mod cloud_shutdown;
pub mod custom;
pub mod fence_agents_remediation;
pub mod network_fence;
mod pacemaker;
pub mod self_node_remediation;

pub use annotations::told;

/// Who may vouch that a node was fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// Whoever fenced the node wrote evidence on it (contract section 2).
    Annotations,
    /// The cloud says that the instance is stopped.
    CloudShutdown,
    /// OpenShift's two-node fencing.
    Pacemaker,
    /// medik8s: a fence agent reported success.
    FenceAgentsRemediation,
    /// medik8s: the node rebooted itself, or must have by now.
    SelfNodeRemediation,
    /// csi-addons: the storage refuses the node's addresses.
    NetworkFence,
    /// Metal3: the machine's power is off.
    BareMetalHost,
}

impl Source {
    pub const ALL: [Self; 7] = [
        Self::Annotations,
        Self::CloudShutdown,
        Self::Pacemaker,
        Self::FenceAgentsRemediation,
        Self::SelfNodeRemediation,
        Self::NetworkFence,
        Self::BareMetalHost,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Annotations => "annotations",
            Self::CloudShutdown => "cloud-shutdown",
            Self::Pacemaker => "pacemaker",
            Self::FenceAgentsRemediation => "fence-agents-remediation",
            Self::SelfNodeRemediation => "self-node-remediation",
            Self::NetworkFence => "network-fence",
            Self::BareMetalHost => "bare-metal-host",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }

    /// What the gate writes as `method` for a source other than the annotations.
    pub fn method(self) -> Option<Method> {
        match self {
            Self::Annotations => None,
            Self::CloudShutdown => Some(Method::InstanceStop),
            Self::Pacemaker | Self::FenceAgentsRemediation | Self::SelfNodeRemediation | Self::BareMetalHost => {
                Some(Method::PowerOff)
            }
            Self::NetworkFence => Some(Method::StorageIsolation),
        }
    }

    /// What must be read to ask this source about the write.
    fn fact(self, write: &Write) -> Option<Fact> {
        match self {
            Self::Annotations | Self::CloudShutdown | Self::Pacemaker => None,
            Self::FenceAgentsRemediation => Some(Fact::FenceAgentsRemediations),
            Self::SelfNodeRemediation => Some(Fact::SelfNodeRemediations),
            Self::NetworkFence => Some(Fact::NetworkFences),
            Self::BareMetalHost => {
                bare_metal_host::named_by(write.condition()).is_some().then_some(Fact::BareMetalHosts)
            }
        }
    }

    /// Whether this source vouches, and since when; or why not.
    fn ask(self, write: &Write, facts: &Facts) -> Answer {
        match self {
            Self::Annotations => annotations::vouches(write),
            Self::CloudShutdown => cloud_shutdown::vouches(write),
            Self::Pacemaker => pacemaker::vouches(write),
            Self::FenceAgentsRemediation => fence_agents_remediation::vouches(facts),
            Self::SelfNodeRemediation => self_node_remediation::vouches(facts),
            Self::NetworkFence => network_fence::vouches(write, facts),
            Self::BareMetalHost => bare_metal_host::vouches(write, facts),
        }
    }
}

/// A fence that a source vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub source: Source,
    /// When it took effect, if the source knows.
    pub at: Option<Timestamp>,
}

/// Why one evidence source does not vouch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub source: Source,
    pub why: Doubt,
}

/// What keeps a source from vouching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It says no.
    No(String),
    /// What it says could not be read.
    Unread(Unread),
}

/// A fence, and when it took effect if the source knows; or why not.
type Answer = Result<Option<Timestamp>, Doubt>;

impl From<String> for Doubt {
    fn from(why: String) -> Self {
        Self::No(why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match &self.why {
            Doubt::No(why) => why,
            Doubt::Unread(_) => "could not be read",
        };
        write!(formatter, "{}: {why}", self.source.name())
    }
}

/// The first accepted source that vouches for the fence, in configured order; or why none does.
pub fn vouched(write: &Write, facts: &Facts, accepted: &[Source]) -> Result<Fence, Vec<Refusal>> {
    let named = named_by_record(write);
    let mut refusals = Vec::new();
    for source in accepted {
        let answer = match named {
            Some(other) if other != *source => Err(format!("the record names {} as its source", other.name()).into()),
            _ => source.ask(write, facts),
        };
        match answer {
            Ok(at) => return Ok(Fence { source: *source, at }),
            Err(why) => refusals.push(Refusal { source: *source, why }),
        }
    }
    refusals.sort_by_key(|refusal| refusal.source);
    Err(refusals)
}

/// What must be read to know whether anyone vouches: nothing about sources that come after one that vouches without it.
pub fn facts_needed<'a>(write: &'a Write, accepted: &'a [Source]) -> impl Iterator<Item = Fact> + 'a {
    let named = named_by_record(write);
    let nothing = Facts::at(Timestamp::UNIX_EPOCH);
    accepted
        .iter()
        .filter(move |source| named.is_none_or(|named| named == **source))
        .map_while(move |source| match source.fact(write) {
            Some(fact) => Some(Some(fact)),
            None => source.ask(write, &nothing).is_err().then_some(None),
        })
        .flatten()
}

/// The `source` of a record that this write brings says whose evidence the gate wrote out: that source is asked again, and the
/// annotations do not count as a source of their own. A stamp that was left over from an earlier outage says nothing.
fn named_by_record(write: &Write) -> Option<Source> {
    let before = |key: &str| write.before().and_then(|node| node.annotation(key));
    let after = |key: &str| write.after().and_then(|node| node.annotation(key));
    let is_brought = [annotation::SOURCE, annotation::PLACED_AT].iter().any(|key| before(key) != after(key));
    after(annotation::SOURCE).filter(|_| is_brought).and_then(Source::parse)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::node::Node;

    fn placing(old: serde_json::Value) -> Write {
        let old: Node = serde_json::from_value(old).unwrap();
        let mut new = old.clone();
        new.spec.taints.push(serde_json::from_value(json!({"key": crate::policy::node::OUT_OF_SERVICE})).unwrap());
        Write::Update { old, new }
    }

    #[test]
    fn what_comes_after_a_source_that_vouches_is_not_read() {
        let (annotations, far, cloud) = (Source::Annotations, Source::FenceAgentsRemediation, Source::CloudShutdown);
        let stopped = placing(json!({"spec": {"taints": [{"key": "node.cloudprovider.kubernetes.io/shutdown"}]}}));
        let running = placing(json!({}));
        let needed = |write: &Write, accepted: &[Source]| facts_needed(write, accepted).collect::<Vec<_>>();
        let accepted = [annotations, far, cloud, Source::NetworkFence];
        assert_eq!(needed(&running, &accepted), [Fact::FenceAgentsRemediations, Fact::NetworkFences]);
        assert_eq!(needed(&stopped, &accepted), [Fact::FenceAgentsRemediations]);
        assert!(needed(&stopped, &[cloud, far]).is_empty());
        assert!(needed(&running, &[Source::BareMetalHost]).is_empty(), "no host is named");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for source in Source::ALL {
            assert_eq!(Source::parse(source.name()), Some(source));
            assert_eq!(source.method().is_none(), source == Source::Annotations);
        }
        assert_eq!(Source::parse("Annotations"), None);
    }
}
