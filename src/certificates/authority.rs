//! The CA that the replicas agree on through a Secret, and every change to it.
//!
//! No IO and no decisions: `plan` says which change is due. Making a key is the only randomness.
//!
//! A CA is replaced in steps, so that at no moment a replica serves a certificate that an API
//! server does not trust: the next CA is published beside the current one, then signs in its place,
//! and the previous one is dropped once nothing that it signed is valid any more.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, pem, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    issue::{self, IssueError},
    leaf::Leaf,
    lifetimes::Lifetimes,
};
use crate::tls::{TlsError, certificates, validity};

/// Certificates are valid from long before they are made: clocks may differ by minutes, and a
/// narrower start would gain nothing.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// How the common name of every CA made here begins.
const COMMON_NAME: &str = "fencegate CA ";
const END: &str = "-----END CERTIFICATE-----";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// What the Secret holds, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// The CA that signs.
    pub(super) current: Ca,
    /// The CA that will sign once every API server trusts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Next>,
    /// CAs that no longer sign and are still trusted for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Previous>,
}

/// A CA certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ca {
    pub(super) certificate: String,
    key: String,
}

impl fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ca").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Next {
    pub(super) ca: Ca,
    /// When it was first seen in every webhook configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) published_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Previous {
    /// One or more, PEM.
    pub(super) certificates: String,
    /// They are dropped from the bundle at this time.
    pub(super) until: Timestamp,
}

/// Why bytes are not a CA that can sign.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("it is not a CA in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a key does not fit: {0}")]
    Key(#[from] rcgen::Error),
    #[error("a certificate is not PEM: {0}")]
    Pem(#[from] pem::Error),
    #[error(transparent)]
    Certificate(#[from] TlsError),
    #[error("the CA is valid from {not_before} to {not_after} only")]
    NotValid { not_before: Timestamp, not_after: Timestamp },
}

/// A change to a CA that the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Trust these CA certificates (PEM) like previous ones.
    Adopt(String),
    /// Make the CA that will sign next.
    AddNext,
    /// Record that every webhook configuration has the next CA.
    NotePublished,
    /// Let the next CA sign, and keep trusting the current one as the previous one.
    Promote,
    /// Stop trusting the previous CAs.
    DropPrevious,
}

impl Change {
    /// For the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adopt(_) => "Adopt",
            Self::AddNext => "AddNext",
            Self::NotePublished => "NotePublished",
            Self::Promote => "Promote",
            Self::DropPrevious => "DropPrevious",
        }
    }
}

impl Authority {
    /// Makes a CA. The certificates in `published` (PEM) stay trusted for a while, because replicas
    /// may still serve what they signed: with certificates from files, or of a CA whose Secret was
    /// lost.
    ///
    /// # Errors
    /// If no key can be made, or the CA would end outside the calendar.
    pub fn create(published: &[u8], now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, IssueError> {
        let until = later(now, lifetimes.outlive())?;
        let certificates: String = sections(published).map(|(section, _)| section).collect();
        let previous = (!certificates.is_empty()).then_some(Previous { certificates, until });
        Ok(Self { current: Ca::make(now, lifetimes)?, next: None, previous })
    }

    /// Makes the changed CA.
    ///
    /// # Errors
    /// If no key can be made, or a time lies outside the calendar.
    pub fn change(&self, change: &Change, now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, IssueError> {
        let mut changed = self.clone();
        match change {
            Change::Adopt(certificates) => {
                let known = self.previous.as_ref().map_or("", |previous| &previous.certificates);
                let certificates = format!("{known}{certificates}");
                changed.previous = Some(Previous { certificates, until: later(now, lifetimes.outlive())? });
            }
            Change::AddNext => changed.next = Some(Next { ca: Ca::make(now, lifetimes)?, published_at: None }),
            Change::NotePublished => {
                changed.next = self.next.clone().map(|next| Next { published_at: Some(now), ..next });
            }
            Change::Promote => {
                if let Some(next) = changed.next.take() {
                    let certificates = self.current.certificate.clone();
                    changed.previous = Some(Previous { certificates, until: later(now, lifetimes.outlive())? });
                    changed.current = next.ca;
                }
            }
            Change::DropPrevious => changed.previous = None,
        }
        Ok(changed)
    }

    /// The same CA, to be written to a Secret that lost it. When its next CA was published no
    /// longer counts: the webhook configurations may have changed since.
    #[must_use]
    pub fn restored(self) -> Self {
        Self { next: self.next.map(|next| Next { published_at: None, ..next }), ..self }
    }

    /// Parses the value in the Secret.
    ///
    /// # Errors
    /// Why it is not a CA that can sign at `now`.
    pub fn parse(bytes: &[u8], now: Timestamp) -> Result<Self, AuthorityError> {
        let authority: Self = serde_json::from_slice(bytes)?;
        authority.current.issuer()?;
        if let Some(next) = &authority.next {
            next.ca.issuer()?;
        }
        if let Some(previous) = &authority.previous {
            certificates(previous.certificates.as_bytes())?;
        }
        let (not_before, not_after) = authority.current.validity()?;
        if not_before <= now && now < not_after {
            Ok(authority)
        } else {
            Err(AuthorityError::NotValid { not_before, not_after })
        }
    }

    /// The value for the Secret.
    ///
    /// # Errors
    /// Never, unless the program has a defect: it is plain text.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The certificate of the CA that signs, PEM.
    pub fn current(&self) -> &str {
        &self.current.certificate
    }

    /// The certificates of the CA that signs and of the next one, PEM.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        let next = self.next.iter().map(|next| next.ca.certificate.as_str());
        std::iter::once(self.current()).chain(next)
    }

    /// All CA certificates that API servers should trust at `now`, PEM.
    pub fn bundle(&self, now: Timestamp) -> String {
        let previous = self.previous.iter().filter(|previous| now < previous.until);
        self.signers().chain(previous.map(|previous| previous.certificates.as_str())).collect()
    }

    /// The CA certificates in `bundle` that fencegate made and this record does not have, PEM.
    pub fn unknown_in(&self, bundle: &[u8]) -> String {
        let previous = self.previous.iter().map(|previous| previous.certificates.as_str());
        let known: String = self.signers().chain(previous).collect();
        let is_ours = |certificate: &CertificateDer<'_>| {
            let parsed = X509Certificate::from_der(certificate);
            parsed.is_ok_and(|(_, parsed)| {
                let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
                names.any(|name| name.starts_with(COMMON_NAME))
            })
        };
        let unknown = sections(bundle).filter(|(section, der)| !known.contains(section.trim_end()) && is_ours(der));
        unknown.map(|(section, _)| section).collect()
    }

    /// Whether the CA that signs can sign at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.current.validity().is_ok_and(|(not_before, not_after)| not_before <= now && now < not_after)
    }

    /// How much is left of the life of the CA that signs.
    pub fn remaining(&self, now: Timestamp) -> SignedDuration {
        self.current.validity().map_or(SignedDuration::ZERO, |(_, not_after)| not_after.duration_since(now))
    }

    /// Signs a serving certificate for these DNS names and IP addresses that ends one leaf lifetime
    /// after `now`, or with the CA.
    ///
    /// # Errors
    /// If a host is neither, or signing fails.
    pub fn issue(&self, hosts: &[String], now: Timestamp, lifetimes: &Lifetimes) -> Result<Leaf, IssueError> {
        let (_, ca_ends) = self.current.validity().map_err(|_| IssueError::Validity)?;
        let ends = later(now, lifetimes.leaf)?.min(ca_ends);
        let mut leaf = issue::serving(hosts)?;
        valid(&mut leaf, now, ends)?;
        let key = KeyPair::generate()?;
        Ok(Leaf {
            certificate: leaf.signed_by(&key, &self.current.issuer()?)?.pem(),
            key: key.serialize_pem(),
            not_after: ends,
            issuer: self.current.certificate.clone(),
        })
    }
}

impl Ca {
    fn make(now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, IssueError> {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, format!("{COMMON_NAME}{}", now.strftime("%FT%TZ")));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut ca, now, later(now, lifetimes.ca)?)?;
        let key = KeyPair::generate()?;
        Ok(Self { certificate: ca.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    fn issuer(&self) -> Result<Issuer<'_, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)
    }

    fn validity(&self) -> Result<(Timestamp, Timestamp), AuthorityError> {
        Ok(validity(&CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?)
    }
}

/// Each X.509 certificate in a PEM text: its section with a line end, and what it decodes to.
/// Anything else in the text is skipped.
fn sections(bundle: &[u8]) -> impl Iterator<Item = (String, CertificateDer<'static>)> {
    let text = std::str::from_utf8(bundle).unwrap_or_default();
    text.split_inclusive(END).filter_map(|part| {
        let section = part.get(part.rfind(BEGIN)?..)?;
        let der = CertificateDer::from_pem_slice(section.as_bytes()).ok()?;
        validity(&der).ok()?;
        Some((format!("{section}\n"), der))
    })
}

fn later(now: Timestamp, by: SignedDuration) -> Result<Timestamp, IssueError> {
    now.checked_add(by).map_err(|_| IssueError::Validity)
}

fn valid(params: &mut CertificateParams, now: Timestamp, ends: Timestamp) -> Result<(), IssueError> {
    issue::valid(params, now.checked_sub(BACKDATED).map_err(|_| IssueError::Validity)?, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        ca: SignedDuration::from_hours(24 * 365),
        leaf: SignedDuration::from_hours(24),
        settle: SignedDuration::from_mins(1),
    };
    const HOST: &str = "fencegate.fencegate-system.svc";

    fn at(hours: i64) -> Timestamp {
        "2026-11-22T10:15:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
    }

    fn create(published: &[u8]) -> Authority {
        Authority::create(published, at(0), &LIFETIMES).unwrap()
    }

    fn accepts(bundle: &str, leaf: &Leaf, now: Timestamp) -> bool {
        leaf.verify(bundle.as_bytes(), HOST, now).is_ok()
    }

    #[test]
    fn a_written_ca_is_read_again_and_garbage_is_refused() {
        let authority = create(b"");
        let bytes = authority.to_bytes().unwrap();
        assert_eq!(Authority::parse(&bytes, at(0)).unwrap(), authority);
        assert!(Authority::parse(&bytes, at(24 * 366)).unwrap_err().to_string().contains("valid from"));
        for garbage in [&b""[..], b"{}", b"null", b"\xff", br#"{"current":{"certificate":"","key":""}}"#] {
            assert!(Authority::parse(garbage, at(0)).is_err());
        }
        assert!(!format!("{authority:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn a_leaf_is_accepted_under_its_ca_by_its_name_and_in_its_time() {
        let authority = create(b"");
        let leaf = authority.issue(&[HOST.to_owned()], at(1), &LIFETIMES).unwrap();
        let bundle = authority.bundle(at(1));
        assert!(accepts(&bundle, &leaf, at(1)));
        assert!(leaf.verify(bundle.as_bytes(), "other.svc", at(1)).is_err());
        assert!(!accepts(&bundle, &leaf, at(26)), "expired");
        assert!(!accepts(&create(b"").bundle(at(1)), &leaf, at(1)), "another CA");
        assert!(leaf.verify(b"", HOST, at(1)).is_err() && leaf.verify(b"garbage", HOST, at(1)).is_err());
        let five_minutes = SignedDuration::from_mins(5);
        assert!(accepts(&bundle, &leaf, at(1) - five_minutes), "a clock that is behind");
        assert!(accepts(&bundle, &leaf, at(1) + five_minutes), "a clock that is ahead");
        assert!(!leaf.is_near_its_end(at(1 + 15), &LIFETIMES) && leaf.is_near_its_end(at(1 + 17), &LIFETIMES));
    }

    #[test]
    fn certificates_that_were_published_before_stay_trusted_for_a_while() {
        let stranger = create(b"");
        let ours = create(stranger.bundle(at(0)).trim_end().as_bytes());
        let theirs = stranger.issue(&[HOST.to_owned()], at(0), &LIFETIMES).unwrap();
        assert!(accepts(&ours.bundle(at(25)), &theirs, at(1)), "a day and two hours");
        assert!(!accepts(&ours.bundle(at(26)), &theirs, at(1)));
        for garbage in [&b"garbage"[..], b"\xff", b"-----BEGIN CERTIFICATE-----"] {
            assert!(create(garbage).previous.is_none());
        }
    }

    #[test]
    fn only_a_ca_that_fencegate_made_and_the_record_lacks_is_unknown() {
        let (ours, other) = (create(b""), create(b""));
        let foreign = issue::Development::make(&[HOST.to_owned()], 1, at(0)).unwrap().ca;
        let bundle = format!("{}{foreign}{}", ours.bundle(at(0)), other.current());
        let unknown = ours.unknown_in(bundle.as_bytes());
        assert_eq!(unknown, other.current());
        let adopted = ours.change(&Change::Adopt(unknown), at(0), &LIFETIMES).unwrap();
        assert_eq!(adopted.unknown_in(bundle.as_bytes()), "");
        assert!(adopted.bundle(at(0)).contains(other.current()));
    }
}
