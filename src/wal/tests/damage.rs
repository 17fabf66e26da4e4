//! Damages every byte of a small log and of its checkpoint, and loses the end of each file at every offset. What comes of
//! it is compared with a model: the state after every prefix of the records, and every value. Allowed are exactly that
//! state, that state without the last write, a refusal to start or to give a value that names the place; nothing else.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    super::{
        bulk::Pace,
        disk::{Dir, Recycled},
        inspect,
        proof::Damaged,
        record::{self, HEADER_BYTES, MovedValue, RECORDS_FROM, Type},
        recovery::{self, Found, LogEntry, Options, RecoveryError, recover},
        segment::{self, Segment},
        table::SegmentTable,
        writer::Writer,
    },
    Content, OPTIONS, Written, content, write,
};
use crate::{
    proto::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest, RequestHeader,
    },
    store::{
        apply::{AppliedBatch, ApplyEntry},
        checkpoint::{self, CheckpointError, CheckpointHead, HardState},
        index::Progress,
        state::State,
        types::{Revision, Values as _},
    },
};

/// Two blocks for records: small enough that every byte can be damaged, and a log has several segments.
const TINY: Options = Options { segment_bytes: 12 * 1024, ..OPTIONS };

/// A record, and where it lies.
#[derive(Clone, Debug)]
struct Placed {
    life: u32,
    /// Its first byte, and the byte behind its payload.
    from: u32,
    to: u32,
    write: u64,
    index: u64,
}

/// What the log holds, and what must come of every beginning of it.
struct Model {
    /// Before the checkpoint's position: never replayed, but values lie in them.
    sealed: Vec<Placed>,
    /// Behind it, in order.
    tail: Vec<Placed>,
    /// What recovery gives for the first so many records of the tail, and the state that it leads to.
    prefixes: Vec<(Content, State)>,
    of_checkpoint: Vec<u8>,
    /// Every value there is, by its event.
    values: BTreeMap<Revision, Bytes>,
    applied: u64,
}

fn encoded(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    checkpoint::encode(state, &CheckpointHead::default(), &mut bytes).unwrap();
    bytes
}

fn apply(state: &mut State, entry: &LogEntry) {
    let entry = ApplyEntry {
        index: entry.index,
        term: entry.term,
        base: entry.place,
        data: entry.data.clone(),
        quota_room: None,
    };
    state.apply(&entry, &SegmentTable::default(), &mut AppliedBatch::default()).unwrap().result.unwrap();
}

/// As the core does it after a restart.
fn replayed(mut state: State, (_, entries, moves): &Content) -> State {
    let mut moves = moves.iter().peekable();
    let mut relocate = |state: &mut State| {
        while let Some((_, list)) = moves.next_if(|(after, _)| *after <= state.applied().0) {
            for one in list {
                state.index.relocate(one.revision, one.from, one.to);
            }
        }
    };
    relocate(&mut state);
    for entry in entries {
        apply(&mut state, entry);
        relocate(&mut state);
    }
    state
}

/// Writes a log and keeps what it wrote.
struct Maker<'a> {
    dir: &'a Dir,
    writer: Writer,
    state: State,
    /// Of the records since the checkpoint.
    written: Vec<Written>,
    values: BTreeMap<Revision, Bytes>,
    serial: u64,
}

impl Maker<'_> {
    fn entry(&mut self, fill: impl FnOnce(&mut InternalRaftRequest)) {
        let mut request = InternalRaftRequest::default();
        let index = self.state.applied().0 + 1;
        request.header = Some(RequestHeader { id: index, ..RequestHeader::default() });
        fill(&mut request);
        let data = Bytes::from(request.encode_to_vec());
        let place = self.writer.append_entry(index, 1, 0, &data);
        let entry = LogEntry { index, term: 1, kind: 0, data, place };
        apply(&mut self.state, &entry);
        self.written.push(Written::Entry(entry));
    }

    fn put(&mut self, key: &str, len: usize) {
        self.serial += 1;
        let value = Bytes::from(vec![b'a' + (self.serial % 26) as u8; len]);
        let put = PutRequest { key: key.to_owned().into(), value: value.clone(), ..PutRequest::default() };
        self.entry(|request| request.put = Some(put));
        self.values.insert(Revision::new(self.state.index.current(), 0), value);
    }

    fn hard_state(&mut self) {
        let hard_state = HardState { term: 1, vote: 0xe1, commit: self.state.applied().0 };
        self.writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
        self.written.push(Written::HardState(hard_state));
    }

    fn write(&mut self) {
        write(self.dir, &mut self.writer);
    }
}

/// Segments that are sealed and hold values, a checkpoint, a tail in segments whose files had a life before, moved
/// values in it. `crosses`: the last write goes on into a new segment.
fn make(path: &Path, crosses: bool) -> Model {
    let dir = Dir::open(path).unwrap();
    let writer = recover(&dir, &TINY).unwrap().writer;
    let mut maker =
        Maker { dir: &dir, writer, state: State::new(2), written: Vec::new(), values: BTreeMap::new(), serial: 0 };
    maker.hard_state();
    // Of this generation nothing will live but its files.
    for round in 0..8 {
        for key in ["a", "b", "c", "d"] {
            maker.put(key, 300 + round * 40);
        }
        maker.hard_state();
        maker.write();
    }
    maker.entry(|request| request.lease_grant = Some(LeaseGrantRequest { id: 7, ttl: 60 }));
    for (key, len) in [("a", 500), ("b", 40), ("kept/empty", 0), ("c", 3), ("kept/1", 700), ("d", 1), ("kept/2", 90)] {
        maker.put(key, len);
    }
    maker.write();
    for key in ["kept/3", "kept/4"] {
        maker.put(key, 900);
    }
    maker.write();
    for key in ["kept/5", "kept/6", "a"] {
        maker.put(key, 1200);
    }
    let gone = DeleteRangeRequest { key: Bytes::from_static(b"b"), ..DeleteRangeRequest::default() };
    maker.entry(|request| request.delete_range = Some(gone));
    let revision = maker.state.index.current();
    maker.entry(|request| request.compaction = Some(CompactionRequest { revision, physical: false }));
    while maker.state.index.compaction_step(100, &mut |_| {}) == Progress::More {}
    maker.hard_state();
    maker.write();

    let (position, applied) = (maker.writer.position(), maker.state.applied().0);
    let hard_state = HardState { term: 1, vote: 0xe1, commit: applied };
    let head = CheckpointHead { hard_state, position, extents: maker.writer.extents() };
    dir.write_checkpoint(&maker.state, &head, Pace::Hurried).unwrap();
    let of_checkpoint = maker.state.clone();
    let usage = of_checkpoint.index.usage();
    let lives: Vec<u32> = maker.writer.table().iter().map(|segment| segment.life()).collect();
    let dead: Vec<u32> = lives.into_iter().filter(|life| *life < position.life && usage.of(*life).is_none()).collect();
    assert!(dead.len() >= 2, "{dead:?}");
    for life in &dead {
        let retired = maker.writer.retire(*life);
        assert!(matches!(dir.recycle(retired, Pace::Hurried).unwrap(), Recycled::Done));
    }
    maker.written.clear();

    let begun = maker.writer.active_life();
    for round in 0.. {
        for key in ["a", "e", "b"] {
            maker.put(key, 20 + round * 150 % 700);
        }
        maker.hard_state();
        if round == 2 {
            let index = &maker.state.index;
            let events = index.event_refs(Revision::ZERO, i64::MAX).map(|event| event.meta);
            let events: Vec<_> = events.filter(|meta| meta.place.len > 0).collect();
            let from = events[0].place.segment;
            let values: Vec<MovedValue> = events
                .into_iter()
                .filter(|meta| meta.place.segment == from)
                .map(|meta| MovedValue {
                    revision: meta.revision,
                    from: meta.place,
                    value: maker.values[&meta.revision].clone(),
                })
                .collect();
            assert!(from < position.life && values.len() > 1, "{} values in {from}, {position:?}", values.len());
            let applied = maker.state.applied().0;
            let moves: Vec<record::Move> = std::iter::zip(&values, maker.writer.append_moved(applied, &values))
                .map(|(value, to)| record::Move { revision: value.revision, from: value.from, to })
                .collect();
            for one in &moves {
                assert!(maker.state.index.relocate(one.revision, one.from, one.to));
            }
            let mut moves = &moves[..];
            // One record for each run of places that lie in one.
            while let Some(first) = moves.first() {
                let run = moves.iter().take_while(|one| one.to.segment == first.to.segment).count();
                maker.written.push(Written::Moved(applied, moves[..run].to_vec()));
                moves = &moves[run..];
            }
        }
        maker.write();
        if maker.writer.active_life() == begun + 2 {
            break;
        }
    }
    // A write in the first block of one more segment and the last one in its second, or one that goes on from the segment
    // before: where nothing was written, there is still what the file held in its former life.
    if !crosses {
        maker.writer.roll();
        maker.put("f", 1000);
        maker.write();
    }
    for key in ["f", "g"] {
        maker.put(key, 250);
    }
    maker.hard_state();
    while maker.writer.active_life() < begun + 3 {
        maker.put("h", 1500);
    }
    maker.put("a", 10);
    maker.write();

    let mut records = Vec::new();
    inspect::walk(&dir, &mut |_, seen| match seen {
        inspect::Seen::Record { record, payload } => {
            let payload_from = record.payload().start as u32;
            records.push((
                Placed {
                    life: record.header.life,
                    from: payload_from - HEADER_BYTES as u32,
                    to: payload_from + payload.len() as u32,
                    write: record.header.write,
                    index: record.header.index,
                },
                record.header.kind,
            ));
        }
        inspect::Seen::Segment(_) => {}
        other => panic!("{other:?}"),
    })
    .unwrap();
    let behind = |placed: &Placed| (placed.life, placed.from) >= (position.life, position.offset);
    let (tail, sealed): (Vec<_>, Vec<_>) = records.into_iter().partition(|(placed, _)| behind(placed));
    assert_eq!(tail.len(), maker.written.len(), "each record is known");
    for ((placed, kind), written) in tail.iter().zip(&maker.written) {
        let wanted = match written {
            Written::Entry(entry) => (Type::Entry, entry.index),
            Written::HardState(hard_state) => (Type::HardState, hard_state.commit),
            Written::Moved(after, _) => (Type::Moved, *after),
        };
        assert_eq!((*kind, placed.index), wanted);
    }
    let prefixes: Vec<_> = (0..=tail.len())
        .map(|count| {
            let content = content(applied, hard_state, maker.written[..count].iter());
            let state = replayed(of_checkpoint.clone(), &content);
            (content, state)
        })
        .collect();
    let placed = |records: Vec<(Placed, Type)>| records.into_iter().map(|(placed, _)| placed).collect();
    let last: &(Content, State) = &prefixes[prefixes.len() - 1];
    assert!(encoded(&last.1) == encoded(&maker.state), "the model leads to the state that was written");
    let of_checkpoint = encoded(&of_checkpoint);
    Model { sealed: placed(sealed), tail: placed(tail), prefixes, of_checkpoint, values: maker.values, applied }
}

/// How a case ended, beside those that are refused at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    offsets: u64,
    /// The whole state, every value exact.
    exact: u64,
    /// The whole state; values of the damaged record refused by file, offset and index, all others exact.
    values_refused: u64,
    /// The whole state but for the last write, which nothing tells from a torn one.
    cut: u64,
    /// Where a file has lost its end and with it every trace of later writes: the exact state of an earlier time.
    shorter: u64,
    /// The start was refused by file, offset and index.
    refused: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.offsets += other.offsets;
        self.exact += other.exact;
        self.values_refused += other.values_refused;
        self.cut += other.cut;
        self.shorter += other.shorter;
        self.refused += other.refused;
    }
}

/// A copy of the log in which one file is damaged at a time.
struct Patient<'a> {
    path: PathBuf,
    model: &'a Model,
}

impl Patient<'_> {
    fn read(&self) -> Result<Found, RecoveryError> {
        Ok(recovery::read(&Dir::look_at(&self.path))?.expect("there is a log"))
    }

    /// Judges what comes of a segment of which the bytes in `is_changed` are not what they were. `tail_lost`: they reach to
    /// the end of the file.
    fn judge(&self, life: u32, is_changed: &dyn Fn(u32, u32) -> bool, tail_lost: bool, shown: &str) -> Counts {
        let Model { tail, sealed, prefixes, applied, .. } = self.model;
        let mut counts = Counts { offsets: 1, ..Counts::default() };
        let file = self.path.join(segment::file_name(life));
        let found = self.read();
        if is_changed(0, RECORDS_FROM) {
            let Err(RecoveryError::Damaged { file: told, offset: 0, index, .. }) = found else {
                panic!("{shown}: the file's first block is believed")
            };
            assert_eq!((told, index), (file, applied + 1), "{shown}");
            return Counts { refused: 1, ..counts };
        }
        let is_hit = |placed: &Placed| placed.life == life && is_changed(placed.from, placed.to);
        // What lies before the checkpoint in the segment that goes on is looked at, though it is not replayed.
        let goes_on = tail.last().unwrap().life;
        let early: Vec<&Placed> = sealed.iter().filter(|placed| placed.life == goes_on).collect();
        if let Some(hit) = early.iter().position(|placed| is_hit(placed)) {
            let Err(RecoveryError::Damaged { file: told, offset, index, .. }) = found else {
                panic!("{shown}: a damaged record before the checkpoint is believed")
            };
            let before = hit.checked_sub(1).map(|at| early[at]);
            let spots = [Some(early[hit].from), before.map(|it| it.to.next_multiple_of(record::ALIGN))];
            assert!(told == file && spots.into_iter().flatten().any(|at| u64::from(at) == offset), "{shown}: {offset}");
            let expected = before.map_or(applied + 1..=applied + 1, |it| it.index..=it.index + 1);
            assert!(expected.contains(&index), "{shown}: {index}");
            return Counts { refused: 1, ..counts };
        }
        let hit = tail.iter().position(is_hit);
        let found = match (found, hit) {
            (Ok(found), _) => found,
            (Err(RecoveryError::Damaged { file: told, offset, index, .. }), Some(hit)) => {
                let last_write = tail.last().unwrap().write;
                assert!(tail[hit].write < last_write, "{shown}: only the last write is damaged");
                // A header that is none ends the record before; a payload is found where it is.
                let before = hit.checked_sub(1).map(|at| &tail[at]);
                let before = before.map(|it| (it.life, it.to.next_multiple_of(record::ALIGN)));
                let spots = [Some((life, tail[hit].from)), before];
                let is_spot = |(life, at): (u32, u32)| {
                    (self.path.join(segment::file_name(life)), u64::from(at)) == (told.clone(), offset)
                };
                // The first of the tail follows one that is not replayed.
                assert!(hit == 0 || spots.into_iter().flatten().any(is_spot), "{shown}: {} {offset}", told.display());
                let expected = prefixes[hit].0.1.last().map_or(*applied, |entry| entry.index) + 1;
                assert_eq!(index, expected, "{shown}");
                return Counts { refused: 1, ..counts };
            }
            (Err(other), _) => panic!("{shown}: {other}"),
        };
        let state = found.checkpoint.expect("it is not damaged").state;
        let content = (found.hard_state, found.entries, found.moves);
        let kept = hit.unwrap_or(tail.len());
        assert!(content == prefixes[kept].0, "{shown}: not what the first {kept} records say");
        // The same records applied to the same state give the same state: that much is looked at now and then.
        if is_changed(0, u32::MAX) == shown.ends_with('7') {
            assert!(encoded(&state) == self.model.of_checkpoint, "{shown}: another checkpoint");
            let state = replayed(state, &content);
            assert!(encoded(&state) == encoded(&prefixes[kept].1), "{shown}: another state");
        }
        let refused = self.read_values(&prefixes[kept].1, life, &found.segments, &|place| {
            let records = sealed.iter().chain(&tail[..kept]);
            let mut around = records.filter(|it| it.life == life && (it.from..it.to).contains(&place));
            let around = around.next().expect("a value lies in a record");
            (is_hit(around), around.clone())
        });
        match hit {
            None if refused > 0 => counts.values_refused = 1,
            None => {
                assert!(!found.tail.torn, "{shown}: nothing is torn");
                counts.exact = 1;
            }
            Some(hit) if tail[hit].write == tail.last().unwrap().write => counts.cut = 1,
            Some(hit) => {
                // A later write is known by its beginning: the rest of one whose beginning is gone with what is before it
                // cannot be told from the rest of a torn write that began there.
                let survives = |placed: &&Placed| {
                    let begins = tail.iter().find(|other| other.write == placed.write);
                    placed.write > tail[hit].write
                        && begins.is_some_and(|first| std::ptr::eq(first, *placed))
                        && !(placed.life == life && is_changed(placed.from, placed.from + HEADER_BYTES as u32))
                };
                assert!(tail_lost, "{shown}: acknowledged, and cut");
                assert_eq!(
                    tail.iter().find(survives).map(|placed| placed.write),
                    None,
                    "{shown}: a later write is there"
                );
                counts.shorter = 1;
            }
        }
        counts
    }

    /// Reads every value in a segment, in both ways; gives how many were refused.
    fn read_values(
        &self,
        state: &State,
        life: u32,
        segments: &[recovery::FoundSegment],
        record_of: &dyn Fn(u32) -> (bool, Placed),
    ) -> u64 {
        let mut table = SegmentTable::default();
        for found in segments {
            table.push(Arc::new(Segment::in_file(&self.path, &found.header, found.header.size)));
        }
        let mut refused = 0;
        for event in state.index.event_refs(Revision::ZERO, i64::MAX) {
            let (place, revision) = (event.meta.place, event.meta.revision);
            if place.len == 0 || place.segment != life {
                continue;
            }
            let wanted = &self.model.values[&revision];
            let (is_damaged, record) = record_of(place.offset);
            match (table.resident(place), is_damaged) {
                (Some(value), false) => assert!(value == wanted, "{revision:?} is another value in {life}"),
                (Some(_), true) => panic!("{revision:?} is given from a damaged record in {life}"),
                (None, _) => {}
            }
            match (table.read(place), is_damaged) {
                (Ok(value), false) => assert!(value == *wanted, "{revision:?} is another value in {life}"),
                (Ok(_), true) => panic!("{revision:?} is read from a damaged record in {life}"),
                (Err(cause), true) => {
                    let damaged: &Damaged =
                        cause.get_ref().and_then(|it| it.downcast_ref()).expect("says what is wrong");
                    assert_eq!(damaged.file, self.path.join(segment::file_name(life)));
                    assert!([record.from, place.offset].contains(&damaged.offset), "{damaged}");
                    assert!((1..=record.index + 1).contains(&damaged.index), "{damaged}, {record:?}");
                    refused += 1;
                }
                (Err(cause), false) => panic!("{revision:?} in {life} is refused: {cause}"),
            }
        }
        refused
    }
}

fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Damages byte after byte of a share of all offsets.
fn torment(patient: &Patient<'_>, files: &BTreeMap<u32, Vec<u8>>, share: usize, of: usize) -> [Counts; 3] {
    let [mut flipped, mut lost, mut shorter] = [Counts::default(); 3];
    for (&life, sound) in files {
        let path = patient.path.join(segment::file_name(life));
        for at in (share..sound.len()).step_by(of) {
            let mask = if (at / of).is_multiple_of(2) { 1 << (at / of / 2 % 8) } else { 0xff };
            let mut bytes = sound.clone();
            bytes[at] ^= mask;
            fs::write(&path, &bytes).unwrap();
            let shown = format!("byte {at} of {life:08x}");
            flipped += patient.judge(life, &|from, to| (from..to).contains(&(at as u32)), false, &shown);

            let mut bytes = sound.clone();
            bytes[at..].fill(0);
            if bytes != *sound {
                fs::write(&path, &bytes).unwrap();
                let shown = format!("zeros in {life:08x} from {at}");
                let is_changed = |from: u32, to: u32| {
                    (from.max(at as u32)..to).any(|at| sound.get(at as usize).is_some_and(|byte| *byte != 0))
                };
                lost += patient.judge(life, &is_changed, true, &shown);
            }

            fs::write(&path, &sound[..at]).unwrap();
            match patient.read() {
                Err(RecoveryError::Damaged { file, offset, index, .. }) => {
                    let told = if at < RECORDS_FROM as usize { 0 } else { at as u64 };
                    assert_eq!((file, offset, index), (path.clone(), told, patient.model.applied + 1));
                }
                Err(other) => panic!("{life:08x} cut at {at}: {other}"),
                Ok(_) => panic!("{life:08x} cut at {at} is believed"),
            }
            shorter += Counts { offsets: 1, refused: 1, ..Counts::default() };
        }
        fs::write(&path, sound).unwrap();
    }
    [flipped, lost, shorter]
}

/// The same with the checkpoint: it is refused whatever is wrong with it.
fn torment_checkpoint(patient: &Patient<'_>) -> Counts {
    let path = patient.path.join("checkpoint");
    let sound = fs::read(&path).unwrap();
    let mut counts = Counts::default();
    let mut refused = |bytes: &[u8], at: usize| {
        fs::write(&path, bytes).unwrap();
        match patient.read() {
            Err(RecoveryError::Checkpoint { file, source: CheckpointError::Damaged { offset, .. } }) => {
                assert_eq!(file, path);
                assert!(offset <= at as u64, "byte {at} is told as {offset}");
            }
            Err(other) => panic!("byte {at} of the checkpoint: {other}"),
            Ok(_) => panic!("byte {at} of the checkpoint is believed"),
        }
        counts += Counts { offsets: 1, refused: 1, ..Counts::default() };
    };
    for at in 0..sound.len() {
        for mask in (0..8).map(|bit| 1 << bit).chain([0xff]) {
            let mut bytes = sound.clone();
            bytes[at] ^= mask;
            refused(&bytes, at);
        }
        refused(&sound[..at], at);
        let mut bytes = sound.clone();
        bytes[at..].fill(0);
        if bytes != sound {
            refused(&bytes, sound.len());
        }
    }
    refused(&[&sound[..], &[0]].concat(), sound.len());
    fs::write(&path, &sound).unwrap();
    counts
}

#[test]
fn whatever_byte_is_damaged_the_answer_is_right_or_a_refusal() {
    const THREADS: usize = 2;
    for crosses in [false, true] {
        let temp = in_memory();
        let model = make(temp.path(), crosses);
        let lives = Dir::look_at(temp.path()).list().unwrap().segments;
        let files: BTreeMap<u32, Vec<u8>> =
            lives.iter().map(|life| (*life, fs::read(temp.path().join(segment::file_name(*life))).unwrap())).collect();
        // Not one file but has had a life before, or lies before the checkpoint.
        let position = model.tail[0].life;
        let is_stale = |(life, bytes): &(&u32, &Vec<u8>)| {
            let used = model.tail.iter().rfind(|it| it.life == **life).map_or(RECORDS_FROM, |it| it.to);
            **life > position && bytes[used as usize..].windows(2).any(|two| two == b"uR")
        };
        let stale = files.iter().filter(is_stale).count();
        assert!(stale > 0, "no file has stale records behind its own");
        assert!(model.sealed.iter().any(|it| it.life < position), "no sealed segment before the checkpoint");
        assert!(model.tail.iter().any(|it| it.life > position + 1), "the tail has several segments");
        let is_last = |it: &&Placed| it.write == model.tail.last().unwrap().write;
        let lives_of_last: Vec<u32> = model.tail.iter().filter(is_last).map(|it| it.life).collect();
        assert_eq!(crosses, lives_of_last.first() != lives_of_last.last());

        let mut counts = [Counts::default(); 3];
        let mut checkpoint = Counts::default();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for share in 0..THREADS {
                let (model, files, from) = (&model, &files, temp.path());
                threads.push(scope.spawn(move || {
                    let copy = in_memory();
                    for entry in fs::read_dir(from).unwrap() {
                        let entry = entry.unwrap();
                        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
                    }
                    let patient = Patient { path: copy.path().to_owned(), model };
                    let unharmed = patient.judge(model.sealed[0].life, &|_, _| false, false, "unharmed");
                    assert_eq!(unharmed.exact, 1);
                    let checkpoint = if share == 0 { torment_checkpoint(&patient) } else { Counts::default() };
                    (torment(&patient, files, share, THREADS), checkpoint)
                }));
            }
            for thread in threads {
                let (more, of_checkpoint) = thread.join().unwrap();
                std::iter::zip(&mut counts, more).for_each(|(sum, one)| *sum += one);
                checkpoint += of_checkpoint;
            }
        });
        let [flipped, lost, shorter] = counts;
        println!(
            "{} segments ({stale} recycled, {} records before the checkpoint, {} behind), last write {}:\n  bytes \
             damaged: {flipped:?}\n  ends lost: {lost:?}\n  files cut: {shorter:?}\n  checkpoint damaged or cut: \
             {checkpoint:?}",
            files.len(),
            model.sealed.len(),
            model.tail.len(),
            if crosses { "in two segments" } else { "in one segment" }
        );
        let bytes: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
        assert_eq!((flipped.offsets, shorter.offsets), (bytes, bytes), "each byte was damaged");
        assert!([flipped.exact, flipped.values_refused, flipped.cut, flipped.refused].iter().all(|count| *count > 500));
        assert!(lost.refused > 0 && lost.cut > 0 && flipped.shorter == 0);
        // A file that held two writes can lose both without a trace. Where the second goes on in the next file, what is
        // there looks like the rest of a torn write only if nothing is left of the record where the loss begins: at the
        // few bytes between two records.
        assert!(lost.shorter > 0 && (!crosses || lost.shorter < 50));
    }
}
