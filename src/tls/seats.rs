//! Who may be connected when more want to than may: the connection that has done nothing for longest makes room.
//!
//! Without it, whoever opens connections and says nothing would keep the API server out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// A fixed number of places.
pub struct Seats {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    by: HashMap<u64, (Arc<Activity>, CancellationToken)>,
}

/// One place, given back when it is dropped.
pub struct Seat {
    pub activity: Arc<Activity>,
    needed: CancellationToken,
    number: u64,
    seats: Arc<Seats>,
}

impl Seats {
    pub fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// A place; where all are taken, that of the connection that never made a request or has been idle for longest. `None` where all are
    /// busy.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.by.len() >= self.most {
            let idle = taken.by.iter().filter_map(|(number, (activity, _))| Some((activity.idle_since()?, *number)));
            let (_, number) = idle.min()?;
            let (_, needed) = taken.by.remove(&number)?;
            needed.cancel();
        }
        let number = taken.next;
        taken.next += 1;
        let (activity, needed) = (Activity::new(), CancellationToken::new());
        taken.by.insert(number, (Arc::clone(&activity), needed.clone()));
        Some(Seat { activity, needed, number, seats: Arc::clone(self) })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Returns when someone else was given this place. Cancel-safe.
    pub async fn is_needed(&self) {
        self.needed.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().by.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_did_nothing_for_longest_makes_room_and_a_busy_one_never() {
        let seats = Arc::new(Seats::new(3));
        let [used, silent, busy] = [seats.take().unwrap(), seats.take().unwrap(), seats.take().unwrap()];
        drop(used.activity.begin());
        let in_flight = busy.activity.begin();
        let fourth = seats.take().unwrap();
        assert!(silent.needed.is_cancelled(), "it never made a request");
        assert!(!used.needed.is_cancelled() && !busy.needed.is_cancelled());
        let in_flight_too = fourth.activity.begin();
        let fifth = seats.take().unwrap();
        assert!(used.needed.is_cancelled());
        let last = fifth.activity.begin();
        assert!(seats.take().is_none(), "all are busy");
        drop((in_flight, in_flight_too, last));
        drop(silent);
        drop(busy);
        assert!(seats.take().is_some() && !fourth.needed.is_cancelled());
    }
}
