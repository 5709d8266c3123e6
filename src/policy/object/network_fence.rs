//! A NetworkFence of csi-addons: addresses that a storage system must block, and the kinds that
//! tell for which storage and for which addresses.
//!
//! <https://github.com/csi-addons/kubernetes-csi-addons>, `api/csiaddons/v1alpha1`.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    custom::{CustomResource, Kind, ObjectMeta},
    node::Node,
};
use crate::policy::json::{null_is_default, object_or_nothing, object_or_null, objects_or_null};

const GROUP: &str = "csiaddons.openshift.io";
const VERSION: &str = "v1alpha1";

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
    /// The CSI driver whose storage blocks the addresses.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The NetworkFenceClass that names the driver.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub network_fence_class_name: String,
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
    const KIND: Kind = Kind { group: GROUP, version: VERSION, plural: "networkfences", name: "NetworkFence" };

    /// Every fence may be: its addresses need not be those of the Node.
    fn is_about(&self, _: &Node) -> bool {
        true
    }
}

/// A NetworkFenceClass: the driver of the fences that name it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFenceClass {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub spec: ClassSpec,
}

/// `spec` of a NetworkFenceClass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassSpec {
    /// The name of the CSI driver.
    #[serde(deserialize_with = "null_is_default")]
    pub provisioner: String,
}

impl CustomResource for NetworkFenceClass {
    const KIND: Kind =
        Kind { group: GROUP, version: VERSION, plural: "networkfenceclasses", name: "NetworkFenceClass" };

    fn is_about(&self, _: &Node) -> bool {
        true
    }
}

/// A CSIAddonsNode: what a driver's sidecar tells about a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiAddonsNode {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "object_or_nothing")]
    pub spec: CsiAddonsNodeSpec,
    #[serde(deserialize_with = "object_or_nothing")]
    pub status: CsiAddonsNodeStatus,
}

/// `spec` of a CSIAddonsNode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiAddonsNodeSpec {
    #[serde(deserialize_with = "object_or_null")]
    pub driver: CsiAddonsNodeDriver,
}

/// `spec.driver` of a CSIAddonsNode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiAddonsNodeDriver {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The name of the Node that the sidecar runs on.
    #[serde(rename = "nodeID", deserialize_with = "null_is_default")]
    pub node_id: String,
}

/// `status` of a CSIAddonsNode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CsiAddonsNodeStatus {
    /// As whom the storage knows the node: one entry for each NetworkFenceClass of the driver.
    #[serde(deserialize_with = "objects_or_null", skip_serializing_if = "Vec::is_empty")]
    pub network_fence_client_status: Vec<ClientStatus>,
}

/// One entry of `status.networkFenceClientStatus`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStatus {
    /// In capitals in the API; the project's documentation spells it `clientDetails`.
    #[serde(rename = "ClientDetails", alias = "clientDetails", deserialize_with = "objects_or_null")]
    pub client_details: Vec<ClientDetail>,
}

/// One entry of `ClientDetails`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientDetail {
    #[serde(deserialize_with = "null_is_default")]
    pub cidrs: Vec<String>,
}

impl CustomResource for CsiAddonsNode {
    const KIND: Kind = Kind { group: GROUP, version: VERSION, plural: "csiaddonsnodes", name: "CSIAddonsNode" };

    fn is_about(&self, node: &Node) -> bool {
        self.spec.driver.node_id == node.metadata.name
    }
}

impl CsiAddonsNode {
    /// The addresses that the storage knows the node by.
    pub fn clients(&self) -> impl Iterator<Item = &str> {
        let details = self.status.network_fence_client_status.iter().flat_map(|status| &status.client_details);
        details.flat_map(|detail| &detail.cidrs).map(String::as_str)
    }
}

impl NetworkFence {
    /// Whether one of `spec.cidrs` contains the address or the whole block. What cannot be parsed
    /// is contained in nothing.
    pub fn covers(&self, address: &str) -> bool {
        let blocks = || self.spec.cidrs.iter().filter_map(|cidr| Block::parse(cidr));
        Block::parse(address).is_some_and(|address| blocks().any(|block| block.contains(address)))
    }
}

/// A CIDR block, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    network: u128,
    /// The bits of an address: 32 or 128.
    bits: u32,
    /// The bits that all addresses of the block share.
    prefix: u32,
}

impl Block {
    /// An IPv4-mapped IPv6 address or block is the IPv4 one.
    fn parse(text: &str) -> Option<Self> {
        /// The prefix of all IPv4-mapped addresses (RFC 4291, 2.5.5.2).
        const MAPPED: u32 = 96;
        let (network, prefix) = text.split_once('/').map_or((text, None), |(network, prefix)| (network, Some(prefix)));
        let network: IpAddr = network.parse().ok()?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), number).filter(|prefix| *prefix <= bits)?;
        let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().filter(|_| prefix >= MAPPED);
        Some(match network {
            IpAddr::V4(network) => Self { network: network.to_bits().into(), bits, prefix },
            IpAddr::V6(network) => match mapped(network) {
                Some(network) => Self { network: network.to_bits().into(), bits: 32, prefix: prefix - MAPPED },
                None => Self { network: network.to_bits(), bits, prefix },
            },
        })
    }

    fn contains(self, other: Self) -> bool {
        // `::/0` shifts by all 128 bits, and `>>` overflows for that.
        let differ = || u128::checked_shr(self.network ^ other.network, self.bits - self.prefix).unwrap_or(0);
        self.bits == other.bits && self.prefix <= other.prefix && differ() == 0
    }
}

/// Parses decimal digits, without the sign that Rust allows and the storage drivers' Go does not.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_block_contains_the_addresses_and_blocks_with_its_prefix() {
        for (cidr, address, expected) in [
            ("10.90.89.66/32", "10.90.89.66", true),
            ("10.90.89.66/32", "10.90.89.67", false),
            ("10.90.89.66", "10.90.89.66", true),
            ("10.90.89.66", "10.90.89.66/32", true),
            ("10.90.89.66", "10.90.89.66/31", false),
            ("10.90.89.66", "10.90.89.67", false),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.7/30", "10.0.0.4", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("fd00::/64", "fd00::1", true),
            ("fd00::/64", "fd00:0:0:1::1", false),
            ("fd00::1", "fd00::1", true),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.7/32", "::ffff:10.0.0.7", true),
            ("::ffff:10.0.0.7", "10.0.0.7", true),
            ("::ffff:10.0.0.0/120", "10.0.0.7", true),
            ("::ffff:10.0.0.0/120", "10.0.1.7", false),
            ("::ffff:0:0/96", "192.0.2.1", true),
            ("::ffff:0:0/95", "192.0.2.1", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/-1", "10.0.0.0", false),
            ("10.0.0.0/+8", "10.0.0.0", false),
            ("10.0.0.0/", "10.0.0.0", false),
            ("10.0.0.0/4294967295", "10.0.0.0", false),
            ("10.0.0/24", "10.0.0.1", false),
            ("", "10.0.0.1", false),
            ("0.0.0.0/0", "10.0.0", false),
        ] {
            let fence =
                NetworkFence { spec: Spec { cidrs: vec![cidr.into()], ..Spec::default() }, ..Default::default() };
            assert_eq!(fence.covers(address), expected, "{cidr} {address}");
        }
    }

    #[test]
    fn the_clients_of_a_node_are_those_of_all_its_classes() {
        let status = json!({"networkFenceClientStatus": [
            {"networkFenceClassName": "a", "ClientDetails": [{"id": "1", "cidrs": ["100.64.0.5/32", "fd64::5/128"]}]},
            {"networkFenceClassName": "b", "clientDetails": [{"id": "2", "cidrs": ["10.9.0.5/32"]}, {"id": "3", "cidrs": null}]},
        ]});
        let node: CsiAddonsNode = serde_json::from_value(json!({"status": status})).unwrap();
        assert_eq!(node.clients().collect::<Vec<_>>(), ["100.64.0.5/32", "fd64::5/128", "10.9.0.5/32"]);
    }
}
