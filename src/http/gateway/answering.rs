//! An answer in JSON, made of a call's messages as they come and only as it is read.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{
    json_body::JsonBody,
    transcode::{Escape, Input, Method, Step, Writer, put_text},
};
use crate::{
    error::Status,
    grpc::local::LocalCall,
    http::body::{Broken, Made},
    limits,
    wire::frame::PREFIX_BYTES,
};

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One message.
    One,
    /// A line for each message: `{"result":…}`, and one for the status where it is an error: `{"error":…}`.
    Lines,
}

impl Form {
    fn escape(self) -> Escape {
        match self {
            Form::One => Escape::Json,
            Form::Lines => Escape::Html,
        }
    }

    /// A status as the answer tells it.
    pub fn error(self, status: &Status) -> Vec<u8> {
        let mut out = Vec::new();
        if self == Form::Lines {
            out.extend_from_slice(b"{\"error\":");
        }
        out.extend_from_slice(format!("{{\"code\":{}", status.code as u8).as_bytes());
        if !status.message.is_empty() {
            out.extend_from_slice(b",\"message\":");
            put_text(&status.message, self.escape(), &mut out);
        }
        out.push(b'}');
        if self == Form::Lines {
            out.extend_from_slice(b"}\n");
        }
        out
    }
}

pub(super) struct Answering {
    call: LocalCall,
    method: Method,
    form: Form,
    /// What the call has sent and has not been written.
    input: Input,
    /// The message that is being written.
    writer: Option<Writer>,
    out: Vec<u8>,
    /// The body of the request, where messages may still come out of it.
    requests: Option<JsonBody>,
    ended: bool,
    /// Others get their turn before more is made.
    rests: bool,
}

impl Answering {
    pub fn new(call: LocalCall, method: Method, form: Form, requests: Option<JsonBody>) -> Self {
        Answering {
            call,
            method,
            form,
            input: Input::default(),
            writer: None,
            out: Vec::new(),
            requests,
            ended: false,
            rests: false,
        }
    }

    /// What is written and was not taken.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes until `until` bytes are there: true if that is all there will be.
    ///
    /// # Errors
    /// The status with which the call has ended; nothing comes after it.
    pub fn poll_more(&mut self, context: &mut Context<'_>, until: usize) -> Poll<Result<bool, Status>> {
        if let Some(requests) = &self.requests {
            requests.poll_rest(context);
        }
        while !self.ended {
            match self.write(until) {
                Ok(true) => return Poll::Ready(Ok(false)),
                Ok(false) => {}
                Err(status) => return self.end(status),
            }
            match ready!(self.call.poll_part(context)) {
                Ok(Some(part)) => self.input.push(part),
                Ok(None) if self.writer.is_some() || !self.input.is_empty() => return self.end(cut()),
                Ok(None) => self.ended = true,
                Err(status) => return self.end(status),
            }
        }
        Poll::Ready(Ok(true))
    }

    fn end(&mut self, status: Status) -> Poll<Result<bool, Status>> {
        self.ended = true;
        Poll::Ready(Err(status))
    }

    /// Writes what is at hand. True if it is as much as it was to be.
    fn write(&mut self, until: usize) -> Result<bool, Status> {
        loop {
            let Some(writer) = &mut self.writer else {
                if self.input.len() < PREFIX_BYTES {
                    return Ok(false);
                }
                let prefix = self.input.take(PREFIX_BYTES);
                let len = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes of length"));
                if self.form == Form::Lines {
                    self.out.extend_from_slice(b"{\"result\":");
                }
                self.writer = Some(Writer::new(self.method.output(), len as usize, self.form.escape()));
                continue;
            };
            match writer.write(&mut self.input, &mut self.out, until) {
                Step::Full => return Ok(true),
                Step::Hungry => return Ok(false),
                Step::Broken => return Err(cut()),
                Step::Done => {
                    self.writer = None;
                    if self.form == Form::Lines {
                        self.out.extend_from_slice(b"}\n");
                    }
                }
            }
        }
    }

    fn take(&mut self) -> Option<Result<Bytes, Broken>> {
        (!self.out.is_empty()).then(|| Ok(std::mem::take(&mut self.out).into()))
    }
}

/// What the services have written is no message of theirs: a programmer's error, told without ending the process.
fn cut() -> Status {
    Status::internal("an answer is not what its method gives")
}

impl Made for Answering {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if std::mem::take(&mut self.rests) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.poll_more(context, limits::GATEWAY_CHUNK_BYTES) {
            Poll::Ready(Ok(all)) => {
                self.rests = !all;
                Poll::Ready(self.take())
            }
            Poll::Ready(Err(status)) if self.form == Form::Lines => {
                let line = self.form.error(&status);
                self.out.extend_from_slice(&line);
                Poll::Ready(self.take())
            }
            Poll::Ready(Err(_)) => Poll::Ready(Some(Err(Broken))),
            Poll::Pending if self.out.is_empty() => Poll::Pending,
            Poll::Pending => Poll::Ready(self.take()),
        }
    }
}
