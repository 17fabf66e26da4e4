//! Values as one member tells them another: an answer goes through what it was asked for in order, and may end before all of
//! it. Of each stands there one byte, 0 if it is not to be had; else 1, the length and a checksum in four bytes each, the lowest
//! first, and the bytes. The checksum is the CRC-32C of the key and then of the value.

use bytes::{Buf, Bytes};

/// Before a value's bytes.
pub const HEAD_BYTES: usize = 9;

pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let len = u32::try_from(value.len()).expect("a value is smaller than a segment");
    out.push(1);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(key), value).to_le_bytes());
    out.extend_from_slice(value);
}

pub fn put_nothing(out: &mut Vec<u8>) {
    out.push(0);
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    Value { value: Bytes, crc: u32 },
}

/// Takes the next one off an answer; None if it is none.
pub fn take(answer: &mut Bytes) -> Option<Told> {
    match answer.try_get_u8().ok()? {
        0 => Some(Told::Nothing),
        1 => {
            let (len, crc) = (answer.try_get_u32_le().ok()?, answer.try_get_u32_le().ok()?);
            let len = usize::try_from(len).ok().filter(|len| *len <= answer.len())?;
            Some(Told::Value { value: answer.split_to(len), crc })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_taken_and_nothing_else() {
        let mut out = Vec::new();
        put(&mut out, b"key", b"value");
        put_nothing(&mut out);
        put(&mut out, b"k", b"");
        assert_eq!(out.len(), HEAD_BYTES + 5 + 1 + HEAD_BYTES);
        let mut answer = Bytes::from(out.clone());
        let crc = crc32c::crc32c(b"keyvalue");
        assert_eq!(take(&mut answer), Some(Told::Value { value: Bytes::from_static(b"value"), crc }));
        assert_eq!(take(&mut answer), Some(Told::Nothing));
        assert_eq!(take(&mut answer), Some(Told::Value { value: Bytes::new(), crc: crc32c::crc32c(b"k") }));
        assert_eq!(take(&mut answer), None);
        for end in 0..HEAD_BYTES + 5 {
            assert_eq!(take(&mut Bytes::copy_from_slice(&out[..end])), None, "{end} bytes");
        }
        assert_eq!(take(&mut Bytes::from_static(&[2, 0, 0, 0, 0, 0, 0, 0, 0])), None);
    }
}
