//! The head of a request, judged before anything of its body is looked at: is it gRPC, which method, until when,
//! how compressed. Order and words of the refusals are grpc-go's.
//! (grpc-go: internal/transport/http2_server.go, operateHeaders; server.go, handleStream; http_util.go, decodeTimeout.)

use std::time::{Duration, Instant};

use super::{
    Handler, Route,
    encoding::Encoding,
    http2::{CONTENT_TYPE_GRPC, Head, Text},
    response::{self, Refusal},
};
use crate::error::{self, Code, Status};

const GRPC: Text = Text::Fixed(CONTENT_TYPE_GRPC);

/// What the head says.
#[derive(Debug)]
pub(super) struct Order {
    pub route: Route,
    /// Of the response: it repeats the subtype of the request's.
    pub content_type: Text,
    pub deadline: Option<Instant>,
    pub encoding: Encoding,
}

/// Whether a head that no method was found for is gRPC's to refuse, where HTTP is served beside it. Below `/v3/` nothing is.
pub(super) fn is_grpc(head: &Head) -> bool {
    let is_post = *head.method == *b"POST" && !head.path.starts_with(b"/v3/");
    is_post && head.content_types.first().is_some_and(|value| content_type(std::slice::from_ref(value)).is_ok())
}

/// Judges a head that came in at `arrived`.
pub(super) fn judge(head: &Head, arrived: Instant, handler: &dyn Handler) -> Result<Order, Box<Refusal>> {
    if head.hosts > 1 {
        let text = format!(
            "num values of :authority: {}, num values of host: {}, both must only have 1 value as per HTTP/2 spec",
            usize::from(head.authority.is_some()),
            head.hosts
        );
        return refuse(400, GRPC, Status::internal(text));
    }
    let content_type = content_type(&head.content_types)?;
    let timeout = match head.timeout.as_deref().map(timeout).transpose() {
        Ok(timeout) => timeout,
        Err(why) => return refuse(400, content_type, Status::internal(format!("malformed grpc-timeout: {why}"))),
    };
    if head.authority.is_none() && head.hosts == 0 {
        return refuse(400, content_type, Status::internal("no host or :authority header present"));
    }
    if *head.method != *b"POST" {
        let method = response::quoted(&head.method);
        let text = format!("Received a HEADERS frame with :method {method} which should be POST");
        return refuse(405, content_type, Status::internal(text));
    }
    // A deadline further off than the clock can tell is none.
    let deadline = timeout.and_then(|timeout| arrived.checked_add(timeout));
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return refuse(200, content_type, error::DEADLINE_EXCEEDED);
    }
    let Some(route) = std::str::from_utf8(&head.path).ok().and_then(|path| handler.route(path)) else {
        return refuse(200, content_type, unknown(&String::from_utf8_lossy(&head.path), handler));
    };
    let encoding = match head.encoding.as_deref() {
        None | Some(b"" | b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(other) => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {}", response::quoted(other));
            let status = Status::unimplemented(text);
            return Err(Box::new(Refusal { http: 200, content_type, status, tell_encodings: true }));
        }
    };
    Ok(Order { route, content_type, deadline, encoding })
}

fn refuse<T>(http: u16, content_type: Text, status: Status) -> Result<T, Box<Refusal>> {
    Err(Box::new(Refusal { http, content_type, status, tell_encodings: false }))
}

/// The content type to answer with.
fn content_type(values: &[Text]) -> Result<Text, Box<Refusal>> {
    // Any of several will do; without one that does, the last is the one complained of.
    let mut last: &[u8] = b"";
    for value in values {
        match value.strip_prefix(CONTENT_TYPE_GRPC) {
            Some(b"" | b"+" | b";") => return Ok(GRPC),
            Some([b'+', ..]) => return Ok(value.clone()),
            Some([b';', subtype @ ..]) => {
                return Ok(Text::Shared([b"application/grpc+", subtype].concat().into()));
            }
            _ => last = value,
        }
    }
    let text = format!("invalid gRPC request content-type {}", response::quoted(last));
    refuse(415, GRPC, Status::new(Code::InvalidArgument, text))
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
fn timeout(bytes: &[u8]) -> Result<Duration, String> {
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
        let read = |text: &str| timeout(text.as_bytes());
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
        let read = |text: &str| timeout(text.as_bytes()).unwrap_err();
        assert_eq!(read(""), r#"transport: timeout string is too short: """#);
        assert_eq!(read("S"), r#"transport: timeout string is too short: "S""#);
        assert_eq!(read("123456789S"), r#"transport: timeout string is too long: "123456789S""#);
        assert_eq!(read("1s"), r#"transport: timeout unit is not recognized: "1s""#);
        assert_eq!(read("-1S"), r#"strconv.ParseUint: parsing "-1": invalid syntax"#);
        assert_eq!(read("1 S"), r#"strconv.ParseUint: parsing "1 ": invalid syntax"#);
    }
}
