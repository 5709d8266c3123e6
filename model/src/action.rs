//! What can happen in one step, without a person's write: to the machine, and by Kubernetes'
//! controllers.
//!
//! The controllers act as their sources say (`pkg/controller/podgc`, `nodelifecycle`,
//! `tainteviction`, `volume/attachdetach`), and from caches that may be late. Their waits are left
//! out where a shorter wait can only do more harm: a pod may be evicted as soon as the node's
//! `Ready` is `Unknown`.

use crate::world::{
    Attachment, Excuse, GRACE, Kubelet, Lease, MAX_AGE, Node, Owner, Pod, Ready, Remediation, TICK, World,
};

/// An event of the environment, or one step of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Half a minute passes.
    Tick,
    /// More than a day passes.
    Day,
    /// The kubelet reports its status, renews its Lease and starts what is bound to its node.
    KubeletReports,
    /// The kubelet stops the pod that was deleted, and unmounts its disk.
    KubeletStopsPod,
    /// The network between machine and API server is cut.
    NetworkCut,
    NetworkBack,
    KubeletHangs,
    /// The kubelet can report its status, and cannot write its Lease.
    LeaseRefused,
    /// The container runtime is down: the kubelet will report `Ready=False`.
    RuntimeFails,
    KubeletRecovers,
    /// Somebody switches the machine off.
    PowerOff,
    PowerOn,
    /// The storage refuses the machine from now on.
    Isolate,
    /// The storage accepts the machine again. Nobody does this while the node is out of service, or
    /// as long as the Node is gone.
    Unisolate,
    /// Somebody lifts the isolation although its record is still there, before the taint.
    LiftEarly,
    /// The node controller finds the kubelet silent: `Ready` is `Unknown`.
    NodeUnknown,
    /// The controllers' caches get the stored Node.
    CachesCatchUp,
    /// The pod is deleted: by taint eviction, or because `Ready` is `Unknown`.
    Evict,
    /// Pod GC force-deletes the pod.
    PodGc,
    /// The attach/detach controller begins to detach the disk.
    DetachBegins,
    DetachEnds,
    /// The pod's replacement runs on another machine, with the disk.
    ReplacementRuns,
    /// A remediation by fence agent is created for the silent node.
    RemediationBegins,
    /// The agent reboots the machine.
    AgentReboots,
    RemediationSucceeds,
    /// Somebody who may write Leases deletes the node's.
    LeaseDeleted,
    /// Somebody takes the managed fields of the Lease away.
    LeaseStripped,
}

impl Event {
    /// The steps that the controllers take by themselves, sooner or later.
    pub const CONTROLLERS: [Self; 7] = [
        Self::NodeUnknown,
        Self::CachesCatchUp,
        Self::Evict,
        Self::PodGc,
        Self::DetachBegins,
        Self::DetachEnds,
        Self::ReplacementRuns,
    ];

    /// The world after this event. `None` if it cannot happen, or changes nothing.
    pub fn happen(self, world: &World) -> Option<World> {
        self.can_happen(world).then(|| {
            let mut next = world.clone();
            self.apply(&mut next);
            next
        })
    }

    fn can_happen(self, world: &World) -> bool {
        let World { machine, node, left, .. } = world;
        let is_faulty = left.faults > 0;
        let is_reported = node.as_ref().is_some_and(|node| matches!(node.ready, Ready::True | Ready::False));
        let is_unknown = node.as_ref().is_some_and(|node| node.ready != Ready::True);
        match self {
            Self::Tick => left.ticks > 0,
            Self::Day => left.days > 0,
            Self::KubeletReports => world.is_heard(),
            Self::KubeletStopsPod => {
                world.is_heard()
                    && machine.kubelet != Kubelet::WithoutRuntime
                    && (world.pod == Pod::Terminating || (machine.process && world.pod == Pod::Gone))
            }
            Self::NetworkCut => machine.connected && is_faulty,
            Self::NetworkBack => !machine.connected && is_faulty,
            Self::KubeletHangs | Self::LeaseRefused | Self::RuntimeFails => {
                machine.powered && machine.kubelet == Kubelet::Alive && is_faulty
            }
            Self::KubeletRecovers => machine.powered && machine.kubelet != Kubelet::Alive && is_faulty,
            Self::PowerOff => machine.powered && is_faulty,
            Self::PowerOn => !machine.powered && is_faulty,
            Self::Isolate => !machine.isolated && is_faulty,
            Self::Unisolate => {
                machine.isolated && is_faulty && (!machine.process || (node.is_some() && !world.is_out_of_service()))
            }
            Self::LiftEarly => {
                machine.isolated && machine.process && is_faulty && !world.is_out_of_service() && world.word.is_some()
            }
            Self::NodeUnknown => is_reported && world.now - world.heard >= GRACE,
            Self::CachesCatchUp => world.cached_taint != world.is_out_of_service(),
            Self::Evict => {
                let evicts = node.as_ref().is_some_and(Node::evicts);
                world.pod == Pod::Bound && (evicts || is_unknown)
            }
            // An orphan is collected, too.
            Self::PodGc => match node {
                Some(_) => world.pod == Pod::Terminating && is_unknown && world.cached_taint,
                None => world.pod != Pod::Gone && (world.doors || !world.writes_to_disk()),
            },
            Self::DetachBegins => {
                let is_unmounted = world.is_heard() && !machine.process;
                // After six minutes, the controller detaches by force.
                let is_forced = is_unknown || node.is_none();
                let is_safe =
                    is_unmounted || world.cached_taint || (is_forced && (world.doors || !world.writes_to_disk()));
                world.attachment == Attachment::Attached && world.pod == Pod::Gone && is_safe
            }
            Self::DetachEnds => world.attachment == Attachment::Detaching,
            Self::ReplacementRuns => {
                let is_replaced = match world.owner {
                    Owner::StatefulSet => world.pod == Pod::Gone,
                    Owner::Deployment => world.pod != Pod::Bound,
                };
                !world.elsewhere && is_replaced && world.attachment == Attachment::Gone
            }
            Self::RemediationBegins => world.remediation.is_none() && is_unknown && node.is_some(),
            // A reboot takes time: nothing that the new kubelet says is as old as the remediation.
            Self::AgentReboots => {
                world.remediation.as_ref().is_some_and(|far| !far.rebooted && far.created < world.now)
            }
            Self::RemediationSucceeds => {
                world.remediation.as_ref().is_some_and(|far| far.rebooted && far.succeeded.is_none())
            }
            Self::LeaseDeleted => world.lease.is_some() && is_faulty,
            Self::LeaseStripped => world.lease.as_ref().is_some_and(|lease| lease.managed) && is_faulty,
        }
    }

    fn apply(self, world: &mut World) {
        if self.is_fault() {
            world.left.faults -= 1;
        }
        match self {
            Self::Tick => {
                world.now += TICK;
                world.left.ticks -= 1;
            }
            Self::Day => {
                world.now += MAX_AGE + TICK;
                world.left.days -= 1;
            }
            Self::KubeletReports => report(world),
            Self::KubeletStopsPod => {
                world.pod = Pod::Gone;
                world.machine.process = false;
            }
            Self::NetworkCut => world.machine.connected = false,
            Self::NetworkBack => world.machine.connected = true,
            Self::KubeletHangs => world.machine.kubelet = Kubelet::Hung,
            Self::LeaseRefused => world.machine.kubelet = Kubelet::WithoutLease,
            Self::RuntimeFails => world.machine.kubelet = Kubelet::WithoutRuntime,
            Self::KubeletRecovers => world.machine.kubelet = Kubelet::Alive,
            Self::PowerOff => {
                world.machine.powered = false;
                world.machine.process = false;
            }
            Self::PowerOn => boot(world),
            Self::Isolate => world.machine.isolated = true,
            Self::Unisolate | Self::LiftEarly => {
                if world.relied_on_isolation && world.machine.process {
                    world.excuse = world.excuse.or(Some(Excuse::LiftedWithoutReboot));
                }
                world.machine.isolated = false;
            }
            Self::NodeUnknown => {
                if let Some(node) = &mut world.node {
                    (node.ready, node.ready_since) = (Ready::Unknown, world.now);
                }
            }
            Self::CachesCatchUp => world.cached_taint = world.is_out_of_service(),
            Self::Evict => world.pod = Pod::Terminating,
            Self::PodGc => world.pod = Pod::Gone,
            Self::DetachBegins => {
                if world.forced_while_ready && world.machine.process && world.node.is_some() && !world.cached_taint {
                    world.excuse = world.excuse.or(Some(Excuse::ForcedWhileReady));
                }
                world.attachment = Attachment::Detaching;
            }
            Self::DetachEnds => world.attachment = Attachment::Gone,
            Self::ReplacementRuns => world.elsewhere = true,
            Self::RemediationBegins => {
                world.remediation = Some(Remediation { created: world.now, rebooted: false, succeeded: None });
            }
            Self::AgentReboots => {
                boot(world);
                if let Some(far) = &mut world.remediation {
                    far.rebooted = true;
                }
            }
            Self::RemediationSucceeds => {
                let now = world.now;
                if let Some(far) = &mut world.remediation {
                    far.succeeded = Some(now);
                }
            }
            Self::LeaseDeleted => world.lease = None,
            Self::LeaseStripped => {
                if let Some(lease) = &mut world.lease {
                    lease.managed = false;
                }
            }
        }
    }

    fn is_fault(self) -> bool {
        matches!(
            self,
            Self::NetworkCut
                | Self::NetworkBack
                | Self::KubeletHangs
                | Self::LeaseRefused
                | Self::RuntimeFails
                | Self::KubeletRecovers
                | Self::PowerOff
                | Self::PowerOn
                | Self::Isolate
                | Self::Unisolate
                | Self::LiftEarly
                | Self::LeaseDeleted
                | Self::LeaseStripped
        )
    }
}

/// The machine starts again, and the kubelet with it. No process of a pod survives.
pub fn boot(world: &mut World) {
    world.machine.powered = true;
    world.machine.boot += 1;
    world.machine.kubelet = Kubelet::Alive;
    world.machine.process = false;
}

/// What a kubelet does that reaches the API server. It registers its Node again if that is gone.
pub fn report(world: &mut World) {
    let boot = Some(world.machine.boot);
    let has_runtime = world.machine.kubelet != Kubelet::WithoutRuntime;
    let (now, ready) = (world.now, if has_runtime { Ready::True } else { Ready::False });
    world.heard = now;
    if let Some(node) = &mut world.node {
        (node.ready, node.ready_since, node.boot, node.reported) = (ready, now, boot, Some(now));
    } else {
        let (taint, annotations, reported) = (Vec::new(), Vec::new(), Some(now));
        world.node = Some(Node { created: now, taint, annotations, ready, ready_since: now, boot, reported });
    }
    if world.machine.kubelet != Kubelet::WithoutLease {
        let managed = world.lease.as_ref().is_none_or(|lease| lease.managed);
        world.lease = Some(Lease { renewed: now, managed });
    }
    // Taint eviction deletes the pod as soon as the taint is there, and a kubelet starts no pod
    // that is being deleted.
    let evicts = world.node.as_ref().is_some_and(Node::evicts);
    let is_mountable = world.attachment == Attachment::Attached || !world.is_attachable;
    if world.pod == Pod::Bound && is_mountable && !evicts && has_runtime && !world.machine.process {
        world.machine.process = true;
        if world.is_out_of_service() {
            world.excuse = world.excuse.or(Some(Excuse::AliveWithTaint));
        }
    }
}
