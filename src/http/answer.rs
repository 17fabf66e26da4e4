//! Answers in the shapes that Go's net/http gives them.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::body::Body;

pub(super) type Answer = Response<Body>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

fn with(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::whole(body));
    *answer.status_mut() = status;
    answer
}

/// 200 without anything.
pub(super) fn empty() -> Answer {
    with(StatusCode::OK, "")
}

/// 200 with text whose type net/http finds out by looking.
pub(super) fn sniffed(body: impl Into<Bytes>) -> Answer {
    let mut answer = with(StatusCode::OK, body);
    answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    answer
}

/// 200 with text that says it is text.
pub(super) fn text(body: String) -> Answer {
    let mut answer = sniffed(body);
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    answer
}

pub(super) fn json(content_type: &'static str, body: String) -> Answer {
    let mut answer = with(StatusCode::OK, body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

pub(super) fn metrics(body: String, content_type: &'static str) -> Answer {
    json(content_type, body)
}

/// `http.Error`: the message and a line end.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    let mut answer = text(format!("{message}\n"));
    *answer.status_mut() = status;
    answer
}

pub(super) fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// 405 for anything but GET, HEAD among it.
pub(super) fn allow_get() -> Answer {
    allow("GET")
}

/// 405 for any other method.
pub(super) fn allow(method: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    answer
}

/// What net/http says to a request that is none, and then hangs up. The message begins with the status, and is its line.
pub(super) fn bad_request(message: &'static str) -> Answer {
    let mut answer = last(StatusCode::BAD_REQUEST, message);
    answer.extensions_mut().insert(ReasonPhrase::from_static(&message.as_bytes()["400 ".len()..]));
    answer
}

/// The same for a body that is sent in a way that is not known.
pub(super) fn unsupported(message: &'static str) -> Answer {
    last(StatusCode::NOT_IMPLEMENTED, message)
}

fn last(status: StatusCode, message: &'static str) -> Answer {
    let mut answer = sniffed(message);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Sends a path that is not in its shortest form there. Only those who may read it get a page.
pub(super) fn redirect(method: &Method, path: &str, query: Option<&str>) -> Answer {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let page = match *method {
        Method::GET => format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escape(&target)),
        _ => String::new(),
    };
    let mut answer = with(StatusCode::TEMPORARY_REDIRECT, page);
    if matches!(*method, Method::GET | Method::HEAD) {
        answer.headers_mut().insert(header::CONTENT_TYPE, HTML);
    }
    match HeaderValue::from_str(&target) {
        Ok(location) => {
            answer.headers_mut().insert(header::LOCATION, location);
            answer
        }
        // A decoded path may hold what no header can.
        Err(_) => bad_request("400 Bad Request"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

pub(super) fn misdirected(host: &str) -> Answer {
    let name = super::path::without_port(host);
    let message = format!(
        "The Host header of this request, {name:?}, is not one this server answers to.\n\nEither address it by another \
         name, or start it with --host-whitelist={name:?}\nas well. The check keeps web pages from reaching it by DNS \
         rebinding (CVE-2018-5702)."
    );
    error(StatusCode::MISDIRECTED_REQUEST, &message)
}

pub(super) fn allow_origin(answer: &mut Answer, origin: &str) {
    let Ok(origin) = HeaderValue::from_str(origin) else { return };
    let headers = answer.headers_mut();
    headers
        .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}
