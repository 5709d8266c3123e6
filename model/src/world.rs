//! The state of the model: one machine with its disk, the API server's objects about it, and what
//! is true although no object tells it.
//!
//! Nothing in here judges a write. The gate sees what [`crate::gate`] shows it, and never
//! [`Machine`] or [`World::word`].

use std::fmt;

use crate::gate::Actor;

/// Seconds since the model's beginning, by the API server's clock.
pub type Seconds = i32;

/// One step of time. It is longer than the gate's `clockSkew`, and two steps are longer than a
/// Lease's duration with it.
pub const TICK: Seconds = 30;
/// How long a kubelet must be silent before the node controller sets `Ready` to `Unknown`
/// (`--node-monitor-grace-period`).
pub const GRACE: Seconds = 50;
/// The longest that a record counts (`evidence.maxAge`).
pub const MAX_AGE: Seconds = 24 * 3600;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and a state must be small")]
pub struct World {
    pub now: Seconds,
    pub machine: Machine,
    pub node: Option<Node>,
    pub lease: Option<Lease>,
    pub pod: Pod,
    pub attachment: Attachment,
    /// Whether the disk is attached by a controller: a network file system is not.
    pub is_attachable: bool,
    pub owner: Owner,
    /// Whether the other doors count: the controllers also act on a machine that writes, if
    /// somebody made them believe that it does not. Otherwise nobody does.
    pub doors: bool,
    /// The pod was force-deleted while its node was Ready, and its process ran on.
    pub forced_while_ready: bool,
    /// Another door was taken, or the Node deleted with its taint, while nothing but the storage
    /// kept the machine from writing.
    pub relied_on_isolation: bool,
    /// The pod's replacement runs on another machine, and writes to the disk.
    pub elsewhere: bool,
    /// The taint as the controllers' caches have it. They may be late.
    pub cached_taint: bool,
    pub remediation: Option<Remediation>,
    /// A Node that somebody read, and will write back without its version.
    pub copy: Option<Copy>,
    /// When the API server last heard of the machine, whatever its objects still tell of it.
    pub heard: Seconds,
    /// Who really wrote the record on the Node, and when.
    pub word: Option<Word>,
    /// Who really wrote the break-glass on the Node.
    pub glass: Option<Actor>,
    /// Why two writers are nobody's fault but a person's.
    pub excuse: Option<Excuse>,
    /// What a write broke that shows in no object any more.
    pub broken: Option<Broken>,
    pub left: Budget,
}

/// The suspect machine.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about the machine by itself")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    pub powered: bool,
    pub boot: u8,
    pub kubelet: Kubelet,
    /// Whether the machine reaches the API server. The disk has a network of its own.
    pub connected: bool,
    /// Whether a process of the pod runs and has the disk mounted.
    pub process: bool,
    /// Whether the storage refuses this machine.
    pub isolated: bool,
}

/// What the kubelet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kubelet {
    Alive,
    /// It reports its status and cannot write its Lease.
    WithoutLease,
    Hung,
    /// Its container runtime is down: it reports `Ready=False` and renews its Lease, and what runs,
    /// runs on.
    WithoutRuntime,
}

/// The stored Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub created: Seconds,
    pub taint: Vec<Effect>,
    pub annotations: Annotations,
    pub ready: Ready,
    /// Since when `Ready` has its status, and when it was written.
    pub ready_since: Seconds,
    /// The boot that the kubelet reported. `None`: it never did.
    pub boot: Option<u8>,
    /// When the kubelet last reported its status.
    pub reported: Option<Seconds>,
}

/// Annotations, sorted by key.
pub type Annotations = Vec<(&'static str, &'static str)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ready {
    True,
    /// The kubelet reports that its container runtime is down.
    False,
    Unknown,
    /// There is no condition yet.
    Absent,
}

/// The effect of an entry of the taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    NoExecute,
    NoSchedule,
    PreferNoSchedule,
}

/// The machine's Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// When the API server stored the last renewal.
    pub renewed: Seconds,
    /// Whether its managed fields say so.
    pub managed: bool,
}

/// What replaces the pod, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Once it is gone: both have one name.
    StatefulSet,
    /// As soon as it is being deleted. Only the disk's attachment keeps the replacement waiting.
    Deployment,
}

/// The pod on the suspect machine, as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pod {
    Bound,
    Terminating,
    Gone,
}

/// The VolumeAttachment of the disk to the suspect machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    Attached,
    /// The attach/detach controller has begun, and acts on what its cache said.
    Detaching,
    Gone,
}

/// A FenceAgentsRemediation of the node. Its agent reboots the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remediation {
    pub created: Seconds,
    pub rebooted: bool,
    pub succeeded: Option<Seconds>,
}

/// What somebody read of the Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    pub taint: Vec<Effect>,
    pub annotations: Annotations,
}

/// The truth about a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word {
    pub written: Seconds,
    /// The time that it names.
    pub claimed: Seconds,
    /// Somebody on the suspect machine itself wrote it.
    pub by_node: bool,
}

/// Why a placement on a machine that still writes is a person's fault: the model's own judgement,
/// made from the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Excuse {
    /// A person recorded a fence that did not happen, or that was lifted since, and the machine has
    /// been silent all that time.
    FalseWord,
    /// Somebody with the right to used a break-glass.
    BrokeGlass,
    /// The pod was force-deleted while its node was Ready, then the machine was cut off before its
    /// kubelet had stopped the pod, and the attach/detach controller detached the disk by force.
    /// The policy leaves this open: a Ready node does as it is told, as far as anybody can see.
    ForcedWhileReady,
    /// Another door was taken, or the Node deleted with its taint, because the storage refused the
    /// machine, which ran on; then its storage accepted it again, in the same boot. The policy
    /// leaves this open: only a release waits for a reboot (`NodeNotRebooted`).
    LiftedWithoutReboot,
    /// The machine came back with the taint on, and started the pod again, because nothing evicted
    /// it. No write happens that a gate could deny.
    AliveWithTaint,
}

/// Harm that a write did at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// The taint went while something that the outage displaced was left behind: it hangs.
    LeftBehind,
    /// A stamp names somebody who did not do it.
    Forged,
    /// The record changed while the node was out of service.
    Rewritten,
}

/// How often things may still happen. It makes the model finite.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub ticks: u8,
    /// Days that pass at once.
    pub days: u8,
    /// Faults: the network, the kubelet, the power, the storage.
    pub faults: u8,
    /// Guarded writes that are stored.
    pub writes: u8,
}

impl World {
    /// A healthy node with its pod.
    pub fn healthy(is_attachable: bool, left: Budget) -> Self {
        Self {
            now: 0,
            machine: Machine {
                powered: true,
                boot: 1,
                kubelet: Kubelet::Alive,
                connected: true,
                process: true,
                isolated: false,
            },
            node: Some(Node {
                created: -3600,
                taint: Vec::new(),
                annotations: Vec::new(),
                ready: Ready::True,
                ready_since: 0,
                boot: Some(1),
                reported: Some(0),
            }),
            lease: Some(Lease { renewed: 0, managed: true }),
            pod: Pod::Bound,
            attachment: if is_attachable { Attachment::Attached } else { Attachment::Gone },
            is_attachable,
            owner: Owner::StatefulSet,
            doors: false,
            forced_while_ready: false,
            relied_on_isolation: false,
            elsewhere: false,
            cached_taint: false,
            remediation: None,
            copy: None,
            heard: 0,
            word: None,
            glass: None,
            excuse: None,
            broken: None,
            left,
        }
    }

    /// Whether the suspect machine can write to the disk.
    pub fn writes_to_disk(&self) -> bool {
        self.machine.powered && self.machine.process && !self.machine.isolated
    }

    pub fn remember_isolation(&mut self) {
        self.relied_on_isolation |= self.machine.process && self.machine.isolated;
    }

    pub fn is_out_of_service(&self) -> bool {
        self.node.as_ref().is_some_and(Node::is_out_of_service)
    }

    /// Whether the kubelet's words reach the API server.
    pub fn is_heard(&self) -> bool {
        self.machine.powered && self.machine.connected && self.machine.kubelet != Kubelet::Hung
    }
}

impl Node {
    pub fn is_out_of_service(&self) -> bool {
        !self.taint.is_empty()
    }

    /// Whether taint eviction deletes the pods of this node at once.
    pub fn evicts(&self) -> bool {
        self.taint.contains(&Effect::NoExecute)
    }

    pub fn annotation(&self, key: &str) -> Option<&'static str> {
        self.annotations.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// Sets or removes an annotation.
    pub fn annotate(&mut self, key: &'static str, value: Option<&'static str>) {
        self.annotations.retain(|(known, _)| *known != key);
        if let Some(value) = value {
            self.annotations.push((key, value));
            self.annotations.sort_unstable();
        }
    }
}

impl Effect {
    pub fn name(self) -> &'static str {
        match self {
            Self::NoExecute => "NoExecute",
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LeftBehind => "the taint went and left a pod or a volume behind",
            Self::Forged => "a stamp names somebody who did not do it",
            Self::Rewritten => "the record changed while the node was out of service",
        })
    }
}
