//! `fencegate serve`: be the webhook.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};

use super::{ClusterArg, duration};
use crate::{
    audit::Audit,
    clock::Clock,
    reload,
    server::{DRAIN, IN_FLIGHT, Options, Server},
    telemetry::{self, LogFormat},
    tls::accept::Limits,
};

/// Serve the admission webhook over TLS.
///
/// Decisions go to standard output, one JSON line each; everything else to standard error.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:
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
    /// Serving certificate and its chain, PEM; read again when its content changes
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_CERT")]
    tls_cert: PathBuf,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_KEY")]
    tls_key: PathBuf,
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
    /// Connections at once; over it, new ones are closed
    #[arg(long, value_name = "N", env = "FENCEGATE_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    max_connections: usize,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(args.log_format, std::env::var("RUST_LOG").ok().as_deref());
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let server = Server::bind(Options {
        listen: args.listen,
        telemetry_listen: Some(args.telemetry_listen),
        certificate: args.tls_cert,
        key: args.tls_key,
        client_ca: args.client_ca,
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
