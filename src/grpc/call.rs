//! One call from its head to its status. A unary call whose message has come and whose answer is there at once is
//! served on the spot, within the connection's turn; everything else gets one task of its own, which ends with the
//! call, with its deadline, or with its stream.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderValue, Request, StatusCode};

use super::{
    Call, Drain, Frame, Handler, InParts, LocalBoxFuture, Shape, Unary,
    encoding::{self, Encoding},
    inbound::{Broken, Inbound},
    payload::{Payload, Queue},
    request::{self, Head},
    response, stream,
    wire::Link,
};
use crate::{
    error::{self, Code, Status},
    runtime,
    wire::frame::PREFIX_BYTES,
};

/// Serves a request that h2 has accepted.
pub(super) fn begin(
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
    handler: &Rc<dyn Handler>,
    link: &Rc<Link>,
    drain: &Drain,
) {
    let (parts, body) = request.into_parts();
    let head = match request::judge(&parts, link.arrived.get(), &**handler) {
        Ok(head) => head,
        Err(refusal) => {
            // An error says that the stream is gone: then there is nobody to tell.
            let _ = respond.send_response(*refusal, true);
            return;
        }
    };
    let call = Call { metadata: parts.headers, deadline: head.deadline };
    let inbound = Inbound::new(body, head.encoding, link.clone());
    let answer = Answer::new(respond, &head, link.clone());
    match head.route.shape {
        Shape::Unary => unary(handler, call, inbound, answer, drain),
        Shape::Stream => stream::begin(handler, call, inbound, answer, drain),
    }
}

/// The way back to the caller of one call: counts it as running as long as it lives.
pub(super) struct Answer {
    respond: SendResponse<Payload>,
    /// Once the headers have been sent.
    stream: Option<SendStream<Payload>>,
    method: u16,
    content_type: HeaderValue,
    encoding: Encoding,
    began: Instant,
    link: Rc<Link>,
}

impl Answer {
    fn new(respond: SendResponse<Payload>, head: &Head, link: Rc<Link>) -> Self {
        link.calls.set(link.calls.get() + 1);
        link.settings.counters.requests_active.add(1);
        Answer {
            began: link.arrived.get(),
            respond,
            stream: None,
            method: head.route.method,
            content_type: head.content_type.clone(),
            encoding: head.encoding,
            link,
        }
    }

    pub fn method(&self) -> u16 {
        self.method
    }

    /// Sends a sealed message of one part, before it the headers if it is the first.
    pub fn send(&mut self, message: Bytes) -> Result<(), h2::Error> {
        let message_len = message.len() - PREFIX_BYTES;
        let message = match self.encoding {
            Encoding::Identity => message,
            Encoding::Gzip => encoding::compress([message]),
        };
        self.send_payload(Payload::whole(message), message_len)
    }

    /// The same for a message in parts, counted in `queue` until it has been written.
    pub fn send_parts(&mut self, parts: impl IntoIterator<Item = Bytes>, queue: &Rc<Queue>) -> Result<(), h2::Error> {
        let mut message_len = 0;
        let parts = parts.into_iter().inspect(|part| message_len += part.len());
        let payload = match self.encoding {
            Encoding::Identity => Payload::queued(parts, queue),
            Encoding::Gzip => Payload::queued([encoding::compress(parts)], queue),
        };
        self.send_payload(payload, message_len - PREFIX_BYTES)
    }

    /// Whether a message may be sent part by part: not one whose length compression will change.
    pub fn takes_parts(&self) -> bool {
        self.encoding == Encoding::Identity
    }

    /// More of a message that `send_parts` has begun.
    pub fn send_more(&mut self, part: Bytes, queue: &Rc<Queue>) -> Result<(), h2::Error> {
        let stream = self.stream.as_mut().expect("a message's beginning comes first");
        self.link.settings.counters.client_sent_bytes.add(part.len() as u64);
        stream.send_data(Payload::queued([part], queue), false)
    }

    fn send_payload(&mut self, payload: Payload, message_len: usize) -> Result<(), h2::Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let headers = response::headers(self.content_type.clone(), self.encoding);
                self.stream.insert(self.respond.send_response(headers, false)?)
            }
        };
        stream.send_data(payload, false)?;
        let counters = &self.link.settings.counters;
        counters.methods[usize::from(self.method)].sent.increment();
        counters.client_sent_bytes.add(message_len as u64);
        Ok(())
    }

    pub fn count_started(&self) {
        self.link.settings.counters.methods[usize::from(self.method)].started.increment();
    }

    /// Counts a message of the caller's.
    pub fn count_received(&self, message_len: usize) {
        let counters = &self.link.settings.counters;
        counters.methods[usize::from(self.method)].received.increment();
        counters.client_received_bytes.add(message_len as u64);
    }

    /// Counts the call as ended.
    pub fn count_handled(&self, code: Code) {
        let method = &self.link.settings.counters.methods[usize::from(self.method)];
        method.handled(code);
        if self.link.settings.time_calls {
            method.took(runtime::now() - self.began);
        }
    }

    /// Ends the call with a status; a caller that is gone is not told.
    pub fn finish(&mut self, status: &Status) {
        let _ = match &mut self.stream {
            Some(stream) => stream.send_trailers(response::trailers(status)),
            None => {
                let response = response::trailers_only(StatusCode::OK, self.content_type.clone(), status);
                self.respond.send_response(response, true).map(drop)
            }
        };
    }

    /// Ends the call where even a status could not be delivered: what is queued is thrown away.
    pub fn cancel(&mut self) {
        self.respond.send_reset(h2::Reason::CANCEL);
    }

    /// Ready once the caller has given up or is gone.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(context).map(drop),
            None => self.respond.poll_reset(context).map(drop),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.link.calls.set(self.link.calls.get() - 1);
        self.link.settings.counters.requests_active.add(-1);
    }
}

fn unary(handler: &Rc<dyn Handler>, call: Call, mut inbound: Inbound, mut answer: Answer, drain: &Drain) {
    // Nobody is to be woken: if the message has not come, the call's task asks again.
    inbound.fill(&mut Context::from_waker(Waker::noop()));
    match inbound.next() {
        Poll::Ready(message) => {
            let deadline = call.deadline;
            match answer_at_once(handler, call, message, &mut answer) {
                Begun::Answered => {}
                Begun::Later(later) => {
                    drop(inbound);
                    runtime::spawn(async move { answer_later(later, deadline, answer).await });
                }
                Begun::InParts(make) => {
                    runtime::spawn(stream::answer_in_parts(make, deadline, inbound, answer, drain));
                }
            }
        }
        Poll::Pending => {
            let (handler, drain) = (handler.clone(), drain.clone());
            runtime::spawn(async move { receive_then_answer(handler, call, inbound, answer, drain).await });
        }
    }
}

async fn receive_then_answer(
    handler: Rc<dyn Handler>,
    call: Call,
    mut inbound: Inbound,
    mut answer: Answer,
    drain: Drain,
) {
    let deadline = call.deadline;
    let mut timer = Timer::new(deadline);
    let message = poll_fn(|context| {
        inbound.fill(context);
        if let Poll::Ready(message) = inbound.next() {
            return Poll::Ready(Some(message));
        }
        timer.poll(context).map(|()| None)
    })
    .await;
    let Some(message) = message else { return answer.finish(&error::DEADLINE_EXCEEDED) };
    match answer_at_once(&handler, call, message, &mut answer) {
        Begun::Answered => {}
        Begun::Later(later) => {
            drop(inbound);
            answer_later(later, deadline, answer).await;
        }
        // A task of its own: most calls that come here need not be as large as one of these.
        Begun::InParts(make) => runtime::spawn(stream::answer_in_parts(make, deadline, inbound, answer, &drain)),
    }
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
            answer.finish(&status);
            return Begun::Answered;
        }
        // grpc-go hands through what its reader says.
        Some(Err(Broken::Cut)) => {
            answer.finish(&Status::fixed(Code::Unknown, "unexpected EOF"));
            return Begun::Answered;
        }
        None => {
            answer.finish(&Status::fixed(Code::Unknown, "EOF"));
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
    let outcome = poll_fn(|context| {
        let guard = PanicEndsProcess;
        let outcome = later.as_mut().poll(context);
        std::mem::forget(guard);
        if let Poll::Ready(outcome) = outcome {
            return Poll::Ready(Some(outcome));
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
            if answer.send(frame.seal()).is_ok() {
                answer.finish(&Status::OK);
            }
            Code::Ok
        }
        Err(status) => {
            answer.finish(&status);
            status.code
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
