//! What every serving certificate has, and development certificates: a CA and a serving certificate
//! that it signed.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;

/// A CA certificate, a serving certificate and its key, all PEM. The CA's key is discarded: it can
/// sign nothing more, so a client that trusts it trusts this one certificate only.
#[derive(Clone)]
pub struct Development {
    pub ca: String,
    pub certificate: String,
    pub key: String,
    pub not_after: Timestamp,
}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum IssueError {
    #[error("{host:?} is neither a DNS name nor an IP address: {source}")]
    Host { host: String, source: rcgen::Error },
    #[error("the certificate would end outside the calendar")]
    Validity,
    #[error(transparent)]
    Sign(#[from] rcgen::Error),
}

/// Certificates are valid from a little before they are made: clocks differ.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

impl Development {
    /// Makes a serving certificate for these DNS names and IP addresses, valid for `days` from
    /// `now`.
    ///
    /// # Errors
    /// If a host is neither a DNS name nor an IP address, or the validity ends outside the
    /// calendar.
    pub fn make(hosts: &[String], days: u32, now: Timestamp) -> Result<Self, IssueError> {
        let lifetime = SignedDuration::from_hours(24 * i64::from(days));
        let not_after = now.checked_add(lifetime).map_err(|_| IssueError::Validity)?;
        let not_before = now.checked_sub(BACKDATED).map_err(|_| IssueError::Validity)?;

        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "fencegate development CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut ca, not_before, not_after)?;
        let issuer = Issuer::new(ca.clone(), KeyPair::generate()?);

        let mut leaf = serving(hosts)?;
        valid(&mut leaf, not_before, not_after)?;
        let key = KeyPair::generate()?;
        Ok(Self {
            ca: ca.self_signed(issuer.key())?.pem(),
            certificate: leaf.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
            // Certificates know whole seconds.
            not_after: Timestamp::from_second(not_after.as_second()).map_err(|_| IssueError::Validity)?,
        })
    }
}

/// The parameters of a serving certificate for these DNS names and IP addresses, without its
/// validity.
pub(super) fn serving(hosts: &[String]) -> Result<CertificateParams, IssueError> {
    for host in hosts {
        CertificateParams::new([host.clone()]).map_err(|source| IssueError::Host { host: host.clone(), source })?;
    }
    let mut leaf = CertificateParams::new(hosts)?;
    leaf.distinguished_name.push(DnType::CommonName, "fencegate");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    Ok(leaf)
}

/// Sets a certificate's validity.
pub(super) fn valid(
    params: &mut CertificateParams,
    not_before: Timestamp,
    not_after: Timestamp,
) -> Result<(), IssueError> {
    params.not_before = asn1(not_before)?;
    params.not_after = asn1(not_after)?;
    Ok(())
}

fn asn1(at: Timestamp) -> Result<time::OffsetDateTime, IssueError> {
    time::OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| IssueError::Validity)
}
