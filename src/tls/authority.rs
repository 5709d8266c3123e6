//! The CA that the replicas agree on: what it is, and what becomes of it as time goes by.
//!
//! No IO: a Secret holds it, `certificates` moves it. A CA is replaced in three steps, so that at no moment something is served that
//! somebody does not trust: the next one is published beside the current one, then signs in its place, and the old one is
//! dropped once nothing that it signed is valid any more.

use std::{fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};

use super::{
    certificates,
    issue::{self, IssueError},
    provider, validity,
};

/// How long things last. Everything else follows from these.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    pub ca: SignedDuration,
    /// Of a serving certificate.
    pub leaf: SignedDuration,
    /// How long every API server is given to take over what was published.
    pub settle: SignedDuration,
}

impl Lifetimes {
    /// Whether a CA lives long enough to be replaced in peace.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check(&self) -> Result<(), String> {
        let needed = self.settle + self.outlive();
        if self.leaf <= self.settle {
            return Err("a serving certificate must last longer than six looks".to_owned());
        }
        if self.replace_ca() < needed {
            return Err("a CA must last more than three times as long as a serving certificate".to_owned());
        }
        Ok(())
    }

    /// A CA is replaced when this much of its life is left.
    fn replace_ca(&self) -> SignedDuration {
        self.ca / 3
    }

    /// A serving certificate is replaced when this much of its life is left.
    fn replace_leaf(&self) -> SignedDuration {
        self.leaf / 3
    }

    /// How long a CA is trusted after it signed for the last time: its certificates' life, and some for clocks that disagree.
    fn outlive(&self) -> SignedDuration {
        self.leaf + self.leaf / 12
    }
}

/// Certificates are valid long before they are made: clocks may disagree by minutes, and nothing is gained by less.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// What the replicas agree on, as the Secret has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// Signs.
    current: Ca,
    /// Will sign, once every API server trusts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
    /// Signed, and is trusted for a while yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
}

/// A CA, both parts PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ca {
    certificate: String,
    key: String,
}

impl fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ca").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Next {
    ca: Ca,
    /// Since when it has been in every registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Previous {
    /// One or more, PEM.
    certificates: String,
    until: Timestamp,
}

/// A serving certificate and its key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    not_after: Timestamp,
    /// The CA certificate that it was signed with.
    issuer: String,
}

impl Authority {
    /// A CA that nobody knows yet. What is published, by whomever, stays trusted until whoever serves with it has had time to come over:
    /// replicas with certificates from files, or with a CA whose Secret was lost.
    ///
    /// # Errors
    /// If its end lies outside the calendar, or no key can be made.
    pub fn new(published: &[u8], now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, IssueError> {
        let until = now.checked_add(lifetimes.outlive()).map_err(|_| IssueError::Validity)?;
        let is_usable = certificates(published).is_ok_and(|certificates| !certificates.is_empty());
        let published = std::str::from_utf8(published).ok().filter(|_| is_usable);
        let previous = published.map(|published| Previous { certificates: with_end_of_line(published), until });
        Ok(Self { current: Ca::make(now, lifetimes)?, next: None, previous })
    }

    /// Reads what a Secret holds.
    ///
    /// # Errors
    /// Why it is no CA that could sign at `now`, for people.
    pub fn parse(bytes: &[u8], now: Timestamp) -> Result<Self, String> {
        let authority: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        authority.current.issuer().map_err(|error| error.to_string())?;
        if let Some(next) = &authority.next {
            next.ca.issuer().map_err(|error| error.to_string())?;
        }
        if let Some(previous) = &authority.previous {
            certificates(previous.certificates.as_bytes()).map_err(|error| error.to_string())?;
        }
        let (not_before, not_after) = authority.current.validity()?;
        if !authority.is_valid(now) {
            return Err(format!("the CA is valid from {not_before} to {not_after} only"));
        }
        Ok(authority)
    }

    /// As the Secret holds it.
    ///
    /// # Errors
    /// Never, short of a defect: it is plain text.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// All certificates that API servers should trust, PEM.
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.ca.certificate.as_str());
        let previous = self.previous.iter().map(|previous| previous.certificates.as_str());
        [self.current.certificate.as_str()].into_iter().chain(next).chain(previous).collect()
    }

    /// Whether it could sign at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.current.validity().is_ok_and(|(not_before, not_after)| not_before <= now && now < not_after)
    }

    /// Whether this `caBundle` has the certificate that signs.
    pub fn is_trusted_by(&self, bundle: &[u8]) -> bool {
        std::str::from_utf8(bundle).is_ok_and(|bundle| bundle.contains(&self.current.certificate))
    }

    /// What should become of it now, if anything. `is_published`: every registration has the whole bundle.
    ///
    /// # Errors
    /// If no new CA can be made, or the current one's end cannot be read.
    pub fn next_step(
        &self,
        is_published: bool,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Option<Self>, IssueError> {
        let (_, not_after) = self.current.validity().map_err(|_| IssueError::Validity)?;
        let left = not_after.duration_since(now);
        Ok(match (&self.next, &self.previous) {
            (_, Some(previous)) if previous.until <= now => Some(Self { previous: None, ..self.clone() }),
            (None, _) if left < lifetimes.replace_ca() => {
                let next = Next { ca: Ca::make(now, lifetimes)?, published_at: None };
                Some(Self { next: Some(next), ..self.clone() })
            }
            (Some(Next { ca, published_at: None }), _) if is_published => {
                let next = Next { ca: ca.clone(), published_at: Some(now) };
                Some(Self { next: Some(next), ..self.clone() })
            }
            (Some(Next { ca, published_at: Some(at) }), None) if now.duration_since(*at) >= lifetimes.settle => {
                let until = now.checked_add(lifetimes.outlive()).map_err(|_| IssueError::Validity)?;
                let previous = Previous { certificates: self.current.certificate.clone(), until };
                Some(Self { current: ca.clone(), next: None, previous: Some(previous) })
            }
            _ => None,
        })
    }

    /// Signs a serving certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// If a host is no host, or nothing can be signed.
    pub fn issue(&self, hosts: &[String], now: Timestamp, lifetimes: &Lifetimes) -> Result<Leaf, IssueError> {
        let (_, ca_ends) = self.current.validity().map_err(|_| IssueError::Validity)?;
        let ends = now.checked_add(lifetimes.leaf).map_err(|_| IssueError::Validity)?.min(ca_ends);
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
        ca.distinguished_name.push(DnType::CommonName, format!("fencegate CA {}", now.strftime("%FT%TZ")));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut ca, now, now.checked_add(lifetimes.ca).map_err(|_| IssueError::Validity)?)?;
        let key = KeyPair::generate()?;
        Ok(Self { certificate: ca.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    fn issuer(&self) -> Result<Issuer<'_, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)
    }

    fn validity(&self) -> Result<(Timestamp, Timestamp), String> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|error| error.to_string())?;
        validity(&certificate).map_err(|error| error.to_string())
    }
}

impl Leaf {
    /// Whether this CA signed it.
    pub fn is_of(&self, authority: &Authority) -> bool {
        self.issuer == authority.current.certificate
    }

    /// Whether it should be replaced: it is of another CA, or near its end.
    pub fn is_due(&self, authority: &Authority, now: Timestamp, lifetimes: &Lifetimes) -> bool {
        !self.is_of(authority) || self.not_after.duration_since(now) < lifetimes.replace_leaf()
    }

    /// Whether a client that trusts `bundle` and knows the server by `host` accepts it at `now`.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn verify(&self, bundle: &[u8], host: &str, now: Timestamp) -> Result<(), String> {
        verify(self.certificate.as_bytes(), bundle, host, now)
    }
}

/// Whether a client that trusts `bundle` and knows the server by `host` accepts this certificate at `now`; all of it PEM.
fn verify(certificate: &[u8], bundle: &[u8], host: &str, now: Timestamp) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for root in certificates(bundle).map_err(|error| error.to_string())? {
        roots.add(root).map_err(|error| error.to_string())?;
    }
    let leaf = CertificateDer::from_pem_slice(certificate).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let at = UnixTime::since_unix_epoch(now.as_duration().try_into().map_err(|_| "the clock is before 1970")?);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())?;
    verifier.verify_server_cert(&leaf, &[], &name, &[], at).map(|_| ()).map_err(|error| error.to_string())
}

fn with_end_of_line(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
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

    fn issue(authority: &Authority, now: Timestamp) -> Leaf {
        authority.issue(&[HOST.to_owned()], now, &LIFETIMES).unwrap()
    }

    fn accepts(bundle: &str, leaf: &Leaf, now: Timestamp) -> bool {
        leaf.verify(bundle.as_bytes(), HOST, now).is_ok()
    }

    #[test]
    fn what_is_written_is_read_again_and_garbage_is_not() {
        let authority = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        let bytes = authority.to_bytes().unwrap();
        assert_eq!(Authority::parse(&bytes, at(0)).unwrap(), authority);
        assert!(Authority::parse(&bytes, at(24 * 366)).unwrap_err().contains("valid from"));
        for garbage in [&b""[..], b"{}", b"null", b"\xff", br#"{"current":{"certificate":"","key":""}}"#] {
            assert!(Authority::parse(garbage, at(0)).is_err());
        }
        let other = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        assert!(!format!("{other:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn a_leaf_is_accepted_under_its_ca_by_its_name_and_in_its_time() {
        let authority = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        let leaf = issue(&authority, at(1));
        assert!(accepts(&authority.bundle(), &leaf, at(1)));
        assert!(leaf.verify(authority.bundle().as_bytes(), "other.svc", at(1)).is_err());
        assert!(!accepts(&authority.bundle(), &leaf, at(26)), "expired");
        assert!(!accepts(&Authority::new(b"", at(0), &LIFETIMES).unwrap().bundle(), &leaf, at(1)), "another CA");
        assert!(leaf.verify(b"", HOST, at(1)).is_err() && leaf.verify(b"garbage", HOST, at(1)).is_err());
        let five_minutes = SignedDuration::from_mins(5);
        assert!(accepts(&authority.bundle(), &leaf, at(1) - five_minutes), "a clock that is behind");
        assert!(accepts(&authority.bundle(), &leaf, at(1) + five_minutes), "a clock that is ahead");
        assert!(!leaf.is_due(&authority, at(1 + 15), &LIFETIMES) && leaf.is_due(&authority, at(1 + 17), &LIFETIMES));
    }

    #[test]
    fn a_ca_is_replaced_without_a_moment_in_which_a_leaf_is_not_trusted() {
        let mut authority = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        let first = authority.clone();
        let mut published = authority.bundle();
        let mut leaf = issue(&authority, at(0));
        let mut signed_by = vec![authority.current.certificate.clone()];
        // Hour by hour through two years: published first, signed with afterwards.
        for hour in 0..24 * 730 {
            let now = at(hour);
            if let Some(step) = authority.next_step(published == authority.bundle(), now, &LIFETIMES).unwrap() {
                authority = step;
            }
            assert!(accepts(&published, &leaf, now), "hour {hour}");
            if leaf.is_due(&authority, now, &LIFETIMES) {
                leaf = issue(&authority, now);
                assert!(accepts(&published, &leaf, now), "hour {hour}: the API server does not know it yet");
            }
            published = authority.bundle();
            if signed_by.last() != Some(&authority.current.certificate) {
                signed_by.push(authority.current.certificate.clone());
            }
        }
        assert!(signed_by.len() >= 3, "{}", signed_by.len());
        assert!(!authority.bundle().contains(&first.current.certificate), "the old one is gone");
    }

    #[test]
    fn what_was_published_before_is_trusted_for_a_while() {
        let stranger = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        let theirs = issue(&stranger, at(0));
        let ours = Authority::new(stranger.bundle().trim_end().as_bytes(), at(0), &LIFETIMES).unwrap();
        assert!(accepts(&ours.bundle(), &theirs, at(0)) && accepts(&ours.bundle(), &issue(&ours, at(0)), at(0)));
        assert_eq!(ours.next_step(true, at(25), &LIFETIMES).unwrap(), None);
        let alone = ours.next_step(true, at(26), &LIFETIMES).unwrap().unwrap();
        assert!(!accepts(&alone.bundle(), &theirs, at(1)) && accepts(&alone.bundle(), &issue(&alone, at(27)), at(27)));
        for garbage in [&b"garbage"[..], b"\xff", b"-----BEGIN CERTIFICATE-----"] {
            assert!(Authority::new(garbage, at(0), &LIFETIMES).unwrap().previous.is_none());
        }
    }

    #[test]
    fn a_ca_is_not_signed_with_before_it_is_published_and_has_settled() {
        let old = Authority::new(b"", at(0), &LIFETIMES).unwrap();
        let now = at(24 * 300);
        let with_next = old.next_step(true, now, &LIFETIMES).unwrap().unwrap();
        assert!(with_next.next.is_some() && with_next.current == old.current);
        assert_eq!(with_next.next_step(false, now, &LIFETIMES).unwrap(), None, "not published");
        let published = with_next.next_step(true, now, &LIFETIMES).unwrap().unwrap();
        let soon = now + SignedDuration::from_secs(59);
        assert_eq!(published.next_step(true, soon, &LIFETIMES).unwrap(), None, "not settled");
        let promoted = published.next_step(true, now + SignedDuration::from_secs(60), &LIFETIMES).unwrap().unwrap();
        assert_ne!(promoted.current, old.current);
        assert!(promoted.bundle().contains(&old.current.certificate), "what it signed is trusted for a day yet");
    }
}
