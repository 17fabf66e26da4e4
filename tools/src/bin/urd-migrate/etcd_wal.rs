//! Reads etcd's write-ahead log: what follows the entry that its database holds everything up to. A record is a length, a
//! `walpb.Record`, and zeros to the next multiple of 8; the checksum of a record goes over the data of all before it. A
//! last record that a crash cut short is left out, as etcd does at its start; anything else that does not add up is
//! refused. (etcd: server/storage/wal.)

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message as _;
use urd::{
    proto::{etcdserverpb::Metadata, raftpb, walpb},
    store::checkpoint::HardState,
};

use super::Failure;

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;
const SNAPSHOT: i64 = 5;

/// Bytes before a record: its length, and in the highest byte how many zeros follow it.
const FRAME_BYTES: usize = 8;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The log from an entry on.
#[derive(Debug, Default)]
pub struct Tail {
    pub node_id: u64,
    pub cluster_id: u64,
    pub hard_state: HardState,
    /// Without gaps.
    pub entries: Vec<Entry>,
    /// File and byte where the last record was cut short.
    pub cut: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    pub data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    ConfChange,
}

/// Reads the entries after `after`, and raft's state at the end.
pub fn read(dir: &Path, after: u64) -> Result<Tail, Failure> {
    let files = files(dir)?;
    // The last one that begins at or before the entry wanted.
    let Some(first) = files.iter().rposition(|file| file.index <= after.saturating_add(1)) else {
        return Err(gap(dir, after, files.first().map(|file| file.index)));
    };
    let mut reader = Reader { dir, after, crc: None, metadata: None, tail: Tail::default() };
    for (at, file) in files.iter().enumerate().skip(first) {
        let bytes = fs::read(&file.path).map_err(|cause| format!("cannot read {}: {cause}", file.path.display()))?;
        reader.file(&file.path, bytes.into(), at + 1 == files.len())?;
    }
    let metadata = reader.metadata.ok_or_else(|| format!("{} does not say whose log it is", dir.display()))?;
    let Metadata { node_id, cluster_id } = metadata;
    Ok(Tail { node_id: node_id.unwrap_or(0), cluster_id: cluster_id.unwrap_or(0), ..reader.tail })
}

/// An entry's configuration change.
pub fn conf_change(data: &[u8]) -> Result<raftpb::ConfChange, Failure> {
    Ok(raftpb::ConfChange::decode(data)?)
}

fn gap(dir: &Path, after: u64, next: Option<u64>) -> Failure {
    let next = next.map_or("there is nothing in it".into(), |next| format!("the first one there is {next}"));
    format!(
        "the log in {} does not go on after entry {after}, up to which the database goes: {next}. Start etcd once \
         more and make a snapshot (etcdctl snapshot save), and migrate that",
        dir.display()
    )
    .into()
}

struct LogFile {
    number: u64,
    /// Of the first entry that it may hold.
    index: u64,
    path: PathBuf,
}

/// The log's files in order. Others, such as those prepared for later, are passed over.
fn files(dir: &Path) -> Result<Vec<LogFile>, Failure> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|cause| format!("cannot list {}: {cause}", dir.display()))? {
        let path = entry?.path();
        let numbers = path.file_name().and_then(|name| name.to_str()).and_then(numbers_of);
        if let Some((number, index)) = numbers {
            files.push(LogFile { number, index, path });
        }
    }
    files.sort_by_key(|file| file.number);
    if let Some(pair) = files.windows(2).find(|pair| pair[0].number + 1 != pair[1].number) {
        return Err(format!("a file of the log is missing after {}", pair[0].path.display()).into());
    }
    Ok(files)
}

/// Number and index of `0000000000000000-0000000000000000.wal`.
fn numbers_of(name: &str) -> Option<(u64, u64)> {
    let (number, index) = name.strip_suffix(".wal")?.split_once('-')?;
    let parse = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((parse(number)?, parse(index)?))
}

struct Reader<'a> {
    dir: &'a Path,
    after: u64,
    /// Over all data so far; None before the first record.
    crc: Option<u32>,
    metadata: Option<Metadata>,
    tail: Tail,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, bytes: Bytes, is_last: bool) -> Result<(), Failure> {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + FRAME_BYTES) {
            let head = u64::from_le_bytes(head.try_into().expect("8 bytes"));
            if head == 0 {
                // Room for more.
                return Ok(());
            }
            let damaged = |what: &str| -> Failure {
                let path = path.display();
                format!("the log is damaged in {path} at byte {at}: {what}").into()
            };
            let len = usize::try_from(head & (u64::MAX >> 8))?;
            let padding = if head >> 63 == 1 { (head >> 56 & 7) as usize } else { 0 };
            let begin = at + FRAME_BYTES;
            let whole = len.checked_add(padding).and_then(|len| bytes.get(begin..begin.checked_add(len)?));
            let Some(whole) = whole else {
                return self.cut(path, at, is_last).ok_or_else(|| damaged("a record goes beyond the file's end"));
            };
            let torn = is_last && is_torn(whole, begin);
            match self.record(bytes.slice(begin..begin + len)) {
                Ok(()) => at = begin + len + padding,
                Err(_) if torn => {
                    self.cut(path, at, true);
                    return Ok(());
                }
                Err(cause) => return Err(damaged(&cause.to_string())),
            }
        }
        match at == bytes.len() {
            true => Ok(()),
            false => self
                .cut(path, at, is_last)
                .ok_or_else(|| format!("{} ends within a record, and others follow it", path.display()).into()),
        }
    }

    /// Notes where the log's last record was cut short. None if it was not the last.
    fn cut(&mut self, path: &Path, at: usize, is_last: bool) -> Option<()> {
        is_last.then(|| self.tail.cut = Some(format!("{} at byte {at}", path.display())))
    }

    fn record(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let record = walpb::Record::decode(bytes)?;
        let data = record.data.unwrap_or_default();
        let (kind, stated) = (record.r#type.unwrap_or(0), record.crc.unwrap_or(0));
        if kind == CRC {
            // Where the file before has ended; of the first that is read, that is not known.
            if self.crc.is_some_and(|crc| crc != stated) {
                return Err("the file does not follow the one before".into());
            }
            self.crc = Some(stated);
            return Ok(());
        }
        let crc = crc32c::crc32c_append(self.crc.ok_or("a file of the log does not begin with a checksum")?, &data);
        if crc != stated {
            return Err("a record's checksum is wrong".into());
        }
        self.crc = Some(crc);
        match kind {
            METADATA => self.metadata(Metadata::decode(data)?),
            ENTRY => self.entry(raftpb::Entry::decode(data)?),
            STATE => {
                let state = raftpb::HardState::decode(data)?;
                self.tail.hard_state = HardState {
                    term: state.term.unwrap_or(0),
                    vote: state.vote.unwrap_or(0),
                    commit: state.commit.unwrap_or(0),
                };
                Ok(())
            }
            SNAPSHOT => {
                let snapshot = walpb::Snapshot::decode(data)?;
                match snapshot.index.unwrap_or(0) < self.next() {
                    true => Ok(()),
                    // One that came from another member and did not get into the database.
                    false => Err(gap(self.dir, self.next() - 1, snapshot.index.map(|index| index + 1))),
                }
            }
            other => Err(format!("a record of kind {other} is none that this version knows").into()),
        }
    }

    fn metadata(&mut self, metadata: Metadata) -> Result<(), Failure> {
        match *self.metadata.get_or_insert(metadata) == metadata {
            true => Ok(()),
            false => Err("the log's files belong to several members".into()),
        }
    }

    /// The index of the entry that comes next.
    fn next(&self) -> u64 {
        self.after.saturating_add(1).saturating_add(self.tail.entries.len() as u64)
    }

    fn entry(&mut self, entry: raftpb::Entry) -> Result<(), Failure> {
        let (index, kind) = (entry.index.unwrap_or(0), entry.r#type());
        if index <= self.after {
            return Ok(());
        }
        if index > self.next() {
            return Err(gap(self.dir, self.next() - 1, Some(index)));
        }
        let kind = match kind {
            raftpb::EntryType::EntryNormal => Kind::Normal,
            raftpb::EntryType::EntryConfChange => Kind::ConfChange,
            raftpb::EntryType::EntryConfChangeV2 => {
                return Err(
                    format!("entry {index} is a change of several members at once, which etcd never makes").into()
                );
            }
        };
        // A new leader has overruled what was logged from here on.
        self.tail.entries.truncate((index - self.after - 1) as usize);
        let (term, data) = (entry.term.unwrap_or(0), entry.data.unwrap_or_default());
        self.tail.entries.push(Entry { index, term, kind, data });
        Ok(())
    }
}

/// Whether a record that is wrong can be one whose writing was cut short: then one of its sectors is empty.
fn is_torn(record: &[u8], offset: usize) -> bool {
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(record.len());
    let (head, rest) = record.split_at(first);
    std::iter::once(head).chain(rest.chunks(SECTOR_BYTES)).any(|sector| sector.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
#[path = "etcd_wal_tests.rs"]
mod tests;
