//! The text of a denial (contract section 9): what is not allowed, every reason, and what to do
//! about it, for a person who reads it at 3 a.m. Commands can be pasted as they are.

use self::{advice::advice, situation::Situation};
use super::{
    decision::Decision,
    reason::{Code, Mode},
    request::Request,
    text::{on_one_line, quoted},
    transition::Transition,
};

mod advice;
mod situation;

/// The text of a denial, several lines joined by `\n`. `request` is `None` if it could not be
/// parsed.
pub fn denial(decision: &Decision, request: Option<&Request>) -> String {
    let reasons = decision.findings.iter().filter(|finding| finding.denies()).map(|finding| &finding.reason);
    let mut lines = vec![headline(decision)];
    lines.extend(reasons.clone().map(|reason| format!("  {}: {reason}", reason.code())));
    if let Some(request) = request {
        let situation = Situation { request, decision };
        lines.extend(advice(&situation, reasons));
    } else {
        lines.push("nothing was changed; no API server sends such a review: look who else calls the gate".to_owned());
    }
    lines.iter().map(|line| on_one_line(line)).collect::<Vec<_>>().join("\n")
}

/// The first line: `node "worker-2" may not be put out of service:`
fn headline(decision: &Decision) -> String {
    let what = match decision.transitions.first() {
        Some(Transition::Place) => "may not be put out of service",
        Some(Transition::Release) => "may not return to service",
        Some(Transition::Delete) => "may not be deleted while out of service",
        Some(Transition::Amend) => "may not have its out-of-service taint changed",
        Some(Transition::Attest) => "may not have its fencing evidence changed",
        None => "may not be written",
    };
    if decision.node.is_empty() {
        format!("a node {what}:")
    } else {
        format!("node {} {what}:", quoted(&decision.node))
    }
}

/// The table of `docs/reasons.md`, in Markdown: every check with its default mode and its summary.
pub fn reference() -> String {
    let row = |code: &Code| {
        let default = match (code.default_mode(), code.can_be_turned_off()) {
            (Mode::Enforce, false) => "enforce, always",
            (mode, _) => mode.name(),
        };
        format!("| `{code}` | {default} | {} |", code.summary())
    };
    let head = ["| reason | default | fails when |".to_owned(), "| --- | --- | --- |".to_owned()];
    head.into_iter().chain(Code::ALL.iter().map(row)).collect::<Vec<_>>().join("\n")
}
