//! The core: what a write to a Node does, which facts that makes necessary, and whether it may happen.
//!
//! Two functions, both pure: [`facts_needed`] says what to read, [`decide`] judges. Nothing here reads a clock, a file, the
//! network or the environment, awaits, or names a type of kube, axum or tokio; the lints below and `tests/architecture.rs`
//! hold it so. The time is a fact like the others.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod annotation;
pub mod decision;
pub mod evidence;
pub mod facts;
pub mod json;
pub mod message;
pub mod node;
pub mod outage;
pub mod pod;
pub mod question;
pub mod reason;
pub mod request;
pub mod review;
mod rules;
pub mod settings;
pub mod source;
pub mod stamp;
pub mod transition;

pub use decision::{Decision, Finding};
use facts::{Fact, FactQuery, Facts, Verb};
use question::Question;
use reason::Mode;
use request::Request;
use rules::{RULES, Rule};
use settings::Settings;
use transition::Transition;

/// The facts that deciding about this request takes. None for a write that touches nothing the gate guards.
pub fn facts_needed(request: &Request, settings: &Settings) -> FactQuery {
    let question = Question::new(request, settings);
    let mut query: FactQuery = applicable(&question).flat_map(|(rule, _)| (rule.needs)(&question)).collect();
    if question.does(Transition::Place) {
        query.extend(source::facts_needed(&request.write, &settings.sources));
    }
    if !question.transitions.is_none() && question.break_glass().is_some() {
        query.insert(Fact::Access(Verb::BreakGlass));
    }
    query
}

/// Whether the request may happen, with every check that failed.
///
/// The same request, facts and settings always give the same decision. A fact that is not there is not known, and a
/// check that is enforced and needs it denies.
pub fn decide(request: &Request, facts: &Facts, settings: &Settings) -> Decision {
    let question = Question::new(request, settings).put_to(facts);
    let outcomes = applicable(&question).map(|(rule, mode)| (rule.code, mode, (rule.check)(&question, facts)));
    Decision::of(&question, facts, outcomes)
}

/// The checks that have something to say about this write and are not turned off.
fn applicable(question: &Question<'_>) -> impl Iterator<Item = (&'static Rule, Mode)> {
    RULES
        .iter()
        .map(|rule| (rule, question.mode(rule.code)))
        .filter(|(rule, mode)| *mode != Mode::Off && (rule.applies)(question))
}
