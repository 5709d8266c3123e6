//! What one reading found.

use std::time::Duration;

use jiff::Timestamp;

use super::{authority::Authority, step::Obstacle};
use crate::{cluster::registration::Configuration, election::Lease, policy::review::Webhook};

/// The clocks of one replica.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Its wall clock.
    pub wall: Timestamp,
    /// Its monotonic clock: time since any fixed moment.
    pub monotonic: Duration,
}

/// The result of reading one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    Absent,
    /// It could not be read; the reason names the object.
    Failed(String),
    Found(T),
}

/// The result of reading the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    Absent,
    /// It holds no CA that can sign now; the reason.
    Unusable(String),
    Usable(Authority),
}

/// One reading: the configurations first, the Secret and the Lease after them.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The wall clock before the reading began.
    pub began: Timestamp,
    /// Both webhook configurations.
    pub configurations: [(Webhook, Read<Configuration>); 2],
    pub secret: Secret,
    /// The request for another CA that was not carried out yet.
    pub request: Option<String>,
    pub lease: Read<Lease>,
    pub replicas: Replicas,
}

/// The replicas that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// All of them answer the paths that are published.
    Current,
    /// One answers `/mutate` and `/validate` only: it is of an older version.
    SomeOlder,
    /// They could not be read; the reason.
    Unknown(String),
}

impl Seen {
    /// The configurations that exist.
    pub(super) fn found(&self) -> impl Iterator<Item = (Webhook, &Configuration)> {
        self.configurations.iter().filter_map(|(webhook, read)| match read {
            Read::Found(configuration) => Some((*webhook, configuration)),
            Read::Absent | Read::Failed(_) => None,
        })
    }

    pub(super) fn unreadable(&self) -> Option<Obstacle> {
        self.configurations.iter().find_map(|(_, read)| match read {
            Read::Failed(why) => Some(Obstacle::Unreadable(why.clone())),
            Read::Absent | Read::Found(_) => None,
        })
    }

    /// Everything that is published, PEM.
    pub(super) fn published(&self) -> Vec<u8> {
        let mut different: Vec<&[u8]> = Vec::new();
        for bundle in self.found().flat_map(|(_, found)| found.bundles()) {
            if !different.contains(&bundle) {
                different.push(bundle);
            }
        }
        different.join(&b'\n')
    }
}
