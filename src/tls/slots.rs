//! Connection slots: when all are taken, the idlest connection is evicted ([`Activity::idleness`]).
//!
//! Without eviction, clients that open connections and send nothing, or a little at a time, would
//! keep the API server out. A connection whose client waits for an answer is never evicted. Of
//! several that are as idle, one of the address with most of these is: it has no more use of each.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
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
    by: HashMap<u64, Occupant>,
}

struct Occupant {
    address: IpAddr,
    activity: Arc<Activity>,
    evicted: CancellationToken,
}

impl Occupied {
    /// The number of the slot whose connection is to be evicted.
    fn idlest(&self) -> Option<u64> {
        let idle = || {
            let idle = self.by.iter();
            idle.filter_map(|(number, occupant)| Some((*number, occupant.address, occupant.activity.idleness()?)))
        };
        let mut rivals: BTreeMap<_, usize> = BTreeMap::new();
        for (_, address, (idleness, _)) in idle() {
            *rivals.entry((idleness, address)).or_default() += 1;
        }
        let rivals = |idleness, address| rivals.get(&(idleness, address)).copied().unwrap_or_default();
        let ranked = idle()
            .map(|(number, address, (idleness, since))| (idleness, Reverse(rivals(idleness, address)), since, number));
        ranked.min().map(|(.., number)| number)
    }
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

    /// Takes a slot for a client at this address. If all are occupied, evicts the idlest
    /// connection; `None` if all clients wait for an answer.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let mut occupied = self.occupied();
        if occupied.by.len() >= self.limit {
            let idlest = occupied.idlest()?;
            occupied.by.remove(&idlest)?.evicted.cancel();
        }
        let number = occupied.next;
        occupied.next += 1;
        let (activity, evicted) = (Activity::new(), CancellationToken::new());
        let occupant = Occupant { address, activity: Arc::clone(&activity), evicted: evicted.clone() };
        occupied.by.insert(number, occupant);
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
    use std::{mem, net::Ipv4Addr, time::Duration};

    use tokio::time::sleep;

    use super::*;

    /// Takes all of three slots, and lets each connection do something.
    async fn evicted_of(first: impl FnOnce(&Slot), second: impl FnOnce(&Slot), third: impl FnOnce(&Slot)) -> Vec<bool> {
        let slots = Arc::new(Slots::new(3));
        let taken = [HERE; 3].map(|address| slots.take(address).unwrap());
        first(&taken[0]);
        sleep(MOMENT).await;
        second(&taken[1]);
        sleep(MOMENT).await;
        third(&taken[2]);
        let fourth = slots.take(HERE);
        let evicted: Vec<bool> = taken.iter().map(|slot| slot.evicted.is_cancelled()).collect();
        assert_eq!(fourth.is_some(), evicted.contains(&true));
        evicted
    }

    #[tokio::test(start_paused = true)]
    async fn of_connections_that_are_as_idle_one_of_the_address_with_most_is_evicted() {
        let slots = Arc::new(Slots::new(4));
        let mut taken = Vec::new();
        for address in [THERE, HERE, HERE, THERE] {
            taken.push(slots.take(address).unwrap());
            sleep(MOMENT).await;
        }
        // The client there has used one, so that it has one that never made a request.
        drop(taken[3].activity.begin());
        let _fifth = slots.take(THERE).unwrap();
        let evicted: Vec<bool> = taken.iter().map(|slot| slot.evicted.is_cancelled()).collect();
        assert_eq!(evicted, [false, true, false, false]);
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
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
        let [kept, slow] = [HERE; 2].map(|address| slots.take(address).unwrap());
        drop(kept.activity.begin());
        let _request = slow.activity.begin();
        sleep(Duration::from_millis(100)).await;
        let new = slots.take(HERE).unwrap();
        assert!(slow.evicted.is_cancelled() && !kept.evicted.is_cancelled());
        assert!(!new.evicted.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_answered_is_idle_again() {
        let slots = Arc::new(Slots::new(1));
        let only = slots.take(HERE).unwrap();
        let request = only.activity.begin();
        request.received();
        request.received();
        assert!(slots.take(HERE).is_none());
        drop(request);
        assert!(slots.take(HERE).is_some() && only.evicted.is_cancelled());
    }
}
