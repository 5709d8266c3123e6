//! `fencegate serve`: be the webhook.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};

use super::{ClusterArg, client, duration};
use crate::{
    audit::Audit,
    certificates,
    clock::Clock,
    cluster::registration::Registration,
    reload,
    server::{Certificates, DRAIN, IN_FLIGHT, Options, Server},
    telemetry::{self, LogFormat},
    tls::{accept::Limits, authority::Lifetimes},
};

/// Serve the admission webhook over TLS.
///
/// Decisions go to standard output, one JSON line each; everything else to standard error.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate serve                                    in a pod: certificates and CA are its own affair
  fencegate certs --out certs/dev
  fencegate serve --tls-cert certs/dev/tls.crt --tls-key certs/dev/tls.key --cluster cluster.yaml")]
pub struct Args {
    /// Rules, a YAML file; read again when its content changes. Without it, the defaults
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Where reviews come to, HTTPS
    #[arg(long, value_name = "ADDRESS", env = "FENCEGATE_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are, plain HTTP
    #[arg(long, value_name = "ADDRESS", env = "FENCEGATE_TELEMETRY_LISTEN", default_value = "0.0.0.0:8080")]
    telemetry_listen: SocketAddr,
    /// Serving certificate and its chain, PEM; read again when its content changes. Without it, the replicas make their own
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate of this CA, PEM
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Where facts come from: `live`, or a file as `kubectl get -o yaml` writes it
    #[arg(long, value_name = "live|FILE", env = "FENCEGATE_CLUSTER", default_value = "live")]
    cluster: ClusterArg,
    /// How log lines look
    #[arg(long, value_enum, value_name = "FORMAT", env = "FENCEGATE_LOG_FORMAT", default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    /// How long to serve on after SIGTERM
    #[arg(long, value_name = "TIME", env = "FENCEGATE_DRAIN", value_parser = duration, default_value = "15s")]
    drain: Duration,
    /// Reviews in flight at once; over it, HTTP 503
    #[arg(long, value_name = "N", env = "FENCEGATE_MAX_IN_FLIGHT", default_value_t = IN_FLIGHT)]
    max_in_flight: usize,
    /// Connections at once; over it, the one that has been idle for longest makes room
    #[arg(long, value_name = "N", env = "FENCEGATE_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    max_connections: usize,
    // Last: its heading would stand over whatever came after it.
    #[command(flatten)]
    self_managed: SelfManagedArgs,
}

/// Certificates that the replicas make: one CA in a Secret, published in the webhook configurations, and a serving certificate each.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Self-managed certificates (without --tls-cert)")]
struct SelfManagedArgs {
    /// Where the Secret and the Lease are. Without it, the pod's own
    #[arg(long, value_name = "NAME", env = "FENCEGATE_NAMESPACE")]
    namespace: Option<String>,
    /// The Service by which the API server calls: the certificate is for NAME.NAMESPACE.svc
    #[arg(long, value_name = "NAME", env = "FENCEGATE_SERVICE", default_value = "fencegate")]
    service: String,
    /// Names or addresses by which it calls instead, if the webhooks are registered with a URL
    #[arg(long, value_name = "HOST", env = "FENCEGATE_TLS_HOST", value_delimiter = ',')]
    tls_host: Vec<String>,
    /// Who this replica is to the others. Without it, the host name, which is the pod's name
    #[arg(long, value_name = "NAME", env = "FENCEGATE_IDENTITY")]
    identity: Option<String>,
    /// How long a CA lasts; it is replaced when a third of it is left
    #[arg(long, value_name = "TIME", env = "FENCEGATE_CA_LIFETIME", value_parser = duration, default_value = "8760h")]
    ca_lifetime: Duration,
    /// How long a serving certificate lasts; it is replaced when a third of it is left
    #[arg(long, value_name = "TIME", env = "FENCEGATE_LEAF_LIFETIME", value_parser = duration, default_value = "24h")]
    leaf_lifetime: Duration,
    /// How often certificates are looked at; a new CA is given six times as long to reach every API server
    #[arg(long, value_name = "TIME", env = "FENCEGATE_CERTIFICATE_INTERVAL", value_parser = duration, default_value = "10s")]
    certificate_interval: Duration,
}

/// Where a pod finds the name of its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Looks that a new CA is given to reach every API server.
const SETTLE: u32 = 6;

impl SelfManagedArgs {
    async fn options(self, client_ca: Option<PathBuf>) -> anyhow::Result<certificates::Options> {
        let namespace = match self.namespace {
            Some(namespace) => namespace,
            None => std::fs::read_to_string(OWN_NAMESPACE).with_context(|| {
                format!("certificates: give --tls-cert and --tls-key, or --namespace for self-managed ones ({OWN_NAMESPACE} cannot be read)")
            })?,
        };
        let namespace = namespace.trim().to_owned();
        let hosts =
            if self.tls_host.is_empty() { vec![format!("{}.{namespace}.svc", self.service)] } else { self.tls_host };
        let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let lifetimes = Lifetimes {
            ca: self.ca_lifetime.try_into()?,
            leaf: self.leaf_lifetime.try_into()?,
            settle: (self.certificate_interval * SETTLE).try_into()?,
        };
        lifetimes.check().map_err(|why| anyhow::anyhow!("{why}"))?;
        Ok(certificates::Options {
            registration: Registration::new(client().await?, namespace),
            clock: Clock::System,
            lifetimes,
            hosts,
            identity: self.identity.map_or_else(host_name, Ok).context("give --identity: this host has no name")?,
            interval: self.certificate_interval,
            client_ca,
        })
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(args.log_format, std::env::var("RUST_LOG").ok().as_deref());
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let certificates = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => Certificates::Files { certificate, key, client_ca: args.client_ca },
        _ => Certificates::SelfManaged(Box::new(args.self_managed.options(args.client_ca).await?)),
    };
    let server = Server::bind(Options {
        listen: args.listen,
        telemetry_listen: Some(args.telemetry_listen),
        certificates,
        config: args.config,
        cluster: args.cluster.open().await?,
        clock: Clock::System,
        audit: Audit::Stdout,
        limits: Limits { connections: args.max_connections, ..Limits::default() },
        in_flight: args.max_in_flight,
        drain: args.drain,
        reload_interval: reload::INTERVAL,
    })
    .await?;
    let (reviews, telemetry) = (server.address()?, server.telemetry_address()?);
    tracing::info!(%reviews, telemetry = telemetry.map(|address| address.to_string()), "serving");
    server
        .run(async move {
            // Either signal is enough; the other stays unread.
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        })
        .await;
    Ok(ExitCode::SUCCESS)
}

const _: () = assert!(DRAIN.as_secs() == 15, "the default of --drain is written out above");
