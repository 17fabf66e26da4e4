//! How the services come by values that are not in memory. Everything that may wait for a disk is here, so that a
//! shard's own core never does.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::encode::{Encoded, Hole};
use crate::{
    error::{self, Status},
    grpc::Frame,
    limits, log,
    observe::log::shown,
    runtime,
    shard::view::View,
    store::types::{Place, Values},
    wal::table::SegmentTable,
};

/// Reads what an answer's holes wait for. The view pins what is read.
///
/// # Errors
/// If a value cannot be read, or if the answer is larger than gRPC can carry.
pub async fn fill_holes(view: &Arc<View>, mut encoded: Encoded) -> Result<Frame, Status> {
    encoded.check_size()?;
    let holes = std::mem::take(&mut encoded.holes);
    let buffer = std::mem::take(encoded.frame.buffer());
    *encoded.frame.buffer() = fill(view, buffer, holes, Pages::Keep).await?;
    Ok(encoded.frame)
}

/// What becomes of the pages of the log that reading brings into the process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    Keep,
    /// Given back segment by segment: for who reads all of the log.
    Release,
}

/// Reads values into a buffer: in order of place, so that those in one page are read together and what is on a disk is
/// read as it lies there. First what is in memory, on this core and in slices; then, on a background thread, the rest.
///
/// # Errors
/// If a value cannot be read.
pub async fn fill(
    view: &Arc<View>,
    mut buffer: BytesMut,
    mut holes: Vec<Hole>,
    pages: Pages,
) -> Result<BytesMut, Status> {
    holes.sort_unstable_by_key(|hole| (hole.place.segment, hole.place.offset));
    let cold = fill_resident(view, &mut buffer, holes, pages).await;
    if cold.is_empty() {
        return Ok(buffer);
    }
    let cold: Arc<[Hole]> = cold.into();
    let mut batches = batches(&cold).peekable();
    let mut done = 0;
    while let Some(batch) = batches.next() {
        let (batch, next) = (batch.len(), batches.peek().map_or(0, |next| next.len()));
        let (view, cold, from) = (view.clone(), cold.clone(), done);
        done += batch;
        let filled = runtime::background(move || {
            let places = |holes: &[Hole]| holes.iter().map(|hole| hole.place).collect::<Vec<_>>();
            if cold.len() >= limits::READ_AHEAD_VALUES_MIN {
                // The batch after this one meanwhile comes from the disk.
                let begun = if from == 0 { 0 } else { from + batch };
                view.segments.will_need(&places(&cold[begun..from + batch + next]));
            }
            fill_blocking(&view.segments, &mut buffer, &cold[from..from + batch], pages).map(|()| buffer)
        })
        .await;
        buffer = filled.map_err(|cause| unreadable(&cause))?;
    }
    Ok(buffer)
}

/// Fills the holes whose values are in memory and gives the others.
async fn fill_resident(view: &View, buffer: &mut BytesMut, holes: Vec<Hole>, pages: Pages) -> Vec<Hole> {
    let mut cold = Vec::new();
    let mut reader = view.segments.reader();
    let mut left = holes.len();
    for slice in holes.chunk_by(|a, b| a.place.segment == b.place.segment).flat_map(|one| one.chunks(SLICE)) {
        for hole in slice {
            match reader.get(hole.place) {
                Some(value) => put(buffer, hole, value),
                None => cold.push(*hole),
            }
        }
        left -= slice.len();
        if left > 0 {
            runtime::yield_now().await;
            // What was resident need not be any more.
            reader = view.segments.reader();
        }
        if pages == Pages::Release
            && holes.get(holes.len() - left).is_none_or(|next| next.place.segment != slice[0].place.segment)
        {
            view.segments.release(slice[0].place.segment);
        }
    }
    cold
}

const SLICE: usize = limits::ENCODE_SLICE_KEYS;

/// Fills holes on a thread that may wait for the disk.
fn fill_blocking(segments: &SegmentTable, buffer: &mut BytesMut, holes: &[Hole], pages: Pages) -> io::Result<()> {
    for one in holes.chunk_by(|a, b| a.place.segment == b.place.segment) {
        let mut reader = segments.reader();
        for hole in one {
            match reader.get(hole.place) {
                Some(value) => put(buffer, hole, value),
                None => {
                    put(buffer, hole, &segments.read(hole.place)?);
                    // What lies around it has come with it.
                    reader = segments.reader();
                }
            }
        }
        if pages == Pages::Release {
            segments.release(one[0].place.segment);
        }
    }
    Ok(())
}

fn put(buffer: &mut BytesMut, hole: &Hole, value: &[u8]) {
    buffer[hole.at..hole.at + hole.place.len as usize].copy_from_slice(value);
}

/// The same on a thread that may block.
pub fn fill_holes_blocking(view: &View, mut encoded: Encoded) -> Result<Frame, Status> {
    encoded.check_size()?;
    let holes = std::mem::take(&mut encoded.holes);
    fill_blocking(&view.segments, encoded.frame.buffer(), &holes, Pages::Keep).map_err(|cause| unreadable(&cause))?;
    Ok(encoded.frame)
}

/// Tells the client that a value cannot be had, and the operator which, why, and what to do. The other values are as good
/// as before, so the member goes on serving them.
pub fn unreadable(cause: &io::Error) -> Status {
    let cure = match cause.kind() {
        io::ErrorKind::InvalidData => {
            "check the disk, and replace the member or restore a snapshot: urd-wal verify names all that is damaged"
        }
        _ => "check the disk",
    };
    log!(
        Error,
        "a stored value cannot be read; it is refused to who asks for it",
        "error" = shown(cause),
        "cure" = cure
    );
    error::unreadable(cause)
}

/// Cuts a list of holes where their bytes come to a batch.
fn batches(holes: &[Hole]) -> impl Iterator<Item = &[Hole]> {
    let mut rest = holes;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |hole: &Hole| {
            bytes += hole.place.len as usize;
            bytes <= limits::FILL_BATCH_BYTES
        };
        let count = rest.iter().map_while(|hole| fits(hole).then_some(())).count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// The values that are in memory, for what can only go ahead at once if it needs no other.
pub struct Resident<'a>(pub &'a SegmentTable);

impl Values for Resident<'_> {
    /// # Errors
    /// WouldBlock where the value is not in memory.
    fn read(&self, place: Place) -> io::Result<Bytes> {
        self.0.resident(place).map(Bytes::copy_from_slice).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_hole_once_and_stay_small() {
        let hole = |at, len| Hole { at, place: Place { segment: 1, offset: 0, len } };
        let big = limits::FILL_BATCH_BYTES as u32;
        let holes = [hole(0, 1), hole(1, big - 1), hole(2, 1), hole(3, big + 1), hole(4, 7), hole(5, 9)];
        let cut: Vec<usize> = batches(&holes).map(<[Hole]>::len).collect();
        assert_eq!(cut, [2, 1, 1, 2]);
        assert!(batches(&holes).flatten().eq(&holes));
        assert_eq!(batches(&[]).count(), 0);
    }
}
