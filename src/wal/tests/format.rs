//! Holds the format still: what the code writes is, byte for byte, the sample that lies in `tests/formats` under the
//! newest version and that docs/format.md explains; and the sample of every version can be read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message as _;

use super::super::{
    bulk::Pace,
    disk::Dir,
    inspect,
    record::{FORMAT_VERSION, FORMAT_VERSION_WITHOUT_PLACE, MovedValue, SegmentHeader},
    recovery::{self, recover},
    writer::{LogParts, Writer},
};
use crate::{
    proto::{
        etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, PutRequest},
        raftpb,
    },
    store::{
        apply::{AppliedBatch, ApplyEntry},
        checkpoint::{CheckpointHead, HardState},
        state::State,
        types::{Place, Revision, Values as _},
    },
};

const SEGMENT_BYTES: u32 = 4 * 4096;
const FILES: [&str; 2] = ["00000001.seg", "checkpoint"];

/// Versions of the checkpoint beside segments of version 1, then segments of version 2.
const VERSIONS: [&str; 3] = ["v1", "v2", "segments-v2"];

fn samples(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(version)
}

fn newest_samples() -> PathBuf {
    samples(VERSIONS[VERSIONS.len() - 1])
}

/// Three writes, a checkpoint behind the second, values moved by the third.
fn write_sample(path: &Path) {
    let dir = Dir::open(path).unwrap();
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        life: 1,
        size: SEGMENT_BYTES,
        salt: 0x5a17,
        cluster_id: 0xc1,
        member_id: 0xe1,
    };
    dir.ensure_segment(&header, Pace::Hurried).unwrap();
    let parts = LogParts {
        dir: path.to_owned(),
        segment_bytes: SEGMENT_BYTES,
        salt: header.salt,
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        recent_bytes: 0,
    };
    let mut writer = Writer::resume(parts, Vec::new(), &header, &header.encode(), 0, 0).unwrap();
    let mut state = State::new(2);
    let mut apply = |index: u64, base: Place, data: &[u8]| {
        let entry = ApplyEntry { index, term: 1, base, data: Bytes::copy_from_slice(data), quota_room: None };
        state.apply(&entry, writer_values(), &mut AppliedBatch::default()).unwrap().result.unwrap();
        state.clone()
    };

    let change = raftpb::ConfChange {
        id: Some(0),
        r#type: Some(0),
        node_id: Some(0xe1),
        context: Some(Bytes::from_static(br#"{"id":225,"peerURLs":["http://localhost:2380"],"name":"n"}"#)),
    };
    writer.append_entry(1, 1, 1, &change.encode_to_vec());
    writer.append_hard_state(1, 0xe1, 1);
    super::write(&dir, &mut writer);

    let grant = InternalRaftRequest {
        id: 0x10,
        lease_grant: Some(LeaseGrantRequest { id: 7, ttl: 60 }),
        ..InternalRaftRequest::default()
    };
    let put = PutRequest {
        key: Bytes::from_static(b"key"),
        value: Bytes::from_static(b"value"),
        lease: 7,
        ..PutRequest::default()
    };
    let put = InternalRaftRequest { id: 0x11, put: Some(put), ..InternalRaftRequest::default() };
    let (grant, put) = (grant.encode_to_vec(), put.encode_to_vec());
    let grant_place = writer.append_entry(2, 1, 0, &grant);
    let put_place = writer.append_entry(3, 1, 0, &put);
    writer.append_hard_state(1, 0xe1, 3);
    super::write(&dir, &mut writer);
    apply(2, grant_place, &grant);
    let mut state = apply(3, put_place, &put);
    state.set_conf_state(raftpb::ConfState { voters: vec![0xe1], ..Default::default() });
    let head = CheckpointHead {
        hard_state: HardState { term: 1, vote: 0xe1, commit: 3 },
        position: writer.position(),
        extents: writer.extents(),
    };
    dir.write_checkpoint(&state, &head, Pace::Hurried).unwrap();

    let from = state.index.get(b"key", 0).unwrap().place;
    let value = Bytes::from_static(b"value");
    writer.append_moved(3, &[MovedValue { revision: Revision::new(2, 0), from, value }]);
    super::write(&dir, &mut writer);
}

/// Nothing in the sample asks for a value.
fn writer_values() -> &'static super::super::table::SegmentTable {
    static EMPTY: std::sync::LazyLock<super::super::table::SegmentTable> = std::sync::LazyLock::new(Default::default);
    &EMPTY
}

/// Rows of sixteen bytes with their offset, as `hexdump -C` prints them; rows of zeros are left out.
fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate() {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
        let (left, right) = bytes.split_at(bytes.len().min(8));
        let shown: String =
            bytes.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }).collect();
        text += &format!("{:08x}  {:<25}{:<25}|{shown}|\n", row * 16, hex(left), hex(right));
    }
    text
}

#[test]
fn the_code_writes_the_sample_and_the_book_shows_it() {
    let temp = tempfile::tempdir().unwrap();
    write_sample(temp.path());
    let book = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    for file in FILES {
        let written = fs::read(temp.path().join(file)).unwrap();
        assert_eq!(hex_dump(&written), hex_dump(&fs::read(newest_samples().join(file)).unwrap()), "{file}");
        assert!(book.contains(&hex_dump(&written)), "docs/format.md does not show {file}:\n{}", hex_dump(&written));
    }
}

#[test]
fn the_sample_of_every_version_is_read() {
    VERSIONS.into_iter().for_each(sample_is_read);
}

fn sample_is_read(version: &str) {
    let temp = tempfile::tempdir().unwrap();
    for file in FILES {
        fs::copy(samples(version).join(file), temp.path().join(file)).unwrap();
    }
    let dir = Dir::open(temp.path()).unwrap();
    let recovered = recover(&dir, &super::SMALL).unwrap();
    assert_eq!(recovered.hard_state, HardState { term: 1, vote: 0xe1, commit: 3 });
    assert!(recovered.entries.is_empty() && recovered.cut.is_none());
    let mut state = recovered.checkpoint.unwrap().state;
    assert_eq!(state.applied(), (3, 1));
    assert_eq!(state.leases.keys_owned(7), ["key"]);
    let table = recovered.writer.table();
    let before = state.index.get(b"key", 0).unwrap();
    assert_eq!(table.read(before.place).unwrap(), "value");

    let [(3, moves)] = &recovered.moves[..] else { panic!("{:?}", recovered.moves) };
    assert!(state.index.relocate(moves[0].revision, moves[0].from, moves[0].to));
    let after = state.index.get(b"key", 0).unwrap();
    assert_ne!(before.place, after.place);
    assert_eq!(table.read(after.place).unwrap(), "value");

    // Without its checkpoint the log says the same from its beginning.
    fs::remove_file(temp.path().join("checkpoint")).unwrap();
    let found = recovery::read(&dir).unwrap().unwrap();
    assert!(found.entries.iter().map(|entry| entry.index).eq(1..=3));
}

/// A log goes on in the version that its last segment has, and begins the next one in the newest; what lies in both is read.
#[test]
fn a_log_of_version_1_goes_on_in_version_2() {
    let temp = tempfile::tempdir().unwrap();
    for file in FILES {
        fs::copy(samples("v2").join(file), temp.path().join(file)).unwrap();
    }
    let mut entries = Vec::new();
    for round in 0..3 {
        let dir = Dir::open(temp.path()).unwrap();
        let mut recovered = recover(&dir, &super::SMALL).unwrap();
        assert_eq!(recovered.entries, entries);
        assert_eq!(recovered.writer.active_life(), [1, 2, 2][round]);
        for entry in &entries {
            assert_eq!(recovered.writer.table().read(entry.place).unwrap(), entry.data);
        }
        // The sample's segment has room for three blocks and is full, but for the end of its last block.
        let index = 4 + entries.len() as u64;
        entries.push(super::entry(&mut recovered.writer, index, 1, &[round as u8; 500]));
        super::write(&dir, &mut recovered.writer);
    }
    let dir = Dir::look_at(temp.path());
    let version = |life| SegmentHeader::decode(&dir.read_segment_head(life).unwrap().0).unwrap().version;
    assert_eq!([version(1), version(2)], [FORMAT_VERSION_WITHOUT_PLACE, FORMAT_VERSION]);
    let report = inspect::verify(&dir).unwrap();
    assert_eq!((report.segments, report.last_index, report.values), (2, 6, 1));
}

#[test]
#[ignore = "makes the sample that a new version of the format begins with"]
fn write_the_sample_of_this_version() {
    let temp = tempfile::tempdir().unwrap();
    write_sample(temp.path());
    fs::create_dir_all(newest_samples()).unwrap();
    for file in FILES {
        fs::copy(temp.path().join(file), newest_samples().join(file)).unwrap();
        println!("{file}\n{}", hex_dump(&fs::read(newest_samples().join(file)).unwrap()));
    }
}
