//! The memory that reviews take together. Each pays for its bytes as they arrive, and gives them
//! back when it is answered; one client address cannot take all of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What all reviews may take: three of the longest bodies, or some 1,500 of the usual size.
const TOTAL: usize = 24 * 1024 * 1024;
/// What the reviews from one address may take, so that nobody but the API servers themselves can
/// keep the API servers out.
const SHARE: usize = TOTAL / 3;
/// What every review takes beside its body: its header, its answer and its task.
const EACH: usize = 16 * 1024;

/// The memory that is left.
#[derive(Default)]
pub(super) struct Memory {
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    total: usize,
    by_address: HashMap<Option<IpAddr>, usize>,
}

/// What one review took. Dropping it gives it back.
pub(super) struct Taken {
    memory: Arc<Memory>,
    address: Option<IpAddr>,
    bytes: usize,
}

impl Memory {
    /// Takes what every review takes. `None` if too little is left.
    pub(super) fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Taken> {
        let mut taken = Taken { memory: Arc::clone(self), address, bytes: 0 };
        taken.take(EACH).then_some(taken)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Takes more. `false` if too little is left.
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let mut used = self.memory.used();
        let of_address = used.by_address.get(&self.address).copied().unwrap_or_default();
        let fits = used.total + bytes <= TOTAL && of_address + bytes <= SHARE;
        if fits {
            used.total += bytes;
            used.by_address.insert(self.address, of_address + bytes);
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.memory.used();
        used.total -= self.bytes;
        if let Some(of_address) = used.by_address.get_mut(&self.address) {
            *of_address -= self.bytes;
            if *of_address == 0 {
                used.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_takes_a_third_and_what_is_given_back_can_be_taken_again() {
        let memory = Arc::new(Memory::default());
        let take = |last: u8| {
            let mut taken = memory.take(Some(address(last)))?;
            taken.take(SHARE - EACH).then_some(taken)
        };
        let first = take(1).unwrap();
        assert!(memory.take(Some(address(1))).is_none());
        let others = (take(2).unwrap(), take(3).unwrap());
        assert!(memory.take(Some(address(4))).is_none());
        drop(first);
        assert!(memory.take(Some(address(2))).is_none());
        let fourth = take(4).unwrap();
        drop((others, fourth));
        assert_eq!(memory.used().total, 0);
        assert!(memory.used().by_address.is_empty());
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let memory = Arc::new(Memory::default());
        let mut taken = memory.take(None).unwrap();
        assert!(!taken.take(SHARE - EACH + 1));
        assert!(taken.take(SHARE - EACH));
        assert!(!taken.take(1));
        assert_eq!(memory.used().total, SHARE);
    }
}
