//! A state as etcd's database, in two passes over it: the first, when it is made, measures; then pages come as often as
//! they are asked for, each time so many. Values are left out, with the place of each: who asks puts them in, before any
//! page is taken away. Blocking only by its length: for a thread that has time.

use std::ops::{ControlFlow, Range};

use super::{ChangeValue, Content, buckets, change_name, lease_entry};
use crate::{
    bolt::{
        PAGE_BYTES,
        write::{Hole, Part, Planner, Writer},
    },
    store::{
        codec::EventRef,
        lease::Lease,
        state::State,
        types::{Place, Revision},
    },
};

/// A state on its way out. Owns the state, so that what it points at stays where it is.
pub struct Export {
    state: State,
    buckets: Vec<(&'static str, Content)>,
    writer: Writer<Place>,
    bytes: u64,
    changes: Range<u64>,
    /// The bucket that is being written, and what of it comes next.
    at: usize,
    next: Next,
    is_done: bool,
}

/// Where a bucket's content goes on.
#[derive(Clone, Copy, Debug)]
enum Next {
    Entry(usize),
    Change(Revision),
    Lease(u64),
}

impl Next {
    fn beginning(content: &Content) -> Next {
        match content {
            Content::Entries(_) => Next::Entry(0),
            Content::Changes => Next::Change(Revision::ZERO),
            Content::Leases => Next::Lease(0),
        }
    }
}

impl Export {
    /// Looks through the state once.
    pub fn new(state: State) -> Export {
        let buckets = Vec::from(buckets(&state));
        let mut planner = Planner::default();
        let mut changes = 0..0;
        for (name, content) in &buckets {
            match content {
                Content::Entries(entries) => {
                    planner.bucket(name, entries.iter().map(|(key, value)| (key.len(), value.len())));
                }
                Content::Changes => {
                    let size =
                        |event: EventRef<'_>| (change_name(&event.meta).1, ChangeValue::len(event.key, &event.meta));
                    changes = planner.bucket(name, state.index.event_refs(Revision::ZERO, i64::MAX).map(size));
                }
                Content::Leases => {
                    let size = |lease: Lease| (8, lease_entry(&lease).1.len());
                    planner.bucket(name, state.leases.iter_as_unsigned(0).map(size));
                }
            }
        }
        let layout = planner.finish();
        let next = Next::beginning(&buckets[0].1);
        let bytes = layout.bytes();
        Export { state, buckets, bytes, changes, writer: Writer::new(layout), at: 0, next, is_done: false }
    }

    /// The pages of bucket `key`; none if its changes are so few that they have no page of their own.
    pub fn changes(&self) -> Range<u64> {
        self.changes.clone()
    }

    /// Bytes of the whole database.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes pages until there are so many bytes of them, or all that are left. Gives the places in `pages` where values
    /// belong; they are to be put there before anything is taken.
    pub fn make(&mut self, bytes: usize) -> Vec<Hole<Place>> {
        let all = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let missing = bytes.min(all).saturating_sub(self.writer.out().len());
        self.writer.out().reserve(missing + PAGE_BYTES);
        while !self.is_done && self.writer.out().len() < bytes {
            if self.go_on(bytes).is_continue() {
                self.writer.end_bucket();
                self.at += 1;
                match self.buckets.get(self.at) {
                    Some((_, content)) => self.next = Next::beginning(content),
                    None => {
                        self.writer.finish();
                        self.is_done = true;
                    }
                }
            }
        }
        self.writer.take_holes()
    }

    /// What has been made and not taken yet.
    pub fn pages(&mut self) -> &mut bytes::BytesMut {
        self.writer.out()
    }

    /// Goes on with a bucket. `Break`: there are as many bytes as are wanted, and it is not at its end.
    fn go_on(&mut self, bytes: usize) -> ControlFlow<()> {
        let Export { state, buckets, writer, next, .. } = self;
        match next {
            Next::Entry(at) => {
                let Content::Entries(entries) = &buckets[self.at].1 else { unreachable!("begun as entries") };
                for (key, value) in &entries[*at..] {
                    writer.entry(key, &[Part::Bytes(value)]);
                    *at += 1;
                    if writer.out().len() >= bytes {
                        return ControlFlow::Break(());
                    }
                }
            }
            Next::Change(from) => {
                let mut value = ChangeValue::default();
                for event in state.index.event_refs(*from, i64::MAX) {
                    let (meta, revision) = (&event.meta, event.meta.revision);
                    value.set(event.key, meta);
                    let (name, len) = change_name(meta);
                    let whole = [
                        Part::Bytes(&value.head),
                        Part::Later(meta.place, meta.place.len as usize),
                        Part::Bytes(&value.tail),
                    ];
                    writer.entry(&name[..len], &whole);
                    *from = Revision::new(revision.main, revision.sub + 1);
                    if writer.out().len() >= bytes {
                        return ControlFlow::Break(());
                    }
                }
            }
            Next::Lease(from) => {
                for lease in state.leases.iter_as_unsigned(*from) {
                    let (key, value) = lease_entry(&lease);
                    writer.entry(&key, &[Part::Bytes(&value)]);
                    let Some(after) = (lease.id as u64).checked_add(1) else { break };
                    *from = after;
                    if writer.out().len() >= bytes {
                        return ControlFlow::Break(());
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}
