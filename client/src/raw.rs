//! HTTP/2 by the frame, for what no decent client would send: frames of any kind, length and order, headers without
//! rules, bytes that are no frames at all. Blocking, so that a test reads as a script.
//! (RFC 9113, sections 3.4 and 4.1; RFC 7541, section 6.2.2.)

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct RawConnection(Box<dyn Both>);

/// What is read and written.
trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

impl RawConnection {
    /// A connection on which nothing has been said. Reads give up after `patience`.
    pub fn open(address: &str, patience: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(RawConnection::over(socket))
    }

    /// The same over what is there already, such as an encrypted connection.
    pub fn over(stream: impl Read + Write + Send + 'static) -> Self {
        RawConnection(Box::new(stream))
    }

    /// The preface and empty settings.
    pub fn hello(&mut self) -> io::Result<()> {
        self.write(PREFACE)?;
        self.frame(kind::SETTINGS, 0, 0, &[])
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Whatever comes next, and 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.write(&bytes)
    }

    /// A HEADERS frame that opens a gRPC call, with more fields after the usual ones.
    pub fn open_call(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) -> io::Result<()> {
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        fields.extend(more);
        self.frame(kind::HEADERS, flag::END_HEADERS, stream, &header_block(&fields))
    }

    /// The next frame; None at the end of the connection.
    pub fn read_frame(&mut self) -> io::Result<Option<RawFrame>> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(cause) if matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(cause) => return Err(cause),
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Some(RawFrame { kind: head[3], flags: head[4], stream, payload }))
    }

    /// Reads until a frame of this kind; None if the connection ends before.
    pub fn read_until(&mut self, kind: u8) -> io::Result<Option<RawFrame>> {
        loop {
            match self.read_frame()? {
                Some(frame) if frame.kind != kind => {}
                other => return Ok(other),
            }
        }
    }
}

/// Fields as literals that enter no table, names and values as they are.
pub fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        put_string(&mut block, name.as_bytes());
        put_string(&mut block, value.as_bytes());
    }
    block
}

/// A string of HPACK: its length as an integer with a prefix of seven bits, no Huffman code.
fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend(bytes);
}
