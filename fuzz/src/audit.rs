//! Lines of the audit log that are read back: a line that is written of what was read says the
//! same.

use fencegate::{
    audit::{Line, Recorded},
    policy::{Decision, decide, message::denial, reason::Mode, review::Content, settings::Settings},
};

use super::words;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let recorded = match Recorded::parse(text) {
        Ok(recorded) => recorded,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let decision = decision(&recorded);
    if !decision.allowed {
        words::check_denial(&denial(&decision, &recorded.review.content));
    }
    let line = Line::new(recorded.webhook, &recorded.review, &decision, &recorded.facts, None, 0.0);
    let line = serde_json::to_string(&line).unwrap();
    assert!(!line.contains('\n'));
    let again = Recorded::parse(&line).unwrap();
    assert_eq!(again.facts, recorded.facts, "{line}");
    assert_eq!(again.review, recorded.review, "{line}");
    assert_eq!(self::decision(&again), decision, "{line}");
}

fn decision(recorded: &Recorded) -> Decision {
    match &recorded.review.content {
        Content::Node(request) => decide(recorded.webhook, request, &recorded.facts, &Settings::default()),
        Content::Malformed { node, why } => Decision::malformed(node.clone(), why.clone(), Mode::Enforce),
        Content::Unrelated | Content::Door(_) => Decision::unrelated(),
    }
}
