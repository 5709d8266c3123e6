//! The steps that a replica may take, and the reason for each.

use std::fmt;

use jiff::Timestamp;
use thiserror::Error;

use super::authority::{Authority, Change};
use crate::{
    cluster::registration::{Published, ROTATE, WEBHOOK, kind},
    policy::review::Webhook,
};

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until the next look.
    Rest(Why),
    /// Nothing can be done before someone else removes the obstacle.
    Blocked(Obstacle),
    /// Take or renew the Lease, then read again.
    TakeLease(Why),
    /// Make a CA, trusting the certificates that are published (PEM), and create or replace the
    /// Secret.
    Create { published: Vec<u8>, why: Why },
    /// Create or replace the Secret with the CA that this replica remembers.
    Restore { authority: Authority, why: Why },
    /// Replace the CA in the Secret by its changed form.
    Change { authority: Authority, change: Change, why: Why },
    /// Write `caBundle` of the entry of one webhook configuration that guards the taint, if the
    /// configuration still has this version.
    Publish { webhook: Webhook, bundle: String, version: String, why: Why },
    /// The same for its path.
    SetPath { webhook: Webhook, path: NewPath, version: String, why: Why },
    /// The same for both in the entries of all other doors.
    Complete { webhook: Webhook, doors: Vec<Published>, version: String, why: Why },
    /// Give up the fields of doors that an element of `managedFields` says the replicas own.
    Disown { webhook: Webhook, owned: usize, version: String, why: Why },
    /// Sign a serving certificate whose life begins at `from`, and serve with it.
    Sign { authority: Authority, from: Timestamp, why: Why },
}

/// The reason for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    UpToDate,
    LeaseHeldBy(String),
    LeaseFree,
    LeaseExpired(String),
    LeaseRenewal,
    SecretAbsent,
    SecretUnusable(String),
    UnknownCa,
    BundleDiffers(Webhook),
    /// The name of the entry.
    DoorDiffers(String),
    DoorsOwned,
    CaNearItsEnd,
    /// The request.
    CaRequested(String),
    NextPublished,
    NextSettled,
    PreviousUnused,
    LeafNotAccepted,
    LeafNearItsEnd,
    CaReplaced,
    OlderReplica,
    PathNotOurs(Webhook),
    PathNotSecret(Webhook),
    PathOld(Webhook),
}

/// What keeps a replica from doing anything.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Obstacle {
    #[error("{0}")]
    Unreadable(String),
    #[error("there is no webhook configuration named fencegate: no API server calls")]
    NoConfiguration,
}

/// The path to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewPath {
    /// Without a secret.
    Plain,
    /// With a secret that nobody has seen.
    Secret,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::UpToDate => "everything is up to date",
            Self::LeaseHeldBy(holder) => return write!(formatter, "{holder:?} holds the Lease and writes"),
            Self::LeaseFree => "nobody holds the Lease",
            Self::LeaseExpired(holder) => return write!(formatter, "{holder:?} did not renew the Lease in time"),
            Self::LeaseRenewal => "the Lease must be renewed before writing",
            Self::SecretAbsent => "the Secret does not exist",
            Self::SecretUnusable(why) => return write!(formatter, "the Secret is not usable: {why}"),
            Self::UnknownCa => "an earlier CA is published and the Secret does not list it",
            Self::BundleDiffers(webhook) => {
                return write!(formatter, "caBundle of the {} is not what the Secret requires", kind(*webhook));
            }
            Self::DoorDiffers(entry) => return write!(formatter, "{entry} is not called as {WEBHOOK} is"),
            Self::DoorsOwned => "nobody could remove an entry of which the replicas own a field",
            Self::CaNearItsEnd => "less than a third of the CA's life is left",
            Self::CaRequested(request) => {
                return write!(formatter, "{request:?} in the annotation {ROTATE} requests it");
            }
            Self::NextPublished => "every webhook configuration has the next CA",
            Self::NextSettled => "every API server trusts the next CA",
            Self::PreviousUnused => "everything that the previous CA signed has expired",
            Self::LeafNotAccepted => "the serving certificate is not accepted and not of the current CA",
            Self::LeafNearItsEnd => "less than a third of the serving certificate's life is left",
            Self::CaReplaced => "the CA was replaced",
            Self::OlderReplica => "a replica of an older version answers no other path",
            Self::PathNotOurs(webhook) => {
                return write!(formatter, "somebody else who owns the path of the {} may remove it", kind(*webhook));
            }
            Self::PathNotSecret(webhook) => {
                return write!(formatter, "the path of the {} is not secret", kind(*webhook));
            }
            Self::PathOld(webhook) => return write!(formatter, "the path of the {} is old", kind(*webhook)),
        };
        formatter.write_str(text)
    }
}
