//! Requests of HTTP/2 that are not gRPC: within TLS a connection carries both, and these are handed to who serves HTTP. Their
//! streams are bounded as those of calls are: by windows inward, by `limits::GRPC_REPLY_QUEUE_BYTES` and one piece outward,
//! and there are no more of them at a time than `limits::HTTP2_REQUESTS_MAX`. (etcd: embed/serve.go, grpcHandlerFunc.)

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};

use super::{
    LocalBoxFuture,
    http2::{BodyEnd, Gone, Head, Key, Reason, put_field, put_http_status},
    link::Link,
};
use crate::{limits, runtime};

/// What a connection within TLS carries.
pub struct Within {
    pub takes_grpc: bool,
    /// What serves requests that are not gRPC.
    pub plain: Option<Rc<dyn Serve>>,
    serving: Cell<usize>,
}

impl Within {
    pub fn new(takes_grpc: bool, plain: Option<Rc<dyn Serve>>) -> Self {
        Within { takes_grpc, plain, serving: Cell::new(0) }
    }
}

/// Serves HTTP.
pub trait Serve {
    fn serve(&self, request: Request<Body>, reply: Reply) -> LocalBoxFuture<()>;
}

pub(super) fn is_served(link: &Link) -> bool {
    link.within.as_ref().is_some_and(|within| within.plain.is_some())
}

/// Hands over a request that has come.
pub(super) fn begin(key: Key, head: Head, link: &Rc<Link>) {
    let within = link.within.as_ref().expect("only there are such requests");
    let hold = Rc::new(Hold { link: link.clone(), key });
    let begun = within.serving.get();
    within.serving.set(begun + 1);
    if begun >= limits::HTTP2_REQUESTS_MAX {
        return link.with(|http2| http2.reset(key, Reason::RefusedStream));
    }
    let body = Body { hold: hold.clone(), is_awaited: false };
    let (Some(plain), Some(request)) = (&within.plain, request_of(&head, body)) else {
        return link.with(|http2| http2.reset(key, Reason::Protocol));
    };
    runtime::spawn(plain.serve(request, Reply { hold, ended: false }));
}

fn request_of(head: &Head, body: Body) -> Option<Request<Body>> {
    if !head.path.starts_with(b"/") && *head.path != *b"*" {
        return None;
    }
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::from_bytes(&head.method).ok()?;
    *request.uri_mut() = Uri::try_from(&head.path[..]).ok()?;
    let headers = request.headers_mut();
    let host = head.authority.as_ref().filter(|text| !text.is_empty()).or(head.host.as_ref());
    headers.insert(header::HOST, HeaderValue::from_bytes(host.map_or(&b""[..], |text| text)).ok()?);
    for value in &head.content_types {
        headers.append(header::CONTENT_TYPE, HeaderValue::from_bytes(value).ok()?);
    }
    if let Some(timeout) = &head.timeout {
        headers.insert("grpc-timeout", HeaderValue::from_bytes(timeout).ok()?);
    }
    for field in head.metadata.fields() {
        headers.append(HeaderName::from_bytes(&field.name).ok()?, HeaderValue::from_bytes(&field.value).ok()?);
    }
    let expected = request.headers().get(header::EXPECT);
    request.body_mut().is_awaited = expected.is_some_and(|text| text.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Some(request)
}

/// The stream, given back when neither its body nor its answer is held any more.
struct Hold {
    link: Rc<Link>,
    key: Key,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.link.with(|http2| http2.let_go(self.key));
        if let Some(within) = &self.link.within {
            within.serving.set(within.serving.get() - 1);
        }
    }
}

/// The body of a request.
pub struct Body {
    hold: Rc<Hold>,
    /// It is sent when it has been asked for (RFC 9110, section 10.1.1).
    is_awaited: bool,
}

impl Body {
    /// What has come of it, its window given back; None at its end, whatever that is.
    pub fn poll_chunk(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        let Hold { link, key } = &*self.hold;
        if std::mem::take(&mut self.is_awaited) {
            // Who is gone does not send it.
            let _ = link.with(|http2| http2.send_head(*key, |_, out| put_http_status(out, 100)));
        }
        link.with(|http2| match (http2.body(*key).len(), http2.body_end(*key)) {
            (_, Some(BodyEnd::Reset)) | (0, Some(BodyEnd::Whole)) => Poll::Ready(None),
            (0, None) => {
                http2.await_body(*key, context);
                Poll::Pending
            }
            (len, _) => Poll::Ready(Some(http2.take_body(*key, 0, len))),
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.hold.link.with(|http2| http2.stop_reading(self.hold.key));
    }
}

/// The way back to who has made a request. Dropped before its end, it resets the stream.
pub struct Reply {
    hold: Rc<Hold>,
    ended: bool,
}

impl Reply {
    /// Sends the head; `only`: there is nothing more.
    pub fn send_head(&mut self, head: &Response<()>, only: bool) -> Result<(), Gone> {
        self.ended |= only;
        self.hold.link.with(|http2| {
            let write = |out: &mut Vec<u8>| put_head(out, head.status().as_u16(), head.headers());
            match only {
                true => {
                    http2.send_only_head(self.hold.key, |_, out| write(out));
                    Ok(())
                }
                false => http2.send_head(self.hold.key, |_, out| write(out)),
            }
        })
    }

    pub fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.hold.link.with(|http2| http2.send_parts(self.hold.key, [bytes]))
    }

    pub fn end(&mut self) {
        self.ended = true;
        self.hold.link.with(|http2| http2.end_answer(self.hold.key));
    }

    /// Ready when nearly all that was sent has been taken.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        self.hold.link.with(|http2| http2.poll_room(self.hold.key, context))
    }

    /// Ready once all of the request has come, or the client is gone.
    pub fn poll_heard(&self, context: &Context<'_>) -> Poll<()> {
        self.hold.link.with(|http2| match http2.body_end(self.hold.key) {
            Some(_) => Poll::Ready(()),
            None => {
                http2.await_body(self.hold.key, context);
                Poll::Pending
            }
        })
    }

    /// Ready once the client has given up or is gone.
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        self.hold.link.with(|http2| http2.poll_gone(self.hold.key, context))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.ended {
            self.hold.link.with(|http2| http2.reset(self.hold.key, Reason::Internal));
        }
    }
}

fn put_head(out: &mut Vec<u8>, status: u16, headers: &HeaderMap) {
    put_http_status(out, status);
    for (name, value) in headers {
        // Those of a connection of HTTP/1.1 have no place here.
        if !matches!(*name, header::CONNECTION | header::TRAILER) {
            put_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
}
