//! Deadlines of the leases that one shard owns, and the mail about them between shards. A plain structure: time comes
//! in with every call, in milliseconds of the shard's clock; what leases exist is the store's to say, what happens to
//! an expired one is decided by the log.
//!
//! A deadline is kept twice: exactly, by id, and roughly, in a wheel of slots that grow coarser the farther they lie
//! ahead. A renewal touches the first only; when a slot comes up, leases that were renewed since move on to a later
//! slot. So a renewal is one look-up, and a lease moves between slots no more often than its time halves.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::{HashMap, HashSet, hash_map::Entry};

use crate::{limits, store::lease::Lease};

/// The shard that keeps a lease's deadline.
pub fn owner(id: i64, shards: usize) -> usize {
    // Ids count up by one or by 256 (request ids), so their bits are mixed first. (Knuth, "The Art of Computer
    // Programming", 6.4: multiplicative hashing.)
    let mixed = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((mixed * shards as u64) >> 32) as usize
}

/// What one shard asks of the shard that owns a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseCall {
    Renew(i64),
    Remaining(i64),
    /// All leases that the shard owns.
    All,
}

/// What a client is told of the milliseconds that a lease has left: whole seconds, towards zero. Part of the clock's
/// present millisecond has passed, so a lease that has just been granted has not its whole time left.
pub fn whole_seconds(left_ms: i64) -> i64 {
    (left_ms - i64::from(left_ms > 0)) / 1000
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Renewed for this many seconds.
    Renewed { ttl: i64 },
    /// A checkpoint says, or is about to, that less is left: that has to be taken back first, or a later leader would end
    /// the lease too early.
    Checkpointed,
    /// Its time has passed and it is about to be revoked.
    Expired,
    /// There is no such lease.
    Unknown,
    /// Milliseconds left, negative once its time has passed; seconds it was granted for.
    Remaining { left_ms: i64, ttl: i64 },
    /// Ids and deadlines.
    All(Vec<(i64, u64)>),
    /// This member does not keep deadlines: it does not lead.
    NotPrimary,
}

/// One lease's deadline: 24 bytes beside its id.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at_ms: u64,
    /// When its slot comes up; an entry of any other slot is a leftover.
    slot_ms: u64,
    /// Seconds it was granted for; the top bit says that it has been handed out as due.
    ttl: u64,
}

const HANDED_OUT: u64 = 1 << 63;

impl Deadline {
    fn ttl(&self) -> i64 {
        (self.ttl & !HANDED_OUT) as i64
    }

    fn handed_out(&self) -> bool {
        self.ttl & HANDED_OUT != 0
    }
}

/// Deadlines of the leases that a shard owns, while its member leads; empty while it does not.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// The term in which its member leads.
    term: Option<u64>,
    leases: HashMap<i64, Deadline>,
    /// When a slot comes up, and the leases that may be in it.
    slots: BTreeMap<u64, Vec<i64>>,
    /// Entries of slots whose lease has gone.
    leftovers: usize,
    /// None: what leases have left is not told to later leaders.
    checkpoints: Option<Checkpoints>,
}

/// When what a lease has left is to be put into the log, so that a later leader goes on from there. (etcd: lessor.go, the gate
/// LeaseCheckpoint.)
#[derive(Debug, Default)]
struct Checkpoints {
    interval_ms: u64,
    /// The next one of each lease that has one.
    next: HashMap<i64, u64>,
    by_time: BTreeSet<(u64, i64)>,
    /// Those that are on their way into the log.
    under_way: HashSet<i64>,
}

impl Checkpoints {
    /// etcd lets a lease alone that has no more left than the interval.
    fn schedule(&mut self, id: i64, left_s: i64, now_ms: u64) {
        self.unschedule(id);
        if after(0, left_s) > self.interval_ms {
            self.next.insert(id, now_ms + self.interval_ms);
            self.by_time.insert((now_ms + self.interval_ms, id));
        }
    }

    fn unschedule(&mut self, id: i64) {
        if let Some(at_ms) = self.next.remove(&id) {
            self.by_time.remove(&(at_ms, id));
        }
    }

    fn forget(&mut self, id: i64) {
        self.unschedule(id);
        self.under_way.remove(&id);
    }
}

impl Deadlines {
    /// With checkpoints, each so long after the one before.
    pub fn checkpointing(interval_ms: u64) -> Self {
        let checkpoints = Checkpoints { interval_ms, ..Checkpoints::default() };
        Deadlines { checkpoints: Some(checkpoints), ..Deadlines::default() }
    }

    pub fn is_primary(&self) -> bool {
        self.term.is_some()
    }

    /// The term in which this member looks after leases; None while it does not.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// A lease was granted for `ttl` seconds. Known ones are left as they are: the news may come twice.
    pub fn granted(&mut self, id: i64, ttl: i64, now_ms: u64) {
        if self.is_primary() && self.insert(id, ttl, after(now_ms, ttl), now_ms) {
            self.schedule_checkpoint(id, ttl, now_ms);
        }
    }

    pub fn revoked(&mut self, id: i64) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.forget(id);
        }
        if self.leases.remove(&id).is_some() {
            self.leftovers += 1;
            if self.leftovers > self.leases.len() + 1024 {
                self.sweep_leftovers();
            }
        }
    }

    /// Gives a lease its whole time again and tells how many seconds that is. None if it is not known, or if its time
    /// has passed: an expired lease is not brought back (etcd: lessor.go, Renew).
    pub fn renew(&mut self, id: i64, now_ms: u64) -> Option<i64> {
        let deadline = self.leases.get_mut(&id)?;
        if deadline.handed_out() || deadline.at_ms <= now_ms {
            return None;
        }
        deadline.at_ms = after(now_ms, deadline.ttl());
        Some(deadline.ttl())
    }

    /// Whether a checkpoint of it is to be taken back before it may be renewed. `told`: the seconds that the last one left.
    pub fn is_checkpointed(&self, id: i64, told: i64) -> bool {
        self.checkpoints.as_ref().is_some_and(|checkpoints| told > 0 || checkpoints.under_way.contains(&id))
    }

    /// A checkpoint has been applied. Gives whether it says less than what is promised by now: one that a leader of before
    /// has logged, which has come behind a renewal here.
    pub fn checkpointed(&mut self, id: i64, told: i64, now_ms: u64) -> bool {
        let Some(deadline) = self.leases.get(&id).copied() else { return false };
        let Some(checkpoints) = &mut self.checkpoints else { return false };
        let was_ours = checkpoints.under_way.remove(&id);
        checkpoints.schedule(id, if told > 0 { told } else { deadline.ttl() }, now_ms);
        told > 0 && !was_ours && deadline.at_ms > after(now_ms, told)
    }

    /// What is left, in seconds, of up to `max` leases whose checkpoint is due.
    pub fn checkpoints_due(&mut self, now_ms: u64, max: usize) -> Vec<(i64, i64)> {
        let Some(checkpoints) = &mut self.checkpoints else { return Vec::new() };
        let mut due = Vec::new();
        while let Some((at_ms, id)) = checkpoints.by_time.first().copied() {
            if at_ms > now_ms || due.len() >= max {
                break;
            }
            checkpoints.unschedule(id);
            let Some(deadline) = self.leases.get(&id) else { continue };
            let left = deadline.at_ms.saturating_sub(now_ms).div_ceil(1000) as i64;
            if deadline.at_ms <= now_ms {
                continue;
            }
            if left >= deadline.ttl() {
                // It has just been renewed.
                checkpoints.schedule(id, deadline.ttl(), now_ms);
            } else if checkpoints.under_way.insert(id) {
                due.push((id, left));
            }
        }
        due
    }

    fn schedule_checkpoint(&mut self, id: i64, left_s: i64, now_ms: u64) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.schedule(id, left_s, now_ms);
        }
    }

    /// Milliseconds until a lease's time has passed, negative if it has, and the seconds it was granted for.
    pub fn remaining(&self, id: i64, now_ms: u64) -> Option<(i64, i64)> {
        let deadline = self.leases.get(&id)?;
        Some((deadline.at_ms as i64 - now_ms as i64, deadline.ttl()))
    }

    /// Ids and deadlines of all leases, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.leases.iter().map(|(id, deadline)| (*id, deadline.at_ms))
    }

    /// Up to `max` leases whose time has passed, never one too early. Each is handed out again if it has not been
    /// revoked some seconds later.
    pub fn due(&mut self, now_ms: u64, max: usize) -> Vec<i64> {
        let mut due = Vec::new();
        while let Some(mut slot) = self.slots.first_entry() {
            let slot_ms = *slot.key();
            if slot_ms > now_ms || due.len() >= max {
                break;
            }
            let Some(id) = slot.get_mut().pop() else {
                slot.remove();
                continue;
            };
            let Some(deadline) = self.leases.get_mut(&id).filter(|deadline| deadline.slot_ms == slot_ms) else {
                self.leftovers = self.leftovers.saturating_sub(1);
                continue;
            };
            deadline.slot_ms = if deadline.at_ms <= now_ms {
                due.push(id);
                deadline.ttl |= HANDED_OUT;
                (now_ms + limits::LEASE_EXPIRY_RETRY_MS).next_multiple_of(limits::LEASE_STEP_MS)
            } else {
                slot_for(deadline.at_ms, now_ms)
            };
            self.slots.entry(deadline.slot_ms).or_default().push(id);
        }
        due
    }

    /// This member leads from now on, in that term: every lease has what a checkpoint left of it, or its whole time, and
    /// `extend_ms` more, for renewals that the old leader took and nobody knows of. (etcd: lessor.go, Promote. Its
    /// spreading of deadlines that pile up is not needed: expired leases are handed out at a bounded rate anyway.)
    pub fn promote(&mut self, term: u64, leases: impl IntoIterator<Item = Lease>, extend_ms: u64, now_ms: u64) {
        self.demote();
        self.term = Some(term);
        for lease in leases {
            let left = if lease.remaining > 0 { lease.remaining } else { lease.ttl };
            self.insert(lease.id, lease.ttl, after(now_ms, left) + extend_ms, now_ms);
            self.schedule_checkpoint(lease.id, left, now_ms);
        }
    }

    /// This member does not lead any more.
    pub fn demote(&mut self) {
        *self = match &self.checkpoints {
            Some(checkpoints) => Deadlines::checkpointing(checkpoints.interval_ms),
            None => Deadlines::default(),
        };
    }

    /// False if it was there.
    fn insert(&mut self, id: i64, ttl: i64, at_ms: u64, now_ms: u64) -> bool {
        let slot_ms = slot_for(at_ms, now_ms);
        let Entry::Vacant(vacant) = self.leases.entry(id) else { return false };
        vacant.insert(Deadline { at_ms, slot_ms, ttl: ttl as u64 });
        self.slots.entry(slot_ms).or_default().push(id);
        true
    }

    fn sweep_leftovers(&mut self) {
        let leases = &self.leases;
        self.slots.retain(|slot_ms, ids| {
            ids.retain(|id| leases.get(id).is_some_and(|deadline| deadline.slot_ms == *slot_ms));
            ids.shrink_to_fit();
            !ids.is_empty()
        });
        self.leftovers = 0;
    }
}

fn after(now_ms: u64, seconds: i64) -> u64 {
    let seconds = seconds.clamp(0, limits::LEASE_TTL_SECONDS_MAX) as u64;
    now_ms + seconds * 1000
}

/// The slot in which a deadline is looked at: for one within 16 steps, its own step, rounded up; for one farther
/// ahead, the last boundary before it of a sixteenth of its distance. Slots of one width share their boundaries, so
/// there are at most about 32 slots for each doubling of the distance, whatever the number of leases.
fn slot_for(at_ms: u64, now_ms: u64) -> u64 {
    let distance = at_ms.saturating_sub(now_ms);
    if distance < 16 * limits::LEASE_STEP_MS {
        return at_ms.next_multiple_of(limits::LEASE_STEP_MS);
    }
    let width = (distance / 16 + 1).next_power_of_two() / 2;
    at_ms / width * width
}

#[cfg(test)]
mod tests;
