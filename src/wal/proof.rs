//! Proves what is read from a segment's file: finds the record that a place lies in, and checks that record whole. A
//! disk may give back other bytes than it was given, years later and without a word; a value is answered only if the
//! checksum that was written with it says that it is the value.
//!
//! The index keeps no way from a value to its record, and needs none: the header lies a few dozen bytes before the value
//! (the key and some tags are between), and a header proves itself, since its checksum starts from the log's salt
//! and the place where it was written.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::record::{ALIGN, HEADER_BYTES, Header, RECORDS_FROM, Seed, Type};

/// Looked through before a value at first: a key of usual length, the tags around it, and the header.
const FIRST_REACH_BYTES: u32 = 512;

/// A value cannot be had: its record is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}, in the record of raft index {index}: {what}", file.display())]
pub struct Damaged {
    pub file: PathBuf,
    /// Of the record, or, if its header is gone, of the bytes that were asked for.
    pub offset: u32,
    /// Of the record; if its header is gone, the one after the entry's before it, or 1 where there is none.
    pub index: u64,
    pub what: &'static str,
}

/// Where a sound header says that its payload lies, in bytes of the segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub begin: u32,
    pub end: u32,
    crc: u32,
    kind: Type,
    index: u64,
}

impl Payload {
    pub fn len(&self) -> u32 {
        self.end - self.begin
    }

    pub fn holds(&self, offset: u32, len: u32) -> bool {
        self.begin <= offset && u64::from(offset) + u64::from(len) <= u64::from(self.end)
    }

    /// Whether these are the bytes that were written.
    pub fn is_sound(&self, bytes: &[u8]) -> bool {
        crc32c::crc32c(bytes) == self.crc
    }

    fn header_at(&self) -> u32 {
        self.begin - HEADER_BYTES as u32
    }
}

/// The payload of the record whose header begins with `bytes`, at offset `at` of its segment, if one does.
#[inline]
pub(super) fn payload_at(bytes: &[u8], at: u32, seed: Seed, life: u32) -> Option<Payload> {
    let (header, _) = Header::decode(bytes, seed.at(at), life).ok()?;
    let begin = at + HEADER_BYTES as u32;
    Some(Payload {
        begin,
        end: begin.checked_add(header.len)?,
        crc: header.payload_crc,
        kind: header.kind,
        index: header.index,
    })
}

/// A segment's file, and what its headers are known by.
pub(super) struct Proof<'a> {
    pub file: &'a File,
    pub path: &'a Path,
    pub life: u32,
    pub size: u32,
    pub seed: Seed,
}

impl Proof<'_> {
    /// Reads bytes that lie in one record's payload, if the whole of that record is as it was written. Usually one
    /// call of the system: what lies around a value is read with it.
    ///
    /// # Errors
    /// The disk's; InvalidData with a `Damaged` in it.
    pub fn read(&self, offset: u32, len: u32) -> io::Result<Bytes> {
        self.proven(offset, len).map(|(_, bytes)| bytes)
    }

    /// The same of an entry of the raft log, whole. A disk may have put a block where another one belongs, and in a
    /// segment of version 1 what is in it is sound: so the record must be that entry's.
    ///
    /// # Errors
    /// As above, also if it is another record.
    pub fn entry(&self, offset: u32, len: u32, index: u64) -> io::Result<Bytes> {
        let (payload, bytes) = self.proven(offset, len)?;
        let is_it = payload.kind == Type::Entry && payload.index == index && payload.begin == offset;
        match is_it && payload.len() == len {
            true => Ok(bytes),
            false => Err(self.damaged(&payload, "it lies where another record belongs")),
        }
    }

    fn damaged(&self, payload: &Payload, what: &'static str) -> io::Error {
        let damaged = Damaged { file: self.path.to_owned(), offset: payload.header_at(), index: payload.index, what };
        io::Error::new(io::ErrorKind::InvalidData, damaged)
    }

    fn proven(&self, offset: u32, len: u32) -> io::Result<(Payload, Bytes)> {
        // Most of a put is its value: what follows it is a lease's number and padding.
        let end = offset.saturating_add(len).next_multiple_of(ALIGN).saturating_add(64).min(self.size);
        let (begin, bytes, payload) = self.find(offset, len, end)?;
        if payload.end > self.size {
            return Err(self.damaged(&payload, "it is longer than its segment"));
        }
        let (base, whole) = match bytes.get((payload.begin - begin) as usize..(payload.end - begin) as usize) {
            Some(_) => (begin, bytes),
            None => (payload.begin, self.bytes(payload.begin, payload.end)?),
        };
        let at = |offset: u32| (offset - base) as usize;
        if !payload.is_sound(&whole[at(payload.begin)..at(payload.end)]) {
            return Err(self.damaged(&payload, "its payload's checksum is wrong"));
        }
        Ok((payload, whole.slice(at(offset)..at(offset + len))))
    }

    fn bytes(&self, from: u32, to: u32) -> io::Result<Bytes> {
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact_at(&mut bytes, from.into())?;
        Ok(bytes.into())
    }

    /// The payload that holds `len` bytes at `offset`, and the bytes from some offset before its header up to `end`.
    fn find(&self, offset: u32, len: u32, end: u32) -> io::Result<(u32, Bytes, Payload)> {
        let mut reach = FIRST_REACH_BYTES;
        // What is read anew lies before what has been looked through.
        let mut looked = offset - HEADER_BYTES as u32 + 1;
        let mut before = None;
        loop {
            let mut begin = offset.saturating_sub(reach).max(RECORDS_FROM);
            begin -= begin % ALIGN;
            let bytes = self.bytes(begin, end)?;
            for at in (begin..looked).step_by(ALIGN as usize).rev() {
                let Some(payload) = payload_at(&bytes[(at - begin) as usize..], at, self.seed, self.life) else {
                    continue;
                };
                if payload.holds(offset, len) {
                    return Ok((begin, bytes, payload));
                }
                // A copy of a record within a value proves nothing about what is around it: on.
                if payload.kind == Type::Entry {
                    before = before.or(Some(payload));
                }
            }
            if begin == RECORDS_FROM {
                let damaged = Damaged {
                    file: self.path.to_owned(),
                    offset,
                    index: before.map_or(0, |before| before.index) + 1,
                    what: "no sound record holds the value that is here",
                };
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
            (looked, reach) = (begin, reach.saturating_mul(16));
        }
    }
}
