//! `network-fence`: csi-addons configured the storage system to block the node's addresses, and the
//! storage system confirmed it.
//!
//! The object has no time of the fence, so all that is known is that the node is fenced now.

use super::{Answer, Row, consult_each};
use crate::policy::{
    evidence::Method,
    facts::{CustomKind, Fact, Facts},
    object::network_fence::NetworkFence,
    request::Write,
    text::{FirstFive, quoted},
};

pub(super) const ROW: Row = Row {
    name: "network-fence",
    method: Some(Method::StorageIsolation),
    needs: |_| Some(Fact::Custom(CustomKind::NetworkFence)),
    consult,
};

/// The message of a result `Succeeded` that belongs to an unfencing. It is still there after
/// `fenceState` was set back to `Fenced`, until the controller reconciles
/// (`internal/controller/csiaddons/networkfence_controller.go`).
const UNFENCED: &str = "unfencing operation successful";

fn consult(write: &Write, facts: &Facts) -> Answer {
    let addresses = &write.current().status.addresses;
    if addresses.is_empty() {
        return Err("the node reports no InternalIP".to_owned().into());
    }
    consult_each(&facts.custom.network_fences, |fence| {
        let NetworkFence { metadata, spec, status } = fence;
        let name = metadata.full_name();
        let not_covered: Vec<String> = addresses
            .iter()
            .filter(|address| !fence.covers(&address.address))
            .map(|address| address.address.clone())
            .collect();
        match (spec.fence_state.as_str(), status.result.as_str()) {
            ("Fenced", "Succeeded") if status.message == UNFENCED => {
                Err(format!("{name} was unfenced and is not fenced again yet").into())
            }
            ("Fenced", "Succeeded") if not_covered.is_empty() => Ok(None),
            ("Fenced", "Succeeded") => Err(format!("{name} does not cover {}", FirstFive(&not_covered)).into()),
            ("Fenced", result) => Err(format!("{name} has result {}", quoted(result)).into()),
            (state, _) => Err(format!("{name} has fenceState {}", quoted(state)).into()),
        }
    })
}
