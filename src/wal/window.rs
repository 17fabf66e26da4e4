//! Values that are read in order of place, where most of what lies between them is wanted too, as of a snapshot: a window of
//! a segment's file at a time, past the page cache, into memory that is used again. What is given is proven, each record
//! once, as everything that comes from a file is (`proof.rs`). Where that cannot be done here, the value is read alone.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    bulk::{self, Piece},
    proof::{self, Payload},
    record::{ALIGN, HEADER_BYTES, RECORDS_FROM, Seed},
};
use crate::limits::{LOG_BLOCK_BYTES, MOVED_RECORD_BYTES};

/// Read before a value, for the beginning of its record.
const BACK_BYTES: u32 = (MOVED_RECORD_BYTES as u32).next_multiple_of(LOG_BLOCK_BYTES);

/// A part of one segment's file.
#[derive(Default)]
pub struct Window {
    /// The segment's life, and its file.
    open: Option<(u32, File)>,
    memory: Option<Piece>,
    /// Where in the segment it lies.
    from: u32,
    to: u32,
    /// Where the payload of the record lies that was proven last.
    proven: (u32, u32),
}

/// Whose bytes they are.
pub(super) struct Whose<'a> {
    pub life: u32,
    pub path: &'a Path,
    pub seed: Seed,
}

impl Window {
    /// The bytes of a segment at a place, proven; None where they have to be read alone.
    pub(super) fn get(&mut self, whose: &Whose<'_>, offset: u32, len: u32) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        let is_open = self.open.as_ref().is_some_and(|(life, _)| *life == whose.life);
        if !is_open || offset < self.from || end > self.to {
            self.read(whose, offset.saturating_sub(BACK_BYTES).max(RECORDS_FROM)).ok()?;
        }
        if offset < self.proven.0 || end > self.proven.1 {
            let mut payload = self.find(whose, offset, len)?;
            if payload.end > self.to {
                // Again, from the record's beginning on.
                self.read(whose, payload.begin - HEADER_BYTES as u32).ok()?;
                payload = self.find(whose, offset, len)?;
            }
            if !payload.is_sound(self.bytes(payload.begin, payload.end)?) {
                return None;
            }
            self.proven = (payload.begin, payload.end);
        }
        self.bytes(offset, end)
    }

    fn bytes(&self, from: u32, to: u32) -> Option<&[u8]> {
        let (from, to) = (from.checked_sub(self.from)?, to.checked_sub(self.from)?);
        self.memory.as_ref()?.read().get(from as usize..to as usize)
    }

    /// The payload of the record that a value lies in, by the record's header: most often it is the record after the last one.
    fn find(&self, whose: &Whose<'_>, offset: u32, len: u32) -> Option<Payload> {
        let at = |at: u32| {
            let header = self.bytes(at, at.checked_add(HEADER_BYTES as u32)?)?;
            proof::payload_at(header, at, whose.seed, whose.life).filter(|payload| payload.holds(offset, len))
        };
        let next = self.proven.1.next_multiple_of(ALIGN);
        if let Some(payload) = at(next).or_else(|| at(next.next_multiple_of(LOG_BLOCK_BYTES))) {
            return Some(payload);
        }
        let last = offset.checked_sub(HEADER_BYTES as u32)?;
        (self.from..=last - last % ALIGN).rev().step_by(ALIGN as usize).find_map(at)
    }

    /// Reads the window that begins with the block of an offset.
    fn read(&mut self, whose: &Whose<'_>, offset: u32) -> io::Result<()> {
        let Window { open, memory, from, to, proven } = self;
        let memory = memory.get_or_insert_with(Piece::new);
        (*from, *to, *proven) = (0, 0, (0, 0));
        if open.as_ref().is_none_or(|(life, _)| *life != whose.life) {
            *open = Some((whose.life, bulk::open_past_cache(whose.path)?));
        }
        let (_, file) = open.as_ref().expect("just opened");
        let begin = offset - offset % LOG_BLOCK_BYTES;
        let count = file.read_at(memory.bytes(), begin.into())?;
        (*from, *to) = (begin, begin + count as u32);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        limits::BULK_PIECE_BYTES,
        wal::record::{FORMAT_VERSION, Header, SegmentHeader, Type},
    };

    const LIFE: u32 = 7;

    /// Records behind each other, blocks of zeros between some, as the log has them; gives each payload's place.
    fn written(path: &Path, seed: Seed, payloads: &[Vec<u8>]) -> Vec<u32> {
        let mut bytes = vec![0; RECORDS_FROM as usize];
        let mut places = Vec::new();
        for (index, payload) in (1..).zip(payloads) {
            let at = bytes.len() as u32;
            let header = Header {
                payload_crc: crc32c::crc32c(payload),
                chain: 0,
                len: payload.len() as u32,
                life: LIFE,
                kind: Type::Entry,
                entry_type: 0,
                first: true,
                write: 1,
                term: 1,
                index,
            };
            bytes.extend_from_slice(&header.encode(seed.at(at)).0);
            places.push(bytes.len() as u32);
            bytes.extend_from_slice(payload);
            let align = if index % 3 == 0 { LOG_BLOCK_BYTES } else { ALIGN };
            bytes.resize(bytes.len().next_multiple_of(align as usize), 0);
        }
        fs::write(path, bytes).unwrap();
        places
    }

    #[test]
    fn values_are_given_as_they_lie_and_damaged_ones_are_not() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let path = temp.path().join("segment");
        let seed =
            SegmentHeader { version: FORMAT_VERSION, life: LIFE, size: 1 << 24, salt: 5, cluster_id: 1, member_id: 2 }
                .seed();
        let large = [40, 300_000, 9000, 200_000, 5];
        let lens = (0..2000).map(|number| if number % 400 == 399 { large[number / 400] } else { 200 + number % 77 });
        let payloads: Vec<Vec<u8>> = lens.map(|len| (0..len).map(|at| (at * 7 + len) as u8).collect()).collect();
        let places = written(&path, seed, &payloads);
        let whose = Whose { life: LIFE, path: &path, seed };
        let mut window = Window::default();
        for (place, payload) in places.iter().zip(&payloads) {
            let (len, middle) = (payload.len() as u32, payload.len() as u32 / 2);
            let whole = window.get(&whose, *place, len).map(<[u8]>::to_vec);
            if payload.len() > BULK_PIECE_BYTES {
                assert_eq!(whole, None, "larger than a window");
                continue;
            }
            assert_eq!(whole.as_ref(), Some(payload));
            assert_eq!(window.get(&whose, place + middle, len - middle), Some(&payload[middle as usize..]));
        }
        // In any order.
        for at in [1999, 3, 700, 701, 699] {
            assert_eq!(window.get(&whose, places[at], payloads[at].len() as u32), Some(&payloads[at][..]));
        }
        assert_eq!(window.get(&whose, places[5] - 1, 3), None, "across a header");
        assert_eq!(window.get(&whose, 1 << 23, 3), None, "behind the end");
        let other = Whose { life: LIFE + 1, path: &path, seed };
        assert_eq!(window.get(&other, places[5], 3), None, "of another segment");
        let mut bytes = fs::read(&path).unwrap();
        bytes[places[10] as usize + 150] ^= 1;
        bytes[places[12] as usize - 20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut window = Window::default();
        for at in [9, 10, 11, 12, 13] {
            let given = window.get(&whose, places[at], 20);
            assert_eq!(given.is_some(), ![10, 12].contains(&at), "{at}");
        }
    }
}
