//! What a log line can carry as a value, each in its JSON form.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use crate::config::value::format_duration;

/// A value in a log line. Writes itself as JSON.
pub trait Field {
    fn write(&self, out: &mut Vec<u8>);
}

/// A value that is logged as its `Display` text, such as an error or an address.
pub struct Shown<T>(T);

pub fn shown<T: fmt::Display>(value: T) -> Shown<T> {
    Shown(value)
}

/// An id, in etcd's way of writing ids: hexadecimal without a prefix.
pub fn hex(id: u64) -> Shown<Hex> {
    Shown(Hex(id))
}

pub struct Hex(u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl<T: fmt::Display> Field for Shown<T> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        // Escaping cannot fail; a Display that fails leaves its text cut.
        let _ = write!(Escaped(out), "{}", self.0);
        out.push(b'"');
    }
}

impl Field for str {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        escape(self, out);
        out.push(b'"');
    }
}

impl Field for String {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_str().write(out);
    }
}

impl Field for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            fn write(&self, out: &mut Vec<u8>) {
                let _ = write!(Escaped(out), "{self}");
            }
        }
    )*};
}

number!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl Field for f64 {
    fn write(&self, out: &mut Vec<u8>) {
        if self.is_finite() {
            let _ = write!(Escaped(out), "{self}");
        } else {
            shown(self).write(out);
        }
    }
}

/// As Go writes durations: `1.5s`.
impl Field for Duration {
    fn write(&self, out: &mut Vec<u8>) {
        format_duration(i64::try_from(self.as_nanos()).unwrap_or(i64::MAX)).write(out);
    }
}

impl<T: Field> Field for [T] {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, value) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            value.write(out);
        }
        out.push(b']');
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_slice().write(out);
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: Field + ?Sized> Field for &T {
    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

/// A place for formatted text that escapes it for a JSON string.
pub(super) struct Escaped<'a>(pub &'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(text, self.0);
        Ok(())
    }
}

pub(super) fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
}
