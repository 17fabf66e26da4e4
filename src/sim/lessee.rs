//! A client with a lease: has one granted, hangs a key on it, keeps it alive for a while, and then revokes it or walks away. And
//! the book of what leases were promised: none ends before its time, and each ends at last.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::TICK_US;
use crate::random::Random;

#[derive(Clone, Debug)]
pub enum Step {
    Grant { id: i64, ttl: i64 },
    Put { id: i64, key: Bytes, value: Bytes },
    Renew { id: i64 },
    Revoke { id: i64 },
}

pub struct Asked {
    pub slot: u32,
    pub at: u64,
    /// The newest revision that was known.
    pub floor: i64,
    pub step: Step,
}

struct Held {
    id: i64,
    has_key: bool,
    renewals: u64,
}

pub struct Lessee {
    number: usize,
    made: u64,
    lease: Option<Held>,
    pub waits: Option<Asked>,
    resting: bool,
}

impl Lessee {
    pub fn new(number: usize) -> Lessee {
        Lessee { number, made: 0, lease: None, waits: None, resting: false }
    }

    /// Walks away from what it has.
    pub fn rest(&mut self) {
        self.resting = true;
    }

    /// What it does next; None if nothing for now.
    pub fn next(&mut self, random: &mut Random) -> Option<Step> {
        if self.resting {
            return None;
        }
        self.made += 1;
        let Some(held) = &mut self.lease else {
            let id = ((self.number as i64 + 1) << 32) | self.made as i64;
            return Some(Step::Grant { id, ttl: random.between(1, 7) as i64 });
        };
        let id = held.id;
        if !std::mem::replace(&mut held.has_key, true) {
            let key = Bytes::from(format!("lease-{id:x}"));
            let value = Bytes::from(format!("held-{}-{}", self.number, self.made));
            return Some(Step::Put { id, key, value });
        }
        if held.renewals > 0 {
            held.renewals -= 1;
            return Some(Step::Renew { id });
        }
        self.lease = None;
        random.permille(500).then_some(Step::Revoke { id })
    }

    pub fn granted(&mut self, id: i64, random: &mut Random) {
        self.lease = Some(Held { id, has_key: false, renewals: random.below(40) });
    }

    /// It has ended, or nobody knows.
    pub fn lost(&mut self) {
        self.lease = None;
    }

    pub fn waits_for(&self, slot: u32) -> bool {
        self.waits.as_ref().is_some_and(|asked| asked.slot == slot)
    }
}

struct Entry {
    ttl_us: u64,
    /// When its client last asked for what it was then given: from then on it has its whole time.
    promised_at: u64,
    /// Its client wants it to end.
    revoking: bool,
    ended_at: Option<u64>,
}

/// All leases that were ever asked for.
pub struct Ledger {
    leases: BTreeMap<i64, Entry>,
    /// The fastest clock there was: a heartbeat interval by it.
    fastest_tick_us: u64,
    pub expired: u64,
}

/// Deadlines are kept in whole milliseconds.
const ROUNDING_US: u64 = 1000;

impl Ledger {
    pub fn new() -> Ledger {
        Ledger { leases: BTreeMap::new(), fastest_tick_us: TICK_US, expired: 0 }
    }

    pub fn clock_goes(&mut self, tick_us: u64) {
        self.fastest_tick_us = self.fastest_tick_us.min(tick_us);
    }

    pub fn asks_for(&mut self, id: i64, ttl: i64, now: u64) {
        let ttl_us = ttl as u64 * 1_000_000;
        let before = self.leases.insert(id, Entry { ttl_us, promised_at: now, revoking: false, ended_at: None });
        assert!(before.is_none(), "a lease is asked for twice");
    }

    /// It was granted or renewed for whom asked then.
    pub fn promised(&mut self, id: i64, ttl: i64, asked_at: u64) {
        let entry = self.leases.get_mut(&id).expect("a lease that was asked for");
        assert_eq!(entry.ttl_us, ttl as u64 * 1_000_000, "lease {id:x} is given another time than was asked for");
        entry.promised_at = entry.promised_at.max(asked_at);
        // The answer may come late, but what it says of the time when it was asked for must be true.
        if let Some(ended_at) = entry.ended_at {
            self.may_have_ended(id, ended_at);
        }
    }

    pub fn revokes(&mut self, id: i64) {
        self.leases.get_mut(&id).expect("a lease that was asked for").revoking = true;
    }

    /// A member tells that it is revoked.
    pub fn ended(&mut self, id: i64, now: u64) {
        let entry = self.leases.get_mut(&id).expect("a lease that was asked for");
        if entry.ended_at.is_none() {
            self.expired += u64::from(!entry.revoking);
            entry.ended_at = Some(now);
            self.may_have_ended(id, now);
        }
    }

    /// Somebody says that it has ended or is about to.
    pub fn may_have_ended(&self, id: i64, now: u64) {
        let Entry { ttl_us, promised_at, revoking, .. } = self.leases[&id];
        let least = promised_at + ttl_us * self.fastest_tick_us / TICK_US;
        assert!(
            revoking || now + ROUNDING_US >= least,
            "lease {id:x} ends at {now}, and was promised at {promised_at} for {ttl_us} more: not before {least}"
        );
    }
}
