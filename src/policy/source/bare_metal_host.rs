//! `bare-metal-host`: Metal3 sees that the power of the machine behind the node is off.

use super::{Answer, Row, consult_each};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact, Facts},
    object::{
        bare_metal_host::{BareMetalHost, host_of},
        custom::{DETACHED, PAUSED},
    },
    request::Write,
    text::quoted,
};

pub(super) const ROW: Row = Row {
    name: "bare-metal-host",
    method: Some(Method::PowerOff),
    needs: |write| host_of(write.current()).map(|_| Fact::Custom(CustomKind::BareMetalHost)),
    consult,
};

fn consult(write: &Write, facts: &Facts) -> Answer {
    let node = write.current();
    if host_of(node).is_none() {
        return Err(format!("spec.providerID {} names no host", quoted(&node.spec.provider_id)).into());
    }
    consult_each(&facts.custom.bare_metal_hosts, |BareMetalHost { metadata, status }| {
        let why = match (status.powered_on, status.operational_status.as_str()) {
            _ if metadata.annotations.contains_key(PAUSED) => "is paused, nobody looks at its power".to_owned(),
            _ if metadata.annotations.contains_key(DETACHED) => "is detached, nobody looks at its power".to_owned(),
            (Some(false), "OK") => return Ok(status.last_updated),
            (Some(false), status) => format!("has operationalStatus {}", quoted(status)),
            (Some(true), _) => "is powered on".to_owned(),
            (None, _) => "does not say whether it is powered on".to_owned(),
        };
        Err(format!("{} {why}", metadata.full_name()).into())
    })
}
