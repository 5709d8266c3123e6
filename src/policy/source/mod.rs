//! Who vouches that a node was fenced (contract section 6): facts in, a fence or why not out. One
//! file and one row for each source.

use std::fmt;

use jiff::Timestamp;

use super::{
    evidence::Method,
    facts::{Fact, Facts, Installed, Observed, Unread},
    object::custom::CustomResource,
    request::Write,
};

mod annotations;
mod bare_metal_host;
mod cloud_shutdown;
mod fence_agents_remediation;
mod network_fence;
mod origin;
mod pacemaker;
mod self_node_remediation;

pub use origin::RecordOrigin;

/// How a source is asked.
struct Row {
    /// In the configuration, on the Node and in messages.
    name: &'static str,
    /// What the gate writes as `method` when it writes out what the source says; `None` for the
    /// annotations, which say it themselves.
    method: Option<Method>,
    /// What must be read to ask the source about a write; `None` if the write shows it.
    needs: fn(&Write) -> Option<Fact>,
    /// Whether the source vouches for the fence.
    ask: fn(&Write, &Facts) -> Answer,
}

macro_rules! sources {
    ($($(#[doc = $doc:literal])+ $source:ident = $module:ident,)+) => {
        /// Who may vouch that a node was fenced.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Source {
            $($(#[doc = $doc])+ $source,)+
        }

        impl Source {
            pub const ALL: &[Self] = &[$(Self::$source,)+];

            fn row(self) -> &'static Row {
                match self { $(Self::$source => &$module::ROW,)+ }
            }
        }
    };
}

sources! {
    /// Whoever fenced the node wrote evidence on it (contract section 2).
    Annotations = annotations,
    /// The cloud says that the instance is stopped.
    CloudShutdown = cloud_shutdown,
    /// OpenShift's two-node fencing.
    Pacemaker = pacemaker,
    /// medik8s: a fence agent reported success.
    FenceAgentsRemediation = fence_agents_remediation,
    /// medik8s: the node rebooted itself, or must have by now.
    SelfNodeRemediation = self_node_remediation,
    /// csi-addons: the storage refuses the node's addresses.
    NetworkFence = network_fence,
    /// Metal3: the machine's power is off.
    BareMetalHost = bare_metal_host,
}

impl Source {
    /// The name in the configuration, on the Node and in messages.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Reads a source's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|source| source.name() == name)
    }

    /// What the gate writes as `method` for a source other than the annotations.
    pub fn method(self) -> Option<Method> {
        self.row().method
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

/// When the fence took effect, if the source knows that; or why the source does not vouch for one.
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

/// The first accepted source that vouches for the fence, in configured order.
///
/// # Errors
/// Why each source does not vouch, in the order of [`Source::ALL`].
pub fn vouched(write: &Write, origin: RecordOrigin, facts: &Facts, accepted: &[Source]) -> Result<Fence, Vec<Refusal>> {
    let mut refusals = Vec::new();
    for source in accepted {
        let answer = match origin {
            RecordOrigin::Gate(other) if other != *source => {
                Err(format!("the record names {} as its source", other.name()).into())
            }
            RecordOrigin::Gate(_) | RecordOrigin::Requester => (source.row().ask)(write, facts),
        };
        match answer {
            Ok(at) => return Ok(Fence { source: *source, at }),
            Err(why) => refusals.push(Refusal { source: *source, why }),
        }
    }
    refusals.sort_by_key(|refusal| refusal.source);
    Err(refusals)
}

/// What must be read to know whether anyone vouches. Sources after one that vouches by what the
/// write itself shows are not read.
pub fn facts_needed(write: &Write, origin: RecordOrigin, accepted: &[Source]) -> Vec<Fact> {
    let nothing = Facts::default();
    let mut needed = Vec::new();
    for source in accepted {
        if matches!(origin, RecordOrigin::Gate(other) if other != *source) {
            continue;
        }
        match (source.row().needs)(write) {
            Some(fact) => needed.push(fact),
            None if (source.row().ask)(write, &nothing).is_ok() => break,
            None => {}
        }
    }
    needed
}

/// Asks every object about the node. The answer is that of the object that vouches for the latest
/// fence, a fence without a time being the earliest; where none vouches, that of the first object.
fn ask_each<T: CustomResource>(read: &Observed<Installed<T>>, ask: impl Fn(&T) -> Answer) -> Answer {
    let kind = T::KIND;
    let objects = match read.value() {
        Ok(Some(objects)) => objects,
        Ok(None) => return Err("not installed".to_owned().into()),
        Err(why) => {
            let what = format!("{}.{}", kind.plural, kind.group);
            return Err(Doubt::Unread(Unread { what, why: why.to_owned() }));
        }
    };
    let answers: Vec<Answer> = objects.iter().map(ask).collect();
    match answers.iter().filter_map(|answer| answer.as_ref().ok()).max() {
        Some(latest) => Ok(*latest),
        None => {
            answers.into_iter().next().unwrap_or_else(|| Err(format!("there is no {} for the node", kind.name).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{
        facts::CustomKind,
        object::node::{Node, OUT_OF_SERVICE},
    };

    fn placing(old: serde_json::Value) -> Write {
        let old: Node = serde_json::from_value(old).unwrap();
        let mut new = old.clone();
        new.spec.taints.push(serde_json::from_value(json!({"key": OUT_OF_SERVICE})).unwrap());
        Write::Update { old, new }
    }

    #[test]
    fn sources_after_one_that_vouches_are_not_read() {
        let (annotations, far, cloud) = (Source::Annotations, Source::FenceAgentsRemediation, Source::CloudShutdown);
        let stopped = placing(json!({"spec": {"taints": [{"key": "node.cloudprovider.kubernetes.io/shutdown"}]}}));
        let running = placing(json!({}));
        let needed = |write: &Write, accepted: &[Source]| facts_needed(write, RecordOrigin::of(write), accepted);
        let accepted = [annotations, far, cloud, Source::NetworkFence];
        let remediations = Fact::Custom(CustomKind::FenceAgentsRemediation);
        let fences = Fact::Custom(CustomKind::NetworkFence);
        assert_eq!(needed(&running, &accepted), [remediations, fences]);
        assert_eq!(needed(&stopped, &accepted), [remediations]);
        assert!(needed(&stopped, &[cloud, far]).is_empty());
        assert!(needed(&running, &[Source::BareMetalHost]).is_empty(), "no host is named");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for source in Source::ALL {
            assert_eq!(Source::parse(source.name()), Some(*source));
            assert_eq!(source.method().is_none(), *source == Source::Annotations);
        }
        assert_eq!(Source::parse("Annotations"), None);
    }
}
