//! What was decided, and everything that is told about it: to the user, to the audit log, to the metrics.

use super::{
    annotation::{self, OVERRIDDEN, closest_known},
    evidence::quoted,
    facts::Facts,
    node::Node,
    question::Question,
    reason::{Code, Forgery, Mode, Reason, Unread},
    rules::{self, Outcome},
    source::{Fence, Source},
    stamp::{self, Stamps},
    transition::Transitions,
};

/// The verdict on one write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The node's name; empty where the request could not be understood.
    pub node: String,
    pub transitions: Transitions,
    pub allowed: bool,
    /// Every check that failed, in message order: enforced ones deny unless a break-glass waived them.
    pub findings: Vec<Finding>,
    /// What was vouched for and by whom, for a write that places the taint.
    pub fence: Option<Fence>,
    pub break_glass: BreakGlass,
    /// How the mutating side completes the write: nothing for one that is denied.
    pub stamps: Stamps,
    /// For the user, one line each: at most [`WARNING_LENGTH`] characters, none of them a control character.
    pub warnings: Vec<String>,
}

/// A check that failed, and what that does to the write.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub reason: Reason,
    pub mode: Mode,
    /// A break-glass turned the denial into a warning.
    pub waived: bool,
}

impl Finding {
    fn new(reason: Reason, mode: Mode) -> Self {
        Self { reason, mode, waived: false }
    }

    /// Whether this alone denies the write.
    pub fn denies(&self) -> bool {
        self.mode == Mode::Enforce && !self.waived
    }
}

/// What became of the break-glass annotation (contract section 7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BreakGlass {
    /// None there, or nothing that it was needed for.
    #[default]
    Unused,
    /// It turned the denial into warnings; its reason, verbatim.
    Used(String),
    /// The stored Node's `overridden` stamp holds the same reason: it worked before and does not again.
    Spent,
}

impl BreakGlass {
    /// The reason of one that was used.
    pub fn used(&self) -> Option<&str> {
        match self {
            Self::Used(reason) => Some(reason),
            Self::Unused | Self::Spent => None,
        }
    }
}

/// The most characters of a warning: the API server and its clients lose or cut longer ones.
pub const WARNING_LENGTH: usize = 120;

impl Decision {
    /// Nothing that the gate guards: allowed.
    pub fn nothing() -> Self {
        Self {
            node: String::new(),
            transitions: Transitions::default(),
            allowed: true,
            findings: Vec::new(),
            fence: None,
            break_glass: BreakGlass::Unused,
            stamps: Stamps::new(),
            warnings: Vec::new(),
        }
    }

    /// A request with a `uid` that could not be understood.
    pub fn malformed(node: String, why: String) -> Self {
        let finding = Finding::new(Reason::ReviewMalformed { why }, Mode::Enforce);
        Self { node, allowed: false, findings: vec![finding], ..Self::nothing() }
    }

    /// Draws the sum of what the rules found.
    pub(super) fn of(
        question: &Question<'_>,
        facts: &Facts,
        outcomes: impl Iterator<Item = (Code, Mode, Outcome)>,
    ) -> Self {
        let mut notices = Vec::new();
        let mut findings = gathered(outcomes, &mut notices);
        let break_glass = break_glass(question, facts, &mut findings);
        findings.extend(marked_unused(question, &findings, &break_glass));
        findings.sort_by_key(|finding| finding.reason.code());
        let mut warnings = Vec::new();
        if let Some(reason) = break_glass.used() {
            warnings.push(format!("break-glass used, this is on record: {}", quoted(reason)));
        }
        let told =
            |finding: &Finding| (!finding.denies()).then(|| format!("{}: {}", finding.reason.code(), finding.reason));
        warnings.extend(findings.iter().filter_map(told));
        warnings.extend(notices);
        warnings.extend(unknown_keys(question));
        let allowed = !findings.iter().any(Finding::denies);
        let is_completed = allowed && !question.transitions.is_none();
        Self {
            node: question.request.node.clone(),
            transitions: question.transitions.clone(),
            allowed,
            stamps: if is_completed { stamp::stamps(question, break_glass.used(), facts.now) } else { Stamps::new() },
            findings,
            fence: question.fence.as_ref().ok().cloned(),
            break_glass,
            warnings: warnings.iter().map(|warning| one_line(warning)).collect(),
        }
    }

    /// Whether this write is worth a line in the audit log: it touched what the gate guards, or could not be understood.
    pub fn is_on_record(&self) -> bool {
        !self.transitions.is_none() || !self.findings.is_empty()
    }

    /// The codes of all failed checks, each once, in message order.
    pub fn codes(&self) -> Vec<Code> {
        let mut codes: Vec<Code> = self.findings.iter().map(|finding| finding.reason.code()).collect();
        codes.dedup();
        codes
    }

    /// The check that decided: the first that denies, else the first that failed at all.
    pub fn leading_code(&self) -> Option<Code> {
        let leading = self.findings.iter().find(|finding| finding.denies()).or(self.findings.first());
        leading.map(|finding| finding.reason.code())
    }

    /// Who vouched, for a write that places the taint.
    pub fn source(&self) -> Option<Source> {
        self.fence.as_ref().map(|fence| fence.source)
    }

    /// `allow` or `deny`.
    pub fn verdict(&self) -> &'static str {
        if self.allowed { "allow" } else { "deny" }
    }
}

/// One finding for each failed check, and one for all facts that enforced checks missed. What a check that only warns could
/// not look at is told, no more.
fn gathered(outcomes: impl Iterator<Item = (Code, Mode, Outcome)>, notices: &mut Vec<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut missed: Vec<Unread> = Vec::new();
    for (code, mode, outcome) in outcomes {
        findings.extend(outcome.failed.map(|reason| Finding::new(reason, mode)));
        notices.extend(outcome.warnings);
        if mode == Mode::Enforce {
            missed.extend(outcome.unread);
        } else {
            notices.extend(outcome.unread.iter().map(|unread| format!("{code} was not checked: {unread}")));
        }
    }
    findings.extend(unavailable(missed));
    findings
}

fn unavailable(mut unread: Vec<Unread>) -> Option<Finding> {
    let mut seen: Vec<Unread> = Vec::new();
    unread.retain(|fact| {
        !seen.contains(fact) && {
            seen.push(fact.clone());
            true
        }
    });
    (!unread.is_empty()).then(|| Finding::new(Reason::FactsUnavailable { unread }, Mode::Enforce))
}

/// Waives what a break-glass can waive, if it carries the write through: all of it or nothing.
fn break_glass(question: &Question<'_>, facts: &Facts, findings: &mut Vec<Finding>) -> BreakGlass {
    if !findings.iter().any(Finding::denies) {
        return BreakGlass::Unused;
    }
    let Some(reason) = question.break_glass() else {
        return if question.break_glass_is_spent() { BreakGlass::Spent } else { BreakGlass::Unused };
    };
    let access = rules::may_break_glass(question, facts);
    if access.failed.is_some() || !access.unread.is_empty() {
        let is_there = |code| findings.iter().any(|finding| finding.denies() && finding.reason.code() == code);
        if !is_there(Code::NotAuthorized) {
            findings.extend(access.failed.map(|reason| Finding::new(reason, Mode::Enforce)));
        }
        findings.extend(unavailable(access.unread));
        return BreakGlass::Unused;
    }
    if !findings.iter().all(|finding| !finding.denies() || finding.reason.code().can_be_waived()) {
        return BreakGlass::Unused;
    }
    for finding in findings.iter_mut().filter(|finding| finding.denies()) {
        finding.waived = true;
    }
    BreakGlass::Used(reason.to_owned())
}

/// A break-glass that is marked as used though nothing needed it: no such mark is the gate's. Where the gate's first pass rewrote the
/// evidence, what it was needed for may be gone by the second.
fn marked_unused(question: &Question<'_>, findings: &[Finding], break_glass: &BreakGlass) -> Option<Finding> {
    let is_marked = question.writes(OVERRIDDEN) && !findings.iter().any(Finding::denies);
    let why = || "marks a break-glass as used that was not needed".to_owned();
    let reason = || Reason::StampForged { stamps: vec![Forgery { key: OVERRIDDEN, why: why() }] };
    (is_marked && break_glass.used().is_none() && !question.rewrites_evidence())
        .then(|| Finding::new(reason(), Mode::Enforce))
}

/// Keys under the gate's prefix that this write sets and that mean nothing.
fn unknown_keys(question: &Question<'_>) -> Vec<String> {
    let keys = question.request.write.after().into_iter().flat_map(Node::gate_annotations).map(|(key, _)| key);
    keys.filter(|key| !annotation::known().any(|known| known == *key) && question.writes(key))
        .map(|key| format!("{} means nothing to fencegate, did you mean {}?", shortened(key), closest_known(key)))
        .collect()
}

/// A key short enough to leave room for the rest of its warning.
fn shortened(key: &str) -> String {
    const SHOWN: usize = 45;
    if key.chars().count() <= SHOWN {
        return key.to_owned();
    }
    key.chars().take(SHOWN - 1).chain(['…']).collect()
}

/// Cuts a text to what a warning may be.
fn one_line(text: &str) -> String {
    let mut printed = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut line: String = printed.by_ref().take(WARNING_LENGTH).collect();
    if printed.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}
