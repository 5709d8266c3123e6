//! `fencegate serve`: run the webhook.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};

use super::{ClusterArg, client, duration};
use crate::{
    audit::Audit,
    certificates::{self, lifetimes::Lifetimes},
    clock::Clock,
    cluster::{Cluster, registration::Registration},
    config::{self, Additions},
    policy::{reason::Mode, settings::AutoReleaseWhen, source::Source},
    reload,
    server::{Certificates, DRAIN, IN_FLIGHT, Options, Server, Upkeep},
    telemetry::{Log, LogFormat},
    tls::{accept::Limits, clients::Clients},
};

/// Serve the admission webhook over TLS.
///
/// The audit log goes to standard output, one JSON line per decision; the program's own log goes to
/// standard error.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate serve                                    in a pod: it makes and renews its own certificates
  fencegate certs --out certs/dev
  fencegate serve --tls-cert certs/dev/tls.crt --tls-key certs/dev/tls.key --cluster cluster.yaml")]
pub struct Args {
    /// Configuration, a YAML file; reloaded when its content changes [default: built-in defaults]
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Accept this evidence source, too, after those of the configuration; may be given several
    /// times
    #[arg(long = "source", value_name = "NAME", env = "FENCEGATE_SOURCES", value_delimiter = ',', value_parser = config::source)]
    sources: Vec<Source>,
    /// Address for reviews, HTTPS
    #[arg(long, value_name = "ADDRESS", env = "FENCEGATE_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address for /livez, /readyz and /metrics, plain HTTP
    #[arg(long, value_name = "ADDRESS", env = "FENCEGATE_TELEMETRY_LISTEN", default_value = "0.0.0.0:8080")]
    telemetry_listen: SocketAddr,
    /// Serving certificate and its chain, PEM; reloaded when its content changes. Without it, the
    /// replicas make their own
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the serving certificate, PEM
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate issued by this CA, PEM; reloaded when its content
    /// changes
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Accept only clients whose certificate has one of these as its common name or DNS name
    #[arg(long, value_name = "NAME", env = "FENCEGATE_CLIENT_NAME", value_delimiter = ',', requires = "client_ca")]
    client_name: Vec<String>,
    /// Answer only the paths /mutate/SECRET and /validate/SECRET, for each line of this file;
    /// reloaded when its content changes. Without --tls-cert, the replicas make up secret paths
    #[arg(long, value_name = "FILE", env = "FENCEGATE_PATH_SECRET", requires = "tls_cert")]
    path_secret: Option<PathBuf>,
    /// Source of cluster facts: `live` for the API server, or a file with the output of
    /// `kubectl get -o yaml`
    #[arg(long, value_name = "live|FILE", env = "FENCEGATE_CLUSTER", default_value = "live")]
    cluster: ClusterArg,
    /// Format of log lines
    #[arg(long, value_enum, value_name = "FORMAT", env = "FENCEGATE_LOG_FORMAT", default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    /// How long to keep serving after SIGTERM
    #[arg(long, value_name = "TIME", env = "FENCEGATE_DRAIN", value_parser = duration, default_value = "15s")]
    drain: Duration,
    /// Limit on reviews in flight; above it, HTTP 503
    #[arg(long, value_name = "N", env = "FENCEGATE_MAX_IN_FLIGHT", default_value_t = IN_FLIGHT)]
    max_in_flight: usize,
    /// Limit on open connections; above it, the idlest is closed
    #[arg(long, value_name = "N", env = "FENCEGATE_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Write Events about Nodes: `kubectl describe node` shows them
    #[arg(long, env = "FENCEGATE_EVENTS")]
    events: bool,
    /// Let one replica watch the nodes that are out of service, as `watch.enabled: true` in the
    /// configuration
    #[arg(long, env = "FENCEGATE_WATCH")]
    watch: bool,
    /// Return nodes to service without a person, as `release.auto` in the configuration: off,
    /// recovered or rebooted
    #[arg(long, value_name = "WHEN", env = "FENCEGATE_AUTO_RELEASE", value_parser = auto_release)]
    auto_release: Option<AutoReleaseWhen>,
    /// Guard the other doors to the same harm, too, in this mode: off, warn or enforce. It holds
    /// for those that `doors` in the configuration leaves out
    #[arg(long, value_name = "MODE", env = "FENCEGATE_DOORS", value_parser = config::mode)]
    doors: Option<Mode>,
    // Last, because its heading would also cover every option after it.
    #[command(flatten)]
    self_managed: SelfManagedArgs,
}

/// Certificates that the replicas make: one CA in a Secret, published in the webhook
/// configurations, and one serving certificate per replica.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Self-managed certificates (without --tls-cert)")]
struct SelfManagedArgs {
    /// Namespace of the Secret and the Leases [default: the pod's own]. Without it,
    /// `place.maxNodes` denies every placement
    #[arg(long, value_name = "NAME", env = "FENCEGATE_NAMESPACE")]
    namespace: Option<String>,
    /// Service that the API server calls: the certificate is for NAME.NAMESPACE.svc
    #[arg(long, value_name = "NAME", env = "FENCEGATE_SERVICE", default_value = "fencegate")]
    service: String,
    /// Host names or addresses for the certificate instead, if the webhook configurations have a
    /// URL
    #[arg(long, value_name = "HOST", env = "FENCEGATE_TLS_HOST", value_delimiter = ',')]
    tls_host: Vec<String>,
    /// Identity of this replica as the holder of the Lease [default: the host name, which is the
    /// pod's name]
    #[arg(long, value_name = "NAME", env = "FENCEGATE_IDENTITY")]
    identity: Option<String>,
    /// Lifetime of a CA; it is replaced when a third is left
    #[arg(long, value_name = "TIME", env = "FENCEGATE_CA_LIFETIME", value_parser = duration, default_value = "8760h")]
    ca_lifetime: Duration,
    /// Lifetime of a serving certificate; it is replaced when a third is left
    #[arg(long, value_name = "TIME", env = "FENCEGATE_LEAF_LIFETIME", value_parser = duration, default_value = "24h")]
    leaf_lifetime: Duration,
    /// Time between two checks of the certificates, and of the Lease; API servers get six times as
    /// long to use a new CA
    #[arg(long, value_name = "TIME", env = "FENCEGATE_CERTIFICATE_INTERVAL", value_parser = duration, default_value = "10s")]
    certificate_interval: Duration,
}

/// The file in which a pod finds the name of its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Certificate intervals that an API server gets to use a new CA.
const SETTLE: u32 = 6;

impl SelfManagedArgs {
    /// The gate's own namespace.
    fn namespace(&self) -> std::io::Result<String> {
        let given = self.namespace.clone().map_or_else(|| std::fs::read_to_string(OWN_NAMESPACE), Ok);
        given.map(|namespace| namespace.trim().to_owned())
    }

    /// The name of this replica.
    fn identity(&self) -> anyhow::Result<String> {
        let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let identity = self.identity.clone().map_or_else(host_name, Ok);
        identity.context("the host name cannot be read: set --identity")
    }

    async fn options(self, clients: Clients) -> anyhow::Result<certificates::Options> {
        let namespace = self.namespace().with_context(|| {
            format!("{OWN_NAMESPACE} cannot be read: outside a pod, set --namespace, or --tls-cert and --tls-key")
        })?;
        let identity = self.identity()?;
        let hosts =
            if self.tls_host.is_empty() { vec![format!("{}.{namespace}.svc", self.service)] } else { self.tls_host };
        let lifetimes = Lifetimes {
            ca: self.ca_lifetime.try_into()?,
            leaf: self.leaf_lifetime.try_into()?,
            settle: (self.certificate_interval * SETTLE).try_into()?,
        };
        lifetimes.check()?;
        Ok(certificates::Options {
            registration: Registration::new(client().await?, namespace),
            clock: Clock::System,
            lifetimes,
            hosts,
            identity,
            interval: self.certificate_interval,
            clients,
        })
    }
}

fn auto_release(name: &str) -> Result<AutoReleaseWhen, String> {
    let known = AutoReleaseWhen::ALL.into_iter().find(|when| when.name() == name);
    known.ok_or_else(|| "not one of off, recovered, rebooted".to_owned())
}

/// With what nodes are looked after. A snapshot of a cluster has no nodes to look after.
async fn upkeep(args: &Args, cluster: &Cluster, namespace: Option<String>) -> anyhow::Result<Option<Upkeep>> {
    let Cluster::Live(live) = cluster else { return Ok(None) };
    let registration = match namespace {
        Some(namespace) => Some(Registration::new(client().await?, namespace)),
        None => None,
    };
    Ok(Some(Upkeep {
        live: live.clone(),
        events: args.events,
        registration,
        identity: args.self_managed.identity()?,
        interval: args.self_managed.certificate_interval,
    }))
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _log = Log::start(args.log_format, std::env::var("RUST_LOG").ok().as_deref());
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let namespace = args.self_managed.namespace().ok();
    let cluster = args.cluster.open(namespace.clone()).await?;
    let upkeep = upkeep(&args, &cluster, namespace).await?;
    let clients = Clients { ca: args.client_ca, names: args.client_name };
    let certificates = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => {
            Certificates::Files { certificate, key, clients, path_secret: args.path_secret }
        }
        _ => Certificates::SelfManaged(Box::new(args.self_managed.options(clients).await?)),
    };
    let server = Server::bind(Options {
        listen: args.listen,
        telemetry_listen: Some(args.telemetry_listen),
        certificates,
        config: args.config,
        cluster,
        clock: Clock::System,
        audit: Audit::stdout(Clock::System).context("standard output cannot be used")?,
        limits: Limits { connections: args.max_connections, ..Limits::default() },
        in_flight: args.max_in_flight,
        drain: args.drain,
        reload_interval: reload::INTERVAL,
        additions: Additions {
            sources: args.sources,
            watch: args.watch,
            auto_release: args.auto_release,
            doors: args.doors,
        },
        upkeep,
    })
    .await?;
    let (reviews, telemetry) = (server.address()?, server.telemetry_address()?);
    tracing::info!(%reviews, telemetry = telemetry.map(|address| address.to_string()), "serving");
    server
        .run(async move {
            // Cancel-safe: either signal is enough, and the other is dropped.
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        })
        .await;
    Ok(ExitCode::SUCCESS)
}

const _: () = assert!(DRAIN.as_secs() == 15, "--drain repeats this default");
