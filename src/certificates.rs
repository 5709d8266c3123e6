//! Certificates that nobody has to think of: the replicas agree on one CA through a Secret, each signs its own serving certificate in
//! memory, and one of them writes the CA into the webhook configurations.
//!
//! No replica needs another one to serve. A Lease says who writes, but nothing depends on it: every write says which version it replaces.
//! What a replica cannot read leaves it with what it has, and that ends before the CA that signed it stops being trusted: a replica that is cut off
//! for longer has nothing valid to serve with, and says so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{Instant, interval};

use crate::{
    clock::Clock,
    cluster::registration::{Held, Registration, Side, Stored, Written},
    tls::{
        Serving, TlsError,
        authority::{Authority, Leaf, Lifetimes},
        issue::IssueError,
    },
};

/// Why there is nothing to serve with.
#[derive(Debug, Error)]
pub enum CertificateError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot read {}: {source}", path.display())]
    ClientCa { path: PathBuf, source: std::io::Error },
}

/// What self-managed certificates are made by.
#[derive(Clone)]
pub struct Options {
    pub registration: Registration,
    pub clock: Clock,
    pub lifetimes: Lifetimes,
    /// DNS names and IP addresses of the serving certificate. The API server calls the first.
    pub hosts: Vec<String>,
    /// Who this replica is to the others.
    pub identity: String,
    /// How often everything is looked at.
    pub interval: Duration,
    /// What client certificates must come from, a PEM file.
    pub client_ca: Option<PathBuf>,
}

/// One replica's part.
pub struct SelfManaged {
    options: Options,
    /// What the Secret held when it was last read.
    agreed: Option<Authority>,
    leaf: Leaf,
    client_ca: Option<Vec<u8>>,
    /// The Lease as someone else holds it, and since when it has not changed by our own clock: theirs may be wrong.
    held: Option<(String, Instant)>,
    serving: Arc<ArcSwap<Serving>>,
    accepted: Arc<ArcSwap<Accepted>>,
    told: Option<String>,
}

/// Whether API servers accept what is served: the certificate verifies under the `caBundle` of both configurations; or why not.
pub type Accepted = Result<(), String>;

/// What came of looking once.
#[derive(PartialEq, Eq)]
enum Look {
    /// Something was written: look again.
    Again,
    Settled,
}

impl SelfManaged {
    /// Serves with a CA that nobody trusts yet, until it was agreed on one.
    ///
    /// # Errors
    /// If no certificate can be made for these hosts, or the client CA not be used.
    pub fn new(options: Options) -> Result<Self, CertificateError> {
        let now = options.clock.now();
        let leaf = Authority::new(b"", now, &options.lifetimes)?.issue(&options.hosts, now, &options.lifetimes)?;
        let client_ca = read_client_ca(&options)?;
        let serving = Arc::new(ArcSwap::from_pointee(serve_with(&leaf, client_ca.as_ref())?));
        Ok(Self {
            options,
            agreed: None,
            leaf,
            client_ca,
            held: None,
            serving,
            accepted: Arc::new(ArcSwap::from_pointee(Err("not published yet".to_owned()))),
            told: None,
        })
    }

    /// What new connections are served with.
    pub fn serving(&self) -> Arc<ArcSwap<Serving>> {
        Arc::clone(&self.serving)
    }

    /// Whether it is accepted.
    pub fn accepted(&self) -> Arc<ArcSwap<Accepted>> {
        Arc::clone(&self.accepted)
    }

    /// Looks after it for ever. `tell` hears of every certificate that is served with.
    ///
    /// Cancel-safe: whatever is half done is found and done by the next replica that looks.
    pub async fn run(mut self, tell: impl Fn(&Serving)) {
        let mut looks = interval(self.options.interval);
        loop {
            looks.tick().await;
            let result = self.look_until_settled(&tell).await;
            if let Err(why) = &result {
                if self.told.as_ref() != Some(why) {
                    tracing::error!(why, "certificates could not be looked after");
                }
                // What was accepted stays accepted while nobody can say otherwise.
                if self.accepted.load().is_err() {
                    self.accepted.store(Arc::new(Err(why.clone())));
                }
            }
            self.told = result.err();
            if let Err(error) = self.read_client_ca_again() {
                tracing::error!(%error, "what was in force stays");
            }
        }
    }

    async fn look_until_settled(&mut self, tell: &impl Fn(&Serving)) -> Result<(), String> {
        /// More writes in a row than this are a quarrel with someone: leave it until the next look.
        const MOST: usize = 6;
        for _ in 0..MOST {
            if self.look(tell).await? == Look::Settled {
                break;
            }
        }
        Ok(())
    }

    /// Reads everything, and does the next thing that has to be done.
    async fn look(&mut self, tell: &impl Fn(&Serving)) -> Result<Look, String> {
        let now = self.options.clock.now();
        let registration = self.options.registration.clone();
        let (stored, mutating, validating) = tokio::join!(
            registration.secret(),
            registration.bundle(Side::Mutating),
            registration.bundle(Side::Validating)
        );
        let stored = stored?;
        let parsed = match &stored {
            Some(stored) => Authority::parse(&stored.bytes, now),
            None => Err("it is not there".to_owned()),
        };
        let authority = match parsed {
            Ok(authority) => authority,
            Err(why) => {
                // Both say the same, unless someone was half-way through.
                let mut published: Vec<u8> = validating.ok().flatten().unwrap_or_default();
                let other = mutating.ok().flatten().filter(|other| *other != published);
                published.extend(other.unwrap_or_default());
                return self.mend(stored, &why, &published, now).await;
            }
        };
        self.agreed = Some(authority.clone());
        let bundles = [(Side::Mutating, mutating?), (Side::Validating, validating?)];
        let bundles: Vec<(Side, Vec<u8>)> =
            bundles.into_iter().filter_map(|(side, bundle)| Some((side, bundle?))).collect();
        if bundles.is_empty() {
            return Err("no webhook configuration fencegate is there: nobody calls".to_owned());
        }
        // Also where nothing can be written about it.
        self.accepted.store(Arc::new(self.verify(&bundles, now)));
        let wanted = authority.bundle();
        let is_published = bundles.iter().all(|(_, bundle)| bundle == wanted.as_bytes());
        let step =
            authority.next_step(is_published, now, &self.options.lifetimes).map_err(|error| error.to_string())?;
        if (!is_published || step.is_some()) && self.may_write(now).await? {
            for (side, _) in bundles.iter().filter(|(_, bundle)| bundle != wanted.as_bytes()) {
                registration.publish(*side, &wanted).await?;
                tracing::info!(?side, "caBundle written");
            }
            if let Some(step) = step {
                let bytes = step.to_bytes().map_err(|error| error.to_string())?;
                if registration.write_secret(stored, bytes).await? == Written::Done {
                    tracing::info!("the CA took a step towards its successor");
                }
            }
            return Ok(Look::Again);
        }
        let is_trusted = bundles.iter().all(|(_, bundle)| authority.is_trusted_by(bundle));
        let is_accepted = self.accepted.load().is_ok();
        // A certificate of a CA that is not published yet is better than none that is accepted, and no better than one that is.
        if (is_trusted || !is_accepted) && self.leaf.is_due(&authority, now, &self.options.lifetimes) {
            self.issue(&authority, now, tell).map_err(|error| error.to_string())?;
        }
        self.accepted.store(Arc::new(self.verify(&bundles, now)));
        Ok(Look::Settled)
    }

    /// A Secret that is not there or makes no sense is written by whoever comes first, and best by one who knows the CA.
    async fn mend(
        &mut self,
        stored: Option<Stored>,
        why: &str,
        published: &[u8],
        now: Timestamp,
    ) -> Result<Look, String> {
        let lifetimes = &self.options.lifetimes;
        let known = self.agreed.clone().filter(|agreed| agreed.is_valid(now));
        let authority = match known {
            Some(known) => known,
            None => Authority::new(published, now, lifetimes).map_err(|error| error.to_string())?,
        };
        let bytes = authority.to_bytes().map_err(|error| error.to_string())?;
        if self.options.registration.write_secret(stored, bytes).await? == Written::Done {
            tracing::warn!(why, "the Secret had no CA; one was written");
        }
        Ok(Look::Again)
    }

    /// Whether this replica is the one that writes now: nobody holds the Lease, or whoever holds it has not touched it for long.
    async fn may_write(&mut self, now: Timestamp) -> Result<bool, String> {
        let duration = self.options.interval * 3;
        let registration = &self.options.registration;
        let lease = registration.lease().await?;
        if let Some(Held { holder, version, .. }) = lease.as_ref().filter(|held| !held.holder.is_empty()) {
            let since = match &self.held {
                Some((seen, since)) if seen == version => *since,
                _ => self.held.insert((version.clone(), Instant::now())).1,
            };
            if *holder != self.options.identity && since.elapsed() < duration {
                return Ok(false);
            }
        }
        Ok(registration.hold(lease, &self.options.identity, now, duration).await? == Written::Done)
    }

    fn verify(&self, bundles: &[(Side, Vec<u8>)], now: Timestamp) -> Accepted {
        let host = self.options.hosts.first().map(String::as_str).unwrap_or_default();
        bundles.iter().try_for_each(|(side, bundle)| {
            let accepted = self.leaf.verify(bundle, host, now);
            accepted.map_err(|why| format!("under caBundle of {side:?}WebhookConfiguration: {why}"))
        })
    }

    /// The client CA is a file, and may change at any time.
    fn read_client_ca_again(&mut self) -> Result<(), CertificateError> {
        let client_ca = read_client_ca(&self.options)?;
        if client_ca != self.client_ca {
            let serving = serve_with(&self.leaf, client_ca.as_ref())?;
            self.client_ca = client_ca;
            self.serving.store(Arc::new(serving));
        }
        Ok(())
    }

    fn issue(
        &mut self,
        authority: &Authority,
        now: Timestamp,
        tell: &impl Fn(&Serving),
    ) -> Result<(), CertificateError> {
        let leaf = authority.issue(&self.options.hosts, now, &self.options.lifetimes)?;
        let serving = Arc::new(serve_with(&leaf, self.client_ca.as_ref())?);
        tracing::info!(not_after = %serving.not_after, "a serving certificate was signed");
        tell(&serving);
        self.serving.store(serving);
        self.leaf = leaf;
        Ok(())
    }
}

fn serve_with(leaf: &Leaf, client_ca: Option<&Vec<u8>>) -> Result<Serving, TlsError> {
    let files = [leaf.certificate.clone().into_bytes(), leaf.key.clone().into_bytes()];
    Serving::parse(&files.into_iter().chain(client_ca.cloned()).collect::<Vec<_>>())
}

fn read_client_ca(options: &Options) -> Result<Option<Vec<u8>>, CertificateError> {
    let Some(path) = &options.client_ca else { return Ok(None) };
    let read = std::fs::read(path);
    read.map(Some).map_err(|source| CertificateError::ClientCa { path: path.clone(), source })
}
