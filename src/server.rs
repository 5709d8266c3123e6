//! The composition root of `serve`: builds the parts, owns their tasks, and takes them down in order.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::Router;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Condition},
    admission,
    audit::Audit,
    certificates::{self, Accepted, CertificateError, SelfManaged},
    clock::Clock,
    cluster::Cluster,
    config::{self, ConfigError},
    gate::Gate,
    metrics::Metrics,
    policy::settings::Settings,
    reload::{Change, ReloadError, Reloading},
    tls::{
        Serving, TlsError,
        accept::{self, Limits, Shutdown},
    },
};

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
    /// How long to serve on after being told to end: until every API server has noticed.
    pub drain: Duration,
    /// How often files are looked at.
    pub reload_interval: Duration,
}

/// Where the serving certificate comes from.
pub enum Certificates {
    /// PEM files, read again when their content changes.
    Files { certificate: PathBuf, key: PathBuf, client_ca: Option<PathBuf> },
    /// The replicas make and renew it themselves.
    SelfManaged(Box<certificates::Options>),
}

/// Reviews in flight at once, by default: each may hold 256 KiB of a body, and guarded writes are rare.
pub const IN_FLIGHT: usize = 512;
/// How long to serve on after SIGTERM, by default: an endpoint's removal reaches every API server within seconds.
pub const DRAIN: Duration = Duration::from_secs(15);
/// How long to wait for what is in flight after that: the longest that Kubernetes lets a webhook take.
const LAST_CALLS: Duration = Duration::from_secs(30);
/// How long to wait before trying again to reach the cluster for the first time.
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
    #[error("configuration: {0}")]
    Config(#[from] Box<ReloadError<ConfigError>>),
}

/// A server that is bound and accepts connections once it is [`run`](Server::run).
pub struct Server {
    listener: TcpListener,
    telemetry: Option<TcpListener>,
    keeper: Keeper,
    rules: Option<Reloading<Settings, ConfigError>>,
    gate: Gate,
    limits: Limits,
    in_flight: usize,
    drain: Duration,
    reload_interval: Duration,
    shutdown: Shutdown,
}

/// Whoever looks after the serving certificate.
enum Keeper {
    Files(Reloading<Serving, TlsError>),
    SelfManaged(Box<SelfManaged>),
}

impl Keeper {
    fn new(certificates: Certificates) -> Result<Self, StartError> {
        Ok(match certificates {
            Certificates::Files { certificate, key, client_ca } => {
                let files = [certificate, key].into_iter().chain(client_ca).collect();
                Self::Files(Reloading::load(files, Serving::parse).map_err(Box::new)?)
            }
            Certificates::SelfManaged(options) => {
                Self::SelfManaged(Box::new(SelfManaged::new(*options).map_err(Box::new)?))
            }
        })
    }

    /// What new connections are served with.
    fn serving(&self) -> Arc<ArcSwap<Serving>> {
        match self {
            Self::Files(files) => files.current(),
            Self::SelfManaged(keeper) => keeper.serving(),
        }
    }

    /// Whether API servers accept it, where that is known.
    fn accepted(&self) -> Option<Arc<ArcSwap<Accepted>>> {
        match self {
            Self::Files(_) => None,
            Self::SelfManaged(keeper) => Some(keeper.accepted()),
        }
    }
}

impl Server {
    /// Reads the files and binds the ports.
    ///
    /// # Errors
    /// If a file cannot be used, or a port not be bound.
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let keeper = Keeper::new(options.certificates)?;
        let rules = match options.config {
            Some(path) => {
                let parse = |files: &[Vec<u8>]| config::parse(files.first().map_or(&[], Vec::as_slice));
                Some(Reloading::load(vec![path], parse).map_err(Box::new)?)
            }
            None => None,
        };
        let settings = rules.as_ref().map_or_else(|| Arc::new(ArcSwap::default()), Reloading::current);
        let metrics = Arc::new(Metrics::default());
        metrics.certificate_ends(keeper.serving().load().not_after);
        let gate = Gate { cluster: options.cluster, settings, clock: options.clock, audit: options.audit, metrics };
        let telemetry = match options.telemetry_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        Ok(Self {
            listener: listen(options.listen).await?,
            telemetry,
            keeper,
            rules,
            gate,
            limits: options.limits,
            in_flight: options.in_flight,
            drain: options.drain,
            reload_interval: options.reload_interval,
            shutdown: Shutdown::default(),
        })
    }

    /// The port that reviews come to.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The telemetry port.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn telemetry_address(&self) -> io::Result<Option<SocketAddr>> {
        self.telemetry.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until `end` resolves, then drains and finishes what is in flight.
    pub async fn run(self, end: impl Future<Output = ()>) {
        let Self { listener, telemetry, keeper, rules, gate, limits, shutdown, .. } = self;
        let background = TaskTracker::new();
        let done = CancellationToken::new();
        let readiness = Readiness {
            serving: keeper.serving(),
            accepted: keeper.accepted(),
            clock: gate.clock.clone(),
            reached: Arc::new(OnceLock::new()),
            draining: shutdown.draining.clone(),
        };
        let in_force = keeper.serving();
        let metrics = Arc::clone(&gate.metrics);
        let on_certificate = move |serving: &Serving| metrics.certificate_ends(serving.not_after);
        let metrics = Arc::clone(&gate.metrics);
        let on_rules = move |taken: Option<&Settings>| metrics.config_reloaded(taken.is_some());
        spawn(&background, &done, reach(gate.cluster.clone(), Arc::clone(&readiness.reached)));
        match keeper {
            Keeper::Files(files) => {
                let tell = move |taken: Option<&Serving>| taken.into_iter().for_each(&on_certificate);
                spawn(&background, &done, watch(files, self.reload_interval, tell));
            }
            Keeper::SelfManaged(keeper) => spawn(&background, &done, keeper.run(on_certificate)),
        }
        if let Some(rules) = rules {
            spawn(&background, &done, watch(rules, self.reload_interval, on_rules));
        }
        if let Some(telemetry) = telemetry {
            let metrics = Arc::clone(&gate.metrics);
            let router = admin::router(move || readiness.conditions(), move || metrics.encode());
            spawn(&background, &done, serve_telemetry(telemetry, router));
        }
        let router = admission::handler::router(gate, self.in_flight);
        let reviews = accept::serve(listener, in_force, router, limits, shutdown.clone());
        tokio::join!(go_away(end, shutdown.clone(), self.drain), bounded(reviews, shutdown.stopping));
        done.cancel();
        background.close();
        background.wait().await;
        tracing::info!("ended");
    }
}

/// What has to be true for the API server to be sent here. Each part is owned by whoever makes it true.
struct Readiness {
    /// The certificate in force.
    serving: Arc<ArcSwap<Serving>>,
    /// Whether the API server will accept it, where that is known.
    accepted: Option<Arc<ArcSwap<Accepted>>>,
    clock: Clock,
    /// Set when the cluster answered for the first time. One that is away later is no reason to send the API server
    /// elsewhere.
    reached: Arc<OnceLock<()>>,
    /// Cancelled when the program was told to end.
    draining: CancellationToken,
}

impl Readiness {
    fn conditions(&self) -> Vec<Condition> {
        let reached = self.reached.get().ok_or_else(|| "not reached yet".to_owned()).copied();
        let draining = if self.draining.is_cancelled() { Err("draining".to_owned()) } else { Ok(()) };
        let accepted = self.accepted.as_ref().map_or(Ok(()), |accepted| accepted.load().as_ref().clone());
        let certificate = self.serving.load().check(self.clock.now()).and(accepted);
        vec![("certificate", certificate), ("cluster", reached), ("shutdown", draining)]
    }
}

/// Starts work that goes on until the server is done; none of it holds anything that has to be put away.
fn spawn(tasks: &TaskTracker, done: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(done.clone().run_until_cancelled_owned(work));
}

/// Takes the two steps of going away, when it is time.
async fn go_away(end: impl Future<Output = ()>, shutdown: Shutdown, drain: Duration) {
    end.await;
    tracing::info!(?drain, "told to end: not ready any more, serving on until others have noticed");
    shutdown.draining.cancel();
    sleep(drain).await;
    shutdown.stopping.cancel();
}

/// Waits for open connections, but not for ever once they were told to go.
async fn bounded(reviews: impl Future<Output = ()>, stopping: CancellationToken) {
    let overdue = async {
        stopping.cancelled().await;
        sleep(LAST_CALLS).await;
    };
    // Dropping the reviews' future leaves only connections that did not end when they should have.
    tokio::select! {
        () = reviews => {}
        () = overdue => tracing::warn!(after = ?LAST_CALLS, "connections were left open"),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

async fn serve_telemetry(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the telemetry port ended");
    }
}

/// Tries until the cluster has answered once.
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

/// Looks at files again and again, and tells what came of every change: the new value, or none.
async fn watch<T, E: std::error::Error>(mut reloading: Reloading<T, E>, every: Duration, tell: impl Fn(Option<&T>)) {
    let current = reloading.current();
    let mut looks = interval(every);
    loop {
        looks.tick().await;
        match reloading.look() {
            Change::None => {}
            Change::Taken => {
                tracing::info!(files = reloading.files(), "taken over");
                tell(Some(&current.load()));
            }
            Change::Refused(error) => {
                tracing::error!(%error, "not taken over, what was in force stays");
                tell(None);
            }
        }
    }
}
