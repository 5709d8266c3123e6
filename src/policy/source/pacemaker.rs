//! `pacemaker`: OpenShift's two-node fencing says with the taint who applied it.
//!
//! One patch brings both, after pacemaker's fence agent confirmed that the other node is off.

use super::Answer;
use crate::policy::{annotation::APPLIED_BY, evidence::quoted, request::Write};

/// Who applies the taint in two-node fencing.
const PACEMAKER: &str = "pacemaker";

pub(super) fn vouches(write: &Write) -> Answer {
    match write.after().and_then(|node| node.annotation(APPLIED_BY)) {
        Some(PACEMAKER) => Ok(None),
        Some(other) => Err(format!("{APPLIED_BY} is {}, not {PACEMAKER}", quoted(other)).into()),
        None => Err(format!("{APPLIED_BY} is not set").into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pacemaker_is_taken_at_its_word_and_nobody_else() {
        for (annotations, vouched) in [
            (json!({APPLIED_BY: "pacemaker"}), true),
            (json!({APPLIED_BY: "Pacemaker"}), false),
            (json!({APPLIED_BY: ""}), false),
            (json!({}), false),
        ] {
            let new = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
            let answer = vouches(&Write::Update { old: crate::policy::node::Node::default(), new });
            assert_eq!(answer.ok(), vouched.then_some(None), "{annotations}");
        }
    }
}
