//! The bodies of answers: whole, whole without telling its length, or made while it is being read.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::Serving;
use crate::{error::Status, log, observe::log::shown};

pub(super) struct Body {
    kind: Kind,
    /// Its request is being answered as long as it is there.
    serving: Option<Serving>,
}

enum Kind {
    Whole(Full<Bytes>),
    Chunked { bytes: Option<Bytes>, trailers: Option<HeaderMap> },
    Made(Box<dyn Made>),
}

/// A body that comes bit by bit.
pub(super) trait Made {
    /// The next bit; None at the end.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>>;
}

struct Cut;

impl Made for Cut {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        Poll::Ready(Some(Err(Broken)))
    }
}

/// An answer that has begun cannot be ended: the connection is, so that nobody takes what has come for all of it.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer that had begun could not be ended")
    }
}

impl std::error::Error for Broken {}

impl Body {
    fn of(kind: Kind) -> Self {
        Body { kind, serving: None }
    }

    /// Its length is told.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Body::of(Kind::Whole(Full::new(bytes.into())))
    }

    /// Its length is not told.
    pub fn chunked(bytes: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Body::of(Kind::Chunked { bytes: Some(bytes.into()).filter(|bytes| !bytes.is_empty()), trailers })
    }

    pub fn made(made: impl Made + 'static) -> Self {
        Body::of(Kind::Made(Box::new(made)))
    }

    /// That of an answer which ended before its end, with that status.
    pub fn broken(status: Status) -> Self {
        log!(Warn, "an answer could not be ended", "error" = shown(status));
        Body::made(Cut)
    }

    /// How long it is, where it is all there.
    pub fn known_len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Whole(whole) => whole.size_hint().exact(),
            Kind::Chunked { bytes, .. } => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Made(_) => None,
        }
    }

    pub fn hold(&mut self, serving: Serving) {
        self.serving = Some(serving);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.kind {
            Kind::Whole(whole) => Pin::new(whole)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Kind::Chunked { bytes, trailers } => Poll::Ready(match bytes.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Kind::Made(made) => made.poll_chunk(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(whole) => whole.is_end_stream(),
            Kind::Chunked { .. } | Kind::Made(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(whole) => whole.size_hint(),
            Kind::Chunked { .. } | Kind::Made(_) => SizeHint::default(),
        }
    }
}
