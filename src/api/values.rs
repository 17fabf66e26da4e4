//! How the services come by values that are not in memory. Everything that may wait for a disk is here, so that a
//! shard's own core never does.

use std::{io, sync::Arc};

use bytes::Bytes;

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

/// Reads what an answer's holes wait for, a bounded number of bytes at a time. The view pins what is read.
///
/// # Errors
/// If a value cannot be read, or if the answer is larger than gRPC can carry.
pub async fn fill_holes(view: &Arc<View>, mut encoded: Encoded) -> Result<Frame, Status> {
    encoded.check_size()?;
    let holes = std::mem::take(&mut encoded.holes);
    for batch in batches(&holes) {
        let (view, places) = (view.clone(), batch.iter().map(|hole| hole.place).collect::<Vec<_>>());
        let values = runtime::background(move || {
            places.into_iter().map(|place| view.segments.read(place)).collect::<io::Result<Vec<Bytes>>>()
        })
        .await
        .map_err(|cause| unreadable(&cause))?;
        for (hole, value) in batch.iter().zip(values) {
            encoded.fill(*hole, &value);
        }
    }
    Ok(encoded.frame)
}

/// The same on a thread that may block.
pub fn fill_holes_blocking(view: &View, mut encoded: Encoded) -> Result<Frame, Status> {
    encoded.check_size()?;
    for hole in std::mem::take(&mut encoded.holes) {
        let value = view.segments.read(hole.place).map_err(|cause| unreadable(&cause))?;
        encoded.fill(hole, &value);
    }
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
