//! The same over HTTP/2 within TLS, on connections that carry gRPC as well. (Go: net/http's HTTP/2 server; grpc-go:
//! internal/transport/handler_server.go, for what is nearly gRPC.)

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Body as _;
use time::OffsetDateTime;

use super::{
    Site,
    answer::{self, Answer},
    respond,
};
use crate::{
    grpc::{LocalBoxFuture, plain, quoted},
    limits, runtime,
};

impl plain::Serve for Site {
    fn serve(&self, request: Request<plain::Body>, reply: plain::Reply) -> LocalBoxFuture<()> {
        let site = self.clone();
        Box::pin(async move { answer(&site, request, reply).await })
    }
}

async fn answer(site: &Site, request: Request<plain::Body>, mut reply: plain::Reply) {
    let is_head = request.method() == Method::HEAD;
    let session = Cell::new(None);
    let mut answering = pin!(respond(site, request, &session));
    let answered = poll_fn(|context| match answering.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => reply.poll_gone(context).map(|()| None),
    });
    let Some(answer) = answered.await else { return };
    let (mut head, mut body) = answer.into_parts();
    // Go tells the length of what it has whole before anything of it goes out, however it came about.
    let len = body.size_hint().exact().or(body.known_len().filter(|len| *len <= limits::HTTP2_WHOLE_BYTES as u64));
    if let Some(len) = len.filter(|len| *len > 0 || !is_head) {
        head.headers.insert(header::CONTENT_LENGTH, len.into());
    }
    head.headers.insert(header::DATE, date(OffsetDateTime::now_utc()));
    let only = is_head || len == Some(0);
    if only {
        hear_out(&reply).await;
    }
    if reply.send_head(&Response::from_parts(head, ()), only).is_err() || only {
        return;
    }
    loop {
        let frame = poll_fn(|context| {
            if reply.poll_gone(context).is_ready() {
                return Poll::Ready(None);
            }
            if reply.poll_room(context).is_pending() {
                return Poll::Pending;
            }
            Pin::new(&mut body).poll_frame(context).map(Some)
        });
        match frame.await {
            // Whoever it was for is gone, or it has broken off.
            None | Some(Some(Err(_))) => return,
            Some(None) => {
                hear_out(&reply).await;
                return reply.end();
            }
            Some(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data()
                    && reply.send(bytes).is_err()
                {
                    return;
                }
            }
        }
    }
}

/// Waits a moment for the end of a request that has been answered early. One that is still on its way when the answer ends
/// has its stream reset, and there are clients that take this for a failure, the answer notwithstanding.
async fn hear_out(reply: &plain::Reply) {
    let patience = Duration::from_millis(limits::HTTP2_HEAR_OUT_MS);
    let _ = runtime::timeout(patience, poll_fn(|context| reply.poll_heard(context))).await;
}

/// What grpc-go says to requests that say they are gRPC and are not.
pub(super) fn refuse_grpc<B>(request: &Request<B>) -> Option<Answer> {
    let content_type = request.headers().get(header::CONTENT_TYPE)?.as_bytes();
    let name = b"application/grpc";
    if !content_type.windows(name.len()).any(|window| window == name) {
        return None;
    }
    if request.method() == Method::POST {
        let text = format!("invalid gRPC request content-type {}", quoted(content_type));
        return Some(answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text));
    }
    let text = format!("invalid gRPC request method {}", quoted(request.method().as_str().as_bytes()));
    let mut refusal = answer::error(StatusCode::METHOD_NOT_ALLOWED, &text);
    refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    Some(refusal)
}

/// RFC 9110, section 5.6.7.
fn date(now: OffsetDateTime) -> HeaderValue {
    let (weekday, month) = (now.weekday().to_string(), now.month().to_string());
    let text = format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        now.day(),
        &month[..3],
        now.year(),
        now.hour(),
        now.minute(),
        now.second()
    );
    HeaderValue::from_str(&text).expect("a date may stand in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_spelt_as_http_spells_it() {
        let at = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
