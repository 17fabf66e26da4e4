//! What goes back to a caller beside messages: response headers, trailers, and refusals that never reach a handler.
//! Names and texts are grpc-go's.

use std::{borrow::Cow, fmt::Write};

use super::{
    encoding::Encoding,
    http2::{CONTENT_TYPE_GRPC, Encoder, Text, put_field, put_http_status},
};
use crate::error::Status;

/// A call that ends before it has reached a handler.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Of HTTP.
    pub http: u16,
    pub content_type: Text,
    pub status: Status,
    /// The caller is told which compressions are known.
    pub tell_encodings: bool,
}

/// Head of a response that messages follow.
pub(super) fn put_head(encoder: &mut Encoder, out: &mut Vec<u8>, content_type: &[u8], encoding: Encoding) {
    put_http_head(encoder, out, 200, content_type);
    if encoding == Encoding::Gzip {
        put_field(out, b"grpc-encoding", b"gzip");
    }
}

/// A response that is nothing but a head with a status.
pub(super) fn put_refusal(encoder: &mut Encoder, out: &mut Vec<u8>, refusal: &Refusal) {
    put_http_head(encoder, out, refusal.http, &refusal.content_type);
    put_status(encoder, out, &refusal.status);
    if refusal.tell_encodings {
        put_field(out, b"grpc-accept-encoding", b"gzip,identity");
    }
}

fn put_http_head(encoder: &mut Encoder, out: &mut Vec<u8>, http: u16, content_type: &[u8]) {
    if http == 200 && content_type == CONTENT_TYPE_GRPC {
        encoder.put_grpc_head(out);
    } else {
        put_http_status(out, http);
        put_field(out, b"content-type", content_type);
    }
}

/// The fields that end a call: of trailers, or of a head that is all there is.
pub(super) fn put_status(encoder: &mut Encoder, out: &mut Vec<u8>, status: &Status) {
    const NUMBERS: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    if status.is_ok() && status.message.is_empty() {
        return encoder.put_ok(out);
    }
    put_field(out, b"grpc-status", NUMBERS[status.code as usize].as_bytes());
    // Present though empty, as grpc-go's.
    put_field(out, b"grpc-message", encoded(&status.message).as_bytes());
}

/// A message as it may stand in a header.
fn encoded(message: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    if message.bytes().all(plain) {
        return Cow::Borrowed(message);
    }
    let mut encoded = String::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if plain(byte) {
            encoded.push(byte as char);
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
    }
    Cow::Owned(encoded)
}

/// Text in quotes as Go's %q has it: what is quoted comes from the caller.
pub fn quoted(bytes: &[u8]) -> String {
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
    use crate::error;

    #[test]
    fn a_message_is_encoded_byte_by_byte() {
        assert_eq!(encoded("a b~"), "a b~");
        assert_eq!(encoded("100%\n"), "100%25%0A");
        assert_eq!(encoded("ключ"), "%D0%BA%D0%BB%D1%8E%D1%87");
        assert_eq!(encoded(""), "");
    }

    #[test]
    fn every_error_of_the_table_can_be_sent_as_it_is() {
        for status in error::ALL {
            assert_eq!(encoded(&status.message), status.message);
        }
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(quoted(b"/a\"b\\c\n\x01\x7f"), r#""/a\"b\\c\n\x01\x7f""#);
        assert_eq!(quoted("é\u{85}".as_bytes()), r#""é\u0085""#);
        assert_eq!(quoted(b"\xff\xfea"), r#""\xff\xfea""#);
    }
}
