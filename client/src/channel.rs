//! One HTTP/2 connection and the calls on it.

use std::{io, marker::PhantomData, net::ToSocketAddrs};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, TE},
    uri::{Authority, PathAndQuery, Scheme},
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use urd::error::Code;

use crate::{
    error::Error,
    frames::{Frames, frame, whole_message},
    methods::{Streaming, Unary},
};

/// How much the server may send ahead of what is read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of one stream.
    pub stream_window: u32,
    /// Bytes of all streams together.
    pub connection_window: u32,
}

impl Default for Options {
    /// A window that a watch of many small events does not wait for.
    fn default() -> Self {
        Options { stream_window: 4 << 20, connection_window: 64 << 20 }
    }
}

/// A connection; clones share it. It lives until the last clone and the last call on it are gone.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    /// What stands before each path: kept in parts, so that a call parses nothing but its path.
    scheme: Scheme,
    authority: Authority,
    metadata: HeaderMap,
}

impl Client {
    /// Connects to `host:port`.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(address, Options::default()).await
    }

    pub async fn connect_with(address: &str, options: Options) -> Result<Self, Error> {
        let resolved = address
            .to_socket_addrs()
            .and_then(|mut all| all.next().ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(Error::transport)?;
        let socket = TcpStream::connect(resolved).await.map_err(Error::transport)?;
        socket.set_nodelay(true).map_err(Error::transport)?;
        Self::over(socket, Scheme::HTTP, address, options).await
    }

    /// Speaks over a connection that is made already, one inside TLS for example. `authority` is `host:port`.
    ///
    /// # Errors
    /// If the authority cannot be read as one, or the peer does not speak HTTP/2.
    pub async fn over<S>(stream: S, scheme: Scheme, authority: &str, options: Options) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = authority.parse().map_err(Error::transport)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            // A watch whose small answers wait unread is what some tests are about.
            .data_frame_budget(usize::MAX / 2)
            .handshake(stream)
            .await?;
        // How it ends is told to every call on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Client { requests, scheme, authority, metadata: HeaderMap::new() })
    }

    /// The same connection; calls on it carry this beside those before.
    pub fn with_metadata(&self, name: &'static str, value: &str) -> Self {
        assert!(value.is_ascii(), "metadata in ASCII");
        self.with_metadata_bytes(name, value.as_bytes())
    }

    /// The same with bytes that may be no text.
    pub fn with_metadata_bytes(&self, name: &'static str, value: &[u8]) -> Self {
        let mut client = self.clone();
        let value = HeaderValue::from_bytes(value).expect("metadata without control characters");
        client.metadata.insert(HeaderName::from_static(name), value);
        client
    }

    /// Calls a unary method, told by the type of its request.
    pub async fn call<Q: Unary>(&self, request: &Q) -> Result<Q::Answer, Error> {
        self.unary(Q::PATH, request).await
    }

    /// Calls any unary method by its path.
    pub async fn unary<Q: Message, A: Message + Default>(&self, path: &str, request: &Q) -> Result<A, Error> {
        let answer = self.unary_bytes(path, frame(request)).await?;
        A::decode(answer).map_err(Error::transport)
    }

    /// The same with a body of any bytes, prefix included; gives the answer's message.
    pub async fn unary_bytes(&self, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let mut body = self.chunks(path, body).await?;
        let first = body.next().await?.unwrap_or_default();
        // Nearly always the whole answer, which then is not copied.
        let whole = whole_message(&first);
        let mut frames = Frames::default();
        if whole.is_none() {
            frames.push(&first);
        }
        while let Some(chunk) = body.next().await? {
            frames.push(&chunk);
        }
        let message = match whole {
            Some(message) => message,
            None => frames.take()?.ok_or_else(|| Error::transport("OK without an answer"))?,
        };
        if !frames.is_empty() {
            return Err(Error::transport("more than one answer to a unary call"));
        }
        Ok(message)
    }

    /// The same, its answer by the piece as it arrives, prefixes included: for who reads a large one without keeping it.
    pub async fn chunks(&self, path: &str, body: Bytes) -> Result<Chunks, Error> {
        let (response, mut sender) = self.open(path).await?;
        sender.send_data(body, true)?;
        Ok(Chunks(Body::Waiting(response)))
    }

    /// Opens a streaming method, told by the type of its requests.
    pub async fn stream<Q: Streaming>(&self) -> Result<(Sender<Q>, Receiver<Q::Answer>), Error> {
        self.stream_at(Q::PATH).await
    }

    /// Opens any streaming method by its path.
    pub async fn stream_at<Q: Message, A: Message + Default>(
        &self,
        path: &str,
    ) -> Result<(Sender<Q>, Receiver<A>), Error> {
        let (response, sender) = self.open(path).await?;
        let receiver = Receiver { body: Body::Waiting(response), frames: Frames::default(), kind: PhantomData };
        Ok((Sender { stream: sender, kind: PhantomData }, receiver))
    }

    async fn open(&self, path: &str) -> Result<(ResponseFuture, SendStream<Bytes>), Error> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::try_from(path).map_err(Error::transport)?)
            .build()
            .map_err(Error::transport)?;
        let mut headers = HeaderMap::with_capacity(2 + self.metadata.len());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.extend(self.metadata.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let mut requests = self.requests.clone().ready().await?;
        Ok(requests.send_request(request, false)?)
    }
}

/// An answer by the piece.
pub struct Chunks(Body);

impl Chunks {
    /// The next bytes, as the network cut them; None once the server has ended the call with OK.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.chunk().await
    }
}

/// The way out of a streaming call. What is sent waits in memory while the server's window is full. Dropped without
/// `finish`, it resets the stream.
pub struct Sender<Q> {
    stream: SendStream<Bytes>,
    kind: PhantomData<fn(Q)>,
}

impl<Q: Message> Sender<Q> {
    pub fn send(&mut self, request: &Q) -> Result<(), Error> {
        self.send_bytes(frame(request))
    }

    /// Any bytes at all.
    pub fn send_bytes(&mut self, bytes: Bytes) -> Result<(), Error> {
        Ok(self.stream.send_data(bytes, false)?)
    }

    /// Nothing more will be sent.
    pub fn finish(mut self) -> Result<(), Error> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }

    /// Gives the call up: RST_STREAM with CANCEL.
    pub fn cancel(mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
    }
}

/// The way in of a streaming call.
pub struct Receiver<A> {
    body: Body,
    frames: Frames,
    kind: PhantomData<fn() -> A>,
}

impl<A> Receiver<A> {
    /// The next answer as it is on the wire, without its prefix; None once the server has ended the call with OK.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(Some(message));
            }
            match self.body.chunk().await? {
                Some(chunk) => self.frames.push(&chunk),
                None if self.frames.is_empty() => return Ok(None),
                None => return Err(Error::transport("the stream ends inside a message")),
            }
        }
    }
}

impl<A: Message + Default> Receiver<A> {
    /// The next answer; None once the server has ended the call with OK. May be given up while it waits.
    pub async fn next(&mut self) -> Result<Option<A>, Error> {
        match self.next_bytes().await? {
            Some(message) => A::decode(message).map(Some).map_err(Error::transport),
            None => Ok(None),
        }
    }

    /// The same where an end is a failure.
    pub async fn expect(&mut self) -> Result<A, Error> {
        self.next().await?.ok_or_else(|| Error::transport("the stream has ended"))
    }
}

enum Body {
    Waiting(ResponseFuture),
    Open(RecvStream),
    Done,
}

impl Body {
    /// The next bytes; None after a status of OK.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self {
                Body::Waiting(response) => {
                    let response = response.await?;
                    check_head(&response)?;
                    if response.headers().contains_key("grpc-status") {
                        *self = Body::Done;
                        return status_of(response.headers()).map(|()| None);
                    }
                    *self = Body::Open(response.into_body());
                }
                Body::Open(stream) => match stream.data().await {
                    Some(chunk) => {
                        let chunk = chunk?;
                        stream.flow_control().release_capacity(chunk.len())?;
                        return Ok(Some(chunk));
                    }
                    None => {
                        let trailers = stream.trailers().await?;
                        *self = Body::Done;
                        let trailers = trailers.ok_or_else(|| Error::transport("an answer without trailers"))?;
                        return status_of(&trailers).map(|()| None);
                    }
                },
                Body::Done => return Ok(None),
            }
        }
    }
}

fn check_head(response: &Response<RecvStream>) -> Result<(), Error> {
    if response.status() != StatusCode::OK {
        return Err(Error::transport(format!("HTTP status {}", response.status())));
    }
    match response.headers().get("content-type") {
        Some(kind) if kind.as_bytes().starts_with(b"application/grpc") => Ok(()),
        kind => Err(Error::transport(format!("content-type {kind:?}"))),
    }
}

fn status_of(trailers: &HeaderMap) -> Result<(), Error> {
    let number = trailers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Error::transport("trailers without grpc-status"))?;
    // One that gRPC does not know counts as Unknown, as in grpc-go.
    match Code::of_number(number).unwrap_or(Code::Unknown) {
        Code::Ok => Ok(()),
        code => {
            let message = trailers.get("grpc-message").map_or(&b""[..], |value| value.as_bytes());
            Err(Error::Status { code, message: percent_decoded(message) })
        }
    }
}

/// gRPC spells what is not printable ASCII, and the percent sign, as %XX.
fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn messages_are_unescaped() {
        assert_eq!(percent_decoded(b"a%20b%25 %zz %C3%A9%"), "a b% %zz é%");
    }
}
