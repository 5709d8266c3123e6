//! `bare-metal-host`: Metal3 sees that the power of the machine behind the node is off, and keeps
//! it off.

use super::{Answer, Doubt, Inquiry, Row, consult_each};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact},
    object::{
        bare_metal_host::{BareMetalHost, HostRef},
        custom::{DETACHED, PAUSED},
    },
    text::quoted,
};

pub(super) const ROW: Row = Row {
    name: "bare-metal-host",
    method: Some(Method::PowerOff),
    needs: |write| HostRef::of(write.current()).map(|_| Fact::Custom(CustomKind::BareMetalHost)).into_iter().collect(),
    consult,
};

fn consult(Inquiry { write, facts, .. }: &Inquiry<'_>) -> Answer {
    let node = write.current();
    let Some(named) = HostRef::of(node) else {
        return Err(format!("spec.providerID {} names no host", quoted(&node.spec.provider_id)).into());
    };
    consult_each(&facts.custom.bare_metal_hosts, |host| match lacks(host, named) {
        None => Ok(None),
        Some(why) => Err(Doubt::No(format!("{} {why}", host.metadata.full_name()))),
    })
}

/// What a host lacks to vouch that its machine is off and stays off.
fn lacks(host: &BareMetalHost, named: HostRef<'_>) -> Option<String> {
    let BareMetalHost { metadata, status, .. } = host;
    if let HostRef::Named { uid: Some(uid), .. } = named
        && !metadata.uid.is_empty()
        && metadata.uid != uid
    {
        return Some(format!("is not the node's host any more: its uid is {}", quoted(&metadata.uid)));
    }
    let why = match (status.powered_on, status.operational_status.as_str()) {
        _ if metadata.annotations.contains_key(PAUSED) => "is paused, nobody looks at its power".to_owned(),
        _ if metadata.annotations.contains_key(DETACHED) => "is detached, nobody looks at its power".to_owned(),
        (Some(true), _) => "is powered on".to_owned(),
        (None, _) => "does not say whether it is powered on".to_owned(),
        (Some(false), "OK") if host.is_held_off() => return None,
        (Some(false), "OK") => "is off, but nothing holds it off: spec.online is not false, and no annotation is \
             reboot.metal3.io/ with a key"
            .to_owned(),
        (Some(false), status) => format!("has operationalStatus {}", quoted(status)),
    };
    Some(why)
}
