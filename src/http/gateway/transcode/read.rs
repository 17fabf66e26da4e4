//! From JSON to a message's bytes, in one go and without a tree in between: what a message is made of is written as it
//! is read, and the lengths of messages within messages are put in at the end. Of one that is larger than it may be only
//! the size is kept. (protojson: encoding/protojson/decode.go.)

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use smallvec::SmallVec;

use super::{
    base64, number,
    schema::{Field, Kind, Message, enum_of, message_of},
    token::{self, Token, Tokens},
};
use crate::limits;

/// What JSON was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Message(Vec<u8>),
    /// A message of so many bytes, which are more than may be.
    TooLarge(usize),
}

/// Reads a message out of a text that is one JSON value.
///
/// # Errors
/// What is wrong with it and where, in protojson's words.
pub fn read(message: &'static Message, json: &[u8], bytes_max: usize) -> Result<Read, String> {
    let mut reader = Reader { tokens: Tokens::of(json), out: Out::new(bytes_max) };
    reader.message(message, limits::GATEWAY_MESSAGE_DEPTH_MAX)?;
    Ok(reader.out.finish())
}

struct Reader<'a> {
    tokens: Tokens<'a>,
    out: Out,
}

impl<'a> Reader<'a> {
    /// `depth`: how many more messages may be within one another.
    fn message(&mut self, message: &'static Message, depth: usize) -> Result<(), String> {
        let Some(depth) = depth.checked_sub(1) else { return Err("proto: exceeded max recursion depth".to_owned()) };
        let token = self.tokens.next()?;
        if token.kind != token::Kind::Object {
            return Err(self.tokens.unexpected(&token));
        }
        let mut seen = 0u64;
        let mut oneofs: SmallVec<[&str; 1]> = SmallVec::new();
        loop {
            let token = self.tokens.next()?;
            let name = match &token.kind {
                token::Kind::ObjectEnd => return Ok(()),
                token::Kind::Text(name) => name,
                _ => return Err(self.tokens.unexpected(&token)),
            };
            let raw = || String::from_utf8_lossy(token.raw);
            let Some((at, field)) = message.field(name) else {
                self.skip()?;
                continue;
            };
            if seen & 1 << at != 0 {
                return Err(self.tokens.fault(token.at, &format!("duplicate field {}", raw())));
            }
            seen |= 1 << at;
            if self.tokens.peek() == Some(b'n') {
                self.tokens.next()?;
                continue;
            }
            if field.repeated {
                self.list(field, depth)?;
                continue;
            }
            if let Some(oneof) = field.oneof.as_deref() {
                if oneofs.contains(&oneof) {
                    let what = format!("error parsing {}, oneof {oneof} is already set", raw());
                    return Err(self.tokens.fault(token.at, &what));
                }
                oneofs.push(oneof);
            }
            self.value(field, field.oneof.is_some(), depth)?;
        }
    }

    fn list(&mut self, field: &'static Field, depth: usize) -> Result<(), String> {
        let token = self.tokens.next()?;
        if token.kind != token::Kind::Array {
            return Err(self.tokens.unexpected(&token));
        }
        while self.tokens.peek() != Some(b']') {
            self.value(field, true, depth)?;
        }
        self.tokens.next().map(drop)
    }

    /// One value of a field. `present`: it is written though it be zero.
    fn value(&mut self, field: &'static Field, present: bool, depth: usize) -> Result<(), String> {
        let number = field.number;
        if let Kind::Message(place) = field.kind {
            self.out.open(number);
            self.message(message_of(place), depth)?;
            self.out.close();
            return Ok(());
        }
        let token = self.tokens.next()?;
        let varint = match field.kind {
            Kind::Bool => match token.kind {
                token::Kind::Bool(value) => Some(u64::from(value)),
                _ => None,
            },
            Kind::Int64 => number_of(&token).and_then(number::int).map(|value| value as u64),
            Kind::Uint64 => number_of(&token).and_then(number::uint),
            Kind::Uint32 => number_of(&token).and_then(number::uint).filter(|value| *value <= u32::MAX.into()),
            Kind::Enum(place) => match &token.kind {
                // A name that is not known is left out.
                token::Kind::Text(name) => match enum_of(place).by_name.get(&**name) {
                    Some(value) => Some(i64::from(*value) as u64),
                    None => return Ok(()),
                },
                token::Kind::Number => number::int(token.raw)
                    .and_then(|value| i32::try_from(value).ok())
                    .map(|value| i64::from(value) as u64),
                _ => None,
            },
            Kind::Text | Kind::Bytes => {
                let bytes = match &token.kind {
                    token::Kind::Text(text) if field.kind == Kind::Text => Some(text.as_bytes().to_vec()),
                    token::Kind::Text(text) => base64::decode(text.as_bytes()).ok(),
                    _ => None,
                };
                let bytes = bytes.ok_or_else(|| self.invalid(field, &token))?;
                if present || !bytes.is_empty() {
                    self.out.put_bytes(number, &bytes);
                }
                return Ok(());
            }
            Kind::Message(_) => unreachable!("told apart above"),
        };
        let value = varint.ok_or_else(|| self.invalid(field, &token))?;
        if present || value != 0 {
            self.out.put_varint(number, value);
        }
        Ok(())
    }

    fn invalid(&self, field: &Field, token: &Token<'a>) -> String {
        let raw = String::from_utf8_lossy(token.raw);
        let what = format!("invalid value for {} field {}: {raw}", field.kind.name(), field.json_name);
        self.tokens.fault(token.at, &what)
    }

    /// Passes over a value.
    fn skip(&mut self) -> Result<(), String> {
        let mut open = 0;
        loop {
            match self.tokens.next()?.kind {
                token::Kind::Object | token::Kind::Array => open += 1,
                token::Kind::ObjectEnd | token::Kind::ArrayEnd => open -= 1,
                token::Kind::End => return Err("proto: unexpected EOF".to_owned()),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }
}

/// The number that a token is, or that its text begins with and nothing that could be part of it follows. (protojson reads
/// one token of the text and does not look further.)
fn number_of<'t>(token: &'t Token<'_>) -> Option<&'t [u8]> {
    match &token.kind {
        token::Kind::Number => Some(token.raw),
        token::Kind::Text(text) if text.trim().len() == text.len() => {
            let len = number::len(text.as_bytes())?;
            Some(&text.as_bytes()[..len])
        }
        _ => None,
    }
}

/// A message being written. All but the heads of messages within it lies in one buffer; those are put in at the end, when
/// every length is known.
struct Out {
    flat: Vec<u8>,
    heads: Vec<Head>,
    open: Vec<Open>,
    /// Bytes of `flat`, whether they are kept or not.
    written: usize,
    /// Bytes of the heads that are closed.
    heads_bytes: usize,
    bytes_max: usize,
    kept: bool,
}

/// Of a message within the message.
struct Head {
    /// Where its body begins in `flat`.
    at: u32,
    number: u32,
    len: u32,
}

struct Open {
    /// Among the heads.
    head: usize,
    at: usize,
    number: u32,
    /// `heads_bytes` when it was opened.
    heads_bytes: usize,
}

impl Out {
    fn new(bytes_max: usize) -> Self {
        Out {
            flat: Vec::new(),
            heads: Vec::new(),
            open: Vec::new(),
            written: 0,
            heads_bytes: 0,
            // Places fit into an u32.
            bytes_max: bytes_max.min(limits::SEND_BYTES_MAX),
            kept: true,
        }
    }

    fn put_varint(&mut self, number: u32, value: u64) {
        self.wrote(key_len(number) + encoded_len_varint(value));
        if self.kept {
            encode_key(number, WireType::Varint, &mut self.flat);
            encode_varint(value, &mut self.flat);
        }
    }

    fn put_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.wrote(key_len(number) + encoded_len_varint(bytes.len() as u64) + bytes.len());
        if self.kept {
            encode_key(number, WireType::LengthDelimited, &mut self.flat);
            encode_varint(bytes.len() as u64, &mut self.flat);
            self.flat.extend_from_slice(bytes);
        }
    }

    fn open(&mut self, number: u32) {
        self.open.push(Open { head: self.heads.len(), at: self.written, number, heads_bytes: self.heads_bytes });
        if self.kept {
            self.heads.push(Head { at: self.written as u32, number, len: 0 });
        }
    }

    fn close(&mut self) {
        let Open { head, at, number, heads_bytes } = self.open.pop().expect("one is open");
        let len = self.written - at + self.heads_bytes - heads_bytes;
        self.heads_bytes += key_len(number) + encoded_len_varint(len as u64);
        self.wrote(0);
        if self.kept {
            self.heads[head].len = len as u32;
        }
    }

    /// So many bytes more. Once they are too many none are kept.
    fn wrote(&mut self, len: usize) {
        self.written += len;
        if self.kept && self.written + self.heads_bytes > self.bytes_max {
            self.kept = false;
            (self.flat, self.heads) = (Vec::new(), Vec::new());
        }
    }

    fn finish(self) -> Read {
        let len = self.written + self.heads_bytes;
        if !self.kept {
            return Read::TooLarge(len);
        }
        if self.heads.is_empty() {
            return Read::Message(self.flat);
        }
        let mut message = Vec::with_capacity(len);
        let mut from = 0;
        for head in &self.heads {
            message.extend_from_slice(&self.flat[from..head.at as usize]);
            from = head.at as usize;
            encode_key(head.number, WireType::LengthDelimited, &mut message);
            encode_varint(head.len.into(), &mut message);
        }
        message.extend_from_slice(&self.flat[from..]);
        debug_assert_eq!(message.len(), len);
        Read::Message(message)
    }
}
