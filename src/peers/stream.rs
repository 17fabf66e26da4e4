//! What goes to a member that has asked for a stream: pieces of bytes from the raft core's executor to the one that has the
//! member's connection, which may be the same. (etcd: rafthttp/stream.go, streamWriter.)

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{
    limits,
    proto::raftpb::Message,
    wire::peer::{Encoder, Kind, Pieces},
};

/// Bytes on their way to a connection. Both ends hold the lock for a few moves only, once for all messages of a turn.
#[derive(Default)]
struct Pipe {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    reader: Option<Waker>,
    /// By whichever end.
    is_closed: bool,
}

fn pipe(shared: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    shared.lock().expect("nothing panics while it holds this")
}

fn close(shared: &Mutex<Pipe>) {
    let mut pipe = pipe(shared);
    pipe.is_closed = true;
    pipe.pieces.clear();
    if let Some(reader) = pipe.reader.take() {
        reader.wake();
    }
}

/// The end that the member's connection reads.
pub struct Outlet(Arc<Mutex<Pipe>>);

impl Outlet {
    /// The next piece; None once the stream has ended.
    pub fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut pipe = pipe(&self.0);
        if pipe.is_closed {
            return Poll::Ready(None);
        }
        match pipe.pieces.pop_front() {
            Some(piece) => {
                pipe.bytes -= piece.len();
                Poll::Ready(Some(piece))
            }
            None => {
                pipe.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        close(&self.0);
    }
}

/// The end that the raft core's executor writes. The stream ends with it.
pub struct Inlet(Arc<Mutex<Pipe>>);

impl Inlet {
    fn push(&self, pieces: Vec<Bytes>) {
        let mut pipe = pipe(&self.0);
        if pipe.is_closed {
            return;
        }
        pipe.bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        pipe.pieces.extend(pieces);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }

    fn is_closed(&self) -> bool {
        pipe(&self.0).is_closed
    }

    fn waiting(&self) -> usize {
        pipe(&self.0).bytes
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        close(&self.0);
    }
}

/// Both ends of a stream.
pub fn stream() -> (Inlet, Outlet) {
    let shared = Arc::<Mutex<Pipe>>::default();
    (Inlet(shared.clone()), Outlet(shared))
}

/// A stream to a member, as messages are put into it.
pub(super) struct Stream {
    inlet: Inlet,
    encoder: Encoder,
    pieces: Pieces,
    /// Bytes put in since the last flush.
    unflushed: usize,
}

/// Why a stream did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The member does not take what waits for it.
    Full,
    /// The connection has ended.
    Closed,
}

impl Stream {
    pub fn new(kind: Kind, inlet: Inlet) -> Self {
        Stream { inlet, encoder: Encoder::new(kind), pieces: Pieces::default(), unflushed: 0 }
    }

    /// Takes a message, to be sent with the next flush.
    pub fn put(&mut self, message: &Message) -> Result<(), Refused> {
        if self.inlet.is_closed() {
            return Err(Refused::Closed);
        }
        if self.inlet.waiting() + self.unflushed > limits::PEER_STREAM_BYTES_QUEUED {
            return Err(Refused::Full);
        }
        self.encoder.put(message, &mut self.pieces);
        self.unflushed += message.entries.iter().map(|entry| entry.data.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        Ok(())
    }

    /// Sends what has been put in, and gives how many bytes that are.
    pub fn flush(&mut self) -> usize {
        self.unflushed = 0;
        let pieces = self.pieces.take();
        let bytes = pieces.iter().map(Bytes::len).sum();
        if !pieces.is_empty() {
            self.inlet.push(pieces);
        }
        bytes
    }

    /// Says that this member is there. False: nobody listens any more.
    pub fn alive(&mut self) -> bool {
        self.encoder.alive(&mut self.pieces);
        self.flush();
        !self.inlet.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::proto::raftpb::{Entry, MessageType};

    fn append(bytes: usize) -> Message {
        let entry = Entry { data: Some(vec![1; bytes].into()), ..Entry::default() };
        Message { r#type: Some(MessageType::MsgApp as i32), entries: vec![entry], ..Message::default() }
    }

    fn piece(outlet: &mut Outlet) -> Poll<Option<Bytes>> {
        outlet.poll_piece(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn pieces_come_in_order_and_end_with_either_end() {
        let (inlet, mut outlet) = stream();
        let mut stream = Stream::new(Kind::Messages, inlet);
        assert_eq!(piece(&mut outlet), Poll::Pending);
        stream.put(&append(3)).unwrap();
        stream.put(&append(5)).unwrap();
        assert_eq!(piece(&mut outlet), Poll::Pending, "before it is flushed");
        let sent = stream.flush();
        let mut came = 0;
        while let Poll::Ready(Some(bytes)) = piece(&mut outlet) {
            came += bytes.len();
        }
        assert_eq!(came, sent);
        assert!(stream.alive());
        drop(outlet);
        assert_eq!(stream.put(&append(1)), Err(Refused::Closed));
        assert!(!stream.alive());

        let (inlet, mut outlet) = super::stream();
        drop(Stream::new(Kind::Appends, inlet));
        assert_eq!(piece(&mut outlet), Poll::Ready(None));
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let (inlet, mut outlet) = stream();
        let mut stream = Stream::new(Kind::Messages, inlet);
        let message = append(1024 * 1024);
        let mut taken = 0;
        while stream.put(&message).is_ok() {
            taken += 1;
            if taken % 7 == 0 {
                stream.flush();
            }
            assert!(taken <= limits::PEER_STREAM_BYTES_QUEUED / (1024 * 1024) + 1);
        }
        assert_eq!(stream.put(&message), Err(Refused::Full));
        stream.flush();
        while piece(&mut outlet).is_ready() {}
        stream.put(&message).unwrap();
    }
}
