//! Connection slots: when all are taken, the connection that has been idle for longest is evicted.
//!
//! Without eviction, a client that opens connections and sends nothing would keep the API server
//! out. A connection with a request in flight is never evicted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// A fixed number of connection slots.
pub struct Slots {
    limit: usize,
    occupied: Mutex<Occupied>,
}

#[derive(Default)]
struct Occupied {
    next: u64,
    by: HashMap<u64, (Arc<Activity>, CancellationToken)>,
}

/// One slot; dropping it frees the slot.
pub struct Slot {
    pub activity: Arc<Activity>,
    evicted: CancellationToken,
    number: u64,
    slots: Arc<Slots>,
}

impl Slots {
    pub fn new(limit: usize) -> Self {
        Self { limit, occupied: Mutex::default() }
    }

    /// Takes a slot. If all are occupied, evicts the connection that never made a request or has
    /// been idle for longest; `None` if every connection has a request in flight.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut occupied = self.occupied();
        if occupied.by.len() >= self.limit {
            let idle = occupied.by.iter().filter_map(|(number, (activity, _))| Some((activity.idle_since()?, *number)));
            let (_, number) = idle.min()?;
            let (_, evicted) = occupied.by.remove(&number)?;
            evicted.cancel();
        }
        let number = occupied.next;
        occupied.next += 1;
        let (activity, evicted) = (Activity::new(), CancellationToken::new());
        occupied.by.insert(number, (Arc::clone(&activity), evicted.clone()));
        Some(Slot { activity, evicted, number, slots: Arc::clone(self) })
    }

    fn occupied(&self) -> MutexGuard<'_, Occupied> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Returns when another connection was given this slot. Cancel-safe.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.occupied().by.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_idle_for_longest_is_evicted_and_a_busy_one_never_is() {
        let slots = Arc::new(Slots::new(3));
        let [used, silent, busy] = [slots.take().unwrap(), slots.take().unwrap(), slots.take().unwrap()];
        drop(used.activity.begin());
        let in_flight = busy.activity.begin();
        let fourth = slots.take().unwrap();
        assert!(silent.evicted.is_cancelled(), "it never made a request");
        assert!(!used.evicted.is_cancelled() && !busy.evicted.is_cancelled());
        let in_flight_too = fourth.activity.begin();
        let fifth = slots.take().unwrap();
        assert!(used.evicted.is_cancelled());
        let last = fifth.activity.begin();
        assert!(slots.take().is_none(), "all are busy");
        drop((in_flight, in_flight_too, last));
        drop(silent);
        drop(busy);
        assert!(slots.take().is_some() && !fourth.evicted.is_cancelled());
    }
}
