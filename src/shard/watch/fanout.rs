//! Gives the events of a revision to the live watches that want them. Each event is encoded once for each form in which
//! somebody wants it; what a watch costs beyond that is a head of some forty bytes.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    Resident,
    encode::{Encoded, Reply, Writer},
    table::{Standing, Table, flags},
};
use crate::store::apply::RevisionEvents;

impl Table {
    /// Delivers the next revision. Gives the number of watches that it concerned. What was delivered before is passed
    /// over.
    ///
    /// A watch whose stream takes no more, or whose prev_kv is not in memory, is behind from this revision on.
    pub fn deliver(&mut self, batch: &RevisionEvents, values: &dyn Resident, term: u64) -> usize {
        if batch.revision <= self.revision {
            return 0;
        }
        self.revision = batch.revision;
        let mut hits = std::mem::take(&mut self.hits);
        for (at, live) in batch.events.iter().enumerate() {
            self.groups.find(&live.event.key, &mut |group| hits.push((group, at as u32)));
        }
        if batch.events.len() > 1 {
            hits.sort_unstable();
        }
        let mut forms =
            Forms { batch, values, hits: &hits, header: self.header(batch.revision, term), encoded: [None, None] };
        let mut concerned = 0;
        for group in hits.chunk_by(|a, b| a.0 == b.0) {
            concerned += self.deliver_group(group, &mut forms);
        }
        drop(forms);
        hits.clear();
        self.hits = hits;
        concerned
    }

    /// `hits`: the events of the revision that one group wants.
    fn deliver_group(&mut self, hits: &[(u32, u32)], forms: &mut Forms<'_>) -> usize {
        let revision = forms.batch.revision;
        let mut bodies: [Option<Body>; flags::FORM as usize + 1] = Default::default();
        let Table { groups, watches, streams, queued, behind, events: sent, pending_events, woken, settings, .. } =
            self;
        let members = groups.members(hits[0].0);
        for at in members {
            let watch = &mut watches[*at as usize];
            if watch.standing != Standing::Live || watch.position > revision {
                continue;
            }
            let form = watch.flags & flags::FORM;
            let body = match &bodies[form as usize] {
                Some(body) => body,
                None => bodies[form as usize].insert(forms.body(hits, form)),
            };
            let stream = &mut streams[watch.stream as usize];
            let (events, parts) = match body {
                Body::Nothing => continue,
                Body::Events { events, parts } if settings.bounds.admit(stream, *queued) => (events, parts),
                _ => {
                    Table::set_behind(watches, streams, woken, *at, revision);
                    *behind += 1;
                    continue;
                }
            };
            let reply = Reply { header: &forms.header, watch_id: watch.id, ..Reply::default() };
            let before = stream.out.bytes();
            if watch.flags & flags::FRAGMENT == 0 {
                stream.out.reply(&reply, parts);
            } else {
                let encoded = forms.encoded[usize::from(form & flags::PREV_KV)].as_ref().expect("the body is of it");
                encoded.reply(&mut stream.out, &reply, events, parts, Some(settings.fragment_bytes));
            }
            *queued += stream.out.bytes() - before;
            *sent += events.len() as u64;
            *pending_events += events.len() as u64;
            stream.events += events.len() as u64;
            watch.flags &= !(flags::QUIET | flags::FUTURE);
            Table::wake(stream, woken);
        }
        members.len()
    }
}

/// What one group's watches of one form are sent.
enum Body {
    /// The filters leave nothing.
    Nothing,
    /// A value is not in memory.
    Missing,
    /// Numbers of the events in their encoding, and their bytes.
    Events { events: SmallVec<[u32; 4]>, parts: SmallVec<[Bytes; 1]> },
}

/// The events of a revision in the forms that have been asked for so far.
struct Forms<'a> {
    batch: &'a RevisionEvents,
    values: &'a dyn Resident,
    /// Group and event, for all groups: events that nobody wants are not encoded.
    hits: &'a [(u32, u32)],
    header: BytesMut,
    /// Without prev_kv, and with. An event keeps its number; one that nobody wants takes no bytes.
    encoded: [Option<Encoded>; 2],
}

impl Forms<'_> {
    fn body(&mut self, hits: &[(u32, u32)], form: u8) -> Body {
        let events: SmallVec<[u32; 4]> = hits
            .iter()
            .map(|(_, event)| *event)
            .filter(|event| {
                let deleted = self.batch.events[*event as usize].event.meta.is_tombstone();
                form & if deleted { flags::NO_DELETE } else { flags::NO_PUT } == 0
            })
            .collect();
        if events.is_empty() {
            return Body::Nothing;
        }
        let with_prev = form & flags::PREV_KV;
        if self.encoded[usize::from(with_prev)].is_none() {
            match self.encode(with_prev != 0) {
                Some(encoded) => self.encoded[usize::from(with_prev)] = Some(encoded),
                None => return Body::Missing,
            }
        }
        let parts = self.encoded[usize::from(with_prev)].as_ref().expect("just encoded").parts(&events);
        Body::Events { events, parts }
    }

    fn encode(&self, with_prev: bool) -> Option<Encoded> {
        let mut wanted = vec![false; self.batch.events.len()];
        self.hits.iter().for_each(|(_, event)| wanted[*event as usize] = true);
        let mut writer = Writer::default();
        for (live, wanted) in self.batch.events.iter().zip(wanted) {
            if !wanted {
                writer.skip();
                continue;
            }
            let meta = &live.event.meta;
            // A key that this very revision created has nothing before it, even if it was there before and was
            // deleted first. (etcd: v3rpc/watch.go, IsCreateEvent.)
            let prev = live.prev.filter(|_| with_prev && meta.create != meta.revision.main);
            writer.event(&live.event.key, meta, live.value.as_deref(), prev, self.values);
            if !writer.holes.is_empty() {
                return None;
            }
        }
        Some(writer.finish())
    }
}
