//! The log as a whole: written, damaged, torn, recovered.

use std::{fs, path::Path};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    disk::{Dir, Recycled},
    record::MovedValue,
    recovery::{self, LogEntry, Options, Recovered, RecoveryError, recover},
    writer::Writer,
};
use crate::store::{
    checkpoint::{CheckpointHead, HardState},
    state::State,
    types::{Place, Revision, Values},
};

const SEGMENT: u32 = 64 * 1024;
const OPTIONS: Options =
    Options { segment_bytes: SEGMENT, recent_bytes: 128 * 1024, cluster_id: 0xc1, member_id: 0xe1 };

fn open(path: &Path) -> (Dir, Recovered) {
    let dir = Dir::open(path).unwrap();
    let recovered = recover(&dir, &OPTIONS).unwrap_or_else(|cause| panic!("{cause}"));
    (dir, recovered)
}

/// Closes the batch and makes it durable.
fn write(dir: &Dir, writer: &mut Writer) {
    let Some(write) = writer.take_write() else { return };
    for piece in &write.pieces {
        assert_eq!((piece.offset % 4096, piece.len % 4096, piece.bytes().as_ptr() as usize % 4096), (0, 0, 0));
        dir.ensure_segment(&writer.segment_header(piece.segment.life())).unwrap();
    }
    dir.write(&write).unwrap();
}

fn entry(writer: &mut Writer, index: u64, term: u64, data: &[u8]) -> LogEntry {
    let place = writer.append_entry(index, term, (index % 3) as u8, data);
    LogEntry { index, term, kind: (index % 3) as u8, data: Bytes::copy_from_slice(data), place }
}

#[test]
fn what_is_written_is_recovered_and_read() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, Recovered { mut writer, is_new, .. }) = open(temp.path());
    assert!(is_new);
    assert_eq!(writer.log_bytes(), 0);
    writer.append_hard_state(1, 7, 0);
    let mut entries = Vec::new();
    for index in 1..=40 {
        entries.push(entry(&mut writer, index, 1, &vec![index as u8; index as usize * 200]));
        if index % 4 == 0 {
            write(&dir, &mut writer);
        }
    }
    writer.append_hard_state(1, 7, 40);
    write(&dir, &mut writer);
    assert!(writer.take_write().is_none());
    assert!(writer.active_life() > 2);
    let bytes = writer.log_bytes();
    drop((dir, writer));

    let (_dir, recovered) = open(temp.path());
    assert!(!recovered.is_new && recovered.cut.is_none() && recovered.moves.is_empty());
    assert_eq!((recovered.cluster_id, recovered.member_id), (0xc1, 0xe1));
    assert_eq!(recovered.hard_state, HardState { term: 1, vote: 7, commit: 40 });
    assert_eq!(recovered.entries, entries);
    assert_eq!(recovered.writer.log_bytes(), bytes);
    for entry in &entries {
        assert_eq!(recovered.writer.table().read(entry.place).unwrap(), entry.data);
        // Just read for recovery, so in the page cache.
        assert_eq!(recovered.writer.table().resident(entry.place), Some(&entry.data[..]));
    }
}
