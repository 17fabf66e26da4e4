//! Messages out of a body of JSON values, one after another, as they come. What is no message ends them without a word, as in
//! etcd; what comes after that is read and thrown away, so that it is seen when its sender goes.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};

use super::transcode::{End, Method, Read, Scan, Scanner, read};
use crate::{
    error::{self, Code, Status},
    grpc::{local::Messages, plain},
    limits,
};

/// The bytes of a body.
pub(in crate::http) trait Chunks {
    /// The next bytes; None at the end, whatever that is.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl Chunks for Incoming {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match ready!(Pin::new(&mut *self).poll_frame(context)) {
                // Trailers say nothing.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(data)),
                    Err(_trailers) => {}
                },
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}

impl Chunks for plain::Body {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        plain::Body::poll_chunk(self, context)
    }
}

/// What a message may measure, as JSON and as it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub json_bytes_max: usize,
    pub message_bytes_max: usize,
}

impl Bounds {
    pub fn of(message_bytes_max: usize) -> Self {
        Bounds { json_bytes_max: message_bytes_max.saturating_mul(limits::GATEWAY_BODY_FACTOR), message_bytes_max }
    }
}

/// All of a body that is not to be larger than that. `held` counts what has come of all such bodies and messages.
pub(super) async fn whole(chunks: &mut impl Chunks, bytes_max: usize, held: &Rc<Cell<usize>>) -> Result<Bytes, Status> {
    let mut next = async || std::future::poll_fn(|context| chunks.poll_chunk(context)).await;
    let Some(first) = next().await else { return Ok(Bytes::new()) };
    let mut part = Part { held: held.clone(), bytes: 0 };
    part.grow(first.len())?;
    let Some(second) = next().await else { return Ok(first) };
    part.grow(second.len())?;
    let mut all = [&first[..], &second].concat();
    while all.len() <= bytes_max {
        match next().await {
            Some(chunk) => {
                part.grow(chunk.len())?;
                all.extend_from_slice(&chunk);
            }
            None => return Ok(all.into()),
        }
    }
    Err(error::body_too_large(bytes_max))
}

/// What has come of one body.
struct Part {
    held: Rc<Cell<usize>>,
    bytes: usize,
}

impl Part {
    fn grow(&mut self, by: usize) -> Result<(), Status> {
        let held = self.held.get() + by;
        if held > limits::UNFINISHED_BYTES {
            return Err(error::TOO_MANY_UNFINISHED);
        }
        self.held.set(held);
        self.bytes += by;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes);
    }
}

/// The message that is in a text of JSON, or at its beginning; no text is an empty message.
pub(super) fn message_in(json: &[u8], method: Method, bounds: Bounds) -> Result<Bytes, Status> {
    if json.len() > bounds.json_bytes_max {
        return Err(error::body_too_large(bounds.json_bytes_max));
    }
    let mut scanner = Scanner::default();
    let value = match scanner.scan(json) {
        Scan::Value(end) => &json[..end],
        Scan::Bad(fault) => return Err(Status::new(Code::InvalidArgument, fault)),
        Scan::More => match scanner.end() {
            End::Nothing => return Ok(Bytes::new()),
            End::Value => json,
            End::Cut => return Err(Status::fixed(Code::InvalidArgument, "unexpected EOF")),
        },
    };
    message(value, method, bounds)
}

fn message(value: &[u8], method: Method, bounds: Bounds) -> Result<Bytes, Status> {
    // Places in it are counted from where it begins.
    let blanks = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
    match read(method.input(), &value[blanks..], bounds.message_bytes_max) {
        Ok(Read::Message(bytes)) => Ok(bytes.into()),
        Ok(Read::TooLarge(len)) => Err(error::received_too_large(len, bounds.message_bytes_max)),
        Err(fault) => Err(Status::new(Code::InvalidArgument, fault)),
    }
}

/// Messages that come for as long as the body does. Clones are the same.
#[derive(Clone)]
pub(super) struct JsonBody(Rc<RefCell<Coming>>);

struct Coming {
    chunks: Box<dyn Chunks>,
    method: Method,
    bounds: Bounds,
    scanner: Scanner,
    /// What has come of a value that is not whole.
    begun: Vec<u8>,
    /// What has come behind it.
    rest: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// No more messages are taken, for a fault.
    Faulty(Status),
    Ended,
}

impl JsonBody {
    pub fn new(chunks: impl Chunks + 'static, method: Method, bounds: Bounds) -> Self {
        JsonBody(Rc::new(RefCell::new(Coming {
            chunks: Box::new(chunks),
            method,
            bounds,
            scanner: Scanner::default(),
            begun: Vec::new(),
            rest: Bytes::new(),
            state: State::Open,
        })))
    }

    /// Throws away what comes behind a fault.
    pub fn poll_rest(&self, context: &mut Context<'_>) {
        let coming = &mut *self.0.borrow_mut();
        while let State::Faulty(_) = coming.state {
            match coming.chunks.poll_chunk(context) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => coming.state = State::Ended,
                Poll::Pending => return,
            }
        }
    }

    /// Why there are no more messages, if there is a reason.
    pub fn fault(&self) -> Option<Status> {
        match &self.0.borrow().state {
            State::Faulty(status) => Some(status.clone()),
            State::Open | State::Ended => None,
        }
    }
}

impl Messages for JsonBody {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        self.0.borrow_mut().poll_next(context)
    }
}

impl Coming {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        while let State::Open = self.state {
            if self.rest.is_empty() {
                match ready!(self.chunks.poll_chunk(context)) {
                    Some(chunk) => self.rest = chunk,
                    None => {
                        let last = self.last();
                        return Poll::Ready(last.and_then(|message| self.judged(message)));
                    }
                }
                continue;
            }
            let found = self.scanner.scan(&self.rest);
            let end = match found {
                Scan::Value(end) => end,
                Scan::More => self.rest.len(),
                Scan::Bad(fault) => return Poll::Ready(self.judged(Err(Status::new(Code::InvalidArgument, fault)))),
            };
            let piece = self.rest.split_to(end);
            if self.begun.len() + piece.len() > self.bounds.json_bytes_max {
                return Poll::Ready(self.judged(Err(error::body_too_large(self.bounds.json_bytes_max))));
            }
            if found == Scan::More {
                self.begun.extend_from_slice(&piece);
                continue;
            }
            self.scanner = Scanner::default();
            let begun = std::mem::take(&mut self.begun);
            let message = match begun.is_empty() {
                true => message(&piece, self.method, self.bounds),
                false => message(&[&begun[..], &piece].concat(), self.method, self.bounds),
            };
            return Poll::Ready(self.judged(message));
        }
        Poll::Ready(None)
    }

    /// A message that nothing but the body's end has ended.
    fn last(&mut self) -> Option<Result<Bytes, Status>> {
        self.state = State::Ended;
        match self.scanner.end() {
            End::Nothing => None,
            End::Value => Some(message(&self.begun, self.method, self.bounds)),
            End::Cut => Some(Err(Status::fixed(Code::InvalidArgument, "unexpected EOF"))),
        }
    }

    /// What is no message ends the messages; one that is too large ends the call.
    fn judged(&mut self, message: Result<Bytes, Status>) -> Option<Result<Bytes, Status>> {
        let Err(status) = message else { return Some(message) };
        (self.begun, self.rest) = (Vec::new(), Bytes::new());
        self.state = State::Faulty(status.clone());
        (status.code == Code::ResourceExhausted).then_some(Err(status))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use prost::Message as _;

    use super::*;
    use crate::{http::gateway::transcode::Schema, proto::etcdserverpb::LeaseKeepAliveRequest};

    struct Given(VecDeque<&'static [u8]>);

    impl Chunks for Given {
        fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
            match self.0.pop_front() {
                // Stands for a pause.
                Some(b"") => Poll::Pending,
                chunk => Poll::Ready(chunk.map(Bytes::from_static)),
            }
        }
    }

    fn keep_alive() -> Method {
        Schema::method("/etcdserverpb.Lease/LeaseKeepAlive").unwrap()
    }

    fn body(chunks: &[&'static [u8]], bytes_max: usize) -> JsonBody {
        JsonBody::new(Given(chunks.iter().copied().collect()), keep_alive(), Bounds::of(bytes_max))
    }

    fn next(body: &mut JsonBody) -> Poll<Option<Result<i64, Status>>> {
        let next = body.poll_next(&mut Context::from_waker(Waker::noop()));
        next.map(|next| next.map(|next| next.map(|bytes| LeaseKeepAliveRequest::decode(bytes).unwrap().id)))
    }

    #[test]
    fn bodies_are_bounded_together() {
        let held = Rc::new(Cell::new(limits::UNFINISHED_BYTES - 5));
        let all = |chunks: &[&'static [u8]]| {
            let mut given = Given(chunks.iter().copied().collect());
            crate::runtime::run_test(async { whole(&mut given, 100, &held).await })
        };
        assert_eq!(all(&[b"12", b"345"]), Ok(Bytes::from_static(b"12345")));
        assert_eq!(all(&[b"12", b"3456"]), Err(error::TOO_MANY_UNFINISHED));
        assert_eq!(all(&[b"123456"]), Err(error::TOO_MANY_UNFINISHED));
        assert_eq!(held.get(), limits::UNFINISHED_BYTES - 5);
    }

    #[test]
    fn messages_come_however_they_are_cut() {
        let mut body = body(&[b" {\"ID\":1}{\"I", b"", b"D\":", b"\"2\"}\n", b"{}", b"\n "], 100);
        let id = |id: i64| Poll::Ready(Some(Ok(id)));
        assert_eq!(next(&mut body), id(1));
        assert_eq!(next(&mut body), Poll::Pending);
        assert_eq!((next(&mut body), next(&mut body)), (id(2), id(0)));
        assert_eq!((next(&mut body), next(&mut body)), (Poll::Ready(None), Poll::Ready(None)));
        assert_eq!(body.fault(), None);
    }

    #[test]
    fn what_is_no_message_ends_them() {
        for (text, fault) in [
            (&b"{\"ID\":1} junk {\"ID\":2}"[..], "invalid character 'j' looking for beginning of value"),
            (b"{\"ID\":1}{\"ID\":true}{\"ID\":2}", "proto: (line 1:7): invalid value for int64 field ID: true"),
            (b"{\"ID\":1} \n5 {\"ID\":2}", "proto: syntax error (line 1:1): unexpected token 5"),
            (b"{\"ID\":1}{\"ID\":", "unexpected EOF"),
        ] {
            let mut body = body(&[text, b"{\"ID\":3}"], 100);
            assert_eq!(next(&mut body), Poll::Ready(Some(Ok(1))));
            if fault == "unexpected EOF" {
                continue;
            }
            assert_eq!(next(&mut body), Poll::Ready(None));
            assert_eq!(body.fault().unwrap(), Status::new(Code::InvalidArgument, fault));
            assert_eq!(next(&mut body), Poll::Ready(None));
            body.poll_rest(&mut Context::from_waker(Waker::noop()));
            assert_eq!(body.fault(), None, "the rest has been read to its end");
        }
        let mut cut = body(&[b"{\"ID\":"], 100);
        assert_eq!(next(&mut cut), Poll::Ready(None));
        assert_eq!(cut.fault().unwrap().message, "unexpected EOF");
    }

    #[test]
    fn what_is_too_large_ends_the_call() {
        // The message is of three bytes, its JSON of eleven.
        let mut large = body(&[b"{\"ID\":1000}"], 2);
        assert_eq!(next(&mut large), Poll::Ready(Some(Err(error::body_too_large(8)))));
        let mut large = body(&[b"{\"ID\":1000", b"000000}"], 4);
        assert_eq!(next(&mut large), Poll::Ready(Some(Err(error::body_too_large(16)))));
        assert_eq!(next(&mut large), Poll::Ready(None));
        let large = message_in(b"{\"ID\":1000000000}", keep_alive(), Bounds::of(5));
        assert_eq!(large, Err(error::received_too_large(6, 5)));
    }

    #[test]
    fn one_message_is_at_the_beginning_of_a_body() {
        let id = |json: &str| {
            let bytes = message_in(json.as_bytes(), keep_alive(), Bounds::of(100))?;
            Ok::<_, Status>(LeaseKeepAliveRequest::decode(bytes).unwrap().id)
        };
        for (json, wanted) in [("", 0), (" \n", 0), ("{}", 0), ("{\"ID\":5}trailing", 5), ("{\"ID\":5}{\"ID\":6}", 5)] {
            assert_eq!(id(json), Ok(wanted), "{json}");
        }
        for (json, fault) in [
            ("{", "unexpected EOF"),
            ("[]", "proto: syntax error (line 1:1): unexpected token ["),
            ("\n {\"ID\":{}}", "proto: (line 1:7): invalid value for int64 field ID: {"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
        ] {
            assert_eq!(id(json), Err(Status::new(Code::InvalidArgument, fault)), "{json}");
        }
    }
}
