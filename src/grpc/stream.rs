//! The two halves of a streaming call as a handler sees them, and the task that serves it. The task ends the handler
//! when its deadline has passed or its caller is gone; it never reads a message itself.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;

pub use super::http2::Gone;
use super::{
    Call, Drain, Handler, InParts, LocalBoxFuture, Parts,
    call::{Answer, PanicEndsProcess, Timer},
    drain,
    inbound::{Broken, Inbound},
    local,
};
use crate::error::{self, Code, Status};

/// How the messages of a call travel.
enum Way {
    Http2(Rc<Channel>),
    Local(Rc<local::Channel>),
}

/// The messages of the caller, one after another.
pub struct Requests(Way);

impl Requests {
    /// The next message; None once the caller has closed its side. An error ends the call with that status.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        match &self.0 {
            Way::Http2(channel) => channel.poll_next(context),
            Way::Local(channel) => channel.poll_next(context),
        }
    }
}

/// The way back to the caller. Bounded by the stream's and the connection's flow control: a handler that sends
/// without waiting for `poll_ready` is held only by its own count.
pub struct Replies {
    way: Way,
    draining: drain::Waiter,
}

impl Replies {
    /// Ready while less than `limits::GRPC_REPLY_QUEUE_BYTES` of what was sent before waits for flow control, so that
    /// at most that and one message is queued.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match &self.way {
            Way::Http2(channel) => channel.poll_ready(context),
            Way::Local(channel) => channel.poll_ready(context),
        }
    }

    /// Queues a sealed message, in one part or several (`Frame::seal_before`). The first sends the headers, too.
    pub fn send(&mut self, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        match &self.way {
            Way::Http2(channel) => channel.send(|answer| answer.send_parts(parts)),
            Way::Local(channel) => channel.send(parts),
        }
    }

    /// Bytes queued in this stream that flow control has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        match &self.way {
            Way::Http2(channel) => channel.answer.borrow().queued(),
            Way::Local(channel) => channel.queued(),
        }
    }

    /// Ready once the shard is to be emptied: the handler has to end the call, with the status that befits it.
    pub fn poll_draining(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.draining.poll(context)
    }
}

/// Both halves of a call that is served without HTTP/2.
pub(super) fn local_halves(channel: &Rc<local::Channel>, drain: &Drain) -> (Requests, Replies) {
    let replies = Replies { way: Way::Local(channel.clone()), draining: drain.waiter() };
    (Requests(Way::Local(channel.clone())), replies)
}

/// The replies of a unary call: parts of one.
struct OneReply {
    channel: Rc<Channel>,
    begun: bool,
}

impl Parts for OneReply {
    fn takes_parts(&self) -> bool {
        self.channel.answer.borrow().takes_parts()
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.channel.poll_ready(context)
    }

    fn send_part(&mut self, part: Bytes) -> Result<(), Gone> {
        if !std::mem::replace(&mut self.begun, true) {
            return self.channel.send(|answer| answer.send_parts([part]));
        }
        self.channel.send(|answer| answer.send_more(part))
    }
}

/// What a streaming call's handler and its task have in common.
struct Channel {
    inbound: RefCell<Inbound>,
    answer: RefCell<Answer>,
    gone: Cell<bool>,
    /// What is wrong with the caller's messages: that becomes the call's status, whatever the handler says.
    failed: RefCell<Option<Status>>,
}

impl Channel {
    fn new(inbound: Inbound, answer: Answer) -> Self {
        Channel {
            inbound: RefCell::new(inbound),
            answer: RefCell::new(answer),
            gone: Cell::new(false),
            failed: RefCell::new(None),
        }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(status) = &*self.failed.borrow() {
            return Poll::Ready(Some(Err(status.clone())));
        }
        let next = self.inbound.borrow_mut().poll_next(context);
        let status = match next {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Ok(message))) => {
                self.answer.borrow().count_received(message.len());
                return Poll::Ready(Some(Ok(message)));
            }
            // The call's task knows it too and ends the call.
            Poll::Ready(Some(Err(Broken::Reset))) => error::CONTEXT_CANCELED,
            Poll::Ready(Some(Err(Broken::Cut))) => Status::fixed(Code::Internal, "unexpected EOF"),
            Poll::Ready(Some(Err(Broken::Refused(status)))) => status,
            Poll::Pending => return Poll::Pending,
        };
        *self.failed.borrow_mut() = Some(status.clone());
        Poll::Ready(Some(Err(status)))
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.gone.get() {
            return Poll::Ready(Err(Gone));
        }
        self.answer.borrow().poll_room(context).map(Ok)
    }

    /// Sends something, unless the stream is gone, which is remembered.
    fn send(&self, what: impl FnOnce(&mut Answer) -> Result<(), Gone>) -> Result<(), Gone> {
        if self.gone.get() {
            return Err(Gone);
        }
        what(&mut self.answer.borrow_mut()).inspect_err(|_| self.gone.set(true))
    }
}

/// How a call came to its end.
enum End {
    Gone,
    Late,
    Served(Result<(), Status>),
}

pub(super) fn begin(handler: &Rc<dyn Handler>, call: Call, inbound: Inbound, answer: Answer, drain: &Drain) {
    let method = answer.method();
    answer.count_started();
    let timer = Timer::new(call.deadline);
    let channel = Rc::new(Channel::new(inbound, answer));
    let requests = Requests(Way::Http2(channel.clone()));
    let replies = Replies { way: Way::Http2(channel.clone()), draining: drain.waiter() };
    let guard = PanicEndsProcess;
    let served = handler.clone().stream(method, call, requests, replies);
    std::mem::forget(guard);
    crate::runtime::spawn(run(served, timer, channel));
}

/// The rest of a unary call whose message has been read and whose answer is made in parts.
pub(super) fn answer_in_parts(
    make: InParts,
    deadline: Option<Instant>,
    inbound: Inbound,
    answer: Answer,
) -> impl Future<Output = ()> + 'static {
    let channel = Rc::new(Channel::new(inbound, answer));
    let guard = PanicEndsProcess;
    let served = make(Box::new(OneReply { channel: channel.clone(), begun: false }));
    std::mem::forget(guard);
    run(served, Timer::new(deadline), channel)
}

async fn run(mut served: LocalBoxFuture<Result<(), Status>>, mut timer: Timer, channel: Rc<Channel>) {
    let end = poll_fn(|context| {
        if channel.answer.borrow_mut().poll_gone(context).is_ready() {
            return Poll::Ready(End::Gone);
        }
        let guard = PanicEndsProcess;
        let outcome = served.as_mut().poll(context);
        std::mem::forget(guard);
        match outcome {
            Poll::Ready(outcome) => Poll::Ready(End::Served(outcome)),
            Poll::Pending => timer.poll(context).map(|()| End::Late),
        }
    })
    .await;
    // The handler goes first, and nothing it does while going reaches the caller.
    channel.gone.set(true);
    drop(served);
    let failed = channel.failed.borrow_mut().replace(error::CONTEXT_CANCELED);
    let mut answer = channel.answer.borrow_mut();
    let code = match end {
        End::Gone => Code::Canceled,
        End::Late => {
            if answer.queued() == 0 {
                answer.finish(error::DEADLINE_EXCEEDED);
            } else {
                // The status would wait behind what the caller does not take.
                answer.cancel(&error::DEADLINE_EXCEEDED);
            }
            Code::DeadlineExceeded
        }
        End::Served(outcome) => {
            let status = failed.or(outcome.err()).unwrap_or(Status::OK);
            let code = status.code;
            answer.finish(status);
            code
        }
    };
    answer.count_handled(code);
    // A handler may have given its halves to other tasks.
    answer.wake_all();
}
