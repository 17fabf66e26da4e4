//! What a database that another member sends is refused for. What becomes of one that is sound is the business of
//! `core/installing/tests.rs` and `tests/lagging.rs`.

use std::fs;

use super::*;
use crate::{
    raft::{database::Making, view::View},
    store::{index::Index, types::KeyMeta},
    wal::{spool::Spool, table::SegmentTable},
};

const INDEX: u64 = 77;
const SEGMENT_BYTES: usize = 1 << 20;

/// With one value of so many bytes.
fn database(value: usize) -> Vec<u8> {
    let mut state = State::new(1);
    let place = Place { segment: 1, offset: 0, len: value as u32 };
    let mut index = Index::new();
    index.adopt(b"key", KeyMeta { revision: Revision::new(2, 0), create: 2, version: 1, place, ..KeyMeta::default() });
    state.index = index;
    state.apply_empty(INDEX, 3);
    let segments = SegmentTable::in_memory([(1, Bytes::from(vec![b'x'; value]))]);
    Making::begin(View { state, segments }.into()).piece(usize::MAX).unwrap().to_vec()
}

/// Reads it as one that came; where its values are put is told from here.
fn taken(bytes: &[u8], index: u64) -> Result<State, String> {
    let temp = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(temp.path()).unwrap();
    spool.write(bytes).unwrap();
    let spooled = spool.finish().unwrap();
    let (batches, mut kept) = mpsc::channel::<Batch>(1);
    let keeping = std::thread::spawn(move || {
        let mut offset = 0;
        while let Some(Batch { values, places }) = kept.blocking_recv() {
            let place = |value: &MovedValue| {
                assert_eq!(value.from.segment, NOWHERE);
                offset += value.from.len;
                Place { segment: 9, offset: offset - value.from.len, len: value.from.len }
            };
            places.send(values.iter().map(place).collect()).unwrap();
        }
    });
    let keeper = Keeper { batches, numbering: Numbering::default(), record_bytes: SEGMENT_BYTES };
    let state = read(&spooled, index, 1, keeper);
    keeping.join().unwrap();
    drop(spooled);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left of it");
    state
}

#[test]
fn a_sound_database_is_taken_and_its_values_lie_where_they_were_put() {
    let state = taken(&database(1000), INDEX).unwrap();
    assert_eq!(state.applied(), (INDEX, 3));
    let event = state.index.event(Revision::new(2, 0)).unwrap();
    assert_eq!(event.meta.place, Place { segment: 9, offset: 0, len: 1000 });
}

#[test]
fn what_is_not_what_its_message_says_is_refused() {
    let refused = |bytes: &[u8], index| taken(bytes, index).unwrap_err();
    let sound = database(1000);
    assert_eq!(refused(&sound, INDEX + 1), "the database goes up to entry 77, its message says 78");
    // Transfers that ended early, and one that brought nothing.
    for bytes in [0, 100, sound.len() / 2, sound.len() - 1] {
        refused(&sound[..bytes], INDEX);
    }
    let mut damaged = sound;
    // Both of its first pages.
    damaged[20] ^= 1;
    damaged[4096 + 20] ^= 1;
    assert!(refused(&damaged, INDEX).contains("is no database of etcd"));
    let long = refused(&database(SEGMENT_BYTES), INDEX);
    assert!(long.contains("--max-request-bytes"), "{long}");
}
