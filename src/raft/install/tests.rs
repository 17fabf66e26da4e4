//! What a database that another member sends is refused for. What becomes of one that is sound is the business of
//! `core/installing/tests.rs` and `tests/lagging.rs`.

use std::fs;

use bytes::Bytes;

use super::*;
use crate::{
    raft::{database::Making, view::View},
    store::{
        index::Index,
        types::{KeyMeta, Revision},
    },
    wal::table::SegmentTable,
};

const INDEX: u64 = 77;
const SEGMENT_BYTES: usize = 1 << 20;

/// With one value of so many bytes.
fn database(value: usize) -> Vec<u8> {
    database_of(&[value]).0
}

/// With values of so many bytes, and on which pages they are.
fn database_of(values: &[usize]) -> (Vec<u8>, Range<u64>) {
    let mut state = State::new(1);
    let mut index = Index::new();
    let mut offset = 0;
    for (main, value) in (2..).zip(values) {
        let place = Place { segment: 1, offset, len: *value as u32 };
        let (revision, key) = (Revision::new(main, 0), format!("key{:03}", main * 7 % 100));
        index.adopt(key.as_bytes(), KeyMeta { revision, create: main, version: 1, place, ..KeyMeta::default() });
        offset += place.len;
    }
    state.index = index;
    state.apply_empty(INDEX, 3);
    let bytes = (0..offset).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
    let segments = SegmentTable::in_memory([(1, Bytes::from(bytes))]);
    let mut making = Making::begin(View { state, segments }.into());
    (making.piece(usize::MAX).unwrap().to_vec(), making.changes())
}

fn speller() -> Speller {
    Speller { numbering: Numbering::default(), segment_bytes: SEGMENT_BYTES, record_bytes: 8192 }
}

/// Where values are put: behind each other.
fn places(values: &NewValues, offset: &mut u32) -> Vec<Place> {
    let place = |len| {
        *offset += len;
        Place { segment: 9, offset: *offset - len, len }
    };
    values.lens().map(place).collect()
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
        while let Some(Batch { values, places: tell }) = kept.blocking_recv() {
            tell.send(places(&values, &mut offset)).unwrap();
        }
    });
    let keeper = Keeper { batches, speller: speller() };
    let state = read(&spooled, index, 1, keeper);
    keeping.join().unwrap();
    drop(spooled);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left of it");
    state
}

/// Takes it while it comes, in pieces of so many bytes.
fn arrived(bytes: &[u8], piece: usize, changes: Range<u64>, index: u64) -> Result<State, String> {
    let temp = tempfile::tempdir().unwrap();
    let taken = || {
        let mut taking = Taking::new(changes, Spool::create(temp.path()).unwrap(), speller());
        let mut offset = 0;
        for piece in bytes.chunks(piece) {
            taking.places = places(&taking.take(piece)?, &mut offset);
        }
        taking.places = places(&taking.end()?, &mut offset);
        taking.finish(index, 1)
    };
    let state = taken();
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

/// Some on pages of their own, one of three pages, and so many that there are branch pages.
const VALUES: [usize; 8] = [3000, 10, 4000, 9000, 900, 1, 5, 3900];

#[test]
fn what_comes_in_pieces_is_taken_as_it_would_be_whole() {
    for values in [&VALUES[..], &VALUES[1..2], &[]] {
        let (bytes, changes) = database_of(values);
        assert_eq!(changes.is_empty(), values.len() < 2);
        let whole = taken(&bytes, INDEX).unwrap();
        for piece in [1, 100, 4096, 5000, 8192, usize::MAX] {
            let state = arrived(&bytes, piece, changes.clone(), INDEX).unwrap();
            assert_eq!(state.applied(), (INDEX, 3));
            let events = |state: &State| state.index.events(Revision::ZERO, i64::MAX).collect::<Vec<_>>();
            assert_eq!(events(&state), events(&whole), "by {piece}");
            assert_eq!(state.index.usage(), whole.index.usage());
        }
    }
}

#[test]
fn what_comes_and_does_not_add_up_is_refused() {
    let (sound, changes) = database_of(&VALUES);
    let refused = |bytes: &[u8], changes: Range<u64>| arrived(bytes, 5000, changes, INDEX).unwrap_err();
    assert_eq!(
        arrived(&sound, 5000, changes.clone(), INDEX + 1).unwrap_err(),
        "the database goes up to entry 77, its message says 78"
    );
    for bytes in [0, 100, sound.len() / 2, sound.len() - 1] {
        refused(&sound[..bytes], changes.clone());
    }
    // Not where its sender says: fewer, more, elsewhere.
    for wrong in [changes.start + 1..changes.end, changes.start..changes.end + 1, 90..100] {
        refused(&sound, wrong);
    }
    let mut different = 0;
    for page in changes.clone() {
        for byte in [0, 8, 10, 12, 16, 20, 24, 28, 40, 48] {
            let mut damaged = sound.clone();
            damaged[page as usize * 4096 + byte] ^= 1;
            match (taken(&damaged, INDEX), arrived(&damaged, 5000, changes.clone(), INDEX)) {
                (Err(_), Err(_)) => different += 1,
                (Ok(_), Ok(_)) => {}
                // A file may have an empty leaf, and lack one: nothing tells that entries have been there. What came has them.
                (Ok(_), Err(cause)) if cause.ends_with("it is empty") || cause.contains("nothing leads to it") => {}
                (whole, arrived) => panic!("page {page}, byte {byte}: {whole:?}, {arrived:?}"),
            }
        }
    }
    assert!(different > 50, "{different}");
}
