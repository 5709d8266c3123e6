//! `network-fence`: the storage was told to refuse the node's addresses, and confirmed it.
//!
//! It has no time of the fence: the node is fenced by now.

use super::{Answer, Row, ask_each};
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
    ask,
};

/// The message of a result `Succeeded` that is about the opposite. After `fenceState` was set back
/// to `Fenced` it stays until the controller reconciles
/// (`internal/controller/csiaddons/networkfence_controller.go`).
const UNFENCED: &str = "unfencing operation successful";

fn ask(write: &Write, facts: &Facts) -> Answer {
    let addresses = &write.current().status.addresses;
    if addresses.is_empty() {
        return Err("the node reports no InternalIP".to_owned().into());
    }
    ask_each(&facts.custom.network_fences, |fence| {
        let NetworkFence { metadata, spec, status } = fence;
        let name = metadata.full_name();
        let open: Vec<String> = addresses
            .iter()
            .filter(|address| !fence.covers(&address.address))
            .map(|address| address.address.clone())
            .collect();
        match (spec.fence_state.as_str(), status.result.as_str()) {
            ("Fenced", "Succeeded") if status.message == UNFENCED => {
                Err(format!("{name} was unfenced and is not fenced again yet").into())
            }
            ("Fenced", "Succeeded") if open.is_empty() => Ok(None),
            ("Fenced", "Succeeded") => Err(format!("{name} does not cover {}", FirstFive(&open)).into()),
            ("Fenced", result) => Err(format!("{name} has result {}", quoted(result)).into()),
            (state, _) => Err(format!("{name} has fenceState {}", quoted(state)).into()),
        }
    })
}
