//! The composition root of `serve`: builds the parts, owns their tasks, and shuts them down in
//! order.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use readiness::Readiness;

use crate::{
    admin::{self, Format},
    admission::{
        self,
        paths::{self, Paths, SecretError},
    },
    audit::Audit,
    certificates::{self, CertificateError, SelfManaged, plan::Acceptance},
    clock::Clock,
    cluster::{Cluster, Live, registration::Registration},
    config::{self, Additions, ConfigError},
    events,
    gate::Gate,
    metrics::Metrics,
    policy::settings::Settings,
    reload::{Change, ReloadError, Reloading},
    tls::{
        Serving, TlsError,
        accept::{self, Limits, Shutdown},
        clients::Clients,
    },
    watcher::{self, Watcher},
};

mod readiness;

/// What a server is made of.
pub struct Options {
    pub listen: SocketAddr,
    /// `None`: no telemetry port.
    pub telemetry_listen: Option<SocketAddr>,
    pub certificates: Certificates,
    pub config: Option<PathBuf>,
    pub cluster: Cluster,
    pub clock: Clock,
    pub audit: Audit,
    pub limits: Limits,
    /// Reviews in flight at once.
    pub in_flight: usize,
    /// How long to keep serving after a shutdown request, so that every API server stops calling
    /// first.
    pub drain: Duration,
    /// How often files are checked for changes.
    pub reload_interval: Duration,
    /// What the configuration file does not say.
    pub additions: Additions,
    /// `None`: no Events are written, and no node is watched.
    pub upkeep: Option<Upkeep>,
}

/// With what nodes are looked after, beside the decisions.
pub struct Upkeep {
    pub live: Live,
    /// Whether to write Events.
    pub events: bool,
    /// Where the Lease is whose holder watches. `None`: no replica watches.
    pub registration: Option<Registration>,
    /// Identifies this replica as the holder of the Lease, and as who reports Events.
    pub identity: String,
    /// Between two renewals of the Lease.
    pub interval: Duration,
}

/// Where the serving certificate comes from.
pub enum Certificates {
    /// PEM files, reloaded when their content changes.
    Files {
        certificate: PathBuf,
        key: PathBuf,
        clients: Clients,
        /// The secrets of the paths that API servers call, one a line. `None`: the paths have none.
        path_secret: Option<PathBuf>,
    },
    /// The replicas make and renew it themselves.
    SelfManaged(Box<certificates::Options>),
}

/// Default limit on reviews in flight: each may hold 256 KiB of a body, and guarded writes are
/// rare.
pub const IN_FLIGHT: usize = 512;
/// Default time to keep serving after SIGTERM: the removal of an endpoint reaches every API server
/// within seconds.
pub const DRAIN: Duration = Duration::from_secs(15);
/// Connections to the telemetry port: the kubelet's probes and a few Prometheus servers.
const TELEMETRY_CONNECTIONS: usize = 64;
/// Pause between attempts to reach the cluster for the first time.
const REACH_INTERVAL: Duration = Duration::from_secs(2);

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("certificate: {0}")]
    Tls(#[from] Box<ReloadError<TlsError>>),
    #[error("certificate: {0}")]
    SelfManaged(#[from] Box<CertificateError>),
    #[error("path secret: {0}")]
    PathSecret(#[from] Box<ReloadError<SecretError>>),
    #[error("configuration: {0}")]
    Config(#[from] Box<ReloadError<ConfigError>>),
}

/// A server with bound ports; [`run`](Server::run) accepts connections.
pub struct Server {
    listener: TcpListener,
    telemetry: Option<TcpListener>,
    certificates: CertificateSource,
    rules: Option<Reloading<Settings, ConfigError>>,
    gate: Gate,
    limits: Limits,
    in_flight: usize,
    drain: Duration,
    reload_interval: Duration,
    shutdown: Shutdown,
    upkeep: Option<Upkeep>,
    events: Option<events::Writer>,
}

/// Keeps the serving certificate current.
enum CertificateSource {
    Files { pair: Reloading<Serving, TlsError>, paths: Option<Reloading<Paths, SecretError>> },
    SelfManaged(Box<SelfManaged>),
}

impl CertificateSource {
    fn new(certificates: Certificates) -> Result<Self, StartError> {
        Ok(match certificates {
            Certificates::Files { certificate, key, clients: Clients { ca, names }, path_secret } => {
                let files = [certificate, key].into_iter().chain(ca).collect();
                let parse = move |files: &[Vec<u8>]| Serving::parse(files, &names);
                let parse_paths = |files: &[Vec<u8>]| Paths::parse(files.first().map_or(&[], Vec::as_slice));
                let paths = path_secret.map(|path| Reloading::load(vec![path], parse_paths)).transpose();
                Self::Files { pair: Reloading::load(files, parse).map_err(Box::new)?, paths: paths.map_err(Box::new)? }
            }
            Certificates::SelfManaged(options) => {
                Self::SelfManaged(Box::new(SelfManaged::new(*options).map_err(Box::new)?))
            }
        })
    }

    /// The certificate that new connections are served with.
    fn serving(&self) -> Arc<ArcSwap<Serving>> {
        match self {
            Self::Files { pair, .. } => pair.current(),
            Self::SelfManaged(replica) => replica.serving(),
        }
    }

    /// Whether API servers accept it; `None` if that cannot be known.
    fn acceptance(&self) -> Option<Arc<ArcSwap<Acceptance>>> {
        match self {
            Self::Files { .. } => None,
            Self::SelfManaged(replica) => Some(replica.acceptance()),
        }
    }

    /// The paths that API servers call.
    fn paths(&self) -> paths::Source {
        match self {
            Self::Files { paths: Some(paths), .. } => paths::Source::Given(paths.current()),
            Self::Files { paths: None, .. } => paths::Source::plain(),
            Self::SelfManaged(replica) => paths::Source::Published(replica.paths()),
        }
    }
}

impl Server {
    /// Reads the files and binds the ports.
    ///
    /// # Errors
    /// If a file cannot be used, or a port cannot be bound.
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let certificates = CertificateSource::new(options.certificates)?;
        let additions = options.additions;
        let defaults = additions.to(Settings::default());
        let rules = match options.config {
            Some(path) => {
                let parse = move |files: &[Vec<u8>]| {
                    let settings = config::parse(files.first().map_or(&[], Vec::as_slice))?;
                    Ok(additions.to(settings))
                };
                Some(Reloading::load(vec![path], parse).map_err(Box::new)?)
            }
            None => None,
        };
        let settings = rules.as_ref().map_or_else(|| Arc::new(ArcSwap::from_pointee(defaults)), Reloading::current);
        let metrics = Arc::new(Metrics::default());
        metrics.certificate_ends(certificates.serving().load().not_after);
        metrics.config_reloaded(Some(&settings.load()), options.clock.now());
        let upkeep = options.upkeep;
        let writer = upkeep.as_ref().filter(|upkeep| upkeep.events).map(|Upkeep { live, identity, .. }| {
            events::events(live.clone(), options.clock.clone(), Arc::clone(&metrics), identity.clone())
        });
        let (events, writer) = writer.unzip();
        let gate = Gate {
            cluster: options.cluster,
            settings,
            clock: options.clock,
            audit: options.audit,
            metrics,
            events: events.unwrap_or_default(),
        };
        let telemetry = match options.telemetry_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        Ok(Self {
            listener: listen(options.listen).await?,
            telemetry,
            certificates,
            rules,
            gate,
            limits: options.limits,
            in_flight: options.in_flight,
            drain: options.drain,
            reload_interval: options.reload_interval,
            shutdown: Shutdown::default(),
            upkeep,
            events: writer,
        })
    }

    /// The address that reviews are sent to.
    ///
    /// # Errors
    /// If the operating system does not know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address of the telemetry port.
    ///
    /// # Errors
    /// If the operating system does not know it.
    pub fn telemetry_address(&self) -> io::Result<Option<SocketAddr>> {
        self.telemetry.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until `shutdown_requested` resolves, then drains and finishes the requests in flight.
    pub async fn run(self, shutdown_requested: impl Future<Output = ()>) {
        let Self { listener, telemetry, certificates, rules, gate, limits, shutdown, upkeep, events, .. } = self;
        let background = TaskTracker::new();
        let done = CancellationToken::new();
        let readiness = Arc::new(Readiness {
            serving: certificates.serving(),
            acceptance: certificates.acceptance(),
            clock: gate.clock.clone(),
            reached: Arc::new(OnceLock::new()),
            audit: gate.audit.clone(),
            draining: shutdown.draining.clone(),
        });
        let (serving, paths) = (certificates.serving(), certificates.paths());
        let metrics = Arc::clone(&gate.metrics);
        let on_certificate = move |serving: &Serving| metrics.certificate_ends(serving.not_after);
        let (metrics, clock) = (Arc::clone(&gate.metrics), gate.clock.clone());
        let on_rules = move |reloaded: Option<&Settings>| metrics.config_reloaded(reloaded, clock.now());
        spawn(&background, &done, reach(gate.cluster.clone(), Arc::clone(&readiness.reached)));
        let audit = gate.audit.clone();
        spawn(&background, &done, async move { audit.recover().await });
        match certificates {
            CertificateSource::Files { pair, paths } => {
                let on_pair = move |reloaded: Option<&Serving>| reloaded.into_iter().for_each(&on_certificate);
                spawn(&background, &done, watch(pair, self.reload_interval, on_pair));
                if let Some(paths) = paths {
                    spawn(&background, &done, watch(paths, self.reload_interval, |_| {}));
                }
            }
            CertificateSource::SelfManaged(replica) => spawn(&background, &done, replica.run(on_certificate)),
        }
        if let Some(writer) = events {
            spawn(&background, &done, writer.run());
        }
        if let Some(watcher) = upkeep.and_then(|upkeep| watcher(upkeep, &gate, Arc::clone(&readiness))) {
            spawn(&background, &done, watcher.run());
        }
        if let Some(rules) = rules {
            spawn(&background, &done, watch(rules, self.reload_interval, on_rules));
        }
        if let Some(telemetry) = telemetry {
            let metrics = Arc::clone(&gate.metrics);
            let scraped = Arc::clone(&readiness);
            let scrape = move |format| {
                metrics.certificate_accepted(scraped.certificate_failure().is_none());
                match format {
                    Format::Classic => metrics.encode(),
                    Format::OpenMetrics => metrics.open_metrics(),
                }
            };
            let router = admin::router(move || readiness.conditions(), scrape);
            // It answers until the end: a probe must see that the server drains.
            let limits = Limits { connections: TELEMETRY_CONNECTIONS, ..limits };
            spawn(&background, &done, accept::serve(telemetry, None, router, limits, Shutdown::default()));
        }
        let router = admission::handler::router(gate, paths, self.in_flight);
        let reviews = accept::serve(listener, Some(serving), router, limits, shutdown.clone());
        tokio::join!(shut_down(shutdown_requested, shutdown, self.drain), reviews);
        done.cancel();
        background.close();
        background.wait().await;
        tracing::info!("shutdown complete");
    }
}

/// Looks after nodes, if there is a Lease for it. A replica that API servers do not call, or that
/// is about to end, does not hold the Lease.
fn watcher(upkeep: Upkeep, gate: &Gate, readiness: Arc<Readiness>) -> Option<Watcher> {
    let Upkeep { live, registration, identity, interval, .. } = upkeep;
    Some(Watcher::new(watcher::Options {
        live,
        registration: registration?,
        settings: Arc::clone(&gate.settings),
        clock: gate.clock.clone(),
        metrics: Arc::clone(&gate.metrics),
        events: gate.events.clone(),
        identity,
        interval,
        is_fit: Box::new(move || readiness.certificate_failure().is_none() && !readiness.draining.is_cancelled()),
    }))
}

/// Starts a background task that is dropped when the server ends; none needs to clean up.
fn spawn(tasks: &TaskTracker, done: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(done.clone().run_until_cancelled_owned(work));
}

/// Waits for the shutdown request, then drains, then stops.
async fn shut_down(requested: impl Future<Output = ()>, shutdown: Shutdown, drain: Duration) {
    requested.await;
    tracing::info!(?drain, "shutdown requested, draining: not ready, and still serving");
    shutdown.draining.cancel();
    sleep(drain).await;
    shutdown.stopping.cancel();
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

/// Tries to reach the cluster until it answers once.
async fn reach(cluster: Cluster, reached: Arc<OnceLock<()>>) {
    let mut attempts = interval(REACH_INTERVAL);
    loop {
        attempts.tick().await;
        match cluster.reach().await {
            Ok(()) => {
                let _ = reached.set(());
                return tracing::info!("the cluster answers");
            }
            Err(error) => tracing::warn!(%error, "the API server is not reachable yet, retrying"),
        }
    }
}

/// Checks files at every interval. `on_change` is called after every change: with the new value, or
/// with `None` if it was refused.
async fn watch<T, E: std::error::Error>(
    mut reloading: Reloading<T, E>,
    every: Duration,
    on_change: impl Fn(Option<&T>),
) {
    let current = reloading.current();
    let mut checks = interval(every);
    loop {
        checks.tick().await;
        match reloading.check() {
            Change::None => {}
            Change::Reloaded => {
                tracing::info!(files = reloading.files(), "reloaded");
                on_change(Some(&current.load()));
            }
            Change::Refused(error) => {
                tracing::error!(%error, "not reloaded: the last good content stays in use");
                on_change(None);
            }
        }
    }
}
