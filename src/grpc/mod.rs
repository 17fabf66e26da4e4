//! gRPC by hand, on HTTP/2 by hand: message framing, metadata, deadlines, status trailers, streaming, limits, drain.
//! Knows no service: what is called is told by a `Handler`. Calls from within the process come in by `local`. (gRPC over
//! HTTP/2: the protocol document of the gRPC project.)

mod call;
mod connection;
pub mod drain;
mod encoding;
mod gate;
mod http2;
mod inbound;
mod link;
pub mod local;
mod ping;
pub mod plain;
mod request;
mod response;
mod settings;
mod traced;

use std::{future::Future, pin::Pin, rc::Rc, time::Instant};

use bytes::Bytes;

pub use self::{
    connection::serve,
    drain::Drain,
    http2::{Metadata, fuzz_connection},
    plain::Within,
    response::quoted,
    settings::Settings,
};
pub use crate::wire::frame::Frame;
use crate::{error::Status, observe::trace::Span, runtime::socket::Address};

/// How messages flow in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message in, one out: served by `Handler::unary`.
    Unary,
    /// Anything else: served by `Handler::stream`.
    Stream,
}

/// A method that the handler knows, by its number in `observe::metrics::methods`: what is counted of it goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: u16,
    pub shape: Shape,
}

/// What came with a call beside its messages.
#[derive(Debug)]
pub struct Call {
    pub metadata: Metadata,
    pub origin: Origin,
    /// From `grpc-timeout`. The layer itself ends a call that passes it; a handler need not look.
    pub deadline: Option<Instant>,
    /// Where the call is sampled. The layer itself makes and ends it.
    pub span: Option<Span>,
}

/// What is known of the connection that a call comes by.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The common name of the certificate that the client has shown, where such names are users'; empty if that has none.
    pub certified: Option<Rc<str>>,
    /// This side's address, where calls are traced.
    pub local: Option<Rc<Address>>,
}

pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The answer to a unary call, at once where nothing has to be waited for: that spares a task.
pub enum Unary {
    Ready(Result<Frame, Status>),
    Later(LocalBoxFuture<Result<Frame, Status>>),
    /// One message in parts, made as the caller takes them: for answers that are too large to be held.
    InParts(InParts),
}

/// Sends the one message of an answer and gives the call's status.
pub type InParts = Box<dyn FnOnce(Box<dyn Parts>) -> LocalBoxFuture<Result<(), Status>>>;

/// The way back to a caller for one message in parts.
pub trait Parts {
    /// Whether the message may be sent in parts: not where compression is going to change its length. Then it is sent
    /// whole, as one part.
    fn takes_parts(&self) -> bool;

    /// Ready when flow control has taken nearly all that was sent before.
    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), stream::Gone>>;

    /// Queues a part. The first begins with the prefix, which tells the length of all of them, and sends the headers, too.
    fn send_part(&mut self, part: Bytes) -> Result<(), stream::Gone>;
}

/// What serves the calls of one shard.
pub trait Handler: 'static {
    /// The method named by `/package.Service/Method`; None: the call ends with Unimplemented, in grpc-go's words.
    fn route(&self, path: &str) -> Option<Route>;

    /// Whether any method of `package.Service` is served: an unknown method is refused in other words than an unknown
    /// service.
    fn knows_service(&self, service: &str) -> bool;

    /// `message` is one whole request message, decompressed, without its prefix.
    fn unary(self: Rc<Self>, method: u16, call: Call, message: Bytes) -> Unary;

    /// Serves a streaming call to its end; what it returns goes into the trailers.
    fn stream(
        self: Rc<Self>,
        method: u16,
        call: Call,
        requests: stream::Requests,
        replies: stream::Replies,
    ) -> LocalBoxFuture<Result<(), Status>>;
}

pub mod stream;

#[cfg(test)]
mod tests;
