//! Looks through a whole segment for what is not what was written, though nobody asks for it. It is fed the file's bytes in
//! order, in pieces of any size, and keeps no more of them than a header takes. It goes by what a read goes by (`proof.rs`):
//! a header proves itself by the log's salt, and a payload is proven by its header. Beside that the chain tells where a record
//! is missing between two that are sound.

use super::{
    record::{HEADER_BYTES, Header, RECORDS_FROM, Seed, SegmentHeader, Type, record_bytes},
    replay::Cursor,
};
use crate::{limits::LOG_BLOCK_BYTES, store::types::Place};

/// Bytes of a segment's file that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the record begins, or should begin if its header is gone, and the byte behind it.
    pub from: u32,
    pub to: u32,
    /// The raft index that the record tells; if its header is gone, the one after the entry's before it.
    pub index: u64,
    pub what: &'static str,
}

/// What has become of a segment's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// In order; none reaches into the next.
    pub damage: Vec<Damage>,
    /// Behind the last record with a sound header: of what lies behind it nothing is proven.
    pub end: u32,
}

impl Findings {
    /// Whether the bytes of a place are what was written.
    pub fn vouch_for(&self, place: Place) -> bool {
        let (from, to) = (u64::from(place.offset), u64::from(place.offset) + u64::from(place.len));
        let after = self.damage.partition_point(|one| u64::from(one.to) <= from);
        to <= u64::from(self.end) && self.damage.get(after).is_none_or(|one| u64::from(one.from) >= to)
    }
}

/// A segment that is being looked through.
pub struct Check {
    life: u32,
    size: u32,
    seed: Seed,
    /// Where the bytes lie that come next, those that are held included.
    at: u32,
    /// The beginning of what may be a header.
    held: Vec<u8>,
    payload: Option<Payload>,
    /// What the next record must follow; None before the first.
    before: Option<Cursor>,
    /// Behind the last record, in its block, are bytes that are no record and no zeros.
    has_traces: bool,
    /// Of the last entry.
    index: u64,
    findings: Findings,
}

/// A payload of which a part has come.
struct Payload {
    /// Where its record begins.
    from: u32,
    left: usize,
    crc: u32,
    wanted: u32,
    index: u64,
}

const ALIGN: usize = super::record::ALIGN as usize;

impl Check {
    /// Of a segment of that life, in a file of `size` bytes, whose headers' checksums start from that seed.
    pub fn new(life: u32, size: u32, seed: Seed) -> Self {
        let findings = Findings { damage: Vec::new(), end: RECORDS_FROM };
        Check {
            life,
            size,
            seed,
            at: 0,
            held: Vec::new(),
            payload: None,
            before: None,
            has_traces: false,
            index: 0,
            findings,
        }
    }

    /// Takes the bytes that follow those that have come.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Some(taken) = self.take(rest) {
            self.at += taken as u32;
            rest = &rest[taken..];
        }
        self.held = rest.to_vec();
    }

    /// Looks at what comes first, and gives how many bytes that was; None if more must come.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.at == 0 {
            let block = bytes.get(..RECORDS_FROM as usize)?;
            let is_it = |it: SegmentHeader| (it.life, it.size, it.seed()) == (self.life, self.size, self.seed);
            if !SegmentHeader::decode(block).is_ok_and(is_it) {
                self.damaged(0, RECORDS_FROM, 0, "its first block is not the segment's");
            }
            return Some(block.len());
        }
        if let Some(payload) = &mut self.payload {
            let now = bytes.len().min(payload.left);
            payload.crc = crc32c::crc32c_append(payload.crc, &bytes[..now]);
            payload.left -= now;
            if payload.left > 0 {
                return Some(now).filter(|now| *now > 0);
            }
            let Payload { from, crc, wanted, index, .. } = self.payload.take().expect("just looked at");
            let end = self.at + now as u32;
            if crc != wanted {
                self.damaged(from, end, index, "its payload's checksum is wrong");
            }
            // The padding may not have come yet: it is passed over like everything that is no header.
            return Some(now);
        }
        let at_record = self.at.next_multiple_of(super::record::ALIGN);
        if at_record > self.at {
            let padding = (at_record - self.at) as usize;
            return (bytes.len() >= padding).then_some(padding);
        }
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        match Header::decode(bytes, self.seed.at(self.at), self.life) {
            Ok((header, crc)) if self.begin(&header, crc) => Some(HEADER_BYTES),
            _ => {
                // A finished write is zeros from its last record to the block's end.
                let in_block = self.at < self.findings.end.next_multiple_of(LOG_BLOCK_BYTES);
                self.has_traces |= in_block && bytes[..ALIGN] != [0; ALIGN];
                Some(ALIGN)
            }
        }
    }

    /// Takes a header. False if it proves nothing: a copy of an older record, within a value that is damaged.
    fn begin(&mut self, header: &Header, crc: u32) -> bool {
        let first = u64::from(header.first);
        let follows = match self.before {
            Some(before) if header.write < before.write => return false,
            Some(before) => header.chain == before.chain && header.write == before.write + first,
            None => self.at == RECORDS_FROM,
        };
        if !follows {
            self.damaged(self.findings.end, self.at, self.index + 1, "no sound record is here, and others follow");
        }
        if header.kind == Type::Entry {
            self.index = header.index;
        }
        self.has_traces = false;
        self.before = Some(Cursor { write: header.write, chain: crc });
        self.findings.end = self.at.saturating_add(record_bytes(header.len as usize));
        self.payload = Some(Payload {
            from: self.at,
            left: header.len as usize,
            crc: 0,
            wanted: header.payload_crc,
            index: header.index,
        });
        true
    }

    fn damaged(&mut self, from: u32, to: u32, index: u64, what: &'static str) {
        self.findings.damage.push(Damage { from, to, index, what });
    }

    /// All bytes have come. `used`: where the segment's records end, rounded up to the block, if that is known.
    pub fn finish(mut self, used: Option<u32>) -> Findings {
        if let Some(Payload { from, index, .. }) = self.payload.take() {
            self.damaged(from, self.size, index, "it is longer than what there is of the file");
            return self.findings;
        }
        let end = self.findings.end;
        let block = end.next_multiple_of(LOG_BLOCK_BYTES);
        self.has_traces |= self.at < block && self.held.iter().any(|byte| *byte != 0);
        let further = used.filter(|used| block < *used);
        if further.is_some() || self.has_traces {
            let to = further.unwrap_or(block);
            self.damaged(end, to, self.index + 1, "no sound record is here, but something was written");
        }
        self.findings
    }
}

/// The same of a segment whose bytes are all there.
pub fn check(bytes: &[u8], life: u32, size: u32, seed: Seed, used: Option<u32>) -> Findings {
    let mut check = Check::new(life, size, seed);
    check.feed(bytes);
    check.finish(used)
}
