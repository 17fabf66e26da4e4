//! The layer against an h2 client over an in-memory pipe: each rule that it keeps has a test here.

use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    rc::Rc,
    task::Poll,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::io::DuplexStream;

use super::{
    Call, Drain, Frame, Handler, LocalBoxFuture, Metadata, Origin, Route, Settings, Shape, Unary, serve,
    stream::{Replies, Requests},
};
use crate::{
    error::{self, Status},
    runtime::{self, run, spawn},
};

mod abuse;
mod conformance;
mod lifetime;
mod local;
mod raw;
mod streaming;
mod unary;

/// Serves one method for each way in which a call can go. Numbers are places in `METHODS`.
#[derive(Default)]
struct Service {
    /// Calls that have been dropped before their end.
    dropped: Rc<Cell<usize>>,
    /// What `Late` and `Hold` wait for.
    gate: Gate,
    /// Most bytes that were queued in a reply.
    queued_max: Cell<usize>,
    metadata: RefCell<Metadata>,
    messages: Cell<usize>,
}

const METHODS: &[(&str, Shape)] = &[
    ("/test.Echo/Echo", Shape::Unary),
    ("/test.Echo/Late", Shape::Unary),
    ("/test.Echo/Never", Shape::Unary),
    ("/test.Echo/Fail", Shape::Unary),
    ("/test.Echo/Chat", Shape::Stream),
    ("/test.Echo/Hold", Shape::Stream),
    ("/test.Echo/Pour", Shape::Stream),
    ("/test.Echo/Wait", Shape::Stream),
];

/// Tells that it has been dropped.
struct Dropped(Rc<Cell<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Opened once; until then whoever waits, waits.
#[derive(Clone)]
struct Gate(Drain);

impl Default for Gate {
    fn default() -> Self {
        Gate(Drain::new())
    }
}

impl Gate {
    fn open(&self) {
        self.0.fire();
    }

    async fn wait(&self) {
        let mut waiter = self.0.waiter();
        poll_fn(|context| waiter.poll(context)).await;
    }
}

fn echo(message: &[u8]) -> Frame {
    let mut frame = Frame::with_capacity(message.len());
    frame.buffer().put_slice(message);
    frame
}

impl Handler for Service {
    fn route(&self, path: &str) -> Option<Route> {
        let method = METHODS.iter().position(|(name, _)| *name == path)?;
        Some(Route { method: method as u16, shape: METHODS[method].1 })
    }

    fn knows_service(&self, service: &str) -> bool {
        service == "test.Echo"
    }

    fn unary(self: Rc<Self>, method: u16, call: Call, message: Bytes) -> Unary {
        *self.metadata.borrow_mut() = call.metadata;
        self.messages.set(self.messages.get() + 1);
        match method {
            0 => Unary::Ready(Ok(echo(&message))),
            1 => Unary::Later(Box::pin(async move {
                self.gate.wait().await;
                Ok(echo(&message))
            })),
            2 => Unary::Later(Box::pin(async move {
                let _dropped = Dropped(self.dropped.clone());
                pending().await
            })),
            3 => Unary::Ready(Err(error::NO_LEADER)),
            _ => unreachable!("not a unary method"),
        }
    }

    fn stream(
        self: Rc<Self>,
        method: u16,
        _call: Call,
        mut requests: Requests,
        mut replies: Replies,
    ) -> LocalBoxFuture<Result<(), Status>> {
        Box::pin(async move {
            let _dropped = Dropped(self.dropped.clone());
            match method {
                // Each message comes back in two parts.
                4 => {
                    while let Some(message) = requests.next().await {
                        let message = message?;
                        self.messages.set(self.messages.get() + 1);
                        if poll_fn(|context| replies.poll_ready(context)).await.is_err() {
                            return Err(error::CONTEXT_CANCELED);
                        }
                        let head = Frame::with_capacity(0).seal_before(message.len());
                        replies.send([head, message]).map_err(|_| error::CONTEXT_CANCELED)?;
                    }
                    Ok(())
                }
                // Reads nothing before it may, then counts.
                5 => {
                    self.gate.wait().await;
                    let mut bytes = 0u64;
                    while let Some(message) = requests.next().await {
                        bytes += message?.len() as u64;
                        self.messages.set(self.messages.get() + 1);
                    }
                    replies.send([echo(&bytes.to_be_bytes()).seal()]).map_err(|_| error::CONTEXT_CANCELED)?;
                    Ok(())
                }
                // Pours out messages of 10,000 bytes as fast as they are taken.
                6 => {
                    while poll_fn(|context| replies.poll_ready(context)).await.is_ok() {
                        replies.send([echo(&[7; 10_000]).seal()]).map_err(|_| error::CONTEXT_CANCELED)?;
                        self.messages.set(self.messages.get() + 1);
                        self.queued_max.set(self.queued_max.get().max(replies.queued_bytes()));
                    }
                    Err(error::CONTEXT_CANCELED)
                }
                // Waits for the drain.
                7 => {
                    poll_fn(|context| replies.poll_draining(context)).await;
                    Err(error::STOPPED)
                }
                _ => unreachable!("not a streaming method"),
            }
        })
    }
}

/// A server on one end of a pipe.
struct Server {
    service: Rc<Service>,
    settings: Rc<Settings>,
    drain: Drain,
    /// Its connections that have ended.
    ended: Rc<Cell<usize>>,
}

impl Server {
    fn new() -> Self {
        Server::with(|_| {})
    }

    fn with(set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new();
        set(&mut settings);
        Server { service: Rc::default(), settings: Rc::new(settings), drain: Drain::new(), ended: Rc::default() }
    }

    /// A new connection through a pipe that holds `capacity` bytes each way.
    fn pipe(&self, capacity: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(capacity);
        let served =
            serve(server, Origin::default(), None, self.service.clone(), self.settings.clone(), self.drain.clone());
        let ended = self.ended.clone();
        spawn(async move {
            served.await;
            ended.set(ended.get() + 1);
        });
        client
    }

    async fn client(&self) -> SendRequest<Bytes> {
        self.client_with(h2::client::Builder::new().data_frame_budget(usize::MAX)).await
    }

    async fn client_with(&self, builder: &h2::client::Builder) -> SendRequest<Bytes> {
        let (requests, connection) = builder.handshake(self.pipe(64 * 1024)).await.unwrap();
        spawn(async move {
            let _ = connection.await;
        });
        requests
    }

    fn handled(&self, method: usize, code: error::Code) -> u64 {
        self.settings.counters.methods[method].ended(code)
    }
}

/// Everything that came back from a call.
#[derive(Debug)]
struct Reply {
    http: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Reply {
    fn status(&self) -> (&str, &str) {
        let of = self.trailers.as_ref().unwrap_or(&self.headers);
        (of["grpc-status"].to_str().unwrap(), of["grpc-message"].to_str().unwrap())
    }

    fn messages(&self) -> Vec<Bytes> {
        let mut body = self.body.clone();
        let mut messages = Vec::new();
        while body.has_remaining() {
            assert_eq!(body.get_u8(), 0);
            let len = body.get_u32() as usize;
            messages.push(body.split_to(len));
        }
        messages
    }
}

fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc").header("te", "trailers")
}

fn prefixed(flag: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(flag);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// Makes a call whose body is `pieces`, each a DATA frame, and takes all that comes back.
async fn call(client: &SendRequest<Bytes>, request: http::request::Builder, pieces: &[Bytes]) -> Reply {
    try_call(client, request, pieces).await.unwrap()
}

async fn try_call(
    client: &SendRequest<Bytes>,
    request: http::request::Builder,
    pieces: &[Bytes],
) -> Result<Reply, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut body) = client.send_request(request.body(()).unwrap(), pieces.is_empty())?;
    for (at, piece) in pieces.iter().enumerate() {
        // The server may have answered and closed already.
        if body.send_data(piece.clone(), at + 1 == pieces.len()).is_err() {
            break;
        }
    }
    take(response.await?).await
}

async fn take(response: http::Response<h2::RecvStream>) -> Result<Reply, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?;
    Ok(Reply { http: head.status.as_u16(), headers: head.headers, body: bytes.freeze(), trailers })
}

/// Lets everything run until `done` says so.
async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        runtime::yield_now().await;
    }
}

/// Lets everything that is ready run for a while.
async fn settle() {
    for _ in 0..200 {
        runtime::yield_now().await;
    }
}

/// Whether a future is done at the first asking.
async fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())).await
}
