//! A snapshot on its way to a member that lags: raft's message, and behind it the database, in the order and the framing
//! that etcd posts them in. Nothing is held but a piece, and no file is made. (etcd: rafthttp/snapshot_sender.go.)

use std::{fmt, future::Future, io, ops::Range, pin::Pin, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use super::{database::Making, view::View};
use crate::{limits, proto::raftpb, runtime};

/// A snapshot that is to be sent. Once it has been, or could not be, `Core::report_snapshot` wants to know.
pub struct SnapshotToSend {
    /// The whole message, with what etcd puts into it beside the metadata.
    pub message: raftpb::Message,
    /// Of exactly the entry that the message's metadata names.
    pub view: Arc<View>,
}

impl fmt::Debug for SnapshotToSend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "snapshot of entry {} to {:x}", self.index(), self.to())
    }
}

/// What has become of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Arrived,
    Lost,
    /// The sender cannot read its own state: it can send no snapshot at all.
    Unreadable,
}

/// The entry up to which a message's snapshot holds everything.
pub fn index_of(message: &raftpb::Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.and_then(|metadata| metadata.index).unwrap_or_default()
}

impl SnapshotToSend {
    pub fn to(&self) -> u64 {
        self.message.to.unwrap_or_default()
    }

    /// The entry up to which it holds everything.
    pub fn index(&self) -> u64 {
        index_of(&self.message)
    }

    /// What stands in front of the database: the message's length, 8 bytes with the highest in front, and its bytes.
    pub fn head(&self) -> Bytes {
        let length = self.message.encoded_len();
        let mut head = BytesMut::with_capacity(8 + length);
        head.put_u64(length as u64);
        self.message.encode(&mut head).expect("there is room for it");
        head.freeze()
    }
}

/// A piece, and what the next one is made from.
type Made = (Box<Making>, io::Result<Bytes>);

/// The body of a `POST /raft/snapshot`, in pieces: one is made on a background thread while the one before is sent.
pub struct Body {
    head: Option<Bytes>,
    bytes: u64,
    database_bytes: u64,
    changes: Range<u64>,
    /// None at the end.
    next: Option<Pin<Box<dyn Future<Output = Made>>>>,
}

impl Body {
    /// Lays the database out: that looks through the whole index, on a background thread.
    pub async fn begin(snapshot: &SnapshotToSend) -> Body {
        let (head, view) = (snapshot.head(), snapshot.view.clone());
        let making = runtime::bulk(move || Box::new(Making::begin(view))).await;
        let (database_bytes, changes) = (making.left(), making.changes());
        let bytes = head.len() as u64 + database_bytes;
        Body { bytes, head: Some(head), database_bytes, changes, next: Some(make(making)) }
    }

    /// Bytes of it all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the database alone: what etcd calls the snapshot's size.
    pub fn database_bytes(&self) -> u64 {
        self.database_bytes
    }

    /// The pages of bucket `key`: a member that is told them takes the database over while it comes.
    pub fn changes(&self) -> &Range<u64> {
        &self.changes
    }

    /// The next piece; None at the end.
    ///
    /// # Errors
    /// If a value cannot be read: then the receiver must not take what has been sent for a whole database.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        let Some(making) = self.next.take() else { return Ok(None) };
        let (making, piece) = making.await;
        let piece = piece?;
        if making.left() > 0 {
            self.next = Some(make(making));
        }
        Ok(Some(piece))
    }
}

/// Begins to make a piece, at once and elsewhere.
fn make(mut making: Box<Making>) -> Pin<Box<dyn Future<Output = Made>>> {
    Box::pin(runtime::bulk(move || {
        let piece = making.piece(limits::SNAPSHOT_PIECE_BYTES);
        (making, piece)
    }))
}
