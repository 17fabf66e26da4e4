//! The few messages of the hot loops, written and read by hand, so that the driver spends its core on driving: requests
//! into one buffer with gRPC's prefix, answers counted without building them. Everything else goes through prost.
//! (Field numbers: etcd's rpc.proto and kv.proto; encoding: the protobuf documentation, "Encoding".)

use bytes::{BufMut, Bytes, BytesMut};

use crate::plan::KEY_BYTES;

/// What every key begins with.
pub const PREFIX: &[u8] = b"/bench/";
/// The end of the range of all keys.
pub const PREFIX_END: &[u8] = b"/bench0";

pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const PUT: &str = "/etcdserverpb.KV/Put";

/// The key of a number: 32 bytes, in the numbers' order.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"/bench/0000000000000000000000000";
    let mut rest = number;
    for place in key[PREFIX.len()..].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// The number of a key.
pub fn number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?.parse().ok()
}

/// A PutRequest with its prefix; `lease` 0: none.
pub fn put(key: &[u8], value: &[u8], lease: i64) -> Bytes {
    let lease_len = if lease == 0 { 0 } else { 1 + varint_len(lease as u64) };
    let len = field_len(key) + field_len(value) + lease_len;
    let mut out = begin(len);
    put_field(&mut out, 1, key);
    put_field(&mut out, 2, value);
    if lease != 0 {
        out.put_u8(3 << 3);
        put_varint(&mut out, lease as u64);
    }
    out.freeze()
}

/// A RangeRequest for one key, with its prefix.
pub fn get(key: &[u8], serializable: bool) -> Bytes {
    let mut out = begin(field_len(key) + if serializable { 2 } else { 0 });
    put_field(&mut out, 1, key);
    if serializable {
        out.put_slice(&[7 << 3, 1]);
    }
    out.freeze()
}

fn begin(len: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(5 + len);
    out.put_u8(0);
    out.put_u32(len as u32);
    out
}

fn field_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + varint_len(bytes.len() as u64) + bytes.len() }
}

fn put_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8(number << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 128 {
        out.put_u8(number as u8 | 128);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order in which they stand; ends at the first one that cannot be read.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(usize::try_from(len).ok()?)?)
            }
            5 => Field::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let (number, used) = varint(self.0)?;
        self.0 = &self.0[used..];
        Some(number)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// The first field of this number that is bytes.
    pub fn bytes(mut self, number: u64) -> Option<&'a [u8]> {
        self.find_map(|(at, field)| match field {
            Field::Bytes(bytes) if at == number => Some(bytes),
            _ => None,
        })
    }

    /// The first field of this number that is a number.
    pub fn number(mut self, number: u64) -> Option<u64> {
        self.find_map(|(at, field)| match field {
            Field::Number(found) if at == number => Some(found),
            _ => None,
        })
    }
}

/// The number at the start, and the bytes that it takes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some((number, at + 1));
        }
    }
    None
}

/// What one page of a listing says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page<'a> {
    pub revision: i64,
    pub keys: u64,
    pub last_key: &'a [u8],
    pub more: bool,
}

impl<'a> Page<'a> {
    /// Reads a RangeResponse.
    pub fn of(message: &'a [u8]) -> Self {
        let mut page = Page::default();
        let mut last = None;
        for field in Fields(message) {
            match field {
                (1, Field::Bytes(header)) => page.revision = Fields(header).number(3).unwrap_or(0) as i64,
                (2, Field::Bytes(kv)) => {
                    page.keys += 1;
                    last = Some(kv);
                }
                (3, Field::Number(more)) => page.more = more != 0,
                _ => {}
            }
        }
        page.last_key = last.and_then(|kv| Fields(kv).bytes(1)).unwrap_or_default();
        page
    }
}

/// Counts the keys of a RangeResponse that arrives in pieces of any size, holding none of it.
#[derive(Debug, Default)]
pub struct KeyCounter {
    pub keys: u64,
    /// Of the gRPC prefix, seen so far.
    prefix: usize,
    /// Bytes of the field's content that are still to come.
    skip: u64,
    /// The number that is being read, and the place of its next seven bits.
    number: u64,
    shift: u32,
    /// The tag of the field whose length or value is next.
    tag: Option<u64>,
}

impl KeyCounter {
    pub fn push(&mut self, mut chunk: &[u8]) {
        let prefix = chunk.len().min(5 - self.prefix);
        self.prefix += prefix;
        chunk = &chunk[prefix..];
        while let Some(&byte) = chunk.first() {
            if self.skip > 0 {
                let step = self.skip.min(chunk.len() as u64);
                self.skip -= step;
                chunk = &chunk[step as usize..];
                continue;
            }
            chunk = &chunk[1..];
            self.number |= u64::from(byte & 127) << self.shift;
            self.shift += 7;
            if byte & 128 == 0 {
                let number = std::mem::take(&mut self.number);
                self.shift = 0;
                match self.tag.take() {
                    None => self.tag = Some(number),
                    Some(tag) if tag & 7 == 2 => {
                        self.skip = number;
                        self.keys += u64::from(tag >> 3 == 2);
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use urd_client::{
        etcdserverpb::{PutRequest, RangeRequest, RangeResponse, ResponseHeader},
        frame,
        mvccpb::KeyValue,
    };

    use super::*;

    #[test]
    fn requests_are_what_prost_writes() {
        for (len, lease) in [(0, 0), (1, 1), (200, i64::MAX), (70_000, 127), (3, 128)] {
            let value = vec![b'v'; len];
            let request =
                PutRequest { key: key(7).to_vec().into(), value: value.clone().into(), lease, ..Default::default() };
            assert_eq!(put(&key(7), &value, lease), frame(&request));
        }
        for serializable in [false, true] {
            let request = RangeRequest { key: key(7).to_vec().into(), serializable, ..Default::default() };
            assert_eq!(get(&key(7), serializable), frame(&request));
        }
    }

    #[test]
    fn keys_are_in_order_and_told_from_their_bytes() {
        assert_eq!(key(12).len(), KEY_BYTES);
        assert!(key(9) < key(10) && key(99_999) < key(100_000));
        assert_eq!(number(&key(123_456)), Some(123_456));
        assert_eq!(number(b"/other/1"), None);
    }

    fn answer(keys: u64) -> RangeResponse {
        RangeResponse {
            header: Some(ResponseHeader { cluster_id: u64::MAX, member_id: 3, revision: 300, raft_term: 2 }),
            kvs: (0..keys)
                .map(|at| KeyValue {
                    key: key(at).to_vec().into(),
                    value: vec![b'v'; 300].into(),
                    ..Default::default()
                })
                .collect(),
            more: true,
            count: 1 << 40,
        }
    }

    #[test]
    fn a_page_is_read() {
        let message = answer(9).encode_to_vec();
        assert_eq!(Page::of(&message), Page { revision: 300, keys: 9, last_key: &key(8), more: true });
        assert_eq!(Page::of(&[]), Page::default());
    }

    #[test]
    fn keys_are_counted_however_the_answer_is_cut() {
        let bytes = frame(&answer(50));
        for size in [1, 2, 3, 7, 64, 331, bytes.len()] {
            let mut counter = KeyCounter::default();
            bytes.chunks(size).for_each(|chunk| counter.push(chunk));
            assert_eq!((counter.keys, counter.skip, counter.tag), (50, 0, None), "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_ends_the_fields() {
        for bytes in [&b"\x0a\x05ab"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x0a"] {
            assert_eq!(Fields(bytes).count(), 0);
        }
    }
}
