//! Frames on the wire: the nine bytes before each, the kinds, and the small ones that a server writes. It looks at no
//! payload but for padding; what a frame means is the connection's matter. (RFC 9113, sections 4 and 6.)

/// With what a client begins (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before each payload.
pub const HEAD_BYTES: usize = 9;

/// The largest payload that either side takes unless it says otherwise; this server never does.
pub const PAYLOAD_BYTES: usize = 16_384;

/// The window of a connection, and of a stream unless a setting says otherwise.
pub const WINDOW_BYTES: i64 = 65_535;

/// The largest window there may be.
pub const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const FLAG_ACK: u8 = 1;
pub const FLAG_END_STREAM: u8 = 1;
pub const FLAG_END_HEADERS: u8 = 4;
pub const FLAG_PADDED: u8 = 8;
pub const FLAG_PRIORITY: u8 = 0x20;

pub const SETTING_HEADER_TABLE_SIZE: u16 = 1;
pub const SETTING_ENABLE_PUSH: u16 = 2;
pub const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
pub const SETTING_INITIAL_WINDOW_SIZE: u16 = 4;
pub const SETTING_MAX_FRAME_SIZE: u16 = 5;
pub const SETTING_MAX_HEADER_LIST_SIZE: u16 = 6;

/// Why a stream or a connection is ended (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// The reserved bit says nothing.
    pub fn read(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Head { len, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff }
    }

    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without its padding; None where that is longer than the payload.
    pub fn unpadded(self, payload: &[u8]) -> Option<&[u8]> {
        if !self.has(FLAG_PADDED) {
            return Some(payload);
        }
        let (&padding, rest) = payload.split_first()?;
        rest.get(..rest.len().checked_sub(usize::from(padding))?)
    }
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { len: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

pub fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(number, value)| number.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    put(out, SETTINGS, 0, 0, &payload);
}

pub fn put_settings_ack(out: &mut Vec<u8>) {
    put(out, SETTINGS, FLAG_ACK, 0, &[]);
}

pub fn put_ping(out: &mut Vec<u8>, ack: bool, payload: &[u8; 8]) {
    put(out, PING, u8::from(ack), 0, payload);
}

pub fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put(out, RST_STREAM, 0, stream, &(reason as u32).to_be_bytes());
}

/// `stream` 0 is the connection.
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    put(out, WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

/// `newest`: the last stream that was or will be looked at; `text` is for who reads a dump.
pub fn put_away(out: &mut Vec<u8>, newest: u32, reason: Reason, text: &str) {
    let payload = [&newest.to_be_bytes()[..], &(reason as u32).to_be_bytes(), text.as_bytes()].concat();
    put(out, GOAWAY, 0, 0, &payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head { len: 0x01_02_03, kind: HEADERS, flags: 0x25, stream: 0x7fff_fffe };
        assert_eq!(head.bytes(), [1, 2, 3, 1, 0x25, 0x7f, 0xff, 0xff, 0xfe]);
        let mut bytes = head.bytes();
        bytes[5] |= 0x80;
        assert_eq!(Head::read(&bytes), head);
    }

    #[test]
    fn padding_is_taken_off_and_never_longer_than_the_payload() {
        let head = |flags| Head { len: 0, kind: DATA, flags, stream: 1 };
        assert_eq!(head(0).unpadded(b"\x02abc"), Some(&b"\x02abc"[..]));
        assert_eq!(head(FLAG_PADDED).unpadded(b"\x02abc"), Some(&b"a"[..]));
        assert_eq!(head(FLAG_PADDED).unpadded(b"\x03abc"), Some(&b""[..]));
        assert_eq!(head(FLAG_PADDED).unpadded(b"\x04abc"), None);
        assert_eq!(head(FLAG_PADDED).unpadded(b""), None);
    }
}
