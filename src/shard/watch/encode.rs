//! Watch responses as bytes: events encoded once, heads written per watch, both gathered per stream until flow control
//! takes them. Sends nothing itself.
//! (etcd API, WatchResponse and mvccpb.Event.)

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::Resident;
use crate::{
    limits,
    store::types::{KeyMeta, Place},
    wire::{frame::PREFIX_BYTES, head::kv_len, *},
};

/// Field number of WatchResponse.events.
const EVENTS: u8 = 11;

/// Bytes that wait for a stream's flow control: whole messages, each with its prefix.
#[derive(Default)]
pub struct Outgoing {
    parts: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Outgoing {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything that waits, in order; keeps no memory.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.close_tail();
        self.bytes = 0;
        std::mem::take(&mut self.parts)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// Adds a message: what `reply` says, then `body`, the encoded events. A large body is shared, a small one copied.
    pub fn reply(&mut self, reply: &Reply<'_>, body: &[Bytes]) {
        let body_len: usize = body.iter().map(Bytes::len).sum();
        let head_len = reply.encoded_len();
        let copied = body_len < limits::WATCH_SHARED_BYTES_MIN;
        let room = PREFIX_BYTES + head_len + if copied { body_len } else { 0 };
        // Large enough for an HTTP/2 frame: growing further would only copy.
        if !self.tail.is_empty() && self.tail.len() + room > limits::WATCH_TAIL_BYTES {
            self.close_tail();
        }
        self.tail.reserve(room);
        self.tail.put_u8(0);
        self.tail.put_u32(u32::try_from(head_len + body_len).expect("a message is shorter than 4 GiB"));
        reply.put(&mut self.tail);
        if copied {
            body.iter().for_each(|part| self.tail.put_slice(part));
        } else {
            self.close_tail();
            self.parts.extend_from_slice(body);
        }
        self.bytes += PREFIX_BYTES + head_len + body_len;
    }
}

/// A WatchResponse without its events.
#[derive(Clone, Copy, Default)]
pub struct Reply<'a> {
    /// The field `header`, encoded: the same for all watches of a turn.
    pub header: &'a [u8],
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: &'a str,
    pub fragment: bool,
}

impl Reply<'_> {
    pub fn encoded_len(&self) -> usize {
        self.header.len()
            + int_len(self.watch_id)
            + uint_len(self.created.into())
            + uint_len(self.canceled.into())
            + int_len(self.compact_revision)
            + bytes_len(self.cancel_reason.len())
            + uint_len(self.fragment.into())
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.header);
        put_int(out, 2, self.watch_id);
        put_bool(out, 3, self.created);
        put_bool(out, 4, self.canceled);
        put_int(out, 5, self.compact_revision);
        put_bytes(out, 6, self.cancel_reason.as_bytes());
        put_bool(out, 7, self.fragment);
    }
}

/// Events being encoded as the field `events`, one after another.
#[derive(Debug, Default)]
pub struct Writer {
    pub out: BytesMut,
    /// Where each event ends.
    pub ends: SmallVec<[u32; 4]>,
    /// Offsets that wait for the bytes of a place.
    pub holes: Vec<(usize, Place)>,
}

impl Writer {
    /// `value`: the event's value where it is at hand. What is not resident leaves a hole of its exact length.
    pub fn event(
        &mut self,
        key: &[u8],
        meta: &KeyMeta,
        value: Option<&[u8]>,
        prev: Option<KeyMeta>,
        values: &dyn Resident,
    ) {
        let deleted = u64::from(meta.is_tombstone());
        let kv = kv_len(key.len(), meta, true);
        let prev_kv = prev.map(|prev| (kv_len(key.len(), &prev, true), prev));
        let len = uint_len(deleted) + message_len(kv) + prev_kv.map_or(0, |(len, _)| message_len(len));
        self.out.reserve(message_len(len));
        put_head(&mut self.out, EVENTS, len);
        put_uint(&mut self.out, 1, deleted);
        put_head(&mut self.out, 2, kv);
        self.kv(key, meta, value, values);
        if let Some((len, prev)) = prev_kv {
            put_head(&mut self.out, 3, len);
            self.kv(key, &prev, None, values);
        }
        self.ends.push(u32::try_from(self.out.len()).expect("the events of one response are shorter than 4 GiB"));
    }

    /// An event that nobody wants: it has a number and no bytes.
    pub fn skip(&mut self) {
        self.ends.push(self.out.len() as u32);
    }

    fn kv(&mut self, key: &[u8], meta: &KeyMeta, value: Option<&[u8]>, values: &dyn Resident) {
        put_bytes(&mut self.out, 1, key);
        put_int(&mut self.out, 2, meta.create);
        put_int(&mut self.out, 3, meta.revision.main);
        put_int(&mut self.out, 4, meta.version);
        if meta.place.len > 0 {
            put_head(&mut self.out, 5, meta.place.len as usize);
            match value.or_else(|| values.resident(meta.place)) {
                Some(bytes) => {
                    assert_eq!(bytes.len(), meta.place.len as usize, "a value is as long as its place");
                    self.out.put_slice(bytes);
                }
                None => {
                    self.holes.push((self.out.len(), meta.place));
                    self.out.put_bytes(0, meta.place.len as usize);
                }
            }
        }
        put_int(&mut self.out, 6, meta.lease);
    }

    /// Fills the holes with the values of their places, in order.
    pub fn fill(&mut self, values: &[Bytes]) {
        assert_eq!(values.len(), self.holes.len());
        for ((at, place), value) in self.holes.drain(..).zip(values) {
            self.out[at..at + place.len as usize].copy_from_slice(value);
        }
    }

    pub fn finish(self) -> Encoded {
        assert!(self.holes.is_empty(), "events were sent with values missing");
        Encoded { bytes: self.out.freeze(), ends: self.ends }
    }
}

/// Encoded events, and where each ends.
pub struct Encoded {
    pub bytes: Bytes,
    ends: SmallVec<[u32; 4]>,
}

impl Encoded {
    pub fn count(&self) -> u32 {
        self.ends.len() as u32
    }

    fn start(&self, event: u32) -> u32 {
        if event == 0 { 0 } else { self.ends[event as usize - 1] }
    }

    fn len(&self, event: u32) -> usize {
        (self.ends[event as usize] - self.start(event)) as usize
    }

    /// The bytes of these events, neighbours in one part.
    pub fn parts(&self, events: &[u32]) -> SmallVec<[Bytes; 1]> {
        let runs = events.chunk_by(|a, b| a + 1 == *b);
        runs.map(|run| {
            let end = self.ends[run[run.len() - 1] as usize];
            self.bytes.slice(self.start(run[0]) as usize..end as usize)
        })
        .collect()
    }

    /// Adds the response that carries these events; in fragments if it is as long as `fragment_bytes` or longer and the
    /// watch allows it. (etcd: v3rpc/watch.go, sendFragments, for where exactly it is cut.)
    pub fn reply(
        &self,
        out: &mut Outgoing,
        reply: &Reply<'_>,
        events: &[u32],
        parts: &[Bytes],
        fragment_bytes: Option<usize>,
    ) {
        let len = reply.encoded_len() + parts.iter().map(Bytes::len).sum::<usize>();
        let Some(max) = fragment_bytes.filter(|max| len >= *max && events.len() > 1) else {
            return out.reply(reply, parts);
        };
        let head_len = Reply { fragment: true, ..*reply }.encoded_len();
        let mut rest = events;
        while !rest.is_empty() {
            let (mut len, mut taken) = (head_len, 0);
            for event in rest {
                len += self.len(*event);
                if taken > 0 && len >= max {
                    break;
                }
                taken += 1;
            }
            let (these, after) = rest.split_at(taken);
            rest = after;
            out.reply(&Reply { fragment: !rest.is_empty(), ..*reply }, &self.parts(these));
        }
    }
}
