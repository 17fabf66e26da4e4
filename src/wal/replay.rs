//! Reads records back from the bytes of segments and judges what ends them: a clean end, a torn last write, or damage.
//! Pure: bytes in, records and a judgement out.
//!
//! What the judgement rests on: one write is in flight at a time, so a header of write N proves that all of write
//! N - 1 had been made durable and may have been acknowledged. What is missing then is damage. What is missing of the
//! last write of all cannot be told from a write that the crash tore, and is cut. (A torn write of several blocks may
//! leave any of them behind, later ones too.)

use super::record::{self, ALIGN, HEADER_BYTES, Header, NoHeader, RECORDS_FROM, Seed, SegmentHeader};
use crate::limits::LOG_BLOCK_BYTES;

/// The last record read: what the next one must follow. All zero before a log's first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub write: u64,
    pub chain: u32,
}

/// A segment's file as it was found.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    pub bytes: &'a [u8],
    pub life: u32,
    pub seed: Seed,
}

#[cfg(any(test, feature = "sim"))]
thread_local! {
    /// A bug of the simulator's (`Planted::TrustsTornWrites`).
    pub static TRUSTS_TORN_WRITES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn trusts_torn_writes() -> bool {
    #[cfg(any(test, feature = "sim"))]
    let trusts = TRUSTS_TORN_WRITES.get();
    #[cfg(not(any(test, feature = "sim")))]
    let trusts = false;
    trusts
}

/// A record that is proven to follow the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub header: Header,
    /// Where it begins in its segment.
    pub offset: u32,
    /// The cursor after it.
    pub cursor: Cursor,
}

impl Record {
    /// Where its payload lies in its segment.
    pub fn payload(&self) -> std::ops::Range<usize> {
        let from = self.offset as usize + HEADER_BYTES;
        from..from + self.header.len as usize
    }

    /// Where the next record of the same write would begin.
    pub fn end(&self) -> u32 {
        self.offset + record::record_bytes(self.header.len as usize)
    }
}

/// Where no record follows, and what is known of what should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub offset: u32,
    /// The write that the spot belongs to, if that is known.
    pub write: Option<u64>,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing that was written as the next record.
    NoRecord,
    /// The next record's header, but its payload's checksum is wrong.
    Payload,
    /// A sound header of a type that this version does not know.
    UnknownType(u8),
}

impl<'a> Image<'a> {
    pub fn new(bytes: &'a [u8], header: &SegmentHeader) -> Self {
        Image { bytes, life: header.life, seed: header.seed() }
    }

    /// The record after `cursor`, looked for at `offset`, where the one before ended, and at the next block, where a
    /// new write begins.
    pub fn next(&self, offset: u32, cursor: Cursor) -> Result<Record, Spot> {
        let block = offset.next_multiple_of(LOG_BLOCK_BYTES);
        match self.record_at(offset, cursor) {
            Err(Spot { what: What::NoRecord, .. }) if block != offset => match self.record_at(block, cursor) {
                Err(Spot { what: What::NoRecord, .. }) => {
                    // A finished write is zeros from its last record to the block's end.
                    let written = self.bytes[offset as usize..block as usize].iter().any(|byte| *byte != 0);
                    Err(Spot { offset, write: written.then_some(cursor.write), what: What::NoRecord })
                }
                found => found,
            },
            found => found,
        }
    }

    /// The record after `cursor` if it begins at `offset`.
    pub fn record_at(&self, offset: u32, cursor: Cursor) -> Result<Record, Spot> {
        let none = Spot { offset, write: None, what: What::NoRecord };
        let Some(bytes) = self.bytes.get(offset as usize..) else { return Err(none) };
        let (header, crc) = match Header::decode(bytes, self.seed.at(offset), self.life) {
            Ok(found) => found,
            Err(NoHeader::UnknownType(number)) => return Err(Spot { what: What::UnknownType(number), ..none }),
            Err(NoHeader::Nothing) => return Err(none),
        };
        let next_write = cursor.write + u64::from(header.first);
        if header.chain != cursor.chain || header.write != next_write {
            return Err(none);
        }
        let broken = Spot { write: Some(header.write), what: What::Payload, ..none };
        let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + header.len as usize) else { return Err(broken) };
        if crc32c::crc32c(payload) != header.payload_crc && !trusts_torn_writes() {
            return Err(broken);
        }
        Ok(Record { header, offset, cursor: Cursor { write: header.write, chain: crc } })
    }

    /// Where the unbroken run of sound records, from the segment's first on, ends: what lies before may be believed.
    pub fn sound_until(&self) -> u32 {
        let Some((mut at, mut cursor)) = self.find(RECORDS_FROM).filter(|(at, _)| *at == RECORDS_FROM) else {
            return RECORDS_FROM;
        };
        while let Ok(record) = self.next(at, cursor) {
            (at, cursor) = (record.end(), record.cursor);
        }
        at
    }

    /// The first header of this life from `offset` on, and the cursor that it follows: for those who look at what a
    /// log's logic would refuse, or begin in its middle.
    pub fn find(&self, offset: u32) -> Option<(u32, Cursor)> {
        let from = offset.max(RECORDS_FROM).next_multiple_of(ALIGN) as usize;
        (from..self.bytes.len()).step_by(ALIGN as usize).find_map(|at| {
            let (header, _) = Header::decode(&self.bytes[at..], self.seed.at(at as u32), self.life).ok()?;
            let write = header.write.checked_sub(u64::from(header.first))?;
            Some((at as u32, Cursor { write, chain: header.chain }))
        })
    }

    /// What there is of this life from `offset` on, chained or not: payloads are not looked at. `at_spot` is where
    /// replay ended, possibly in an earlier segment, after `cursor`.
    pub fn survey(&self, offset: u32, at_spot: &Spot, cursor: Cursor) -> Survey {
        let mut survey = Survey::default();
        let from = offset.max(RECORDS_FROM).next_multiple_of(ALIGN) as usize;
        for at in (from..self.bytes.len()).step_by(ALIGN as usize) {
            let header = match Header::decode(&self.bytes[at..], self.seed.at(at as u32), self.life) {
                Ok((header, _)) => header,
                Err(NoHeader::UnknownType(_)) => {
                    survey.remains = true;
                    continue;
                }
                Err(NoHeader::Nothing) => continue,
            };
            survey.remains = true;
            let later = match at_spot.write {
                Some(write) => header.write > write,
                // The spot is a write's beginning, or its end was lost whole.
                None => header.write > cursor.write + 1 || (header.write == cursor.write + 1 && header.first),
            };
            if later && survey.later.is_none() {
                survey.later = Some((at as u32, header));
            }
        }
        survey
    }
}

/// What lies behind the spot where replay ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Headers of this life: of the write that was torn, if there is nothing later.
    pub remains: bool,
    /// The first header that proves that something before it is missing.
    pub later: Option<(u32, Header)>,
}
