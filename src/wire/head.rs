//! What many messages have in common: the header of every response, the size of a key-value.

use bytes::{BufMut, BytesMut};

use super::{frame::Frame, *};
use crate::store::types::KeyMeta;

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
    pub fn alone(&self, revision: i64, term: u64) -> Frame {
        let mut frame = Frame::with_capacity(self.len(revision, term));
        self.put(frame.buffer(), revision, term);
        frame
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
