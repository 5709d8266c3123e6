//! A model of a cluster around the gate, and a search for harm in it.
//!
//! The gate in the model is the program's own policy. Around it are the machine, the API server's
//! objects, Kubernetes' controllers with late caches, and people who are right, wrong or careless.
//! Every order of events within the bounds is explored. The search also runs without the gate, and
//! with each check taken out: then it must find the harm that the check prevents, or this file says
//! why the check prevents none.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use fencegate::policy::reason::Code;

mod action;
mod gate;
mod rescue;
mod scenario;
mod search;
mod shown;
mod world;
mod write;

use gate::Gate;
use scenario::{Scenario, Size, scenarios};
use search::{BROKEN, TWO_WRITERS, Until, search};

/// Explores all orders of events around the gate and looks for lost data.
#[derive(Parser)]
#[command(after_help = "Exit codes: 0 the gate holds and every check is needed or explained, 1 it does not.")]
struct Arguments {
    /// How much may happen.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Only search with this check taken out.
    #[arg(long)]
    without: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let all = scenarios(arguments.size);
    let holds = match (&arguments.scenario, &arguments.without) {
        (None, None) => the_gate_holds(&all) & everything_is_needed(&all),
        (Some(name), None) => match all.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => the_gate_holds(std::slice::from_ref(scenario)),
            None => return unknown("scenario", name, all.iter().map(|scenario| scenario.name)),
        },
        (_, Some(name)) => match Code::ALL.iter().find(|code| code.name() == name) {
            Some(code) => is_needed(*code, &all),
            None => return unknown("check", name, Code::ALL.iter().map(|code| code.name())),
        },
    };
    println!("{}, after {} s", if holds { "ok" } else { "FAILED" }, start.elapsed().as_secs());
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> ExitCode {
    eprintln!("error: there is no {what} {name:?}; there are: {}", known.collect::<Vec<_>>().join(", "));
    ExitCode::from(2)
}

/// With the gate, no scenario has a harmful state, and each has a state in which the node was put
/// out of service, and one in which it was returned.
fn the_gate_holds(scenarios: &[Scenario]) -> bool {
    let mut total = 0;
    let mut holds = true;
    for scenario in scenarios {
        let start = Instant::now();
        let found = search(Gate::new(None, scenario.has_doors()), scenario, Until::Complete);
        total += found.states;
        let verdict = if found.harm.is_empty() { "no harm" } else { "HARM" };
        let (name, states, seconds) = (scenario.name, found.states, start.elapsed().as_secs());
        println!("{name:<15} {states:>9} states {seconds:>4} s  {verdict}: {}", scenario.about);
        found.harm.iter().for_each(|harm| println!("{harm}"));
        if found.harm.is_empty() && !found.unreached.is_empty() {
            println!("  never reached: {}", found.unreached.join(", "));
        }
        holds &= found.harm.is_empty() && found.unreached.is_empty();
    }
    println!("{:<15} {total:>9} states", "all");
    holds
}

/// Without the gate, and without each check, there is harm; or it is known why not.
fn everything_is_needed(scenarios: &[Scenario]) -> bool {
    let without_gate = does_harm("the gate", TWO_WRITERS, "people", scenarios, |_| Gate::absent());
    Code::ALL.iter().fold(without_gate, |holds, code| holds & is_needed(*code, scenarios))
}

/// What a check is for.
enum Purpose {
    /// Without it, this harm is done in this scenario.
    Prevents(&'static str, &'static str),
    /// Nothing is lost in the model without it, for this reason.
    Beside(&'static str),
}

fn is_needed(code: Code, scenarios: &[Scenario]) -> bool {
    match purpose(code) {
        Purpose::Prevents(what, scenario) => {
            does_harm(code.name(), what, scenario, scenarios, |doors| Gate::new(Some(code), doors))
        }
        Purpose::Beside(why) => {
            println!("without {code}: no harm in the model, because {why}");
            true
        }
    }
}

/// Looks for this harm and prints it.
fn does_harm(
    without: &str,
    what: &'static str,
    name: &str,
    scenarios: &[Scenario],
    gate: impl Fn(bool) -> Gate,
) -> bool {
    let mut found = scenarios.iter().filter(|scenario| scenario.name == name).flat_map(|scenario| {
        search(gate(scenario.has_doors()), scenario, Until::Harm(what))
            .harm
            .into_iter()
            .filter(|harm| harm.what == what)
    });
    let first = found.next();
    match &first {
        Some(harm) => println!("without {without} ({name}):\n{harm}"),
        None => println!("without {without} ({name}): NO HARM FOUND, so what is it for?"),
    }
    first.is_some()
}

fn purpose(code: Code) -> Purpose {
    use Purpose::{Beside, Prevents};
    match code {
        Code::NodeStillReady | Code::LeaseStillRenewed | Code::EvidenceMissing => Prevents(TWO_WRITERS, "people"),
        Code::EvidenceExpired | Code::NodeNotRebooted => Prevents(TWO_WRITERS, "isolation"),
        Code::EvidenceInFuture => Prevents(TWO_WRITERS, "clocks"),
        Code::UnfencedDeletion | Code::UnfencedForceDeletion => Prevents(TWO_WRITERS, "doors"),
        Code::UnfencedDetach => Prevents(TWO_WRITERS, "deployment"),
        Code::SelfAttested => Prevents(TWO_WRITERS, "own-word"),
        Code::PodsRemain => Prevents(BROKEN, "file-system"),
        Code::VolumesAttached => Prevents(BROKEN, "people"),
        Code::EvidenceFrozen => Prevents(BROKEN, "isolation"),
        Code::StampForged => Prevents(BROKEN, "break-glass"),
        Code::CreatedOutOfService => Beside("LeaseStillRenewed knows nothing of a Node that does not exist yet"),
        Code::EvidenceMalformed => Beside("what cannot be read vouches for nothing; it only tells so at once"),
        Code::EvidenceForOtherBoot => {
            Beside("another boot shows in a renewal or a report; it counts where managed fields were cut off")
        }
        Code::EffectUndocumented => {
            Beside("the controllers act on any effect; nothing is evicted, and the taint stays")
        }
        Code::PlacedWithoutEviction | Code::NodeNotRecovered | Code::BootUnchanged => Beside("it only warns"),
        Code::NotAuthorized | Code::TooManyOutOfService | Code::TooManyNotReady => Beside("it is off by default"),
        Code::FactsUnavailable | Code::ReviewMalformed | Code::RecordUnavailable => {
            Beside("it is no row of the table: all facts of the model can be read")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_of_events_around_the_gate_does_harm() {
        assert!(the_gate_holds(&scenarios(Size::Small)));
    }

    #[test]
    fn without_the_gate_and_without_each_check_there_is_harm_or_it_is_known_why_not() {
        assert!(everything_is_needed(&scenarios(Size::Small)));
    }
}
