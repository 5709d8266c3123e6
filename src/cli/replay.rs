//! `fencegate replay`: makes every decision of an audit log again.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args as ClapArgs;
use tokio::time::Instant;

use super::{log, print, settings_of};
use crate::{
    admission::handler::{Allowance, Call, Judge as _},
    audit::{Audit, Outcome, Recorded},
    clock::Clock,
    cluster::{Cluster, Snapshot},
    gate::Gate,
    policy::{
        review::Review,
        settings::Settings,
        text::{Foreign, on_one_line},
    },
};

/// Make every decision of an audit log again, and show where this version decides otherwise.
///
/// A line has everything that its decision was made of, except the configuration. Before an
/// upgrade, or with another configuration, this shows what would change.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate replay -f audit.log
  fencegate replay -f audit.log --config stricter.yaml
  kubectl logs -n fencegate-system -l app.kubernetes.io/name=fencegate --tail=-1 | fencegate replay -f -

Exit codes: 0 all decisions are the same; 1 some are not; 2 a decision could not be made again, or there is none.")]
pub struct Args {
    /// The audit log; `-` is standard input
    #[arg(short, long, value_name = "LOG|-")]
    filename: PathBuf,
    /// The configuration, a YAML file. Without it, the defaults apply
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.config.as_deref().map(settings_of).transpose()?.unwrap_or_default();
    let (mut same, mut different, mut unreadable) = (0_usize, 0_usize, 0_usize);
    for line in log::lines(&args.filename)? {
        let line = line?;
        if !line.is_decision() {
            continue;
        }
        let recorded = match Recorded::parse(&line.text) {
            Ok(recorded) => recorded,
            Err(why) => {
                eprintln!("line {}: {}", line.number, on_one_line(&why.to_string()));
                unreadable += 1;
                continue;
            }
        };
        let then = recorded.outcome.clone();
        let about = about(&recorded.review, recorded.webhook.name());
        let now = again(recorded, &settings).await;
        if now == then {
            same += 1;
        } else {
            different += 1;
            let then = then.to_string();
            print(&format!("line {}: {about}\n  then: {}\n  now:  {now}\n", line.number, on_one_line(&then)))?;
        }
    }
    if same + different + unreadable == 0 {
        bail!("{}: there is no decision in it", args.filename.display());
    }
    eprintln!("{} decisions: {same} are the same, {different} are not", same + different);
    if unreadable > 0 {
        eprintln!("{unreadable} could not be made again");
        return Ok(ExitCode::from(super::ERROR));
    }
    Ok(ExitCode::from(u8::from(different > 0)))
}

/// Decides by the facts of the line alone.
async fn again(recorded: Recorded, settings: &Settings) -> Outcome {
    /// The facts are there: nothing is waited for.
    const AT_ONCE: Duration = Duration::from_secs(5);

    let Recorded { webhook, review, facts, .. } = recorded;
    let clock = Clock::at(facts.now);
    let cluster = Cluster::of(Snapshot::Recorded(Box::new(facts)));
    let gate = Gate::new(cluster, settings.clone(), clock, Audit::Discard);
    let call = Call::new(webhook, Instant::now(), Allowance::within(AT_ONCE));
    // The Lease of the budget is in the facts, and is not written again.
    let mut review = Review { dry_run: true, ..review };
    Outcome::of(&gate.judge(&call, &mut review).await)
}

/// Which write it was.
fn about(review: &Review, webhook: &str) -> String {
    let node = review.request().map_or("", |request| &request.node);
    let (user, operation) = (Foreign::from(review.user.name.as_str()), on_one_line(&review.operation));
    format!("{operation} of {} by {user}, {webhook}", Foreign::from(node))
}
