//! The evidence sources: who vouches that a node was fenced (contract section 6). A source gets the
//! write and the facts, and returns the time of the fence or why it does not vouch. Each source is
//! one file and one row.
//!
//! Some sources report a state that holds now. They have no time of the fence, and their word does
//! not grow old.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{
    annotation::{APPLIED_BY, PACEMAKER},
    evidence::Method,
    facts::{Fact, Facts, Installed, Observed, Unread},
    object::custom::CustomResource,
    request::Write,
    text::write_joined,
};

mod annotations;
mod bare_metal_host;
mod cloud_shutdown;
mod fence_agents_remediation;
mod network_fence;
mod origin;
mod pacemaker;
mod reboot;
mod self_node_remediation;

pub use origin::RecordOrigin;

/// One source.
struct Row {
    /// Its name in the configuration, on the Node and in messages.
    name: &'static str,
    /// The `method` that the gate writes to the Node as this source's evidence. `None` for the
    /// annotations, which have a `method` of their own.
    method: Option<Method>,
    /// The facts that are needed to consult the source. Empty if the write itself is enough.
    needs: fn(&Write) -> Vec<Fact>,
    /// Whether the source vouches for the fence.
    consult: fn(&Inquiry<'_>) -> Answer,
}

/// What a source is asked with.
#[derive(Clone, Copy, Debug)]
pub struct Inquiry<'a> {
    pub write: &'a Write,
    pub facts: &'a Facts,
    /// The maximum difference between two clocks.
    pub clock_skew: SignedDuration,
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
    /// When the fence took effect. `None`: the source reports a state that holds now.
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
    /// The cluster does not have the source's kind.
    NotInstalled,
    /// The mark of pacemaker was on the Node before the write.
    LeftOver,
    /// The source knows of a fence at this time, but its word does not count, for these reasons.
    Refuted { at: Timestamp, by: Vec<Refutation> },
    /// A fact that the source needs could not be read.
    Unread(Unread),
}

/// Why the word of a source does not count any more. Each has a check that tells the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refutation {
    /// The fence is too old.
    Expired,
    /// The annotations name another boot than the node's current one.
    OtherBoot,
    /// The node renewed its Lease after the fence.
    SignOfLife,
}

/// The time of the fence, `None` for a state that holds now; or why the source does not vouch.
type Answer = Result<Option<Timestamp>, Doubt>;

impl From<String> for Doubt {
    fn from(why: String) -> Self {
        Self::No(why)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(why) => formatter.write_str(why),
            Self::NotInstalled => formatter.write_str("not installed"),
            Self::LeftOver => {
                write!(formatter, "{APPLIED_BY}={PACEMAKER} was there before this write and says nothing about it")
            }
            Self::Refuted { at, by } => {
                write!(formatter, "the fence at {at} ")?;
                write_joined(formatter, by, " and ")
            }
            Self::Unread(_) => formatter.write_str("could not be read"),
        }
    }
}

impl fmt::Display for Refutation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Expired => "is too old",
            Self::OtherBoot => "is of another boot",
            Self::SignOfLife => "is older than the node's last sign of life",
        })
    }
}

/// Why no source vouches: one clause for each source, and one for all sources whose kinds are not
/// installed.
pub struct Unvouching<'a>(pub &'a [Unvouched]);

impl fmt::Display for Unvouching<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, asked): (Vec<_>, Vec<_>) = self.0.iter().partition(|source| source.why == Doubt::NotInstalled);
        let mut clauses: Vec<String> =
            asked.iter().map(|Unvouched { source, why }| format!("{}: {why}", source.name())).collect();
        let missing: Vec<&str> = missing.iter().map(|unvouched| unvouched.source.name()).collect();
        if !missing.is_empty() {
            clauses.push(format!("{}: {}", missing.join(", "), Doubt::NotInstalled));
        }
        write_joined(formatter, &clauses, "; ")
    }
}

/// The fence of the first accepted source that vouches, in the order of the configuration. `refute`
/// says why the word of a source about a fence at that time does not count: then the next source is
/// consulted.
///
/// # Errors
/// Why each source does not vouch, in the order of [`Source::ALL`].
pub fn vouched(
    inquiry: &Inquiry<'_>,
    origin: RecordOrigin,
    accepted: &[Source],
    refute: impl Fn(Source, Timestamp) -> Vec<Refutation>,
) -> Result<Fence, Vec<Unvouched>> {
    let mut unvouched = Vec::new();
    for source in accepted {
        let answer = match origin.named() {
            Some(other) if other != *source => Err(format!("the record names {} as its source", other.name()).into()),
            _ => (source.row().consult)(inquiry),
        };
        let answer = answer.and_then(|at| match at.map(|at| (at, refute(*source, at))) {
            Some((at, by)) if !by.is_empty() => Err(Doubt::Refuted { at, by }),
            _ => Ok(at),
        });
        match answer {
            Ok(at) => return Ok(Fence { source: *source, at }),
            Err(why) => unvouched.push(Unvouched { source: *source, why }),
        }
    }
    unvouched.sort_by_key(|unvouched| unvouched.source);
    Err(unvouched)
}

/// The facts that are needed to know whether a source vouches. If the write itself is enough for a
/// source to vouch, and no fact can refute it, the sources after it are not read. `may_be_refuted`
/// says whether a fact can refute the word of a source about a fence that has a time.
pub fn facts_needed(
    write: &Write,
    origin: RecordOrigin,
    accepted: &[Source],
    may_be_refuted: impl Fn(Source) -> bool,
) -> Vec<Fact> {
    let inquiry = Inquiry { write, facts: &Facts::default(), clock_skew: SignedDuration::ZERO };
    let mut needed = Vec::new();
    for source in accepted.iter().filter(|source| origin.permits(**source)) {
        let facts = (source.row().needs)(write);
        let answer = facts.is_empty().then(|| (source.row().consult)(&inquiry));
        if answer.is_some_and(|answer| answer.is_ok_and(|at| at.is_none() || !may_be_refuted(*source))) {
            break;
        }
        needed.extend(facts);
    }
    needed
}

/// Consults every object about the node. Returns the latest fence that an object vouches for. If no
/// object vouches, returns the answer of the first one.
fn consult_each<T: CustomResource>(read: &Observed<Installed<T>>, consult: impl Fn(&T) -> Answer) -> Answer {
    let objects = installed(read)?.ok_or(Doubt::NotInstalled)?;
    let answers: Vec<Answer> = objects.iter().map(consult).collect();
    match answers.iter().filter_map(|answer| answer.as_ref().ok()).max() {
        Some(latest) => Ok(*latest),
        None => answers
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(format!("there is no {} for the node", T::KIND.name).into())),
    }
}

/// The objects of a custom kind. `None` if the cluster does not have the kind.
fn installed<T: CustomResource>(read: &Observed<Installed<T>>) -> Result<Option<&[T]>, Doubt> {
    let what = || format!("{}.{}", T::KIND.plural, T::KIND.group);
    let objects = read.value().map_err(|why| Doubt::Unread(Unread::unreadable(what(), why)))?;
    Ok(objects.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{
        annotation::{FENCED_AT, FENCED_BY, METHOD},
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
        let needed = |write: &Write, accepted: &[Source]| {
            facts_needed(write, RecordOrigin::of(write), accepted, |source| source == annotations)
        };
        let accepted = [annotations, far, cloud, Source::NetworkFence];
        let remediations = Fact::Custom(CustomKind::FenceAgentsRemediation);
        let fences = Fact::Custom(CustomKind::NetworkFence);
        assert!(needed(&running, &accepted).starts_with(&[remediations, Fact::Lease, fences]));
        assert_eq!(needed(&stopped, &accepted), [remediations, Fact::Lease]);
        assert!(needed(&stopped, &[cloud, far]).is_empty());
        assert!(needed(&running, &[Source::BareMetalHost]).is_empty(), "the node names no host");
    }

    #[test]
    fn sources_after_one_that_a_fact_can_refute_are_read() {
        let recorded = json!({"metadata": {"annotations": {METHOD: "power-off", FENCED_BY: "alice",
            FENCED_AT: "2026-11-22T10:15:00Z"}}});
        let write = placing(recorded);
        let accepted = [Source::Annotations, Source::SelfNodeRemediation];
        for (may_be_refuted, needed) in
            [(true, vec![Fact::Custom(CustomKind::SelfNodeRemediation), Fact::Lease]), (false, vec![])]
        {
            assert_eq!(facts_needed(&write, RecordOrigin::of(&write), &accepted, |_| may_be_refuted), needed);
        }
    }

    #[test]
    fn sources_that_are_not_installed_share_one_clause() {
        let unvouched = |source, why| Unvouched { source, why };
        let all = [
            unvouched(Source::Annotations, Doubt::No("not set".into())),
            unvouched(Source::FenceAgentsRemediation, Doubt::NotInstalled),
            unvouched(Source::SelfNodeRemediation, Doubt::NotInstalled),
            unvouched(Source::BareMetalHost, Doubt::No("is powered on".into())),
        ];
        assert_eq!(
            Unvouching(&all).to_string(),
            "annotations: not set; bare-metal-host: is powered on; \
             fence-agents-remediation, self-node-remediation: not installed"
        );
        assert_eq!(Unvouching(&all[1..2]).to_string(), "fence-agents-remediation: not installed");
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
