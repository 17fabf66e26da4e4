//! Which protocol a new connection speaks: HTTP/2 with prior knowledge, HTTP/1 or TLS, told from at most its first 24 bytes,
//! within a bounded time. The bytes are put back in front. Whatever is none of them is closed without an answer, as etcd's
//! multiplexer does.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{limits, runtime};

/// With what an HTTP/2 client begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// A handshake of TLS begins.
    Tls,
}

/// Why a connection is not served.
#[derive(Debug)]
pub enum SniffError {
    /// It speaks something else.
    Neither,
    /// It has not said enough within `SNIFF_MILLISECONDS_MAX`.
    Silent,
    /// It ended before it had said enough.
    Ended,
    Io(io::Error),
}

/// Reads until the protocol is known. On an error the connection is closed: it is dropped.
pub async fn sniff<S: AsyncRead + Unpin>(io: S) -> Result<(Protocol, Rewound<S>), SniffError> {
    sniff_within(Duration::from_millis(limits::SNIFF_MILLISECONDS_MAX), io).await
}

async fn sniff_within<S: AsyncRead + Unpin>(limit: Duration, io: S) -> Result<(Protocol, Rewound<S>), SniffError> {
    runtime::timeout(limit, read_head(io)).await.unwrap_or(Err(SniffError::Silent))
}

async fn read_head<S: AsyncRead + Unpin>(mut io: S) -> Result<(Protocol, Rewound<S>), SniffError> {
    let mut head = [0; PREFACE.len()];
    let mut len = 0;
    loop {
        let read = poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut head[len..]);
            ready!(Pin::new(&mut io).poll_read(context, &mut buffer))?;
            Poll::Ready(Ok(buffer.filled().len()))
        });
        match read.await {
            Ok(0) => return Err(SniffError::Ended),
            Ok(count) => len += count,
            Err(error) => return Err(SniffError::Io(error)),
        }
        match judge(&head[..len]) {
            Verdict::Unknown => {}
            Verdict::Is(protocol) => return Ok((protocol, Rewound { head, from: 0, len, io })),
            Verdict::Neither => return Err(SniffError::Neither),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Is(Protocol),
    Neither,
}

/// What the first bytes, at most as many as the preface has, say.
fn judge(head: &[u8]) -> Verdict {
    if PREFACE.starts_with(head) {
        return if head.len() == PREFACE.len() { Verdict::Is(Protocol::Http2) } else { Verdict::Unknown };
    }
    // A handshake record of any version 3 (RFC 8446, section 5.1).
    if let [22, version, ..] = *head {
        return if version == 3 { Verdict::Is(Protocol::Tls) } else { Verdict::Neither };
    } else if head == [22] {
        return Verdict::Unknown;
    }
    // HTTP/1 begins with a method, a space and a target (RFC 9112, section 3).
    let method_len = head.iter().take_while(|&&byte| is_token(byte)).count();
    match (head.get(method_len), head.get(method_len + 1)) {
        (None, _) | (Some(b' '), None) if method_len > 0 && head.len() < PREFACE.len() => Verdict::Unknown,
        (Some(b' '), Some(target)) if method_len > 0 && target.is_ascii_graphic() => Verdict::Is(Protocol::Http1),
        // Or it is longer than any method.
        _ => Verdict::Neither,
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A connection whose first bytes were read and are given again.
#[derive(Debug)]
pub struct Rewound<S> {
    head: [u8; PREFACE.len()],
    from: usize,
    len: usize,
    io: S,
}

impl<S> Rewound<S> {
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Takes up to `room` of the bytes that are given again.
    fn take(&mut self, room: usize) -> &[u8] {
        let until = self.len.min(self.from + room);
        let taken = &self.head[self.from..until];
        self.from = until;
        taken
    }

    fn is_given(&self) -> bool {
        self.from == self.len
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_given() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let room = buffer.remaining();
        buffer.put_slice(self.take(room));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<S: hyper::rt::Read + Unpin> hyper::rt::Read for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_given() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let room = buffer.remaining();
        buffer.put_slice(self.take(room));
        Poll::Ready(Ok(()))
    }
}

impl<S: hyper::rt::Write + Unpin> hyper::rt::Write for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "sniff_tests.rs"]
mod tests;
