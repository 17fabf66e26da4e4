//! A restart: checkpoint, then the records behind it, then the judgement of the log's end. `read` changes nothing and
//! serves the tools too; `recover` cuts a torn end, makes durable what it has read, and gives the writer that goes on.
//!
//! Only damage at the very end that cannot be told from a torn last write is cut. Everything else is refused with the
//! file, the offset and the raft index that was expected there: never skipped, never guessed.

use std::{cell::RefCell, path::PathBuf};

use bytes::Bytes;

use super::{
    bulk::Pace,
    disk::{self, Dir, DiskError, Listing},
    record::{self, BadSegmentHeader, FORMAT_VERSION, Move, NOWHERE, RECORDS_FROM, SegmentHeader, Type},
    replay::{Cursor, Image, Record, Spot, What},
    segment::Segment,
    writer::{LogParts, Writer},
};
use crate::{
    limits::{LOG_BLOCK_BYTES, LOG_RECENT_BYTES, SEGMENT_BYTES_DEFAULT, SEGMENT_REQUESTS_MIN},
    store::{
        checkpoint::{self, Checkpoint, CheckpointError, HardState, LogPosition},
        membership::Member,
        types::Place,
    },
};

const MIB: usize = 1 << 20;

/// What a log is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of new segments. Those there are keep theirs.
    pub segment_bytes: u32,
    /// Bytes of sealed segments to keep in memory.
    pub recent_bytes: u64,
    /// Written into a new log; an old one keeps its own, see `Recovered`.
    pub cluster_id: u64,
    pub member_id: u64,
}

impl Options {
    /// For requests of up to `request_bytes`.
    pub fn for_requests(request_bytes: usize, cluster_id: u64, member_id: u64) -> Options {
        // Offsets have 32 bits: beyond 1 GiB a request's segment holds fewer of them.
        let most = u32::MAX as usize / MIB * MIB;
        let least = request_bytes.saturating_mul(SEGMENT_REQUESTS_MIN as usize).min(most).next_multiple_of(MIB);
        let segment_bytes = SEGMENT_BYTES_DEFAULT.max(u32::try_from(least).expect("bounded just now"));
        Options { segment_bytes, recent_bytes: LOG_RECENT_BYTES, cluster_id, member_id }
    }
}

/// A raft entry of the log's tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    /// Its type in etcd's numbers.
    pub kind: u8,
    pub data: Bytes,
    /// Where `data` lies.
    pub place: Place,
}

/// The end of a torn write, cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    pub offset: u32,
    /// The raft index that was expected there.
    pub index: u64,
}

/// What a restart begins with.
pub struct Recovered {
    /// None: replay is from the log's beginning.
    pub checkpoint: Option<Checkpoint>,
    /// Of the checkpoint or the log, whichever is later.
    pub hard_state: HardState,
    /// Entries that the checkpoint has applied and that are behind its position all the same, up to the last of them, without
    /// gaps: other members may ask for them. Their bytes are left in the log.
    pub kept: Vec<LogEntry>,
    /// The entries behind the checkpoint's applied index (without a checkpoint: all), without gaps.
    pub entries: Vec<LogEntry>,
    /// Relocations in the log's order: each is due once the state has applied the index beside it (at once, if it
    /// already has). One that the state knows already does nothing: `Index::relocate` says false.
    pub moves: Vec<(u64, Vec<Move>)>,
    /// It may have a first record to write already: see `take_write`.
    pub writer: Writer,
    /// To be told to the operator.
    pub cut: Option<Cut>,
    /// The directory held no log: a new one was begun.
    pub is_new: bool,
    /// As the log says; for a new one, as the options say.
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Records that are lost in the middle of a log, by what is known of them from those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the last sound record before them ends, or one begins whose payload is lost.
    pub life: u32,
    pub offset: u32,
    /// Of the last sound record.
    pub cursor: Cursor,
    /// Of the first lost entry; None if no entry before it was read.
    pub index: Option<u64>,
    /// The last one before.
    pub hard_state: HardState,
    pub cluster_id: u64,
    pub member_id: u64,
    /// As of the checkpoint.
    pub members: Vec<Member>,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{} is damaged at byte {offset}, where the record of raft entry {index} was expected: {what}. This is no torn \
         last write, so acknowledged data may be lost. Remove the member from its cluster and add it again with an \
         empty data directory, or restore a snapshot; keep this directory for study",
        file.display()
    )]
    Damaged { file: PathBuf, offset: u64, index: u64, what: String, gap: Option<Box<Gap>> },
    #[error(
        "the checkpoint {} cannot be used: {source}. Remove the member from its cluster and add it again with an \
         empty data directory, or restore a snapshot; keep this directory for study",
        file.display()
    )]
    Checkpoint { file: PathBuf, source: CheckpointError },
    #[error(
        "{} is missing: {why}. Put the file back if it was moved away; else remove the member from its cluster and \
         add it again with an empty data directory, or restore a snapshot",
        file.display()
    )]
    Missing { file: PathBuf, why: String },
    #[error(
        "{} was written by another version of urd: format version {version}, this program reads up to {FORMAT_VERSION}. \
         Start the version that wrote it",
        file.display()
    )]
    Version { file: PathBuf, version: u32 },
}

/// Opens the log of a directory: reads it, cuts a torn end, makes what was read durable. A directory without a log gets
/// a new one.
///
/// # Errors
/// Whatever makes it doubtful that all acknowledged entries are there; the directory is unchanged then.
///
/// # Panics
/// If the segment size is no multiple of the block.
pub fn recover(dir: &Dir, options: &Options) -> Result<Recovered, RecoveryError> {
    assert_eq!(options.segment_bytes % LOG_BLOCK_BYTES, 0, "segments are whole blocks");
    let Some(found) = read(dir)? else { return begin(dir, options) };
    let Found { checkpoint, hard_state, kept, entries, moves, mut segments, tail, .. } = found;
    let first = segments[0].header;

    // From the back, so that a crash in between leaves a log that is torn at the same spot.
    while let Some(last) = segments.pop_if(|last| last.header.life > tail.life) {
        let header = last.header;
        if tail.torn {
            // Its header stays until it has another name.
            dir.zero_segment(header.life, RECORDS_FROM, header.size)?;
        }
        dir.demote(header.life, Pace::Hurried)?;
    }
    let active = segments.pop().expect("the tail is in a segment");
    let mut head = tail.image;
    let boundary = tail.offset.next_multiple_of(LOG_BLOCK_BYTES);
    let leftover = head[tail.offset as usize..boundary as usize].iter().any(|byte| *byte != 0);
    if tail.torn || leftover {
        let to = if tail.torn { active.header.size } else { boundary };
        dir.zero_segment(tail.life, tail.offset, to)?;
    }
    for segment in segments.iter().chain([&active]).filter(|segment| segment.replayed) {
        dir.sync_segment(segment.header.life)?;
    }

    head.truncate(boundary as usize);
    head[tail.offset as usize..].fill(0);
    let parts = LogParts {
        dir: dir.path().to_owned(),
        segment_bytes: options.segment_bytes,
        salt: first.salt,
        cluster_id: first.cluster_id,
        member_id: first.member_id,
        recent_bytes: options.recent_bytes,
    };
    let sealed = segments
        .into_iter()
        .map(|it| Segment::in_file(dir.path(), &it.header, it.used.unwrap_or(it.header.size)))
        .collect();
    let Cursor { write, chain } = tail.cursor;
    let mut writer = Writer::resume(parts, sealed, &active.header, &head, write, chain)
        .map_err(|source| DiskError::Io { action: "hold in memory", path: dir.segment_path(tail.life), source })?;
    if tail.commit_taken_back {
        // Or else the record that is ahead of its entries would look like a loss once it is no longer in the last write.
        writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
    }
    Ok(Recovered {
        checkpoint,
        hard_state,
        kept,
        entries,
        moves,
        writer,
        cut: tail.torn.then_some(tail.cut),
        is_new: false,
        cluster_id: first.cluster_id,
        member_id: first.member_id,
    })
}

fn begin(dir: &Dir, options: &Options) -> Result<Recovered, RecoveryError> {
    let Options { segment_bytes, recent_bytes, cluster_id, member_id } = *options;
    let salt = disk::random_salt()?;
    let header = SegmentHeader { version: FORMAT_VERSION, life: 1, size: segment_bytes, salt, cluster_id, member_id };
    let path = dir.ensure_segment(&header, Pace::Hurried)?;
    let parts = LogParts { dir: dir.path().to_owned(), segment_bytes, salt, cluster_id, member_id, recent_bytes };
    let writer = Writer::resume(parts, Vec::new(), &header, &header.encode(), 0, 0)
        .map_err(|source| DiskError::Io { action: "hold in memory", path, source })?;
    Ok(Recovered {
        checkpoint: None,
        hard_state: HardState::default(),
        kept: Vec::new(),
        entries: Vec::new(),
        moves: Vec::new(),
        writer,
        cut: None,
        is_new: true,
        cluster_id,
        member_id,
    })
}

/// A segment of a log that was read.
#[derive(Clone, Copy, Debug)]
pub struct FoundSegment {
    pub header: SegmentHeader,
    /// Where its last write ends, if that is known: by replay or from the checkpoint.
    pub used: Option<u32>,
    /// Whether its records were read, or it lies before the checkpoint's position.
    pub replayed: bool,
}

/// Where a log ends.
pub struct Tail {
    pub life: u32,
    pub offset: u32,
    pub cursor: Cursor,
    /// Whether remains of a torn write follow.
    pub torn: bool,
    pub cut: Cut,
    /// Whether the last hard state's commit is beyond the last entry: of its torn write the entries are missing.
    pub commit_taken_back: bool,
    /// The file of segment `life`.
    image: Vec<u8>,
}

/// A log that was read.
pub struct Found {
    pub checkpoint: Option<Checkpoint>,
    pub hard_state: HardState,
    /// See `Recovered`.
    pub kept: Vec<LogEntry>,
    pub entries: Vec<LogEntry>,
    pub moves: Vec<(u64, Vec<Move>)>,
    /// In order of life.
    pub segments: Vec<FoundSegment>,
    pub tail: Tail,
}

impl Found {
    /// Where replay began.
    pub fn position(&self) -> LogPosition {
        start(self.checkpoint.as_ref())
    }
}

fn start(checkpoint: Option<&Checkpoint>) -> LogPosition {
    match checkpoint {
        Some(checkpoint) => checkpoint.head.position,
        None => LogPosition { life: 1, offset: RECORDS_FROM, write: 0, chain: 0 },
    }
}

/// Reads the checkpoint and the records behind it, and changes nothing. None if there is neither checkpoint nor
/// segment. Memory: one segment, and those that entries behind the checkpoint lie in.
pub fn read(dir: &Dir) -> Result<Option<Found>, RecoveryError> {
    let listing = dir.list()?;
    let checkpoint = read_checkpoint(dir)?;
    if listing.segments.is_empty() && checkpoint.is_none() {
        return Ok(None);
    }
    let position = start(checkpoint.as_ref());
    check_all_there(dir, &listing, checkpoint.as_ref(), position)?;
    let headers = read_headers(dir, &listing.segments, checkpoint.as_ref())?;
    let mut segments: Vec<FoundSegment> = headers
        .into_iter()
        .map(|header| {
            let mut extents = checkpoint.iter().flat_map(|checkpoint| &checkpoint.head.extents);
            let extent = extents.rfind(|extent| extent.life == header.life && extent.used > 0);
            let used = extent.map(|extent| extent.used);
            FoundSegment { header, used, replayed: header.life >= position.life }
        })
        .collect();

    let mut replay = Replay::new(dir, checkpoint.as_ref());
    let tail = replay.run(&mut segments, position);
    let tail = match (tail, replay.unreadable.take()) {
        // Where it should be told from what follows whether a write is torn, nothing may be unreadable.
        (Ok(_), Some(unreadable)) => return Err(unreadable.into()),
        (Err(RecoveryError::Damaged { file, offset, index, what, gap }), Some(unreadable)) => {
            let what = format!("{what}, and {unreadable}");
            return Err(RecoveryError::Damaged { file, offset, index, what, gap });
        }
        (tail, _) => tail?,
    };
    let Replay { applied, hard_state, entries: mut kept, moves, .. } = replay;
    let entries = kept.split_off(kept.partition_point(|entry| entry.index <= applied));
    if kept.last().is_some_and(|last| last.index != applied) {
        kept.clear();
    }
    Ok(Some(Found { checkpoint, hard_state, kept, entries, moves, segments, tail }))
}

fn read_checkpoint(dir: &Dir) -> Result<Option<Checkpoint>, RecoveryError> {
    let Some(mut file) = dir.open_checkpoint()? else { return Ok(None) };
    let decoded = checkpoint::decode(&mut file);
    decoded.map(Some).map_err(|source| RecoveryError::Checkpoint { file: dir.checkpoint_path(), source })
}

/// Whether the files that must be there are: all from the position on, and those that the checkpoint's values lie in.
fn check_all_there(
    dir: &Dir,
    listing: &Listing,
    checkpoint: Option<&Checkpoint>,
    position: LogPosition,
) -> Result<(), RecoveryError> {
    let lives = &listing.segments;
    let missing = |life, why: &str| RecoveryError::Missing { file: dir.segment_path(life), why: why.into() };
    if let Some(checkpoint) = checkpoint {
        for it in checkpoint.state.index.usage().segments() {
            // Values of entries behind the position are not in the state yet.
            if lives.binary_search(&it.segment).is_err() {
                return Err(missing(it.segment, "the checkpoint names values in it"));
            }
        }
    } else if lives[0] != position.life {
        let why = format!("the log begins with segment {:08x}, so there was one", lives[0]);
        return Err(RecoveryError::Missing { file: dir.checkpoint_path(), why });
    }
    let from = lives.partition_point(|life| *life < position.life);
    let last = lives.last().copied().unwrap_or(0).max(position.life);
    for (life, found) in (position.life..=last).zip(lives[from..].iter().map(Some).chain(std::iter::repeat(None))) {
        if found != Some(&life) {
            let why = if life == position.life { "the log is to be replayed from it" } else { "later ones are there" };
            return Err(missing(life, why));
        }
    }
    Ok(())
}

/// The first block of each segment.
fn read_headers(
    dir: &Dir,
    lives: &[u32],
    checkpoint: Option<&Checkpoint>,
) -> Result<Vec<SegmentHeader>, RecoveryError> {
    let index = checkpoint.map_or(1, |checkpoint| checkpoint.state.applied().0 + 1);
    let mut headers: Vec<SegmentHeader> = Vec::with_capacity(lives.len());
    for &life in lives {
        let file = dir.segment_path(life);
        let damaged = |offset: u64, what: String| {
            let file = file.clone();
            RecoveryError::Damaged { file, offset, index, what, gap: None }
        };
        let (block, size) = dir.read_segment_head(life)?;
        let header = match SegmentHeader::decode(&block) {
            Ok(header) => header,
            Err(BadSegmentHeader::Version(version)) => return Err(RecoveryError::Version { file, version }),
            Err(bad) => return Err(damaged(0, bad.to_string())),
        };
        if header.life != life {
            return Err(damaged(0, format!("it says that it is segment {:08x}", header.life)));
        }
        if u64::from(header.size) != size {
            let what = format!("the file has {size} bytes, its header says {}", header.size);
            return Err(damaged(size.min(header.size.into()), what));
        }
        if !header.size.is_multiple_of(LOG_BLOCK_BYTES) || header.size <= RECORDS_FROM {
            return Err(damaged(0, format!("no segment has {} bytes", header.size)));
        }
        if let Some(first) = headers.first()
            && (first.salt, first.cluster_id, first.member_id) != (header.salt, header.cluster_id, header.member_id)
        {
            return Err(damaged(0, format!("it belongs to another log than segment {:08x}", first.life)));
        }
        headers.push(header);
    }
    Ok(headers)
}

/// The log's tail as it is read, record by record.
struct Replay<'a> {
    dir: &'a Dir,
    applied: u64,
    hard_state: HardState,
    /// The write that the hard state came with.
    hard_state_write: u64,
    /// Those that are applied first, if there are any.
    entries: Vec<LogEntry>,
    moves: Vec<(u64, Vec<Move>)>,
    /// As of the checkpoint.
    members: Vec<Member>,
    /// The first block that could not be read, as if it held zeros.
    unreadable: RefCell<Option<DiskError>>,
}

impl<'a> Replay<'a> {
    fn new(dir: &'a Dir, checkpoint: Option<&Checkpoint>) -> Self {
        Replay {
            dir,
            applied: checkpoint.map_or(0, |checkpoint| checkpoint.state.applied().0),
            hard_state: checkpoint.map(|checkpoint| checkpoint.head.hard_state).unwrap_or_default(),
            hard_state_write: 0,
            entries: Vec::new(),
            moves: Vec::new(),
            members: checkpoint.iter().flat_map(|it| it.state.membership.members()).cloned().collect(),
            unreadable: RefCell::default(),
        }
    }

    fn read_segment(&self, life: u32) -> Result<Bytes, RecoveryError> {
        let (bytes, unreadable) = self.dir.read_segment_in_blocks(life)?;
        if let Some(unreadable) = unreadable {
            self.unreadable.borrow_mut().get_or_insert(unreadable);
        }
        Ok(bytes.into())
    }

    /// The raft index that the next entry should have.
    fn expected(&self) -> u64 {
        self.entries.last().map_or(self.applied, |entry| entry.index) + 1
    }

    fn damaged(&self, life: u32, offset: u32, what: String) -> RecoveryError {
        let (file, index) = (self.dir.segment_path(life), self.expected());
        RecoveryError::Damaged { file, offset: offset.into(), index, what, gap: None }
    }

    /// What is lost at a spot, if nothing behind it matters.
    fn gap(&self, header: &SegmentHeader, offset: u32, cursor: Cursor) -> Gap {
        Gap {
            life: header.life,
            offset,
            cursor,
            // Entries that are applied may come before the first that is not; a log's first is the first.
            index: self.entries.last().map(|entry| entry.index + 1).or((cursor.write == 0).then_some(1)),
            // That of the checkpoint is one of later.
            hard_state: match self.hard_state_write {
                0 => HardState { commit: 0, ..self.hard_state },
                _ => self.hard_state,
            },
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            members: self.members.clone(),
        }
    }

    /// Reads all records from `position` on, notes how far each segment is used, and judges the end.
    fn run(&mut self, segments: &mut [FoundSegment], position: LogPosition) -> Result<Tail, RecoveryError> {
        let mut at = segments.partition_point(|segment| segment.header.life < position.life);
        let mut cursor = Cursor { write: position.write, chain: position.chain };
        let mut offset = position.offset;
        let mut bytes = self.read_segment(position.life)?;
        if offset < RECORDS_FROM || !offset.is_multiple_of(record::ALIGN) || offset as usize > bytes.len() {
            let what = "the checkpoint names this as where replay begins, and no record begins there".to_owned();
            return Err(self.damaged(position.life, offset, what));
        }
        loop {
            let header = segments[at].header;
            let life = header.life;
            let mut spot = self.run_segment(&bytes, &header, &mut offset, &mut cursor)?;
            segments[at].used = Some(offset.next_multiple_of(LOG_BLOCK_BYTES));
            let mut spot_header = header;

            if let Some(next) = segments.get(at + 1).map(|next| next.header) {
                let next_bytes = self.read_segment(next.life)?;
                let image = Image::new(&next_bytes, &next);
                match image.record_at(RECORDS_FROM, cursor) {
                    Ok(_) => {
                        at += 1;
                        offset = RECORDS_FROM;
                        bytes = next_bytes;
                        continue;
                    }
                    // The next write's beginning: the spot is there, and this segment ends as it should.
                    Err(found) if found.what == What::Payload && spot.what == What::NoRecord => {
                        (spot, spot_header) = (found, next);
                    }
                    Err(_) => {}
                }
            }
            if life == position.life {
                self.check_before(&bytes, &header, position.offset)?;
            }
            let torn = self.judge(&bytes, &segments[at..], offset, (&spot_header, spot), cursor)?;
            let commit_taken_back = self.settle_commit(life, offset, cursor)?;
            let cut =
                Cut { file: self.dir.segment_path(spot_header.life), offset: spot.offset, index: self.expected() };
            return Ok(Tail { life, offset, cursor, torn, cut, commit_taken_back, image: bytes.into() });
        }
    }

    /// The segment that goes on is held in memory, from where values are given without a proof: what lies in it before the
    /// checkpoint's position must be sound too, though no record of it is replayed.
    fn check_before(&self, bytes: &Bytes, header: &SegmentHeader, position: u32) -> Result<(), RecoveryError> {
        let image = Image::new(bytes, header);
        let first = image.find(RECORDS_FROM).filter(|(at, _)| *at == RECORDS_FROM);
        let (mut at, mut cursor) = first.unwrap_or((RECORDS_FROM, Cursor::default()));
        // The first record's index is known from itself alone: without it, what the checkpoint lacks is told.
        let mut index = self.applied + 1;
        let (mut hard_state, mut last) = (HardState { commit: 0, ..self.hard_state }, None);
        while at.next_multiple_of(LOG_BLOCK_BYTES) < position {
            match image.next(at, cursor) {
                Ok(record) => {
                    (at, cursor) = (record.end(), record.cursor);
                    let header = &record.header;
                    index = header.index + u64::from(header.kind == Type::Entry);
                    match header.kind {
                        Type::Entry => last = Some(header.index),
                        Type::HardState => {
                            hard_state = HardState { term: header.term, commit: header.index, ..hard_state };
                        }
                        Type::Moved => {}
                    }
                }
                Err(spot) => {
                    let (file, offset) = (self.dir.segment_path(header.life), spot.offset.into());
                    let what = "no sound record is there, and the checkpoint lies behind it".into();
                    // What the first one followed is not known.
                    let gap = first.is_some().then(|| {
                        let index = last.map(|last| last + 1);
                        Box::new(Gap { hard_state, index, ..self.gap(header, spot.offset, cursor) })
                    });
                    return Err(RecoveryError::Damaged { file, offset, index, what, gap });
                }
            }
        }
        Ok(())
    }

    /// Reads the records of one segment and gives the spot where they end.
    fn run_segment(
        &mut self,
        bytes: &Bytes,
        header: &SegmentHeader,
        offset: &mut u32,
        cursor: &mut Cursor,
    ) -> Result<Spot, RecoveryError> {
        let image = Image::new(bytes, header);
        loop {
            match image.next(*offset, *cursor) {
                Ok(record) => {
                    self.take(&record, bytes)?;
                    (*offset, *cursor) = (record.end(), record.cursor);
                }
                Err(spot) => return Ok(spot),
            }
        }
    }

    fn take(&mut self, record: &Record, bytes: &Bytes) -> Result<(), RecoveryError> {
        let Record { header, offset, .. } = *record;
        let data = bytes.slice(record.payload());
        let place = Place { segment: header.life, offset: record.payload().start as u32, len: header.len };
        match header.kind {
            Type::Entry => {
                let (index, expected) = (header.index, self.expected());
                if index > expected {
                    return Err(self.damaged(header.life, offset, format!("it is the record of entry {index}")));
                }
                // A new leader has overruled the tail.
                let first = self.entries.first().map_or(index, |first| first.index);
                self.entries.truncate(index.saturating_sub(first) as usize);
                // What is applied is asked for by few.
                let data = if index > self.applied { data } else { Bytes::new() };
                self.entries.push(LogEntry { index, term: header.term, kind: header.entry_type, data, place });
            }
            Type::HardState => {
                let Ok(vote) = data.as_ref().try_into().map(u64::from_le_bytes) else {
                    return Err(self.damaged(header.life, offset, "a hard state without a vote".into()));
                };
                self.hard_state = HardState { term: header.term, vote, commit: header.index };
                self.hard_state_write = header.write;
            }
            Type::Moved => {
                let Some(mut moves) = record::decode_moved(&data, place) else {
                    return Err(self.damaged(header.life, offset, "a list of relocated values that is none".into()));
                };
                // Values that came from elsewhere, for a state that a checkpoint was to hold: there is none of it.
                moves.retain(|moved| moved.from.segment != NOWHERE);
                if !moves.is_empty() {
                    self.moves.push((header.index, moves));
                }
            }
        }
        Ok(())
    }

    /// Whether what follows the end is what a torn write has left. `Damaged` if something later shows that it was no
    /// torn write.
    fn judge(
        &self,
        bytes: &Bytes,
        segments: &[FoundSegment],
        offset: u32,
        (spot_header, spot): (&SegmentHeader, Spot),
        cursor: Cursor,
    ) -> Result<bool, RecoveryError> {
        let damaged = |why: String| self.damaged(spot_header.life, spot.offset, why);
        if let What::UnknownType(number) = spot.what {
            return Err(damaged(format!("a record of type {number}, which this version does not know, is there")));
        }
        let mut torn = spot.what == What::Payload;
        for (at, FoundSegment { header, .. }) in segments.iter().enumerate() {
            let life = header.life;
            let (bytes, from) = match at {
                0 => (bytes.clone(), offset),
                _ => (self.read_segment(life)?, RECORDS_FROM),
            };
            let image = Image::new(&bytes, header);
            let survey = image.survey(from, &spot, cursor);
            if let Some((later_offset, later)) = survey.later {
                let file = self.dir.segment_path(life);
                let found = match spot.what {
                    What::Payload => "its payload's checksum is wrong",
                    _ => "no such record is there",
                };
                let what = format!(
                    "{found}, but a later write ({}; the last sound one is {}) is in {} at byte {later_offset}",
                    later.write,
                    cursor.write,
                    file.display()
                );
                return Err(RecoveryError::Damaged {
                    file: self.dir.segment_path(spot_header.life),
                    offset: spot.offset.into(),
                    index: self.expected(),
                    what,
                    gap: Some(Box::new(self.gap(spot_header, spot.offset, cursor))),
                });
            }
            torn |= survey.remains;
        }
        Ok(torn)
    }

    /// A commit beyond the last entry is what a torn write may leave of a batch; otherwise entries are missing.
    /// True if it had to be taken back.
    fn settle_commit(&mut self, life: u32, offset: u32, cursor: Cursor) -> Result<bool, RecoveryError> {
        let last = (self.expected() - 1).max(self.applied);
        let ahead = self.hard_state.commit > last;
        if ahead {
            if self.hard_state_write != cursor.write {
                let what = format!("the log ends here, but entries up to {} are committed", self.hard_state.commit);
                return Err(self.damaged(life, offset, what));
            }
            self.hard_state.commit = last;
        }
        // What is applied was committed, whatever the hard state of that time had heard of.
        self.hard_state.commit = self.hard_state.commit.max(self.applied);
        Ok(ahead)
    }
}
