//! `pacemaker`: OpenShift's two-node fencing places the taint together with an annotation that
//! names who applied it.
//!
//! One patch adds both, after pacemaker's fence agent confirmed that the node is off. So the mark
//! counts only for the write that adds it. A mark that was there before is from an earlier outage
//! and vouches for nothing.

use super::{Answer, Doubt, Inquiry, Row};
use crate::policy::{
    annotation::{APPLIED_BY, PACEMAKER},
    evidence::Method,
    text::quoted,
};

pub(super) const ROW: Row = Row { name: "pacemaker", method: Some(Method::PowerOff), needs: |_| vec![], consult };

fn consult(Inquiry { write, .. }: &Inquiry<'_>) -> Answer {
    let before = write.before().and_then(|node| node.annotation(APPLIED_BY));
    match write.after().and_then(|node| node.annotation(APPLIED_BY)) {
        Some(PACEMAKER) if before == Some(PACEMAKER) => Err(Doubt::LeftOver),
        Some(PACEMAKER) => Ok(None),
        Some(other) => Err(format!("{APPLIED_BY} is {}, not {PACEMAKER}", quoted(other)).into()),
        None => Err(format!("{APPLIED_BY} is not set").into()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{facts::Facts, object::node::Node, request::Write};

    fn marked(value: &Value) -> Node {
        serde_json::from_value(json!({"metadata": {"annotations": {APPLIED_BY: value}}})).unwrap()
    }

    #[test]
    fn only_a_write_that_adds_the_exact_name_pacemaker_vouches() {
        for (before, after, vouched) in [
            (None, json!("pacemaker"), true),
            (Some(json!("somebody")), json!("pacemaker"), true),
            (Some(json!("pacemaker")), json!("pacemaker"), false),
            (None, json!("Pacemaker"), false),
            (None, json!(""), false),
        ] {
            let old = before.as_ref().map(marked).unwrap_or_default();
            let write = Write::Update { old, new: marked(&after) };
            let inquiry = Inquiry { write: &write, facts: &Facts::default(), clock_skew: SignedDuration::ZERO };
            assert_eq!(consult(&inquiry).ok(), vouched.then_some(None), "{before:?} to {after}");
        }
    }
}
