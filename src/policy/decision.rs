//! The decision about one write: everything that the answer, the audit log and the metrics report
//! about it.

use jiff::Timestamp;

use super::{
    annotation::{self, closest_known},
    assessment::Assessment,
    break_glass,
    facts::Unread,
    object::node::Node,
    proposal::Proposal,
    reason::{Code, Mode, Reason},
    record::{
        completion,
        stamp::{self, Stamps},
    },
    rules::{self, Outcome},
    settings::Settings,
    source::{Fence, Source},
    text::{Foreign, NAMED, on_one_line, quoted, shortened},
    transition::{Transition, Transitions},
};

/// The decision about one write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The node's name. Empty if the request could not be parsed.
    pub node: String,
    /// The time by the gate's clock. `None` if no write to a Node was judged.
    pub at: Option<Timestamp>,
    /// What the requester does. An `Attest` beside another transition counts only if the requester
    /// changes an annotation, and not only the gate.
    pub transitions: Transitions,
    pub allowed: bool,
    /// Every check that failed, in the order of the message. An enforced check denies the write
    /// unless a break-glass waived it.
    pub findings: Vec<Finding>,
    /// The fence that a source vouches for, if the write places the taint.
    pub fence: Option<Fence>,
    pub break_glass: BreakGlass,
    /// The changes by which the mutating webhook completes the write. Empty if the write is denied.
    pub stamps: Stamps,
    /// For the user, one line each: at most [`WARNING_LENGTH`] characters, without control
    /// characters.
    pub warnings: Vec<String>,
}

/// A check that failed, and the effect on the write.
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

    /// Whether this finding denies the write, or would without a break-glass.
    pub fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// Whether this finding denies the write, even if it were the only one.
    pub fn denies(&self) -> bool {
        self.is_enforced() && !self.waived
    }
}

/// What became of the break-glass (contract section 7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BreakGlass {
    /// There is no break-glass, or the write did not need it.
    #[default]
    Unused,
    /// The break-glass turned the denial into warnings. Holds its reason, verbatim.
    Used(String),
    /// The requester wrote it too long ago. Holds its reason, verbatim.
    TooOld(String),
    /// Someone else wrote it.
    OfAnother,
}

impl BreakGlass {
    /// The reason of the break-glass, if it was used.
    pub fn used(&self) -> Option<&str> {
        match self {
            Self::Used(reason) => Some(reason),
            Self::Unused | Self::TooOld(_) | Self::OfAnother => None,
        }
    }
}

/// The most characters of a warning. Kubernetes asks webhooks for at most 120 and may truncate
/// longer ones (`k8s.io/api/admission/v1`: `AdmissionResponse.Warnings`).
pub const WARNING_LENGTH: usize = 120;

impl Decision {
    /// Allows a write that touches nothing that the gate guards.
    pub fn unrelated() -> Self {
        Self {
            node: String::new(),
            at: None,
            transitions: Transitions::default(),
            allowed: true,
            findings: Vec::new(),
            fence: None,
            break_glass: BreakGlass::Unused,
            stamps: Stamps::new(),
            warnings: Vec::new(),
        }
    }

    /// Denies a request with a `uid` that could not be parsed, if `mode` is to enforce.
    pub fn malformed(node: String, why: String, mode: Mode) -> Self {
        let finding = Finding::new(Reason::ReviewMalformed { why }, mode);
        Self { node, ..Self::unrelated() }.found(finding)
    }

    /// The decision about a door of which not even the Node could be read: a denial, if the check
    /// is enforced.
    pub fn unresolved(
        node: String,
        at: Timestamp,
        transition: Transition,
        settings: &Settings,
        unread: Unread,
    ) -> Self {
        let undecided = Self { node, at: Some(at), transitions: Transitions::from(transition), ..Self::unrelated() };
        let (code, mode) = (Code::of_door(transition), settings.mode_of(transition));
        let outcome = Outcome { unread: vec![unread], ..Outcome::default() };
        let mut notices = Vec::new();
        let findings = collect_findings(code.map(|code| (code, mode, outcome)).into_iter(), &mut notices);
        let warnings = notices.iter().map(|notice| one_line(notice)).collect();
        findings.into_iter().fold(Self { warnings, ..undecided }, Self::found)
    }

    /// Adds a check that failed outside the rules.
    fn found(mut self, finding: Finding) -> Self {
        if finding.denies() {
            self.allowed = false;
        } else {
            self.warnings.push(one_line(&told(&finding)));
        }
        self.findings.push(finding);
        self.findings.sort_by_key(|finding| finding.reason.code());
        self
    }

    /// This decision, which could not be put on record: a denial, if `mode` is to enforce. What it
    /// said before holds no more then: nothing is stamped, and a break-glass was not used.
    #[must_use]
    pub fn unrecorded(mut self, why: String, mode: Mode) -> Self {
        if mode == Mode::Enforce {
            (self.break_glass, self.stamps, self.warnings) = (BreakGlass::Unused, Stamps::new(), Vec::new());
        }
        self.found(Finding::new(Reason::RecordUnavailable { why }, mode))
    }

    /// Combines the outcomes of the checks into a decision.
    pub(super) fn of(assessment: &Assessment<'_>, outcomes: impl Iterator<Item = (Code, Mode, Outcome)>) -> Self {
        let proposal = &assessment.proposal;
        let mut notices = Vec::new();
        let mut findings = collect_findings(outcomes, &mut notices);
        let break_glass = use_break_glass(assessment, &mut findings);
        findings.sort_by_key(|finding| finding.reason.code());
        let allowed = !findings.iter().any(Finding::denies);
        let is_completed = allowed && !proposal.transitions.is_none();
        let stamps = if is_completed { stamp::stamps(assessment, break_glass.used()) } else { Stamps::new() };
        Self {
            node: proposal.request.node.clone(),
            at: Some(assessment.facts.now),
            transitions: told_transitions(proposal, &stamps, &findings),
            allowed,
            stamps,
            warnings: warnings(proposal, &findings, break_glass.used(), notices),
            findings,
            fence: assessment.fence().cloned(),
            break_glass,
        }
    }

    /// The same decision about a write whose evidence the mutating webhook completed first.
    pub(super) fn completing(mut self, mut completion: Stamps) -> Self {
        if self.allowed {
            completion.append(&mut self.stamps);
            self.stamps = completion;
        }
        self
    }

    /// Whether the decision gets a line in the audit log: the write touches something that the gate
    /// guards, or the request could not be parsed.
    pub fn is_audited(&self) -> bool {
        !self.transitions.is_none() || !self.findings.is_empty()
    }

    /// The codes of all failed checks, each once, in message order.
    pub fn codes(&self) -> Vec<Code> {
        let mut codes: Vec<Code> = self.findings.iter().map(|finding| finding.reason.code()).collect();
        codes.dedup();
        codes
    }

    /// The check that decided: the first that denies the write, otherwise the first that failed.
    pub fn leading_code(&self) -> Option<Code> {
        let leading = self.findings.iter().find(|finding| finding.denies()).or(self.findings.first());
        leading.map(|finding| finding.reason.code())
    }

    /// The source that vouches, if the write places the taint.
    pub fn source(&self) -> Option<Source> {
        self.fence.as_ref().map(|fence| fence.source)
    }

    /// `allow` or `deny`.
    pub fn verdict(&self) -> &'static str {
        if self.allowed { "allow" } else { "deny" }
    }
}

/// The transitions without an `Attest` that is the gate's alone. The write is judged as the
/// mutating webhook completes it, so that both webhooks say the same. A write that does nothing but
/// attest is never the gate's, and a forged stamp is not either.
fn told_transitions(proposal: &Proposal<'_>, stamps: &Stamps, findings: &[Finding]) -> Transitions {
    let others = proposal.transitions.without(Transition::Attest);
    let is_forged = findings.iter().any(|finding| finding.reason.code() == Code::StampForged);
    let attests = || Proposal::new(&completion::completed(proposal.request, stamps), proposal.settings).attests();
    if others.is_none() || is_forged || attests() { proposal.transitions.clone() } else { others }
}

/// One finding for each failed check, and one finding for all facts that enforced checks need and
/// that could not be read. If a check in mode `warn` needs such a fact, a notice says that it was
/// not checked.
fn collect_findings(outcomes: impl Iterator<Item = (Code, Mode, Outcome)>, notices: &mut Vec<String>) -> Vec<Finding> {
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
    findings.extend(facts_unavailable(missed));
    findings
}

fn facts_unavailable(mut unread: Vec<Unread>) -> Option<Finding> {
    let mut seen: Vec<Unread> = Vec::new();
    unread.retain(|fact| {
        !seen.contains(fact) && {
            seen.push(fact.clone());
            true
        }
    });
    (!unread.is_empty()).then(|| Finding::new(Reason::FactsUnavailable { unread }, Mode::Enforce))
}

/// Waives all denials if a break-glass may waive every one of them. Otherwise waives none.
fn use_break_glass(assessment: &Assessment<'_>, findings: &mut Vec<Finding>) -> BreakGlass {
    if !findings.iter().any(Finding::denies) {
        return BreakGlass::Unused;
    }
    let reason = match assessment.break_glass() {
        break_glass::BreakGlass::Counts(reason) => reason,
        break_glass::BreakGlass::TooOld(reason) => return BreakGlass::TooOld(reason.to_owned()),
        break_glass::BreakGlass::OfAnother => return BreakGlass::OfAnother,
        break_glass::BreakGlass::Absent => return BreakGlass::Unused,
    };
    let access = rules::may_break_glass(assessment);
    if access.failed.is_some() || !access.unread.is_empty() {
        let already_denies = |code| findings.iter().any(|finding| finding.denies() && finding.reason.code() == code);
        if !already_denies(Code::NotAuthorized) {
            findings.extend(access.failed.map(|reason| Finding::new(reason, Mode::Enforce)));
        }
        findings.extend(facts_unavailable(access.unread));
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

/// All warnings, each cut to [`WARNING_LENGTH`].
fn warnings(
    proposal: &Proposal<'_>,
    findings: &[Finding],
    break_glass: Option<&str>,
    notices: Vec<String>,
) -> Vec<String> {
    let used = break_glass.map(|reason| format!("break-glass used, this is on record: {}", quoted(reason)));
    let not_denying = findings.iter().filter(|finding| !finding.denies());
    let found = not_denying.map(told);
    let all = used.into_iter().chain(found).chain(notices).chain(recorded_while_ready(proposal));
    let all = all.chain(unknown_keys(proposal));
    all.map(|warning| one_line(&warning)).collect()
}

fn told(finding: &Finding) -> String {
    format!("{}: {}", finding.reason.code(), finding.reason)
}

/// A warning as it is sent.
fn one_line(warning: &str) -> String {
    shortened(on_one_line(warning).into_owned(), WARNING_LENGTH)
}

/// A warning for whoever records a fence of a node that is Ready.
fn recorded_while_ready(proposal: &Proposal<'_>) -> Option<String> {
    let is_ready = proposal.request.write.before().is_some_and(|node| node.ready().is_some());
    let is_told_anyway = proposal.adds_entry() || proposal.stays_out_of_service() || proposal.does(Transition::Release);
    (is_ready && proposal.writes_evidence() && !is_told_anyway)
        .then(|| "the taint will be denied while the node is Ready: was the right machine switched off?".to_owned())
}

/// Warnings about keys under the gate's prefix that this write sets and that mean nothing: each of
/// the first five is named, with the known key that is closest.
fn unknown_keys(proposal: &Proposal<'_>) -> Vec<String> {
    let keys = proposal.request.write.after().into_iter().flat_map(Node::gate_annotations).map(|(key, _)| key);
    let mut unknown = keys.filter(|key| annotation::is_meaningless(key) && proposal.writes(key));
    let named = unknown.by_ref().take(NAMED);
    let mut warnings: Vec<String> =
        named.map(|key| format!("did you mean {}? {} means nothing", closest_known(key), Foreign::from(key))).collect();
    warnings.extend(unknown.next().map(|_| format!("more keys under {} mean nothing", annotation::PREFIX)));
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::policy::{
        annotation::METHOD,
        object::node::OUT_OF_SERVICE,
        request::{Request, User, Write},
    };

    #[test]
    fn a_request_that_cannot_be_parsed_is_denied_under_the_name_of_its_node() {
        let decision = Decision::malformed("n1".to_owned(), "no user".to_owned(), Mode::Enforce);
        assert_eq!((decision.node.as_str(), decision.allowed, decision.warnings.len()), ("n1", false, 0));
        let decision = Decision::malformed("n1".to_owned(), "no user".to_owned(), Mode::Warn);
        assert_eq!((decision.node.as_str(), decision.allowed, decision.warnings.len()), ("n1", true, 1));
    }

    #[test]
    fn a_denial_for_the_lack_of_a_record_takes_back_what_was_promised() {
        let promised = Decision {
            break_glass: BreakGlass::Used("drill".to_owned()),
            stamps: Stamps::from([("fencegate.dev/placed-by", Some("alice".to_owned()))]),
            warnings: vec!["EvidenceMissing: nothing vouches".to_owned()],
            ..Decision::unrelated()
        };
        let denied = promised.clone().unrecorded("the disk is full".to_owned(), Mode::Enforce);
        assert_eq!((denied.allowed, &denied.break_glass), (false, &BreakGlass::Unused));
        assert_eq!((denied.stamps.len(), denied.warnings.len()), (0, 0));
        let allowed = promised.clone().unrecorded("the disk is full".to_owned(), Mode::Warn);
        assert_eq!((allowed.allowed, &allowed.break_glass), (true, &promised.break_glass));
        assert_eq!((&allowed.stamps, allowed.warnings.len()), (&promised.stamps, 2));
    }

    #[test]
    fn a_fact_that_several_checks_lack_is_told_once() {
        let unread = |what: &str| Unread::unreadable(what.to_owned(), "forbidden");
        let told = facts_unavailable(vec![unread("a"), unread("b"), unread("a")]).unwrap();
        assert_eq!(told.reason, Reason::FactsUnavailable { unread: vec![unread("a"), unread("b")] });
        assert_eq!(facts_unavailable(vec![]), None);
    }

    #[test]
    fn whoever_records_a_fence_of_a_node_that_is_ready_is_warned_unless_more_is_said_anyway() {
        let node = |is_out: bool, ready: &str, method: Option<&str>| -> Node {
            let annotations = method.map_or(json!({}), |method| json!({METHOD: method}));
            let taints = if is_out { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
            from_value(json!({
                "metadata": {"name": "n1", "annotations": annotations},
                "spec": {"taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        for (what, was_out, ready, is_out, method, is_warned) in [
            ("a record", false, "True", false, Some("power-off"), true),
            ("a record of a node that is not Ready", false, "Unknown", false, Some("power-off"), false),
            ("no record", false, "True", false, None, false),
            ("a record with the taint", false, "True", true, Some("power-off"), false),
            ("a record that comes late", true, "True", true, Some("power-off"), false),
            ("a record at the release", true, "True", false, Some("power-off"), false),
        ] {
            let write = Write::Update { old: node(was_out, ready, None), new: node(is_out, ready, method) };
            let request = Request { node: "n1".to_owned(), user: User::default(), write };
            let settings = Settings::default();
            let warning = recorded_while_ready(&Proposal::new(&request, &settings));
            assert_eq!(warning.is_some(), is_warned, "{what}");
        }
    }
}
