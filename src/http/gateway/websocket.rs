//! Websockets under `/v3/`: each message that comes is JSON for the call, each line of its answer goes as a message. A token
//! comes as `Sec-WebSocket-Protocol: Bearer, …`, since a page can set no other header, or in the cookie `token`. Frames are
//! the library's matter; here are the handshake, and who waits for whom. (RFC 6455; grpc-websocket-proxy: wsproxy, as etcd
//! sets it up in embed/serve.go.)

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use super::{
    Gateway, Order,
    answering::{Answering, Form},
    json_body::{Chunks, JsonBody},
    transcode::{decode_base64, encode_base64},
};
use crate::{
    error::Status,
    grpc::local::Messages as _,
    http::answer::{self, Answer},
    limits,
    runtime::socket::Address,
};

/// A websocket that has been agreed upon, and what is to be called through it.
pub(in crate::http) struct Session {
    gateway: Rc<Gateway>,
    path: String,
    headers: HeaderMap,
    local: Option<Rc<Address>>,
}

/// Whether a request asks for a websocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, header::CONNECTION, "upgrade") && has_token(headers, header::UPGRADE, "websocket")
}

/// Whether a header that is a list has this word on it.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Agrees to a websocket, which is then served behind the answer, or refuses it.
pub(super) fn accept<B>(
    gateway: &Rc<Gateway>,
    path: &str,
    request: &Request<B>,
    local: Option<&Rc<Address>>,
    session: &Cell<Option<Session>>,
) -> Answer {
    let headers = request.headers();
    if *request.method() != Method::GET {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], |key| key.as_bytes());
    let is_key = decode_base64(key).is_ok_and(|nonce| nonce.len() == 16);
    if !has_token(headers, header::SEC_WEBSOCKET_VERSION, "13") || !is_key {
        return refusal(StatusCode::BAD_REQUEST, "Bad Request");
    }
    session.set(Some(Session {
        gateway: gateway.clone(),
        path: path.to_owned(),
        headers: inner_headers(headers),
        local: local.cloned(),
    }));
    let mut answer = answer::empty();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let agreed = answer.headers_mut();
    agreed.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    agreed.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    agreed.insert(header::SEC_WEBSOCKET_ACCEPT, proof_of(key));
    if protocols(headers).starts_with("Bearer") {
        agreed.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn refusal(status: StatusCode, text: &str) -> Answer {
    let mut answer = answer::error(status, text);
    answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

/// What shows that the key has been read by somebody who knows websockets (RFC 6455, section 4.2.2).
fn proof_of(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut text = Vec::new();
    encode_base64(&mut text, &digest);
    HeaderValue::from_bytes(&text).expect("base64 may stand in a header")
}

fn protocols(headers: &HeaderMap) -> &str {
    headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The headers of the call: a token from where a page can put it.
fn inner_headers(headers: &HeaderMap) -> HeaderMap {
    let from_protocol = protocols(headers).split_once("Bearer,").map(|(_, token)| token.trim_matches(' '));
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let from_cookie = cookies.flat_map(|text| text.split(';')).find_map(|cookie| cookie.trim().strip_prefix("token="));
    let token = from_cookie.or(from_protocol);
    let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    HeaderMap::from_iter(value.map(|value| (header::AUTHORIZATION, value)))
}

/// Serves a websocket to its end. `read`: what has been read of it with the request.
pub(in crate::http) async fn serve<T>(io: T, read: Bytes, session: Session)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut socket = Socket::new(io, read, session);
    poll_fn(|context| socket.poll(context)).await;
}

/// What lies between the library and the connection.
#[derive(Default)]
struct Wire {
    inbound: BytesMut,
    outbound: BytesMut,
}

impl io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.inbound.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = buffer.len().min(self.inbound.len());
        self.inbound.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbound.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages that have come and were not taken. Clones are the same.
#[derive(Clone, Default)]
struct Payloads(Rc<RefCell<Queue>>);

#[derive(Default)]
struct Queue {
    payloads: VecDeque<Bytes>,
    bytes: usize,
    waiting: Option<Waker>,
}

impl Payloads {
    fn push(&self, payload: Bytes) {
        let mut queue = self.0.borrow_mut();
        // What stands in one message ends with it.
        for part in [payload, Bytes::from_static(b"\n")] {
            queue.bytes += part.len();
            queue.payloads.push_back(part);
        }
        if let Some(waiting) = queue.waiting.take() {
            waiting.wake();
        }
    }

    fn bytes(&self) -> usize {
        self.0.borrow().bytes
    }
}

impl Chunks for Payloads {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = self.0.borrow_mut();
        match queue.payloads.pop_front() {
            Some(payload) => {
                queue.bytes -= payload.len();
                Poll::Ready(Some(payload))
            }
            None => {
                queue.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Who answers.
enum Speaker {
    /// The one message of a call that takes no more has not come.
    Waiting(Order, JsonBody),
    Going(Box<Answering>, Form),
    Done,
}

struct Socket<T> {
    io: T,
    wire: Wire,
    protocol: WebSocketContext,
    payloads: Payloads,
    gateway: Rc<Gateway>,
    speaker: Speaker,
    /// Of what the speaker has written, so much has no end of a line in it.
    searched: usize,
    closing: bool,
}

/// Bytes on their way in either direction, above which no more is taken.
const QUEUED: usize = limits::GATEWAY_CHUNK_BYTES;

/// Rounds before others get their turn.
const ROUNDS: usize = 16;

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    fn new(io: T, read: Bytes, session: Session) -> Self {
        let Session { gateway, path, headers, local } = session;
        let bounds = gateway.bounds();
        let config = WebSocketConfig::default()
            .max_message_size(Some(bounds.json_bytes_max))
            .max_frame_size(Some(bounds.json_bytes_max))
            .read_buffer_size(limits::WEBSOCKET_READ_BYTES)
            .write_buffer_size(0);
        let payloads = Payloads::default();
        let mut refused = None;
        let speaker = match gateway.order(&path, true, &headers, local.as_ref()) {
            Ok(order) if order.method.takes_many => {
                Speaker::Going(Box::new(gateway.begin_conversation(order, payloads.clone())), Form::Lines)
            }
            Ok(order) => {
                let requests = JsonBody::new(payloads.clone(), order.method, bounds);
                Speaker::Waiting(order, requests)
            }
            Err(status) => {
                refused = Some(status);
                Speaker::Done
            }
        };
        let mut socket = Socket {
            io,
            wire: Wire::default(),
            protocol: WebSocketContext::from_partially_read(read.to_vec(), Role::Server, Some(config)),
            payloads,
            gateway,
            speaker,
            searched: 0,
            closing: false,
        };
        if let Some(status) = refused {
            socket.end_with(Form::One.error(&status));
        }
        socket
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let sent = match self.poll_send(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_gone)) => return Poll::Ready(()),
                Poll::Pending => false,
            };
            if self.closing {
                if !sent {
                    return Poll::Pending;
                }
                return Pin::new(&mut self.io).poll_shutdown(context).map(drop);
            }
            let heard = self.wire.outbound.len() < QUEUED && self.payloads.bytes() < QUEUED;
            let heard = match heard.then(|| self.poll_hear(context)) {
                Some(Poll::Ready(Ok(()))) => true,
                Some(Poll::Ready(Err(_gone))) => return Poll::Ready(()),
                Some(Poll::Pending) | None => false,
            };
            let spoken = self.wire.outbound.len() < QUEUED && self.poll_speak(context).is_ready();
            // Hearing may have left something to be sent: the answer to a ping.
            if !heard && !spoken && (!sent || self.wire.outbound.is_empty()) {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.wire.outbound.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &self.wire.outbound))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.wire.outbound.advance(sent),
            }
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Takes a message, or learns that no more will come.
    fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.protocol.read(&mut self.wire) {
                Ok(Message::Text(text)) => self.payloads.push(text.into()),
                Ok(Message::Binary(bytes)) => self.payloads.push(bytes),
                // The library answers them.
                Ok(_) => continue,
                Err(Error::Io(cause)) if cause.kind() == io::ErrorKind::WouldBlock => {
                    let mut bytes = [0; limits::WEBSOCKET_READ_BYTES];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
                    if buffer.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.wire.inbound.extend_from_slice(buffer.filled());
                    continue;
                }
                // By agreement, or because what came is no frame or too large.
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.end(),
                Err(_) => self.close(),
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// Has a bit more of the answer made and sends the lines that are whole.
    fn poll_speak(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.speaker {
            Speaker::Done => Poll::Pending,
            Speaker::Waiting(order, requests) => {
                let message = ready!(requests.poll_next(context));
                let message = message.unwrap_or_else(|| Err(requests.fault().unwrap_or(Status::OK)));
                let takes = if order.method.gives_many { Form::Lines } else { Form::One };
                match (message, std::mem::replace(&mut self.speaker, Speaker::Done)) {
                    (Ok(message), Speaker::Waiting(order, _)) => {
                        self.speaker = Speaker::Going(Box::new(self.gateway.begin(order, message)), takes);
                    }
                    (Err(status), _) => self.end_with(Form::One.error(&status)),
                    (Ok(_), _) => unreachable!("it was waiting"),
                }
                Poll::Ready(())
            }
            Speaker::Going(answering, form) => {
                let until = answering.out().len() + limits::GATEWAY_CHUNK_BYTES;
                let more = answering.poll_more(context, until);
                let mut out = std::mem::take(answering.out());
                let (pending, before) = (more.is_pending(), self.wire.outbound.len());
                let ended = match more {
                    Poll::Ready(Err(status)) => {
                        out.extend_from_slice(&form.error(&status));
                        true
                    }
                    Poll::Ready(Ok(all)) => all,
                    Poll::Pending => false,
                };
                let rest = self.send_lines(out);
                if ended {
                    self.end_with(rest);
                } else if let Speaker::Going(answering, _) = &mut self.speaker {
                    *answering.out() = rest;
                }
                if pending && self.wire.outbound.len() == before { Poll::Pending } else { Poll::Ready(()) }
            }
        }
    }

    /// Sends the lines that are whole and gives back the rest.
    fn send_lines(&mut self, mut out: Vec<u8>) -> Vec<u8> {
        let mut from = 0;
        while let Some(len) = out[from.max(self.searched)..].iter().position(|byte| *byte == b'\n') {
            let end = from.max(self.searched) + len;
            self.send(out[from..end].to_vec());
            from = end + 1;
        }
        out.drain(..from);
        self.searched = out.len();
        out
    }

    fn send(&mut self, line: Vec<u8>) {
        let line = String::from_utf8(line).expect("JSON is UTF-8");
        // The wire takes everything; what the library refuses comes after its end.
        let _ = self.protocol.write(&mut self.wire, Message::text(line));
    }

    /// Says the last, if there is something, and closes.
    fn end_with(&mut self, last: Vec<u8>) {
        if !last.is_empty() {
            self.send(last);
        }
        self.close();
    }

    fn close(&mut self) {
        let _ = self.protocol.close(&mut self.wire, None);
        self.end();
    }

    /// What is on its way is sent, and nothing else.
    fn end(&mut self) {
        self.speaker = Speaker::Done;
        self.closing = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_asks_for_a_websocket() {
        assert!(is_asked_for(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!is_asked_for(&headers(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!is_asked_for(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])));
        assert!(!is_asked_for(&headers(&[])));
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        // RFC 6455, section 1.3.
        assert_eq!(proof_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_token_comes_from_the_protocol_or_a_cookie() {
        let token = |pairs| inner_headers(&headers(pairs)).get(header::AUTHORIZATION).cloned();
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer, abc.1")]).unwrap(), "Bearer abc.1");
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer,abc")]).unwrap(), "Bearer abc");
        assert_eq!(token(&[("sec-websocket-protocol", "chat")]), None);
        assert_eq!(
            token(&[("cookie", "a=b; token=xyz"), ("sec-websocket-protocol", "Bearer,abc")]).unwrap(),
            "Bearer xyz"
        );
        assert_eq!(token(&[("authorization", "abc")]), None);
    }
}
