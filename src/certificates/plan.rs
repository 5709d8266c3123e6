//! What one replica does next about certificates: a pure function of what it knows and has just
//! read.
//!
//! No IO, no clock, no randomness, no waiting: `mod` reads, carries out the one step that [`plan`]
//! returns, and reads again. Replicas share nothing but the Secret, the webhook configurations and
//! the Lease, and each may stall or end between any two of its actions.
//!
//! # Law
//!
//! The serving certificate of a replica that counts itself accepted verifies under every `caBundle`
//! that fencegate published and that any API server may still use: the stored one, and those it
//! replaced less than [`Lifetimes::settle`] ago. One exception: if the Secret is lost and no
//! replica remembers its CA, nobody can serve what the API servers trust. A replica that has no
//! accepted certificate then uses the new CA as soon as its bundle is stored. `tests/certificates`
//! holds the law.
//!
//! # Invariants behind it
//!
//! - **A bundle never replaces a newer one.** A reading takes the webhook configurations first and
//!   the Secret after them, and a publish is conditional on the `resourceVersion` of the
//!   configuration. Suppose that a replica publishes the bundle of Secret version *s* over that of
//!   a later version *t*. The bundle of *t* was written either before the replica read the
//!   configuration, and then its later read of the Secret had to find *t* or a version after it; or
//!   afterwards, and then the publish fails with a conflict.
//! - **A publish takes no CA of fencegate's out of a bundle before its time.** The Secret must list
//!   every such CA first ([`Change::Adopt`]), and keeps it for [`Lifetimes::outlive`]. A CA leaves
//!   the bundle before it leaves the Secret, so a CA that the Secret does not list was lost with an
//!   earlier Secret, and replicas may still serve what it signed.
//! - **A CA signs only after every API server trusts it.** `publishedAt` is stamped by a clock that
//!   was read after the configurations, and compared with an allowance for the difference between
//!   two clocks.
//! - **No serving certificate outlives the trust in its CA.** Its life is counted from before the
//!   Secret was read, so it ends at most one leaf lifetime after the CA was current. The CA is
//!   dropped [`Lifetimes::outlive`] after it was replaced. This tolerates a pause of a twelfth of a
//!   leaf lifetime, less the clock skew, between the decision to replace a CA and its write.
//! - **A replica does not exchange an accepted certificate for one of a CA that it has not itself
//!   seen published for `settle`**, which also covers a CA that was created because the Secret was
//!   lost.
//! - **A person may request another CA at any time, and nothing above changes.** The request is one
//!   more reason to add the next CA, where there is none. The write that adds it also says that the
//!   request is carried out, so each is carried out once, whoever crashes. A CA that was already
//!   there when the request was made does not count: whoever saw the Secret has its key, too.
//! - **The Lease keeps replicas from doing the same work; safety does not depend on it.**

use std::{collections::BTreeMap, time::Duration};

use thiserror::Error;

use super::{
    authority::{Authority, Change, Next, Previous},
    leaf::{Leaf, VerifyError},
    lifetimes::Lifetimes,
    path::{self, Recent},
    reading::{Now, Read, Secret, Seen},
    step::{Obstacle, Step, Why},
};
use crate::{
    cluster::registration::{Door, Published, kind},
    election::{Election, Lease, Role},
    policy::review::Webhook,
};

/// What one replica remembers between readings.
pub struct Known {
    pub election: Election,
    /// The API server calls this name or address.
    pub host: String,
    /// The serving certificate in use.
    pub leaf: Leaf,
    /// The CA in the Secret when it was last readable.
    remembered: Option<Authority>,
    /// The CAs (PEM) that every configuration has had in each reading since this time.
    published: BTreeMap<String, Duration>,
    /// The paths that were published lately.
    pub(super) recent: Recent,
}

/// Whether API servers accept the serving certificate: whether it verifies under every `caBundle`.
/// An entry of another door that has none yet does not count: nobody can be called by it, and the
/// taint must be guarded meanwhile.
#[derive(Debug)]
pub enum Acceptance {
    Accepted,
    Rejected(Rejection),
}

/// Why API servers do not accept the serving certificate, or why that is not known.
#[derive(Debug, Error)]
pub enum Rejection {
    #[error("not published yet")]
    NotPublished,
    #[error("under caBundle of the {}: {source}", kind(*webhook))]
    Bundle { webhook: Webhook, source: VerifyError },
    #[error("{0}")]
    Unknown(String),
}

impl Known {
    /// What a replica knows before its first reading.
    pub fn new(identity: String, host: String, interval: Duration, leaf: Leaf) -> Self {
        Self {
            election: Election::new(identity, interval),
            host,
            leaf,
            remembered: None,
            published: BTreeMap::new(),
            recent: Recent::default(),
        }
    }

    /// Remembers what later steps need of a reading. `now` was read after it.
    pub fn observe(&mut self, seen: &Seen, now: Now) {
        self.recent.observe(&seen.configurations, now.monotonic);
        if let Read::Found(lease) = &seen.lease {
            self.election.observe(lease, now.monotonic);
        }
        let Secret::Usable(authority) = &seen.secret else { return };
        let is_published = |ca: &&str| seen.found().flat_map(|(_, found)| found.bundles()).all(|one| has(one, ca));
        let since = |ca: &str| self.published.get(ca).copied().unwrap_or(now.monotonic);
        self.published = authority.signers().filter(is_published).map(|ca| (ca.to_owned(), since(ca))).collect();
        self.remembered = Some(authority.clone());
    }

    /// Whether this replica has seen the CA published for at least `settle`.
    fn has_settled(&self, authority: &Authority, now: Now, lifetimes: &Lifetimes) -> bool {
        let since = self.published.get(authority.current());
        since.is_some_and(|since| now.monotonic.saturating_sub(*since) >= lifetimes.settle.unsigned_abs())
    }
}

/// Whether API servers accept the certificate in use. `None` if the reading does not show it: a
/// configuration could not be read, or neither exists.
pub fn acceptance(known: &Known, seen: &Seen, now: Now) -> Option<Acceptance> {
    if seen.unreadable().is_some() || seen.found().next().is_none() {
        return None;
    }
    let rejected = seen.found().find_map(|(webhook, configuration)| {
        let mut counting =
            configuration.bundles().enumerate().filter(|(entry, bundle)| *entry == 0 || !bundle.is_empty());
        counting.find_map(|(_, bundle)| {
            let verified = known.leaf.verify(bundle, &known.host, now.wall);
            verified.err().map(|source| Rejection::Bundle { webhook, source })
        })
    });
    Some(rejected.map_or(Acceptance::Accepted, Acceptance::Rejected))
}

/// What to do next, after [`Known::observe`] took note of the same reading. `now` was read after
/// it.
pub fn plan(known: &Known, seen: &Seen, now: Now, lifetimes: &Lifetimes) -> Step {
    if let Some(obstacle) = seen.unreadable() {
        return Step::Blocked(obstacle);
    }
    let authority = match &seen.secret {
        Secret::Usable(authority) => authority,
        Secret::Absent => return replace_secret(known, seen, now, Why::SecretAbsent),
        Secret::Unusable(why) => return replace_secret(known, seen, now, Why::SecretUnusable(why.clone())),
    };
    if seen.found().next().is_none() {
        return Step::Blocked(Obstacle::NoConfiguration);
    }
    if let Some(why) = sign(known, seen, authority, now, lifetimes) {
        return Step::Sign { authority: authority.clone(), from: seen.began, why };
    }
    let due = write(known, seen, authority, now, lifetimes)
        .or_else(|| set_path(known, seen, now, lifetimes))
        .or_else(|| disown(seen));
    match due {
        Some(step) => with_lease(known, &seen.lease, now, step),
        None => Step::Rest(Why::UpToDate),
    }
}

/// A Secret without a usable CA is replaced by the first replica that writes, with the CA that it
/// remembers if API servers trust that one, else with a new CA.
fn replace_secret(known: &Known, seen: &Seen, now: Now, why: Why) -> Step {
    let is_trusted = |authority: &Authority| {
        // A bundle without any usable certificate was wiped: that is no sign of another CA.
        let mut used = seen.found().flat_map(|(_, found)| found.bundles()).filter(|bundle| has_certificate(bundle));
        used.all(|bundle| has(bundle, authority.current()))
    };
    match &known.remembered {
        Some(authority) if authority.is_valid(now.wall) && is_trusted(authority) => {
            Step::Restore { authority: authority.clone().restored(), why }
        }
        _ => Step::Create { published: seen.published(), why },
    }
}

/// Whether to sign a serving certificate, and why.
fn sign(known: &Known, seen: &Seen, authority: &Authority, now: Now, lifetimes: &Lifetimes) -> Option<Why> {
    let is_accepted = matches!(acceptance(known, seen, now), Some(Acceptance::Accepted));
    if known.leaf.is_signed_by(authority.current()) {
        // A leaf cannot outlive its CA. If it ends with the CA, signing again gains nothing, and
        // would keep this replica from replacing the CA.
        let can_last_longer = authority.remaining(known.leaf.not_after).is_positive();
        (can_last_longer && known.leaf.is_near_its_end(now.wall, lifetimes)).then_some(Why::LeafNearItsEnd)
    } else if !is_accepted {
        // Before the CA is published, this gains nothing and costs nothing.
        Some(Why::LeafNotAccepted)
    } else {
        known.has_settled(authority, now, lifetimes).then_some(Why::CaReplaced)
    }
}

/// The next write of the replica that holds the Lease: what is published is completed before the CA
/// changes again.
fn write(known: &Known, seen: &Seen, authority: &Authority, now: Now, lifetimes: &Lifetimes) -> Option<Step> {
    let unknown = authority.unknown_in(&seen.published());
    if !unknown.is_empty() {
        let change = Change::Adopt(unknown);
        return Some(Step::Change { authority: authority.clone(), change, why: Why::UnknownCa });
    }
    let bundle = authority.bundle(now.wall);
    if let Some((webhook, found)) = seen.found().find(|(_, found)| found.ca_bundle != bundle.as_bytes()) {
        let (version, why) = (found.version.clone(), Why::BundleDiffers(webhook));
        return Some(Step::Publish { webhook, bundle, version, why });
    }
    if let Some(step) = complete(known, seen, &bundle, now, lifetimes) {
        return Some(step);
    }
    let (change, why) = change_of_published(authority, seen.request.as_ref(), now, lifetimes)?;
    Some(Step::Change { authority: authority.clone(), change, why })
}

/// The other doors are called as the entry that guards the taint is. Manifests add entries with
/// neither `caBundle` nor path, at any time.
fn complete(known: &Known, seen: &Seen, bundle: &str, now: Now, lifetimes: &Lifetimes) -> Option<Step> {
    seen.found().find_map(|(webhook, found)| {
        let path_of = |door: &Door| path::of_door(webhook, &found.target, &door.target, &known.recent, now, lifetimes);
        let is_due = |door: &&Door| door.ca_bundle != bundle.as_bytes() || path_of(door).is_due;
        let why = Why::DoorDiffers(found.doors.iter().find(is_due)?.name.clone());
        // All of them: an apply takes away what it leaves out.
        let published = |door: &Door| {
            let (name, path) = (door.name.clone(), path_of(door).path);
            Published { name, ca_bundle: bundle.to_owned(), path }
        };
        let doors = found.doors.iter().map(published).collect();
        Some(Step::Complete { webhook, doors, version: found.version.clone(), why })
    })
}

/// The replicas own no field of a door for longer than they must: no server-side apply could remove
/// the entry. A plain path stays owned, because whoever applied it before takes it away with
/// manifests that have none.
fn disown(seen: &Seen) -> Option<Step> {
    seen.found().find_map(|(webhook, found)| {
        let owned = found.owned?;
        let is_done = found.targets().all(|target| !path::is_plain(webhook, target));
        let version = found.version.clone();
        is_done.then_some(Step::Disown { webhook, owned, version, why: Why::DoorsOwned })
    })
}

/// The change that is due to a CA that every configuration publishes as it is.
fn change_of_published(
    authority: &Authority,
    request: Option<&String>,
    now: Now,
    lifetimes: &Lifetimes,
) -> Option<(Change, Why)> {
    match (&authority.next, &authority.previous) {
        (_, Some(Previous { until, .. })) if *until <= now.wall => Some((Change::DropPrevious, Why::PreviousUnused)),
        (None, _) if authority.remaining(now.wall) < lifetimes.replace_ca() => {
            Some((Change::AddNext, Why::CaNearItsEnd))
        }
        (None, _) => request.map(|request| (Change::AddNext, Why::CaRequested(request.clone()))),
        (Some(Next { published_at: None, .. }), _) => Some((Change::NotePublished, Why::NextPublished)),
        (Some(Next { published_at: Some(at), .. }), None)
            if now.wall.duration_since(*at) >= lifetimes.settle_anywhere() =>
        {
            Some((Change::Promote, Why::NextSettled))
        }
        _ => None,
    }
}

/// Whether a configuration needs another path, and why.
fn set_path(known: &Known, seen: &Seen, now: Now, lifetimes: &Lifetimes) -> Option<Step> {
    seen.found().find_map(|(webhook, found)| {
        let (path, why) = path::due(webhook, found, &known.recent, &seen.replicas, now, lifetimes)?;
        Some(Step::SetPath { webhook, path, version: found.version.clone(), why })
    })
}

/// The step itself for the holder of the Lease, else taking the Lease or leaving the step to the
/// holder.
fn with_lease(known: &Known, lease: &Read<Lease>, now: Now, step: Step) -> Step {
    let lease = match lease {
        Read::Failed(why) => return Step::Blocked(Obstacle::Unreadable(why.clone())),
        Read::Absent => None,
        Read::Found(lease) => Some(lease),
    };
    match known.election.role(lease, now.monotonic) {
        Role::Holder => step,
        Role::Renew => Step::TakeLease(Why::LeaseRenewal),
        Role::Free => Step::TakeLease(Why::LeaseFree),
        Role::Expired(holder) => Step::TakeLease(Why::LeaseExpired(holder)),
        Role::Follower(holder) => Step::Rest(Why::LeaseHeldBy(holder)),
    }
}

fn has(bundle: &[u8], ca: &str) -> bool {
    std::str::from_utf8(bundle).is_ok_and(|bundle| bundle.contains(ca))
}

fn has_certificate(bundle: &[u8]) -> bool {
    crate::tls::certificates(bundle).is_ok_and(|certificates| !certificates.is_empty())
}
