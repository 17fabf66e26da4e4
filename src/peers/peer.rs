//! One other member: its URLs, the streams that it has asked for, and whether it is heard of.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::Arc,
};

use super::{
    stream::{Refused, Stream},
    urls::Urls,
};
use crate::{
    log,
    observe::{log::hex, metrics::PeerMetrics},
    proto::raftpb::{Message, MessageType},
    runtime,
    wire::peer::Kind,
};

pub(super) struct Peer {
    pub id: u64,
    pub urls: RefCell<Urls>,
    /// Of one that no applied entry has named nothing is read.
    pub is_known: bool,
    appends: RefCell<Option<Stream>>,
    messages: RefCell<Option<Stream>>,
    /// Something waits in a stream to be flushed.
    unflushed: Cell<bool>,
    /// Messages that go one by one, and how many are on their way.
    pub pipeline: RefCell<VecDeque<Message>>,
    pub on_their_way: Cell<usize>,
    /// Since when it is heard of, by `runtime::now_ms`.
    pub active_since: Cell<Option<u64>>,
    pub metrics: Arc<PeerMetrics>,
    pub tasks: RefCell<Vec<runtime::Task<()>>>,
    /// The snapshot that is on its way.
    pub sending: RefCell<Option<runtime::Task<()>>>,
}

/// By which way a message has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    InStream,
    /// It is to go by the pipeline.
    NoStream,
    Lost,
}

/// etcd's names of the two kinds of streams, in logs.
pub(super) fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Appends => "stream MsgApp v2",
        Kind::Messages => "stream Message",
    }
}

impl Peer {
    pub fn new(id: u64, urls: Vec<String>, is_known: bool, metrics: Arc<PeerMetrics>) -> Self {
        Peer {
            id,
            urls: RefCell::new(Urls::new(urls)),
            is_known,
            appends: RefCell::default(),
            messages: RefCell::default(),
            unflushed: Cell::new(false),
            pipeline: RefCell::default(),
            on_their_way: Cell::new(0),
            active_since: Cell::new(None),
            metrics,
            tasks: RefCell::default(),
            sending: RefCell::default(),
        }
    }

    /// Nothing is said to it or heard of it any more.
    pub fn rest(&self) {
        self.tasks.borrow_mut().clear();
        self.sending.borrow_mut().take();
        self.appends.borrow_mut().take();
        self.messages.borrow_mut().take();
        self.pipeline.borrow_mut().clear();
    }

    fn stream(&self, kind: Kind) -> &RefCell<Option<Stream>> {
        match kind {
            Kind::Appends => &self.appends,
            Kind::Messages => &self.messages,
        }
    }

    /// Takes a stream that the member has asked for; one of before ends.
    pub fn attach(&self, kind: Kind, stream: Stream) {
        let before = self.stream(kind).borrow_mut().replace(stream);
        if before.is_some() {
            log!(
                Warn,
                "closed TCP streaming connection with remote peer",
                "stream-writer-type" = name_of(kind),
                "remote-peer-id" = hex(self.id)
            );
        }
        log!(
            Info,
            "established TCP streaming connection with remote peer",
            "stream-writer-type" = name_of(kind),
            "remote-peer-id" = hex(self.id)
        );
    }

    /// Puts a message into the stream that is for it.
    pub fn put(&self, message: &Message) -> Sent {
        let kinds: &[Kind] = match message.r#type() {
            MessageType::MsgApp => &[Kind::Appends, Kind::Messages],
            _ => &[Kind::Messages],
        };
        for kind in kinds {
            let mut slot = self.stream(*kind).borrow_mut();
            let Some(stream) = slot.as_mut() else { continue };
            match stream.put(message) {
                Ok(()) => {
                    self.unflushed.set(true);
                    return Sent::InStream;
                }
                Err(Refused::Full) => return Sent::Lost,
                Err(Refused::Closed) => {
                    drop(slot);
                    self.lose(*kind);
                }
            }
        }
        Sent::NoStream
    }

    fn lose(&self, kind: Kind) {
        if self.stream(kind).borrow_mut().take().is_some() {
            log!(
                Warn,
                "lost TCP streaming connection with remote peer",
                "stream-writer-type" = name_of(kind),
                "remote-peer-id" = hex(self.id)
            );
        }
    }

    /// Sends what was put into streams, and gives how many bytes that are.
    pub fn flush(&self) -> usize {
        if !self.unflushed.take() {
            return 0;
        }
        let flush = |slot: &RefCell<Option<Stream>>| slot.borrow_mut().as_mut().map_or(0, Stream::flush);
        flush(&self.appends) + flush(&self.messages)
    }

    /// Says in both streams that this member is there, and lets go of those that nobody listens to.
    pub fn say_alive(&self) {
        for kind in [Kind::Appends, Kind::Messages] {
            let listens = self.stream(kind).borrow_mut().as_mut().is_none_or(Stream::alive);
            if !listens {
                self.lose(kind);
            }
        }
    }

    /// It is heard of. True: it was not before.
    pub fn activate(&self) -> bool {
        if self.active_since.get().is_some() {
            return false;
        }
        log!(Info, "peer became active", "peer-id" = hex(self.id));
        self.active_since.set(Some(runtime::now_ms()));
        self.metrics.active.set(1);
        true
    }

    /// It could not be reached, or was lost. True: it was active before.
    pub fn deactivate(&self, source: &str, action: &str, why: &str) -> bool {
        if self.active_since.take().is_none() {
            let error = format!("failed to {action} {:x} on {source} ({why})", self.id);
            log!(Debug, "peer deactivated again", "peer-id" = hex(self.id), "error" = error);
            return false;
        }
        self.metrics.active.set(0);
        self.metrics.disconnected.increment();
        let error = format!("failed to {action} {:x} on {source} ({why})", self.id);
        log!(Warn, "peer became inactive (message send to peer failed)", "peer-id" = hex(self.id), "error" = error);
        true
    }
}
