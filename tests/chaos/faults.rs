//! Faults: of replicas, of the network around them, of the API server and of etcd. One at a time,
//! with a pause in which everything recovers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    harness::{
        gate::{Gate, Replica},
        plane::Plane,
        proxy::Network,
    },
    random::Random,
};

/// How many seconds the clocks of the three replicas are ahead: four minutes apart.
pub const CLOCKS: [i64; 3] = [-30, 0, 210];
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    ReplicaKilled,
    ReplicaFrozen,
    ReplicaDrained,
    AllReplicasFrozen,
    GateCutOff,
    GateSlow,
    GateHalfOpen,
    UplinkCut,
    UplinkSlow,
    ApiServerKilled,
    ApiServerFrozen,
    EtcdKilled,
    EtcdFrozen,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::ReplicaKilled,
        Self::ReplicaFrozen,
        Self::ReplicaDrained,
        Self::AllReplicasFrozen,
        Self::GateCutOff,
        Self::GateSlow,
        Self::GateHalfOpen,
        Self::UplinkCut,
        Self::UplinkSlow,
        Self::ApiServerKilled,
        Self::ApiServerFrozen,
        Self::EtcdKilled,
        Self::EtcdFrozen,
    ];

    /// Whether the API server itself may not answer meanwhile.
    pub fn is_of_the_control_plane(self) -> bool {
        matches!(self, Self::ApiServerKilled | Self::ApiServerFrozen | Self::EtcdKilled | Self::EtcdFrozen)
    }

    /// Whether no call of the API server reaches the gate in time, or each is slow.
    pub fn stops_the_gate(self) -> bool {
        matches!(self, Self::AllReplicasFrozen | Self::GateCutOff | Self::GateSlow | Self::GateHalfOpen)
    }
}

/// A fault, and when it was there.
#[derive(Clone, Copy, Debug)]
pub struct Episode {
    pub fault: Fault,
    pub start: Instant,
    pub end: Instant,
}

/// The gate under faults, and which clock each of its logs has.
pub struct Site {
    pub plane: Plane,
    pub gate: Gate,
    /// By the number of the replica, which is a part of the name of its log.
    pub clocks: BTreeMap<usize, i64>,
    pub episodes: Vec<Episode>,
}

impl Site {
    pub async fn start(plane: Plane) -> Self {
        let gate = Gate::start_at(&plane, &CLOCKS, &[]).await;
        gate.until_ready(&plane).await;
        let clocks = CLOCKS.into_iter().enumerate().collect();
        Self { plane, gate, clocks, episodes: Vec::new() }
    }

    /// Injects a fault for a while, and waits until everything works again.
    pub async fn inject(&mut self, fault: Fault, random: &mut Random) {
        let start = Instant::now();
        let number = usize::try_from(random.below(3)).unwrap();
        // Some faults end before the API server gives up on a call, after 5 s, some later.
        let pause = Duration::from_millis(500 + random.below(6_500));
        match fault {
            Fault::ReplicaKilled => {
                self.gate.replicas[number].kill();
                tokio::time::sleep(pause / 4).await;
                self.replace(number).await;
            }
            Fault::ReplicaDrained => {
                self.gate.replicas[number].terminate();
                let is_gone = async |_: &Plane| !self.gate.replicas[number].is_alive().await;
                self.plane.until("the replica is gone", is_gone).await;
                self.replace(number).await;
            }
            Fault::ReplicaFrozen => {
                self.gate.replicas[number].signal("STOP");
                tokio::time::sleep(pause).await;
                self.gate.replicas[number].signal("CONT");
            }
            Fault::AllReplicasFrozen => {
                self.gate.replicas.iter_mut().for_each(|replica| replica.signal("STOP"));
                tokio::time::sleep(pause).await;
                self.gate.replicas.iter_mut().for_each(|replica| replica.signal("CONT"));
            }
            Fault::GateCutOff => {
                let endpoints = self.gate.service.cut();
                tokio::time::sleep(pause).await;
                self.gate.service.restore(endpoints);
            }
            Fault::GateSlow => {
                let delay = Duration::from_millis(100 + random.below(1_500));
                self.gate.service.becomes(Network::Slow(delay));
                tokio::time::sleep(pause).await;
                self.gate.service.becomes(Network::Clear);
            }
            Fault::GateHalfOpen => {
                self.gate.service.becomes(Network::HalfOpen);
                tokio::time::sleep(pause).await;
                self.gate.service.becomes(Network::Clear);
            }
            Fault::UplinkCut => {
                let uplink = &self.gate.replicas[number].uplink;
                let endpoints = uplink.cut();
                tokio::time::sleep(pause).await;
                uplink.restore(endpoints);
            }
            Fault::UplinkSlow => {
                let delay = Duration::from_millis(100 + random.below(1_500));
                self.gate.replicas[number].uplink.becomes(Network::Slow(delay));
                tokio::time::sleep(pause).await;
                self.gate.replicas[number].uplink.becomes(Network::Clear);
            }
            Fault::ApiServerKilled => self.kill("kube-apiserver", pause).await,
            Fault::EtcdKilled => self.kill("etcd", pause).await,
            Fault::ApiServerFrozen => self.freeze("kube-apiserver", pause).await,
            Fault::EtcdFrozen => self.freeze("etcd", pause).await,
        }
        self.until_well().await;
        // The API server keeps its connections. New ones go to all replicas in turn.
        self.gate.service.restore(self.gate.service.cut());
        self.episodes.push(Episode { fault, start, end: Instant::now() });
    }

    async fn kill(&mut self, part: &str, pause: Duration) {
        self.plane.kill(part);
        tokio::time::sleep(pause / 4).await;
        self.plane.restart(part);
    }

    async fn freeze(&mut self, part: &str, pause: Duration) {
        self.plane.signal(part, "STOP");
        tokio::time::sleep(pause).await;
        self.plane.signal(part, "CONT");
    }

    /// Starts a replica in place of one that is gone. It has a name and a log of its own, as a new
    /// pod has, and the clock of its machine.
    async fn replace(&mut self, number: usize) {
        let (next, clock) = (self.clocks.len(), CLOCKS[number]);
        self.gate.service.remove_endpoint(self.gate.replicas[number].port);
        let replica = Replica::start_at(&self.plane, next, &[], clock).await;
        self.clocks.insert(next, clock);
        self.plane.until("the new replica is ready", async |_| replica.is_ready().await).await;
        self.gate.service.add_endpoint(replica.port);
        self.gate.replicas[number] = replica;
    }

    /// Waits until the API server and all replicas are ready.
    pub async fn until_well(&self) {
        self.plane.until("the API server is ready", async |plane| plane.text("admin", "/readyz").await.is_ok()).await;
        for replica in &self.gate.replicas {
            self.plane.until("the replica is ready", async |_| replica.is_ready().await).await;
        }
    }

    /// The log of every replica that ever ran, with its clock.
    pub fn logs(&self) -> impl Iterator<Item = (String, i64)> {
        self.clocks.iter().map(|(number, clock)| {
            let path = self.plane.folder.path().join(format!("gate-{number}.log"));
            (std::fs::read_to_string(path).unwrap(), *clock)
        })
    }
}
