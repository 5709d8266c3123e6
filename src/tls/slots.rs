//! Connection slots: when all are taken, the idlest connection is evicted ([`Activity::idleness`]).
//!
//! Without eviction, clients that open connections and send nothing, or a little at a time, would
//! keep the API server out. A connection whose client waits for an answer is never evicted.

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

    /// Takes a slot. If all are occupied, evicts the idlest connection; `None` if all clients wait
    /// for an answer.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut occupied = self.occupied();
        if occupied.by.len() >= self.limit {
            let idle = occupied.by.iter().filter_map(|(number, (activity, _))| Some((activity.idleness()?, *number)));
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
    use std::{mem, time::Duration};

    use tokio::time::sleep;

    use super::*;

    /// Takes all of three slots, and lets each connection do something.
    async fn evicted_of(first: impl FnOnce(&Slot), second: impl FnOnce(&Slot), third: impl FnOnce(&Slot)) -> Vec<bool> {
        let slots = Arc::new(Slots::new(3));
        let taken = [slots.take().unwrap(), slots.take().unwrap(), slots.take().unwrap()];
        first(&taken[0]);
        sleep(MOMENT).await;
        second(&taken[1]);
        sleep(MOMENT).await;
        third(&taken[2]);
        let fourth = slots.take();
        let evicted: Vec<bool> = taken.iter().map(|slot| slot.evicted.is_cancelled()).collect();
        assert_eq!(fourth.is_some(), evicted.contains(&true));
        evicted
    }

    const MOMENT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn the_idlest_connection_is_evicted_and_one_that_waits_for_an_answer_never_is() {
        let silent = |_: &Slot| {};
        let answered = |slot: &Slot| drop(slot.activity.begin());
        let sending = |slot: &Slot| mem::forget(slot.activity.begin());
        let waiting = |slot: &Slot| {
            let request = slot.activity.begin();
            request.received();
            mem::forget(request);
        };
        let evicted = |number: usize| (0..3).map(|slot| slot == number).collect::<Vec<_>>();
        assert_eq!(evicted_of(answered, silent, waiting).await, evicted(1), "it never made a request");
        assert_eq!(evicted_of(sending, answered, waiting).await, evicted(1), "the other one may be about to wait");
        assert_eq!(evicted_of(answered, answered, waiting).await, evicted(0), "it has been idle for longer");
        assert_eq!(evicted_of(waiting, sending, sending).await, evicted(1), "no other is idle");
        assert_eq!(evicted_of(waiting, waiting, waiting).await, evicted(3), "all wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_a_little_at_a_time_keeps_nobody_out() {
        let slots = Arc::new(Slots::new(2));
        let [kept, slow] = [slots.take().unwrap(), slots.take().unwrap()];
        drop(kept.activity.begin());
        let _request = slow.activity.begin();
        sleep(Duration::from_millis(100)).await;
        let new = slots.take().unwrap();
        assert!(slow.evicted.is_cancelled() && !kept.evicted.is_cancelled());
        assert!(!new.evicted.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_answered_is_idle_again() {
        let slots = Arc::new(Slots::new(1));
        let only = slots.take().unwrap();
        let request = only.activity.begin();
        request.received();
        request.received();
        assert!(slots.take().is_none());
        drop(request);
        assert!(slots.take().is_some() && only.evicted.is_cancelled());
    }
}
