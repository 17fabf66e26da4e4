//! Snapshot: the state of the moment as the database that etcd would have, in messages of 32 KiB, and the SHA-256 of it
//! all behind it. Nothing is written to a disk for it: the database is laid out from the index, then made piece by piece
//! on a background thread, the next piece while one is sent, as fast as it is read. Writes go on beside it; what it still
//! needs of the log stays where it is, within bounds. (etcd API, Maintenance.Snapshot; v3rpc/maintenance.go.)

use std::{future::poll_fn, io, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use sha2::{Digest, Sha256};

use super::{
    caller::Caller,
    listing::Share,
    service::{Served, Services, only_request},
    values,
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{
        Call, Frame,
        stream::{Replies, Requests},
    },
    limits, log,
    proto::etcdserverpb::SnapshotRequest,
    raft::database::Making,
    runtime,
    shard::{pending::Waiting, view::View},
    store::backend,
    wire::*,
};

pub fn serve(services: Rc<Services>, call: Call, requests: Requests, replies: Replies) -> Served {
    Box::pin(stream(services, Caller::of(call), requests, replies))
}

async fn stream(
    services: Rc<Services>,
    caller: Caller,
    mut requests: Requests,
    replies: Replies,
) -> Result<(), Status> {
    let SnapshotRequest {} = only_request(&mut requests).await?;
    let shard = &services.shard;
    let began = runtime::now();
    let view = shard.view();
    services.authorize(&caller, &view, Ask::Admin)?;
    let share = Share::of(&shard.long_answers);
    let snapshot = {
        let view = view.clone();
        runtime::bulk(move || Box::new(Snapshot::begin(view))).await
    };
    let (total, schema) = (snapshot.left(), backend::schema_version(&view.state));
    log!(
        Info,
        "sending database snapshot to client",
        "total-bytes" = total,
        "revision" = view.revision(),
        "storage-version" = schema
    );
    let longer_ms = total / limits::SNAPSHOT_BYTES_PER_SECOND_MIN * 1000;
    let mut sender = Sender { replies, too_old: shard.pin_expires_later(longer_ms), tail: version_field(schema) };
    let mut remaining = total;
    let mut next = Some(make(snapshot, piece_bytes(&share)));
    while let Some(making) = next.take() {
        let (snapshot, piece) = making.await;
        let piece = piece.map_err(|cause| values::unreadable(&cause))?;
        let digest = match snapshot.left() {
            0 => Some(snapshot.digest.finalize()),
            _ => {
                next = Some(make(snapshot, piece_bytes(&share)));
                None
            }
        };
        if held_alone(&view, &shard.view()) > limits::SNAPSHOT_HELD_BYTES_MAX {
            return Err(error::SNAPSHOT_PIN_TOO_LARGE);
        }
        for from in (0..piece.len()).step_by(limits::SNAPSHOT_MESSAGE_BYTES) {
            let blob = piece.slice(from..piece.len().min(from + limits::SNAPSHOT_MESSAGE_BYTES));
            remaining -= blob.len() as u64;
            sender.send(remaining, blob).await?;
        }
        if let Some(digest) = digest {
            sender.send(0, Bytes::copy_from_slice(&digest)).await?;
        }
    }
    log!(
        Info,
        "successfully sent database snapshot to client",
        "total-bytes" = total,
        "took" = runtime::now() - began,
        "storage-version" = schema
    );
    Ok(())
}

/// Whole messages.
fn piece_bytes(share: &Share) -> usize {
    let bytes = share.bytes().min(limits::SNAPSHOT_PIECE_BYTES);
    bytes - bytes % limits::SNAPSHOT_MESSAGE_BYTES
}

/// Begins to make a piece, at once and elsewhere.
fn make(mut snapshot: Box<Snapshot>, bytes: usize) -> impl Future<Output = (Box<Snapshot>, io::Result<Bytes>)> {
    runtime::bulk(move || {
        let piece = snapshot.piece(bytes);
        (snapshot, piece)
    })
}

/// Bytes of segments that a view holds and the present has no use for any more.
fn held_alone(view: &View, present: &View) -> u64 {
    let gone = view.segments.iter().filter(|segment| present.segments.get(segment.life()).is_none());
    gone.map(|segment| u64::from(segment.size())).sum()
}

/// A snapshot that is being made.
struct Snapshot {
    database: Making,
    digest: Sha256,
}

impl Snapshot {
    fn begin(view: Arc<View>) -> Snapshot {
        Snapshot { database: Making::begin(view), digest: Sha256::new() }
    }

    /// The next bytes: so many, or all that are left.
    ///
    /// # Errors
    /// If a value cannot be read.
    fn piece(&mut self, bytes: usize) -> io::Result<Bytes> {
        let piece = self.database.piece(bytes)?;
        self.digest.update(&piece);
        Ok(piece)
    }

    /// Bytes still to be made.
    fn left(&self) -> u64 {
        self.database.left()
    }
}

/// The way to the caller.
struct Sender {
    replies: Replies,
    /// Until when the caller may take it.
    too_old: Waiting<()>,
    /// The last field of every message.
    tail: Bytes,
}

impl Sender {
    /// Sends a SnapshotResponse as soon as the caller takes it. The blob is sent from where it lies.
    async fn send(&mut self, remaining: u64, blob: Bytes) -> Result<(), Status> {
        let ready = poll_fn(|context| self.replies.poll_ready(context));
        match select(ready, &mut self.too_old).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_gone), _)) => return Err(error::CONTEXT_CANCELED),
            Either::Right(_) => return Err(error::SNAPSHOT_PIN_TOO_OLD),
        }
        let head = message_head(remaining, blob.len(), &self.tail);
        self.replies.send([head, blob, self.tail.clone()]).map_err(|_gone| error::CONTEXT_CANCELED)
    }
}

/// A SnapshotResponse as far as the blob's bytes; `tail` comes behind them.
fn message_head(remaining: u64, blob: usize, tail: &Bytes) -> Bytes {
    let mut head = Frame::with_capacity(16);
    put_uint(head.buffer(), 2, remaining);
    put_head(head.buffer(), 3, blob);
    head.seal_before(blob + tail.len())
}

/// The schema's version, the last field of every message.
fn version_field(schema: &str) -> Bytes {
    let mut field = BytesMut::new();
    put_bytes(&mut field, 4, schema.as_bytes());
    field.freeze()
}

#[cfg(test)]
mod tests;
