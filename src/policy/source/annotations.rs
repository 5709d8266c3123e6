//! `annotations`: whoever fenced the node wrote complete evidence on it (contract section 2).

use super::Answer;
use crate::policy::{
    evidence::{Evidence, Flaws},
    request::Write,
};

pub(super) fn vouches(write: &Write) -> Answer {
    let value = |key: &str| write.after().and_then(|node| node.annotation(key));
    let evidence = Evidence::parse(value).map_err(|flaws| told(&flaws))?;
    Ok(Some(evidence.fenced_at))
}

/// `a, b are not set, c is malformed`.
pub fn told(flaws: &Flaws) -> String {
    let clause = |keys: &[&str], one: &str, many: &str| match keys {
        [] => None,
        [key] => Some(format!("{key} {one}")),
        keys => Some(format!("{} {many}", keys.join(", "))),
    };
    let malformed: Vec<&str> = flaws.malformed.iter().map(|value| value.key).collect();
    [clause(&flaws.missing, "is not set", "are not set"), clause(&malformed, "is malformed", "are malformed")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}
