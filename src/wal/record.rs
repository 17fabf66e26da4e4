//! How a record and a segment's first block are spelled in bytes (docs/format.md, versions 1 and 2). Knows no files and no
//! segments in memory. All numbers are little endian.
//!
//! A record has two checksums: one of its payload, which the header holds, and one of its header. So a header proves
//! alone, without its payload, that its write had begun; and the chain (each header names the checksum of the header
//! before) covers payloads too. Header checksums start from the log's salt, a secret of the directory: a client cannot
//! plant a value that looks like a record. They start from the record's place, too: a disk that writes a block where another
//! one belongs does not make it look like one.

use std::io;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::{
    limits::LOG_BLOCK_BYTES,
    store::types::{Place, Revision},
};

/// The version of segments and records that this code writes. It reads all versions up to it.
pub const FORMAT_VERSION: u32 = 2;

/// The version whose header checksums say nothing of the record's place.
pub const FORMAT_VERSION_WITHOUT_PLACE: u32 = 1;

/// Bytes of a record before its payload.
pub const HEADER_BYTES: usize = 48;

/// Records begin at multiples of this.
pub const ALIGN: u32 = 8;

/// Where a segment's first record begins: behind the block of the segment's own header.
pub const RECORDS_FROM: u32 = LOG_BLOCK_BYTES;

const RECORD_MAGIC: [u8; 2] = *b"uR";

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// A raft entry; the payload is its data.
    Entry = 1,
    /// Raft's hard state: term, commit (as index) and, as the payload, the vote.
    HardState = 2,
    /// Values copied here from segments that are to be freed.
    Moved = 3,
}

impl Type {
    fn from_number(number: u8) -> Option<Type> {
        match number {
            1 => Some(Type::Entry),
            2 => Some(Type::HardState),
            3 => Some(Type::Moved),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Type::Entry => "entry",
            Type::HardState => "hard-state",
            Type::Moved => "moved",
        }
    }
}

/// A record's header, its checksum aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub payload_crc: u32,
    /// The header checksum of the record before this one, in whichever segment; 0 for a log's first.
    pub chain: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Life number of the segment.
    pub life: u32,
    pub kind: Type,
    /// An entry's raft type, in etcd's numbers; 0 in other records.
    pub entry_type: u8,
    /// The first record of its write.
    pub first: bool,
    /// Number of the write that the record belongs to; each is one more than the one before.
    pub write: u64,
    pub term: u64,
    /// An entry's index; the commit index of a hard state; the applied index that relocated values wait for.
    pub index: u64,
}

impl Header {
    /// The bytes, and the checksum that the next record's chain names. `start`: see `Seed::at`.
    #[inline]
    pub fn encode(&self, start: u32) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.chain.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.life.to_le_bytes());
        bytes[20] = self.kind as u8 | u8::from(self.first) << 7;
        bytes[21] = self.entry_type;
        bytes[22..24].copy_from_slice(&RECORD_MAGIC);
        bytes[24..32].copy_from_slice(&self.write.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.term.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.index.to_le_bytes());
        let crc = crc32c::crc32c_append(start, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The header at the beginning of `bytes`, if one of segment `life` with a right checksum is there, and that
    /// checksum. `start`: see `Seed::at`.
    #[inline]
    pub fn decode(bytes: &[u8], start: u32, life: u32) -> Result<(Header, u32), NoHeader> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(NoHeader::Nothing) };
        if bytes[22..24] != RECORD_MAGIC || u32_at(bytes, 16) != life {
            return Err(NoHeader::Nothing);
        }
        let crc = u32_at(bytes, 0);
        if crc32c::crc32c_append(start, &bytes[4..]) != crc {
            return Err(NoHeader::Nothing);
        }
        let kind = Type::from_number(bytes[20] & 0x7f).ok_or(NoHeader::UnknownType(bytes[20] & 0x7f))?;
        let header = Header {
            payload_crc: u32_at(bytes, 4),
            chain: u32_at(bytes, 8),
            len: u32_at(bytes, 12),
            life,
            kind,
            entry_type: bytes[21],
            first: bytes[20] & 0x80 != 0,
            write: u64_at(bytes, 24),
            term: u64_at(bytes, 32),
            index: u64_at(bytes, 40),
        };
        Ok((header, crc))
    }
}

/// What the header checksums of one segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    salt: u32,
    /// Of a record's offset: all of it, or nothing in version 1.
    offset_mask: u32,
}

impl Seed {
    /// What the checksum of a header at that offset of the segment starts from. A checksum tells any two beginnings apart, so a
    /// header that lies at another offset than it was written for is none.
    #[inline]
    pub fn at(self, offset: u32) -> u32 {
        self.salt ^ (offset & self.offset_mask)
    }
}

/// Why there is no header to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// Nothing that was ever written as a header of this segment's life.
    Nothing,
    /// A header whose checksum is right, of a type that this version does not know.
    UnknownType(u8),
}

/// Whether bytes look like a header of that segment life of which not much is lost.
pub(super) fn resembles(bytes: &[u8], life: u32) -> bool {
    bytes[22..24] == RECORD_MAGIC || u32_at(bytes, 16) == life
}

/// Bytes from a record's beginning to the earliest beginning of the next.
pub fn record_bytes(payload: usize) -> u32 {
    let bytes = (HEADER_BYTES + payload).next_multiple_of(ALIGN as usize);
    u32::try_from(bytes).expect("a record is smaller than 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

// ---- the segment's first block ----

const SEGMENT_MAGIC: [u8; 8] = *b"urd-log\n";

/// What a segment's first block says. It is durable before the file gets a segment's name and never written again in
/// this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Of the segment's format.
    pub version: u32,
    pub life: u32,
    /// Bytes of the file, this block included.
    pub size: u32,
    /// Where header checksums start from; the same in all segments of a log.
    pub salt: u32,
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Why a segment's first block is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSegmentHeader {
    #[error("its first block is no header of a segment")]
    Magic,
    #[error("it has format version {0}, this program reads up to {FORMAT_VERSION}: use a matching version of urd")]
    Version(u32),
    #[error("the checksum of its first block is wrong")]
    Checksum,
}

impl SegmentHeader {
    /// What the checksums of the segment's headers start from.
    pub fn seed(&self) -> Seed {
        let offset_mask = if self.version == FORMAT_VERSION_WITHOUT_PLACE { 0 } else { u32::MAX };
        Seed { salt: self.salt, offset_mask }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; LOG_BLOCK_BYTES as usize];
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&self.version.to_le_bytes());
        block[12..16].copy_from_slice(&self.life.to_le_bytes());
        block[16..20].copy_from_slice(&self.size.to_le_bytes());
        block[20..24].copy_from_slice(&self.salt.to_le_bytes());
        block[24..32].copy_from_slice(&self.cluster_id.to_le_bytes());
        block[32..40].copy_from_slice(&self.member_id.to_le_bytes());
        let crc = crc32c::crc32c(&block[..LOG_BLOCK_BYTES as usize - 4]);
        block[LOG_BLOCK_BYTES as usize - 4..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    pub fn decode(block: &[u8]) -> Result<SegmentHeader, BadSegmentHeader> {
        let end = LOG_BLOCK_BYTES as usize - 4;
        if block.len() < LOG_BLOCK_BYTES as usize || block[..8] != SEGMENT_MAGIC {
            return Err(BadSegmentHeader::Magic);
        }
        // Before the version: a damaged one must not send the operator looking for another program.
        if crc32c::crc32c(&block[..end]) != u32_at(block, end) {
            return Err(BadSegmentHeader::Checksum);
        }
        let version = u32_at(block, 8);
        if !(FORMAT_VERSION_WITHOUT_PLACE..=FORMAT_VERSION).contains(&version) {
            return Err(BadSegmentHeader::Version(version));
        }
        Ok(SegmentHeader {
            version,
            life: u32_at(block, 12),
            size: u32_at(block, 16),
            salt: u32_at(block, 20),
            cluster_id: u64_at(block, 24),
            member_id: u64_at(block, 32),
        })
    }
}

// ---- relocated values ----

/// Bytes of a record's list of values before their bytes: for each one its revision, its old place, where it is now.
pub const MOVED_ITEM_BYTES: usize = 32;

/// The segment that values were in which were in none: no segment has this life.
pub const NOWHERE: u32 = 0;
const MOVED_HEAD_BYTES: usize = 8;

/// A live value that is to be copied into the log's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedValue {
    /// The event whose value it is. Several events may share a value: then each is named, with the same place.
    pub revision: Revision,
    pub from: Place,
    /// The bytes at `from`.
    pub value: Bytes,
}

/// What a record of relocated values says of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub revision: Revision,
    pub from: Place,
    pub to: Place,
}

/// Gathers values into the payload of one record. A value shared by several events is stored once.
#[derive(Default)]
pub struct MovedPayload {
    items: Vec<(Revision, Place, u32)>,
    /// Where in `values` that of a place is.
    stored: HashMap<Place, u32>,
    values: Vec<u8>,
}

impl MovedPayload {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the payload with one more value of `len` bytes.
    pub fn len_with(&self, len: usize) -> usize {
        MOVED_HEAD_BYTES + (self.items.len() + 1) * MOVED_ITEM_BYTES + self.values.len() + len
    }

    pub fn push(&mut self, moved: &MovedValue) {
        assert_eq!(moved.from.len as usize, moved.value.len(), "a value is moved whole");
        let values = &mut self.values;
        let at = *self.stored.entry(moved.from).or_insert_with(|| {
            let at = values.len() as u32;
            values.extend_from_slice(&moved.value);
            at
        });
        self.items.push((moved.revision, moved.from, at));
    }

    /// The payload, and where each value lies in it.
    pub fn finish(self) -> (Vec<u8>, Vec<u32>) {
        let base = MOVED_HEAD_BYTES + self.items.len() * MOVED_ITEM_BYTES;
        let mut payload = Vec::with_capacity(base + self.values.len());
        payload.extend_from_slice(&(self.items.len() as u64).to_le_bytes());
        let mut offsets = Vec::with_capacity(self.items.len());
        for (revision, from, at) in &self.items {
            let at = base as u32 + at;
            put_item(&mut payload, *revision, *from, at);
            offsets.push(at);
        }
        payload.extend_from_slice(&self.values);
        (payload, offsets)
    }
}

fn put_item(payload: &mut Vec<u8>, revision: Revision, from: Place, at: u32) {
    let mut item = [0; MOVED_ITEM_BYTES];
    item[..8].copy_from_slice(&revision.main.to_le_bytes());
    for (field, number) in
        item[8..].as_chunks_mut::<4>().0.iter_mut().zip([revision.sub as u32, from.segment, from.offset, from.len, at])
    {
        *field = number.to_le_bytes();
    }
    payload.extend_from_slice(&item);
}

/// Values that were in no segment, spelled as they are to lie in the log: payloads of records with their checksums, so that
/// who appends them has only to copy them.
#[derive(Debug, Default)]
pub struct NewValues {
    payloads: Vec<u8>,
    pub(super) records: Vec<NewRecord>,
    /// Where each value begins in its record's payload, and its length.
    pub(super) values: Vec<(u32, u32)>,
}

#[derive(Debug)]
pub(super) struct NewRecord {
    /// In `payloads`.
    begin: usize,
    end: usize,
    pub crc: u32,
    /// Values up to its end, those of records before it too.
    pub values_end: usize,
}

impl NewValues {
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What they take of a log at most.
    pub fn log_bytes(&self) -> usize {
        self.payloads.len() + self.records.len() * (HEADER_BYTES + ALIGN as usize) + LOG_BLOCK_BYTES as usize
    }

    /// How long each value is.
    pub fn lens(&self) -> impl Iterator<Item = u32> {
        self.values.iter().map(|(_, len)| *len)
    }

    pub(super) fn payload(&self, record: &NewRecord) -> &[u8] {
        &self.payloads[record.begin..record.end]
    }
}

/// Where values that were in no segment are said to have been: in none, and each at another place.
#[derive(Debug, Default)]
pub struct Numbering(u32);

impl Numbering {
    /// Spells values, each with its revision, in records of so many bytes (`Writer::moved_record_bytes`); one value that is
    /// larger makes a record of its own.
    ///
    /// # Errors
    /// If a value is longer than any log's.
    pub fn spell(&mut self, values: &[(Revision, &[u8])], record_bytes: usize) -> io::Result<NewValues> {
        let bytes: usize = values.iter().map(|(_, value)| value.len() + MOVED_ITEM_BYTES).sum();
        let mut spelled =
            NewValues { payloads: Vec::with_capacity(bytes + bytes / 64 + MOVED_HEAD_BYTES), ..NewValues::default() };
        spelled.values.reserve(values.len());
        let mut left = values;
        while !left.is_empty() {
            let mut len = MOVED_HEAD_BYTES;
            let fits = |(_, value): &&(Revision, &[u8])| {
                len += MOVED_ITEM_BYTES + value.len();
                len <= record_bytes
            };
            let count = left.iter().take_while(fits).count().max(1);
            let (now, later) = left.split_at(count);
            self.spell_record(now, &mut spelled)?;
            left = later;
        }
        Ok(spelled)
    }

    fn spell_record(&mut self, values: &[(Revision, &[u8])], spelled: &mut NewValues) -> io::Result<()> {
        let NewValues { payloads, records, values: places } = spelled;
        let begin = payloads.len();
        payloads.extend_from_slice(&(values.len() as u64).to_le_bytes());
        let mut at = MOVED_HEAD_BYTES + values.len() * MOVED_ITEM_BYTES;
        for (revision, value) in values {
            self.0 = self.0.wrapping_add(1);
            let [len, start] = [value.len(), at].map(u32::try_from);
            let (len, start) = (len.map_err(io::Error::other)?, start.map_err(io::Error::other)?);
            put_item(payloads, *revision, Place { segment: NOWHERE, offset: self.0, len }, start);
            places.push((start, len));
            at += value.len();
        }
        values.iter().for_each(|(_, value)| payloads.extend_from_slice(value));
        let crc = crc32c::crc32c(&payloads[begin..]);
        records.push(NewRecord { begin, end: payloads.len(), crc, values_end: places.len() });
        Ok(())
    }
}

/// What the payload of a record of relocated values says, given where that payload lies. None if it is not one.
pub fn decode_moved(payload: &[u8], place: Place) -> Option<Vec<Move>> {
    let (count, mut rest) = payload.split_first_chunk::<8>()?;
    let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
    if count > rest.len() / MOVED_ITEM_BYTES {
        return None;
    }
    let mut moves = Vec::with_capacity(count);
    for _ in 0..count {
        let (item, tail) = rest.split_first_chunk::<MOVED_ITEM_BYTES>()?;
        rest = tail;
        let revision = Revision { main: u64_at(item, 0) as i64, sub: i64::from(u32_at(item, 8)) };
        let from = Place { segment: u32_at(item, 12), offset: u32_at(item, 16), len: u32_at(item, 20) };
        let at = u32_at(item, 24);
        if u64::from(at) + u64::from(from.len) > payload.len() as u64 {
            return None;
        }
        moves.push(Move { revision, from, to: Place { offset: place.offset + at, len: from.len, ..place } });
    }
    Some(moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_believed_in_its_own_log_only() {
        let header = Header {
            payload_crc: 1,
            chain: 2,
            len: 3,
            life: 4,
            kind: Type::Moved,
            entry_type: 1,
            first: true,
            write: 5,
            term: 6,
            index: 7,
        };
        let (bytes, crc) = header.encode(99);
        assert_eq!(Header::decode(&bytes, 99, 4), Ok((header, crc)));
        assert_eq!(Header::decode(&bytes, 98, 4), Err(NoHeader::Nothing), "another log's salt");
        assert_eq!(Header::decode(&bytes, 99, 5), Err(NoHeader::Nothing), "another life");
        assert_eq!(Header::decode(&bytes[..47], 99, 4), Err(NoHeader::Nothing));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes, 99, 4), Err(NoHeader::Nothing), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_of_another_version_is_told_from_a_damaged_one() {
        let header =
            SegmentHeader { version: FORMAT_VERSION, life: 1, size: 65536, salt: 3, cluster_id: 4, member_id: 5 };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        let older = SegmentHeader { version: FORMAT_VERSION_WITHOUT_PLACE, ..header };
        assert_eq!(SegmentHeader::decode(&older.encode()), Ok(older));
        let mut damaged = block.clone();
        damaged[8] = 3;
        assert_eq!(SegmentHeader::decode(&damaged), Err(BadSegmentHeader::Checksum));
        let mut newer = damaged;
        let crc = crc32c::crc32c(&newer[..4092]);
        newer[4092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(BadSegmentHeader::Version(3)));
        newer[8] = 0;
        let crc = crc32c::crc32c(&newer[..4092]);
        newer[4092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(BadSegmentHeader::Version(0)));
    }

    #[test]
    fn a_header_is_one_at_its_own_offset_only_from_version_2_on() {
        let segment =
            |version| SegmentHeader { version, life: 4, size: 65536, salt: 3, cluster_id: 4, member_id: 5 }.seed();
        let (old, new) = (segment(FORMAT_VERSION_WITHOUT_PLACE), segment(FORMAT_VERSION));
        let header = Header {
            payload_crc: 1,
            chain: 2,
            len: 3,
            life: 4,
            kind: Type::Entry,
            entry_type: 0,
            first: true,
            write: 5,
            term: 6,
            index: 7,
        };
        let at = |seed: Seed, offset| header.encode(seed.at(offset)).0;
        for other in (RECORDS_FROM..65536).step_by(ALIGN as usize) {
            let is_one = |seed: Seed| Header::decode(&at(seed, 8192), seed.at(other), 4).is_ok();
            assert!(is_one(old), "{other}");
            assert_eq!(is_one(new), other == 8192, "{other}");
        }
    }

    #[test]
    fn values_that_were_nowhere_are_spelled_as_moved_ones() {
        let texts: Vec<Vec<u8>> = [30, 0, 70, 5, 500, 1].map(|len: usize| vec![len as u8; len]).into();
        let values: Vec<(Revision, &[u8])> =
            (0..).zip(&texts).map(|(main, text)| (Revision::new(main, 3), &text[..])).collect();
        let spelled = Numbering::default().spell(&values, 150).unwrap();
        let ends: Vec<usize> = spelled.records.iter().map(|record| record.values_end).collect();
        assert_eq!(ends, [2, 4, 5, 6], "of 150 bytes, one value that is larger by itself");
        let (mut from, mut payload) = (0, MovedPayload::default());
        for record in &spelled.records {
            let (bytes, end) = (spelled.payload(record), record.values_end);
            assert_eq!(record.crc, crc32c::crc32c(bytes));
            for (number, (revision, value)) in (from + 1..).zip(&values[from..end]) {
                let from = Place { segment: NOWHERE, offset: number as u32, len: value.len() as u32 };
                payload.push(&MovedValue { revision: *revision, from, value: Bytes::copy_from_slice(value) });
            }
            let (wanted, offsets) = std::mem::take(&mut payload).finish();
            assert_eq!(bytes, wanted);
            let lens = values[from..end].iter().map(|(_, value)| value.len() as u32);
            assert!(spelled.values[from..end].iter().copied().eq(offsets.into_iter().zip(lens)));
            from = end;
        }
    }

    #[test]
    fn a_value_that_events_share_is_stored_once() {
        let from = Place { segment: 1, offset: 5000, len: 3 };
        let other = Place { segment: 1, offset: 6000, len: 2 };
        let value = |main, from, value: &'static [u8]| MovedValue {
            revision: Revision::new(main, 1),
            from,
            value: Bytes::from_static(value),
        };
        let mut payload = MovedPayload::default();
        for moved in [value(7, from, b"abc"), value(8, other, b"xy"), value(9, from, b"abc")] {
            payload.push(&moved);
        }
        let (bytes, offsets) = payload.finish();
        assert_eq!(offsets, [104, 107, 104]);
        assert_eq!(bytes.len(), 109);
        let place = Place { segment: 2, offset: 8192, len: bytes.len() as u32 };
        let moves = decode_moved(&bytes, place).unwrap();
        assert_eq!(moves[2].revision, Revision::new(9, 1));
        assert_eq!(moves[2].from, from);
        assert_eq!(moves[2].to, Place { segment: 2, offset: 8192 + 104, len: 3 });
        assert_eq!(decode_moved(&bytes[..108], place), None);
        assert_eq!(decode_moved(&[255; 40], place), None);
    }
}
