//! What watches are told while nothing happens to them: how far they have come, when asked and at intervals; and the
//! clock behind that and behind the end of streams that require a leader. Time comes in as a parameter.
//!
//! A progress message goes through the same queue as events, and states only a revision that the table has delivered: so
//! everything up to it lies before it. (etcd API, WatchProgressRequest and progress_notify.)

use std::cmp::Reverse;

use super::{
    encode::Reply,
    groups::NONE,
    table::{Held, Moment, NO_WATCH, Standing, Stream, StreamId, Table, Watch, flags},
};

/// Polls, one election timeout apart, that must find no leader before streams end (etcd: v3rpc, maxNoLeaderCnt).
pub(super) const LEADERLESS_POLLS: u32 = 3;

/// Whether a watch can be told of progress.
enum Progress {
    Ready,
    Silent,
    /// Once the table has come to this revision.
    At(i64),
}

impl Table {
    /// Asks for a progress message for all watches of a stream. Given only if all are live; silence otherwise, and where
    /// there are none.
    pub fn request_progress(&mut self, stream: StreamId, now: Moment) {
        self.hold_progress(stream.0, now.revision, true);
        self.release_progress(now.term);
    }

    fn hold_progress(&mut self, stream: u32, revision: i64, all: bool) {
        let entry = &mut self.streams[stream as usize];
        if all {
            // One is enough: whoever asks again before it is answered is told by the same message.
            let held = entry.progress_at;
            entry.progress_at = held.max(revision);
            if held != 0 {
                return;
            }
        }
        self.held.push(Held { revision, stream, life: entry.life, all });
    }

    /// Gives the progress messages whose revision has come.
    pub(super) fn release_progress(&mut self, term: u64) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain(|one| {
            let Some(stream) = self.streams.get(one.stream as usize).filter(|stream| stream.life == one.life) else {
                return false;
            };
            let revision = if one.all { stream.progress_at } else { one.revision };
            if revision > self.revision {
                return true;
            }
            if !one.all {
                self.notify(one.stream, term);
                return false;
            }
            let later = match self.progress_of_all(one.stream, term) {
                Progress::At(revision) => revision,
                Progress::Ready | Progress::Silent => 0,
            };
            self.streams[one.stream as usize].progress_at = later;
            later != 0
        });
        self.held = held;
    }

    fn progress_of(&self, watch: &Watch) -> Progress {
        let future = watch.flags & flags::FUTURE != 0;
        match watch.standing {
            Standing::Live if future && self.revision < watch.position => Progress::Silent,
            // It has been given more than the table has delivered: nothing older may be told any more.
            Standing::Live if self.revision + 1 < watch.position => Progress::At(watch.position - 1),
            Standing::Live => Progress::Ready,
            Standing::Behind | Standing::Dead => Progress::Silent,
        }
    }

    fn progress_of_all(&mut self, stream: u32, term: u64) -> Progress {
        let Stream { first, behind_first, .. } = self.streams[stream as usize];
        if first == NONE || behind_first != NONE {
            return Progress::Silent;
        }
        let (mut at, mut wait) = (first, None);
        while at != NONE {
            let watch = &self.watches[at as usize];
            match self.progress_of(watch) {
                Progress::Ready => {}
                Progress::Silent => return Progress::Silent,
                Progress::At(revision) => wait = wait.max(Some(revision)),
            }
            at = watch.next;
        }
        if let Some(revision) = wait {
            return Progress::At(revision);
        }
        self.tell_progress(stream, NO_WATCH, term);
        Progress::Ready
    }

    /// The interval of a stream is over: tells each watch that wants to know and has been sent nothing in it.
    fn notify(&mut self, stream: u32, term: u64) {
        let mut at = self.streams[stream as usize].first;
        while at != NONE {
            let watch = &self.watches[at as usize];
            let next = watch.next;
            if watch.flags & flags::NOTIFY != 0 {
                let id = watch.id;
                if watch.flags & flags::QUIET != 0 && matches!(self.progress_of(watch), Progress::Ready) {
                    self.tell_progress(stream, id, term);
                }
                self.watches[at as usize].flags |= flags::QUIET;
            }
            at = next;
        }
    }

    /// Everything up to the table's revision lies before this in the stream's queue. A full one is not made fuller.
    fn tell_progress(&mut self, stream: u32, id: i64, term: u64) {
        if self.settings.bounds.admit(&self.streams[stream as usize], self.queued) {
            self.reply(stream, self.revision, term, &Reply { watch_id: id, ..Reply::default() });
        }
    }

    // ---- time ----

    pub(super) fn start_timer(&mut self, stream: u32) {
        let interval = self.settings.progress_interval_ms;
        // Up to a tenth longer, so that streams that began together are not told together. (Knuth's MMIX generator.)
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let jitter = (self.random >> 33) % (interval / 10).max(1);
        let entry = &mut self.streams[stream as usize];
        entry.has_timer = true;
        self.timers.push(Reverse((self.now_ms + interval + jitter, stream, entry.life)));
    }

    /// Moves the clock on. `has_leader`: whether this member knows one.
    pub fn tick(&mut self, now_ms: u64, has_leader: bool, now: Moment) {
        self.now_ms = now_ms;
        while let Some(Reverse((due_ms, stream, life))) = self.timers.peek().copied() {
            if due_ms > now_ms {
                break;
            }
            self.timers.pop();
            if self.streams.get(stream as usize).is_some_and(|entry| entry.life == life) {
                self.hold_progress(stream, now.revision, false);
                self.start_timer(stream);
            }
        }
        self.release_progress(now.term);
        if now_ms >= self.next_poll_ms {
            self.next_poll_ms = now_ms + self.settings.election_ms;
            self.leaderless = if has_leader { 0 } else { self.leaderless + 1 };
            if self.leaderless >= LEADERLESS_POLLS {
                self.wake_all();
            }
        }
    }
}
