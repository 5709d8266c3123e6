//! `network-fence`: csi-addons configured the storage systems of the node's volumes to block the
//! node's addresses, and they confirmed it.
//!
//! A fence holds for the storage of one CSI driver. So every driver of the node needs fences that
//! together cover every address by which its storage knows the node. A NetworkFence has no time: it
//! says that the node is fenced now.

use std::collections::BTreeSet;

use super::{Answer, Doubt, Inquiry, Row, installed};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact, Unread},
    object::{
        network_fence::{CsiAddonsNode, NetworkFence, NetworkFenceClass},
        pod::Pod,
        volume::VolumeAttachment,
    },
    text::{FirstFive, quoted},
};

pub(super) const ROW: Row = Row {
    name: "network-fence",
    method: Some(Method::StorageIsolation),
    needs: |_| {
        vec![
            Fact::Custom(CustomKind::NetworkFence),
            Fact::Custom(CustomKind::NetworkFenceClass),
            Fact::Custom(CustomKind::CsiAddonsNode),
            Fact::Pods,
            Fact::VolumeAttachments,
        ]
    },
    consult,
};

/// The message of a result `Succeeded` that belongs to a fencing
/// (`internal/controller/csiaddons/networkfence_controller.go`). After an unfencing it is another
/// one, which is still there when `fenceState` was set back to `Fenced`, until the controller
/// reconciles.
const FENCED: &str = "fencing operation successful";

fn consult(inquiry: &Inquiry<'_>) -> Answer {
    let custom = &inquiry.facts.custom;
    let fences = installed(&custom.network_fences)?.ok_or(Doubt::NotInstalled)?;
    if fences.is_empty() {
        return Err("there is no NetworkFence".to_owned().into());
    }
    let names_class = |fence: &NetworkFence| !fence.spec.network_fence_class_name.is_empty();
    let classes = if fences.iter().any(names_class) {
        installed(&custom.network_fence_classes)?.unwrap_or_default()
    } else {
        &[]
    };
    let mut open = Vec::new();
    for driver in drivers(inquiry)? {
        open.extend(gap(inquiry, driver, fences, classes)?);
    }
    if open.is_empty() { Ok(None) } else { Err(open.join(", ").into()) }
}

/// The drivers of the node's volumes.
fn drivers<'a>(inquiry: &Inquiry<'a>) -> Result<BTreeSet<&'a str>, Doubt> {
    let facts = inquiry.facts;
    let node = &inquiry.write.current().metadata.name;
    let unread = |what: String, why: &str| Doubt::Unread(Unread::unreadable(what, why));
    let attachments =
        facts.volume_attachments.value().map_err(|why| unread("the list of VolumeAttachments".to_owned(), why))?;
    let pods = facts.pods.value().map_err(|why| unread(format!("the list of Pods on {node}"), why))?;
    let mut drivers = BTreeSet::new();
    for VolumeAttachment { metadata, spec, .. } in attachments {
        if spec.attacher.is_empty() {
            return Err(format!("VolumeAttachment {} names no driver", metadata.name).into());
        }
        drivers.insert(spec.attacher.as_str());
    }
    for pod in pods {
        if let Some((volume, source)) = pod.inline_volumes().next() {
            return Err(Doubt::No(format!("volume {volume} of pod {} is not CSI's but {source}", pod.full_name())));
        }
    }
    for claim in pods.iter().flat_map(Pod::claimed) {
        let volume = facts.claimed_volume(&claim);
        let volume = volume.map_err(|why| unread(format!("the PersistentVolume of claim {claim}"), why))?;
        let Some(volume) = volume else {
            return Err(format!("no PersistentVolume is known for claim {claim}").into());
        };
        match volume.spec.csi.as_ref().filter(|csi| !csi.driver.is_empty()) {
            Some(csi) => drivers.insert(&csi.driver),
            None => return Err(Doubt::No(format!("PersistentVolume {} is not CSI's", volume.metadata.name))),
        };
    }
    // Such a volume may still be on the machine after its pod is gone.
    if let Some(volume) = inquiry.write.current().status.volumes_attached.first() {
        return Err(Doubt::No(format!("{} in the Node's status.volumesAttached is not CSI's", quoted(&volume.name))));
    }
    if drivers.is_empty() {
        return Err("the node has no volume, so no storage is known that must block it".to_owned().into());
    }
    Ok(drivers)
}

/// The addresses of the node that the storage of this driver does not block, with what each fence
/// lacks. `None` if it blocks all of them.
fn gap(
    inquiry: &Inquiry<'_>,
    driver: &str,
    fences: &[NetworkFence],
    classes: &[NetworkFenceClass],
) -> Result<Option<String>, Doubt> {
    let clients = clients(inquiry, driver)?;
    let holding: Vec<&NetworkFence> = fences.iter().filter(|fence| lacks(fence, driver, classes).is_none()).collect();
    // The storage knows addresses, not objects: what one object lets through is let through.
    let lets_through = |fence: &&NetworkFence| {
        fence.spec.fence_state == "Unfenced" && driver_of(fence, classes).is_none_or(|of| of == driver)
    };
    let open: Vec<&str> = clients
        .into_iter()
        .filter(|client| {
            !holding.iter().any(|fence| fence.covers(client))
                || fences.iter().filter(lets_through).any(|fence| fence.covers(client))
        })
        .collect();
    if open.is_empty() {
        return Ok(None);
    }
    let concerns = |fence: &&NetworkFence| {
        driver_of(fence, classes) == Some(driver) || open.iter().any(|client| fence.covers(client))
    };
    let what = |fence: &NetworkFence| {
        let why = lacks(fence, driver, classes).unwrap_or_else(|| "does not cover it".to_owned());
        format!("{} {why}", fence.metadata.full_name())
    };
    let fences: Vec<String> = fences.iter().filter(concerns).map(what).collect();
    let fences =
        if fences.is_empty() { "no NetworkFence is for it".to_owned() } else { FirstFive(&fences).to_string() };
    let open: Vec<String> = open.into_iter().map(quoted).collect();
    Ok(Some(format!("the storage of {} does not block {} ({fences})", quoted(driver), FirstFive(&open))))
}

/// The addresses by which the storage of this driver knows the node: those that its sidecar tells,
/// or every internal address of the Node.
fn clients<'a>(inquiry: &Inquiry<'a>, driver: &str) -> Result<Vec<&'a str>, Doubt> {
    let told = installed(&inquiry.facts.custom.csi_addons_nodes)?.unwrap_or_default();
    let of_driver = told.iter().filter(|node| node.spec.driver.name == driver);
    let mut clients: Vec<&str> = of_driver.flat_map(CsiAddonsNode::clients).collect();
    if clients.is_empty() {
        clients.extend(inquiry.write.current().status.addresses.iter().map(|address| address.address.as_str()));
    }
    if clients.is_empty() {
        return Err("the node reports no InternalIP".to_owned().into());
    }
    Ok(clients)
}

/// What a fence lacks to block anything from the storage of this driver.
fn lacks(fence: &NetworkFence, driver: &str, classes: &[NetworkFenceClass]) -> Option<String> {
    let NetworkFence { metadata, spec, status } = fence;
    let why = match driver_of(fence, classes) {
        _ if metadata.deletion_timestamp.is_some() => "is being deleted".to_owned(),
        None => "does not say for which driver it is".to_owned(),
        Some(other) if other != driver => format!("is for the driver {}", quoted(other)),
        Some(_) => match (spec.fence_state.as_str(), status.result.as_str(), status.message.as_str()) {
            ("Fenced", "Succeeded", FENCED) => return None,
            ("Fenced", "Succeeded", message) => format!("has the message {}, not {FENCED}", quoted(message)),
            ("Fenced", "", _) => "has no result yet".to_owned(),
            ("Fenced", result, _) => format!("has result {}", quoted(result)),
            (state, ..) => format!("has fenceState {}", quoted(state)),
        },
    };
    Some(why)
}

/// The driver whose storage carries out a fence. csi-addons takes it from the class if the fence
/// names one. A fence that names a driver beside the class of another counts for neither.
fn driver_of<'a>(fence: &'a NetworkFence, classes: &'a [NetworkFenceClass]) -> Option<&'a str> {
    let named = Some(fence.spec.driver.as_str()).filter(|driver| !driver.is_empty());
    if fence.spec.network_fence_class_name.is_empty() {
        return named;
    }
    let class = classes.iter().find(|class| class.metadata.name == fence.spec.network_fence_class_name)?;
    let provisioner = Some(class.spec.provisioner.as_str()).filter(|provisioner| !provisioner.is_empty())?;
    named.is_none_or(|named| named == provisioner).then_some(provisioner)
}
