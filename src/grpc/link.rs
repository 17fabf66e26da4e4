//! What a connection and its calls have in common. Calls reach their streams through it; what they leave to be sent
//! wakes the connection's task once, and not at all while that is having its turn and will see it anyhow.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Instant,
};

use super::{
    Origin, Settings, Within,
    gate::Gate,
    http2::{Config, Connection},
};
use crate::limits;

pub(super) struct Link {
    pub settings: Rc<Settings>,
    pub origin: Origin,
    /// What takes requests that are not gRPC, within TLS.
    pub within: Option<Box<Within>>,
    http2: RefCell<Connection>,
    /// When something was last read.
    pub arrived: Cell<Instant>,
    /// Bytes of messages that are not yet complete but whose window has been given back.
    unfinished: Cell<usize>,
    /// Where calls wait whose answers would be made whole.
    pub unread: Gate,
    /// Where those wait whose answers are made in pieces, and how many are being made.
    pub long: Gate,
    pub long_answers: Cell<usize>,
    task: RefCell<Option<Waker>>,
    /// The task is running, or has been woken: it need not be woken.
    awake: Cell<bool>,
}

impl Link {
    pub fn new(settings: Rc<Settings>, origin: Origin, within: Option<Within>) -> Self {
        let config = Config {
            streams_max: settings.max_concurrent_streams.min(limits::GRPC_STREAMS_MAX),
            header_bytes_max: settings.max_header_bytes,
            ping_time_min: settings.keepalive_min_time,
        };
        Link {
            settings,
            origin,
            within: within.map(Box::new),
            http2: RefCell::new(Connection::new(config)),
            arrived: Cell::new(crate::runtime::now()),
            unfinished: Cell::new(0),
            unread: Gate::default(),
            long: Gate::default(),
            long_answers: Cell::new(0),
            task: RefCell::default(),
            awake: Cell::new(true),
        }
    }

    /// Does something with the connection, after which it may have something to send.
    pub fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        let mut http2 = self.http2.borrow_mut();
        let result = act(&mut http2);
        if !self.awake.get() && http2.wants_to_send() {
            self.awake.set(true);
            if let Some(task) = &*self.task.borrow() {
                task.wake_by_ref();
            }
        }
        if self.unread.is_waited_at() && http2.has_room() {
            self.unread.wake_first();
        }
        result
    }

    /// Counts that of an unfinished message `now` bytes are held, where `before` were. False: that is more than may be, and
    /// not counted.
    pub fn hold_unfinished(&self, before: usize, now: usize) -> bool {
        let own = self.unfinished.get() - before + now;
        let all = self.settings.unfinished.get() - before + now;
        if now > before && (own > limits::GRPC_UNFINISHED_BYTES || all > limits::UNFINISHED_BYTES) {
            return false;
        }
        self.unfinished.set(own);
        self.settings.unfinished.set(all);
        true
    }

    /// The connection's task begins a turn.
    pub fn begin_turn(&self, context: &Context<'_>) {
        self.awake.set(true);
        match &mut *self.task.borrow_mut() {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    /// It has written what it could.
    pub fn end_turn(&self) {
        self.awake.set(false);
    }
}
