//! The evidence sources: who vouches that a node was fenced (contract section 6). A source gets the
//! write and the facts, and returns the time of the fence or why it does not vouch. Each source is
//! one file and one row.

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

/// One source.
struct Row {
    /// Its name in the configuration, on the Node and in messages.
    name: &'static str,
    /// The `method` that the gate writes to the Node as this source's evidence. `None` for the
    /// annotations, which have a `method` of their own.
    method: Option<Method>,
    /// The fact that is needed to consult the source. `None` if the write itself is enough.
    needs: fn(&Write) -> Option<Fact>,
    /// Whether the source vouches for the fence.
    consult: fn(&Write, &Facts) -> Answer,
}

macro_rules! sources {
    ($($(#[doc = $doc:literal])+ $source:ident = $module:ident,)+) => {
        /// Who may vouch that a node was fenced.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Source {
            $($(#[doc = $doc])+ $source,)+
        }

        impl Source {
            /// All sources, in the order in which messages list them.
            pub const ALL: &[Self] = &[$(Self::$source,)+];

            fn row(self) -> &'static Row {
                match self { $(Self::$source => &$module::ROW,)+ }
            }
        }
    };
}

sources! {
    /// The person or program that fenced the node wrote evidence to it (contract section 2).
    Annotations = annotations,
    /// The cloud's taint says that the instance is stopped.
    CloudShutdown = cloud_shutdown,
    /// OpenShift's two-node fencing: pacemaker fenced the node.
    Pacemaker = pacemaker,
    /// medik8s: a fence agent reported success.
    FenceAgentsRemediation = fence_agents_remediation,
    /// medik8s: the node rebooted itself, or its watchdog has fired by now.
    SelfNodeRemediation = self_node_remediation,
    /// csi-addons: the storage system blocks the node's addresses.
    NetworkFence = network_fence,
    /// Metal3: the machine's power is off.
    BareMetalHost = bare_metal_host,
}

impl Source {
    /// The name in the configuration, on the Node and in messages.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The source with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|source| source.name() == name)
    }

    /// The `method` that the gate writes to the Node for this source. `None` for the annotations.
    pub fn method(self) -> Option<Method> {
        self.row().method
    }
}

/// A fence that a source vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub source: Source,
    /// When the fence took effect, if the source knows.
    pub at: Option<Timestamp>,
}

/// An evidence source that does not vouch, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unvouched {
    pub source: Source,
    pub why: Doubt,
}

/// Why a source does not vouch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The source knows of no fence, for this reason.
    No(String),
    /// The fact that the source needs could not be read.
    Unread(Unread),
}

/// The time of the fence, if the source knows it; or why the source does not vouch.
type Answer = Result<Option<Timestamp>, Doubt>;

impl From<String> for Doubt {
    fn from(why: String) -> Self {
        Self::No(why)
    }
}

impl fmt::Display for Unvouched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match &self.why {
            Doubt::No(why) => why,
            Doubt::Unread(_) => "could not be read",
        };
        write!(formatter, "{}: {why}", self.source.name())
    }
}

/// The fence of the first accepted source that vouches, in the order of the configuration.
///
/// # Errors
/// Why each source does not vouch, in the order of [`Source::ALL`].
pub fn vouched(
    write: &Write,
    origin: RecordOrigin,
    facts: &Facts,
    accepted: &[Source],
) -> Result<Fence, Vec<Unvouched>> {
    let mut unvouched = Vec::new();
    for source in accepted {
        let answer = match origin.named() {
            Some(other) if other != *source => Err(format!("the record names {} as its source", other.name()).into()),
            _ => (source.row().consult)(write, facts),
        };
        match answer {
            Ok(at) => return Ok(Fence { source: *source, at }),
            Err(why) => unvouched.push(Unvouched { source: *source, why }),
        }
    }
    unvouched.sort_by_key(|unvouched| unvouched.source);
    Err(unvouched)
}

/// The facts that are needed to know whether a source vouches. If the write itself is enough for a
/// source to vouch, the sources after it are not read.
pub fn facts_needed(write: &Write, origin: RecordOrigin, accepted: &[Source]) -> Vec<Fact> {
    let no_facts = Facts::default();
    let mut needed = Vec::new();
    for source in accepted {
        if !origin.permits(*source) {
            continue;
        }
        match (source.row().needs)(write) {
            Some(fact) => needed.push(fact),
            None if (source.row().consult)(write, &no_facts).is_ok() => break,
            None => {}
        }
    }
    needed
}

/// Consults every object about the node. Returns the latest fence that an object vouches for; a
/// fence without a time counts as the earliest. If no object vouches, returns the answer of the
/// first one.
fn consult_each<T: CustomResource>(read: &Observed<Installed<T>>, consult: impl Fn(&T) -> Answer) -> Answer {
    let kind = T::KIND;
    let objects = match read.value() {
        Ok(Some(objects)) => objects,
        Ok(None) => return Err("not installed".to_owned().into()),
        Err(why) => {
            let what = format!("{}.{}", kind.plural, kind.group);
            return Err(Doubt::Unread(Unread::unreadable(what, why)));
        }
    };
    let answers: Vec<Answer> = objects.iter().map(consult).collect();
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
        assert!(needed(&running, &[Source::BareMetalHost]).is_empty(), "the node names no host");
    }

    #[test]
    fn a_source_is_parsed_from_its_own_name() {
        for source in Source::ALL {
            assert_eq!(Source::parse(source.name()), Some(*source));
            assert_eq!(source.method().is_none(), *source == Source::Annotations);
        }
        assert_eq!(Source::parse("Annotations"), None);
    }
}
