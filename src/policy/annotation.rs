//! The annotations of contract section 2: their keys and their purpose, and the known key that is
//! closest to a mistyped one.

use strsim::levenshtein;

/// The prefix of all keys of the gate.
pub const PREFIX: &str = "fencegate.dev/";

/// How the node was fenced; one of [`super::evidence::Method`].
pub const METHOD: &str = "fencegate.dev/method";
/// When the fence took effect, RFC 3339 with an offset; or [`NOW`].
pub const FENCED_AT: &str = "fencegate.dev/fenced-at";
/// A value of `fenced-at`: the mutating webhook replaces it by the time of the write.
pub const NOW: &str = "now";
/// Who or what fenced the node.
pub const FENCED_BY: &str = "fencegate.dev/fenced-by";
/// What was observed (optional).
pub const PROOF: &str = "fencegate.dev/proof";
/// `status.nodeInfo.bootID` of the boot that the fence ended (optional: the gate adds it).
pub const BOOT_ID: &str = "fencegate.dev/boot-id";

/// Stamp: the user name of the request that wrote the evidence.
pub const RECORDED_BY: &str = "fencegate.dev/recorded-by";
/// Stamp: the gate's clock when the evidence was written.
pub const RECORDED_AT: &str = "fencegate.dev/recorded-at";
/// Stamp: the user name of the request that placed the taint.
pub const PLACED_BY: &str = "fencegate.dev/placed-by";
/// Stamp: the gate's clock when the taint was placed.
pub const PLACED_AT: &str = "fencegate.dev/placed-at";
/// Stamp: the evidence source that vouched.
pub const SOURCE: &str = "fencegate.dev/source";
/// Stamp: the user name of the request that wrote the break-glass.
pub const BREAK_GLASS_BY: &str = "fencegate.dev/break-glass-by";
/// Stamp: the gate's clock when the break-glass was written.
pub const BREAK_GLASS_AT: &str = "fencegate.dev/break-glass-at";
/// Stamp: the reason of the break-glass that was used.
pub const OVERRIDDEN: &str = "fencegate.dev/overridden";
/// Stamp: the user name of the request that used the break-glass.
pub const OVERRIDDEN_BY: &str = "fencegate.dev/overridden-by";
/// Stamp: the gate's clock when the break-glass was used.
pub const OVERRIDDEN_AT: &str = "fencegate.dev/overridden-at";
/// Stamp: one-line JSON record of the outage that ended.
pub const LAST_OUTAGE: &str = "fencegate.dev/last-outage";

/// Break-glass: the reason why the gate must be overruled (contract section 7).
pub const BREAK_GLASS: &str = "fencegate.dev/break-glass";
/// Why automatic release leaves the node alone (contract section 14).
pub const HOLD: &str = "fencegate.dev/hold";

/// Not an annotation of the gate: two-node fencing sets it to [`PACEMAKER`] when pacemaker fenced
/// the node and placed the taint (section 6).
pub const APPLIED_BY: &str = "node.kubernetes.io/out-of-service-applied-by";
/// The value of pacemaker's mark.
pub const PACEMAKER: &str = "pacemaker";

/// The evidence that the source `annotations` requires, in the order in which messages list it.
pub const REQUIRED_EVIDENCE: [&str; 3] = [METHOD, FENCED_AT, FENCED_BY];
/// All evidence keys, in the order of the contract.
pub const EVIDENCE: [&str; 5] = [METHOD, FENCED_AT, FENCED_BY, PROOF, BOOT_ID];
/// The stamps about the record and the placement.
pub const RECORD_STAMPS: [&str; 5] = [RECORDED_BY, RECORDED_AT, PLACED_BY, PLACED_AT, SOURCE];
/// The stamps of a break-glass that was written.
pub const BREAK_GLASS_STAMPS: [&str; 2] = [BREAK_GLASS_BY, BREAK_GLASS_AT];
/// The stamps of a break-glass that was used.
pub const OVERRIDDEN_STAMPS: [&str; 3] = [OVERRIDDEN, OVERRIDDEN_BY, OVERRIDDEN_AT];
/// All stamps: written by the gate, never by a user.
pub const STAMPS: [&str; 11] = [
    RECORDED_BY,
    RECORDED_AT,
    PLACED_BY,
    PLACED_AT,
    SOURCE,
    BREAK_GLASS_BY,
    BREAK_GLASS_AT,
    OVERRIDDEN,
    OVERRIDDEN_BY,
    OVERRIDDEN_AT,
    LAST_OUTAGE,
];

/// Every key the gate knows.
pub fn known() -> impl Iterator<Item = &'static str> {
    EVIDENCE.into_iter().chain(STAMPS).chain([BREAK_GLASS, HOLD])
}

/// Whether a key is under the gate's prefix and means nothing.
pub fn is_meaningless(key: &str) -> bool {
    key.starts_with(PREFIX) && !known().any(|known| known == key)
}

/// The known key that is closest to `key`: with the fewest single-character edits, and if several
/// have the same number, the first in the order of the contract.
pub fn closest_known(key: &str) -> &'static str {
    /// Kubernetes' limit for an annotation key: 253 characters of prefix, a slash, 63 characters of
    /// name. It bounds the work for a longer key, which the API server will not store.
    const LONGEST: usize = 317;
    let key: String = key.chars().take(LONGEST).collect();
    known().min_by_key(|candidate| levenshtein(&key, candidate)).unwrap_or(METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_gets_the_closest_known_key() {
        assert_eq!(closest_known("fencegate.dev/fencedat"), FENCED_AT);
        assert_eq!(closest_known("fencegate.dev/fenced_by"), FENCED_BY);
        assert_eq!(closest_known("fencegate.dev/breakglass"), BREAK_GLASS);
        assert_eq!(closest_known("fencegate.dev/bootid"), BOOT_ID);
    }
}
