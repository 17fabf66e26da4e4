//! What stands between h2 and the socket. It gives every connection turns of bounded length, gathers what a turn
//! writes into one call, and reads along in the frames for what h2 keeps to itself: pings, the number of the newest
//! stream, and whether anything goes out on a stream. It changes no byte, except that it may end the outbound ones with a GOAWAY of its own, since
//! h2 cannot put words into one.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ping::Pings, settings::Settings};
use crate::limits;

const PREFACE_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const FRAME_HEAD_BYTES: usize = 9;
const FRAME_DATA: u8 = 0;
const FRAME_HEADERS: u8 = 1;
const FRAME_PING: u8 = 6;
const FLAG_ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a connection and its calls have in common.
pub(super) struct Link {
    pub settings: Rc<Settings>,
    /// Calls that are running.
    pub calls: Cell<usize>,
    /// When something was last read.
    pub arrived: Cell<Instant>,
    /// Bytes of messages that are not yet complete but whose window has been given back.
    pub unfinished: Cell<usize>,
}

impl Link {
    pub fn new(settings: Rc<Settings>) -> Self {
        Link { settings, calls: Cell::new(0), arrived: Cell::new(Instant::now()), unfinished: Cell::new(0) }
    }
}

/// The socket as h2 sees it. Clones are the same wire: h2 owns one, the connection's task another.
pub(super) struct Wire<T>(Rc<RefCell<State<T>>>);

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Wire(self.0.clone())
    }
}

struct State<T> {
    io: T,
    link: Rc<Link>,
    inbound: Scan,
    outbound: Scan,
    pings: Pings,
    /// DATA or HEADERS have been written since the last ping: a long answer goes on doing so long after its call has
    /// handed it over.
    replied: bool,
    newest_stream: u32,
    /// A stream has been opened since the turn began, so a call is running even if h2 has not yet said so.
    opened: bool,
    too_many_pings: bool,
    /// Bytes read in this turn; None: no more in this turn.
    turn: Option<usize>,
    /// The turn ended with bytes left to read.
    yielded: bool,
    /// Output, written from `written` on.
    held: Vec<u8>,
    written: usize,
    /// h2 has more to write.
    refused: bool,
    /// h2 is between two frames.
    between_frames: bool,
    /// Something went to the socket since its last flush.
    unflushed: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    pub fn new(io: T, link: Rc<Link>) -> Self {
        Wire(Rc::new(RefCell::new(State {
            pings: Pings::new(link.settings.keepalive_min_time),
            io,
            link,
            inbound: Scan::after(PREFACE_BYTES),
            outbound: Scan::after(0),
            replied: false,
            newest_stream: 0,
            opened: false,
            too_many_pings: false,
            turn: Some(0),
            yielded: false,
            held: Vec::new(),
            written: 0,
            refused: false,
            between_frames: true,
            unflushed: false,
        })))
    }

    /// Begins a turn: h2 may read again.
    pub fn begin_turn(&self) {
        let mut state = self.0.borrow_mut();
        state.turn = Some(0);
        state.yielded = false;
        state.opened = false;
        state.refused = false;
    }

    /// Whether the turn ended although there may be more to read: then nobody but the caller will ask for the next.
    pub fn yielded(&self) -> bool {
        self.0.borrow().yielded
    }

    /// Whether h2 had more to write in this turn than there was room for.
    pub fn refused(&self) -> bool {
        self.0.borrow().refused
    }

    /// Whether the client has pinged more often than it may.
    pub fn too_many_pings(&self) -> bool {
        self.0.borrow().too_many_pings
    }

    /// Writes out what the turn has gathered.
    pub fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(context)
    }

    /// Ends the outbound bytes with a GOAWAY that says why. h2 must not be polled after it.
    pub fn send_away(&self) {
        let mut state = self.0.borrow_mut();
        if !state.between_frames {
            return; // The client takes nothing anyhow: what h2 began cannot be finished.
        }
        let debug = b"too_many_pings";
        let len = 8 + debug.len() as u8;
        let newest_stream = state.newest_stream;
        state.held.extend([0, 0, len, 7, 0, 0, 0, 0, 0]);
        state.held.extend(newest_stream.to_be_bytes());
        state.held.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        state.held.extend(debug);
    }

    /// Writes out what is left, says that no more will come, and reads on until the client has closed its side too:
    /// a socket closed with bytes unread would take the last ones written with it.
    pub fn poll_linger(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_send(context))?;
        ready!(Pin::new(&mut state.io).poll_shutdown(context))?;
        let mut scratch = [0; 4096];
        for _ in 0..limits::GRPC_TURN_BYTES / scratch.len() {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut state.io).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> State<T> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.held[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        self.written = 0;
        self.held.clear();
        if self.held.capacity() > limits::GRPC_WRITE_BYTES_KEPT {
            self.held = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads along in what has come.
    fn scan(&mut self, bytes: &[u8]) {
        let now = crate::runtime::now();
        let State { inbound, pings, replied, link, opened, newest_stream, too_many_pings, .. } = self;
        link.arrived.set(now);
        inbound.feed(bytes, |kind, flags, stream| match kind {
            FRAME_HEADERS if stream > *newest_stream => {
                *newest_stream = stream;
                *opened = true;
            }
            FRAME_PING if flags & FLAG_ACK == 0 => {
                let calls = *opened || link.calls.get() > 0;
                *too_many_pings |= pings.received(now, calls, std::mem::take(replied));
            }
            _ => {}
        });
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let Some(so_far) = state.turn else {
            return Poll::Pending;
        };
        let before = buffer.filled().len();
        match Pin::new(&mut state.io).poll_read(context, buffer) {
            Poll::Pending => {
                state.turn = None;
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len() - before;
                state.scan(&buffer.filled()[before..]);
                state.turn = Some(so_far + read);
                if state.too_many_pings || so_far + read >= limits::GRPC_TURN_BYTES {
                    state.turn = None;
                    state.yielded = true;
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// Takes the bytes into what the turn has gathered; where that is full it is written first. So a frame is never
    /// refused while the socket takes anything.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        state.between_frames = false;
        if state.held.len() >= limits::GRPC_WRITE_BYTES && state.poll_send(context)?.is_pending() {
            state.refused = true;
            return Poll::Pending;
        }
        let State { held, outbound, replied, .. } = &mut *state;
        let mut room = limits::GRPC_WRITE_BYTES - held.len();
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room)];
            outbound.feed(part, |kind, _, _| *replied |= matches!(kind, FRAME_DATA | FRAME_HEADERS));
            held.extend_from_slice(part);
            room -= part.len();
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing leaves before the end of the turn: `poll_send`.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().between_frames = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_send(context))?;
        Pin::new(&mut state.io).poll_shutdown(context)
    }
}

/// Finds the heads of frames in a stream of bytes cut anywhere.
struct Scan {
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    have: usize,
}

impl Scan {
    /// `preface`: bytes before the first frame.
    fn after(preface: usize) -> Self {
        Scan { skip: preface, head: [0; FRAME_HEAD_BYTES], have: 0 }
    }

    /// `frame` is told type, flags and stream of each frame whose head is complete.
    fn feed(&mut self, mut bytes: &[u8], mut frame: impl FnMut(u8, u8, u32)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let by = self.skip.min(bytes.len());
                self.skip -= by;
                bytes = &bytes[by..];
                continue;
            }
            let by = (FRAME_HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + by].copy_from_slice(&bytes[..by]);
            self.have += by;
            bytes = &bytes[by..];
            if self.have == FRAME_HEAD_BYTES {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                frame(kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_wherever_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 3, 1, 4, 0x80, 0, 0, 7, 1, 2, 3]);
        bytes.extend([0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for first in 0..bytes.len() {
            for step in 1..12 {
                let mut scan = Scan::after(PREFACE_BYTES);
                let mut seen = Vec::new();
                scan.feed(&bytes[..first], |kind, flags, stream| seen.push((kind, flags, stream)));
                for piece in bytes[first..].chunks(step) {
                    scan.feed(piece, |kind, flags, stream| seen.push((kind, flags, stream)));
                }
                assert_eq!(seen, [(4, 0, 0), (1, 4, 7), (6, 1, 0)]);
            }
        }
    }
}
