//! Mends what a disk has lost of the log's middle, before a member starts on it: the records between the last sound one and the
//! next sound header are made anew, from what is left of them and from entries that other members have. Nothing is
//! guessed: the writer puts the same records into the same bytes, the next header names the checksum of the header before it, and
//! that one the one before it, so what is made anew is what was written if it leads there, and is written back only then.
//!
//! What entries do not say is tried: where hard states lay, and what commit index, term and vote they had. Each try could by chance
//! lead to the same 32 bits, so there are few of them (`limits::MEND_TRIES_MAX`); what has more to it is refused, as is what
//! can be had nowhere: moved values, and entries that were never committed.

mod search;

use std::{ops::Range, path::PathBuf};

use bytes::Bytes;

use self::search::{Next, Search};
use super::{
    disk::Dir,
    record::{self, ALIGN, HEADER_BYTES, Header, RECORDS_FROM, SegmentHeader, Type},
    recovery::{self, Gap, Options, Recovered, RecoveryError},
    replay::{Cursor, Image, What},
};
use crate::{
    limits::{LOG_BLOCK_BYTES, MEND_ROUNDS_MAX},
    store::checkpoint::HardState,
};

/// A committed entry of another member's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub index: u64,
    pub term: u64,
    /// Its type in etcd's numbers.
    pub kind: u8,
    pub data: Bytes,
}

/// Entries that are asked of other members.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub gap: &'a Gap,
    /// The first index, and the last one that is of use.
    pub from: u64,
    pub to: u64,
}

/// What another member has given: entries without gaps from the first that was asked for, not always all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    pub entries: Vec<Given>,
    /// Who that was.
    pub giver: String,
}

/// How other members are asked. An error says why there is nothing to be had.
pub type Ask<'a> = dyn FnMut(&Wanted<'_>) -> Result<Gift, String> + 'a;

/// What has been mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    pub file: PathBuf,
    pub offset: u32,
    /// Entries whose records were made anew; empty if there are none among them.
    pub indexes: Range<u64>,
    pub records: usize,
    /// Who gave the entries; None if what was left of the records was enough.
    pub giver: Option<String>,
}

/// As `recovery::recover`; what it refuses as damaged is mended first, as far as that is possible. `told`: hears of it.
///
/// # Errors
/// As `recovery::recover`; of what cannot be mended, it says why.
pub fn recover(
    dir: &Dir,
    options: &Options,
    ask: &mut Ask<'_>,
    told: &mut dyn FnMut(&Mended),
) -> Result<Recovered, RecoveryError> {
    let mut before = None;
    for _ in 0..MEND_ROUNDS_MAX {
        let (file, offset, index, what, gap) = match recovery::recover(dir, options) {
            Err(RecoveryError::Damaged { file, offset, index, what, gap: Some(gap) }) => {
                (file, offset, index, what, gap)
            }
            recovered => return recovered,
        };
        let again = before == Some((gap.life, gap.offset));
        before = Some((gap.life, gap.offset));
        let mended = match again {
            true => Err("it was written anew, and is not what was written".to_owned()),
            false => mend(dir, &gap, ask),
        };
        match mended {
            Ok(mended) => told(&mended),
            Err(why) => {
                let what = format!("{what}; it could not be mended: {why}");
                return Err(RecoveryError::Damaged { file, offset, index, what, gap: Some(gap) });
            }
        }
    }
    recovery::recover(dir, options)
}

/// A segment as it was found.
struct Part {
    header: SegmentHeader,
    bytes: Bytes,
}

impl Part {
    fn read(dir: &Dir, life: u32) -> Result<Part, String> {
        let (bytes, _) = dir.read_segment_in_blocks(life).map_err(|cause| cause.to_string())?;
        let header = SegmentHeader::decode(&bytes).map_err(|cause| cause.to_string())?;
        Ok(Part { header, bytes: bytes.into() })
    }

    fn image(&self) -> Image<'_> {
        Image::new(&self.bytes, &self.header)
    }

    fn header_at(&self, at: u32) -> Option<Header> {
        let bytes = self.bytes.get(at as usize..)?;
        Header::decode(bytes, self.header.seed().at(at), self.header.life).ok().map(|(header, _)| header)
    }

    /// The payload of a record that begins at `at`, if it lies in the segment.
    fn payload(&self, at: u32, len: u32) -> Option<Bytes> {
        let from = at as usize + HEADER_BYTES;
        let to = from.checked_add(len as usize).filter(|to| *to <= self.bytes.len())?;
        Some(self.bytes.slice(from..to))
    }

    /// A sound record's.
    fn sound_payload(&self, at: u32, header: &Header) -> Option<Bytes> {
        self.payload(at, header.len).filter(|payload| crc32c::crc32c(payload) == header.payload_crc)
    }

    /// Sound headers from `from` on.
    fn headers(&self, from: u32) -> impl Iterator<Item = (u32, Header)> {
        let from = from.max(RECORDS_FROM).next_multiple_of(ALIGN);
        (from..self.header.size).step_by(ALIGN as usize).filter_map(|at| Some((at, self.header_at(at)?)))
    }
}

fn hard_state_of(header: &Header, payload: &[u8]) -> Option<HardState> {
    let vote = u64::from_le_bytes(payload.try_into().ok()?);
    Some(HardState { term: header.term, vote, commit: header.index })
}

/// Bytes of a segment that are to be written, whole blocks.
struct Blocks {
    life: u32,
    offset: u32,
    bytes: Vec<u8>,
}

fn mend(dir: &Dir, gap: &Gap, ask: &mut Ask<'_>) -> Result<Mended, String> {
    let part = Part::read(dir, gap.life)?;
    let found = part.image().next(gap.offset, gap.cursor);
    let (blocks, mended) = match found {
        Err(spot) if spot.what == What::Payload => mend_payload(dir, gap, &part, spot.offset, ask)?,
        Err(spot) if spot.what == What::NoRecord => mend_records(dir, gap, part, ask)?,
        _ => return Err("it is read in one way now, and in another then".into()),
    };
    for Blocks { life, offset, bytes } in blocks {
        dir.overwrite_segment(life, offset, &bytes).map_err(|cause| cause.to_string())?;
    }
    Ok(mended)
}

// ---- a payload ----

/// The header is sound: it says which entry it was, and the checksum of its data.
fn mend_payload(
    dir: &Dir,
    gap: &Gap,
    part: &Part,
    at: u32,
    ask: &mut Ask<'_>,
) -> Result<(Vec<Blocks>, Mended), String> {
    let header = part.header_at(at).expect("its payload is wrong, it is not");
    let is_it = |payload: &[u8]| payload.len() == header.len as usize && crc32c::crc32c(payload) == header.payload_crc;
    let (payload, indexes, giver) = match header.kind {
        Type::Entry => {
            let index = header.index;
            let Gift { entries, giver } = ask(&Wanted { gap, from: index, to: index })?;
            let given = entries.into_iter().find(|given| given.index == index);
            let given = given.ok_or_else(|| format!("{giver} has not given entry {index}"))?;
            if (given.term, given.kind) != (header.term, header.entry_type) || !is_it(&given.data) {
                return Err(format!("the entry {index} that {giver} has given is another than the one that was here"));
            }
            (given.data, index..index + 1, Some(giver))
        }
        Type::HardState => {
            // Or what is there, but for one bit.
            let found = part.payload(at, 8).ok_or("it is no hard state")?;
            let found = u64::from_le_bytes(found[..].try_into().expect("8 bytes"));
            let votes = votes(gap, None).into_iter().chain((0..u64::BITS).map(|bit| found ^ 1 << bit));
            let vote = votes.map(u64::to_le_bytes).find(|vote| is_it(vote));
            let vote = vote.ok_or("it is a hard state, and the vote is none of a member that is known")?;
            (Bytes::copy_from_slice(&vote), 0..0, None)
        }
        Type::Moved => return Err("the values that were moved here can be had nowhere else".into()),
    };
    let mut image = part.bytes.to_vec();
    let from = at as usize + HEADER_BYTES;
    let record_end = at + record::record_bytes(payload.len());
    image[from..record_end as usize].fill(0);
    image[from..from + payload.len()].copy_from_slice(&payload);
    // Zeros go on where the write ends here; what else does not begin a record is another gap.
    let end = end_of_write(dir, &Part { header: part.header, bytes: image.clone().into() }, gap, at, record_end);
    image[record_end as usize..end].fill(0);
    let mended = Mended { file: dir.segment_path(gap.life), offset: at, indexes, records: 1, giver };
    Ok((vec![blocks(gap.life, &image, from..end)], mended))
}

/// Where the zeros behind a record end that has been mended, if a write ends with it: as far as the next record shows that.
fn end_of_write(dir: &Dir, part: &Part, gap: &Gap, at: u32, record_end: u32) -> usize {
    let block_end = record_end.next_multiple_of(LOG_BLOCK_BYTES);
    let Ok(mended) = part.image().record_at(at, gap.cursor) else { return record_end as usize };
    let is_last = match part.image().next(record_end, mended.cursor) {
        Ok(next) => next.offset > record_end,
        Err(_) => {
            let next = Part::read(dir, part.header.life + 1);
            next.is_ok_and(|next| next.image().record_at(RECORDS_FROM, mended.cursor).is_ok())
        }
    };
    if is_last { block_end as usize } else { record_end as usize }
}

/// The whole blocks around what has been changed.
fn blocks(life: u32, image: &[u8], changed: Range<usize>) -> Blocks {
    let block = LOG_BLOCK_BYTES as usize;
    let (from, to) = (changed.start / block * block, changed.end.next_multiple_of(block).min(image.len()));
    Blocks { life, offset: from as u32, bytes: image[from..to].to_vec() }
}

/// Whom a member of this cluster may have voted for.
fn votes(gap: &Gap, behind: Option<u64>) -> Vec<u64> {
    let mut votes = vec![gap.hard_state.vote, 0, gap.member_id];
    votes.extend(behind);
    votes.extend(gap.members.iter().map(|member| member.id));
    let mut distinct = Vec::new();
    for vote in votes {
        if !distinct.contains(&vote) {
            distinct.push(vote);
        }
    }
    distinct
}

// ---- records ----

fn mend_records(dir: &Dir, gap: &Gap, first: Part, ask: &mut Ask<'_>) -> Result<(Vec<Blocks>, Mended), String> {
    let mut parts = vec![first];
    let next = next_header(dir, gap, &mut parts)?;
    let mut search = Search::new(&parts, gap, next);
    let giver = match search.run() {
        true => None,
        false => Some(search.run_with_entries(ask)?),
    };
    let (indexes, records) = search.indexes();
    let blocks = search.written().ok_or("what was made anew does not follow from what is before it")?;
    let mended = Mended { file: dir.segment_path(gap.life), offset: gap.offset, indexes, records, giver };
    Ok((blocks, mended))
}

/// Reads on until a header is found that is of no earlier write than the gap.
fn next_header(dir: &Dir, gap: &Gap, parts: &mut Vec<Part>) -> Result<Next, String> {
    let Cursor { write, .. } = gap.cursor;
    let follows = |header: &Header| header.write > write || (header.write == write && !header.first);
    let mut from = gap.offset;
    loop {
        let part = parts.len() - 1;
        let last = &parts[part];
        if let Some((at, header)) = last.headers(from).find(|(_, header)| follows(header)) {
            return Ok(Next { part, at, header });
        }
        let life = last.header.life + 1;
        parts.push(Part::read(dir, life).map_err(|cause| format!("nothing sound lies behind it: {cause}"))?);
        from = RECORDS_FROM;
    }
}
