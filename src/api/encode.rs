//! The answers of KV, written straight from the index and from stored bytes. A value that is not in memory leaves a
//! hole of its exact length, filled after an asynchronous read; so an answer is laid out in one pass.

use bytes::{BufMut, BytesMut};

use super::wire::*;
use crate::{
    store::types::{KeyMeta, Place},
    wal::table::SegmentTable,
};

/// What every response header of this member shares: both ids, already encoded.
#[derive(Clone, Debug)]
pub struct Head {
    pub cluster_id: u64,
    pub member_id: u64,
    ids: Vec<u8>,
}

impl Head {
    pub fn new(cluster_id: u64, member_id: u64) -> Self {
        let mut ids = BytesMut::new();
        put_uint(&mut ids, 1, cluster_id);
        put_uint(&mut ids, 2, member_id);
        Head { cluster_id, member_id, ids: ids.to_vec() }
    }

    /// Size of the field `header` (number 1 in every response) with its tag.
    pub fn len(&self, revision: i64, term: u64) -> usize {
        message_len(self.body_len(revision, term))
    }

    fn body_len(&self, revision: i64, term: u64) -> usize {
        self.ids.len() + int_len(revision) + uint_len(term)
    }

    pub fn put(&self, out: &mut BytesMut, revision: i64, term: u64) {
        put_head(out, 1, self.body_len(revision, term));
        out.put_slice(&self.ids);
        put_int(out, 3, revision);
        put_uint(out, 4, term);
    }

    /// A response that is a header and nothing else.
    pub fn alone(&self, revision: i64, term: u64) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.len(revision, term));
        self.put(&mut out, revision, term);
        out
    }
}

/// Size of a mvccpb.KeyValue body.
pub fn kv_len(key_len: usize, meta: &KeyMeta, with_value: bool) -> usize {
    let value = if with_value { bytes_len(meta.place.len as usize) } else { 0 };
    bytes_len(key_len)
        + int_len(meta.create)
        + int_len(meta.revision.main)
        + int_len(meta.version)
        + value
        + int_len(meta.lease)
}

/// An answer under construction.
pub struct Encoder<'a> {
    pub out: BytesMut,
    segments: &'a SegmentTable,
    /// Offsets in `out` that wait for the bytes of a place.
    pub holes: Vec<(usize, Place)>,
}

impl<'a> Encoder<'a> {
    pub fn new(capacity: usize, segments: &'a SegmentTable) -> Self {
        Encoder { out: BytesMut::with_capacity(capacity), segments, holes: Vec::new() }
    }

    /// A KeyValue as field `field` of the message around it.
    pub fn kv(&mut self, field: u8, key: &[u8], meta: &KeyMeta, with_value: bool) {
        put_head(&mut self.out, field, kv_len(key.len(), meta, with_value));
        put_bytes(&mut self.out, 1, key);
        put_int(&mut self.out, 2, meta.create);
        put_int(&mut self.out, 3, meta.revision.main);
        put_int(&mut self.out, 4, meta.version);
        if with_value && meta.place.len > 0 {
            put_head(&mut self.out, 5, meta.place.len as usize);
            self.value(meta.place);
        }
        put_int(&mut self.out, 6, meta.lease);
    }

    fn value(&mut self, place: Place) {
        match self.segments.resident(place) {
            Some(bytes) => self.out.put_slice(bytes),
            None => {
                self.holes.push((self.out.len(), place));
                self.out.put_bytes(0, place.len as usize);
            }
        }
    }
}
