//! A NetworkFence of csi-addons: addresses that a storage system must block.
//!
//! <https://github.com/csi-addons/kubernetes-csi-addons>, `api/csiaddons/v1alpha1`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null};

/// A NetworkFence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFence {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub spec: Spec,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: Status,
}

/// `spec` of a NetworkFence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    #[serde(deserialize_with = "null_is_default")]
    pub fence_state: String,
    #[serde(deserialize_with = "null_is_default")]
    pub cidrs: Vec<String>,
}

/// `status` of a NetworkFence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    #[serde(deserialize_with = "null_is_default")]
    pub result: String,
    #[serde(deserialize_with = "null_is_default")]
    pub message: String,
}

impl CustomResource for NetworkFence {
    const KIND: Kind =
        Kind { group: "csiaddons.openshift.io", version: "v1alpha1", plural: "networkfences", name: "NetworkFence" };

    /// Whether the fence covers any address of the node.
    fn is_about(&self, node: &Node) -> bool {
        node.status.addresses.iter().any(|address| self.covers(&address.address))
    }
}

impl NetworkFence {
    /// Whether one of `spec.cidrs` contains the address.
    pub fn covers(&self, address: &str) -> bool {
        address.parse().is_ok_and(|address| self.spec.cidrs.iter().any(|cidr| contains(cidr, address)))
    }
}

/// Whether a CIDR block, or a single address, contains this address. A malformed block contains
/// nothing.
fn contains(cidr: &str, address: IpAddr) -> bool {
    let (network, length) = cidr.split_once('/').map_or((cidr, None), |(network, length)| (network, Some(length)));
    let (bits, network, address) = match (network.parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => (32, network.to_bits().into(), address.to_bits().into()),
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => (128, network.to_bits(), address.to_bits()),
        _ => return false,
    };
    let Some(length) = length.map_or(Some(bits), |text| text.parse().ok().filter(|length| *length <= bits)) else {
        return false;
    };
    // `::/0` shifts by all 128 bits, and `>>` overflows for that.
    u128::checked_shr(network ^ address, bits - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_block_contains_the_addresses_with_its_prefix() {
        for (cidr, address, expected) in [
            ("10.90.89.66/32", "10.90.89.66", true),
            ("10.90.89.66/32", "10.90.89.67", false),
            ("10.90.89.66", "10.90.89.66", true),
            ("10.90.89.66", "10.90.89.67", false),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.7/30", "10.0.0.4", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("fd00::/64", "fd00::1", true),
            ("fd00::/64", "fd00:0:0:1::1", false),
            ("fd00::1", "fd00::1", true),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/-1", "10.0.0.0", false),
            ("10.0.0.0/", "10.0.0.0", false),
            ("10.0.0.0/4294967295", "10.0.0.0", false),
            ("10.0.0/24", "10.0.0.1", false),
            ("", "10.0.0.1", false),
        ] {
            assert_eq!(contains(cidr, address.parse().unwrap()), expected, "{cidr} {address}");
        }
    }
}
