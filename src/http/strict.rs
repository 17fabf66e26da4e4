//! Requests that hyper takes and Go's net/http refuses. What lies in front of the server, or what it lies in front of, may read
//! them in another way: where one request ends and the next begins, and whose it is. (Go: net/http, transfer.go and server.go;
//! RFC 9112, sections 3.2, 6.1 and 11.2.)

use http::{HeaderValue, Request, StatusCode, header};

use super::answer::{self, Answer};

/// The answer to a request of HTTP/1 that is refused for its head alone; the connection ends with it.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Answer> {
    let headers = request.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(first) = codings.next() {
        let is_chunked = first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !is_chunked || codings.next().is_some() {
            return Some(answer::unsupported("Unsupported transfer encoding"));
        }
    }
    let is_length = |length: &HeaderValue| length.to_str().is_ok_and(|text| text.trim().parse::<i64>().is_ok());
    if !headers.get_all(header::CONTENT_LENGTH).iter().all(is_length) {
        return Some(answer::bad_request("400 Bad Request"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        if hosts.next().is_some() {
            return Some(answer::bad_request("400 Bad Request"));
        }
        if !host.as_bytes().iter().all(|byte| is_of_a_host(*byte)) {
            return Some(answer::bad_request("400 Bad Request: malformed Host header"));
        }
    }
    let expects = headers.get(header::EXPECT).filter(|expected| !expected.is_empty());
    if expects.is_some_and(|expected| !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let mut refusal = answer::empty();
        *refusal.status_mut() = StatusCode::EXPECTATION_FAILED;
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Some(refusal);
    }
    None
}

/// Go's leniency: any byte that may stand anywhere in a host, its port or its brackets. (golang.org/x/net/http/httpguts.)
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;='[]_~".contains(&byte)
}
