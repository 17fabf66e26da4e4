//! Puts records at the log's end, in memory: a batch gathers until `take_write` closes it, and the driver makes it
//! durable. Does no I/O; knows a file only by the name it will have.
//!
//! The driver has one write in flight at a time and begins the next one when that is durable: recovery's reasoning
//! about what may be torn rests on it. Before it writes a piece it sees to it that the segment's file is there
//! (`disk::Dir::ensure_segment`); usually it has prepared the next one ahead of time.

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc};

use smallvec::SmallVec;

use super::{
    LogPosition,
    memory::{Filler, Memory},
    record::{self, FORMAT_VERSION, Header, MovedPayload, MovedValue, NewValues, RECORDS_FROM, SegmentHeader, Type},
    segment::Segment,
    table::SegmentTable,
};
use crate::{
    limits::{LOG_BLOCK_BYTES, MOVED_RECORD_BYTES, SEGMENT_REQUESTS_MIN},
    store::{checkpoint::SegmentExtent, types::Place},
};

pub use super::segment::Piece;

/// A batch that is to be made durable: its pieces, to be written in order. More than one if it crossed into a new
/// segment.
#[derive(Clone, Debug)]
pub struct PendingWrite {
    pub pieces: SmallVec<[Piece; 1]>,
}

/// What does not change while a log is open.
#[derive(Clone, Debug)]
pub struct LogParts {
    pub dir: PathBuf,
    /// Size of new segments: a multiple of the block. A record must fit into one.
    pub segment_bytes: u32,
    /// See `SegmentHeader::salt`.
    pub salt: u32,
    pub cluster_id: u64,
    pub member_id: u64,
    /// Bytes of sealed segments to keep in memory.
    pub recent_bytes: u64,
}

/// A sealed segment that is still in memory.
struct Recent {
    life: u32,
    bytes: u64,
    /// The last write that has a piece in it.
    last_write: u64,
}

pub struct Writer {
    parts: LogParts,
    table: SegmentTable,
    active: Arc<Segment>,
    filler: Filler,
    /// Number of the last write begun, and whether it is still open.
    write: u64,
    open: bool,
    /// Pieces of the open write in segments that are sealed since.
    pieces: SmallVec<[Piece; 1]>,
    /// Where the open write begins in the active segment, if it has a record there.
    piece_from: Option<u32>,
    /// The last record's header checksum.
    chain: u32,
    sealed_bytes: u64,
    recent: VecDeque<Recent>,
    recent_bytes: u64,
}

impl Writer {
    /// Goes on after the record whose write number and header checksum are given: in the segment of that header, of which
    /// `head` are the bytes so far (a whole number of blocks), after the `sealed` ones. What the segment's version is it stays;
    /// the next one is of the newest.
    pub(super) fn resume(
        parts: LogParts,
        sealed: Vec<Segment>,
        header: &SegmentHeader,
        head: &[u8],
        write: u64,
        chain: u32,
    ) -> io::Result<Writer> {
        assert_eq!(head.len() % LOG_BLOCK_BYTES as usize, 0, "a write begins at a block");
        let mut table = SegmentTable::default();
        let mut sealed_bytes = 0;
        for segment in sealed {
            sealed_bytes += u64::from(segment.used());
            table.push(Arc::new(segment));
        }
        let mut filler = Memory::map(header.size)?;
        filler.append(&[head]);
        let active = Arc::new(Segment::in_memory(&parts.dir, header, filler.memory().clone()));
        table.push(active.clone());
        Ok(Writer {
            parts,
            table,
            active,
            filler,
            write,
            open: false,
            pieces: SmallVec::new(),
            piece_from: None,
            chain,
            sealed_bytes,
            recent: VecDeque::new(),
            recent_bytes: 0,
        })
    }

    pub fn append_hard_state(&mut self, term: u64, vote: u64, commit: u64) {
        self.append(Type::HardState, 0, term, commit, &vote.to_le_bytes());
    }

    /// Appends a raft entry and says where its data lies. `kind` is the entry's type in etcd's numbers.
    ///
    /// # Panics
    /// If the entry is larger than a segment: requests are bounded well below (limits.rs).
    pub fn append_entry(&mut self, index: u64, term: u64, kind: u8, data: &[u8]) -> Place {
        self.append(Type::Entry, kind, term, index, data)
    }

    /// Appends copies of live values, in one or more records, and says where each lies now. After a restart each is
    /// relocated once the state has reached `applied_index`, the applied index of the state they were found in.
    pub fn append_moved(&mut self, applied_index: u64, moves: &[MovedValue]) -> Vec<Place> {
        let mut places = Vec::with_capacity(moves.len());
        let mut payload = MovedPayload::default();
        let most = self.moved_record_bytes();
        for moved in moves {
            if !payload.is_empty() && payload.len_with(moved.value.len()) > most {
                self.append_moved_record(applied_index, std::mem::take(&mut payload), moves, &mut places);
            }
            payload.push(moved);
        }
        if !payload.is_empty() {
            self.append_moved_record(applied_index, payload, moves, &mut places);
        }
        places
    }

    /// Bytes that a record of moved values grows to.
    pub fn moved_record_bytes(&self) -> usize {
        MOVED_RECORD_BYTES.min(self.parts.segment_bytes as usize / SEGMENT_REQUESTS_MIN as usize)
    }

    /// Appends values that were in no segment and says where each lies now. After a restart nothing points at them.
    pub fn append_new(&mut self, values: &NewValues) -> Vec<Place> {
        let mut places = Vec::with_capacity(values.values.len());
        for record in &values.records {
            let lies = self.append_proven(Type::Moved, 0, 0, 0, values.payload(record), record.crc);
            let its = &values.values[places.len()..record.values_end];
            places.extend(its.iter().map(|(at, len)| Place { offset: lies.offset + at, len: *len, ..lies }));
        }
        places
    }

    fn append_moved_record(
        &mut self,
        applied_index: u64,
        payload: MovedPayload,
        moves: &[MovedValue],
        places: &mut Vec<Place>,
    ) {
        let (payload, offsets) = payload.finish();
        let record = self.append(Type::Moved, 0, 0, applied_index, &payload);
        for offset in offsets {
            let len = moves[places.len()].from.len;
            places.push(Place { offset: record.offset + offset, len, ..record });
        }
    }

    fn append(&mut self, kind: Type, entry_type: u8, term: u64, index: u64, payload: &[u8]) -> Place {
        self.append_proven(kind, entry_type, term, index, payload, crc32c::crc32c(payload))
    }

    /// `payload_crc`: of the payload.
    fn append_proven(
        &mut self,
        kind: Type,
        entry_type: u8,
        term: u64,
        index: u64,
        payload: &[u8],
        payload_crc: u32,
    ) -> Place {
        let needed = record::record_bytes(payload.len());
        if needed > self.active.size() - self.filler.written() {
            let most = self.parts.segment_bytes - RECORDS_FROM;
            assert!(needed <= most, "a record of {needed} bytes does not fit a segment, which holds {most}");
            self.next_segment();
        }
        let first = !self.open;
        if first {
            self.write += 1;
            self.open = true;
        }
        let at = self.filler.written();
        self.piece_from.get_or_insert(at);
        let header = Header {
            payload_crc,
            chain: self.chain,
            len: payload.len() as u32,
            life: self.active.life(),
            kind,
            entry_type,
            first,
            write: self.write,
            term,
            index,
        };
        let (head, crc) = header.encode(self.active.seed().at(at));
        let pad = needed as usize - head.len() - payload.len();
        self.filler.append(&[&head, payload, &[0; record::ALIGN as usize][..pad]]);
        self.chain = crc;
        Place { segment: self.active.life(), offset: at + head.len() as u32, len: payload.len() as u32 }
    }

    /// Closes the batch, filled up to the block with zeros. None if nothing was appended.
    pub fn take_write(&mut self) -> Option<PendingWrite> {
        if !self.open {
            return None;
        }
        self.close_piece();
        self.open = false;
        self.evict();
        Some(PendingWrite { pieces: std::mem::take(&mut self.pieces) })
    }

    fn close_piece(&mut self) {
        let Some(offset) = self.piece_from.take() else { return };
        debug_assert_eq!(offset % LOG_BLOCK_BYTES, 0, "a piece begins at a block");
        let end = self.filler.written().next_multiple_of(LOG_BLOCK_BYTES);
        self.filler.skip_to(end);
        self.pieces.push(Piece { segment: self.active.clone(), offset, len: end - offset });
    }

    /// Closes the active segment early: what is appended next begins a new one. Nothing if it has no record yet.
    pub fn roll(&mut self) {
        if self.filler.written() > RECORDS_FROM {
            self.next_segment();
        }
    }

    fn next_segment(&mut self) {
        self.close_piece();
        let bytes = u64::from(self.filler.written());
        self.sealed_bytes += bytes;
        self.recent_bytes += bytes;
        self.recent.push_back(Recent { life: self.active.life(), bytes, last_write: self.write });

        let life = self.active.life().checked_add(1).expect("a log has fewer than 2^32 segments in its life");
        let header = self.segment_header(life);
        // Out of address space there is nothing left to do but stop.
        self.filler = Memory::map_large(header.size)
            .unwrap_or_else(|cause| panic!("no memory for a segment of the log: {cause}"));
        self.filler.skip_to(RECORDS_FROM);
        let memory = self.filler.memory().clone();
        self.active = Arc::new(Segment::in_memory(&self.parts.dir, &header, memory));
        self.table.push(self.active.clone());
    }

    /// Lets go of the memory of the oldest sealed segments over the bound. Only of those whose writes are all durable,
    /// which those before the write just closed are.
    fn evict(&mut self) {
        while self.recent_bytes > self.parts.recent_bytes
            && self.recent.front().is_some_and(|oldest| oldest.last_write < self.write)
        {
            let oldest = self.recent.pop_front().expect("just seen");
            self.recent_bytes -= oldest.bytes;
            if let Some(segment) = self.table.get(oldest.life) {
                let evicted = Arc::new(segment.evicted());
                self.table.replace(evicted);
            }
        }
    }

    /// The segments that places of this log point into, the active one included.
    pub fn table(&self) -> &SegmentTable {
        &self.table
    }

    /// Whether something was appended that no write has taken.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Where the next record goes: what a checkpoint names as "replay from here", if its state holds all that was
    /// appended so far, relocations included. The segment's file must exist before such a checkpoint is written.
    pub fn position(&self) -> LogPosition {
        LogPosition { life: self.active.life(), offset: self.filler.written(), write: self.write, chain: self.chain }
    }

    /// Bytes that the segment that is being written still has room for.
    pub fn room(&self) -> usize {
        (self.active.size() - self.filler.written()) as usize
    }

    /// Life number of the segment that is being written.
    pub fn active_life(&self) -> u32 {
        self.active.life()
    }

    /// The first block of a segment that this log begins: for preparing its file.
    pub fn segment_header(&self, life: u32) -> SegmentHeader {
        SegmentHeader {
            version: FORMAT_VERSION,
            life,
            size: self.parts.segment_bytes,
            salt: self.parts.salt,
            cluster_id: self.parts.cluster_id,
            member_id: self.parts.member_id,
        }
    }

    /// Bytes written in all live segments: of sealed ones up to their last record (of one that was sealed before the
    /// last checkpoint of an earlier process and is not in that checkpoint's list, its size).
    pub fn log_bytes(&self) -> u64 {
        self.sealed_bytes + u64::from(self.active.used())
    }

    /// How far each live segment is written: goes into the checkpoint.
    pub fn extents(&self) -> Vec<SegmentExtent> {
        self.table.iter().map(|segment| SegmentExtent { life: segment.life(), used: segment.used() }).collect()
    }

    /// Takes a sealed segment out of the table. The caller recycles its file when it is the only one to hold it.
    ///
    /// # Panics
    /// If it is the active segment, part of a write that was not taken, or not there.
    pub fn retire(&mut self, segment: u32) -> Arc<Segment> {
        assert_ne!(segment, self.active.life(), "the active segment is not retired");
        assert!(self.pieces.iter().all(|piece| piece.segment.life() != segment), "a segment is written, then retired");
        let retired = self.table.remove(segment).expect("a segment that is retired is there");
        self.sealed_bytes -= u64::from(retired.used());
        if let Some(at) = self.recent.iter().position(|recent| recent.life == segment) {
            let recent = self.recent.remove(at).expect("just found");
            self.recent_bytes -= recent.bytes;
        }
        retired
    }
}
