//! The answers of KV, written straight from the index and from stored bytes, in the order of their fields. A value
//! that is not in memory leaves a hole of its exact length, filled after an asynchronous read; so an answer is laid
//! out in one pass and nothing in it is copied twice.

use bytes::{BufMut, BytesMut};

use crate::{
    error::{self, Status},
    grpc::Frame,
    limits,
    store::{
        apply::Answer,
        range::RangeAnswer,
        txn::{OpAnswer, TxnAnswer},
        types::{KeyMeta, KeyRef, Place},
    },
    wal::table::{Resident, SegmentTable},
    wire::{
        frame::PREFIX_BYTES,
        head::{Head, kv_len},
        *,
    },
};

/// Bytes of an answer that wait for the value at a place. `at` counts the frame's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub at: usize,
    pub place: Place,
}

/// An answer, whole but for its holes.
#[derive(Debug)]
pub struct Encoded {
    pub frame: Frame,
    pub holes: Vec<Hole>,
}

impl Encoded {
    /// Puts a value where it belongs.
    ///
    /// # Panics
    /// If it has another length than its place says.
    pub fn fill(&mut self, hole: Hole, value: &[u8]) {
        self.frame.buffer()[hole.at..hole.at + hole.place.len as usize].copy_from_slice(value);
    }

    /// Refuses what gRPC cannot carry, in grpc-go's words.
    pub fn check_size(&self) -> Result<(), Status> {
        match self.frame.message_len() {
            len if len > limits::SEND_BYTES_MAX => Err(error::send_too_large(len, limits::SEND_BYTES_MAX)),
            _ => Ok(()),
        }
    }
}

/// An answer under construction.
pub struct Encoder<'a> {
    pub frame: Frame,
    /// Asks the kernel once about pages that several values of the answer lie in.
    resident: Resident<'a>,
    /// Every value is a hole.
    deferring: bool,
    holes: Vec<Hole>,
}

impl<'a> Encoder<'a> {
    pub fn new(capacity: usize, segments: &'a SegmentTable) -> Self {
        let frame = Frame::with_capacity(capacity);
        Encoder { frame, resident: segments.reader(), deferring: false, holes: Vec::new() }
    }

    /// The same for an answer of many values: all of them are left out, to be read in order of place (`values::fill`).
    pub fn deferring(capacity: usize, segments: &'a SegmentTable) -> Self {
        Encoder { deferring: true, ..Encoder::new(capacity, segments) }
    }

    /// Takes out what has been encoded, and what it waits for.
    pub fn take(&mut self) -> (BytesMut, Vec<Hole>) {
        (std::mem::take(self.frame.buffer()), std::mem::take(&mut self.holes))
    }

    pub fn out(&mut self) -> &mut BytesMut {
        self.frame.buffer()
    }

    /// A KeyValue as field `field` of the message around it.
    pub fn kv(&mut self, field: u8, key: &[u8], meta: &KeyMeta, with_value: bool) {
        let out = self.frame.buffer();
        put_head(out, field, kv_len(key.len(), meta, with_value));
        put_bytes(out, 1, key);
        put_int(out, 2, meta.create);
        put_int(out, 3, meta.revision.main);
        put_int(out, 4, meta.version);
        if with_value && meta.place.len > 0 {
            put_head(out, 5, meta.place.len as usize);
            let at_hand = if self.deferring { None } else { self.resident.get(meta.place) };
            match at_hand {
                Some(bytes) => out.put_slice(bytes),
                None => {
                    self.holes.push(Hole { at: out.len(), place: meta.place });
                    out.put_bytes(0, meta.place.len as usize);
                }
            }
        }
        put_int(self.frame.buffer(), 6, meta.lease);
    }

    pub fn finish(self) -> Encoded {
        debug_assert!(self.holes.iter().all(|hole| hole.at >= PREFIX_BYTES));
        Encoded { frame: self.frame, holes: self.holes }
    }
}

/// How many key-values an answer carries: what decides whether it is encoded at once.
pub fn kv_count(answer: &Answer) -> usize {
    match answer {
        Answer::Put { prev, .. } => usize::from(prev.is_some()),
        Answer::DeleteRange { prevs, .. } => prevs.len(),
        Answer::Range(range) => range.kvs.len(),
        Answer::Txn(txn) => txn_kv_count(txn),
        _ => 0,
    }
}

/// The same for a transaction's answer.
pub fn txn_kv_count(txn: &TxnAnswer) -> usize {
    txn.responses
        .iter()
        .map(|response| match response {
            OpAnswer::Range(range) => range.kvs.len(),
            OpAnswer::Put { prev, .. } => usize::from(prev.is_some()),
            OpAnswer::DeleteRange { prevs, .. } => prevs.len(),
            OpAnswer::Txn(nested) => txn_kv_count(nested),
        })
        .sum()
}

/// The response to a request of KV that was applied.
///
/// # Panics
/// If the answer belongs to no request of KV.
pub fn answer(head: &Head, term: u64, answer: &Answer, segments: &SegmentTable) -> Encoded {
    match answer {
        Answer::Put { revision, prev } => put(head, *revision, term, prev.as_ref(), segments),
        Answer::DeleteRange { revision, deleted, prevs } => {
            let header = head.len(*revision, term);
            let mut encoder = Encoder::new(header + delete_range_len(*deleted, prevs), segments);
            head.put(encoder.out(), *revision, term);
            put_delete_range(&mut encoder, *deleted, prevs);
            encoder.finish()
        }
        Answer::Range(range) => self::range(head, term, range, segments),
        Answer::Txn(txn) => self::txn(head, term, txn, segments),
        other => unreachable!("{other:?} answers no request of KV"),
    }
}

fn put(head: &Head, revision: i64, term: u64, prev: Option<&KeyRef>, segments: &SegmentTable) -> Encoded {
    let header = head.len(revision, term);
    let mut encoder = Encoder::new(header + put_len(prev), segments);
    head.put(encoder.out(), revision, term);
    put_prev(&mut encoder, prev);
    encoder.finish()
}

/// A RangeResponse from keys that have been gathered.
pub fn range(head: &Head, term: u64, answer: &RangeAnswer, segments: &SegmentTable) -> Encoded {
    let header = head.len(answer.revision, term);
    let mut encoder = Encoder::new(header + range_len(answer), segments);
    head.put(encoder.out(), answer.revision, term);
    put_range(&mut encoder, answer);
    encoder.finish()
}

/// A TxnResponse. Sizes are measured once, from the leaves up, and used on the way down.
pub fn txn(head: &Head, term: u64, answer: &TxnAnswer, segments: &SegmentTable) -> Encoded {
    let mut sizes = Vec::new();
    let body = measure_txn(answer, &mut sizes);
    let mut encoder = Encoder::new(head.len(answer.revision, term) + body, segments);
    head.put(encoder.out(), answer.revision, term);
    put_txn(&mut encoder, answer, &mut sizes.into_iter());
    encoder.finish()
}

// ---- bodies without their header ----

fn put_len(prev: Option<&KeyRef>) -> usize {
    prev.map_or(0, |kv| message_len(kv_len(kv.key.len(), &kv.meta, true)))
}

fn put_prev(encoder: &mut Encoder<'_>, prev: Option<&KeyRef>) {
    if let Some(kv) = prev {
        encoder.kv(2, &kv.key, &kv.meta, true);
    }
}

fn kvs_len(kvs: &[KeyRef], with_values: bool) -> usize {
    kvs.iter().map(|kv| message_len(kv_len(kv.key.len(), &kv.meta, with_values))).sum()
}

fn delete_range_len(deleted: i64, prevs: &[KeyRef]) -> usize {
    int_len(deleted) + kvs_len(prevs, true)
}

fn put_delete_range(encoder: &mut Encoder<'_>, deleted: i64, prevs: &[KeyRef]) {
    put_int(encoder.out(), 2, deleted);
    for kv in prevs {
        encoder.kv(3, &kv.key, &kv.meta, true);
    }
}

/// Size of `more` and `count`.
pub fn range_end_len(more: bool, count: i64) -> usize {
    uint_len(more.into()) + int_len(count)
}

pub fn put_range_end(encoder: &mut Encoder<'_>, more: bool, count: i64) {
    put_bool(encoder.out(), 3, more);
    put_int(encoder.out(), 4, count);
}

fn range_len(answer: &RangeAnswer) -> usize {
    kvs_len(&answer.kvs, answer.with_values) + range_end_len(answer.more, answer.count)
}

fn put_range(encoder: &mut Encoder<'_>, answer: &RangeAnswer) {
    for kv in &answer.kvs {
        encoder.kv(2, &kv.key, &kv.meta, answer.with_values);
    }
    put_range_end(encoder, answer.more, answer.count);
}

/// The header of a response inside a transaction: a revision, or nothing.
fn inner_head_len(revision: i64) -> usize {
    message_len(int_len(revision))
}

fn put_inner_head(encoder: &mut Encoder<'_>, revision: i64) {
    put_head(encoder.out(), 1, int_len(revision));
    put_int(encoder.out(), 3, revision);
}

/// Size of a TxnResponse without its header. Appends, for each response in the order of `put_txn`, its size.
fn measure_txn(answer: &TxnAnswer, sizes: &mut Vec<usize>) -> usize {
    let mut body = uint_len(answer.succeeded.into());
    for response in &answer.responses {
        let at = sizes.len();
        sizes.push(0);
        let size = match response {
            OpAnswer::Range(range) => inner_head_len(range.revision) + range_len(range),
            OpAnswer::Put { revision, prev } => inner_head_len(*revision) + put_len(prev.as_ref()),
            OpAnswer::DeleteRange { revision, deleted, prevs } => {
                inner_head_len(*revision) + delete_range_len(*deleted, prevs)
            }
            OpAnswer::Txn(nested) => inner_head_len(nested.revision) + measure_txn(nested, sizes),
        };
        sizes[at] = size;
        body += message_len(message_len(size));
    }
    body
}

fn put_txn(encoder: &mut Encoder<'_>, answer: &TxnAnswer, sizes: &mut impl Iterator<Item = usize>) {
    put_bool(encoder.out(), 2, answer.succeeded);
    for response in &answer.responses {
        let size = sizes.next().expect("each response was measured");
        put_head(encoder.out(), 3, message_len(size));
        match response {
            OpAnswer::Range(range) => {
                put_head(encoder.out(), 1, size);
                put_inner_head(encoder, range.revision);
                put_range(encoder, range);
            }
            OpAnswer::Put { revision, prev } => {
                put_head(encoder.out(), 2, size);
                put_inner_head(encoder, *revision);
                put_prev(encoder, prev.as_ref());
            }
            OpAnswer::DeleteRange { revision, deleted, prevs } => {
                put_head(encoder.out(), 3, size);
                put_inner_head(encoder, *revision);
                put_delete_range(encoder, *deleted, prevs);
            }
            OpAnswer::Txn(nested) => {
                put_head(encoder.out(), 4, size);
                put_inner_head(encoder, nested.revision);
                put_txn(encoder, nested, sizes);
            }
        }
    }
}

#[cfg(test)]
mod tests;
