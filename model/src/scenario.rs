//! Who and what takes part: each scenario is a small world that is explored completely. A single
//! world with everything in it would be too large.
#![allow(clippy::enum_glob_use, reason = "the table below is read as sentences")]

use fencegate::policy::evidence::Method::{PowerOff, StorageIsolation};

use crate::{
    action::Event::{self, *},
    gate::{
        Actor::{self, *},
        Clocks,
        Way::{self, *},
    },
    world::{Budget, Effect::*, Excuse, Owner},
    write::{
        Intent::{self, *},
        When,
    },
};

/// A part of what can happen.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pub events: Vec<Event>,
    pub writes: Vec<(Actor, Intent)>,
    /// The other doors that are taken, beside the deletion of the Node. If there are any, they are
    /// guarded.
    pub ways: Vec<(Actor, Way)>,
    pub owner: Owner,
    /// What the policy leaves open, and must be found.
    pub open: Vec<Excuse>,
    /// Of the replicas that answer.
    pub clocks: Vec<Clocks>,
    /// Whether somebody keeps a copy of the Node.
    pub reads: bool,
    /// Whether the disk is attached by a controller.
    pub is_attachable: bool,
    /// Whether the taint can come off again with what takes part.
    pub returns: bool,
    pub budget: Budget,
}

impl Scenario {
    pub fn has_doors(&self) -> bool {
        !self.ways.is_empty()
    }
}

/// What happens in every scenario, beside the steps of the controllers.
const ALWAYS: [Event; 5] = [Tick, KubeletReports, KubeletStopsPod, NetworkCut, NetworkBack];

#[expect(clippy::too_many_lines, reason = "it is a table")]
/// All scenarios. `ticks`, `faults` and `writes` bound each of them.
pub fn scenarios(size: Size) -> Vec<Scenario> {
    let scenario = |name, about, events: &[Event], writes: &[(Actor, Intent)]| Scenario {
        name,
        about,
        events: ALWAYS.iter().chain(&Event::CONTROLLERS).chain(events).copied().collect(),
        writes: writes.to_vec(),
        ways: Vec::new(),
        owner: Owner::StatefulSet,
        open: Vec::new(),
        clocks: vec![(0, 0)],
        reads: false,
        is_attachable: true,
        returns: writes.iter().any(|(_, intent)| *intent == Release),
        budget: size.budget(),
    };
    vec![
        scenario(
            "people",
            "one person is right about the machine, and one is wrong",
            &[Event::PowerOff, PowerOn, RuntimeFails, KubeletRecovers],
            &[
                (Alice, Attest(PowerOff, When::Now)),
                (Alice, Place(NoExecute)),
                (Alice, Place(PreferNoSchedule)),
                (Alice, AttestAndPlace(PowerOff)),
                (Alice, Release),
                (Alice, Withdraw),
                (Alice, AttestNonsense),
            ],
        ),
        Scenario {
            budget: Budget { days: 1, ..size.budget() },
            ..scenario(
                "isolation",
                "the storage refuses the machine, which runs on",
                &[Day, Isolate, Unisolate, LiftEarly, Event::PowerOff, PowerOn],
                &[
                    (Alice, AttestAndPlace(StorageIsolation)),
                    (Alice, Attest(StorageIsolation, When::Now)),
                    (Alice, Place(NoExecute)),
                    (Alice, Rewrite(PowerOff)),
                    (Alice, RewriteBoot),
                    (Alice, Release),
                ],
            )
        },
        Scenario {
            is_attachable: false,
            ..scenario(
                "file-system",
                "the disk is a network file system, which nothing attaches",
                &[Event::PowerOff, PowerOn],
                &[(Alice, AttestAndPlace(PowerOff)), (Alice, Place(NoExecute)), (Alice, Release)],
            )
        },
        scenario(
            "remediation",
            "a fence agent reboots the machine, which may come back",
            &[RemediationBegins, AgentReboots, RemediationSucceeds],
            &[(Far, Place(NoExecute)), (Far, Release)],
        ),
        scenario(
            "break-glass",
            "somebody who may break the glass, and somebody who may not",
            &[Event::PowerOff, PowerOn],
            &[
                (Alice, BreakGlass),
                (Alice, BreakGlassAndPlace),
                (Alice, Forge),
                (Alice, Place(NoExecute)),
                (Alice, Release),
                (Oncall, BreakGlass),
                (Oncall, BreakGlassAndPlace),
                (Oncall, Place(NoExecute)),
                (Oncall, Release),
            ],
        ),
        scenario(
            "delete",
            "the Node is deleted, created again and amended",
            &[Event::PowerOff, PowerOn],
            &[
                (Alice, Delete),
                (Alice, CreateTainted),
                (Kubelet, CreateTainted),
                (Alice, AttestAndPlace(PowerOff)),
                (Alice, Attest(PowerOff, When::Now)),
                (Alice, Place(NoSchedule)),
                (Alice, Amend(NoSchedule)),
                (Alice, Amend(NoExecute)),
                (Alice, Add(NoExecute)),
                (Alice, Release),
            ],
        ),
        scenario(
            "lease",
            "the Lease is deleted, stripped, or cannot be written",
            &[LeaseDeleted, LeaseStripped, LeaseRefused, KubeletHangs, KubeletRecovers],
            &[(Alice, Attest(PowerOff, When::Now)), (Alice, AttestAndPlace(PowerOff)), (Alice, Place(NoExecute))],
        ),
        scenario(
            "own-word",
            "the machine vouches for itself",
            &[KubeletHangs],
            &[
                (PodOnNode, AttestAndPlace(PowerOff)),
                (PodOnNode, Attest(PowerOff, When::Now)),
                (Kubelet, Attest(PowerOff, When::Now)),
                (Alice, Place(NoExecute)),
                (Alice, AttestAndPlace(PowerOff)),
            ],
        ),
        Scenario {
            clocks: vec![(0, 0), (240, 0), (0, 240), (240, 240), (-240, 0), (0, -240)],
            ..scenario(
                "clocks",
                "the replicas' clocks are four minutes apart, and people name times to come",
                &[Event::PowerOff],
                &[
                    (Alice, Attest(PowerOff, When::Now)),
                    (Alice, Attest(PowerOff, When::Later)),
                    (Alice, Place(NoExecute)),
                    (Alice, AttestAndPlace(PowerOff)),
                    (Alice, Release),
                ],
            )
        },
        Scenario {
            reads: true,
            ..scenario(
                "stale",
                "somebody writes an old copy of the Node back",
                &[Event::PowerOff, PowerOn],
                &[
                    (Alice, PutCopy),
                    (Alice, AttestAndPlace(PowerOff)),
                    (Alice, Attest(StorageIsolation, When::Now)),
                    (Alice, Place(NoExecute)),
                    (Alice, Release),
                ],
            )
        },
        Scenario {
            ways: vec![(Alice, ForceDelete), (Alice, Detach), (Alice, Unfinalize)],
            open: vec![Excuse::ForcedWhileReady],
            ..scenario(
                "doors",
                "the other doors: the Node is deleted, its pod force-deleted, its disk detached by hand",
                &[Event::PowerOff, PowerOn],
                &[
                    (Alice, Attest(PowerOff, When::Now)),
                    (Alice, AttestAndPlace(PowerOff)),
                    (Alice, Release),
                    (Alice, Delete),
                    (Cloud, Delete),
                ],
            )
        },
        Scenario {
            ways: vec![(Alice, Detach), (Alice, Unfinalize)],
            owner: Owner::Deployment,
            ..scenario(
                "deployment",
                "two of these doors around a Deployment's pod, which is replaced before it is gone",
                &[Event::PowerOff, PowerOn],
                &[
                    (Alice, Attest(PowerOff, When::Now)),
                    (Alice, AttestAndPlace(PowerOff)),
                    (Alice, Release),
                    (Alice, Delete),
                ],
            )
        },
        Scenario {
            ways: vec![(Oncall, ForceDelete), (Oncall, Detach), (Alice, ForceDelete)],
            open: vec![Excuse::ForcedWhileReady],
            ..scenario(
                "doors-glass",
                "the same doors with a break-glass",
                &[Event::PowerOff],
                &[
                    (Alice, BreakGlass),
                    (Oncall, BreakGlass),
                    (Oncall, Delete),
                    (Alice, Delete),
                    (Alice, AttestAndPlace(PowerOff)),
                ],
            )
        },
        Scenario {
            ways: vec![(Alice, ForceDelete), (Alice, Detach)],
            open: vec![Excuse::ForcedWhileReady, Excuse::LiftedWithoutReboot],
            ..scenario(
                "doors-isolation",
                "the same doors of a machine that the storage refuses",
                &[Isolate, Unisolate, PowerOn],
                &[
                    (Alice, Attest(StorageIsolation, When::Now)),
                    (Alice, AttestAndPlace(StorageIsolation)),
                    (Alice, Delete),
                ],
            )
        },
    ]
}

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// Seconds: what `make test` explores.
    Small,
    /// Minutes: what `make model` explores.
    Full,
}

impl Size {
    fn budget(self) -> Budget {
        match self {
            Self::Small => Budget { ticks: 4, days: 0, faults: 2, writes: 2 },
            Self::Full => Budget { ticks: 6, days: 0, faults: 3, writes: 3 },
        }
    }
}
