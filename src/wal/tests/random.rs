//! Whatever is appended, rolled, checkpointed, cut off in the middle of a write or started again, in any order: what
//! was durable is there, and of what was not, a beginning.

use std::{fs, os::unix::fs::FileExt, path::Path};

use proptest::prelude::*;

use super::{
    super::{
        bulk::Pace,
        disk::{Dir, Recycled},
        record::{self, MovedValue},
        recovery::recover,
        writer::Writer,
    },
    Content, OPTIONS, Written, content, entry, write,
};
use crate::store::{
    checkpoint::{CheckpointHead, HardState},
    state::State,
    types::{Place, Revision, Values},
};

#[derive(Clone, Debug)]
enum Op {
    /// Entries of these lengths, the first one replacing as many of the tail's.
    Entries(Vec<u16>, u8),
    HardState(bool),
    Moved(Vec<u16>),
    Roll,
    /// Ends the batch and makes it durable.
    Write,
    /// A checkpoint at the log's end; segments before it are recycled.
    Checkpoint,
    Restart,
    /// The process ends while the batch is written: of its blocks only those of the set bits have reached the disk.
    Crash(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (prop::collection::vec(0u16..9000, 1..6), 0u8..3).prop_map(|(lens, back)| Op::Entries(lens, back)),
        2 => any::<bool>().prop_map(Op::HardState),
        1 => prop::collection::vec(0u16..900, 1..12).prop_map(Op::Moved),
        1 => Just(Op::Roll),
        4 => Just(Op::Write),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Restart),
        3 => any::<u64>().prop_map(Op::Crash),
    ]
}

/// A log and what it must hold.
struct Harness<'a> {
    path: &'a Path,
    dir: Dir,
    writer: Writer,
    /// Since the checkpoint: what is durable, and what gathers.
    durable: Vec<Written>,
    pending: Vec<Written>,
    state: State,
    checkpoint_hard_state: HardState,
    term: u64,
    seed: u8,
}

impl<'a> Harness<'a> {
    fn new(path: &'a Path) -> Self {
        let dir = Dir::open(path).unwrap();
        let writer = recover(&dir, &OPTIONS).unwrap().writer;
        let (durable, pending) = (Vec::new(), Vec::new());
        let checkpoint_hard_state = HardState::default();
        Harness { path, dir, writer, durable, pending, state: State::new(2), checkpoint_hard_state, term: 1, seed: 0 }
    }

    fn content(&self, pending: usize) -> Content {
        let records = self.durable.iter().chain(&self.pending[..pending]);
        content(self.state.applied().0, self.checkpoint_hard_state, records)
    }

    fn last_index(&self) -> u64 {
        self.content(self.pending.len()).1.last().map_or(self.state.applied().0, |entry| entry.index)
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Entries(lens, back) => {
                let last = self.last_index();
                // What is committed is not overruled.
                let committed = self.content(self.pending.len()).0.commit;
                let back = u64::from(back).min(last - committed);
                self.term += u64::from(back > 0);
                for (at, len) in lens.into_iter().enumerate() {
                    self.seed = self.seed.wrapping_add(1);
                    let index = last - back + 1 + at as u64;
                    let entry = entry(&mut self.writer, index, self.term, &vec![self.seed; len.into()]);
                    self.pending.push(Written::Entry(entry));
                }
            }
            Op::HardState(ahead) => {
                // A follower may learn of commits of entries that come in the same batch.
                let commit = self.last_index() + u64::from(ahead);
                self.writer.append_hard_state(self.term, 5, commit);
                self.pending.push(Written::HardState(HardState { term: self.term, vote: 5, commit }));
                if ahead {
                    self.run(Op::Entries(vec![17], 0));
                }
            }
            Op::Moved(lens) => {
                // Values of one length share a place.
                let from = |len: u16| Place { segment: 1, offset: 4096, len: len.into() };
                let values: Vec<MovedValue> = lens
                    .into_iter()
                    .enumerate()
                    .map(|(at, len)| MovedValue {
                        revision: Revision::new(at as i64 + 2, 1),
                        from: from(len),
                        value: vec![len as u8; len.into()].into(),
                    })
                    .collect();
                let index = self.last_index();
                let places = self.writer.append_moved(index, &values);
                let moves = std::iter::zip(&values, places)
                    .map(|(value, to)| {
                        assert_eq!(self.writer.table().resident(to), Some(&value.value[..]));
                        record::Move { revision: value.revision, from: value.from, to }
                    })
                    .collect();
                self.pending.push(Written::Moved(index, moves));
            }
            Op::Roll => self.writer.roll(),
            Op::Write => {
                write(&self.dir, &mut self.writer);
                self.durable.append(&mut self.pending);
            }
            Op::Checkpoint => {
                self.run(Op::Write);
                let (hard_state, entries, _) = self.content(0);
                let last = self.last_index();
                if last > self.state.applied().0 {
                    self.state.apply_empty(last, entries.last().unwrap().term);
                }
                let position = self.writer.position();
                self.dir.ensure_segment(&self.writer.segment_header(position.life), Pace::Hurried).unwrap();
                let head = CheckpointHead { hard_state, position, extents: self.writer.extents() };
                self.dir.write_checkpoint(&self.state, &head, Pace::Hurried).unwrap();
                self.checkpoint_hard_state = hard_state;
                self.durable.clear();
                let old: Vec<u32> =
                    self.writer.table().iter().map(|it| it.life()).filter(|it| *it < position.life).collect();
                for life in old {
                    let segment = self.writer.retire(life);
                    assert!(matches!(self.dir.recycle(segment, Pace::Hurried).unwrap(), Recycled::Done));
                }
            }
            Op::Restart => {
                self.run(Op::Write);
                self.recover();
            }
            Op::Crash(mask) => {
                let Some(write) = self.writer.take_write() else { return self.recover() };
                let mut at = 0;
                for piece in &write.pieces {
                    self.dir.ensure_segment(&self.writer.segment_header(piece.segment.life()), Pace::Hurried).unwrap();
                    let file = fs::OpenOptions::new().write(true).open(piece.segment.path()).unwrap();
                    for (number, block) in piece.bytes().chunks(4096).enumerate() {
                        if mask >> (at % 64) & 1 == 1 {
                            let offset = u64::from(piece.offset) + number as u64 * 4096;
                            file.write_all_at(block, offset).unwrap();
                        }
                        at += 1;
                    }
                }
                self.recover();
            }
        }
    }

    /// Everything durable must be there, and of what was being written a beginning.
    fn recover(&mut self) {
        drop(std::mem::replace(&mut self.dir, Dir::look_at(self.path)));
        self.dir = Dir::open(self.path).unwrap();
        let recovered = recover(&self.dir, &OPTIONS).unwrap_or_else(|cause| panic!("{cause}"));
        let found = (recovered.hard_state, recovered.entries, recovered.moves);
        let kept = (0..=self.pending.len()).rev().find(|kept| self.content(*kept) == found);
        let kept = kept.unwrap_or_else(|| {
            let shown = |content: &Content| {
                let entries: Vec<_> = content.1.iter().map(|it| (it.index, it.term, it.place)).collect();
                format!("{:?} {entries:?} {:?}", content.0, content.2)
            };
            panic!("{}\nis no beginning of\n{}", shown(&found), shown(&self.content(self.pending.len())));
        });
        self.pending.truncate(kept);
        self.durable.append(&mut self.pending);
        assert_eq!(recovered.checkpoint.map(|it| it.state.applied()).unwrap_or_default(), self.state.applied());
        for entry in &found.1 {
            assert_eq!(recovered.writer.table().read(entry.place).unwrap(), entry.data);
        }
        self.writer = recovered.writer;
        // A commit beyond what was kept is taken back by the next write.
        let known = self.durable.iter().rfind(|record| matches!(record, Written::HardState(_)));
        if known.is_some_and(|known| matches!(known, Written::HardState(it) if it.commit > found.0.commit)) {
            self.pending.push(Written::HardState(found.0));
        }
    }
}

proptest! {
    // Each case syncs files dozens of times.
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_log_is_what_was_written(ops in prop::collection::vec(op(), 1..40)) {
        let temp = tempfile::tempdir().unwrap();
        let mut harness = Harness::new(temp.path());
        for op in ops {
            harness.run(op);
        }
        harness.run(Op::Restart);
    }
}
