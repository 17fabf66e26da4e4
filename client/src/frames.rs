//! gRPC's framing of messages: five bytes of prefix, then the message.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::Error;

const PREFIX_BYTES: usize = 5;

/// A message with its prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("a message is shorter than 4 GiB"));
    message.encode(&mut out).expect("the buffer was made long enough");
    out.freeze()
}

/// The message of a chunk that holds exactly one, uncompressed.
pub(crate) fn whole_message(chunk: &Bytes) -> Option<Bytes> {
    let prefix = chunk.first_chunk::<PREFIX_BYTES>()?;
    let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    (prefix[0] == 0 && chunk.len() == PREFIX_BYTES + len).then(|| chunk.slice(PREFIX_BYTES..))
}

/// Cuts what arrives into messages.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

impl Frames {
    pub fn push(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
    }

    /// Whether nothing is left of a message that has begun.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next whole message, without its prefix.
    ///
    /// # Errors
    /// If it is compressed: this client never asks for that.
    pub fn take(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(prefix) = self.0.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(Error::transport("a compressed message that nobody asked for"));
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if self.0.len() < PREFIX_BYTES + len {
            return Ok(None);
        }
        let mut whole = self.0.split_to(PREFIX_BYTES + len).freeze();
        Ok(Some(whole.split_off(PREFIX_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes = [frame(&"one".to_owned()), frame(&String::new()), frame(&"three".to_owned())].concat();
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            let mut found: Vec<String> = Vec::new();
            for chunk in bytes.chunks(size) {
                frames.push(chunk);
                while let Some(message) = frames.take().unwrap() {
                    found.push(String::decode(message).unwrap());
                }
            }
            assert_eq!(found, ["one", "", "three"]);
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn a_whole_message_is_one_and_nothing_else() {
        let one = frame(&"one".to_owned());
        assert_eq!(String::decode(whole_message(&one).unwrap()).unwrap(), "one");
        assert_eq!(whole_message(&one.slice(..one.len() - 1)), None);
        assert_eq!(whole_message(&[&one[..], &one[..]].concat().into()), None);
        assert_eq!(whole_message(&Bytes::from_static(&[1, 0, 0, 0, 0])), None, "a compressed one");
        assert_eq!(whole_message(&Bytes::new()), None);
    }
}
