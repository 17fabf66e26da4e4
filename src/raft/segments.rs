//! The files that the log is being written to: opened for durable writes, made ready before the writer needs them.
//! A new segment's file is prepared while the one before it fills, so that rolling over waits for nothing.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
};

use crate::{
    log,
    observe::log::shown,
    runtime::{
        self,
        file::{DirectFile, Durability},
    },
    wal::{
        bulk::Pace,
        disk::{Dir, DiskError, Recycled},
        record::SegmentHeader,
        segment::Segment,
        writer::Piece,
    },
};

/// What is the same in the header of every segment of a log; `life` tells them apart.
pub type HeaderOf = Box<dyn Fn(u32) -> SegmentHeader>;

pub struct SegmentFiles {
    dir: Arc<Dir>,
    durability: Durability,
    header: HeaderOf,
    open: RefCell<HashMap<u32, Rc<DirectFile>>>,
    /// The last life that was written to, whose successor is being made ready.
    ahead_of: Cell<Option<u32>>,
    /// Retired segments that some view may still read from.
    retired: RefCell<Vec<Arc<Segment>>>,
}

impl SegmentFiles {
    pub fn new(dir: Arc<Dir>, durability: Durability, header: HeaderOf) -> Self {
        SegmentFiles {
            dir,
            durability,
            header,
            open: RefCell::default(),
            ahead_of: Cell::default(),
            retired: RefCell::default(),
        }
    }

    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Makes one piece of a write durable.
    pub async fn write(self: &Rc<Self>, piece: &Piece) -> io::Result<()> {
        let file = self.file(piece.segment.life()).await?;
        file.write_durable(u64::from(piece.offset), piece.bytes()).await
    }

    /// The file of a segment that is written. While it fills, that of the next is made ready and opened, so that going
    /// over to it waits for no thread.
    async fn file(self: &Rc<Self>, life: u32) -> io::Result<Rc<DirectFile>> {
        let known = self.open.borrow().get(&life).cloned();
        let file = match known {
            Some(file) => file,
            None => self.make_ready(life, Pace::Hurried).await?,
        };
        if self.ahead_of.get() < Some(life) {
            self.ahead_of.set(Some(life));
            // One write at most reaches back to the life before.
            self.open.borrow_mut().retain(|other, _| *other + 1 >= life);
            let files = self.clone();
            runtime::spawn(async move {
                if let Err(cause) = files.make_ready(life + 1, Pace::Resting).await {
                    // The write that needs it will fail with the same error, and stop the member.
                    log!(Warn, "cannot prepare the next segment of the log", "error" = shown(&cause));
                }
            });
        }
        Ok(file)
    }

    async fn make_ready(&self, life: u32, pace: Pace) -> io::Result<Rc<DirectFile>> {
        self.prepare_at(life, pace).await?;
        let file = Rc::new(DirectFile::open(self.dir.segment_path(life), self.durability).await?);
        self.open.borrow_mut().insert(life, file.clone());
        Ok(file)
    }

    /// Sees to it that the file of a life exists, from a spare if there is one.
    pub async fn prepare(&self, life: u32) -> io::Result<()> {
        self.prepare_at(life, Pace::Resting).await
    }

    /// The same for somebody who waits.
    pub async fn prepare_now(&self, life: u32) -> io::Result<()> {
        self.prepare_at(life, Pace::Hurried).await
    }

    async fn prepare_at(&self, life: u32, pace: Pace) -> io::Result<()> {
        let (dir, header) = (self.dir.clone(), (self.header)(life));
        runtime::background(move || dir.ensure_segment(&header, pace)).await.map(drop).map_err(io_of)
    }

    pub fn retire(&self, segment: Arc<Segment>) {
        self.retired.borrow_mut().push(segment);
    }

    /// Takes back the files of retired segments that nobody reads any more: a few to be written again, the rest are
    /// removed.
    pub async fn reclaim(&self, pace: Pace) -> io::Result<()> {
        let retired = self.retired.take();
        if retired.is_empty() {
            return Ok(());
        }
        let dir = self.dir.clone();
        let (pinned, result) = runtime::bulk(move || {
            let (mut pinned, mut result) = (Vec::new(), Ok(()));
            for segment in retired {
                match dir.recycle(segment, pace) {
                    Ok(Recycled::Done) => {}
                    Ok(Recycled::Pinned(segment)) => pinned.push(segment),
                    // The others may go all the same. The file that could not is found again at the next start.
                    Err(cause) => result = Err(cause),
                }
            }
            (pinned, result)
        })
        .await;
        self.retired.borrow_mut().extend(pinned);
        result.map_err(io_of)
    }
}

pub(super) fn io_of(cause: DiskError) -> io::Error {
    io::Error::other(cause)
}
