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
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{duration, has_kubeconfig, settings_of, time};
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
        standing::{Standing, facts_of, standing},
    },
};

/// The time at which the built-in example was taken.
const EXAMPLE_TAKEN: &str = "2026-11-22T10:12:00Z";
/// The ConfigMap with the gate's configuration, and its key, as the manifests have them.
const CONFIG: (&str, &str) = ("fencegate", "config.yaml");

/// Where facts come from.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Where facts come from")]
pub struct DeskArgs {
    /// The kubeconfig [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "filename")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", conflicts_with = "filename")]
    context: Option<String>,
    /// The user of the kubeconfig [default: the context's]
    #[arg(long, value_name = "NAME", conflicts_with = "filename")]
    user: Option<String>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER", conflicts_with = "filename")]
    as_user: Option<String>,
    /// Act as a member of this group; may be given several times
    #[arg(long, value_name = "GROUP", requires = "as_user")]
    as_group: Vec<String>,
    /// How long to wait for one answer of the API server
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    request_timeout: Duration,
    /// Read facts from a file with the output of `kubectl get -o yaml`, not from a cluster; `-` is
    /// standard input
    #[arg(short, long, value_name = "FILE|-")]
    filename: Option<PathBuf>,
    /// Read facts from the built-in example
    #[arg(long, conflicts_with_all = ["filename", "kubeconfig", "context", "user", "as_user"])]
    example: bool,
    /// With a file: when it was written, RFC 3339 [default: the newest renewal of a Lease in it]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "filename")]
    now: Option<Timestamp>,
    /// The gate's namespace, where its configuration is
    #[arg(long, value_name = "NAME", default_value = "fencegate-system")]
    gate_namespace: String,
    /// The gate's configuration, a YAML file [default: the one in the cluster]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where facts come from, in words and in JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Source {
    pub context: Option<String>,
    pub server: Option<String>,
    pub file: Option<String>,
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
}

/// A node, with what is known about it.
#[derive(Debug)]
pub struct Row {
    pub listed: Listed,
    pub facts: Facts,
    pub standing: Standing,
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
        Row { listed, facts, standing }
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
            cluster: Cluster::of(snapshot),
            user: User::default(),
            settings: given.clone().unwrap_or_default(),
            clock: now.map_or(Clock::System, Clock::at),
            source,
            patience: self.request_timeout,
        };
        if let Some(path) = &self.filename {
            let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
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
        let (config, context) = self.client_config().await?;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let client = Client::try_from(config).context("cannot create a client for the cluster")?;
        let live = Live::new(client).in_namespace(Some(self.gate_namespace.clone())).asking_for_itself();
        let settings = match given {
            Some(settings) => settings,
            None => configured(&live).await,
        };
        let cluster = Cluster::Live(live);
        let user = cluster.whoami().await.map_err(anyhow::Error::msg).with_context(|| server.clone())?;
        let name = context.as_deref().unwrap_or("of the pod");
        eprintln!("context {name}, {server}, as {}", user.name);
        let source = Source { context, server: Some(server), file: None };
        Ok(Desk { cluster, user, settings, clock: Clock::System, source, patience: self.request_timeout })
    }

    /// How to reach the cluster, and the name of the context.
    async fn client_config(&self) -> anyhow::Result<(Config, Option<String>)> {
        let options = KubeConfigOptions { context: self.context.clone(), cluster: None, user: self.user.clone() };
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Some(Kubeconfig::read_from(path).with_context(|| path.display().to_string())?),
            None if has_kubeconfig() => Some(Kubeconfig::read().context("cannot read the kubeconfig")?),
            None => None,
        };
        let (mut config, context) = if let Some(kubeconfig) = kubeconfig {
            let context = self.context.clone().or_else(|| kubeconfig.current_context.clone());
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            (config.context("cannot use the kubeconfig")?, context)
        } else if let Ok(config) = Config::incluster() {
            (config, None)
        } else {
            bail!(
                "no cluster: there is neither a kubeconfig nor a service account; -f FILE reads a dump, --example \
                 the built-in example"
            );
        };
        if self.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&self.as_user);
            config.auth_info.impersonate_groups = Some(self.as_group.clone());
        }
        config.connect_timeout = Some(self.request_timeout);
        config.read_timeout = Some(self.request_timeout);
        Ok((config, context))
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
