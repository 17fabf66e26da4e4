//! The head of a request, judged before anything of its body is looked at: is it gRPC, which method, until when,
//! how compressed. Order and words of the refusals are grpc-go's.
//! (grpc-go: internal/transport/http2_server.go, operateHeaders; server.go, handleStream; http_util.go, decodeTimeout.)

use std::time::{Duration, Instant};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
    request::Parts,
};

use super::{Handler, Route, encoding::Encoding, response};
use crate::error::{self, Code, Status};

/// What the head says.
#[derive(Debug)]
pub(super) struct Head {
    pub route: Route,
    /// Of the response: it repeats the subtype of the request's.
    pub content_type: HeaderValue,
    pub deadline: Option<Instant>,
    pub encoding: Encoding,
}

/// Judges a head that came in at `arrived`. An error is the whole response.
pub(super) fn judge(head: &Parts, arrived: Instant, handler: &dyn Handler) -> Result<Head, Box<Response<()>>> {
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 {
        let authorities = usize::from(head.uri.authority().is_some());
        let text = format!(
            "num values of :authority: {authorities}, num values of host: {hosts}, both must only have 1 value as per \
             HTTP/2 spec"
        );
        return refuse(StatusCode::BAD_REQUEST, response::CONTENT_TYPE_GRPC, Status::internal(text));
    }
    let content_type = content_type(&head.headers)?;
    let timeout = match head.headers.get("grpc-timeout").map(timeout).transpose() {
        Ok(timeout) => timeout,
        Err(why) => {
            let status = Status::internal(format!("malformed grpc-timeout: {why}"));
            return refuse(StatusCode::BAD_REQUEST, content_type, status);
        }
    };
    if head.uri.authority().is_none() && hosts == 0 {
        let status = Status::internal("no host or :authority header present");
        return refuse(StatusCode::BAD_REQUEST, content_type, status);
    }
    if head.method != Method::POST {
        let text = format!(
            "Received a HEADERS frame with :method {} which should be POST",
            response::quoted(head.method.as_str().as_bytes())
        );
        return refuse(StatusCode::METHOD_NOT_ALLOWED, content_type, Status::internal(text));
    }
    // A deadline further off than the clock can tell is none.
    let deadline = timeout.and_then(|timeout| arrived.checked_add(timeout));
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return refuse(StatusCode::OK, content_type, error::DEADLINE_EXCEEDED);
    }
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(route) = handler.route(path) else {
        return refuse(StatusCode::OK, content_type, unknown(path, handler));
    };
    let encoding = match head.headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(other) => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {}", response::quoted(other));
            return Err(Box::new(response::unknown_encoding(content_type, &Status::unimplemented(text))));
        }
    };
    Ok(Head { route, content_type, deadline, encoding })
}

fn refuse<T>(http: StatusCode, content_type: HeaderValue, status: Status) -> Result<T, Box<Response<()>>> {
    Err(Box::new(response::trailers_only(http, content_type, &status)))
}

/// The content type to answer with.
fn content_type(headers: &HeaderMap) -> Result<HeaderValue, Box<Response<()>>> {
    // Any of several will do; without one that does, the last is the one complained of.
    let mut last: &[u8] = b"";
    for value in headers.get_all(CONTENT_TYPE) {
        match value.as_bytes().strip_prefix(b"application/grpc") {
            Some(b"" | b"+" | b";") => return Ok(response::CONTENT_TYPE_GRPC),
            Some([b'+', ..]) => return Ok(value.clone()),
            Some([b';', subtype @ ..]) => {
                let answer = [b"application/grpc+", subtype].concat();
                return Ok(HeaderValue::from_bytes(&answer).expect("part of a header value is one"));
            }
            _ => last = value.as_bytes(),
        }
    }
    let text = format!("invalid gRPC request content-type {}", response::quoted(last));
    let status = Status::new(Code::InvalidArgument, text);
    refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, response::CONTENT_TYPE_GRPC, status)
}

/// Why nothing serves the path.
fn unknown(path: &str, handler: &dyn Handler) -> Status {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return Status::unimplemented(format!("malformed method name: {}", response::quoted(path.as_bytes())));
    };
    if handler.knows_service(service) {
        Status::unimplemented(format!("unknown method {method} for service {service}"))
    } else {
        Status::unimplemented(format!("unknown service {service}"))
    }
}

/// Reads a `grpc-timeout`: one to eight digits and a unit.
fn timeout(value: &HeaderValue) -> Result<Duration, String> {
    let bytes = value.as_bytes();
    let quoted = || response::quoted(bytes);
    let [digits @ .., unit] = bytes else {
        return Err(format!("transport: timeout string is too short: {}", quoted()));
    };
    if digits.is_empty() {
        return Err(format!("transport: timeout string is too short: {}", quoted()));
    }
    if digits.len() > 8 {
        return Err(format!("transport: timeout string is too long: {}", quoted()));
    }
    let unit = match unit {
        b'H' => Duration::from_secs(60 * 60),
        b'M' => Duration::from_secs(60),
        b'S' => Duration::from_secs(1),
        b'm' => Duration::from_millis(1),
        b'u' => Duration::from_micros(1),
        b'n' => Duration::from_nanos(1),
        _ => return Err(format!("transport: timeout unit is not recognized: {}", quoted())),
    };
    let mut count = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(format!("strconv.ParseUint: parsing {}: invalid syntax", response::quoted(digits)));
        }
        count = count * 10 + u32::from(digit - b'0');
    }
    // At most 99,999,999 hours: 3.6e11 seconds, far within a Duration.
    Ok(unit * count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let read = |text: &str| timeout(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("1H"), Ok(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Ok(Duration::from_secs(120)));
        assert_eq!(read("3S"), Ok(Duration::from_secs(3)));
        assert_eq!(read("4m"), Ok(Duration::from_millis(4)));
        assert_eq!(read("5u"), Ok(Duration::from_micros(5)));
        assert_eq!(read("00000006n"), Ok(Duration::from_nanos(6)));
        assert_eq!(read("99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("0S"), Ok(Duration::ZERO));
    }

    #[test]
    fn bad_timeouts_are_refused_in_grpc_gos_words() {
        let read = |text: &str| timeout(&HeaderValue::from_str(text).unwrap()).unwrap_err();
        assert_eq!(read(""), r#"transport: timeout string is too short: """#);
        assert_eq!(read("S"), r#"transport: timeout string is too short: "S""#);
        assert_eq!(read("123456789S"), r#"transport: timeout string is too long: "123456789S""#);
        assert_eq!(read("1s"), r#"transport: timeout unit is not recognized: "1s""#);
        assert_eq!(read("-1S"), r#"strconv.ParseUint: parsing "-1": invalid syntax"#);
        assert_eq!(read("1 S"), r#"strconv.ParseUint: parsing "1 ": invalid syntax"#);
    }
}
