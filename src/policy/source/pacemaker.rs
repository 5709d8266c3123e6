//! `pacemaker`: OpenShift's two-node fencing places the taint together with an annotation that
//! names who applied it.
//!
//! One patch adds both, after pacemaker's fence agent confirmed that the node is off.

use super::{Answer, Row};
use crate::policy::{annotation::APPLIED_BY, evidence::Method, facts::Facts, request::Write, text::quoted};

pub(super) const ROW: Row = Row { name: "pacemaker", method: Some(Method::PowerOff), needs: |_| None, consult };

/// The value that two-node fencing gives the annotation.
const PACEMAKER: &str = "pacemaker";

fn consult(write: &Write, _: &Facts) -> Answer {
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
    use crate::policy::object::node::Node;

    #[test]
    fn only_the_exact_name_pacemaker_vouches() {
        for (annotations, vouched) in [
            (json!({APPLIED_BY: "pacemaker"}), true),
            (json!({APPLIED_BY: "Pacemaker"}), false),
            (json!({APPLIED_BY: ""}), false),
            (json!({}), false),
        ] {
            let new = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
            let answer = consult(&Write::Update { old: Node::default(), new }, &Facts::default());
            assert_eq!(answer.ok(), vouched.then_some(None), "{annotations}");
        }
    }
}
