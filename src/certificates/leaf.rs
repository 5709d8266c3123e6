//! A serving certificate in memory, and whether a client that trusts a `caBundle` accepts it.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{VerifierBuilderError, WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime, pem, pem::PemObject as _},
};
use thiserror::Error;

use super::lifetimes::Lifetimes;
use crate::tls::{TlsError, certificates, provider};

/// A serving certificate and its key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    /// When it expires.
    pub not_after: Timestamp,
    /// The CA certificate that signed it, PEM.
    pub(super) issuer: String,
}

/// Why a client would not accept a serving certificate.
#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("caBundle: {0}")]
    Bundle(#[from] TlsError),
    #[error("caBundle: {0}")]
    Roots(#[from] VerifierBuilderError),
    #[error("certificate: {0}")]
    Pem(#[from] pem::Error),
    #[error("host name: {0}")]
    Host(#[from] InvalidDnsNameError),
    #[error("the clock is before 1970")]
    Clock,
    #[error(transparent)]
    Rejected(#[from] rustls::Error),
}

impl Leaf {
    /// The CA certificate that signed it, PEM.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether this CA (PEM) signed it.
    pub fn is_signed_by(&self, ca: &str) -> bool {
        self.issuer == ca
    }

    /// Whether so little of its life is left that it should be replaced.
    pub fn is_near_its_end(&self, now: Timestamp, lifetimes: &Lifetimes) -> bool {
        self.not_after.duration_since(now) < lifetimes.replace_leaf()
    }

    /// Checks that a client accepts it at `now` if it trusts `bundle` and calls the server `host`.
    ///
    /// # Errors
    /// If the client would not accept it; the error says why.
    pub fn verify(&self, bundle: &[u8], host: &str, now: Timestamp) -> Result<(), VerifyError> {
        let mut roots = RootCertStore::empty();
        // Like the API server, skip what is no certificate.
        roots.add_parsable_certificates(certificates(bundle)?);
        let leaf = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let name = ServerName::try_from(host)?;
        let at = UnixTime::since_unix_epoch(now.as_duration().try_into().map_err(|_| VerifyError::Clock)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        verifier.verify_server_cert(&leaf, &[], &name, &[], at)?;
        Ok(())
    }
}
