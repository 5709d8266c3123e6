//! The text of a denial (contract section 9): what is not allowed, every reason, and what to do
//! about it, for a person who reads it at 3 a.m. Commands can be pasted as they are.

use self::{advice::advice, situation::Situation};
use super::{
    decision::Decision,
    reason::{Code, Mode},
    request::OnNode,
    review::Content,
    text::{on_one_line, quoted, shortened},
    transition::Transition,
};

mod advice;
mod leaving;
mod situation;

/// The most bytes of a denial (contract section 9).
const LONGEST: usize = 4096;
/// The most bytes of what to do about it: all steps that one denial can need, for a node and a user
/// with long names.
const LONGEST_ADVICE: usize = 3072;

/// The text of a denial of this content of a review, several lines joined by `\n`, at most 4 KiB.
pub fn denial(decision: &Decision, content: &Content) -> String {
    let reasons = decision.findings.iter().filter(|finding| finding.denies()).map(|finding| &finding.reason);
    let advice = match content {
        Content::Node(request) => advice(&Situation { request, decision }, reasons.clone()),
        Content::Door(_) => vec![advice::ONCE_READABLE.to_owned()],
        Content::Unrelated | Content::Malformed { .. } => {
            vec!["nothing was changed; no API server sends such a review: look who else calls the gate".to_owned()]
        }
    };
    let headline = headline(decision, content);
    let advice = first_lines(advice, LONGEST_ADVICE);
    let rest = LONGEST.saturating_sub(bytes(&advice) + headline.len());
    let reasons = reasons.map(|reason| on_one_line(&format!("  {}: {reason}", reason.code())).into_owned());
    let mut lines = vec![headline];
    lines.extend(fitted(reasons.collect(), rest));
    lines.extend(advice);
    lines.join("\n")
}

/// The bytes of these lines, each with its line break.
fn bytes(lines: &[String]) -> usize {
    lines.iter().map(|line| line.len() + 1).sum()
}

/// As many lines as fit, from the first one on.
fn first_lines(mut lines: Vec<String>, most: usize) -> Vec<String> {
    while bytes(&lines) > most {
        lines.pop();
    }
    lines
}

/// The lines, the longest of them cut so that all fit. The end of a reason is cut first: its code
/// and its conclusion are at the beginning.
fn fitted(lines: Vec<String>, most: usize) -> Vec<String> {
    let mut lengths: Vec<usize> = lines.iter().map(|line| line.len() + 1).collect();
    lengths.sort_unstable();
    let (mut rest, mut share) = (most, usize::MAX);
    for (index, length) in lengths.iter().enumerate() {
        let fair = rest / (lengths.len() - index);
        if *length > fair {
            share = fair;
            break;
        }
        rest -= length;
    }
    lines.into_iter().map(|line| shortened(line, share.saturating_sub(1))).collect()
}

/// The first line: `node "worker-2" may not be put out of service:`
fn headline(decision: &Decision, content: &Content) -> String {
    let what = match decision.transitions.first() {
        Some(Transition::Place) => "may not be put out of service",
        Some(Transition::Release) => "may not return to service",
        Some(Transition::Delete) => "may not be deleted while out of service",
        Some(Transition::Amend) => "may not have its out-of-service taint changed",
        Some(Transition::Attest) => "may not have its fencing evidence changed",
        Some(Transition::DeleteUntainted) => "may not be deleted before it is fenced",
        Some(Transition::ForceDelete) => "may not be force-deleted before its node is fenced",
        Some(Transition::Detach) => "may not be detached before its node is fenced",
        None => "may not be written",
    };
    format!("{} {what}:", subject(decision, content))
}

/// What is written: a node, or something on it.
fn subject(decision: &Decision, content: &Content) -> String {
    match content.on_node() {
        Some(OnNode { kind, name }) => format!("{kind} {}", quoted(&name)),
        None if decision.node.is_empty() => "a node".to_owned(),
        None => format!("node {}", quoted(&decision.node)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lengths: &[usize]) -> Vec<String> {
        lengths.iter().map(|length| "x".repeat(*length)).collect()
    }

    #[test]
    fn as_many_first_lines_are_kept_as_fit_with_their_line_breaks() {
        for (most, kept) in [(12, 3), (11, 2), (8, 2), (7, 1), (4, 1), (3, 0), (0, 0)] {
            assert_eq!(first_lines(lines(&[3, 3, 3]), most).len(), kept, "{most}");
        }
    }

    #[test]
    fn only_the_longest_lines_are_cut_and_no_byte_is_wasted() {
        let cut = |given: &[usize], most| fitted(lines(given), most).iter().map(String::len).collect::<Vec<_>>();
        assert_eq!(cut(&[3, 3], 8), [3, 3]);
        assert_eq!(cut(&[4, 300], 200), [4, 194]);
        assert_eq!(cut(&[300, 4], 200), [194, 4]);
        // A line as long as its share leaves the remainder to the others.
        assert_eq!(cut(&[99, 300], 201), [99, 100]);
        assert_eq!(cut(&[300, 300, 300], 600), [199, 199, 199]);
    }
}
