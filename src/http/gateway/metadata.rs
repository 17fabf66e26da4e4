//! What the head of an HTTP request says to gRPC: `Grpc-Metadata-*`, `Authorization`, `Grpc-Timeout`. Other headers say
//! nothing to etcd and are not handed on. (grpc-gateway: runtime/context.go, annotateContext.)

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderMap, header};

use super::transcode::decode_base64;
use crate::{
    error::{Code, Status},
    grpc::{Call, Metadata, Origin},
    runtime::socket::Address,
};

const PREFIX: &str = "grpc-metadata-";

/// The call that a request asks for at `now`.
///
/// # Errors
/// Where a header that has to be understood cannot be.
pub fn call_of(headers: &HeaderMap, local: Option<Rc<Address>>, now: Instant) -> Result<Call, Status> {
    let deadline = match headers.get("grpc-timeout").map(|timeout| timeout.as_bytes()) {
        None | Some(b"") => None,
        Some(timeout) => deadline(timeout, now)?,
    };
    let mut pairs: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, value) in headers {
        if *name == header::AUTHORIZATION {
            pairs.push(("authorization", value.as_bytes().to_vec()));
            continue;
        }
        let Some(key) = name.as_str().strip_prefix(PREFIX) else { continue };
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if key.is_empty() || !key.bytes().all(is_key) {
            continue;
        }
        if key.ends_with("-bin") {
            let bytes = decode_base64(value.as_bytes()).map_err(|at| {
                let name = canonical(name.as_str());
                let text = format!("invalid binary header {name}: illegal base64 data at input byte {at}");
                Status::new(Code::InvalidArgument, text)
            })?;
            pairs.push((key, bytes));
        } else if value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)) {
            pairs.push((key, value.as_bytes().to_vec()));
        }
    }
    let metadata = Metadata::of_pairs(pairs.iter().map(|(key, value)| (*key, &value[..])));
    // A certificate says nothing here: etcd's gateway calls with one of its own.
    let origin = Origin { certified: None, local };
    Ok(Call { metadata, origin, deadline, span: None })
}

/// When a call has to be over by its `Grpc-Timeout`, which may be negative; None: zero, and never.
fn deadline(text: &[u8], now: Instant) -> Result<Option<Instant>, Status> {
    let nanoseconds = nanoseconds(text).ok_or_else(|| {
        Status::new(Code::InvalidArgument, format!("invalid grpc-timeout: {}", String::from_utf8_lossy(text)))
    })?;
    Ok(match nanoseconds {
        0 => None,
        // What the clock cannot tell is never.
        1.. => now.checked_add(Duration::from_nanos(nanoseconds as u64)),
        _ => Some(now),
    })
}

fn nanoseconds(text: &[u8]) -> Option<i64> {
    let (unit, digits) = text.split_last()?;
    let unit: i64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let count: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // As Go's durations do.
    Some(unit.wrapping_mul(count))
}

/// A name as Go writes it: capitals at the beginning and after each hyphen.
fn canonical(name: &str) -> String {
    let mut capital = true;
    name.chars()
        .map(|letter| {
            let letter = if capital { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
            capital = letter == '-';
            letter
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(headers: &[(&str, &[u8])]) -> Result<Call, Status> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap()))
            .collect();
        call_of(&headers, None, Instant::now())
    }

    #[test]
    fn headers_become_metadata() {
        let call = of(&[
            ("Authorization", b"abc"),
            ("Grpc-Metadata-Token", b"t"),
            ("Grpc-Metadata-Hasleader", b"true"),
            ("Grpc-Metadata-X-Bin", b"AAE="),
            ("Grpc-Metadata-Bad", b"\xe9"),
            ("Grpc-Metadata-Bad!", b"x"),
            ("Token", b"no"),
        ])
        .unwrap();
        let get = |name| call.metadata.get(name);
        assert_eq!(get("authorization"), Some(&b"abc"[..]));
        assert_eq!((get("token"), get("hasleader")), (Some(&b"t"[..]), Some(&b"true"[..])));
        assert_eq!((get("x-bin"), get("bad"), get("bad!")), (Some(&b"\0\x01"[..]), None, None));
        assert_eq!(call.deadline, None);
        let refused = of(&[("Grpc-Metadata-X-Bin", b"A!")]).unwrap_err();
        assert_eq!(refused.message, "invalid binary header Grpc-Metadata-X-Bin: illegal base64 data at input byte 1");
    }

    #[test]
    fn timeouts_are_read_as_the_gateway_reads_them() {
        let left = |text: &str| {
            let deadline = of(&[("Grpc-Timeout", text.as_bytes())]).map(|call| call.deadline)?;
            Ok::<_, Status>(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs()))
        };
        for (text, wanted) in
            [("", None), ("0S", None), ("1H", Some(3599)), ("2M", Some(119)), ("5000m", Some(4)), ("-1S", Some(0))]
        {
            assert_eq!(left(text).unwrap(), wanted, "{text}");
        }
        for text in ["S", "5", "5s", "x5S", "99999999999999999999n"] {
            let refused = left(text).unwrap_err();
            assert_eq!(refused, Status::new(Code::InvalidArgument, format!("invalid grpc-timeout: {text}")));
        }
    }
}
