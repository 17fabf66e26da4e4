//! How many connections each shard serves, as every core may read it; the source of "least-loaded" and of the bound on
//! connections. A connection holds a seat as long as it lives.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{limits, runtime};

/// The seats of all shards.
#[derive(Debug)]
pub struct Seats {
    shards: Box<[Count]>,
    total: AtomicUsize,
    bound: usize,
}

/// On a cache line of its own: shards count their own connections down at the same time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicUsize);

impl Seats {
    /// For so many shards, with at most `bound` connections in all.
    pub fn new(shards: usize, bound: usize) -> Arc<Self> {
        assert!(shards > 0 && bound > 0, "there is a seat somewhere");
        let shards = (0..shards).map(|_| Count::default()).collect();
        Arc::new(Seats { shards, total: AtomicUsize::new(0), bound })
    }

    /// As many as there are file descriptors, less those that the server needs itself; etcd bounds each listener so.
    /// An error, in etcd's words, where that leaves none.
    pub fn within_descriptor_limit(shards: usize) -> io::Result<Arc<Self>> {
        let bound = match runtime::descriptor_limit()? {
            None => usize::MAX,
            Some(limit) => match limit.checked_sub(limits::RESERVED_FILE_DESCRIPTORS) {
                None | Some(0) => {
                    return Err(io::Error::other(format!(
                        "file descriptor limit of the process is too low; please set higher (it is {limit}, {} are \
                         reserved)",
                        limits::RESERVED_FILE_DESCRIPTORS
                    )));
                }
                Some(bound) => bound as usize,
            },
        };
        Ok(Seats::new(shards, bound))
    }

    /// Room for one more connection; None while all seats are taken.
    pub fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let reserved = self.total.fetch_update(Relaxed, Relaxed, |total| (total < self.bound).then_some(total + 1));
        reserved.ok().map(|_| Reserved { seats: self.clone() })
    }

    /// Connections of one shard.
    pub fn of_shard(&self, shard: usize) -> usize {
        self.shards[shard].0.load(Relaxed)
    }

    /// Connections of all shards.
    pub fn taken(&self) -> usize {
        (0..self.shards.len()).map(|shard| self.of_shard(shard)).sum()
    }
}

/// Room that is kept for a connection that has not come yet; dropping it gives it back.
#[derive(Debug)]
pub struct Reserved {
    seats: Arc<Seats>,
}

impl Reserved {
    /// A seat on the shard with the fewest connections now.
    pub fn sit(self) -> Seat {
        // Another acceptor may choose the same one at this moment; the next connection makes up for that.
        let counts = self.seats.shards.iter().map(|count| count.0.load(Relaxed));
        let (shard, _) = counts.enumerate().min_by_key(|&(_, count)| count).expect("there are shards");
        self.seats.shards[shard].0.fetch_add(1, Relaxed);
        Seat { reserved: self, shard }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.seats.total.fetch_sub(1, Relaxed);
    }
}

/// A connection's seat; dropping it gives it back, on any core.
#[derive(Debug)]
pub struct Seat {
    reserved: Reserved,
    shard: usize,
}

impl Seat {
    pub fn shard(&self) -> usize {
        self.shard
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.reserved.seats.shards[self.shard].0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_shard_gets_the_next_connection() {
        let seats = Seats::new(3, 100);
        let mut held: Vec<Seat> = (0..6).map(|_| seats.reserve().unwrap().sit()).collect();
        assert_eq!([0, 1, 2].map(|shard| seats.of_shard(shard)), [2, 2, 2]);
        held.retain(|seat| seat.shard() != 1);
        assert_eq!(seats.of_shard(1), 0);
        assert_eq!(seats.reserve().unwrap().sit().shard(), 1);
    }

    #[test]
    fn there_are_no_more_seats_than_the_bound_and_they_come_back() {
        let seats = Seats::new(2, 3);
        let mut held: Vec<Seat> = (0..3).map(|_| seats.reserve().unwrap().sit()).collect();
        assert!(seats.reserve().is_none());
        assert_eq!(seats.taken(), 3);
        held.pop();
        assert!(seats.reserve().is_some());
        drop(held);
        assert_eq!(seats.taken(), 0);
        assert_eq!(seats.of_shard(0) + seats.of_shard(1), 0);
    }

    #[test]
    fn the_process_keeps_descriptors_for_itself() {
        let limit = runtime::descriptor_limit().unwrap();
        let seats = Seats::within_descriptor_limit(1).unwrap();
        assert_eq!(Some(seats.bound as u64), limit.map(|limit| limit - limits::RESERVED_FILE_DESCRIPTORS));
    }
}
