//! How a command reaches the API server, and as whom. The options are kubectl's own.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;

use super::{duration, has_kubeconfig};
use crate::{
    cluster::Live,
    policy::request::User,
    telemetry::{Log, LogFormat},
};

/// Which API server, and as whom.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Where facts come from")]
pub struct ConnectArgs {
    /// The kubeconfig [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The user of the kubeconfig [default: the context's]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER")]
    as_user: Option<String>,
    /// Act as a member of this group; may be given several times
    #[arg(long, value_name = "GROUP", requires = "as_user")]
    as_group: Vec<String>,
    /// How long to wait for one answer of the API server; a number without a unit is in seconds
    #[arg(long, value_name = "TIME", value_parser = request_timeout, default_value = "10s")]
    pub request_timeout: Duration,
    /// The gate's namespace, where its configuration is
    #[arg(long, value_name = "NAME", default_value = "fencegate-system")]
    pub gate_namespace: String,
    /// Log each request to the API server on standard error
    #[arg(short, long)]
    verbose: bool,
}

/// Where facts come from, in words and in JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Source {
    pub context: Option<String>,
    pub server: Option<String>,
    pub file: Option<String>,
}

/// Parses a length of time as kubectl does: a number without a unit is in seconds. `0`, which means
/// forever there, is an error: every wait has a limit.
fn request_timeout(text: &str) -> anyhow::Result<Duration> {
    let timeout = text.parse().map(Duration::from_secs).or_else(|_| duration(text))?;
    if timeout.is_zero() {
        bail!("every wait has a limit: for example 30s")
    }
    Ok(timeout)
}

/// An API server that answers, and who asks it.
pub struct Connection {
    pub live: Live,
    pub user: User,
    pub source: Source,
    /// Writes what is logged when it is dropped.
    pub log: Option<Log>,
}

impl ConnectArgs {
    /// Connects, and says on standard error where to and as whom. `otherwise` says what to do
    /// without a cluster.
    ///
    /// # Errors
    /// If the kubeconfig cannot be used, or if the API server does not answer.
    pub async fn open(&self, otherwise: &str) -> anyhow::Result<Connection> {
        let log = self.verbose.then(|| Log::start(LogFormat::Text, Some("info,kube_client=debug,fencegate=debug")));
        let (config, context) = self.client_config(otherwise).await?;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let client = Client::try_from(config).context("cannot create a client for the cluster")?;
        let live = Live::new(client).in_namespace(Some(self.gate_namespace.clone())).asking_for_itself();
        let user = live.whoami().await.map_err(anyhow::Error::msg).with_context(|| server.clone())?;
        let name = context.as_deref().unwrap_or("of the pod");
        eprintln!("context {name}, {server}, as {}", user.name);
        Ok(Connection { live, user, source: Source { context, server: Some(server), file: None }, log })
    }

    /// The options among these words, and the defaults otherwise.
    pub fn of(words: &[String]) -> Self {
        let value = |option: &str| {
            let joined = words.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='));
            let next = words.iter().zip(words.iter().skip(1)).find(|(word, _)| *word == option);
            joined.or(next.map(|(_, value)| value.as_str())).map(str::to_owned)
        };
        Self {
            kubeconfig: value("--kubeconfig").map(PathBuf::from),
            context: value("--context"),
            user: value("--user"),
            as_user: value("--as"),
            as_group: Vec::new(),
            request_timeout: Duration::from_secs(3),
            gate_namespace: String::new(),
            verbose: false,
        }
    }

    /// Whether there is a kubeconfig: one that was named, or the usual one.
    pub fn has_kubeconfig(&self) -> bool {
        self.kubeconfig.is_some() || has_kubeconfig()
    }

    /// A connection of which nothing is said. `None` if there is no cluster.
    pub async fn quietly(&self) -> Option<Live> {
        let (config, _) = self.client_config("").await.ok()?;
        Some(Live::new(Client::try_from(config).ok()?))
    }

    /// How to reach the cluster, and the name of the context.
    async fn client_config(&self, otherwise: &str) -> anyhow::Result<(Config, Option<String>)> {
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
            bail!("no cluster: there is neither a kubeconfig nor a service account; {otherwise}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_without_a_unit_is_in_seconds_and_none_is_endless() {
        assert_eq!(request_timeout("30").unwrap(), Duration::from_secs(30));
        assert_eq!(request_timeout("1m").unwrap(), Duration::from_mins(1));
        for endless in ["0", "0s", "-1", "soon"] {
            assert!(request_timeout(endless).is_err(), "{endless}");
        }
    }

    #[test]
    fn the_options_of_a_command_line_that_is_not_complete_are_found() {
        let words = ["place", "--context", "prod", "--kubeconfig=a b", "--as"].map(str::to_owned);
        let found = ConnectArgs::of(&words);
        assert_eq!((found.context.as_deref(), found.kubeconfig), (Some("prod"), Some("a b".into())));
        assert_eq!((found.user, found.as_user), (None, None));
    }
}
