use std::fs::File;
use std::io::Write;

use super::*;

/// Writes a log as etcd does.
struct Wal {
    dir: tempfile::TempDir,
    file: File,
    number: u64,
    crc: u32,
    /// Bytes in the file.
    at: usize,
}

impl Wal {
    fn new() -> Wal {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("0000000000000000-0000000000000000.wal")).unwrap();
        let mut wal = Wal { dir, file, number: 0, crc: 0, at: 0 };
        wal.raw(CRC, 0, None);
        wal.metadata();
        wal.record(SNAPSHOT, &walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None });
        wal
    }

    fn metadata(&mut self) {
        self.record(METADATA, &Metadata { node_id: Some(5), cluster_id: Some(6) });
    }

    fn raw(&mut self, kind: i64, crc: u32, data: Option<Bytes>) {
        let record = walpb::Record { r#type: Some(kind), crc: Some(crc), data }.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut head = record.len() as u64;
        if padding > 0 {
            head |= (0x80 | padding as u64) << 56;
        }
        let bytes = [&head.to_le_bytes()[..], &record, &vec![0; padding]].concat();
        self.at += bytes.len();
        self.file.write_all(&bytes).unwrap();
    }

    fn record(&mut self, kind: i64, message: &impl prost::Message) {
        let data = message.encode_to_vec();
        self.crc = crc32c::crc32c_append(self.crc, &data);
        self.raw(kind, self.crc, Some(data.into()));
    }

    fn entry(&mut self, index: u64, term: u64, data: &str) {
        self.record(
            ENTRY,
            &raftpb::Entry {
                r#type: Some(0),
                term: Some(term),
                index: Some(index),
                data: Some(Bytes::from(data.to_owned())),
            },
        );
    }

    fn state(&mut self, term: u64, commit: u64) {
        self.record(STATE, &raftpb::HardState { term: Some(term), vote: Some(5), commit: Some(commit) });
    }

    /// Goes on in a new file.
    fn cut(&mut self, index: u64) {
        self.number += 1;
        let name = format!("{:016x}-{index:016x}.wal", self.number);
        self.file = File::create(self.dir.path().join(name)).unwrap();
        self.at = 0;
        self.raw(CRC, self.crc, None);
        self.metadata();
        self.state(2, index - 1);
    }

    /// Room for more, as etcd prepares it.
    fn room(&mut self) {
        self.file.write_all(&[0; 4096]).unwrap();
    }

    fn read(&self, after: u64) -> Result<Tail, String> {
        read(self.dir.path(), after).map_err(|cause| cause.to_string())
    }

    fn damage(&self, number: u64, at: usize, bytes: &[u8]) {
        let files = files(self.dir.path()).unwrap();
        let path = &files[number as usize].path;
        let mut whole = fs::read(path).unwrap();
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(path, whole).unwrap();
    }
}

fn sample() -> Wal {
    let mut wal = Wal::new();
    for index in 1..=5 {
        wal.entry(index, 2, &format!("entry {index}"));
        wal.state(2, index - 1);
    }
    wal.room();
    wal.cut(6);
    for index in 6..=9 {
        wal.entry(index, 2, &format!("entry {index}"));
    }
    wal.state(2, 8);
    wal
}

fn texts(tail: &Tail) -> Vec<String> {
    tail.entries.iter().map(|entry| String::from_utf8(entry.data.to_vec()).unwrap()).collect()
}

#[test]
fn entries_after_an_index_are_read_across_files() {
    let mut wal = sample();
    wal.room();
    fs::write(wal.dir.path().join("0.tmp"), "prepared").unwrap();
    for after in 0..9 {
        let tail = wal.read(after).unwrap();
        assert_eq!(texts(&tail), (after + 1..=9).map(|index| format!("entry {index}")).collect::<Vec<_>>());
        assert!(tail.entries.iter().map(|entry| entry.index).eq(after + 1..=9));
        assert_eq!((tail.node_id, tail.cluster_id), (5, 6));
        assert_eq!(tail.hard_state, HardState { term: 2, vote: 5, commit: 8 });
        assert_eq!(tail.cut, None);
    }
    assert_eq!(wal.read(9).unwrap().entries, []);
}

#[test]
fn a_new_leader_overrules_what_was_logged() {
    let mut wal = sample();
    wal.entry(8, 3, "other 8");
    let tail = wal.read(6).unwrap();
    assert_eq!(texts(&tail), ["entry 7", "other 8"]);
    assert_eq!(tail.entries[1].term, 3);
}

#[test]
fn a_log_that_does_not_go_on_from_the_database_is_refused() {
    let mut wal = sample();
    let told = wal.read(1 << 40).unwrap();
    assert_eq!(told.entries, [], "all of it is in the database");
    wal.entry(11, 2, "a gap");
    assert!(wal.read(0).unwrap_err().contains("does not go on after entry 9"), "{:?}", wal.read(0));
    // A snapshot of another member's that the database does not hold.
    let mut wal = sample();
    wal.record(SNAPSHOT, &walpb::Snapshot { index: Some(20), term: Some(2), conf_state: None });
    assert!(wal.read(0).unwrap_err().contains("does not go on after entry 9"));
    // The first file is gone.
    let wal = sample();
    fs::remove_file(wal.dir.path().join("0000000000000000-0000000000000000.wal")).unwrap();
    assert!(wal.read(3).unwrap_err().contains("does not go on after entry 3"));
    assert_eq!(texts(&wal.read(6).unwrap()), ["entry 7", "entry 8", "entry 9"]);
    // One in the middle.
    let mut wal = sample();
    wal.cut(10);
    fs::remove_file(wal.dir.path().join("0000000000000001-0000000000000006.wal")).unwrap();
    assert!(wal.read(0).unwrap_err().contains("a file of the log is missing"));
}

#[test]
fn a_torn_end_is_cut_and_other_damage_is_refused() {
    // Cut short by the file's end.
    let mut wal = sample();
    let end = wal.at;
    wal.entry(10, 2, "torn");
    let path = files(wal.dir.path()).unwrap()[1].path.clone();
    let whole = fs::read(&path).unwrap();
    for len in end + 1..wal.at {
        fs::write(&path, &whole[..len]).unwrap();
        let tail = wal.read(8).unwrap();
        assert_eq!(texts(&tail), ["entry 9"], "{len} bytes");
        assert!(tail.cut.is_some_and(|cut| cut.ends_with(&format!("at byte {end}"))));
    }
    // A sector that was never written.
    let mut wal = sample();
    let begin = wal.at;
    wal.entry(10, 2, &"x".repeat(2000));
    wal.room();
    let hole = (begin + FRAME_BYTES + 600).next_multiple_of(SECTOR_BYTES);
    wal.damage(1, hole, &[0; SECTOR_BYTES]);
    let tail = wal.read(8).unwrap();
    assert!(texts(&tail) == ["entry 9"] && tail.cut.is_some());
    // A byte that has changed: no crash does that.
    for (number, at, told) in [(1, begin + 100, "a record's checksum is wrong"), (0, 60, "damaged in")] {
        let mut wal = sample();
        wal.entry(10, 2, &"x".repeat(2000));
        wal.damage(number, at, b"#");
        let refusal = wal.read(0).unwrap_err();
        assert!(refusal.contains(told), "{refusal}");
    }
}

#[test]
fn no_changed_byte_makes_it_fall_over() {
    let wal = sample();
    let paths: Vec<_> = files(wal.dir.path()).unwrap().into_iter().map(|file| file.path).collect();
    let mut refused = 0;
    for path in paths {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len().min(1500) {
            let mut changed = whole.clone();
            changed[at] ^= 0x41;
            fs::write(&path, changed).unwrap();
            refused += usize::from(wal.read(0).is_err());
        }
        fs::write(path, whole).unwrap();
    }
    assert!(refused > 500, "{refused}");
}
