//! From a message's bytes to JSON, piece by piece on both sides: of a message that is still coming no more is held than the
//! value that is not whole yet, and no more is written at a time than was asked for. It needs messages whose fields come in
//! order of their numbers, as every encoder writes them. (protojson: encoding/protojson/encode.go.)

use std::{collections::VecDeque, io::Write as _};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    base64,
    schema::{Field, Kind, Message, enum_of, message_of},
};
use crate::limits;

/// Which letters of a text are escaped beside those that JSON demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    Json,
    /// Those that mean something in a page, too: Go's encoding/json has put the whole together.
    Html,
}

/// Bytes that have come and were not taken.
#[derive(Debug, Default)]
pub struct Input {
    parts: VecDeque<Bytes>,
    len: usize,
}

impl Input {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push_back(part);
        }
    }

    /// The next `len` bytes, which are there.
    pub fn take(&mut self, len: usize) -> Bytes {
        self.len -= len;
        let Some(front) = self.parts.front_mut() else { return Bytes::new() };
        if front.len() > len {
            return front.split_to(len);
        }
        if front.len() == len {
            return self.parts.pop_front().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(len);
        while joined.len() < len {
            let front = self.parts.front_mut().expect("so many bytes are there");
            let piece = front.split_to(front.len().min(len - joined.len()));
            joined.extend_from_slice(&piece);
            if !front.has_remaining() {
                self.parts.pop_front();
            }
        }
        joined.freeze()
    }

    fn byte(&self, mut at: usize) -> Option<u8> {
        for part in &self.parts {
            match part.get(at) {
                Some(byte) => return Some(*byte),
                None => at -= part.len(),
            }
        }
        None
    }

    /// The varint at a place, and its length.
    fn varint(&self, at: usize) -> Varint {
        let mut value = 0u64;
        for len in 0..10 {
            let Some(byte) = self.byte(at + len) else { return Varint::Cut };
            value |= u64::from(byte & 0x7f) << (7 * len);
            if byte < 0x80 {
                return Varint::Is(value, len + 1);
            }
        }
        Varint::Broken
    }
}

enum Varint {
    Is(u64, usize),
    Cut,
    Broken,
}

/// Why writing has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The message is written.
    Done,
    /// As much is written as was asked for.
    Full,
    /// More of the message has to come.
    Hungry,
    /// These are not the bytes of such a message.
    Broken,
}

/// One message on its way.
#[derive(Debug)]
pub struct Writer {
    escape: Escape,
    /// Messages within one another; empty when all is written.
    levels: SmallVec<[Level; 4]>,
    begun: bool,
}

#[derive(Debug)]
struct Level {
    message: &'static Message,
    /// Bytes of it that are still to be taken.
    left: usize,
    /// The repeated field whose list is open.
    list: Option<usize>,
    /// Something has been written of it.
    any: bool,
}

impl Level {
    fn of(message: &'static Message, len: usize) -> Self {
        Level { message, left: len, list: None, any: false }
    }
}

impl Writer {
    /// Of a message of `len` bytes.
    pub fn new(message: &'static Message, len: usize, escape: Escape) -> Self {
        Writer { escape, levels: SmallVec::from_iter([Level::of(message, len)]), begun: false }
    }

    /// Goes on until `out` is `until` bytes long or a little longer.
    pub fn write(&mut self, input: &mut Input, out: &mut Vec<u8>, until: usize) -> Step {
        if !std::mem::replace(&mut self.begun, true) {
            out.push(b'{');
        }
        while let Some(level) = self.levels.last() {
            if out.len() >= until {
                return Step::Full;
            }
            if level.left == 0 {
                self.close_level(out);
                continue;
            }
            match self.field(input, out) {
                Ok(()) => {}
                Err(step) => return step,
            }
        }
        Step::Done
    }

    fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("a message is being written")
    }

    fn close_level(&mut self, out: &mut Vec<u8>) {
        if self.level().list.is_some() {
            out.push(b']');
        }
        out.push(b'}');
        self.levels.pop();
    }

    /// Takes one field, or the beginning of one that is a message.
    fn field(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Result<(), Step> {
        let (message, left) = (self.level().message, self.level().left);
        let varint = |at: usize| match input.varint(at) {
            Varint::Is(value, len) if at + len <= left => Ok((value, at + len)),
            Varint::Cut if input.len() < left => Err(Step::Hungry),
            _ => Err(Step::Broken),
        };
        let (key, key_len) = varint(0)?;
        let number = u32::try_from(key >> 3).map_err(|_| Step::Broken)?;
        let field = message.field_numbered(number);
        let (value, head_len) = match key & 7 {
            0 | 2 => varint(key_len)?,
            1 => (8, key_len),
            5 => (4, key_len),
            _ => return Err(Step::Broken),
        };
        let body_len = if key & 7 == 0 { 0 } else { usize::try_from(value).map_err(|_| Step::Broken)? };
        if body_len > left - head_len {
            return Err(Step::Broken);
        }
        if let (Some((at, field)), 2) = (field, key & 7)
            && let Kind::Message(place) = field.kind
        {
            if self.levels.len() == limits::GATEWAY_MESSAGE_DEPTH_MAX {
                return Err(Step::Broken);
            }
            input.take(head_len);
            self.level().left -= head_len + body_len;
            self.begin_value(at, field, out);
            out.push(b'{');
            self.levels.push(Level::of(message_of(place), body_len));
            return Ok(());
        }
        // Anything else is taken whole.
        if input.len() < head_len + body_len {
            return Err(Step::Hungry);
        }
        input.take(head_len);
        let body = input.take(body_len);
        self.level().left -= head_len + body_len;
        match (field, key & 7) {
            (Some((at, field)), 0) => self.scalar(at, field, value, out),
            (Some((at, field)), 2) if matches!(field.kind, Kind::Text | Kind::Bytes) => {
                if field.repeated || field.oneof.is_some() || !body.is_empty() {
                    self.begin_value(at, field, out);
                    self.put_bytes(field.kind, &body, out);
                }
                Ok(())
            }
            (Some((at, field)), 2) if field.repeated => self.packed(at, field, body, out),
            (Some(_), _) => Err(Step::Broken),
            // A later release may know it.
            (None, _) => Ok(()),
        }
    }

    fn scalar(&mut self, at: usize, field: &Field, value: u64, out: &mut Vec<u8>) -> Result<(), Step> {
        if !field.repeated && field.oneof.is_none() && value == 0 {
            return Ok(());
        }
        self.begin_value(at, field, out);
        put_scalar(field.kind, value, out).ok_or(Step::Broken)
    }

    /// Several numbers in one.
    fn packed(&mut self, at: usize, field: &Field, body: Bytes, out: &mut Vec<u8>) -> Result<(), Step> {
        let mut values = Input::default();
        values.push(body);
        while !values.is_empty() {
            let Varint::Is(value, len) = values.varint(0) else { return Err(Step::Broken) };
            values.take(len);
            self.begin_value(at, field, out);
            put_scalar(field.kind, value, out).ok_or(Step::Broken)?;
        }
        Ok(())
    }

    /// Writes what comes before a value: a comma, the field's name, the beginning of a list; after the end of the list
    /// before it.
    fn begin_value(&mut self, at: usize, field: &Field, out: &mut Vec<u8>) {
        let level = self.level();
        if level.list == Some(at) {
            out.push(b',');
            return;
        }
        if level.list.take().is_some() {
            out.push(b']');
        }
        if std::mem::replace(&mut level.any, true) {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        if field.repeated {
            out.push(b'[');
            level.list = Some(at);
        }
    }

    fn put_bytes(&self, kind: Kind, bytes: &[u8], out: &mut Vec<u8>) {
        if kind == Kind::Text {
            return put_text(&String::from_utf8_lossy(bytes), self.escape, out);
        }
        out.push(b'"');
        base64::encode(out, bytes);
        out.push(b'"');
    }
}

/// None: such a field has no such values.
fn put_scalar(kind: Kind, value: u64, out: &mut Vec<u8>) -> Option<()> {
    let text = match kind {
        Kind::Bool => write!(out, "{}", value != 0),
        Kind::Int64 => write!(out, "\"{}\"", value as i64),
        Kind::Uint64 => write!(out, "\"{value}\""),
        Kind::Uint32 => write!(out, "{}", value as u32),
        Kind::Enum(place) => match enum_of(place).by_number.get(&(value as i32)) {
            Some(name) => write!(out, "\"{name}\""),
            None => write!(out, "{}", value as i32),
        },
        Kind::Text | Kind::Bytes | Kind::Message(_) => return None,
    };
    text.ok()
}

/// Appends a text in quotes.
pub fn put_text(text: &str, escape: Escape, out: &mut Vec<u8>) {
    let special = |byte: u8| match escape {
        Escape::Json => byte < b' ' || matches!(byte, b'"' | b'\\'),
        // The separators of lines and paragraphs begin with 0xe2.
        Escape::Html => byte < b' ' || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2),
    };
    out.push(b'"');
    let mut rest = text;
    while let Some(plain) = rest.bytes().position(special) {
        out.extend_from_slice(&rest.as_bytes()[..plain]);
        rest = &rest[plain..];
        let letter = rest.chars().next().expect("there is a letter");
        match letter {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", letter as u32).expect("a vector takes everything");
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = &rest[letter.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}
