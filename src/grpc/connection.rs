//! One connection from its preface to its end. Its task has turns: read what has come, begin the calls that it opened,
//! answer what can be answered at once, write everything in one call. Beside that it watches over the connection's
//! life: keepalive in both directions, drain, and the time it may take.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Drain, Handler, Origin, Settings, Within,
    call::{self, Timer},
    drain,
    link::Link,
};
use crate::{limits, runtime};

/// At the end a client has this long to take the last bytes and close its side before the socket is closed (grpc-go:
/// one second).
const LINGER: Duration = Duration::from_secs(1);

/// Buffers in one send: parts that are referenced are of 2 KiB at least, so that this holds all that is gathered.
const SEND_BUFFERS: usize = 88;

/// Serves the calls of one connection until it ends: closed by the client, broken, drained, or ended for what the
/// client did. `io` is at the first byte of the HTTP/2 preface; `origin` is said with each of the calls, `within` takes
/// requests that are not gRPC.
///
/// A panic of the handler ends the process.
pub async fn serve<T>(
    io: T,
    origin: Origin,
    within: Option<Within>,
    handler: Rc<dyn Handler>,
    settings: Rc<Settings>,
    drain: Drain,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let counters = settings.counters.clone();
    counters.connections.add(1);
    let mut connection = Connection::new(io, origin, within, handler, settings, drain);
    let end = poll_fn(|context| connection.poll(context)).await;
    // Before lingering: this ends all calls.
    connection.link.with(|http2| http2.close());
    if end == End::Closed {
        let mut timer = Timer::after(LINGER);
        poll_fn(|context| match connection.poll_linger(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => timer.poll(context),
        })
        .await;
    }
    counters.connections.add(-1);
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By agreement, or by an error that the client has been or is yet to be told of.
    Closed,
    /// It took too long.
    Forced,
}

struct Connection<T> {
    io: T,
    link: Rc<Link>,
    handler: Rc<dyn Handler>,
    drain: Drain,
    draining: drain::Waiter,
    clock: Clock,
    /// Wakes the task when something is due, or earlier.
    alarm: Option<(Instant, Timer)>,
}

/// What becomes due in the life of a connection.
struct Clock {
    /// By then the prefaces have to be exchanged.
    handshake: Option<Instant>,
    /// By then a drained connection has to be done.
    drained: Option<Instant>,
    /// A connection on which nothing has been read for that long is asked whether it is alive. Zero: never.
    interval: Duration,
    timeout: Duration,
    /// When the question in flight was asked.
    asked: Option<Instant>,
}

thread_local! {
    /// What all connections of an executor read into, one after another. Nothing stays in it: a silent connection has
    /// no buffer.
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    fn new(
        io: T,
        origin: Origin,
        within: Option<Within>,
        handler: Rc<dyn Handler>,
        settings: Rc<Settings>,
        drain: Drain,
    ) -> Self {
        let link = Rc::new(Link::new(settings, origin, within));
        let handshake = link.arrived.get() + Duration::from_secs(limits::GRPC_HANDSHAKE_SECONDS);
        Connection {
            io,
            draining: drain.waiter(),
            clock: Clock {
                handshake: Some(handshake),
                drained: None,
                interval: link.settings.keepalive_interval,
                timeout: link.settings.keepalive_timeout,
                asked: None,
            },
            alarm: None,
            link,
            handler,
            drain,
        }
    }

    /// One turn.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.link.begin_turn(context);
        if self.poll_due(context).is_ready() {
            return Poll::Ready(End::Forced);
        }
        let received = self.receive(context);
        let sent = match self.send(context) {
            Poll::Ready(Ok(sent)) => Some(sent),
            Poll::Ready(Err(_)) => return Poll::Ready(End::Closed),
            Poll::Pending => None,
        };
        let done = self.link.with(|http2| {
            http2.end_turn();
            http2.is_ended() || (http2.is_drained() && !http2.wants_to_send())
        });
        if done || received == Received::End {
            return Poll::Ready(End::Closed);
        }
        self.link.end_turn();
        // Nobody else will ask for the next turn.
        if sent == Some(Sent::More) || (sent.is_some() && received == Received::More) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads what has come and begins what it asks for, within a turn's bound, and as long as the client takes what it
    /// is owed.
    fn receive(&mut self, context: &mut Context<'_>) -> Received {
        self.link.with(|http2| http2.begin_turn());
        let mut buffer = READ.take();
        buffer.resize(limits::GRPC_TURN_BYTES, 0);
        let received = self.receive_into(&mut buffer, context);
        READ.set(buffer);
        received
    }

    fn receive_into(&mut self, buffer: &mut [u8], context: &mut Context<'_>) -> Received {
        let mut left = limits::GRPC_TURN_BYTES;
        loop {
            let (owed, ended) = self.link.with(|http2| (http2.output().len(), http2.is_ended()));
            if ended {
                return Received::All;
            }
            if left == 0 || owed >= limits::GRPC_WRITE_BYTES {
                return Received::More;
            }
            let mut read = ReadBuf::new(&mut buffer[..left]);
            match Pin::new(&mut self.io).poll_read(context, &mut read) {
                Poll::Pending => return Received::All,
                Poll::Ready(Err(_)) => return Received::End,
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Received::End,
                Poll::Ready(Ok(())) => {}
            }
            left -= read.filled().len();
            let now = runtime::now();
            self.link.arrived.set(now);
            self.link.with(|http2| http2.receive(read.filled(), now));
            while let Some((key, head)) = self.link.with(|http2| http2.take_request()) {
                call::begin(key, head, &self.handler, &self.link, &self.drain);
            }
        }
    }

    /// Writes what there is, within a turn's bound.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Sent>> {
        let Connection { io, link, .. } = self;
        let mut left = limits::GRPC_TURN_SEND_BYTES;
        link.with(|http2| {
            loop {
                http2.fill();
                let output = http2.output();
                if output.is_empty() {
                    break;
                }
                let io = Pin::new(&mut *io);
                let sent = match output.only() {
                    Some(bytes) => ready!(io.poll_write(context, bytes))?,
                    None => {
                        let mut slices = [IoSlice::new(&[]); SEND_BUFFERS];
                        let filled = output.slices(&mut slices);
                        ready!(io.poll_write_vectored(context, &slices[..filled]))?
                    }
                };
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                output.advance(sent);
                if sent >= left {
                    return Poll::Ready(Ok(Sent::More));
                }
                left -= sent;
            }
            ready!(Pin::new(io).poll_flush(context))?;
            Poll::Ready(Ok(Sent::All))
        })
    }

    /// Sees to what is due. Ready: the connection has taken too long.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = runtime::now();
        let open = self.link.with(|http2| http2.is_open());
        if self.clock.drained.is_none() && self.draining.poll(context).is_ready() {
            if !open {
                return Poll::Ready(());
            }
            self.link.with(|http2| http2.drain());
            self.clock.drained = Some(now + self.link.settings.drain_grace);
        }
        if open {
            self.clock.handshake = None;
        }
        loop {
            let Some(due) = self.clock.due(self.link.arrived.get()) else { return Poll::Pending };
            if due <= now {
                match self.clock.act(now, self.link.arrived.get()) {
                    Act::Close => return Poll::Ready(()),
                    Act::Ask => self.link.with(|http2| http2.ping()),
                    Act::Wait => {}
                }
                continue;
            }
            // An alarm that rings too early does no harm, and most are put off with everything that is read.
            let soon = now + Duration::from_millis(limits::SHARD_TICK_MS);
            if self.alarm.as_ref().is_none_or(|(at, _)| *at > due || *at <= soon) {
                let mut timer = Timer::new(Some(due));
                if timer.poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                self.alarm = Some((due, timer));
            }
            return Poll::Pending;
        }
    }

    /// Writes out what is left, says that no more will come, and reads on until the client has closed its side too:
    /// a socket closed with bytes unread would take the last ones written with it.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while ready!(self.send(context))? == Sent::More {}
        ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
        let mut scratch = [0; 4096];
        for _ in 0..limits::GRPC_TURN_BYTES / scratch.len() {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// What there was.
    All,
    /// As much as a turn may; there may be more.
    More,
    /// The client has closed its side, or the connection is lost.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    More,
}

/// What is to be done when something is due.
enum Act {
    Close,
    Ask,
    Wait,
}

impl Clock {
    /// When something is next due, `read_at` being when something was last read.
    fn due(&self, read_at: Instant) -> Option<Instant> {
        let alive = match self.asked {
            _ if self.interval.is_zero() => None,
            Some(asked) => asked.checked_add(self.timeout),
            None => read_at.checked_add(self.interval),
        };
        [self.handshake, self.drained, alive].into_iter().flatten().min()
    }

    fn act(&mut self, now: Instant, read_at: Instant) -> Act {
        if [self.handshake, self.drained].into_iter().flatten().any(|due| due <= now) {
            return Act::Close;
        }
        match self.asked {
            Some(asked) if read_at < asked => Act::Close,
            Some(_) => {
                self.asked = None;
                Act::Wait
            }
            None => {
                self.asked = Some(now);
                Act::Ask
            }
        }
    }
}
