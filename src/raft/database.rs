//! A view as etcd's database, made piece by piece while the member goes on: for clients that ask for a snapshot, and for
//! members that lag. It is never held whole. Blocking: for a thread that has time.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::view::View;
use crate::{
    bolt::write::Hole,
    limits,
    store::{
        backend::export::Export,
        types::{Place, Values as _},
    },
    wal::table::SegmentTable,
};

/// A database that is being made.
pub struct Making {
    view: Arc<View>,
    export: Export,
    /// Bytes still to be made.
    left: u64,
}

impl Making {
    /// Lays it out: that looks through the whole index.
    pub fn begin(view: Arc<View>) -> Making {
        let export = Export::new(view.state.clone());
        Making { left: export.bytes(), view, export }
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
        fill(&self.view.segments, pages, holes)?;
        let piece = pages.split_to(bytes.min(pages.len())).freeze();
        self.left -= piece.len() as u64;
        Ok(piece)
    }
}

/// Puts values where they belong, in order of place, so that what is on a disk is read as it lies there. What reading has
/// brought into the process's memory is given back: all of the log is read.
fn fill(segments: &SegmentTable, pages: &mut BytesMut, mut holes: Vec<Hole<Place>>) -> io::Result<()> {
    holes.sort_unstable_by_key(|hole| (hole.what.segment, hole.what.offset));
    if holes.len() >= limits::READ_AHEAD_VALUES_MIN {
        segments.will_need(&holes.iter().map(|hole| hole.what).collect::<Vec<_>>());
    }
    for one in holes.chunk_by(|a, b| a.what.segment == b.what.segment) {
        let mut reader = segments.reader();
        for Hole { at, what: place, .. } in one {
            let room = &mut pages[*at..*at + place.len as usize];
            match reader.get(*place) {
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
