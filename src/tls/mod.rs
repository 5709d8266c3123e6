//! TLS: what is served with, how connections are accepted, how development certificates are made.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

pub mod accept;
mod activity;
pub mod authority;
pub mod issue;
mod slots;

/// What new connections are served with.
#[derive(Debug)]
pub struct Serving {
    pub config: Arc<ServerConfig>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Why files cannot be served with.
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

/// The one provider of cryptography, said everywhere: with two in a process, rustls refuses to guess.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Serving {
    /// Reads certificate chain, key and, if given, the CA that client certificates must come from: PEM files, in this order.
    ///
    /// # Errors
    /// If one is not what it should be, or key and certificate do not belong together, as happens half-way through a swap.
    pub fn parse(files: &[Vec<u8>]) -> Result<Self, TlsError> {
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
            Some(ca) => versions.with_client_cert_verifier(verifier(ca, &provider)?),
            None => versions.with_no_client_auth(),
        };
        let mut config = clients.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), not_before, not_after })
    }

    /// Whether the certificate is valid at `now`.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check(&self, now: Timestamp) -> Result<(), String> {
        if now < self.not_before {
            Err(format!("not valid before {}", self.not_before))
        } else if now > self.not_after {
            Err(format!("expired at {}", self.not_after))
        } else {
            Ok(())
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)
}

fn verifier(ca: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::ClientCa(error.to_string()))
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp), TlsError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| TlsError::Certificate(error.to_string()))
    };
    Ok((at(parsed.validity().not_before)?, at(parsed.validity().not_after)?))
}

#[cfg(test)]
mod tests {
    use super::{issue::Development, *};

    fn made() -> Development {
        Development::make(&["localhost".to_owned()], 1, Timestamp::now()).unwrap()
    }

    #[test]
    fn a_pair_that_belongs_together_is_served_with_until_its_end() {
        let made = made();
        let serving = Serving::parse(&[made.certificate.clone().into(), made.key.clone().into()]).unwrap();
        assert_eq!(serving.not_after, made.not_after);
        assert!(Serving::parse(&[made.certificate.into(), made.key.into(), made.ca.into()]).is_ok());
    }

    #[test]
    fn what_cannot_be_served_with_says_why() {
        let (one, other) = (made(), made());
        for (files, why) in [
            ([one.certificate.clone(), other.key.clone()], "does not belong"),
            ([String::new(), one.key.clone()], "no certificate"),
            ([one.certificate.clone(), String::new()], "no private key"),
            ([one.key.clone(), one.key.clone()], "no certificate"),
        ] {
            let error = Serving::parse(&files.map(String::into_bytes)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let no_ca = Serving::parse(&[one.certificate.into(), one.key.into(), Vec::new()]);
        assert!(no_ca.unwrap_err().to_string().contains("client CA"));
    }
}
