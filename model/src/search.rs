//! The exhaustive search, by stateright.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::{
    action::Event,
    gate::{Actor, Clocks, Gate, Way},
    rescue::{is_fenced, rescue},
    scenario::Scenario,
    world::{Attachment, Excuse, Pod, World},
    write::{Answer, Intent, read, send, take},
};

/// The cores of the machines that run this.
const THREADS: usize = 2;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Happens(Event),
    Writes(Actor, Intent, Clocks),
    Takes(Actor, Way),
    /// Somebody reads the Node and keeps the copy.
    Reads,
}

/// What a search found.
pub struct Found {
    pub states: usize,
    pub harm: Vec<Harm>,
    /// What must be possible and was not reached.
    pub unreached: Vec<&'static str>,
}

/// A harmful state and the way to it.
#[derive(Debug)]
pub struct Harm {
    pub what: &'static str,
    steps: Vec<Step>,
    last: World,
    denial: Option<String>,
}

/// How far to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All states are known.
    Complete,
    /// This harm is done, or all states are known. With one thread, which finds a shortest way.
    Harm(&'static str),
}

/// Explores the scenario.
pub fn search(gate: Gate, scenario: &Scenario, until: Until) -> Found {
    let gate = Arc::new(gate);
    let cluster = Cluster { gate: Arc::clone(&gate), scenario: scenario.clone(), found: Arc::default() };
    let (threads, until) = match until {
        Until::Complete => (THREADS, HasDiscoveries::All),
        Until::Harm(what) => (1, HasDiscoveries::AnyOf([what].into())),
    };
    let checker = cluster.checker().threads(threads).finish_when(until).spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let goals = [(PLACED, true), (RETURNED, scenario.returns)].into_iter().filter(|(_, is_expected)| *is_expected);
    let goals = goals.map(|(goal, _)| goal).chain(open(scenario).map(|(goal, _)| goal));
    let unreached = goals.filter(|goal| discoveries.remove(goal).is_none()).collect();
    let harm = discoveries.into_iter().map(|(what, path)| {
        let last = path.last_state().clone();
        let denial = if what == STUCK { rescue(&gate, &last).err() } else { None };
        Harm { what, steps: path.into_actions(), last, denial }
    });
    Found { harm: harm.collect(), states: checker.unique_state_count(), unreached }
}

/// The harm that the gate exists to prevent.
pub const TWO_WRITERS: &str = "one disk has two writers";
/// Harm that a write does by itself ([`crate::world::Broken`]).
pub const BROKEN: &str = "a write broke something at once";
const STUCK: &str = "the fence is true, and the documented order does not end";
const PLACED: &str = "a node was put out of service";
const RETURNED: &str = "a node was returned to service, and its pod runs elsewhere";
/// Whether a state is one that is looked for.
type IsMet = fn(&Cluster, &World) -> bool;
/// What the policy leaves open. It is looked for, so that the documents stay true.
const OPEN: [(Excuse, &str, IsMet); 2] = [
    (Excuse::ForcedWhileReady, "two writers, because a pod was force-deleted while its node was Ready", |_, world| {
        has_two_writers(world, Excuse::ForcedWhileReady)
    }),
    (Excuse::LiftedWithoutReboot, "two writers, because an isolation was lifted without a reboot", |_, world| {
        has_two_writers(world, Excuse::LiftedWithoutReboot)
    }),
];

/// What the policy leaves open in this scenario, and how it is told.
fn open(scenario: &Scenario) -> impl Iterator<Item = (&'static str, IsMet)> {
    OPEN.into_iter().filter(|(excuse, ..)| scenario.open.contains(excuse)).map(|(_, goal, is_met)| (goal, is_met))
}

#[derive(Clone)]
struct Cluster {
    gate: Arc<Gate>,
    scenario: Scenario,
    /// Which harm was found: stateright keeps the last way to it, and the first is the shortest.
    found: Arc<[AtomicBool; 3]>,
}

impl Cluster {
    /// False the first time that this property does not hold, and never again.
    fn once(&self, property: usize, holds: bool) -> bool {
        holds || self.found.get(property).is_some_and(|found| found.swap(true, Ordering::Relaxed))
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let Scenario { is_attachable, budget, owner, .. } = &self.scenario;
        let doors = self.scenario.has_doors();
        vec![World { owner: *owner, doors, ..World::healthy(*is_attachable, budget.clone()) }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(self.scenario.events.iter().map(|event| Step::Happens(*event)));
        if self.scenario.reads {
            steps.push(Step::Reads);
        }
        if world.left.writes > 0 {
            for (actor, intent) in &self.scenario.writes {
                steps.extend(self.scenario.clocks.iter().map(|clocks| Step::Writes(*actor, *intent, *clocks)));
            }
            steps.extend(self.scenario.ways.iter().map(|(actor, way)| Step::Takes(*actor, *way)));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let next = match step {
            Step::Happens(event) => event.happen(world),
            Step::Reads => read(world),
            Step::Writes(actor, intent, clocks) => admitted(send(&self.gate, world, actor, intent, clocks)),
            Step::Takes(actor, way) => admitted(take(&self.gate, world, actor, way)),
        };
        next.filter(|next| next != world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(TWO_WRITERS, |cluster: &Self, world: &World| {
                cluster.once(0, !(world.elsewhere && world.writes_to_disk() && world.excuse.is_none()))
            }),
            Property::always(BROKEN, |cluster: &Self, world: &World| cluster.once(1, world.broken.is_none())),
            Property::sometimes(PLACED, |_, world: &World| world.is_out_of_service()),
        ];
        if self.gate.is_there() {
            properties.push(Property::always(STUCK, |cluster: &Self, world: &World| {
                cluster.once(2, !is_fenced(world) || rescue(&cluster.gate, world).is_ok())
            }));
        }
        properties.extend(open(&self.scenario).map(|(goal, is_met)| Property::sometimes(goal, is_met)));
        if self.scenario.returns {
            properties.push(Property::sometimes(RETURNED, |_, world: &World| {
                let is_moved = world.pod == Pod::Gone && world.attachment == Attachment::Gone && world.elsewhere;
                is_moved && world.node.is_some() && !world.is_out_of_service()
            }));
        }
        properties
    }
}

fn has_two_writers(world: &World, excuse: Excuse) -> bool {
    world.elsewhere && world.writes_to_disk() && world.excuse == Some(excuse)
}

/// The world after a write that is stored.
fn admitted(answer: Option<Answer>) -> Option<World> {
    match answer? {
        Answer::Stored(mut next) => {
            next.left.writes = next.left.writes.saturating_sub(1);
            Some(*next)
        }
        Answer::Denied(_) => None,
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "  {}{}", self.what, self.last.broken.map(|what| format!(": {what}")).unwrap_or_default())?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(formatter, "  {:>3}. {step}", number + 1)?;
        }
        if let Some(denial) = &self.denial {
            writeln!(formatter, "  the last denial: {denial}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Happens(event) => write!(formatter, "{event:?}"),
            Self::Writes(actor, intent, (0, 0)) => write!(formatter, "{actor:?} writes: {intent:?}"),
            Self::Writes(actor, intent, (mutating, validating)) => {
                write!(formatter, "{actor:?} writes: {intent:?} (clocks {mutating:+} s, {validating:+} s)")
            }
            Self::Takes(actor, way) => write!(formatter, "{actor:?} takes another door: {way:?}"),
            Self::Reads => formatter.write_str("somebody reads the Node"),
        }
    }
}
