//! `fencegate version`: what this program is, and what runs in the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    process::ExitCode,
};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::{API_VERSION, Output, check, connect::ConnectArgs, print};
use crate::policy::text::on_one_line;

/// The commit that the program was built from, if whoever built it said so.
pub const COMMIT: Option<&str> = option_env!("FENCEGATE_COMMIT");

/// Print the version of this program and, with a cluster, what runs there.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate version
  fencegate version --client -o json")]
pub struct Args {
    /// Do not ask a cluster
    #[arg(long)]
    client: bool,
    /// What to print [default: text]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    api_version: &'static str,
    kind: &'static str,
    version: &'static str,
    commit: Option<&'static str>,
    /// The oldest compiler that the program builds with.
    rust: &'static str,
    /// The versions of Kubernetes that the gate supports.
    kubernetes: String,
    /// The version of each output that programs read.
    schemas: BTreeMap<&'static str, &'static str>,
    cluster: Option<Cluster>,
}

#[derive(Serialize)]
struct Cluster {
    kubernetes: String,
    /// The image of each pod of the gate.
    images: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let asks = !args.client && args.connect.has_kubeconfig();
    let (cluster, why) = match if asks { Some(args.cluster().await) } else { None }.transpose() {
        Ok(cluster) => (cluster, None),
        Err(why) => (None, Some(why)),
    };
    let versions = Versions {
        api_version: API_VERSION,
        kind: "Version",
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        rust: env!("CARGO_PKG_RUST_VERSION"),
        kubernetes: check::supported(),
        schemas: ["CheckList", "DecisionList", "NodeStandingList", "Version"].map(|kind| (kind, API_VERSION)).into(),
        cluster,
    };
    print(&match args.output {
        Some(Output::Json) => format!("{}\n", serde_json::to_string_pretty(&versions)?),
        None => versions.to_text(),
    })?;
    // The program's own version is told all the same.
    why.map_or(Ok(ExitCode::SUCCESS), Err)
}

impl Args {
    async fn cluster(&self) -> anyhow::Result<Cluster> {
        let connection = self.connect.open("--client asks none").await?;
        let kubernetes = connection.live.version().await.map_err(anyhow::Error::msg)?.name;
        let containers = connection.live.containers(&self.connect.gate_namespace).await.map_err(anyhow::Error::msg)?;
        Ok(Cluster { kubernetes, images: containers.into_iter().map(|container| container.image).collect() })
    }
}

impl Versions {
    fn to_text(&self) -> String {
        let commit = self.commit.map_or(String::new(), |commit| format!(" ({commit})"));
        let mut text = format!("fencegate {}{commit}, for Kubernetes {}\n", self.version, self.kubernetes);
        if let Some(Cluster { kubernetes, images }) = &self.cluster {
            let distinct: BTreeSet<&String> = images.iter().collect();
            let pods = distinct.into_iter().map(|image| {
                let pods = images.iter().filter(|one| *one == image).count();
                format!("{pods} of {}", on_one_line(image))
            });
            let pods = pods.collect::<Vec<_>>().join(", ");
            let pods = if pods.is_empty() { "no pods of the gate".to_owned() } else { format!("pods: {pods}") };
            // Nothing can fail: it is written to memory.
            let _ = writeln!(text, "cluster: Kubernetes {}, {pods}", on_one_line(kubernetes));
        }
        text
    }
}
