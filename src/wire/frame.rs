//! A message on its way out: five bytes of prefix, then the message, in one buffer, so that sending copies nothing.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before each message: a flag for compression, four bytes of length, big endian.
pub const PREFIX_BYTES: usize = 5;

/// A message under construction, room for its prefix kept at the front.
#[derive(Clone, Debug)]
pub struct Frame(BytesMut);

impl Frame {
    /// With room for a message of `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + len);
        buffer.put_bytes(0, PREFIX_BYTES);
        Frame(buffer)
    }

    /// From a prost message.
    pub fn of(message: &impl prost::Message) -> Self {
        let mut frame = Frame::with_capacity(message.encoded_len());
        message.encode(&mut frame.0).expect("a growing buffer has room");
        frame
    }

    /// Where the message's bytes are appended. Offsets in it count the prefix.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// Bytes of the message so far.
    pub fn message_len(&self) -> usize {
        self.0.len() - PREFIX_BYTES
    }

    /// The message so far, without its prefix.
    pub fn message(&self) -> &[u8] {
        &self.0[PREFIX_BYTES..]
    }

    /// The finished message with its prefix.
    pub fn seal(self) -> Bytes {
        self.seal_before(0)
    }

    /// The same, to be copied from where it is.
    pub fn sealed(&mut self) -> &[u8] {
        self.put_prefix(0);
        &self.0
    }

    /// The same where `more` bytes of the message follow in buffers of their own.
    pub fn seal_before(mut self, more: usize) -> Bytes {
        self.put_prefix(more);
        self.0.freeze()
    }

    fn put_prefix(&mut self, more: usize) {
        let len = u32::try_from(self.message_len() + more).expect("a message is shorter than 4 GiB");
        self.0[0] = 0;
        self.0[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_tells_the_length_of_all_that_follows() {
        let mut frame = Frame::with_capacity(3);
        frame.buffer().put_slice(b"abc");
        assert_eq!(frame.clone().sealed(), b"\0\0\0\0\x03abc");
        assert_eq!(&frame.clone().seal()[..], b"\0\0\0\0\x03abc");
        assert_eq!(&frame.seal_before(0x0102)[..5], b"\0\0\0\x01\x05");
    }
}
