//! Who vouches that a node was fenced (contract section 6): facts in, a fence or why not out.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;

use super::{
    annotation,
    evidence::{Evidence, Flaws, Method},
    node::{CLOUD_SHUTDOWN, Node},
    request::Write,
};

/// Who may vouch that a node was fenced (contract section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Annotations,
    CloudShutdown,
}

impl Source {
    pub const ALL: [Self; 2] = [Self::Annotations, Self::CloudShutdown];

    pub fn name(self) -> &'static str {
        match self {
            Self::Annotations => "annotations",
            Self::CloudShutdown => "cloud-shutdown",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
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
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.source.name(), self.why)
    }
}

/// The first accepted source that vouches for the fence, in configured order.
///
/// A `source` stamp that this write brings says whose evidence the gate wrote out: that source is asked again, and the
/// annotations do not count as a source of their own.
pub fn vouched(write: &Write, accepted: &[Source]) -> Result<Fence, Vec<Refusal>> {
    let stamp = |node: Option<&Node>| node.and_then(|node| node.annotation(annotation::SOURCE)).and_then(Source::parse);
    let stamped = stamp(write.after()).filter(|source| stamp(write.before()) != Some(*source));
    let mut refusals = Vec::new();
    for source in accepted {
        let answer = match stamped {
            Some(other) if other != *source => Err(format!("the record names {} as its source", other.name())),
            _ => ask(*source, write),
        };
        match answer {
            Ok(at) => return Ok(Fence { source: *source, at }),
            Err(why) => refusals.push(Refusal { source: *source, why }),
        }
    }
    refusals.sort_by_key(|refusal| refusal.source);
    Err(refusals)
}

/// Whether a source vouches, and since when; or why not.
fn ask(source: Source, write: &Write) -> Result<Option<Timestamp>, String> {
    match source {
        Source::Annotations => {
            let none = BTreeMap::new();
            let annotations = write.after().map_or(&none, |node| &node.metadata.annotations);
            Evidence::parse(annotations).map(|evidence| Some(evidence.fenced_at)).map_err(|flaws| told(&flaws))
        }
        Source::CloudShutdown => match write.before().and_then(Node::cloud_shutdown) {
            Some(taint) => Ok(taint.time_added),
            None => Err(format!("taint {CLOUD_SHUTDOWN} is not on the stored node")),
        },
    }
}

/// What the evidence annotations say when the gate writes them out for a source other than themselves; the time is the
/// source's own or else the gate's clock.
pub fn written_out(source: Source) -> Option<(Method, &'static str)> {
    match source {
        Source::Annotations => None,
        Source::CloudShutdown => Some((Method::InstanceStop, Source::CloudShutdown.name())),
    }
}

/// `a, b are not set, c is malformed`.
pub fn told(flaws: &Flaws) -> String {
    let clause = |keys: &[&str], one: &str, many: &str| match keys {
        [] => None,
        [key] => Some(format!("{key} {one}")),
        keys => Some(format!("{} {many}", keys.join(", "))),
    };
    let malformed: Vec<&str> = flaws.malformed.iter().map(|value| value.key).collect();
    [clause(&flaws.missing, "is not set", "are not set"), clause(&malformed, "is malformed", "are malformed")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}
