//! One call from its head to its status. A unary call whose message has come and whose answer is there at once is
//! served on the spot, within the connection's turn; everything else gets one task of its own, which ends with the
//! call, with its deadline, or with its stream.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Call, Drain, Frame, Handler, InParts, LocalBoxFuture, Shape, Unary,
    encoding::{self, Encoding},
    gate::{Room, Seat},
    http2::{Gone, Head, Key, Reason, Text},
    inbound::{Broken, Inbound},
    link::Link,
    plain,
    request::{self, Order},
    response, stream,
    traced::Traced,
};
use crate::{
    error::{self, Code, Status},
    limits, runtime,
    wire::frame::PREFIX_BYTES,
};

/// Serves a request that has come.
pub(super) fn begin(key: Key, head: Head, handler: &Rc<dyn Handler>, link: &Rc<Link>, drain: &Drain) {
    if link.within.as_ref().is_some_and(|within| !within.takes_grpc) {
        return plain::begin(key, head, link);
    }
    let order = match request::judge(&head, link.arrived.get(), &**handler) {
        Ok(order) => order,
        Err(_) if link.within.is_some() && !request::is_grpc(&head) && plain::is_served(link) => {
            return plain::begin(key, head, link);
        }
        Err(refusal) => {
            link.with(|http2| {
                http2.send_only_head(key, |encoder, out| response::put_refusal(encoder, out, &refusal));
                http2.let_go(key);
            });
            return;
        }
    };
    let traced = Traced::begin(&link.settings, order.route.method, &head.metadata, &link.origin);
    let span = traced.as_ref().map(|traced| traced.span.clone());
    let call = Call { metadata: head.metadata, origin: link.origin.clone(), deadline: order.deadline, span };
    let inbound = Inbound::new(link.clone(), key, order.encoding);
    let shape = order.route.shape;
    let answer = Answer::new(link.clone(), key, order, traced);
    match shape {
        Shape::Unary => unary(handler, call, inbound, answer),
        Shape::Stream => stream::begin(handler, call, inbound, answer, drain),
    }
}

/// The way back to the caller of one call: counts it as running as long as it lives.
pub(super) struct Answer {
    link: Rc<Link>,
    key: Key,
    head_sent: bool,
    method: u16,
    content_type: Text,
    encoding: Encoding,
    began: Instant,
    /// Ends with the call.
    traced: Option<Box<Traced>>,
}

impl Answer {
    fn new(link: Rc<Link>, key: Key, order: Order, traced: Option<Box<Traced>>) -> Self {
        link.settings.counters.requests_active.add(1);
        Answer {
            began: link.arrived.get(),
            key,
            head_sent: false,
            method: order.route.method,
            content_type: order.content_type,
            encoding: order.encoding,
            link,
            traced,
        }
    }

    pub fn method(&self) -> u16 {
        self.method
    }

    /// Sends the one message of a call and its status.
    fn reply(&mut self, mut frame: Frame) -> Result<(), Gone> {
        let (key, len) = (self.key, frame.message_len());
        self.send_head()?;
        self.link.with(|http2| {
            match self.encoding {
                // Copied rather than shared: its memory goes back at once.
                Encoding::Identity if len < limits::GRPC_COPIED_BYTES => http2.send_piece(key, frame.sealed())?,
                Encoding::Identity => http2.send_parts(key, [frame.seal()])?,
                Encoding::Gzip => http2.send_parts(key, [encoding::compress([frame.seal()])])?,
            }
            http2.finish(key, &Status::OK);
            Ok(())
        })?;
        self.count_sent(len);
        self.note(&Status::OK);
        Ok(())
    }

    fn note(&mut self, status: &Status) {
        if let Some(traced) = &mut self.traced {
            traced.note(status);
        }
    }

    /// Sends a message in parts, the first with its prefix; before it the head, if it is the first.
    pub fn send_parts(&mut self, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        self.send_head()?;
        let mut len = 0;
        let parts = parts.into_iter().inspect(|part| len += part.len());
        self.link.with(|http2| match self.encoding {
            Encoding::Identity => http2.send_parts(self.key, parts),
            Encoding::Gzip => http2.send_parts(self.key, [encoding::compress(parts)]),
        })?;
        self.count_sent(len - PREFIX_BYTES);
        Ok(())
    }

    /// Whether a message may be sent part by part: not one whose length compression will change.
    pub fn takes_parts(&self) -> bool {
        self.encoding == Encoding::Identity
    }

    /// More of a message that `send_parts` has begun.
    pub fn send_more(&mut self, part: Bytes) -> Result<(), Gone> {
        assert!(self.head_sent, "a message's beginning comes first");
        let len = part.len() as u64;
        self.link.with(|http2| http2.send_parts(self.key, [part]))?;
        self.link.settings.counters.client_sent_bytes.add(len);
        Ok(())
    }

    fn send_head(&mut self) -> Result<(), Gone> {
        if self.head_sent {
            return Ok(());
        }
        self.head_sent = true;
        self.link.with(|http2| {
            http2.send_head(self.key, |encoder, out| {
                response::put_head(encoder, out, &self.content_type, self.encoding);
            })
        })
    }

    fn count_sent(&self, message_len: usize) {
        self.link.settings.count_sent(self.method, message_len);
    }

    pub fn count_started(&self) {
        self.link.settings.count_started(self.method);
    }

    /// Counts a message of the caller's.
    pub fn count_received(&self, message_len: usize) {
        self.link.settings.count_received(self.method, message_len);
    }

    /// Counts the call as ended.
    pub fn count_handled(&self, code: Code) {
        self.link.settings.count_handled(self.method, code, self.began);
    }

    /// Ends the call with a status; a caller that is gone is not told.
    pub fn finish(&mut self, status: Status) {
        self.note(&status);
        self.link.with(|http2| {
            if self.head_sent {
                return http2.finish(self.key, &status);
            }
            let content_type = self.content_type.clone();
            let refusal = response::Refusal { http: 200, content_type, status, tell_encodings: false };
            http2.send_only_head(self.key, |encoder, out| response::put_refusal(encoder, out, &refusal));
        });
        self.head_sent = true;
    }

    /// Ends the call where even a status could not be delivered: what is queued is thrown away.
    pub fn cancel(&mut self, status: &Status) {
        self.note(status);
        self.link.with(|http2| http2.reset(self.key, Reason::Cancel));
    }

    /// Ready once the caller has given up or is gone.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.link.with(|http2| http2.poll_gone(self.key, context))
    }

    /// Bytes sent that wait for flow control.
    pub fn queued(&self) -> usize {
        self.link.with(|http2| http2.queued(self.key))
    }

    /// Ready while less than `limits::GRPC_REPLY_QUEUE_BYTES` wait.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.link.with(|http2| http2.poll_room(self.key, context))
    }

    /// Wakes whoever waits for something of the call's stream.
    pub fn wake_all(&self) {
        self.link.with(|http2| http2.wake_all(self.key));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.link.settings.counters.requests_active.add(-1);
        self.link.with(|http2| http2.let_go(self.key));
    }
}

/// Both halves of a call. The way back is given up last: with it goes the stream.
struct Halves {
    inbound: Inbound,
    answer: Answer,
}

fn unary(handler: &Rc<dyn Handler>, call: Call, mut inbound: Inbound, mut answer: Answer) {
    match inbound.next() {
        Poll::Ready(message) if answer.link.with(|http2| http2.has_room()) => {
            let deadline = call.deadline;
            match answer_at_once(handler, call, message, &mut answer) {
                // The way back is given up last: with it goes the stream.
                Begun::Answered => drop(inbound),
                Begun::Later(later) => {
                    drop(inbound);
                    runtime::spawn(async move { answer_later(later, deadline, answer).await });
                }
                Begun::InParts(make) => {
                    runtime::spawn(answer_in_parts(make, deadline, inbound, answer));
                }
            }
        }
        message => {
            let handler = handler.clone();
            let halves = Halves { inbound, answer };
            runtime::spawn(async move { receive_then_answer(handler, call, message, halves).await });
        }
    }
}

/// How the wait for a message, and for room for its answer, has ended.
enum Received {
    Whole,
    Gone,
    Late,
}

async fn receive_then_answer(
    handler: Rc<dyn Handler>,
    call: Call,
    mut message: Poll<Option<Result<Bytes, Broken>>>,
    mut halves: Halves,
) {
    let deadline = call.deadline;
    let mut timer = Timer::new(deadline);
    let mut room = Room::of(&halves.answer.link);
    let received = poll_fn(|context| {
        if message.is_pending() {
            message = halves.inbound.poll_next(context);
        }
        if message.is_ready() {
            if room.poll(context).is_ready() {
                return Poll::Ready(Received::Whole);
            }
            if halves.answer.poll_gone(context).is_ready() {
                return Poll::Ready(Received::Gone);
            }
        }
        timer.poll(context).map(|()| Received::Late)
    })
    .await;
    let Halves { inbound, mut answer } = halves;
    let message = match (received, message) {
        (Received::Whole, Poll::Ready(message)) => message,
        (Received::Gone, _) => return,
        (Received::Late | Received::Whole, _) => {
            drop(inbound);
            return answer.finish(error::DEADLINE_EXCEEDED);
        }
    };
    drop(room);
    match answer_at_once(&handler, call, message, &mut answer) {
        Begun::Answered => drop(inbound),
        Begun::Later(later) => {
            drop(inbound);
            answer_later(later, deadline, answer).await;
        }
        // A task of its own: most calls that come here need not be as large as one of these.
        Begun::InParts(make) => runtime::spawn(answer_in_parts(make, deadline, inbound, answer)),
    }
}

/// The rest of a call whose answer is made in pieces, once there are not too many others of that kind.
fn answer_in_parts(
    make: InParts,
    deadline: Option<Instant>,
    inbound: Inbound,
    answer: Answer,
) -> impl Future<Output = ()> + 'static {
    let link = answer.link.clone();
    let make: InParts = Box::new(move |replies| {
        Box::pin(async move {
            let _seat = Seat::of(&link).await;
            make(replies).await
        })
    });
    stream::answer_in_parts(make, deadline, inbound, answer)
}

type Answered = LocalBoxFuture<Result<Frame, Status>>;

/// What has come of a call whose message is there.
enum Begun {
    /// Nothing is left to be done.
    Answered,
    Later(Answered),
    InParts(InParts),
}

/// Hands the message to the handler and sends the answer, or returns what has to be waited for.
fn answer_at_once(
    handler: &Rc<dyn Handler>,
    call: Call,
    message: Option<Result<Bytes, Broken>>,
    answer: &mut Answer,
) -> Begun {
    let message = match message {
        Some(Ok(message)) => message,
        Some(Err(Broken::Reset)) => return Begun::Answered,
        Some(Err(Broken::Refused(status))) => {
            answer.finish(status);
            return Begun::Answered;
        }
        // grpc-go hands through what its reader says.
        Some(Err(Broken::Cut)) => {
            answer.finish(Status::fixed(Code::Unknown, "unexpected EOF"));
            return Begun::Answered;
        }
        None => {
            answer.finish(error::NO_UNARY_MESSAGE);
            return Begun::Answered;
        }
    };
    answer.count_started();
    answer.count_received(message.len());
    let guard = PanicEndsProcess;
    let outcome = handler.clone().unary(answer.method, call, message);
    std::mem::forget(guard);
    match outcome {
        Unary::Ready(outcome) => {
            send_outcome(outcome, answer);
            Begun::Answered
        }
        Unary::Later(later) => Begun::Later(later),
        Unary::InParts(make) => Begun::InParts(make),
    }
}

async fn answer_later(mut later: Answered, deadline: Option<Instant>, mut answer: Answer) {
    let mut timer = Timer::new(deadline);
    let mut room = Room::of(&answer.link);
    let outcome = poll_fn(|context| {
        // Its last turn makes the answer.
        if room.poll(context).is_ready() {
            let guard = PanicEndsProcess;
            let outcome = later.as_mut().poll(context);
            std::mem::forget(guard);
            if let Poll::Ready(outcome) = outcome {
                return Poll::Ready(Some(outcome));
            }
        }
        if timer.poll(context).is_ready() {
            return Poll::Ready(Some(Err(error::DEADLINE_EXCEEDED)));
        }
        answer.poll_gone(context).map(|()| None)
    })
    .await;
    // What the handler still holds is let go before the caller is told.
    drop(later);
    match outcome {
        Some(outcome) => send_outcome(outcome, &mut answer),
        None => answer.count_handled(Code::Canceled),
    }
}

fn send_outcome(outcome: Result<Frame, Status>, answer: &mut Answer) {
    let code = match outcome {
        Ok(frame) => {
            // Who is gone need not be told.
            let _ = answer.reply(frame);
            Code::Ok
        }
        Err(status) => {
            let code = status.code;
            answer.finish(status);
            code
        }
    };
    answer.count_handled(code);
}

/// A deadline that is waited for; costs nothing until it is first asked.
pub(super) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<LocalBoxFuture<()>>,
}

impl Timer {
    pub fn new(deadline: Option<Instant>) -> Self {
        Timer { deadline, sleep: None }
    }

    pub fn after(duration: Duration) -> Self {
        Timer::new(Instant::now().checked_add(duration))
    }

    /// Ready once the deadline has passed; never without one.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| {
            // A timer further off than a century is none: its arithmetic need not be tried.
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(3_000_000_000));
            Box::pin(runtime::sleep(left))
        });
        Pin::new(sleep).poll(context)
    }
}

/// A panic in a handler is a programmer's error, after which the shard's state cannot be trusted: it ends the process
/// at once, with the message that the panic has printed, instead of taking a core away in silence.
pub(super) struct PanicEndsProcess;

impl Drop for PanicEndsProcess {
    fn drop(&mut self) {
        std::process::abort();
    }
}
