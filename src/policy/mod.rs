//! The core: what a write to a Node does, which facts are needed to judge it, and whether it may
//! happen.
//!
//! It has two functions, and both are pure: [`facts_needed`] lists the facts to read, and
//! [`decide`] judges by them. Code in this module never reads a clock, a file, the network or the
//! environment, never awaits, and names no type of kube, axum or tokio. The lints below and
//! `tests/architecture.rs` enforce this. The time is a fact like the others.
//!
//! The modules form layers. Each module uses only layers below its own:
//!
//! ```text
//! mod, message → reservation → decision → rules → record → assessment → break_glass → proposal
//!     → settings → reason → source → review → door → blocker, facts, transition → request
//!     → evidence, object, shell → annotation, json, text
//! ```
//!
//! # Example
//!
//! Alice puts a node out of service although nobody recorded that it was fenced. The gate needs the
//! node's Lease, and denies the write.
//!
//! ```
//! use fencegate::policy::{
//!     self,
//!     facts::{Fact, FactQuery, FactValue, Facts, LeaseAnswer},
//!     reason::Code,
//!     request::{Request, User, Write},
//!     review::Webhook,
//!     settings::Settings,
//! };
//! use serde_json::{from_value, json};
//!
//! let old = from_value(json!({"metadata": {"name": "worker-2"}}))?;
//! let new = from_value(json!({
//!     "metadata": {"name": "worker-2"},
//!     "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]},
//! }))?;
//! let user = User { name: "alice".into(), ..User::default() };
//! let request = Request { node: "worker-2".into(), user, write: Write::Update { old, new } };
//! let settings = Settings::default();
//!
//! let query = policy::facts_needed(&request, &settings);
//! assert_eq!(query, FactQuery::from([Fact::Lease]));
//!
//! let now = "2026-11-22T10:20:00Z".parse().unwrap();
//! let mut facts = Facts::at(now);
//! let lease = from_value(json!({
//!     "metadata": {"managedFields": [
//!         {"time": "2026-11-22T10:14:02Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}},
//!     ]},
//!     "spec": {"renewTime": "2026-11-22T10:14:02.000000Z", "leaseDurationSeconds": 40},
//! }))?;
//! facts.learn(now, FactValue::Lease(LeaseAnswer { date: now, lease: Some(lease) }));
//!
//! let decision = policy::decide(Webhook::Validate, &request, &facts, &settings);
//! assert!(!decision.allowed);
//! assert_eq!(decision.codes(), [Code::EvidenceMissing]);
//! # Ok::<(), serde_json::Error>(())
//! ```

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod annotation;
pub mod assessment;
pub mod blocker;
pub mod break_glass;
pub mod decision;
pub mod door;
pub mod evidence;
pub mod facts;
pub mod json;
pub mod message;
pub mod object;
pub mod proposal;
pub mod reach;
pub mod reason;
pub mod record;
pub mod request;
pub mod reservation;
pub mod review;
mod rules;
pub mod settings;
pub mod shell;
pub mod source;
pub mod standing;
pub mod text;
pub mod transition;

use assessment::Assessment;
pub use decision::{Decision, Finding};
use facts::{Fact, FactQuery, Facts, Verb};
use proposal::Proposal;
use reason::Mode;
use record::completion;
use request::Request;
pub use reservation::{Reservation, reservation};
use review::Webhook;
use rules::{ALWAYS, RULES, Rule};
use settings::Settings;
use transition::Transition;

/// The facts that are needed to decide about a request. The query is empty if the write touches
/// nothing that the gate guards.
///
/// # Example
///
/// ```
/// use fencegate::policy::{
///     facts::{Fact, FactQuery},
///     facts_needed,
///     object::node::Node,
///     request::{Request, User, Write},
///     settings::Settings,
/// };
/// # fn main() -> Result<(), serde_json::Error> {
/// let bare: Node = serde_json::from_str(r#"{"metadata": {"name": "n1"}}"#)?;
/// let tainted: Node = serde_json::from_str(
///     r#"{
///         "metadata": {"name": "n1"},
///         "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service"}]}
///     }"#,
/// )?;
/// let update = |old: &Node, new: &Node| Request {
///     node: "n1".into(),
///     user: User::default(),
///     write: Write::Update { old: old.clone(), new: new.clone() },
/// };
/// let settings = Settings::default();
///
/// assert!(facts_needed(&update(&tainted, &tainted), &settings).is_empty());
/// let release = facts_needed(&update(&tainted, &bare), &settings);
/// assert_eq!(release, FactQuery::from([Fact::Pods, Fact::VolumeAttachments]));
/// # Ok(())
/// # }
/// ```
pub fn facts_needed(request: &Request, settings: &Settings) -> FactQuery {
    let proposal = Proposal::new(request, settings);
    let mut query: FactQuery = applicable(&proposal).flat_map(|(rule, _)| (rule.needs)(&proposal)).collect();
    if proposal.does(Transition::Place) {
        query.extend(proposal.facts_of_sources());
    }
    if !proposal.transitions.is_none() && break_glass::may_count(&proposal) {
        query.insert(Fact::Access(Verb::BreakGlass));
    }
    query
}

/// Decides whether the write may happen, and lists every check that failed. The mutating webhook
/// first completes the evidence that comes with the write, and judges what it has completed. It
/// leaves the doors to the validating webhook.
///
/// The same request, facts and settings always give the same decision. If a fact was not read,
/// every enforced check that needs it denies the write.
///
/// # Example
///
/// ```
/// use fencegate::policy::{
///     decide,
///     facts::{FactValue, Facts},
///     request::{Request, User, Write},
///     review::Webhook,
///     settings::Settings,
/// };
/// # fn main() -> Result<(), serde_json::Error> {
/// let old = serde_json::from_str(
///     r#"{
///         "metadata": {"name": "n1"},
///         "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service"}]}
///     }"#,
/// )?;
/// let new = serde_json::from_str(r#"{"metadata": {"name": "n1"}}"#)?;
/// let write = Write::Update { old, new };
/// let request = Request { node: "n1".into(), user: User::default(), write };
/// let (now, settings) = ("2026-11-22T10:20:00Z".parse().unwrap(), Settings::default());
///
/// let mut facts = Facts::at(now);
/// let judge = |facts: &Facts| decide(Webhook::Validate, &request, facts, &settings);
/// assert!(!judge(&facts).allowed, "no fact was read yet");
/// facts.learn(now, FactValue::Pods(vec![]));
/// facts.learn(now, FactValue::VolumeAttachments(vec![]));
/// assert!(judge(&facts).allowed, "no pod is bound, no volume is attached");
/// # Ok(())
/// # }
/// ```
pub fn decide(webhook: Webhook, request: &Request, facts: &Facts, settings: &Settings) -> Decision {
    match webhook {
        Webhook::Validate => judge(request, facts, settings),
        Webhook::Mutate => {
            let settings = &settings.without_doors();
            let completion = completion::completion(&request.write, facts.api_now());
            let completed = completion::completed(request, &completion);
            judge(&completed, facts, settings).completing(completion)
        }
    }
}

fn judge(request: &Request, facts: &Facts, settings: &Settings) -> Decision {
    let assessment = Assessment::new(Proposal::new(request, settings), facts);
    let outcomes = applicable(&assessment.proposal).map(|(rule, mode)| (rule.code, mode, (rule.check)(&assessment)));
    Decision::of(&assessment, outcomes)
}

/// The checks that apply to this write and are not turned off.
fn applicable(proposal: &Proposal<'_>) -> impl Iterator<Item = (&'static Rule, Mode)> {
    let configured = RULES.iter().map(|rule| (rule, proposal.mode(rule.code)));
    let always = ALWAYS.iter().map(|rule| (rule, proposal.settings.strictest(rule.code)));
    configured.chain(always).filter(|(rule, mode)| *mode != Mode::Off && (rule.applies)(proposal))
}
