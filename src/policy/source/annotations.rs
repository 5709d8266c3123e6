//! `annotations`: the person or program that fenced the node wrote complete evidence to it
//! (contract section 2).

use super::{Answer, Inquiry, Row};
use crate::policy::evidence::Evidence;

pub(super) const ROW: Row = Row { name: "annotations", method: None, needs: |_| vec![], consult };

fn consult(Inquiry { write, .. }: &Inquiry<'_>) -> Answer {
    let value = |key: &str| write.after().and_then(|node| node.annotation(key));
    let evidence = Evidence::parse(value).map_err(|flaws| flaws.to_string())?;
    Ok(Some(evidence.fenced_at))
}
