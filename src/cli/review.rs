//! `fencegate review`: one AdmissionReview in, the answer out, by the same way that the server
//! goes.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{ClusterArg, live};
use crate::{
    admission::{
        handler::{BODY_LIMIT, Judge as _},
        review::{self, Answer},
    },
    audit::Audit,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    config,
    gate::Gate,
    metrics::Metrics,
    policy::{evidence::parse_time, review::Webhook, settings::Settings},
};

/// Answer one AdmissionReview and say why.
///
/// Exits 0 when the write is allowed, 1 when it is denied, 2 when there is no answer.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate review review.json --cluster cluster.yaml
  kubectl get nodes,leases,pods,volumeattachments,pv -A -o yaml > cluster.yaml
  fencegate review --cluster audit-line.json < review.json      decide again as it was decided then")]
pub struct Args {
    /// The AdmissionReview as the API server sends it, JSON; `-` is standard input
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,
    /// Which webhook to be
    #[arg(long, value_name = "WEBHOOK", default_value = "validate", value_parser = webhooks())]
    webhook: Webhook,
    /// Rules, a YAML file. Without it, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where facts come from: `live`, a file as `kubectl get -o yaml` writes it, or a line of the
    /// audit log. Without it, the cluster of the kubeconfig, or where there is none the built-in
    /// example
    #[arg(long, value_name = "live|FILE")]
    cluster: Option<ClusterArg>,
    /// Decide as of this time, RFC 3339. Without it, the time of the audit line, else now
    #[arg(long, value_name = "TIME", value_parser = time)]
    now: Option<Timestamp>,
    /// The message that a user reads, or the answer that the API server gets
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What the API server gives a call by the contract's registration, less the margin to answer in.
const TIME: Duration = Duration::from_millis(4500);

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let body = read(&args.file)?;
    let settings = match &args.config {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            config::parse(&bytes).with_context(|| path.display().to_string())?
        }
        None => Settings::default(),
    };
    let review = review::read(&body)?;
    let cluster = match &args.cluster {
        Some(cluster) => cluster.open().await?,
        None => at_hand().await?,
    };
    let gate = Gate {
        clock: clock(args.now, &cluster),
        cluster,
        settings: Arc::new(ArcSwap::from_pointee(settings)),
        audit: Audit::Discard,
        metrics: Arc::new(Metrics::default()),
    };
    let webhook = args.webhook;
    let decision = gate.judge(webhook, &review, Instant::now() + TIME).await;
    let answer = Answer::new(webhook, &review, &decision);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&answer)?),
        Output::Text => {
            for warning in &decision.warnings {
                eprintln!("Warning: {warning}");
            }
            let allowed = || format!("allowed ({})", decision.transitions);
            println!("{}", answer.message().map_or_else(allowed, str::to_owned));
            let stamps = decision.stamps.iter().filter(|_| webhook == Webhook::Mutate);
            for (key, value) in stamps {
                println!("  {key}{}", value.as_ref().map_or("-".to_owned(), |value| format!("={value}")));
            }
        }
    }
    Ok(ExitCode::from(u8::from(!decision.allowed)))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    let mut body = Vec::new();
    let most = u64::try_from(BODY_LIMIT).unwrap_or(u64::MAX);
    input.take(most + 1).read_to_end(&mut body).with_context(|| format!("cannot read {}", path.display()))?;
    if body.len() > BODY_LIMIT {
        bail!("{} is longer than 7 MiB, the most that a review may have", path.display());
    }
    Ok(body)
}

/// The cluster that kubectl would speak to, or the example where there is none.
async fn at_hand() -> anyhow::Result<Cluster> {
    if let Ok(cluster) = live().await {
        eprintln!("facts are read from the cluster of your kubeconfig; --cluster FILE reads them from a file");
        return Ok(cluster);
    }
    eprintln!("no cluster at hand: facts are those of the built-in example; --cluster FILE reads your own");
    Ok(Cluster::of(Snapshot::example()?))
}

/// The given time, else the one at which recorded facts were true, else the machine's.
fn clock(now: Option<Timestamp>, cluster: &Cluster) -> Clock {
    let recorded = match cluster {
        Cluster::File(snapshot) => snapshot.load().recorded_at(),
        Cluster::Live(_) => None,
    };
    now.or(recorded).map_or(Clock::System, Clock::at)
}

/// The webhooks by their names.
fn webhooks() -> impl TypedValueParser<Value = Webhook> {
    let named = |name: String| Webhook::ALL.into_iter().find(|webhook| webhook.name() == name);
    PossibleValuesParser::new(Webhook::ALL.map(Webhook::name))
        .try_map(move |name| named(name).context("there is no such webhook"))
}

fn time(text: &str) -> anyhow::Result<Timestamp> {
    parse_time(text).context("is not an RFC 3339 time with an offset, e.g. 2026-11-22T10:15:00Z")
}
