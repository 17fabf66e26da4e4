//! The revision index: every key's newest state in order of key, every retained event in order of revision, values by
//! place only. One writer changes it; a clone is an immutable view of the moment. Reads no values and no clock.
//!
//! A key's history is a chain through the event index: each event names the one before it and a jump farther back
//! (skew-binary jump pointers: E. Myers, "An applicative random-access stack", 1983), so that "the newest at or before
//! R" takes O(log n) steps for a key with n events. A jump is followed only to a revision above R, so never into what
//! compaction has removed.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    codec::{self, EventRef, Link, Onward},
    events::Events,
    tree::{self, Measure, Step, Tree},
    types::{Event, KeyMeta, KeyRange, KeyRef, Place, Revision},
    usage::Usage,
};
use crate::error::{self, Status};

mod changes;

/// What an inner node of the key tree knows of the keys beneath it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySummary {
    /// Keys that live now.
    pub live: u64,
    /// Newest main revision beneath, tombstones included; compaction may leave it too high, never too low.
    pub newest: i64,
    /// The last at which a key beneath came to be or was deleted; too high at times, never too low. Most writes change
    /// keys that live, and what counts keys passes over those.
    pub turned: i64,
}

pub struct KeyMeasure;

impl Measure for KeyMeasure {
    type Summary = KeySummary;

    fn of(_: &[u8], value: &[u8]) -> KeySummary {
        let (live, newest, turned) = codec::key_summary(value);
        KeySummary { live: u64::from(live), newest, turned }
    }

    fn merge(left: KeySummary, right: KeySummary) -> KeySummary {
        KeySummary {
            live: left.live + right.live,
            newest: left.newest.max(right.newest),
            turned: left.turned.max(right.turned),
        }
    }

    fn replace(whole: KeySummary, old: Option<KeySummary>, new: Option<KeySummary>) -> KeySummary {
        let new = new.unwrap_or_default();
        KeySummary {
            live: whole.live - old.unwrap_or_default().live + new.live,
            newest: whole.newest.max(new.newest),
            turned: whole.turned.max(new.turned),
        }
    }
}

/// Whether a compaction has anything left to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    More,
}

/// Where the removal of superseded events stands. Part of the checkpoint: a restart goes on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Events before this have been looked at.
    pub next: Revision,
    /// What lies at or below this and is superseded goes.
    pub target: i64,
}

#[derive(Clone, Debug)]
pub struct Index {
    keys: Tree<KeyMeasure>,
    events: Events,
    current: i64,
    compacted: i64,
    sweep: Sweep,
    usage: Arc<Usage>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An empty store: revision 1, nothing compacted (-1).
    pub fn new() -> Self {
        Index {
            keys: Tree::new(),
            events: Events::default(),
            current: 1,
            compacted: -1,
            sweep: Sweep { next: Revision::ZERO, target: -1 },
            usage: Arc::default(),
        }
    }

    /// Put together again from a checkpoint.
    pub(super) fn restored(
        keys: Tree<KeyMeasure>,
        events: Events,
        current: i64,
        compacted: i64,
        sweep: Sweep,
        usage: Usage,
    ) -> Self {
        Index { keys, events, current, compacted, sweep, usage: Arc::new(usage) }
    }

    pub(super) fn keys_tree(&self) -> &Tree<KeyMeasure> {
        &self.keys
    }

    pub(super) fn all_events(&self) -> &Events {
        &self.events
    }

    /// The store's revision.
    pub fn current(&self) -> i64 {
        self.current
    }

    /// The revision compacted to; -1 if never.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn sweep(&self) -> Sweep {
        self.sweep
    }

    /// Where retained values lie, by segment.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Keys that live now.
    pub fn live_keys(&self) -> u64 {
        self.keys.summary().live
    }

    /// Events retained.
    pub fn event_count(&self) -> u64 {
        self.events.len()
    }

    // ---- changes: the writer only ----

    pub fn set_current(&mut self, main: i64) {
        debug_assert!(main >= self.current);
        self.current = main;
    }

    /// Records a put and gives the key's state before it, if it lived. `create` and `version` follow from that.
    pub fn put(&mut self, revision: Revision, key: &[u8], lease: i64, place: Place) -> Option<KeyMeta> {
        let mut live = None;
        self.record(key, &mut |before| {
            live = before.filter(|meta| !meta.is_tombstone());
            KeyMeta {
                revision,
                create: live.map_or(revision.main, |meta| meta.create),
                version: live.map_or(1, |meta| meta.version + 1),
                lease,
                place,
            }
        });
        if place.len > 0 {
            Arc::make_mut(&mut self.usage).add(place, revision.main);
        }
        live
    }

    /// Records a delete and gives the state it ended. None, and nothing recorded, if the key does not live.
    pub fn delete(&mut self, revision: Revision, key: &[u8]) -> Option<KeyMeta> {
        let live = self.keys.get(key).map(codec::key).filter(|meta| !meta.is_tombstone())?;
        self.record(key, &mut |_| KeyMeta { revision, ..KeyMeta::default() });
        Some(live)
    }

    /// Records a change as another store had it, its create revision and version included. Revisions ascend.
    pub fn adopt(&mut self, key: &[u8], meta: KeyMeta) {
        self.record(key, &mut |_| meta);
        if meta.place.len > 0 {
            Arc::make_mut(&mut self.usage).add(meta.place, meta.revision.main);
        }
        self.current = self.current.max(meta.revision.main);
    }

    /// The same for many changes, in order of revision: keys are looked up in their order, each place of the tree once.
    pub fn adopt_all(&mut self, changes: &[(&[u8], KeyMeta)]) {
        let mut order = in_order_of_key(changes);
        let mut before: Vec<Option<Revision>> = vec![None; changes.len()];
        // Of each key, the first of its changes and the last.
        let mut ends: Vec<(usize, usize)> = Vec::with_capacity(changes.len());
        for at in order.drain(..) {
            match ends.last_mut().filter(|(first, _)| changes[*first].0 == changes[at].0) {
                Some((_, last)) => {
                    before[at] = Some(changes[*last].1.revision);
                    *last = at;
                }
                None => ends.push((at, at)),
            }
        }
        let keys: Vec<&[u8]> = ends.iter().map(|(first, _)| changes[*first].0).collect();
        self.keys.merge(&keys, &mut |at, old, out| {
            let (first, last) = ends[at];
            before[first] = old.map(|old| codec::key(old).revision);
            // What its next event needs is with its newest one, whose link is not made yet.
            codec::put_key(out, &changes[last].1, None);
        });
        let usage = Arc::make_mut(&mut self.usage);
        for ((key, meta), before) in changes.iter().zip(before) {
            let link = before.map(|before| link_to(&self.events, before, None));
            self.events.push(&EventRef { key, meta: *meta, link });
            if meta.place.len > 0 {
                usage.add(meta.place, meta.revision.main);
            }
            self.current = self.current.max(meta.revision.main);
        }
    }

    /// Takes note that the store whose changes are adopted was compacted up to `revision`, and nothing is left to remove.
    pub fn adopt_compacted(&mut self, revision: i64) {
        self.compacted = revision;
        self.current = self.current.max(revision);
        self.sweep = Sweep { next: Revision::new(revision + 1, 0), target: revision };
    }

    /// Makes a new state of a key's newest one, and an event of that.
    fn record(&mut self, key: &[u8], change: &mut dyn FnMut(Option<KeyMeta>) -> KeyMeta) {
        let Index { keys, events, .. } = self;
        keys.update(key, &mut |before, out| {
            let before = before.map(codec::key_and_onward);
            let meta = change(before.map(|(before, _)| before));
            let link = before.map(|(before, onward)| link_to(events, before.revision, onward));
            events.push(&EventRef { key, meta, link });
            codec::put_key(out, &meta, link.map(Onward::from));
        });
    }

    /// Moves the value of one event. False if the event is gone or its value lies elsewhere by now.
    pub fn relocate(&mut self, revision: Revision, from: Place, to: Place) -> bool {
        debug_assert_eq!(from.len, to.len);
        let Some(event) = self.event_ref(revision).filter(|event| event.meta.place == from) else { return false };
        let meta = KeyMeta { place: to, ..event.meta };
        let (key, link) = (event.key.to_vec(), event.link);
        if self.keys.get(&key).map(codec::key).is_some_and(|newest| newest.revision == revision) {
            let mut state = Vec::new();
            codec::put_key(&mut state, &meta, link.map(Onward::from));
            self.keys.insert(&key, &state);
        }
        self.events.replace(&EventRef { key: &key, meta, link });
        let usage = Arc::make_mut(&mut self.usage);
        usage.remove(from);
        usage.add(to, revision.main);
        true
    }

    /// Compacts history up to `revision`: from now on reads below it fail; `compaction_step` removes what that makes
    /// superfluous. (etcd API, KV.Compact.)
    pub fn begin_compaction(&mut self, revision: i64) -> Result<(), Status> {
        if revision <= self.compacted {
            return Err(error::COMPACTED);
        }
        if revision > self.current {
            return Err(error::FUTURE_REV);
        }
        // The tombstones that were exactly at the last target are still there, those too that an unfinished sweep has
        // passed.
        self.sweep.next = self.sweep.next.min(Revision::new(self.compacted.max(0), 0));
        self.sweep.target = revision;
        self.compacted = revision;
        Ok(())
    }

    /// Whether superseded events wait to be removed.
    pub fn compacting(&self) -> bool {
        self.sweep.next.main <= self.sweep.target
    }

    /// Looks at up to `budget` events and removes what they supersede: of each key, everything before its newest state
    /// at or below the target, and that too if it is a tombstone below the target (one at the target stays, as
    /// in etcd since 3.5.16). `freed` is told each place that is no longer pointed at.
    pub fn compaction_step(&mut self, budget: usize, freed: &mut dyn FnMut(Place)) -> Progress {
        let target = self.sweep.target;
        let mut superseded: Vec<Revision> = Vec::new();
        let mut dead_keys: Vec<(Vec<u8>, Revision)> = Vec::new();
        let mut next = Revision::new(target + 1, 0);
        for (looked_at, event) in self.events.iter_from(self.sweep.next).enumerate() {
            let revision = event.meta.revision;
            if revision.main > target {
                break;
            }
            if looked_at == budget {
                next = revision;
                break;
            }
            if let Some(link) = event.link {
                superseded.push(link.prev);
            }
            if event.meta.is_tombstone() && revision.main < target {
                superseded.push(revision);
                dead_keys.push((event.key.to_vec(), revision));
            }
        }
        // In order, so that what lies together goes together.
        superseded.sort_unstable();
        let usage = &mut self.usage;
        self.events.remove(&superseded, &mut |event| {
            let place = event.meta.place;
            if place.len > 0 {
                Arc::make_mut(usage).remove(place);
                freed(place);
            }
        });
        for (key, revision) in dead_keys {
            if self.keys.get(&key).map(codec::key).is_some_and(|newest| newest.revision == revision) {
                self.keys.remove(&key);
            }
        }
        self.sweep.next = next;
        if self.compacting() { Progress::More } else { Progress::Done }
    }

    // ---- reads: anybody ----

    /// Whether the store can be read at `at` (0 or less: now). (etcd API, KV.Range: revision.)
    pub fn check_revision(&self, at: i64) -> Result<(), Status> {
        if at > self.current {
            return Err(error::FUTURE_REV);
        }
        if at > 0 && at < self.compacted {
            return Err(error::COMPACTED);
        }
        Ok(())
    }

    fn is_now(&self, at: i64) -> bool {
        at <= 0 || at >= self.current
    }

    /// A key's state at `at` (0 or less: now), if it lived then.
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyMeta> {
        let newest = codec::key(self.keys.get(key)?);
        self.state_at(newest, at)
    }

    fn state_at(&self, newest: KeyMeta, at: i64) -> Option<KeyMeta> {
        if self.is_now(at) || newest.revision.main <= at {
            return (!newest.is_tombstone()).then_some(newest);
        }
        let mut event = self.event_ref(newest.revision)?;
        while event.meta.revision.main > at {
            let link = event.link?;
            let back = if link.jump.main > at { link.jump } else { link.prev };
            // None: what the key was then was a tombstone that compaction has removed.
            event = self.event_ref(back)?;
        }
        (!event.meta.is_tombstone()).then_some(event.meta)
    }

    /// The keys of a range that live at `at` (0 or less: now), in order of key.
    pub fn iter<'a>(&'a self, range: KeyRange<'a>, at: i64) -> RangeIter<'a> {
        let (from, end) = bounds(range);
        RangeIter { index: self, entries: self.keys.iter_from(from), end, at }
    }

    /// The same with the keys copied out.
    pub fn iter_refs<'a>(&'a self, range: KeyRange<'a>, at: i64) -> impl Iterator<Item = KeyRef> + 'a {
        self.iter(range, at).map(|(key, meta)| KeyRef { key: Bytes::copy_from_slice(key), meta })
    }

    /// How many keys of a range live at `at` (0 or less: now). O(log n) for the parts of the tree in which no key has
    /// come or gone since, whatever else has changed there.
    pub fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        if let KeyRange::One(key) = range {
            return u64::from(self.get(key, at).is_some());
        }
        let now = self.is_now(at);
        let (mut whole, mut single) = (0, 0);
        let (from, to) = match range {
            KeyRange::Between(from, to) => (from, Some(to)),
            KeyRange::From(from) | KeyRange::One(from) => (from, None),
        };
        self.keys.descend(
            from,
            to,
            &mut |summary: KeySummary| {
                if now || summary.turned <= at {
                    whole += summary.live;
                    Step::Skip
                } else {
                    Step::Enter
                }
            },
            &mut |_, value| {
                let (live, _, turned) = codec::key_summary(value);
                let lived = if turned <= at { live } else { self.state_at(codec::key(value), at).is_some() };
                single += u64::from(lived);
                true
            },
        );
        whole + single
    }

    /// The event at a revision, if it is retained, borrowed.
    pub fn event_ref(&self, revision: Revision) -> Option<EventRef<'_>> {
        self.events.get(revision)
    }

    /// The event at a revision, if it is retained.
    pub fn event(&self, revision: Revision) -> Option<Event> {
        self.event_ref(revision).map(to_event)
    }

    /// The events from `from` on through main revision `through`, in order, borrowed.
    pub fn event_refs(&self, from: Revision, through: i64) -> impl Iterator<Item = EventRef<'_>> {
        self.events.iter_from(from).take_while(move |event| event.meta.revision.main <= through)
    }

    /// The same with the keys copied out.
    pub fn events(&self, from: Revision, through: i64) -> impl Iterator<Item = Event> + '_ {
        self.event_refs(from, through).map(to_event)
    }

    /// What `prev_kv` of an event is: its key's state at the main revision before, if it lived then and history still
    /// reaches there. (etcd API, Watch: prev_kv.)
    pub fn prev_of(&self, event: &Event) -> Option<KeyMeta> {
        self.prev_state(&event.meta, event.prev)
    }

    /// The same, by what the event made of its key and the revision of the event before it. A put that makes a key has
    /// none, even where a key of that name went in the same revision (etcd: v3rpc/watch.go, IsCreateEvent).
    pub fn prev_state(&self, meta: &KeyMeta, prev: Option<Revision>) -> Option<KeyMeta> {
        let main = meta.revision.main;
        if main - 1 < self.compacted || meta.create == main {
            return None;
        }
        let mut before = self.event_ref(prev?)?;
        // A transaction may change a key twice: what was before it counts.
        while before.meta.revision.main == main {
            before = self.event_ref(before.link?.prev)?;
        }
        (!before.meta.is_tombstone()).then_some(before.meta)
    }
}

/// Where changes are by their keys, and those of one key as they were.
fn in_order_of_key(changes: &[(&[u8], KeyMeta)]) -> Vec<usize> {
    let Some(((first, _), rest)) = changes.split_first() else { return Vec::new() };
    // What all keys begin with says nothing; of most, the eight bytes behind it say enough.
    let alike = rest.iter().fold(first.len(), |alike, (key, _)| tree::common(&first[..alike], key));
    let head = |key: &[u8]| {
        let mut head = [0; 8];
        let rest = &key[alike..];
        let shown = rest.len().min(8);
        head[..shown].copy_from_slice(&rest[..shown]);
        u64::from_be_bytes(head)
    };
    let mut order: Vec<(u64, usize)> = changes.iter().zip(0..).map(|((key, _), at)| (head(key), at)).collect();
    order.sort_unstable_by(|(left_head, left), (right_head, right)| {
        let by_key = || changes[*left].0.cmp(changes[*right].0).then(left.cmp(right));
        left_head.cmp(right_head).then_with(by_key)
    });
    order.into_iter().map(|(_, at)| at).collect()
}

/// How an event after `prev` hangs on the chain. `onward` is of the link of `prev`, where the key's state had it. How far a
/// jump goes follows from the depth alone, so that nothing else is looked up, or one event. Where compaction has removed what the
/// jump is read from, the chain begins anew.
fn link_to(events: &Events, prev: Revision, onward: Option<Onward>) -> Link {
    let link_of = |revision: Revision| events.get(revision).and_then(|event| event.link).map(Onward::from);
    let first = Link { prev, jump: prev, depth: 1 };
    let Some(near) = onward.or_else(|| link_of(prev)) else { return first };
    let depth = near.depth + 1;
    let len = jump_len(near.depth);
    if jump_len(near.depth - len) != len {
        return Link { prev, jump: prev, depth };
    }
    // Two jumps of one length: this one takes both.
    match link_of(near.jump) {
        Some(far) => Link { prev, jump: far.jump, depth },
        None => first,
    }
}

/// How many events the jump of one at this depth passes back: the last term of the depth as a sum of numbers 2^k - 1,
/// largest first. 0 for a chain's first event, which has none.
fn jump_len(depth: u64) -> u64 {
    let mut rest = depth;
    while rest > 0 {
        let term = u64::MAX >> (rest + 1).leading_zeros() >> 1;
        if term == rest {
            break;
        }
        rest -= term;
    }
    rest
}

fn to_event(event: EventRef<'_>) -> Event {
    Event { key: Bytes::copy_from_slice(event.key), meta: event.meta, prev: event.link.map(|link| link.prev) }
}

/// Where a range ends.
enum End<'a> {
    Never,
    Before(&'a [u8]),
    With(&'a [u8]),
}

fn bounds(range: KeyRange<'_>) -> (&[u8], End<'_>) {
    match range {
        KeyRange::One(key) => (key, End::With(key)),
        KeyRange::From(key) => (key, End::Never),
        KeyRange::Between(key, end) => (key, End::Before(end)),
    }
}

/// Live keys of a range at a revision, in order; made by `Index::iter`.
pub struct RangeIter<'a> {
    index: &'a Index,
    entries: tree::Iter<'a, KeyMeasure>,
    end: End<'a>,
    at: i64,
}

impl<'a> Iterator for RangeIter<'a> {
    type Item = (&'a [u8], KeyMeta);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let now = self.index.is_now(self.at);
            // Stretches of deleted keys that compaction has not reached yet.
            self.entries.skip_subtrees(|summary| summary.live == 0 && (now || summary.turned <= self.at));
            let (key, value) = self.entries.next()?;
            let inside = match self.end {
                End::Never => true,
                End::Before(end) => key < end,
                End::With(last) => key <= last,
            };
            if !inside {
                return None;
            }
            if let Some(meta) = self.index.state_at(codec::key(value), self.at) {
                return Some((key, meta));
            }
        }
    }
}

#[cfg(test)]
mod tests;
