//! Calls that come by another way than HTTP/2, from within the process. To the handler such a call is like any other, and it
//! is counted like any other; here is what `call` and `stream` do for HTTP/2, without its frames. Who has made the call polls
//! it: what nobody takes is not made, and a call that is dropped has ended.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Call, Drain, Frame, Handler, LocalBoxFuture, Origin, Parts, Route, Settings, Unary,
    call::{PanicEndsProcess, Timer},
    stream::{self, Gone},
    traced::Traced,
};
use crate::{
    error::{self, Code, Status},
    limits, runtime,
    wire::frame::PREFIX_BYTES,
};

/// Where such calls go: the handler of a shard, with the settings and the end that its other calls have.
#[derive(Clone)]
pub struct Local {
    pub handler: Rc<dyn Handler>,
    pub settings: Rc<Settings>,
    pub drain: Drain,
}

/// The messages of a caller, one after another.
pub trait Messages {
    /// The next message; None once there are no more. An error ends the call with that status.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>>;
}

/// One message and no more.
struct Once(Option<Bytes>);

impl Messages for Once {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

impl Local {
    /// Calls a method of one message and one answer.
    pub fn unary(&self, route: Route, mut call: Call, message: Bytes) -> LocalCall {
        if let Err(status) = self.admit(&call).and_then(|()| admit_len(&self.settings, message.len())) {
            return LocalCall::refused(self, route, status);
        }
        let mut begun = LocalCall::new(self, route, &mut call, Box::new(Once(None)));
        let channel = begun.channel.clone();
        self.settings.count_started(route.method);
        self.settings.count_received(route.method, message.len());
        let guard = PanicEndsProcess;
        let outcome = self.handler.clone().unary(route.method, call, message);
        let served = match outcome {
            Unary::Ready(outcome) => Served::Answer(Box::pin(std::future::ready(outcome))),
            Unary::Later(later) => Served::Answer(later),
            Unary::InParts(make) => Served::Stream(make(Box::new(OneReply { channel, begun: false }))),
        };
        std::mem::forget(guard);
        begun.served = Some(served);
        begun
    }

    /// Calls a streaming method with one message.
    pub fn stream_of(&self, route: Route, call: Call, message: Bytes) -> LocalCall {
        self.stream(route, call, Box::new(Once(Some(message))))
    }

    /// Calls a streaming method.
    pub fn stream(&self, route: Route, mut call: Call, messages: Box<dyn Messages>) -> LocalCall {
        if let Err(status) = self.admit(&call) {
            return LocalCall::refused(self, route, status);
        }
        let mut begun = LocalCall::new(self, route, &mut call, messages);
        self.settings.count_started(route.method);
        let (requests, replies) = stream::local_halves(&begun.channel, &self.drain);
        let guard = PanicEndsProcess;
        let served = self.handler.clone().stream(route.method, call, requests, replies);
        std::mem::forget(guard);
        begun.served = Some(Served::Stream(served));
        begun
    }

    fn admit(&self, call: &Call) -> Result<(), Status> {
        match call.deadline.is_some_and(|deadline| deadline <= runtime::now()) {
            true => Err(error::DEADLINE_EXCEEDED),
            false => Ok(()),
        }
    }
}

/// The bound that `inbound` sets to messages, in the same words.
fn admit_len(settings: &Settings, len: usize) -> Result<(), Status> {
    match len > settings.max_message_bytes() {
        true => Err(error::received_too_large(len, settings.max_message_bytes())),
        false => Ok(()),
    }
}

/// What is being served.
enum Served {
    Answer(LocalBoxFuture<Result<Frame, Status>>),
    Stream(LocalBoxFuture<Result<(), Status>>),
}

/// A call as its maker has it. Dropped before its end, it counts as given up.
pub struct LocalCall {
    served: Option<Served>,
    timer: Timer,
    channel: Rc<Channel>,
    began: Instant,
    /// Ends with the call.
    traced: Option<Box<Traced>>,
    /// How it has ended.
    status: Option<Status>,
}

impl LocalCall {
    fn new(local: &Local, route: Route, call: &mut Call, messages: Box<dyn Messages>) -> Self {
        local.settings.counters.requests_active.add(1);
        // Reads count from the last look at the clock on, and nothing has looked at it for this call.
        let began = runtime::now();
        let channel = Rc::new(Channel {
            settings: local.settings.clone(),
            method: route.method,
            messages: RefCell::new(messages),
            queue: RefCell::default(),
            queued: Cell::new(0),
            room: RefCell::default(),
            gone: Cell::new(false),
            failed: RefCell::default(),
        });
        let traced = Traced::begin(&local.settings, route.method, &call.metadata, &call.origin);
        call.span = traced.as_ref().map(|traced| traced.span.clone());
        LocalCall { served: None, timer: Timer::new(call.deadline), channel, began, traced, status: None }
    }

    /// One that never reaches the handler.
    fn refused(local: &Local, route: Route, status: Status) -> Self {
        let mut call = Call { metadata: Default::default(), origin: Origin::default(), deadline: None, span: None };
        let mut refused = LocalCall::new(local, route, &mut call, Box::new(Once(None)));
        refused.status = Some(status);
        refused
    }

    /// The next part of what the handler sends: messages, each with its prefix, cut anywhere. None at the end of a call that
    /// has ended well, else its status; both come again when asked again.
    pub fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if let Some(part) = self.channel.take() {
            return Poll::Ready(Ok(Some(part)));
        }
        if let Poll::Ready(status) = self.poll_served(context) {
            self.end(status);
        }
        if let Some(part) = self.channel.take() {
            return Poll::Ready(Ok(Some(part)));
        }
        match &self.status {
            None => Poll::Pending,
            Some(status) if status.is_ok() => Poll::Ready(Ok(None)),
            Some(status) => Poll::Ready(Err(status.clone())),
        }
    }

    fn poll_served(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let Some(served) = &mut self.served else { return Poll::Pending };
        let guard = PanicEndsProcess;
        let outcome = match served {
            Served::Answer(answer) => answer.as_mut().poll(context).map(|outcome| outcome.map(Some)),
            Served::Stream(served) => served.as_mut().poll(context).map(|outcome| outcome.map(|()| None)),
        };
        std::mem::forget(guard);
        let failed = |channel: &Channel| channel.failed.borrow_mut().take();
        match outcome {
            Poll::Ready(Ok(frame)) => {
                if let Some(frame) = frame {
                    // Nobody but this call can have said that it is gone.
                    let _ = self.channel.send([frame.seal()]);
                }
                Poll::Ready(failed(&self.channel).unwrap_or(Status::OK))
            }
            Poll::Ready(Err(status)) => Poll::Ready(failed(&self.channel).unwrap_or(status)),
            Poll::Pending => self.timer.poll(context).map(|()| error::DEADLINE_EXCEEDED),
        }
    }

    fn end(&mut self, status: Status) {
        self.channel.gone.set(true);
        // The handler goes first, and nothing it does while going reaches the caller.
        self.served = None;
        self.channel.settings.count_handled(self.channel.method, status.code, self.began);
        if let Some(mut traced) = self.traced.take() {
            traced.note(&status);
        }
        self.channel.wake();
        self.status = Some(status);
    }
}

impl Drop for LocalCall {
    fn drop(&mut self) {
        if self.served.is_some() {
            self.end(Status::fixed(Code::Canceled, ""));
        }
        self.channel.settings.counters.requests_active.add(-1);
    }
}

/// What the handler of a call and its maker have in common.
pub(super) struct Channel {
    settings: Rc<Settings>,
    method: u16,
    messages: RefCell<Box<dyn Messages>>,
    queue: RefCell<VecDeque<Bytes>>,
    queued: Cell<usize>,
    /// Who waits for room in the queue.
    room: RefCell<Option<Waker>>,
    gone: Cell<bool>,
    /// What is wrong with the caller's messages: that becomes the call's status, whatever the handler says.
    failed: RefCell<Option<Status>>,
}

impl Channel {
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(status) = &*self.failed.borrow() {
            return Poll::Ready(Some(Err(status.clone())));
        }
        let next = self.messages.borrow_mut().poll_next(context);
        let admitted = match next {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(next)) => {
                next.and_then(|message| admit_len(&self.settings, message.len()).map(|()| message))
            }
        };
        match &admitted {
            Ok(message) => self.settings.count_received(self.method, message.len()),
            Err(status) => *self.failed.borrow_mut() = Some(status.clone()),
        }
        Poll::Ready(Some(admitted))
    }

    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.gone.get() {
            return Poll::Ready(Err(Gone));
        }
        if self.queued.get() < limits::GRPC_REPLY_QUEUE_BYTES {
            return Poll::Ready(Ok(()));
        }
        *self.room.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Queues a message.
    pub fn send(&self, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        let before = self.queued.get();
        parts.into_iter().try_for_each(|part| self.queue_part(part))?;
        let len = self.queued.get() - before;
        self.settings.count_sent(self.method, len - PREFIX_BYTES);
        Ok(())
    }

    pub fn queued(&self) -> usize {
        self.queued.get()
    }

    fn queue_part(&self, part: Bytes) -> Result<(), Gone> {
        if self.gone.get() {
            return Err(Gone);
        }
        self.queued.set(self.queued.get() + part.len());
        self.queue.borrow_mut().push_back(part);
        Ok(())
    }

    fn take(&self) -> Option<Bytes> {
        let part = self.queue.borrow_mut().pop_front()?;
        self.queued.set(self.queued.get() - part.len());
        if self.queued.get() < limits::GRPC_REPLY_QUEUE_BYTES {
            self.wake();
        }
        Some(part)
    }

    fn wake(&self) {
        if let Some(waiting) = self.room.take() {
            waiting.wake();
        }
    }
}

/// The reply of a unary call that is sent in parts.
struct OneReply {
    channel: Rc<Channel>,
    begun: bool,
}

impl Parts for OneReply {
    fn takes_parts(&self) -> bool {
        true
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.channel.poll_ready(context)
    }

    fn send_part(&mut self, part: Bytes) -> Result<(), Gone> {
        if !std::mem::replace(&mut self.begun, true) {
            return self.channel.send([part]);
        }
        self.channel.settings.counters.client_sent_bytes.add(part.len() as u64);
        self.channel.queue_part(part)
    }
}
