//! A view as etcd's database, made piece by piece while the member goes on: for clients that ask for a snapshot, and for
//! members that lag. It is never held whole. Blocking: for a thread that has time.

use std::{io, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::view::View;
use crate::{
    bolt::write::Hole,
    limits,
    store::{
        backend::export::Export,
        types::{Place, Values as _},
    },
    wal::{table::SegmentTable, window::Window},
};

/// A database that is being made.
pub struct Making {
    view: Arc<View>,
    export: Export,
    window: Window,
    /// Bytes still to be made.
    left: u64,
}

impl Making {
    /// Lays it out: that looks through the whole index.
    pub fn begin(view: Arc<View>) -> Making {
        let export = Export::new(view.state.clone());
        Making { left: export.bytes(), view, export, window: Window::default() }
    }

    /// The pages of bucket `key`.
    pub fn changes(&self) -> Range<u64> {
        self.export.changes()
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes: so many, or all that are left.
    ///
    /// # Errors
    /// If a value cannot be read.
    pub fn piece(&mut self, bytes: usize) -> io::Result<Bytes> {
        let holes = self.export.make(bytes);
        let pages = self.export.pages();
        fill(&self.view.segments, &mut self.window, pages, holes)?;
        let piece = pages.split_to(bytes.min(pages.len())).freeze();
        self.left -= piece.len() as u64;
        Ok(piece)
    }
}

/// Puts values where they belong, in order of place, so that what is on a disk is read as it lies there. What reading has
/// brought into the process's memory is given back: all of the log is read.
fn fill(
    segments: &SegmentTable,
    window: &mut Window,
    pages: &mut BytesMut,
    mut holes: Vec<Hole<Place>>,
) -> io::Result<()> {
    holes.sort_unstable_by_key(|hole| (hole.what.segment, hole.what.offset));
    let of_segments = || holes.chunk_by(|a, b| a.what.segment == b.what.segment);
    if holes.len() >= limits::READ_AHEAD_VALUES_MIN {
        let scattered = of_segments().filter(|one| !lie_close(one)).flatten();
        segments.will_need(&scattered.map(|hole| hole.what).collect::<Vec<_>>());
    }
    for one in of_segments() {
        let close = lie_close(one);
        let mut reader = segments.reader();
        for Hole { at, what: place, .. } in one {
            let room = &mut pages[*at..*at + place.len as usize];
            let value = if close { segments.read_in(*place, window) } else { reader.get(*place) };
            match value {
                Some(value) => room.copy_from_slice(value),
                None => {
                    room.copy_from_slice(&segments.read(*place)?);
                    // What lies around it has come with it.
                    reader = segments.reader();
                }
            }
        }
        segments.release(one[0].what.segment);
    }
    Ok(())
}

/// Whether most of what lies between values of one segment is wanted too, and is worth being read with them.
fn lie_close(holes: &[Hole<Place>]) -> bool {
    let (first, last) = (holes[0].what, holes[holes.len() - 1].what);
    let wanted: u64 = holes.iter().map(|hole| u64::from(hole.what.len)).sum();
    let between = u64::from(last.offset + last.len - first.offset);
    wanted >= limits::BULK_PIECE_BYTES as u64 / 4 && wanted * limits::READ_WHOLE_SHARE >= between
}
