//! The addresses that a NetworkFence covers, and those of another reading of CIDR blocks. The last
//! line is the address, the lines before it are the blocks.

use std::net::IpAddr;

use fencegate::policy::object::network_fence::{NetworkFence, Spec};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (blocks, address) = text.rsplit_once('\n').unwrap_or(("", text));
    let cidrs: Vec<String> = blocks.split('\n').map(str::to_owned).collect();
    let expected = Block::read(address)
        .is_some_and(|address| cidrs.iter().filter_map(|cidr| Block::read(cidr)).any(|block| block.covers(&address)));
    let fence = NetworkFence { spec: Spec { cidrs, ..Spec::default() }, ..NetworkFence::default() };
    assert_eq!(fence.covers(address), expected, "{text:?}");
}

/// A block: the first binary digits of its addresses, all of which are written as IPv6 ones.
struct Block {
    is_v4: bool,
    digits: String,
}

impl Block {
    /// As Go's `net.ParseCIDR` and `net.ParseIP`, which storage drivers use, read it.
    fn read(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) if !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse().ok().filter(|prefix: &usize| *prefix <= most)?
            }
            Some(_) => return None,
            None => most,
        };
        let (bits, prefix) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), prefix + 96),
            IpAddr::V6(address) => (address.to_bits(), prefix),
        };
        let is_v4 = prefix >= 96 && bits >> 32 == 0xffff;
        Some(Self { is_v4, digits: format!("{bits:0128b}").chars().take(prefix).collect() })
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_v4 == other.is_v4 && other.digits.starts_with(&self.digits)
    }
}
