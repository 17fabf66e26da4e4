//! Bodies from other members: read bit by bit, each within a bounded time, up to a bounded size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::{limits, runtime};

/// Why a body cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    TooLarge,
    /// It ended before anything came.
    Ended,
    /// It ended before all came, or broke off.
    CutOff,
    Slow,
}

impl Fault {
    /// In Go's words.
    pub fn text(self) -> &'static str {
        match self {
            Fault::TooLarge => "http: request body too large",
            Fault::Ended => "EOF",
            Fault::CutOff => "unexpected EOF",
            Fault::Slow => "i/o timeout",
        }
    }
}

pub struct Reader {
    body: Incoming,
    /// What has come and is not taken.
    ahead: BytesMut,
}

impl Reader {
    pub fn new(body: Incoming) -> Self {
        Reader { body, ahead: BytesMut::new() }
    }

    /// All of it, if it is not larger than that.
    pub async fn whole(mut self, bytes_max: usize) -> Result<Bytes, Fault> {
        while self.ahead.len() <= bytes_max {
            match self.next().await? {
                Some(bytes) => self.ahead.extend_from_slice(&bytes),
                None => return Ok(self.ahead.freeze()),
            }
        }
        Err(Fault::TooLarge)
    }

    /// So many bytes of it.
    pub async fn take(&mut self, count: usize) -> Result<Bytes, Fault> {
        while self.ahead.len() < count {
            match self.next().await? {
                Some(bytes) => self.ahead.extend_from_slice(&bytes),
                None if self.ahead.is_empty() => return Err(Fault::Ended),
                None => return Err(Fault::CutOff),
            }
        }
        Ok(self.ahead.split_to(count).freeze())
    }

    /// What comes next, in pieces of so many bytes, the last may be shorter; None at the end.
    pub async fn piece(&mut self, bytes: usize) -> Result<Option<Bytes>, Fault> {
        while self.ahead.len() < bytes {
            match self.next().await? {
                Some(more) => self.ahead.extend_from_slice(&more),
                None if self.ahead.is_empty() => return Ok(None),
                None => break,
            }
        }
        Ok(Some(self.ahead.split_to(bytes.min(self.ahead.len())).freeze()))
    }

    /// Puts what comes next into a piece until it has so many bytes; it has less at the end.
    pub async fn fill(&mut self, piece: &mut Vec<u8>, bytes: usize) -> Result<(), Fault> {
        piece.reserve(bytes.saturating_sub(piece.len()));
        piece.extend_from_slice(&self.ahead.split_to(bytes.min(self.ahead.len())));
        while piece.len() < bytes {
            let Some(more) = self.next().await? else { return Ok(()) };
            let (now, later) = more.split_at(more.len().min(bytes - piece.len()));
            piece.extend_from_slice(now);
            self.ahead.extend_from_slice(later);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let patience = Duration::from_secs(limits::PEER_BODY_SECONDS_MAX);
            match runtime::timeout(patience, self.body.frame()).await {
                None => return Err(Fault::Slow),
                Some(None) => return Ok(None),
                Some(Some(Err(_))) => return Err(Fault::CutOff),
                // Trailers say nothing.
                Some(Some(Ok(frame))) if !frame.is_data() => {}
                Some(Some(Ok(frame))) => return Ok(frame.into_data().ok()),
            }
        }
    }
}
