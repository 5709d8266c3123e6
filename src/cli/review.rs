//! `fencegate review`: decides one AdmissionReview, or the next step of a Node, with the same code
//! as the server, and prints the answer.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::{ClusterArg, has_kubeconfig, live, print, settings_of, time};
use crate::{
    admission::{
        handler::{Allowance, Call, Judge as _},
        memory::BODY_LIMIT,
        review::{self, Answer},
    },
    audit::{Audit, Recorded},
    clock::Clock,
    cluster::{Cluster, Listed, Snapshot, Wanted},
    gate::Gate,
    policy::{
        facts::Facts,
        request::User,
        review::{Content, Review, Webhook},
        standing::Step,
    },
};

/// Decide one AdmissionReview, and print the answer and the reasons.
///
/// A Node is decided about, too: what would the gate say if it were put out of service, returned to
/// service or deleted?
///
/// The exit code is 0 if the write is allowed, 1 if it is denied, and 2 if there is no answer.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate review review.json --cluster cluster.yaml
  kubectl get nodes,leases,pods,volumeattachments,pv -A -o yaml > cluster.yaml
  kubectl get node worker-2 -o yaml | fencegate review - --release
  fencegate review audit-line.json                              make a decision of the audit log again")]
pub struct Args {
    /// The AdmissionReview that the API server sends, as JSON, or one line of the audit log, or a
    /// Node as `kubectl get -o yaml` prints it; `-` is standard input
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,
    /// The file is a Node: would the gate let it be put out of service?
    #[arg(long, group = "step")]
    place: bool,
    /// The file is a Node: would the gate let it return to service?
    #[arg(long, group = "step")]
    release: bool,
    /// The file is a Node: would the gate let it be deleted?
    #[arg(long, group = "step")]
    delete: bool,
    /// Which webhook decides. Default: the one that wrote the line, mutate for a Node that is not
    /// deleted, or validate
    #[arg(long, value_name = "WEBHOOK", value_parser = webhooks())]
    webhook: Option<Webhook>,
    /// The configuration, a YAML file. Without it, the defaults apply
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where facts come from: `live`, a file with the output of `kubectl get -o yaml`, or a file
    /// with one line of the audit log. A kind that the file does not have is unknown, unless the
    /// file has an empty list of it. Default: the line that is decided again, or the cluster of the
    /// kubeconfig, or the built-in example if there is none
    #[arg(long, value_name = "live|FILE")]
    cluster: Option<ClusterArg>,
    /// Decide as of this time, RFC 3339. Default: the time of the audit line, or now
    #[arg(long, value_name = "TIME", value_parser = time)]
    now: Option<Timestamp>,
    /// What to print: the message for the user, or the answer for the API server
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// How long the API server waits for an answer: `timeoutSeconds: 5` of the webhook configurations.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The gate's namespace, as the manifests have it.
const NAMESPACE: &str = "fencegate-system";

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let body = read(&args.file)?;
    let settings = args.config.as_deref().map(settings_of).transpose()?.unwrap_or_default();
    let (question, cluster) = args.question(&body).await?;
    // Like a dry run, this decides about a write that does not happen.
    let mut review = Review { dry_run: true, ..question.review };
    let clock = clock(args.now, &cluster);
    let gate = Gate::new(cluster, settings, clock, Audit::Discard);
    let webhook = args.webhook.unwrap_or(question.webhook);
    let call = Call::new(webhook, Instant::now(), Allowance::within(TIMEOUT));
    let decision = gate.judge(&call, &mut review).await;
    let answer = Answer::new(webhook, &review, &decision);
    match args.output {
        Output::Json => print(&format!("{}\n", serde_json::to_string(&answer)?))?,
        Output::Text => {
            for warning in &decision.warnings {
                eprintln!("Warning: {warning}");
            }
            let allowed = || format!("allowed ({})", decision.transitions);
            let verdict = answer.message().map_or_else(allowed, str::to_owned);
            let stamps = decision.stamps.iter().filter(|_| webhook == Webhook::Mutate);
            let stamps = stamps.map(|(key, value)| {
                let value = value.as_ref().map_or("-".to_owned(), |value| format!("={value}"));
                format!("  {key}{value}\n")
            });
            print(&format!("{verdict}\n{}", stamps.collect::<String>()))?;
        }
    }
    Ok(ExitCode::from(u8::from(!decision.allowed)))
}

impl Args {
    /// The step of the Node in the file, if it is a Node.
    fn step(&self) -> Option<Step> {
        let steps = [(self.place, Step::Place), (self.release, Step::Release), (self.delete, Step::Delete)];
        steps.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, step)| step)
    }

    /// What is to be decided, and by the facts of which cluster.
    async fn question(&self, body: &[u8]) -> anyhow::Result<(Question, Cluster)> {
        let Some(step) = self.step() else {
            let question = Question::read(body)?;
            let cluster = match (&self.cluster, &question.facts) {
                (None, Some(facts)) => Cluster::of(Snapshot::Recorded(Box::new(facts.clone()))),
                _ => self.cluster().await?,
            };
            return Ok((question, cluster));
        };
        let (cluster, user) = match self.cluster().await? {
            Cluster::Live(live) => {
                let user = live.whoami().await.map_err(anyhow::Error::msg)?;
                (Cluster::Live(live.asking_for_itself()), user)
            }
            file @ Cluster::File(_) => (file, User::default()),
        };
        let question = Question::about(step, std::str::from_utf8(body)?, user).await;
        Ok((question.with_context(|| self.file.display().to_string())?, cluster))
    }

    async fn cluster(&self) -> anyhow::Result<Cluster> {
        match &self.cluster {
            Some(cluster) => cluster.open(Some(NAMESPACE.to_owned())).await,
            None => default_cluster().await,
        }
    }
}

/// What is to be decided: a review, a line of the audit log, or the next step of a Node.
struct Question {
    review: Review,
    webhook: Webhook,
    /// The facts in the line.
    facts: Option<Facts>,
}

impl Question {
    /// A step of the Node in this text, taken by `user`.
    async fn about(step: Step, text: &str, user: User) -> anyhow::Result<Self> {
        let nodes = Cluster::of(Snapshot::parse(text)?).nodes(&Wanted::All).await?;
        let [Listed { node, .. }] = nodes.as_slice() else { bail!("there are {} Nodes in it", nodes.len()) };
        let operation = if step == Step::Delete { "DELETE" } else { "UPDATE" };
        let review = Review {
            uid: String::new(),
            dry_run: true,
            operation: operation.to_owned(),
            subresource: String::new(),
            user: user.clone(),
            content: Content::Node(Box::new(step.request(node, &user))),
        };
        // The mutating webhook leaves a Node without the taint to the validating one.
        let webhook = if step == Step::Delete { Webhook::Validate } else { Webhook::Mutate };
        Ok(Self { review, webhook, facts: None })
    }

    /// A review, or a line of the audit log.
    fn read(body: &[u8]) -> anyhow::Result<Self> {
        /// The only field that tells a line from a review.
        #[derive(Deserialize)]
        struct Event {
            #[expect(dead_code, reason = "it only has to be there")]
            event: String,
        }
        if serde_json::from_slice::<Event>(body).is_err() {
            return Ok(Self { review: review::read(body)?, webhook: Webhook::Validate, facts: None });
        }
        let Recorded { webhook, review, facts, .. } = Recorded::parse(std::str::from_utf8(body)?)?;
        Ok(Self { review, webhook, facts: Some(facts) })
    }
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
        bail!("{} is too large: a review has at most 7 MiB", path.display());
    }
    Ok(body)
}

/// The cluster of the kubeconfig, or the built-in example if there is none. A kubeconfig that
/// cannot be used is an error: the facts of the example are not what was asked for.
async fn default_cluster() -> anyhow::Result<Cluster> {
    match live(Some(NAMESPACE.to_owned())).await {
        Ok(cluster) => {
            eprintln!("facts come from the cluster of your kubeconfig; use --cluster FILE to read them from a file");
            return Ok(cluster);
        }
        Err(error) if has_kubeconfig() => return Err(error),
        Err(_) => {}
    }
    eprintln!("there is no cluster: facts come from the built-in example; use --cluster FILE to read your own");
    Ok(Cluster::of(Snapshot::example()?))
}

/// The given time, otherwise the time of the audit line, otherwise the machine's clock.
fn clock(now: Option<Timestamp>, cluster: &Cluster) -> Clock {
    let recorded = match cluster {
        Cluster::File(snapshot) => snapshot.load().recorded_at(),
        Cluster::Live(_) => None,
    };
    now.or(recorded).map_or(Clock::System, Clock::at)
}

/// Parses the name of a webhook.
fn webhooks() -> impl TypedValueParser<Value = Webhook> {
    let named = |name: String| Webhook::ALL.into_iter().find(|webhook| webhook.name() == name);
    PossibleValuesParser::new(Webhook::ALL.map(Webhook::name))
        .try_map(move |name| named(name).context("there is no such webhook"))
}
