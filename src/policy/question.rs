//! A request seen in the light of the settings: all that follows from it without any fact.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    annotation::{self, BREAK_GLASS, FENCED_AT, OVERRIDDEN},
    evidence::{self, Evidence, Flaws, Method},
    node::{CLOUD_SHUTDOWN, Node},
    reason::{Code, Mode, Refusal},
    request::{Request, Write},
    settings::{Settings, Source},
    transition::{Transition, Transitions},
};

/// What the rules are asked.
#[derive(Debug)]
pub struct Question<'a> {
    pub request: &'a Request,
    pub settings: &'a Settings,
    pub transitions: Transitions,
    /// Who vouches for the fence, for a write that places the taint; else nobody was asked.
    pub fence: Result<Fence, Vec<Refusal>>,
}

/// A fence that a source vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub source: Source,
    /// When it took effect, if the source knows.
    pub at: Option<Timestamp>,
}

/// What the Lease and the evidence limits are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceTime {
    At(Timestamp),
    /// The source has no time: fenced by now, that is all.
    Untimed,
}

impl<'a> Question<'a> {
    pub fn new(request: &'a Request, settings: &'a Settings) -> Self {
        let transitions = Transitions::of(&request.write);
        let fence =
            if transitions.contains(Transition::Place) { vouched(&request.write, settings) } else { Err(Vec::new()) };
        Self { request, settings, transitions, fence }
    }

    /// Whether the write does this.
    pub fn does(&self, transition: Transition) -> bool {
        self.transitions.contains(transition)
    }

    pub fn mode(&self, code: Code) -> Mode {
        self.settings.mode(code)
    }

    /// An annotation before and after the write.
    pub fn change(&self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        let value = |node: Option<&'a Node>| node.and_then(|node| node.annotation(key));
        (value(self.request.write.before()), value(self.request.write.after()))
    }

    /// Whether the write sets this annotation, to something it was not before.
    pub fn writes(&self, key: &str) -> bool {
        let (before, after) = self.change(key);
        after.is_some() && before != after
    }

    /// The time of the fence: the vouching source's, else what `fenced-at` says even if the rest of the evidence is flawed.
    /// `None` where nothing claims a fence and that alone denies.
    pub fn fence_time(&self) -> Option<FenceTime> {
        match &self.fence {
            Ok(Fence { at: Some(at), .. }) => Some(FenceTime::At(*at)),
            Ok(Fence { at: None, .. }) => Some(FenceTime::Untimed),
            Err(_) => match self.change(FENCED_AT).1.and_then(evidence::parse_time) {
                Some(at) => Some(FenceTime::At(at)),
                None if self.mode(Code::EvidenceMissing) != Mode::Enforce => Some(FenceTime::Untimed),
                None => None,
            },
        }
    }

    /// What the break-glass annotation says, if it is there and well-formed.
    fn break_glass_written(&self) -> Option<&'a str> {
        let reason = self.request.write.last_seen().annotation(BREAK_GLASS)?;
        evidence::malformed(BREAK_GLASS, reason).is_none().then_some(reason)
    }

    /// The reason of a break-glass that may be used: each works once (contract section 7).
    pub fn break_glass(&self) -> Option<&'a str> {
        self.break_glass_written().filter(|_| !self.break_glass_is_spent())
    }

    /// Whether the break-glass that the Node carries was used before.
    pub fn break_glass_is_spent(&self) -> bool {
        let spent = self.request.write.before().and_then(|old| old.annotation(OVERRIDDEN));
        spent.is_some() && spent == self.break_glass_written()
    }
}

/// The first accepted source that vouches for the fence, in configured order.
///
/// A `source` stamp that this write brings says whose evidence the gate wrote out: that source is asked again, and the
/// annotations do not count as a source of their own.
fn vouched(write: &Write, settings: &Settings) -> Result<Fence, Vec<Refusal>> {
    let stamp = |node: Option<&Node>| node.and_then(|node| node.annotation(annotation::SOURCE)).and_then(Source::parse);
    let stamped = stamp(write.after()).filter(|source| stamp(write.before()) != Some(*source));
    let mut refusals = Vec::new();
    for source in &settings.sources {
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
