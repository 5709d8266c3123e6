//! The memory that reviews take together. Each takes what its bytes need as they arrive, and gives
//! it back when it is answered; one client address cannot take all of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The most bytes of a body: two objects of 3 MiB, which is twice etcd's limit of 1.5 MiB for a
/// request, and 1 MiB for the rest of the review.
pub const BODY_LIMIT: usize = 7 * 1024 * 1024;
/// What all reviews may take: three of the longest bodies, or some 1,500 of the usual size.
pub(super) const REVIEWS: usize = 24 * 1024 * 1024;
/// The part of it that one address may take, so that nobody but the API servers themselves can keep
/// the API servers out.
const SHARE: usize = 3;
/// What every review takes beside its body: its header, its answer and its task.
const EACH: usize = 16 * 1024;

/// The memory that may be taken.
#[derive(Debug)]
pub(super) struct Memory {
    total: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_address: HashMap<Option<IpAddr>, usize>,
}

/// What one review took. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Taken {
    memory: Arc<Memory>,
    address: Option<IpAddr>,
    bytes: usize,
}

impl Memory {
    pub(super) fn of(total: usize) -> Self {
        Self { total, used: Mutex::default() }
    }

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
        let fits = used.total + bytes <= self.memory.total && of_address + bytes <= self.memory.total / SHARE;
        if fits {
            used.total += bytes;
            used.by_address.insert(self.address, of_address + bytes);
            self.bytes += bytes;
        }
        fits
    }
}

/// The bytes of a body, which take no more memory than was taken for them.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// Adds bytes. `false` if too little memory is left.
    #[must_use]
    pub(super) fn extend(&mut self, data: &[u8], taken: &mut Taken) -> bool {
        let (length, capacity) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > capacity {
            let grown = length.max((capacity * 2).min(BODY_LIMIT));
            if !taken.take(grown - capacity) {
                return false;
            }
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
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

    const OF_ADDRESS: usize = 8 * 1024 * 1024;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_takes_a_third_and_what_is_given_back_can_be_taken_again() {
        let memory = Arc::new(Memory::of(REVIEWS));
        let take = |last: u8| {
            let mut taken = memory.take(Some(address(last)))?;
            taken.take(OF_ADDRESS - EACH).then_some(taken)
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
        let memory = Arc::new(Memory::of(REVIEWS));
        let mut taken = memory.take(None).unwrap();
        assert!(!taken.take(OF_ADDRESS - EACH + 1));
        assert!(taken.take(OF_ADDRESS - EACH));
        assert!(!taken.take(1));
        assert_eq!(memory.used().total, OF_ADDRESS);
    }

    #[test]
    fn there_is_room_for_three_of_the_longest_bodies_and_for_512_short_ones_of_each_address() {
        let memory = Arc::new(Memory::of(REVIEWS));
        let longest = |last: u8| {
            let mut taken = memory.take(Some(address(last)))?;
            taken.take(BODY_LIMIT).then_some(taken)
        };
        let long = [longest(1), longest(2), longest(3)];
        assert!(long.iter().all(Option::is_some));
        drop(long);
        let short: Vec<Taken> = std::iter::from_fn(|| memory.take(None)).collect();
        assert_eq!(short.len(), 512);
    }

    #[test]
    fn a_buffer_doubles_up_to_the_longest_body_and_takes_what_it_holds() {
        let memory = Arc::new(Memory::of(REVIEWS));
        let mut taken = memory.take(None).unwrap();
        let mut buffer = Buffer::default();
        for (bytes, length, capacity) in [
            (10, 10, 10),
            (1, 11, 20),
            (9, 20, 20),
            (0, 20, 20),
            (100, 120, 120),
            (4 * 1024 * 1024, 4 * 1024 * 1024 + 120, 4 * 1024 * 1024 + 120),
            (1, 4 * 1024 * 1024 + 121, BODY_LIMIT),
        ] {
            assert!(buffer.extend(&vec![b' '; bytes], &mut taken));
            assert_eq!((buffer.len(), buffer.bytes.capacity(), taken.bytes), (length, capacity, EACH + capacity));
        }
        let length = buffer.len();
        assert!(!buffer.extend(&vec![b' '; OF_ADDRESS], &mut taken));
        assert_eq!((buffer.len(), taken.bytes), (length, EACH + BODY_LIMIT));
        assert_eq!(buffer.into_bytes().len(), length);
    }
}
