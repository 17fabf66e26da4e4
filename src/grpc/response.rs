//! What goes back to a caller beside messages: response headers, trailers, and refusals that never reach a handler.
//! Names and texts are grpc-go's.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use super::encoding::Encoding;
use crate::error::Status;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The content type without a subtype.
pub(super) const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Headers of a response that messages follow.
pub(super) fn headers(content_type: HeaderValue, encoding: Encoding) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if encoding == Encoding::Gzip {
        response.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// A response that is nothing but a status.
pub(super) fn trailers_only(http: StatusCode, content_type: HeaderValue, status: &Status) -> Response<()> {
    let mut response = headers(content_type, Encoding::Identity);
    *response.status_mut() = http;
    put_status(response.headers_mut(), status);
    response
}

/// The same for a compression that is not known: it also says which are.
pub(super) fn unknown_encoding(content_type: HeaderValue, status: &Status) -> Response<()> {
    let mut response = trailers_only(StatusCode::OK, content_type, status);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("gzip,identity"));
    response
}

pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    put_status(&mut trailers, status);
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    const NUMBERS: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    headers.insert(GRPC_STATUS, HeaderValue::from_static(NUMBERS[status.code as usize]));
    // Present though empty, as grpc-go's.
    headers.insert(GRPC_MESSAGE, message(status));
}

fn message(status: &Status) -> HeaderValue {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    if status.message.bytes().all(plain) {
        return match &status.message {
            std::borrow::Cow::Borrowed(text) => HeaderValue::from_static(text),
            std::borrow::Cow::Owned(text) => HeaderValue::from_str(text).expect("printable ASCII is a header value"),
        };
    }
    let mut encoded = String::with_capacity(status.message.len() + 16);
    for byte in status.message.bytes() {
        if plain(byte) {
            encoded.push(byte as char);
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
    }
    HeaderValue::try_from(encoded).expect("printable ASCII is a header value")
}

/// Text in quotes as Go's %q has it: what is quoted comes from the caller.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{7}' => out.push_str("\\a"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{b}' => out.push_str("\\v"),
                '\0'..' ' | '\u{7f}' => write!(out, "\\x{:02x}", letter as u32).expect("a string takes everything"),
                '\u{80}'..='\u{a0}' | '\u{ad}' => {
                    write!(out, "\\u{:04x}", letter as u32).expect("a string takes everything");
                }
                _ => out.push(letter),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{self, Code};

    #[test]
    fn a_message_is_encoded_byte_by_byte() {
        let encoded = |text: &str| message(&Status::new(Code::Unknown, text)).to_str().unwrap().to_owned();
        assert_eq!(encoded("a b~"), "a b~");
        assert_eq!(encoded("100%\n"), "100%25%0A");
        assert_eq!(encoded("ключ"), "%D0%BA%D0%BB%D1%8E%D1%87");
        assert_eq!(encoded(""), "");
    }

    #[test]
    fn every_error_of_the_table_can_be_sent() {
        for status in error::ALL {
            let trailers = trailers(status);
            assert_eq!(trailers["grpc-message"], status.message.as_ref());
            assert_eq!(trailers["grpc-status"], (status.code as u8).to_string());
        }
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(quoted(b"/a\"b\\c\n\x01\x7f"), r#""/a\"b\\c\n\x01\x7f""#);
        assert_eq!(quoted("é\u{85}".as_bytes()), r#""é\u0085""#);
        assert_eq!(quoted(b"\xff\xfea"), r#""\xff\xfea""#);
    }
}
