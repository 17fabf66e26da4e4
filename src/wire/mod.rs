//! Protobuf, written by hand: sizes first, then bytes. For the answers of the hot paths, whose fields come straight
//! from the index and from stored bytes and never pass through a tree of owned messages.
//! Zero values are left out, as proto3 does. (Protocol Buffers encoding: developers' documentation, "Encoding".)

pub mod frame;
pub mod head;
pub mod peer;
pub mod values;

use bytes::{BufMut, BytesMut};

/// Bytes that a varint takes, 1 to 10.
#[inline]
pub fn varint_len(value: u64) -> usize {
    // 9/64 of the bit length, rounded: the usual arithmetic for one byte per 7 bits.
    ((64 - (value | 1).leading_zeros()) as usize * 9 + 64) / 64
}

#[inline]
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Size of a field of wire type 0 with a one-byte tag; nothing if zero.
#[inline]
pub fn uint_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

#[inline]
pub fn put_uint(out: &mut BytesMut, field: u8, value: u64) {
    if value != 0 {
        debug_assert!(field < 16, "the tag of field {field} takes two bytes");
        out.put_u8(field << 3);
        put_varint(out, value);
    }
}

/// Size of an int64 field; negative numbers take ten bytes.
#[inline]
pub fn int_len(value: i64) -> usize {
    uint_len(value as u64)
}

#[inline]
pub fn put_int(out: &mut BytesMut, field: u8, value: i64) {
    put_uint(out, field, value as u64);
}

#[inline]
pub fn put_bool(out: &mut BytesMut, field: u8, value: bool) {
    put_uint(out, field, value as u64);
}

/// Size of a bytes field of `len` bytes; nothing if empty.
#[inline]
pub fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len as u64) + len }
}

#[inline]
pub fn put_bytes(out: &mut BytesMut, field: u8, value: &[u8]) {
    if !value.is_empty() {
        put_head(out, field, value.len());
        out.put_slice(value);
    }
}

/// Size of an embedded message whose body takes `len` bytes: present even when empty.
#[inline]
pub fn message_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The tag and length in front of a bytes field or an embedded message.
#[inline]
pub fn put_head(out: &mut BytesMut, field: u8, len: usize) {
    debug_assert!(field < 16, "the tag of field {field} takes two bytes");
    out.put_u8(field << 3 | 2);
    put_varint(out, len as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_sizes_are_exact_at_every_bit() {
        for bit in 0..64 {
            for value in [1u64 << bit, (1u64 << bit) - 1, u64::MAX >> (63 - bit)] {
                let mut out = BytesMut::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(prost::encoding::encoded_len_varint(value), varint_len(value), "{value}");
            }
        }
    }
}
