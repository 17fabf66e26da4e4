//! The files that the log is being written to: opened for durable writes, made ready before the writer needs them.
//! A new segment's file is prepared while the one before it fills, so that rolling over waits for nothing.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use super::driver::ByLife;
use crate::{
    limits,
    observe::log,
    runtime::{
        self,
        file::{DirectFile, Durability},
    },
    wal::{disk, segment::Segment, writer::Piece},
};

pub struct SegmentFiles {
    dir: PathBuf,
    durability: Durability,
    segment_bytes: u32,
    open: RefCell<ByLife<Rc<DirectFile>>>,
    /// Lives whose file exists and is ready to be written.
    ready: RefCell<BTreeSet<u32>>,
    /// Files of retired segments, to be used again.
    spares: RefCell<Vec<PathBuf>>,
    /// Retired segments that some view may still read from.
    retired: RefCell<Vec<Arc<Segment>>>,
    preparing: Cell<Option<u32>>,
}

impl SegmentFiles {
    /// `ready`: lives whose files recovery has found; `spares`: files that belong to no segment any more.
    pub fn new(
        dir: PathBuf,
        durability: Durability,
        segment_bytes: u32,
        ready: impl IntoIterator<Item = u32>,
        spares: Vec<PathBuf>,
    ) -> Self {
        SegmentFiles {
            dir,
            durability,
            segment_bytes,
            open: RefCell::default(),
            ready: RefCell::new(ready.into_iter().collect()),
            spares: RefCell::new(spares),
            retired: RefCell::default(),
            preparing: Cell::new(None),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes one piece of a write durable.
    pub async fn write(self: &Rc<Self>, piece: &Piece) -> io::Result<()> {
        let file = self.file(&piece.segment).await?;
        file.write_durable(u64::from(piece.offset), piece.bytes()).await
    }

    async fn file(self: &Rc<Self>, segment: &Arc<Segment>) -> io::Result<Rc<DirectFile>> {
        let life = segment.life();
        let known = self.open.borrow().get(&life).cloned();
        if let Some(file) = known {
            return Ok(file);
        }
        self.prepare(life).await?;
        let file = Rc::new(DirectFile::open(segment.path(), self.durability).await?);
        let mut open = self.open.borrow_mut();
        // Lives only grow: those before the one just begun are sealed.
        open.retain(|other, _| *other + 1 >= life);
        open.insert(life, file.clone());
        drop(open);
        let ahead = self.clone();
        runtime::spawn(async move {
            if let Err(cause) = ahead.prepare(life + 1).await {
                // The write that needs it will fail with the same error, and say so.
                log::warn("cannot prepare the next segment of the log", &[("error", &cause)]);
            }
        });
        Ok(file)
    }

    /// Sees to it that the file of a life exists, pre-zeroed or with the stale records of an earlier life.
    async fn prepare(self: &Rc<Self>, life: u32) -> io::Result<()> {
        while self.preparing.get() == Some(life) {
            runtime::yield_now().await;
        }
        if self.ready.borrow().contains(&life) {
            return Ok(());
        }
        self.preparing.set(Some(life));
        let spare = self.spares.borrow_mut().pop();
        let (dir, bytes) = (self.dir.clone(), self.segment_bytes);
        let result = runtime::background(move || match spare {
            Some(spare) => disk::adopt(&dir, &spare, life),
            None => disk::create_segment(&dir, life, bytes),
        })
        .await;
        self.preparing.set(None);
        if result.is_ok() {
            let mut ready = self.ready.borrow_mut();
            ready.insert(life);
            while ready.len() > 8 {
                ready.pop_first();
            }
        }
        result
    }

    pub fn retire(&self, segment: Arc<Segment>) {
        self.retired.borrow_mut().push(segment);
    }

    /// Takes back the files of retired segments that nobody reads any more: a few to be written again, the rest are
    /// removed.
    pub async fn reclaim(&self) -> io::Result<()> {
        let mut free = Vec::new();
        self.retired.borrow_mut().retain(|segment| {
            let unread = Arc::strong_count(segment) == 1;
            if unread {
                free.push(segment.path().to_owned());
            }
            !unread
        });
        if free.is_empty() {
            return Ok(());
        }
        let keep = limits::SPARE_SEGMENTS.saturating_sub(self.spares.borrow().len()).min(free.len());
        let surplus = free.split_off(keep);
        let dir = self.dir.clone();
        let spares = runtime::background(move || {
            let spares = free.iter().map(|path| disk::set_aside(&dir, path)).collect::<io::Result<Vec<_>>>()?;
            disk::remove(&dir, &surplus)?;
            Ok::<_, io::Error>(spares)
        })
        .await?;
        self.spares.borrow_mut().extend(spares);
        Ok(())
    }

    /// Retired segments that are still being read.
    pub fn pinned(&self) -> usize {
        self.retired.borrow().len()
    }
}
