//! TLS serving: the certificate in use, the accept loop, and the limits on connections.
//!
//! It never makes a certificate; `certificates` does.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

pub mod accept;
mod activity;
pub mod clients;
mod slots;

/// The certificate and TLS configuration that new connections are served with.
#[derive(Debug)]
pub struct Serving {
    pub config: Arc<ServerConfig>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Why PEM files cannot be used for serving.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("the certificate file has no certificate in PEM form")]
    NoCertificate,
    #[error("the key file has no private key in PEM form: {0}")]
    NoKey(rustls::pki_types::pem::Error),
    #[error("not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("the certificate is not X.509: {0}")]
    Certificate(String),
    #[error("the key does not belong to the certificate")]
    Mismatch,
    #[error("the client CA: {0}")]
    ClientCa(String),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// Whether a certificate is valid at a time, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ValidityError {
    #[error("not valid before {0}")]
    NotYetValid(Timestamp),
    #[error("expired at {0}")]
    Expired(Timestamp),
}

/// The one provider of cryptography, always passed explicitly: with two providers linked into a
/// process, rustls panics instead of choosing.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Serving {
    /// Parses PEM files in this order: certificate chain, key and, optionally, the CA that client
    /// certificates must be issued by. They must be for one of `client_names`, unless that is
    /// empty.
    ///
    /// # Errors
    /// If one cannot be parsed, or the key does not match the certificate, as happens while the
    /// files are being replaced.
    pub fn parse(files: &[Vec<u8>], client_names: &[String]) -> Result<Self, TlsError> {
        let file = |index: usize| files.get(index).map(Vec::as_slice);
        let chain = certificates(file(0).unwrap_or_default())?;
        let key = PrivateKeyDer::from_pem_slice(file(1).unwrap_or_default()).map_err(TlsError::NoKey)?;
        let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
        let (not_before, not_after) = validity(leaf)?;
        let provider = provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
            error => TlsError::Rustls(error),
        })?;
        let versions =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13, &TLS12])?;
        let clients = match file(2) {
            Some(ca) => versions.with_client_cert_verifier(clients::verifier(ca, client_names, &provider)?),
            None => versions.with_no_client_auth(),
        };
        let mut config = clients.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), not_before, not_after })
    }

    /// Whether the certificate is valid at `now`.
    ///
    /// # Errors
    /// If it is not valid yet, or has expired.
    pub fn check(&self, now: Timestamp) -> Result<(), ValidityError> {
        if now < self.not_before {
            Err(ValidityError::NotYetValid(self.not_before))
        } else if now > self.not_after {
            Err(ValidityError::Expired(self.not_after))
        } else {
            Ok(())
        }
    }
}

/// Every certificate in a PEM text; none if it has no certificate.
///
/// # Errors
/// If a PEM section cannot be decoded.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)
}

/// When a certificate becomes valid and expires.
///
/// # Errors
/// If it is not X.509.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp), TlsError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| TlsError::Certificate(error.to_string()))
    };
    Ok((at(parsed.validity().not_before)?, at(parsed.validity().not_after)?))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A certificate and its key, PEM.
    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_valid_from_its_start_to_its_end() {
        let (certificate, key) = pair();
        let serving = Serving::parse(&[certificate.clone().into(), key.clone().into()], &[]).unwrap();
        let second = jiff::SignedDuration::from_secs(1);
        let (starts, ends) = (serving.not_before, serving.not_after);
        assert_eq!(serving.check(starts - second), Err(ValidityError::NotYetValid(starts)));
        assert_eq!((serving.check(starts), serving.check(ends)), (Ok(()), Ok(())));
        assert_eq!(serving.check(ends + second), Err(ValidityError::Expired(ends)));
        assert!(
            Serving::parse(&[certificate.clone().into(), key.into(), certificate.into()], &[]).is_ok(),
            "a client CA"
        );
    }

    #[test]
    fn files_that_cannot_be_served_are_refused_with_the_reason() {
        let ((certificate, key), (_, other_key)) = (pair(), pair());
        for (files, why) in [
            ([certificate.clone(), other_key], "does not belong"),
            ([String::new(), key.clone()], "no certificate"),
            ([certificate.clone(), String::new()], "no private key"),
            ([key.clone(), key.clone()], "no certificate"),
        ] {
            let error = Serving::parse(&files.map(String::into_bytes), &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let no_ca = Serving::parse(&[certificate.into(), key.into(), Vec::new()], &[]);
        assert!(no_ca.unwrap_err().to_string().contains("client CA"));
    }
}
