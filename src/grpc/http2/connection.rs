//! What a connection is: its streams, windows, compression on both sides, and how it ends. Receiving is in
//! `receive.rs`, sending in `send.rs`; here is what both of them share and what a stream's life consists of.

use std::{
    cell::Cell,
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;

use super::{
    encode::Encoder,
    field::{Field, Metadata},
    frame::{self, Reason},
    head::Head,
    hpack::Decoder,
    output::Output,
    stream::{Body, Half, Key, Stream, store, wake},
};
use crate::{grpc::ping::Pings, limits};

/// What can be set about a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams at a time; u32::MAX: as many as a client likes.
    pub streams_max: u32,
    /// Bytes of the fields of one head, 32 added for each.
    pub header_bytes_max: u32,
    /// Shortest time between a client's pings while calls are running.
    pub ping_time_min: Duration,
}

/// A rule was broken that concerns more than one stream: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault(pub Reason, pub &'static str);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Preface,
    /// The first frame has to be SETTINGS.
    Settings,
    Open,
    /// By an error, or by the layer above: nothing is read any more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    No,
    /// The client knows that there will be an end; what is under way is still served.
    Announced,
    /// Streams after this one are not looked at.
    After(u32),
}

/// A header block that is not complete.
pub(super) struct Block {
    pub stream: u32,
    pub end_stream: bool,
    pub bytes: Vec<u8>,
    pub frames: usize,
}

/// With this in a ping, a client says that it has read the first GOAWAY.
pub(super) const DRAIN_PING: [u8; 8] = *b"draining";
const ALIVE_PING: [u8; 8] = *b"are you?";

thread_local! {
    /// Where requests wait for the end of a turn's reading: each connection of an executor has it in its turn.
    static FRESH: Cell<VecDeque<(Key, Head)>> = const { Cell::new(VecDeque::new()) };
}

pub struct Connection {
    pub(super) config: Config,
    pub(super) phase: Phase,
    /// A frame, or the preface, of which only this much has come.
    pub(super) carry: Vec<u8>,
    pub(super) block: Option<Block>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Where the metadata of a head is gathered, and what the last head had.
    pub(super) metadata: Vec<Field>,
    pub(super) metadata_last: Metadata,

    pub(super) streams: Slab<Stream>,
    /// Keys of open streams by their numbers.
    pub(super) listed: HashMap<u32, u32>,
    /// Requests that nobody has taken yet.
    pub(super) fresh: VecDeque<(Key, Head)>,
    /// The newest stream that the client has opened.
    pub(super) newest: u32,
    /// Streams that were ended here before the client had ended them: what comes late on them is ignored.
    pub(super) late: VecDeque<u32>,

    pub(super) receive_window: i64,
    pub(super) released: i64,

    pub(super) output: Output,
    /// Bytes that wait in streams whose answers are complete.
    pub(super) unread: usize,
    /// Streams that may have something to send, each once.
    pub(super) ready: VecDeque<u32>,
    /// How many of them have been closed, at least half of what this says.
    pub(super) stale: usize,
    pub(super) send_window: i64,
    /// The first window of streams, and whether it has changed without the streams having been looked at.
    pub(super) first_window: i64,
    pub(super) first_window_changed: bool,

    pub(super) pings: Pings,
    /// DATA or HEADERS have been written since the client's last ping: a long answer goes on doing so long after its
    /// call has handed it over.
    pub(super) replied: bool,
    pub(super) away: Away,

    /// Streams reset before anybody looked at them, in this turn.
    pub(super) early_resets: usize,
    /// Stream errors of the client's.
    pub(super) stream_faults: usize,
    /// DATA frames that brought nothing, less those that did.
    pub(super) empty_frames: usize,
}

impl Connection {
    /// One whose client has not said a word.
    pub fn new(config: Config) -> Self {
        Connection {
            pings: Pings::new(config.ping_time_min),
            config,
            phase: Phase::Preface,
            carry: Vec::new(),
            block: None,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            metadata: Vec::new(),
            metadata_last: Metadata::default(),
            // Many connections have one stream for all their life.
            streams: Slab::with_capacity(1),
            listed: HashMap::new(),
            fresh: VecDeque::new(),
            newest: 0,
            late: VecDeque::new(),
            receive_window: i64::from(limits::GRPC_CONNECTION_WINDOW_BYTES),
            released: 0,
            output: Output::default(),
            unread: 0,
            ready: VecDeque::new(),
            stale: 0,
            send_window: frame::WINDOW_BYTES,
            first_window: frame::WINDOW_BYTES,
            first_window_changed: false,
            replied: false,
            away: Away::No,
            early_resets: 0,
            stream_faults: 0,
            empty_frames: 0,
        }
    }

    /// A new turn: what happens within one is counted from here.
    pub fn begin_turn(&mut self) {
        self.early_resets = 0;
        if self.fresh.capacity() == 0 {
            self.fresh = FRESH.take();
        }
    }

    /// Whether client and server have exchanged what a connection begins with.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether another answer may be made while those that are wait for the client.
    pub fn has_room(&self) -> bool {
        self.unread < limits::GRPC_UNREAD_BYTES
    }

    /// Whether it has come to its end, but for what is still to be written.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Whether the client has been told after which stream it ends, and no stream is left.
    pub fn is_drained(&self) -> bool {
        matches!(self.away, Away::After(_)) && self.listed.is_empty()
    }

    /// Begins to end it: the client is told, and once it has had the time to read that, after which stream.
    pub fn drain(&mut self) {
        if self.away == Away::No && self.phase == Phase::Open {
            frame::put_away(self.output.joined(), frame::WINDOW_BYTES_MAX as u32, Reason::NoError, "");
            frame::put_ping(self.output.joined(), false, &DRAIN_PING);
            self.away = Away::Announced;
        }
    }

    /// Asks the client whether it is there.
    pub fn ping(&mut self) {
        frame::put_ping(self.output.joined(), false, &ALIVE_PING);
    }

    /// Ends it: all streams are gone, the client is told why, nothing is read any more.
    pub(super) fn end(&mut self, fault: Fault) {
        if matches!(self.phase, Phase::Settings | Phase::Open) {
            let Fault(reason, text) = fault;
            frame::put_away(self.output.joined(), self.newest, reason, text);
        }
        self.close();
    }

    /// Ends it without a word: its calls are told that their streams are gone.
    pub fn close(&mut self) {
        self.phase = Phase::Ended;
        self.carry = Vec::new();
        self.block = None;
        self.listed.clear();
        self.ready.clear();
        for (key, _) in self.fresh.drain(..) {
            self.streams[key.0 as usize].begun = true;
        }
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let stream = &mut self.streams[key];
            stream.reset = true;
            stream.listed = false;
            stream.scheduled = false;
            self.unread -= stream.clear_queue();
            stream.wakers.wake_all();
            self.settle(Key(key as u32));
        }
    }

    /// The next request that has come, on a stream that still is. Its key is the caller's until `let_go`.
    pub fn take_request(&mut self) -> Option<(Key, Head)> {
        loop {
            let (key, head) = self.fresh.pop_front()?;
            let stream = &mut self.streams[key.0 as usize];
            stream.begun = true;
            if !stream.reset {
                stream.held = true;
                return Some((key, head));
            }
            self.settle(key);
        }
    }

    /// What has come of a request's body.
    pub fn body(&mut self, key: Key) -> &mut Body {
        &mut self.streams[key.0 as usize].body
    }

    /// How the request's body has ended; None: it has not.
    pub fn body_end(&self, key: Key) -> Option<BodyEnd> {
        let stream = &self.streams[key.0 as usize];
        match (stream.reset, stream.remote) {
            (true, _) => Some(BodyEnd::Reset),
            (false, Half::Ended) => Some(BodyEnd::Whole),
            (false, Half::Open) => None,
        }
    }

    /// Takes the next `skip + len` bytes of a body, without the first `skip`, and gives their window back, except for
    /// those whose window has been.
    pub fn take_body(&mut self, key: Key, skip: usize, len: usize) -> Bytes {
        let body = &mut self.streams[key.0 as usize].body;
        let given_back = std::mem::take(&mut body.given_back);
        let bytes = body.take(skip, len);
        self.release(key, (skip + len - given_back) as i64);
        bytes
    }

    /// Gives back the window of what has come of a body and stays where it is.
    pub fn give_back(&mut self, key: Key) {
        let body = &mut self.streams[key.0 as usize].body;
        let more = body.unreturned();
        body.given_back = body.len();
        self.release(key, more as i64);
    }

    /// What has come of a body, and what still comes, is not wanted.
    pub fn stop_reading(&mut self, key: Key) {
        let stream = &mut self.streams[key.0 as usize];
        stream.unread = true;
        stream.wakers.body = None;
        let left = stream.body.unreturned();
        stream.body.clear();
        if left > 0 {
            self.release(key, left as i64);
        }
    }

    /// `context` is woken when more of the body comes, or its end.
    pub fn await_body(&mut self, key: Key, context: &Context<'_>) {
        store(&mut self.streams[key.0 as usize].wakers.body, context);
    }

    /// Ready once the stream is reset or the connection has ended.
    pub fn poll_gone(&mut self, key: Key, context: &Context<'_>) -> Poll<()> {
        let stream = &mut self.streams[key.0 as usize];
        if stream.reset {
            return Poll::Ready(());
        }
        store(&mut stream.wakers.end, context);
        Poll::Pending
    }

    /// The call is done with its stream. What it has not ended is cancelled; what is queued is still sent.
    pub fn let_go(&mut self, key: Key) {
        if !self.streams[key.0 as usize].unread {
            self.stop_reading(key);
        }
        let stream = &mut self.streams[key.0 as usize];
        stream.held = false;
        stream.wakers = Default::default();
        if !stream.reset && stream.local == Half::Open && stream.ending.is_none() {
            self.reset(key, Reason::Cancel);
        } else {
            self.settle(key);
        }
    }

    /// Ends a stream from this side, whatever is queued.
    pub fn reset(&mut self, key: Key, reason: Reason) {
        let stream = &mut self.streams[key.0 as usize];
        if stream.reset {
            return;
        }
        stream.reset = true;
        self.unread -= stream.clear_queue();
        stream.wakers.wake_all();
        let id = stream.id;
        if stream.remote == Half::Open {
            self.remember_late(id);
        }
        frame::put_reset(self.output.joined(), id, reason);
        self.settle(key);
    }

    pub(super) fn remember_late(&mut self, id: u32) {
        if self.late.len() == limits::GRPC_RESET_STREAMS {
            self.late.pop_front();
        }
        self.late.push_back(id);
    }

    /// Sees to what follows from a stream's state: it is asked to stop where the answer is complete, its number is
    /// forgotten when it is closed, its place given away when nobody holds it.
    pub(super) fn settle(&mut self, key: Key) {
        let stream = &mut self.streams[key.0 as usize];
        if stream.local == Half::Ended && stream.remote == Half::Open && !stream.reset {
            // The client need not send the rest (RFC 9113, section 8.1).
            self.reset(key, Reason::NoError);
            return;
        }
        if !stream.is_closed() {
            return;
        }
        if stream.listed {
            stream.listed = false;
            self.listed.remove(&stream.id);
        }
        if stream.scheduled && self.phase != Phase::Ended {
            self.unschedule();
        } else if stream.begun && !stream.held {
            let left = stream.body.unreturned();
            self.streams.remove(key.0 as usize);
            self.release_connection(left as i64);
        }
    }

    /// A stream that may have something to send has been closed. It leaves `ready` when its turn comes, which may be
    /// never while the client opens no window: so those that have been closed are thrown out once they are the half.
    fn unschedule(&mut self) {
        self.stale += 1;
        if self.stale * 2 <= self.ready.len() {
            return;
        }
        self.stale = 0;
        let mut closed = Vec::new();
        let streams = &mut self.streams;
        self.ready.retain(|&key| {
            let stream = &mut streams[key as usize];
            stream.scheduled = !stream.is_closed();
            if !stream.scheduled {
                closed.push(Key(key));
            }
            stream.scheduled
        });
        for key in closed {
            self.settle(key);
        }
    }

    /// Gives window back to a stream, and to the connection.
    pub(super) fn release(&mut self, key: Key, bytes: i64) {
        let stream = &mut self.streams[key.0 as usize];
        if stream.remote == Half::Open && !stream.reset {
            stream.released += bytes;
            // Half a window at a time: a frame for each message would cost more than the message.
            if stream.released >= i64::from(limits::GRPC_STREAM_WINDOW_BYTES) / 2 {
                frame::put_window_update(self.output.joined(), stream.id, stream.released as u32);
                stream.receive_window += stream.released;
                stream.released = 0;
            }
        }
        self.release_connection(bytes);
    }

    pub(super) fn release_connection(&mut self, bytes: i64) {
        self.released += bytes;
        if self.released >= i64::from(limits::GRPC_CONNECTION_WINDOW_BYTES) / 2 && self.phase == Phase::Open {
            frame::put_window_update(self.output.joined(), 0, self.released as u32);
            self.receive_window += self.released;
            self.released = 0;
        }
    }

    /// Tells who waits for a body that more of it is there.
    pub(super) fn wake_reader(&mut self, key: Key) {
        wake(&mut self.streams[key.0 as usize].wakers.body);
    }

    /// Wakes whoever waits for something of a stream.
    pub fn wake_all(&mut self, key: Key) {
        self.streams[key.0 as usize].wakers.wake_all();
    }

    /// Whether there is anything that can be written.
    pub fn wants_to_send(&self) -> bool {
        !self.output.is_empty() || (self.send_window > 0 && !self.ready.is_empty())
    }

    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The end of a turn: a silent connection keeps no memory that it may not need again.
    pub fn end_turn(&mut self) {
        self.output.shrink();
        if self.carry.is_empty() && self.carry.capacity() > 0 {
            self.carry = Vec::new();
        }
        if self.fresh.is_empty() {
            FRESH.set(std::mem::take(&mut self.fresh));
        }
        if self.listed.is_empty() && self.streams.is_empty() && self.streams.capacity() > 64 {
            self.streams = Slab::new();
            self.listed = HashMap::new();
        }
    }
}

/// How a request's body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    Whole,
    /// The stream was reset or the connection has ended.
    Reset,
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
