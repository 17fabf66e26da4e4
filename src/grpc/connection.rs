//! One connection from its preface to its end. Its task gives h2 turns: read what has come, accept what it opened,
//! answer what can be answered at once, write everything in one call. Beside that it watches over the connection's
//! life: keepalive in both directions, drain, and the time it may take.

use std::{
    future::{Future, poll_fn},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use h2::{
    Ping, PingPong, RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Drain, Handler, Settings,
    call::{self, Timer},
    drain,
    payload::Payload,
    wire::{Link, Wire},
};
use crate::limits;

/// At the end a client has this long to take the last bytes and close its side before the socket is closed (grpc-go:
/// one second).
const LINGER: Duration = Duration::from_secs(1);

/// Serves the calls of one connection until it ends: closed by the client, broken, drained, or ended for what the
/// client did. `io` is at the first byte of the HTTP/2 preface.
///
/// A panic of the handler ends the process.
pub async fn serve<T>(io: T, handler: Rc<dyn Handler>, settings: Rc<Settings>, drain: Drain)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let counters = settings.counters.clone();
    counters.connections.add(1);
    let link = Rc::new(Link::new(settings));
    let wire = Wire::new(io, link.clone());
    if let Some(h2) = handshake(&wire, &link.settings, &drain).await {
        let mut connection = Connection::new(h2, wire.clone(), handler, link, drain);
        let end = poll_fn(|context| connection.poll(context)).await;
        // Before lingering: this ends all calls.
        drop(connection);
        if end == End::SentAway {
            wire.send_away();
        }
        if end != End::Forced {
            let mut timer = Timer::after(LINGER);
            poll_fn(|context| match wire.poll_linger(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => timer.poll(context),
            })
            .await;
        }
    }
    counters.connections.add(-1);
}

type H2<T> = server::Connection<Wire<T>, Payload>;

/// Exchanges prefaces; None: there was no HTTP/2 client at the other end, it took too long, or the shard is to be
/// emptied.
async fn handshake<T>(wire: &Wire<T>, settings: &Settings, drain: &Drain) -> Option<H2<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(limits::GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::GRPC_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(settings.max_header_bytes)
        .max_send_buffer_size(limits::GRPC_SEND_BUFFER_BYTES)
        .data_frame_budget(limits::GRPC_DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(limits::GRPC_RESET_STREAMS)
        .max_pending_accept_reset_streams(limits::GRPC_PENDING_RESET_STREAMS)
        .max_local_error_reset_streams(Some(limits::GRPC_STREAM_ERRORS));
    if settings.max_concurrent_streams != u32::MAX {
        builder.max_concurrent_streams(settings.max_concurrent_streams);
    }
    let mut handshake = Box::pin(builder.handshake(wire.clone()));
    let mut timer = Timer::after(Duration::from_secs(limits::GRPC_HANDSHAKE_SECONDS));
    let mut draining = drain.waiter();
    poll_fn(|context| {
        wire.begin_turn();
        let shaken = handshake.as_mut().poll(context);
        if wire.yielded() {
            context.waker().wake_by_ref();
        }
        if let Poll::Ready(Err(_)) = wire.poll_send(context) {
            return Poll::Ready(None);
        }
        match shaken {
            Poll::Ready(h2) => Poll::Ready(h2.ok()),
            Poll::Pending if draining.poll(context).is_ready() => Poll::Ready(None),
            Poll::Pending => timer.poll(context).map(|()| None),
        }
    })
    .await
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By agreement, or by an error that the client has been told of.
    Closed,
    /// It pinged too often: it is yet to be told so.
    SentAway,
    /// It took too long.
    Forced,
}

struct Connection<T> {
    h2: H2<T>,
    wire: Wire<T>,
    handler: Rc<dyn Handler>,
    link: Rc<Link>,
    drain: Drain,
    draining: Draining,
    keepalive: Keepalive,
    accepted: Vec<(Request<RecvStream>, SendResponse<Payload>)>,
    waker: Option<TurnWaker>,
}

enum Draining {
    NotYet(drain::Waiter),
    Since(Timer),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    fn new(mut h2: H2<T>, wire: Wire<T>, handler: Rc<dyn Handler>, link: Rc<Link>, drain: Drain) -> Self {
        let pings = h2.ping_pong().expect("nobody has taken it before");
        Connection {
            keepalive: Keepalive::new(pings, &link.settings),
            draining: Draining::NotYet(drain.waiter()),
            h2,
            wire,
            handler,
            link,
            drain,
            accepted: Vec::new(),
            waker: None,
        }
    }

    /// One turn.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let waker = match self.waker.take() {
            Some(waker) if waker.wakes(context.waker()) => waker,
            _ => TurnWaker::new(context.waker().clone()),
        };
        let end = self.turn(context, &waker);
        self.waker = Some(waker);
        end
    }

    fn turn(&mut self, context: &mut Context<'_>, waker: &TurnWaker) -> Poll<End> {
        self.wire.begin_turn();
        if self.poll_draining(context).is_ready() || self.keepalive.poll(context, self.link.arrived.get()).is_ready() {
            return Poll::Ready(End::Forced);
        }
        let closed = loop {
            waker.begin();
            let closed = self.accept(waker);
            let idle = self.accepted.is_empty();
            for (request, respond) in self.accepted.drain(..) {
                call::begin(request, respond, &self.handler, &self.link, &self.drain);
            }
            if closed || self.wire.too_many_pings() || (idle && !waker.woken()) {
                break closed;
            }
        };
        if waker.end() || self.wire.yielded() {
            context.waker().wake_by_ref();
        }
        if self.wire.too_many_pings() {
            return Poll::Ready(End::SentAway);
        }
        match self.wire.poll_send(context) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Closed),
            Poll::Ready(Ok(())) if closed => Poll::Ready(End::Closed),
            Poll::Ready(Ok(())) => {
                if self.wire.refused() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets h2 read and write; true: the connection has come to its end.
    fn accept(&mut self, waker: &TurnWaker) -> bool {
        let waker = waker.waker();
        let mut context = Context::from_waker(&waker);
        loop {
            match self.h2.poll_accept(&mut context) {
                Poll::Ready(Some(Ok(accepted))) => self.accepted.push(accepted),
                Poll::Ready(Some(Err(_)) | None) => return true,
                Poll::Pending => return false,
            }
        }
    }

    /// Ready once the time for draining is over.
    fn poll_draining(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Draining::NotYet(waiter) = &mut self.draining {
            ready!(waiter.poll(context));
            self.h2.graceful_shutdown();
            self.draining = Draining::Since(Timer::after(self.link.settings.drain_grace));
        }
        match &mut self.draining {
            Draining::NotYet(_) => Poll::Pending,
            Draining::Since(timer) => timer.poll(context),
        }
    }
}

/// Our own pings: a connection on which nothing has been read for an interval is asked whether it is alive.
struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    /// When the ping in flight was sent.
    asked: Option<Instant>,
    timer: Timer,
}

impl Keepalive {
    fn new(pings: PingPong, settings: &Settings) -> Self {
        let interval = settings.keepalive_interval;
        let timer = if interval.is_zero() { Timer::new(None) } else { Timer::after(interval) };
        Keepalive { pings, interval, timeout: settings.keepalive_timeout, asked: None, timer }
    }

    /// Ready once the client has been silent for too long.
    fn poll(&mut self, context: &mut Context<'_>, read_at: Instant) -> Poll<()> {
        // Taken whether or not it is needed: until then h2 sends no other.
        let _ = self.pings.poll_pong(context);
        while self.timer.poll(context).is_ready() {
            match self.asked {
                Some(asked) if read_at < asked => return Poll::Ready(()),
                None if read_at + self.interval <= Instant::now() => {
                    // An error says that the last one is still unanswered, though something else has been read since.
                    let _ = self.pings.send_ping(Ping::opaque());
                    self.asked = Some(Instant::now());
                    self.timer = Timer::after(self.timeout);
                }
                _ => {
                    self.asked = None;
                    self.timer = Timer::new(read_at.checked_add(self.interval));
                }
            }
        }
        Poll::Pending
    }
}

/// Wakes the connection's task, except within its own turn: what a turn itself sets in motion it sees through before
/// it ends, and need not be woken for it again.
struct TurnWaker(Arc<Turn>);

struct Turn {
    task: Waker,
    running: AtomicBool,
    woken: AtomicBool,
}

impl TurnWaker {
    fn new(task: Waker) -> Self {
        TurnWaker(Arc::new(Turn { task, running: AtomicBool::new(false), woken: AtomicBool::new(false) }))
    }

    fn wakes(&self, task: &Waker) -> bool {
        self.0.task.will_wake(task)
    }

    fn waker(&self) -> Waker {
        Waker::from(self.0.clone())
    }

    fn begin(&self) {
        self.0.woken.store(false, Ordering::SeqCst);
        self.0.running.store(true, Ordering::SeqCst);
    }

    fn woken(&self) -> bool {
        self.0.woken.load(Ordering::SeqCst)
    }

    /// True: something has happened that the turn has not seen through.
    fn end(&self) -> bool {
        self.0.running.store(false, Ordering::SeqCst);
        self.woken()
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Sound from other threads, too: either the turn sees that it was woken or the waker that the turn is over.
    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) {
            self.task.wake_by_ref();
        }
    }
}
