//! Looks at a whole log, the segments before the checkpoint's position included, and changes nothing. For `urd-wal`:
//! a server reads only what it needs to start.

use std::path::Path;

use super::{
    disk::Dir,
    record::{BadSegmentHeader, HEADER_BYTES, RECORDS_FROM, SegmentHeader, Type},
    recovery::{self, Cut, Found, RecoveryError},
    replay::{Cursor, Image, Record, What},
};
use crate::{limits::LOG_BLOCK_BYTES, store::types::Revision};

/// What `walk` comes across.
#[derive(Debug)]
pub enum Seen<'a> {
    Segment(&'a SegmentHeader),
    /// The file's first block does not say what it is.
    NoSegment(BadSegmentHeader),
    Record {
        record: &'a Record,
        payload: &'a [u8],
    },
    /// Nothing that follows the record before, up to here or to the file's end; then records go on.
    Gap {
        from: u32,
        to: Option<u32>,
        what: What,
    },
}

/// Shows every record of every segment, in order, also where the log would be refused.
///
/// # Errors
/// If a file cannot be read.
pub fn walk(dir: &Dir, visit: &mut dyn FnMut(&Path, Seen<'_>)) -> Result<(), RecoveryError> {
    for life in dir.list()?.segments {
        let path = dir.segment_path(life);
        let bytes = dir.read_segment(life)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(bad) => {
                visit(&path, Seen::NoSegment(bad));
                continue;
            }
        };
        visit(&path, Seen::Segment(&header));
        let image = Image::new(&bytes, &header);
        let mut from = RECORDS_FROM;
        while let Some((at, cursor)) = image.find(from) {
            if at > from {
                visit(&path, Seen::Gap { from, to: Some(at), what: What::NoRecord });
            }
            let (end, _, what) = walk_run(&image, at, cursor, &mut |record| {
                visit(&path, Seen::Record { record, payload: &bytes[record.payload()] });
            });
            if what != What::NoRecord {
                visit(&path, Seen::Gap { from: end, to: None, what });
            }
            // Past the spot, or a broken record would be found again.
            from = if end > at && what == What::NoRecord { end } else { end + HEADER_BYTES as u32 };
        }
    }
    Ok(())
}

/// Follows the chain from `at` on; gives where it ends.
fn walk_run(image: &Image<'_>, at: u32, cursor: Cursor, visit: &mut dyn FnMut(&Record)) -> (u32, Cursor, What) {
    let (mut at, mut cursor) = (at, cursor);
    loop {
        match image.next(at, cursor) {
            Ok(record) => {
                visit(&record);
                (at, cursor) = (record.end(), record.cursor);
            }
            Err(spot) => return (spot.offset, cursor, spot.what),
        }
    }
}

/// What `verify` has looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    pub records: u64,
    /// Values that the checkpoint points to.
    pub values: u64,
    pub checkpoint_index: Option<u64>,
    pub last_index: u64,
    /// Remains of a torn write: the next start cuts them.
    pub torn: Option<Cut>,
}

/// Reads everything: the checkpoint, the tail as a start would, then every older segment from its first record to its
/// last, and that every value of the checkpoint lies in a sound record.
///
/// # Errors
/// As `recovery::read`.
pub fn verify(dir: &Dir) -> Result<Report, RecoveryError> {
    let Some(found) = recovery::read(dir)? else { return Ok(Report::default()) };
    let mut report = Report {
        segments: found.segments.len(),
        checkpoint_index: found.checkpoint.as_ref().map(|checkpoint| checkpoint.state.applied().0),
        last_index: found.entries.last().map_or(0, |entry| entry.index),
        torn: found.tail.torn.then(|| found.tail.cut.clone()),
        ..Report::default()
    };
    report.last_index = report.last_index.max(report.checkpoint_index.unwrap_or(0));
    let mut payloads = Vec::new();
    let mut before: Option<(u32, Cursor)> = None;
    let mut index = 1;
    for segment in &found.segments {
        let life = segment.header.life;
        if life > found.tail.life {
            break;
        }
        let bytes = dir.read_segment(life)?;
        let image = Image::new(&bytes, &segment.header);
        let follows = before.filter(|(last, _)| last + 1 == life).map(|(_, cursor)| cursor);
        let begin = match follows {
            Some(cursor) => Some(cursor),
            None => image.find(RECORDS_FROM).filter(|(at, _)| *at == RECORDS_FROM).map(|(_, cursor)| cursor),
        };
        let damaged = |offset: u32, index: u64, what: &str| {
            let file = dir.segment_path(life);
            Err(RecoveryError::Damaged { file, offset: offset.into(), index, what: what.into(), gap: None })
        };
        let is_tail = life == found.tail.life;
        let Some(begin) = begin else {
            if is_tail && found.tail.offset == RECORDS_FROM {
                break;
            }
            return damaged(RECORDS_FROM, index, "it does not begin with a record");
        };
        let mut ranges = Vec::new();
        let (end, cursor, _) = walk_run(&image, RECORDS_FROM, begin, &mut |record| {
            report.records += 1;
            ranges.push(record.payload());
            if record.header.kind == Type::Entry {
                // Of a damaged log it may be any number.
                index = record.header.index.saturating_add(1);
            }
        });
        payloads.push((life, ranges));
        if is_tail {
            // A checkpoint that nothing follows names the block behind the last record.
            let blocks = [end, found.tail.offset].map(|offset| offset.next_multiple_of(LOG_BLOCK_BYTES));
            if blocks[0] != blocks[1] || cursor != found.tail.cursor {
                return damaged(end, index, "its records do not lead to those behind the checkpoint");
            }
            break;
        }
        if segment.used.is_some_and(|used| used != end.next_multiple_of(LOG_BLOCK_BYTES)) {
            return damaged(end, index, "no record follows here, but the segment was written further");
        }
        if image.find(end).is_some() {
            return damaged(end, index, "the record here does not follow the one before, and others are behind it");
        }
        before = Some((life, cursor));
    }
    report.values = verify_values(dir, &found, &payloads)?;
    Ok(report)
}

fn verify_values(
    dir: &Dir,
    found: &Found,
    payloads: &[(u32, Vec<std::ops::Range<usize>>)],
) -> Result<u64, RecoveryError> {
    let Some(checkpoint) = &found.checkpoint else { return Ok(0) };
    let mut values = 0;
    for event in checkpoint.state.index.event_refs(Revision::ZERO, i64::MAX) {
        let place = event.meta.place;
        if place.len == 0 {
            continue;
        }
        values += 1;
        let ranges = payloads.binary_search_by_key(&place.segment, |(life, _)| *life).map(|at| &payloads[at].1);
        let (from, to) = (place.offset as usize, place.offset as usize + place.len as usize);
        let inside = ranges.is_ok_and(|ranges| {
            let after = ranges.partition_point(|range| range.start <= from);
            after > 0 && to <= ranges[after - 1].end
        });
        if !inside {
            return Err(RecoveryError::Damaged {
                file: dir.segment_path(place.segment),
                offset: from as u64,
                index: checkpoint.state.applied().0 + 1,
                what: format!("the checkpoint has a value of revision {} here", event.meta.revision.main),
                gap: None,
            });
        }
    }
    Ok(values)
}
