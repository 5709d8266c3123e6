//! What the commands about nodes share: where facts come from, and who asks. The options are
//! kubectl's own.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    connect::{ConnectArgs, Connection, Source},
    name_of, settings_of, time,
};
use crate::{
    clock::Clock,
    cluster::{Cluster, Listed, Live, Snapshot, Wanted},
    config,
    policy::{
        Decision, decide,
        facts::{FactQuery, Facts},
        facts_needed,
        request::{Request, User},
        review::Webhook,
        settings::Settings,
        source::Source as EvidenceSource,
        standing::{Standing, State, facts_of, standing},
    },
    telemetry::Log,
};

/// The time at which the built-in example was taken.
const EXAMPLE_TAKEN: &str = "2026-11-22T10:12:00Z";
/// The ConfigMap with the gate's configuration, and its key, as the manifests have them.
const CONFIG: (&str, &str) = ("fencegate", "config.yaml");

/// Where facts come from.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Where facts come from")]
pub struct DeskArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Read facts from a file with the output of `kubectl get -o yaml`, not from a cluster; `-` is
    /// standard input
    #[arg(short, long, value_name = "FILE|-", conflicts_with_all = ["kubeconfig", "context", "user", "as_user"])]
    filename: Option<PathBuf>,
    /// Read facts from the built-in example
    #[arg(long, conflicts_with_all = ["filename", "kubeconfig", "context", "user", "as_user"])]
    example: bool,
    /// With a file: when it was written, RFC 3339 [default: the newest renewal of a Lease in it]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "filename")]
    now: Option<Timestamp>,
    /// The gate's configuration, a YAML file [default: the one in the cluster]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Everything that a command about nodes needs.
pub struct Desk {
    pub cluster: Cluster,
    pub user: User,
    pub settings: Settings,
    pub clock: Clock,
    pub source: Source,
    /// How long to wait for one answer.
    pub patience: Duration,
    /// Writes what is logged when it is dropped.
    #[expect(dead_code, reason = "it is only held")]
    log: Option<Log>,
}

/// A node, with what is known about it.
#[derive(Debug)]
pub struct Row {
    pub listed: Listed,
    pub facts: Facts,
    pub standing: Standing,
    /// For a node that is stuck: since when the controllers that would empty it have been silent.
    pub controllers_silent_since: Option<Timestamp>,
}

impl Row {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.listed.node.metadata.name
    }

    /// Since when the node is out of service: by the record, otherwise by the taint itself.
    pub fn out_since(&self) -> Option<Timestamp> {
        self.standing.out_since.or_else(|| self.listed.about.times_added().flatten().min())
    }

    /// The time of day at which it was read.
    pub fn time(&self) -> String {
        self.facts.now.strftime("%T").to_string()
    }
}

impl Desk {
    /// A desk with the facts of this cluster, for nobody in particular.
    pub fn of(cluster: Cluster, clock: Clock) -> Self {
        Self {
            cluster,
            user: User::default(),
            settings: Settings::default(),
            clock,
            source: Source::default(),
            patience: Duration::from_secs(10),
            log: None,
        }
    }

    /// The API server, if facts do not come from a file.
    pub fn live(&self) -> Option<&Live> {
        match &self.cluster {
            Cluster::Live(live) => Some(live),
            Cluster::File(_) => None,
        }
    }

    /// Reads where a node stands.
    pub async fn look(&self, listed: Listed) -> Row {
        let (request, query) = facts_of(&listed.node, &self.user, &self.settings);
        let facts = self.facts(&request, &query).await;
        let standing = standing(&listed.node, &self.user, &facts, &self.settings);
        let controllers_silent_since = match self.live() {
            Some(live) if standing.state == State::Stuck => live.controllers_silent_since().await,
            _ => None,
        };
        Row { listed, facts, standing, controllers_silent_since }
    }

    /// Reads a node of this name.
    ///
    /// # Errors
    /// If it cannot be read, or does not exist.
    pub async fn node(&self, name: &str) -> anyhow::Result<Row> {
        let listed = self.cluster.nodes(&Wanted::Names(vec![name.to_owned()])).await?;
        let listed = listed.into_iter().next().context("the API server answered with no Node")?;
        Ok(self.look(listed).await)
    }

    /// What the gate would say to this request.
    pub async fn judge(&self, request: &Request) -> Decision {
        self.judge_by(request, &self.settings).await
    }

    /// What the gate would say to this request if no check were turned down.
    pub async fn judge_strictly(&self, request: &Request) -> Decision {
        self.judge_by(request, &self.settings.strict()).await
    }

    async fn judge_by(&self, request: &Request, settings: &Settings) -> Decision {
        let facts = self.facts(request, &facts_needed(request, settings)).await;
        decide(Webhook::Mutate, request, &facts, settings)
    }

    async fn facts(&self, request: &Request, query: &FactQuery) -> Facts {
        let deadline = Instant::now() + self.patience;
        self.cluster.read(request, query, &self.clock, deadline).await.facts
    }
}

impl DeskArgs {
    /// Opens the file, or a client for the cluster, and says on standard error which it is.
    ///
    /// # Errors
    /// If the file, the kubeconfig or the configuration cannot be read, or if the cluster does not
    /// answer.
    pub async fn open(&self) -> anyhow::Result<Desk> {
        let given = self.config.as_deref().map(settings_of).transpose()?;
        let from_file = |snapshot, now: Option<Timestamp>, source| Desk {
            settings: given.clone().unwrap_or_default(),
            source,
            ..Desk::of(Cluster::of(snapshot), now.map_or(Clock::System, Clock::at))
        };
        if let Some(path) = &self.filename {
            let name = name_of(path);
            let snapshot = Snapshot::parse(&read(path)?).with_context(|| name.clone())?;
            let now = self.now.or_else(|| snapshot.newest_renewal());
            match now.filter(|_| self.now.is_none()) {
                Some(now) => eprintln!("facts come from {name}, as of {now:.0}, the newest renewal in it: see --now"),
                None => eprintln!("facts come from {name}"),
            }
            return Ok(from_file(snapshot, now, Source { file: Some(name), ..Source::default() }));
        }
        if self.example {
            eprintln!("facts come from the built-in example");
            let source = Source { file: Some("the built-in example".to_owned()), ..Source::default() };
            return Ok(from_file(Snapshot::example()?, Some(EXAMPLE_TAKEN.parse()?), source));
        }
        let connected = self.connect.open("-f FILE reads a dump, --example the built-in example").await?;
        let Connection { live, user, source, log } = connected;
        let settings = match given {
            Some(settings) => settings,
            None => configured(&live).await.with_sources(&given_to_replicas(&live, &self.connect.gate_namespace).await),
        };
        let patience = self.connect.request_timeout;
        Ok(Desk { cluster: Cluster::Live(live), user, settings, clock: Clock::System, source, patience, log })
    }
}

/// The configuration in the cluster. Without the right to read it, or without a gate, the defaults:
/// the gate judges by its own in any case.
async fn configured(live: &Live) -> Settings {
    let (name, key) = CONFIG;
    let found = live.config_map(name, key).await.and_then(|text| {
        let parsed = text.map(|text| config::parse(text.as_bytes())).transpose();
        parsed.map_err(|error| error.to_string())
    });
    match found {
        Ok(Some(settings)) => settings,
        Ok(None) => Settings::default(),
        Err(why) => {
            eprintln!("the gate's configuration could not be read, its defaults are assumed: {why}");
            Settings::default()
        }
    }
}

/// The sources that the replicas have from their arguments, as the kustomize components write them.
async fn given_to_replicas(live: &Live, namespace: &str) -> Vec<EvidenceSource> {
    match live.containers(namespace).await {
        Ok(containers) => {
            containers.iter().flat_map(|container| &container.args).flat_map(|arg| in_argument(arg)).collect()
        }
        Err(why) => {
            eprintln!("the arguments of the gate's pods could not be read, none is assumed: {why}");
            Vec::new()
        }
    }
}

/// The sources in one argument.
fn in_argument(argument: &str) -> Vec<EvidenceSource> {
    let names = argument.strip_prefix("--source=").into_iter().flat_map(|names| names.split(','));
    names.filter_map(EvidenceSource::parse).collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if text.trim().is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_read_from_the_arguments_of_a_replica() {
        let given = ["serve", "--source=pacemaker,network-fence", "--source=other", "--sources=annotations"];
        let found: Vec<_> = given.iter().flat_map(|argument| in_argument(argument)).collect();
        assert_eq!(found, [EvidenceSource::Pacemaker, EvidenceSource::NetworkFence]);
        let of_both = Settings::default().with_sources(&[EvidenceSource::CloudShutdown, EvidenceSource::Pacemaker]);
        let names: Vec<_> = of_both.sources.iter().map(|source| source.name()).collect();
        assert_eq!(names, ["annotations", "cloud-shutdown", "pacemaker"]);
    }
}
