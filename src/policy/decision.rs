//! What was decided, and all that the user, the audit log and the metrics learn of it.

use super::{
    annotation::{self, OVERRIDDEN, closest_known},
    assessment::Assessment,
    facts::Unread,
    object::node::Node,
    proposal::Proposal,
    reason::{Code, Forgery, Mode, Reason},
    record::stamp::{self, Stamps},
    rules::{self, Outcome},
    source::{Fence, Source},
    text::quoted,
    transition::Transitions,
};

/// The verdict on one write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The node's name; empty where the request could not be understood.
    pub node: String,
    pub transitions: Transitions,
    pub allowed: bool,
    /// Every check that failed, in message order: enforced ones deny unless a break-glass waived
    /// them.
    pub findings: Vec<Finding>,
    /// What was vouched for and by whom, for a write that places the taint.
    pub fence: Option<Fence>,
    pub break_glass: BreakGlass,
    /// How the mutating side completes the write: nothing for one that is denied.
    pub stamps: Stamps,
    /// For the user, one line each: at most [`WARNING_LENGTH`] characters, none of them a control
    /// character.
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
    /// There is none, or the write did not need it.
    #[default]
    Unused,
    /// It turned the denial into warnings. Its reason, verbatim.
    Used(String),
    /// The stored Node's `overridden` stamp has the same reason: it was used before and does not
    /// count again.
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
    /// A write that touches nothing the gate guards: allowed.
    pub fn unrelated() -> Self {
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
        Self { node, allowed: false, findings: vec![finding], ..Self::unrelated() }
    }

    /// Combines what the rules found into a verdict.
    pub(super) fn of(assessment: &Assessment<'_>, outcomes: impl Iterator<Item = (Code, Mode, Outcome)>) -> Self {
        let proposal = &assessment.proposal;
        let mut notices = Vec::new();
        let mut findings = gather(outcomes, &mut notices);
        let break_glass = use_break_glass(assessment, &mut findings);
        findings.extend(marked_unused(proposal, &findings, &break_glass));
        findings.sort_by_key(|finding| finding.reason.code());
        let allowed = !findings.iter().any(Finding::denies);
        let is_completed = allowed && !proposal.transitions.is_none();
        Self {
            node: proposal.request.node.clone(),
            transitions: proposal.transitions.clone(),
            allowed,
            stamps: if is_completed { stamp::stamps(assessment, break_glass.used()) } else { Stamps::new() },
            warnings: warnings(proposal, &findings, break_glass.used(), notices),
            findings,
            fence: assessment.fence().cloned(),
            break_glass,
        }
    }

    /// Whether this write is worth a line in the audit log: it touched what the gate guards, or
    /// could not be understood.
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

/// One finding for each failed check, and one for all facts that enforced checks could not read. A
/// check that only warns and could not read a fact says so in a notice.
fn gather(outcomes: impl Iterator<Item = (Code, Mode, Outcome)>, notices: &mut Vec<String>) -> Vec<Finding> {
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

/// Waives all denials if there is a break-glass that may waive every one of them, else none.
fn use_break_glass(assessment: &Assessment<'_>, findings: &mut Vec<Finding>) -> BreakGlass {
    let proposal = &assessment.proposal;
    if !findings.iter().any(Finding::denies) {
        return BreakGlass::Unused;
    }
    let Some(reason) = proposal.break_glass() else {
        return if proposal.break_glass_is_spent() { BreakGlass::Spent } else { BreakGlass::Unused };
    };
    let access = rules::may_break_glass(assessment);
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

/// A break-glass that the write marks as used although nothing needed it: the gate writes no such
/// mark. If the gate's first pass replaced the evidence, what the break-glass was needed for may be
/// gone by the second.
fn marked_unused(proposal: &Proposal<'_>, findings: &[Finding], break_glass: &BreakGlass) -> Option<Finding> {
    let is_marked = proposal.writes(OVERRIDDEN) && !findings.iter().any(Finding::denies);
    let why = || "marks a break-glass as used that was not needed".to_owned();
    let reason = || Reason::StampForged { stamps: vec![Forgery { key: OVERRIDDEN, why: why() }] };
    (is_marked && break_glass.used().is_none() && !proposal.replaces_evidence())
        .then(|| Finding::new(reason(), Mode::Enforce))
}

/// All warnings, each cut to [`WARNING_LENGTH`].
fn warnings(
    proposal: &Proposal<'_>,
    findings: &[Finding],
    break_glass: Option<&str>,
    notices: Vec<String>,
) -> Vec<String> {
    let used = break_glass.map(|reason| format!("break-glass used, this is on record: {}", quoted(reason)));
    let tolerated = findings.iter().filter(|finding| !finding.denies());
    let found = tolerated.map(|finding| format!("{}: {}", finding.reason.code(), finding.reason));
    let all = used.into_iter().chain(found).chain(notices).chain(unknown_keys(proposal));
    all.map(|warning| one_line(&warning)).collect()
}

/// Keys under the gate's prefix that this write sets and that mean nothing.
fn unknown_keys(proposal: &Proposal<'_>) -> Vec<String> {
    let keys = proposal.request.write.after().into_iter().flat_map(Node::gate_annotations).map(|(key, _)| key);
    keys.filter(|key| !annotation::known().any(|known| known == *key) && proposal.writes(key))
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
