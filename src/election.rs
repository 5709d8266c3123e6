//! Who holds a Lease, as one replica knows it. Pure: whoever uses it reads and writes the Lease.
//!
//! The times in a Lease are of another replica's clock. So a replica counts by its own: a Lease
//! that has not changed for some intervals is free.

use std::time::Duration;

/// A holder that has not renewed the Lease for this many intervals no longer holds it.
const INTERVALS: u32 = 3;

/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Empty if nobody holds it.
    pub holder: String,
    /// Changes with every renewal.
    pub version: String,
}

/// What one replica knows about the Lease.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    interval: Duration,
    /// The version of the Lease, and when this replica first saw it.
    seen: Option<(String, Duration)>,
}

/// Where this replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the Lease.
    Holder,
    /// It holds the Lease, and has to renew it before it acts.
    Renew,
    /// Nobody holds it.
    Free,
    /// This holder has not renewed it.
    Expired(String),
    /// Another replica holds it.
    Follower(String),
}

impl Election {
    /// `interval` is the time between two looks, and between two renewals.
    pub fn new(identity: String, interval: Duration) -> Self {
        Self { identity, interval, seen: None }
    }

    /// Identifies this replica.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How long the Lease lasts without renewal.
    pub fn duration(&self) -> Duration {
        lease_duration(self.interval)
    }

    /// Takes note of a Lease that was read before `now`, by a monotonic clock.
    pub fn observe(&mut self, lease: &Lease, now: Duration) {
        if self.seen.as_ref().is_none_or(|(known, _)| *known != lease.version) {
            self.seen = Some((lease.version.clone(), now));
        }
    }

    /// Where this replica stands by the Lease that it observed last. `None`: there is no Lease.
    pub fn role(&self, lease: Option<&Lease>, now: Duration) -> Role {
        let Some(lease) = lease.filter(|lease| !lease.holder.is_empty()) else { return Role::Free };
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let unchanged_for = now.saturating_sub(since);
        if lease.holder == self.identity {
            if unchanged_for < self.interval { Role::Holder } else { Role::Renew }
        } else if unchanged_for < self.duration() {
            Role::Follower(lease.holder.clone())
        } else {
            Role::Expired(lease.holder.clone())
        }
    }
}

/// How long a Lease lasts without renewal.
pub fn lease_duration(interval: Duration) -> Duration {
    interval * INTERVALS
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn lease(holder: &str, version: &str) -> Lease {
        Lease { holder: holder.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn a_lease_that_does_not_change_for_three_intervals_is_free_for_another_replica() {
        let mut election = Election::new("b".to_owned(), TEN);
        let held = lease("a", "1");
        assert_eq!(election.role(None, TEN), Role::Free);
        assert_eq!(election.role(Some(&lease("", "1")), TEN), Role::Free);
        election.observe(&held, TEN);
        assert_eq!(election.role(Some(&held), TEN), Role::Follower("a".to_owned()));
        let late = TEN + TEN * INTERVALS;
        assert_eq!(
            election.role(Some(&held), late.saturating_sub(Duration::from_millis(1))),
            Role::Follower("a".to_owned())
        );
        assert_eq!(election.role(Some(&held), late), Role::Expired("a".to_owned()));
        let renewed = lease("a", "2");
        election.observe(&renewed, late);
        assert_eq!(election.role(Some(&renewed), late), Role::Follower("a".to_owned()), "it was renewed");
    }

    #[test]
    fn the_holder_renews_before_it_acts_once_an_interval_has_passed() {
        let mut election = Election::new("a".to_owned(), TEN);
        let held = lease("a", "1");
        election.observe(&held, Duration::ZERO);
        assert_eq!(election.role(Some(&held), TEN.saturating_sub(Duration::from_millis(1))), Role::Holder);
        election.observe(&held, TEN);
        assert_eq!(election.role(Some(&held), TEN), Role::Renew);
    }
}
