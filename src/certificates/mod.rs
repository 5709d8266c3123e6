//! Self-managed certificates: the replicas agree on one CA through a Secret, each signs its own
//! serving certificate in memory, and one of them writes the CA into the webhook configurations.
//!
//! [`plan`](mod@plan) decides; this module only reads, carries out the one step that is due, and
//! reads again.
//!
//! No replica needs another one to serve. A replica that cannot read keeps what it has; its serving
//! certificate expires before the CA that signed it stops being trusted, and then it is not ready.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::time::{Instant, interval, sleep_until};

use self::{
    authority::{Authority, Change},
    issue::IssueError,
    leaf::Leaf,
    lifetimes::Lifetimes,
    path::secret_path,
    plan::{Acceptance, Known, Rejection, acceptance, plan},
    reading::{Now, Read, Replicas, Secret, Seen},
    step::{NewPath, Obstacle, Step},
};
use crate::{
    admission::paths::{Published, Publisher, plain, published},
    clock::Clock,
    cluster::{
        Written,
        registration::{Registration, RegistrationError, StoredLease, StoredSecret},
    },
    election::Lease,
    policy::review::Webhook,
    tls::{Serving, TlsError, clients::Clients, provider},
};

pub mod authority;
pub mod issue;
pub mod leaf;
pub mod lifetimes;
pub mod path;
pub mod plan;
pub mod reading;
pub mod step;

/// The shortest time between two looks because of calls by an unknown path.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a certificate cannot be made or used.
#[derive(Debug, Error)]
pub enum CertificateError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot read {}: {source}", path.display())]
    ClientCa { path: PathBuf, source: std::io::Error },
}

/// Why a reconciliation ended early.
#[derive(Debug, Error)]
enum ReconcileError {
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Blocked(#[from] Obstacle),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the CA cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What self-managed certificates are made with.
#[derive(Clone)]
pub struct Options {
    pub registration: Registration,
    pub clock: Clock,
    pub lifetimes: Lifetimes,
    /// DNS names and IP addresses of the serving certificate. The API server calls the first.
    pub hosts: Vec<String>,
    /// Identifies this replica as the holder of the Lease.
    pub identity: String,
    /// Time between two looks at the Secret, the Lease and the webhook configurations.
    pub interval: Duration,
    /// Who may connect.
    pub clients: Clients,
}

/// The certificates of one replica.
pub struct SelfManaged {
    options: Options,
    known: Known,
    client_ca: Option<Vec<u8>>,
    /// The zero of the monotonic clock.
    started: Instant,
    serving: Arc<ArcSwap<Serving>>,
    acceptance: Arc<ArcSwap<Acceptance>>,
    publisher: Publisher,
    paths: Published,
    /// The last look's error, so that a lasting one is logged once.
    last_error: Option<String>,
}

/// The versions that a reading found; a write replaces exactly these.
struct Stored {
    secret: Option<StoredSecret>,
    lease: Option<StoredLease>,
}

/// What follows a step.
#[derive(PartialEq, Eq)]
enum Then {
    ReadAgain,
    Rest,
}

impl SelfManaged {
    /// Serves a certificate of a throw-away CA until the replicas agree on one.
    ///
    /// # Errors
    /// If no certificate can be made for these hosts, or the client CA cannot be used.
    pub fn new(options: Options) -> Result<Self, CertificateError> {
        let now = options.clock.now();
        let lifetimes = &options.lifetimes;
        let leaf = Authority::create(b"", now, lifetimes)?.issue(&options.hosts, now, lifetimes)?;
        let client_ca = read_client_ca(&options.clients)?;
        let serving = Arc::new(ArcSwap::from_pointee(serve_with(&leaf, client_ca.as_ref(), &options.clients.names)?));
        let (publisher, paths) = published();
        let host = options.hosts.first().cloned().unwrap_or_default();
        Ok(Self {
            known: Known::new(options.identity.clone(), host, options.interval, leaf),
            options,
            client_ca,
            started: Instant::now(),
            serving,
            acceptance: Arc::new(ArcSwap::from_pointee(Acceptance::Rejected(Rejection::NotPublished))),
            publisher,
            paths,
            last_error: None,
        })
    }

    /// The certificate that new connections are served with.
    pub fn serving(&self) -> Arc<ArcSwap<Serving>> {
        Arc::clone(&self.serving)
    }

    /// Whether API servers accept it.
    pub fn acceptance(&self) -> Arc<ArcSwap<Acceptance>> {
        Arc::clone(&self.acceptance)
    }

    /// The paths that API servers call.
    pub fn paths(&self) -> Published {
        self.paths.clone()
    }

    /// Reconciles at every interval, and when somebody calls by an unknown path, for ever.
    /// `on_change` is called with every new certificate.
    ///
    /// Cancel-safe: the next replica that runs completes the unfinished steps.
    pub async fn run(mut self, on_change: impl Fn(&Serving)) {
        let mut looks = interval(self.options.interval);
        let mut last = Instant::now();
        loop {
            // Cancel-safe: whatever is missed asks again.
            tokio::select! {
                _ = looks.tick() => {}
                () = self.asked(last) => {}
            }
            last = Instant::now();
            let error = self.reconcile(&on_change).await.err().map(|error| error.to_string());
            if let Some(error) = &error {
                if self.last_error.as_ref() != Some(error) {
                    tracing::error!(%error, "certificates could not be reconciled");
                }
                // An accepted certificate stays accepted while nothing shows otherwise.
                if matches!(**self.acceptance.load(), Acceptance::Rejected(_)) {
                    self.acceptance.store(Arc::new(Acceptance::Rejected(Rejection::Unknown(error.clone()))));
                }
            }
            self.last_error = error;
            if let Err(error) = self.reload_client_ca() {
                tracing::error!(%error, "the client CA could not be reloaded: the last good one stays in use");
            }
        }
    }

    /// Returns when somebody called by an unknown path, but not soon after the last look: strangers
    /// may ask as often as they like.
    async fn asked(&self, last: Instant) {
        self.publisher.asked().await;
        sleep_until(last + PAUSE.min(self.options.interval)).await;
    }

    /// Reads and carries out steps until nothing is due.
    async fn reconcile(&mut self, on_change: &impl Fn(&Serving)) -> Result<(), ReconcileError> {
        /// From nothing to an accepted certificate and secret paths takes eight readings, and
        /// eleven with other doors. Many more mean that something else writes the same objects:
        /// leave the rest to the next look.
        const READINGS: usize = 18;
        for _ in 0..READINGS {
            let (seen, stored) = self.read().await?;
            // Read after the objects: see the invariants of `plan`.
            let now = Now { wall: self.options.clock.now(), monotonic: self.started.elapsed() };
            self.known.observe(&seen, now);
            if let Some(acceptance) = acceptance(&self.known, &seen, now) {
                self.acceptance.store(Arc::new(acceptance));
            }
            let step = plan(&self.known, &seen, now, &self.options.lifetimes);
            if self.carry_out(step, stored, now, on_change).await? == Then::Rest {
                break;
            }
        }
        Ok(())
    }

    /// Reads the webhook configurations, and after them the Secret and the Lease.
    async fn read(&mut self) -> Result<(Seen, Stored), ReconcileError> {
        let began = self.options.clock.now();
        let registration = &self.options.registration;
        let [mutate, validate] = Webhook::ALL;
        let (mutating, validating) =
            tokio::join!(registration.configuration(mutate), registration.configuration(validate));
        let configurations = [(mutate, found(mutating)), (validate, found(validating))];
        // Once for each look, even if it failed: calls wait for one that began after them.
        self.known.recent.observe(&configurations, self.started.elapsed());
        self.publisher.tell(self.known.recent.paths());
        let (secret, lease, replicas) =
            tokio::join!(registration.secret(), registration.lease(), registration.all_replicas_are_current());
        let secret = secret?;
        let state = match secret.as_ref().map(|stored| Authority::parse(&stored.bytes, self.options.clock.now())) {
            None => Secret::Absent,
            Some(Ok(authority)) => Secret::Usable(authority),
            Some(Err(error)) => Secret::Unusable(error.to_string()),
        };
        let (lease, stored_lease) = match lease {
            Ok(Some(stored)) => {
                let lease = Lease { holder: stored.holder.clone(), version: stored.version.clone() };
                (Read::Found(lease), Some(stored))
            }
            Ok(None) => (Read::Absent, None),
            Err(error) => (Read::Failed(error.to_string()), None),
        };
        let replicas = match replicas {
            Ok(true) => Replicas::Current,
            Ok(false) => Replicas::SomeOlder,
            Err(error) => Replicas::Unknown(error.to_string()),
        };
        let request = secret.as_ref().and_then(|stored| stored.request.clone());
        let seen = Seen { began, configurations, secret: state, request, lease, replicas };
        Ok((seen, Stored { secret, lease: stored_lease }))
    }

    /// Carries out one step. The next reading shows whether a write succeeded.
    async fn carry_out(
        &mut self,
        step: Step,
        stored: Stored,
        now: Now,
        on_change: &impl Fn(&Serving),
    ) -> Result<Then, ReconcileError> {
        let Options { registration, lifetimes, identity, hosts, .. } = &self.options;
        let issue = CertificateError::Issue;
        let (action, why, written) = match step {
            Step::Rest(why) => {
                tracing::trace!(%why, "certificates: nothing to do");
                return Ok(Then::Rest);
            }
            Step::Blocked(obstacle) => return Err(obstacle.into()),
            Step::Sign { authority, from, why } => {
                let leaf = authority.issue(hosts, from, lifetimes).map_err(issue)?;
                tracing::info!(%why, not_after = %leaf.not_after, "signed a serving certificate");
                self.use_leaf(leaf, on_change)?;
                return Ok(Then::ReadAgain);
            }
            Step::TakeLease(why) => {
                let duration = self.known.election.duration();
                ("TakeLease", why, registration.take_lease(stored.lease, identity, now.wall, duration).await?)
            }
            Step::Create { published, why } => {
                let authority = Authority::create(&published, now.wall, lifetimes).map_err(issue)?;
                ("Create", why, registration.write_secret(stored.secret, authority.to_bytes()?, true).await?)
            }
            Step::Restore { authority, why } => {
                ("Restore", why, registration.write_secret(stored.secret, authority.to_bytes()?, false).await?)
            }
            Step::Change { authority, change, why } => {
                let changed = authority.change(&change, now.wall, lifetimes).map_err(issue)?;
                let has_new_ca = change == Change::AddNext;
                let written = registration.write_secret(stored.secret, changed.to_bytes()?, has_new_ca).await?;
                (change.name(), why, written)
            }
            Step::Publish { webhook, bundle, version, why } => {
                ("Publish", why, registration.publish(webhook, &bundle, &version).await?)
            }
            Step::SetPath { webhook, path, version, why } => {
                let path = match path {
                    NewPath::Plain => plain(webhook),
                    NewPath::Secret => secret_path(webhook, random()?),
                };
                ("SetPath", why, registration.set_path(webhook, &path, &version).await?)
            }
            Step::Complete { webhook, doors, version, why } => {
                ("Complete", why, registration.complete(webhook, &doors, &version).await?)
            }
            Step::Disown { webhook, owned, version, why } => {
                ("Disown", why, registration.disown(webhook, owned, &version).await?)
            }
        };
        match written {
            Written::Done => tracing::info!(action, %why, "certificates: written"),
            Written::Conflict => tracing::info!(action, %why, "certificates: another writer was first, reading again"),
        }
        Ok(Then::ReadAgain)
    }

    fn use_leaf(&mut self, leaf: Leaf, on_change: &impl Fn(&Serving)) -> Result<(), CertificateError> {
        let serving = Arc::new(serve_with(&leaf, self.client_ca.as_ref(), &self.options.clients.names)?);
        on_change(&serving);
        self.serving.store(serving);
        self.known.leaf = leaf;
        Ok(())
    }

    /// The client CA is a file, and may change at any time.
    fn reload_client_ca(&mut self) -> Result<(), CertificateError> {
        let clients = &self.options.clients;
        let client_ca = read_client_ca(clients)?;
        if client_ca != self.client_ca {
            let serving = serve_with(&self.known.leaf, client_ca.as_ref(), &clients.names)?;
            self.client_ca = client_ca;
            self.serving.store(Arc::new(serving));
        }
        Ok(())
    }
}

/// 128 bits that nobody can guess.
fn random() -> Result<u128, CertificateError> {
    let mut bytes = [0; 16];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map_err(|error| TlsError::Rustls(error.into()))?;
    Ok(u128::from_be_bytes(bytes))
}

fn found<T>(read: Result<Option<T>, RegistrationError>) -> Read<T> {
    match read {
        Ok(Some(found)) => Read::Found(found),
        Ok(None) => Read::Absent,
        Err(error) => Read::Failed(error.to_string()),
    }
}

fn serve_with(leaf: &Leaf, client_ca: Option<&Vec<u8>>, client_names: &[String]) -> Result<Serving, TlsError> {
    let files = [leaf.certificate.clone().into_bytes(), leaf.key.clone().into_bytes()];
    Serving::parse(&files.into_iter().chain(client_ca.cloned()).collect::<Vec<_>>(), client_names)
}

fn read_client_ca(clients: &Clients) -> Result<Option<Vec<u8>>, CertificateError> {
    let Some(path) = &clients.ca else { return Ok(None) };
    let read = std::fs::read(path);
    read.map(Some).map_err(|source| CertificateError::ClientCa { path: path.clone(), source })
}
