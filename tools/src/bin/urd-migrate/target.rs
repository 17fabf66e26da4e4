//! The data directory that is made: values go into the log as such that were moved there, from nowhere, and a checkpoint
//! says what they are. All of it is made under another name, looked through once more, and then given its own.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use urd::{
    limits,
    store::{
        backend::import::{KeepValues, RevisionValue},
        checkpoint::{CheckpointHead, HardState},
        state::State,
        types::{Place, Revision, Values},
    },
    wal::{
        bulk::Pace,
        disk::Dir,
        inspect,
        record::Numbering,
        recovery::{self, Options},
        writer::Writer,
    },
};

use super::Failure;

pub struct Target {
    to: PathBuf,
    part: Part,
    dir: Dir,
    writer: Writer,
    /// Bytes appended since the last write.
    unwritten: usize,
    numbering: Numbering,
}

/// The directory under its other name; it goes if it is not given its own.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // What cannot be removed is found by the next run, which says so.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Target {
    /// `longest`: bytes of the longest value.
    pub fn begin(to: &Path, cluster_id: u64, member_id: u64, longest: usize) -> Result<Target, Failure> {
        let taken = match fs::read_dir(to) {
            Ok(mut entries) => entries.next().is_some(),
            Err(cause) => cause.kind() != io::ErrorKind::NotFound,
        };
        if taken {
            return Err(format!("data-dir {to:?} not empty or could not be read").into());
        }
        let mut name = to.file_name().ok_or("the data directory has no name")?.to_owned();
        name.push(".part");
        let path = to.with_file_name(name);
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&path).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{} is there, from a run that was cut short or is under way: remove it", path.display())
            }
            _ => format!("cannot create {}: {cause}", path.display()),
        })?;
        let part = Part(path);
        let dir = Dir::open(&part.0)?;
        // A record must hold the longest value with what is said of it.
        let options = Options::for_requests(limits::REQUEST_BYTES_DEFAULT.max(longest + 1024), cluster_id, member_id);
        let writer = recovery::recover(&dir, &options)?.writer;
        Ok(Target { to: to.to_owned(), part, dir, writer, unwritten: 0, numbering: Numbering::default() })
    }

    /// The values that have been kept.
    pub fn values(&self) -> &dyn Values {
        self.writer.table()
    }

    /// Keeps the data of a log entry and says where it lies; the values in it lie there, too.
    pub fn keep_entry(&mut self, data: &Bytes) -> io::Result<Place> {
        let places = self.keep(&[(Revision::ZERO, data)])?;
        Ok(places[0])
    }

    /// Makes durable what has been kept so far.
    pub fn write(&mut self) -> Result<(), Failure> {
        self.unwritten = 0;
        let Some(write) = self.writer.take_write() else { return Ok(()) };
        for piece in &write.pieces {
            self.dir.ensure_segment(&self.writer.segment_header(piece.segment.life()), Pace::Hurried)?;
        }
        Ok(self.dir.write(&write)?)
    }

    /// Makes the directory what a server starts from.
    pub fn finish(mut self, state: &State, hard_state: HardState) -> Result<(), Failure> {
        self.write()?;
        let position = self.writer.position();
        self.dir.ensure_segment(&self.writer.segment_header(position.life), Pace::Hurried)?;
        let head = CheckpointHead { hard_state, position, extents: self.writer.extents() };
        self.dir.write_checkpoint(state, &head, Pace::Hurried)?;
        self.dir.sync()?;
        inspect::verify(&Dir::look_at(&self.part.0))?;
        fs::rename(&self.part.0, &self.to).map_err(|cause| format!("cannot name {}: {cause}", self.to.display()))?;
        let parent = self.to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
        Ok(())
    }
}

impl KeepValues for Target {
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> io::Result<Vec<Place>> {
        self.unwritten += values.iter().map(|(_, value)| value.len()).sum::<usize>();
        let spelled = self.numbering.spell(values, self.writer.moved_record_bytes())?;
        let places = self.writer.append_new(&spelled);
        if self.unwritten >= limits::WRITE_BATCH_BYTES {
            self.write().map_err(|cause| io::Error::other(cause.to_string()))?;
        }
        Ok(places)
    }
}
