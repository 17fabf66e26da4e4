//! The watches of the connections of one shard: who watches what, who has been told what, and what waits to be sent.
//! The table is a synchronous core; this is the room around it, with the inbox that the raft core's events come through.
//! Sockets are `api/watch.rs`'s business.
//!
//! The way of an event: the raft core's mail → `Watches::deliver` → the table finds the groups of its key and writes a
//! response for each live watch into its stream's queue → the stream's task takes the queue to flow control.

pub mod catchup;
pub mod encode;
mod fanout;
mod groups;
mod progress;
pub mod table;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::{Poll, Waker},
};

use bytes::Bytes;

pub use self::table::{Moment, Settings, StreamId, Table};
use crate::{
    limits, runtime,
    shard::view::View,
    store::{
        apply::RevisionEvents,
        index::Index,
        types::{Place, Values as _},
    },
    wal::table::SegmentTable,
};

/// Values that are in memory.
pub trait Resident {
    /// The bytes of a place, if reading them cannot stall.
    fn resident(&self, place: Place) -> Option<&[u8]>;
}

impl Resident for SegmentTable {
    fn resident(&self, place: Place) -> Option<&[u8]> {
        SegmentTable::resident(self, place)
    }
}

/// A published state and its values; holding one keeps them readable.
pub trait Snapshot: Clone + 'static {
    fn index(&self) -> &Index;

    fn values(&self) -> &dyn Resident;

    /// Reads values that need not be in memory, in order, without stalling the shard.
    fn read(&self, places: Vec<Place>) -> impl Future<Output = io::Result<Vec<Bytes>>>;
}

impl Snapshot for Arc<View> {
    fn index(&self) -> &Index {
        &self.state.index
    }

    fn values(&self) -> &dyn Resident {
        &self.segments
    }

    async fn read(&self, places: Vec<Place>) -> io::Result<Vec<Bytes>> {
        let segments = self.segments.clone();
        runtime::background(move || places.into_iter().map(|place| segments.read(place)).collect()).await
    }
}

/// The events of a turn of the raft core, and the state they led to.
struct Turn<S> {
    events: Arc<Vec<RevisionEvents>>,
    done: usize,
    snapshot: S,
    bytes: usize,
}

struct Inbox<S> {
    turns: VecDeque<Turn<S>>,
    bytes: usize,
    waker: Option<Waker>,
}

/// A shard's watches, and the events that have come for them.
pub struct Watches<S> {
    table: RefCell<Table>,
    inbox: RefCell<Inbox<S>>,
}

impl<S: Snapshot> Watches<S> {
    /// `revision`: that of the state from which events are delivered.
    pub fn new(settings: Settings, revision: i64) -> Self {
        let inbox = Inbox { turns: VecDeque::new(), bytes: 0, waker: None };
        Watches { table: RefCell::new(Table::new(settings, revision)), inbox: RefCell::new(inbox) }
    }

    /// Does something with the table, then wakes the tasks that it concerns.
    pub fn with<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        let (result, woken) = {
            let mut table = self.table.borrow_mut();
            let result = work(&mut table);
            (result, table.woken())
        };
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// Takes in the events of a turn. The first slice is fanned out at once; what is left is `drive`'s.
    pub fn deliver(&self, events: &Arc<Vec<RevisionEvents>>, snapshot: &S, term: u64) {
        let Some(newest) = events.last() else { return };
        let overrun = {
            let mut inbox = self.inbox.borrow_mut();
            let bytes = events.iter().map(weight).sum::<usize>();
            // Alone in the inbox it may have any size: it is in memory anyway.
            let overrun = !inbox.turns.is_empty() && inbox.bytes + bytes > limits::FAN_OUT_BYTES;
            if overrun {
                inbox.turns.clear();
                inbox.bytes = 0;
            } else {
                inbox.bytes += bytes;
                let turn = Turn { events: events.clone(), done: 0, snapshot: snapshot.clone(), bytes };
                inbox.turns.push_back(turn);
            }
            overrun
        };
        if overrun {
            self.with(|table| {
                table.overrun(newest.revision);
                table.release_progress(term);
            });
        } else if self.inbox.borrow().turns.len() == 1 && self.fan_out(term) {
            let waker = self.inbox.borrow_mut().waker.take();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// The state has become another one, of this revision, and its events are in its index only.
    pub fn jump(&self, revision: i64, term: u64) {
        {
            let mut inbox = self.inbox.borrow_mut();
            inbox.turns.clear();
            inbox.bytes = 0;
        }
        self.with(|table| {
            table.overrun(revision);
            table.release_progress(term);
        });
    }

    /// Fans out one slice of what is in the inbox. True if there is more.
    pub fn fan_out(&self, term: u64) -> bool {
        self.with(|table| {
            let mut inbox = self.inbox.borrow_mut();
            let mut responses = 0;
            while let Some(turn) = inbox.turns.front_mut() {
                while let Some(batch) = turn.events.get(turn.done) {
                    if responses >= limits::FAN_OUT_RESPONSES {
                        table.release_progress(term);
                        return true;
                    }
                    turn.done += 1;
                    // An event costs something even if nobody wants it.
                    responses += batch.events.len() + table.deliver(batch, turn.snapshot.values(), term);
                }
                let done = turn.bytes;
                inbox.bytes -= done;
                inbox.turns.pop_front();
            }
            table.release_progress(term);
            false
        })
    }

    /// Fans out what `deliver` has left, slice by slice, for ever. One task a shard.
    pub async fn drive(&self, term: impl Fn() -> u64) {
        loop {
            poll_fn(|context| {
                let mut inbox = self.inbox.borrow_mut();
                if !inbox.turns.is_empty() {
                    return Poll::Ready(());
                }
                inbox.waker = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            while self.fan_out(term()) {
                let_others_run().await;
            }
        }
    }
}

/// What a revision's events keep in memory, roughly.
fn weight(batch: &RevisionEvents) -> usize {
    let of = |live: &crate::store::apply::LiveEvent| {
        size_of_val(live) + live.event.key.len() + live.value.as_ref().map_or(0, Bytes::len)
    };
    batch.events.iter().map(of).sum()
}

/// Ends this task's turn once.
pub async fn let_others_run() {
    let mut waited = false;
    poll_fn(|context| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;
