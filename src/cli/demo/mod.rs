//! `fencegate demo`: an outage from the dead machine to its return, on the built-in example
//! cluster.
//!
//! Every step is a write. The demo sends its AdmissionReviews as an API server does: over TLS to
//! the real server on a loopback port, first to the mutating webhook, then with its patch to the
//! validating webhook. Only the cluster and the clock are simulated. If a step does not end as
//! expected, the demo fails.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use json_patch::Patch;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{desk::Desk, status};

use self::{
    client::{Caller, Response},
    story::{Does, Step},
};
use crate::{
    audit::Audit,
    certificates::issue::Development,
    clock::Clock,
    cluster::{Cluster, Snapshot},
    config::Additions,
    policy::review::Webhook,
    reload,
    server::{Certificates, IN_FLIGHT, Options, Server},
    tls::{accept::Limits, clients::Clients},
};

mod client;
mod story;

/// Show an outage on the built-in example cluster, from the dead machine to its return.
///
/// The commands are simulated, but the real server decides about them, over TLS.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:
  fencegate demo")]
pub struct Args {
    /// Print the line of the audit log for each decision, too
    #[arg(long)]
    audit: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Stage { server, mut caller, cluster, clock, mut audit } = Stage::start().await?;
    // It takes the colours out where nobody wants them.
    let mut out = anstream::stdout().lock();
    writeln!(out, "A database runs on worker-2. At 10:10:00 the machine loses power, without a clean shutdown.\n")?;
    let mut failed = None;
    let (stop, stopped) = oneshot::channel::<()>();
    let run_steps = async {
        let mut stored = story::worker();
        for (number, step) in story::steps().iter().enumerate() {
            let at: Timestamp = format!("2026-11-22T{}Z", step.time).parse()?;
            clock.store(Arc::new(at));
            cluster.store(Arc::new(if step.bound { Snapshot::example()? } else { Snapshot::parse(NOTHING_BOUND)? }));
            if let Some((_, change)) = &step.meanwhile {
                change(&mut stored);
            }
            let answer = admit(&mut caller, step, number, &mut stored).await?;
            print_step(&mut out, step, &answer)?;
            if step.shows_status {
                let desk = Desk::of(Cluster::File(Arc::clone(&cluster)), Clock::Set(Arc::clone(&clock)));
                let row = desk.look(serde_json::from_value(stored.clone())?).await;
                let command = bold("kubectl fencegate status");
                writeln!(out, "{} {} {command}", dim(step.time), dim("$"))?;
                writeln!(out, "{}", status::table(&[row], false, true))?;
            }
            while let Ok(line) = audit.try_recv() {
                if args.audit {
                    writeln!(out, "  {}", dim(&line))?;
                }
            }
            if answer.allowed != step.done.is_some() {
                failed = Some(step.command);
                break;
            }
        }
        drop(caller);
        let _ = stop.send(());
        anyhow::Ok(stored)
    };
    let (result, ()) = tokio::join!(run_steps, server.run(async { drop(stopped.await) }));
    let stored = result?;
    if let Some(command) = failed {
        bail!("the demo did not go as expected at: {command}");
    }
    let outage = stored.pointer("/metadata/annotations/fencegate.dev~1last-outage").and_then(Value::as_str);
    let outage = outage.context("the Node has no annotation last-outage")?;
    let read = "kubectl get node worker-2 -o jsonpath='{.metadata.annotations.fencegate\\.dev/last-outage}'";
    writeln!(out, "{} {} {}\n{outage}\n", dim("10:40:10"), dim("$"), bold(read))?;
    writeln!(
        out,
        "The database never had two writers. The audit log has one JSON line for each decision: see --audit."
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The cluster when the database runs on another node.
const NOTHING_BOUND: &str = "{kind: PodList, items: []}\n---\n{kind: VolumeAttachmentList, items: []}\n";

/// Does what the API server does with a write: it calls the mutating webhook, applies the patch,
/// calls the validating webhook, and stores the object. For a deletion, it calls the validating
/// webhook only.
async fn admit(caller: &mut Caller, step: &Step, number: usize, stored: &mut Value) -> anyhow::Result<Response> {
    let mut new = stored.clone();
    let operation = match &step.does {
        Does::Update(change) => {
            change(&mut new);
            "UPDATE"
        }
        Does::Delete => {
            new = Value::Null;
            "DELETE"
        }
    };
    let review = |webhook: Webhook, new: &Value| {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": format!("3b8f0c52-4a7e-4c0d-9d0b-{:04}{number:08}", webhook as u8),
                "kind": {"group": "", "version": "v1", "kind": "Node"},
                "resource": {"group": "", "version": "v1", "resource": "nodes"},
                "name": "worker-2",
                "operation": operation,
                "userInfo": {"username": step.user, "groups": ["system:authenticated"]},
                "object": new,
                "oldObject": stored,
                "dryRun": false,
            },
        })
    };
    if !new.is_null() {
        let answer = caller.post(Webhook::Mutate, &review(Webhook::Mutate, &new)).await?;
        if !answer.allowed {
            return Ok(answer);
        }
        if let Some(patch) = &answer.patch {
            let patch: Patch = serde_json::from_slice(&BASE64.decode(patch)?)?;
            json_patch::patch(&mut new, &patch)?;
        }
    }
    let answer = caller.post(Webhook::Validate, &review(Webhook::Validate, &new)).await?;
    if answer.allowed {
        *stored = new;
    }
    Ok(answer)
}

/// The server, and the parts that the demo controls.
struct Stage {
    server: Server,
    caller: Caller,
    cluster: Arc<ArcSwap<Snapshot>>,
    clock: Arc<ArcSwap<Timestamp>>,
    audit: mpsc::UnboundedReceiver<String>,
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let certificates = Development::make(&["localhost".to_owned()], 1, Timestamp::now())?;
        let folder = tempfile::tempdir().context("cannot create a directory for the certificates")?;
        let file = |name: &str, content: &str| -> anyhow::Result<_> {
            let path = folder.path().join(name);
            std::fs::write(&path, content)?;
            Ok(path)
        };
        let cluster = Arc::new(ArcSwap::from_pointee(Snapshot::example()?));
        let clock = Arc::new(ArcSwap::from_pointee(Timestamp::UNIX_EPOCH));
        let (sender, audit) = mpsc::unbounded_channel();
        let server = Server::bind(Options {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            telemetry_listen: None,
            certificates: Certificates::Files {
                certificate: file("tls.crt", &certificates.certificate)?,
                key: file("tls.key", &certificates.key)?,
                clients: Clients::default(),
                path_secret: None,
            },
            config: None,
            cluster: Cluster::File(Arc::clone(&cluster)),
            clock: Clock::Set(Arc::clone(&clock)),
            audit: Audit::Channel(sender),
            limits: Limits::default(),
            in_flight: IN_FLIGHT,
            drain: Duration::ZERO,
            // The files do not change. They are deleted when this function returns, and a reload
            // would fail: an hour is longer than the demo.
            reload_interval: reload::INTERVAL * 720,
            additions: Additions::default(),
            upkeep: None,
        })
        .await?;
        let caller = Caller::new(server.address()?, &certificates.ca)?;
        Ok(Self { server, caller, cluster, clock, audit })
    }
}

/// Prints a step as its user sees it.
fn print_step(out: &mut impl std::io::Write, step: &Step, answer: &Response) -> std::io::Result<()> {
    if let Some((meanwhile, _)) = &step.meanwhile {
        writeln!(out, "{meanwhile}\n")?;
    }
    writeln!(out, "{} {} {}", dim(step.time), dim("$"), bold(step.command))?;
    if let Some(instead) = step.instead {
        writeln!(out, "      {} {}", dim("or $"), bold(instead))?;
    }
    for warning in &answer.warnings {
        writeln!(out, "{} {warning}", yellow("Warning:"))?;
    }
    if let Some(status) = &answer.status {
        let who =
            "Error from server (Forbidden): admission webhook \"out-of-service.fencegate.dev\" denied the request:";
        writeln!(out, "{} {}\n", red(who), status.message)
    } else {
        writeln!(out, "{}\n", green(step.done.unwrap_or("admitted")))
    }
}

fn styled(code: &str, text: &str) -> String {
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

fn bold(text: &str) -> String {
    styled("1", text)
}

fn dim(text: &str) -> String {
    styled("2", text)
}

fn red(text: &str) -> String {
    styled("31", text)
}

fn green(text: &str) -> String {
    styled("32", text)
}

fn yellow(text: &str) -> String {
    styled("33", text)
}
