//! What members' streams carry. A stream of appends tells of entries that follow one another only what is new of them; any other
//! message is told whole, with its length in front. All numbers have eight bytes, the highest first. In both, an empty message now
//! and then says that the sender is there. (etcd: server/etcdserver/api/rafthttp, msgappv2_codec.go and msg_codec.go.)

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::{bytes_len, put_head, put_uint, varint_len};
use crate::{
    limits,
    proto::raftpb::{Entry, Message, MessageType},
};

/// The kinds of frames in a stream of appends.
const ALIVE: u8 = 0;
const MORE: u8 = 1;
const WHOLE: u8 = 2;

/// Values from this length on are handed on as they are, shorter ones are copied beside what is around them.
const SHARED_FROM: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Appends,
    Messages,
}

/// What a stream of appends is at: the entry that the next one would follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn after(message: &Message) -> Self {
        let index = message.entries.last().map_or(message.index, |entry| entry.index);
        Position { term: message.term.unwrap_or_default(), index: index.unwrap_or_default() }
    }
}

/// Bytes to be sent, in order, in as few pieces as leave large values where they are.
#[derive(Default)]
pub struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    pub fn take(&mut self) -> Vec<Bytes> {
        self.close();
        std::mem::take(&mut self.done)
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }

    fn put_value(&mut self, value: &Bytes) {
        if value.len() < SHARED_FROM {
            self.open.put_slice(value);
        } else {
            self.close();
            self.done.push(value.clone());
        }
    }
}

/// The sender's half of a stream.
pub struct Encoder {
    kind: Kind,
    at: Position,
}

impl Encoder {
    pub fn new(kind: Kind) -> Self {
        Encoder { kind, at: Position::default() }
    }

    /// Says that the sender is there.
    pub fn alive(&self, out: &mut Pieces) {
        match self.kind {
            Kind::Appends => out.open.put_u8(ALIVE),
            Kind::Messages => {
                let nobody = Message { from: Some(0), to: Some(0), ..of_kind(MessageType::MsgHeartbeat) };
                put_whole(&nobody, out);
            }
        }
    }

    pub fn put(&mut self, message: &Message, out: &mut Pieces) {
        if self.kind == Kind::Messages {
            return put_whole(message, out);
        }
        let follows = Position { term: message.log_term.unwrap_or_default(), index: message.index.unwrap_or_default() };
        if self.at == follows && message.term == message.log_term {
            out.open.put_u8(MORE);
            out.open.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                put_entry(entry, out);
            }
            out.open.put_u64(message.commit.unwrap_or_default());
            self.at.index += message.entries.len() as u64;
        } else {
            out.open.put_u8(WHOLE);
            put_whole(message, out);
            self.at = Position::after(message);
        }
    }
}

fn of_kind(kind: MessageType) -> Message {
    Message { r#type: Some(kind as i32), ..Message::default() }
}

fn put_whole(message: &Message, out: &mut Pieces) {
    out.open.put_u64(message.encoded_len() as u64);
    message.encode(&mut out.open).expect("a growing buffer has room");
}

/// As etcd spells it: type, term and index are there even if they are zero, data only if there is any.
fn put_entry(entry: &Entry, out: &mut Pieces) {
    let (kind, term, index) =
        (entry.r#type.unwrap_or_default() as u64, entry.term.unwrap_or_default(), entry.index.unwrap_or_default());
    let data = entry.data.as_ref().filter(|data| !data.is_empty());
    let numbers = 3 + varint_len(kind) + varint_len(term) + varint_len(index);
    out.open.put_u64((numbers + data.map_or(0, |data| bytes_len(data.len()))) as u64);
    for (field, number) in [(1, kind), (2, term), (3, index)] {
        match number {
            0 => out.open.put_slice(&[field << 3, 0]),
            _ => put_uint(&mut out.open, field, number),
        }
    }
    if let Some(data) = data {
        put_head(&mut out.open, 4, data.len());
        out.put_value(data);
    }
}

/// What a stream said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Only that its sender is there.
    Alive,
    Message(Box<Message>),
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("failed to parse type {0} in msgappv2 stream")]
    Kind(u8),
    #[error("rafthttp: error limit exceeded")]
    TooLong,
    #[error("proto: cannot parse invalid wire-format data")]
    Protobuf,
}

/// Entries that follow one another, as far as they are there.
struct Begun {
    entries: Vec<Entry>,
    left: u64,
    bytes: usize,
}

/// The receiver's half of a stream.
pub struct Decoder {
    kind: Kind,
    local: u64,
    remote: u64,
    received: BytesMut,
    at: Position,
    begun: Option<Begun>,
}

impl Decoder {
    /// `local`: who receives, `remote`: who sends.
    pub fn new(kind: Kind, local: u64, remote: u64) -> Self {
        Decoder { kind, local, remote, received: BytesMut::new(), at: Position::default(), begun: None }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.put_slice(bytes);
    }

    /// The next thing that is whole.
    ///
    /// # Errors
    /// Where the stream must be ended.
    pub fn said(&mut self) -> Result<Option<Said>, Broken> {
        if self.kind == Kind::Messages {
            return Ok(self.whole(0)?.map(|message| {
                let from_nobody = message.from.unwrap_or_default() == 0 && message.to.unwrap_or_default() == 0;
                match from_nobody && message.r#type() == MessageType::MsgHeartbeat {
                    true => Said::Alive,
                    false => Said::Message(Box::new(message)),
                }
            }));
        }
        if self.begun.is_some() {
            return self.go_on();
        }
        match self.received.first() {
            None => Ok(None),
            Some(&ALIVE) => {
                self.received.advance(1);
                Ok(Some(Said::Alive))
            }
            Some(&WHOLE) => {
                let Some(message) = self.whole(1)? else { return Ok(None) };
                self.at = Position::after(&message);
                Ok(Some(Said::Message(Box::new(message))))
            }
            Some(&MORE) => {
                let Some(left) = self.number(1) else { return Ok(None) };
                self.received.advance(9);
                self.begun = Some(Begun { entries: Vec::new(), left, bytes: 0 });
                self.go_on()
            }
            Some(kind) => Err(Broken::Kind(*kind)),
        }
    }

    fn number(&self, at: usize) -> Option<u64> {
        let bytes = self.received.get(at..at + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().expect("as many as were asked for")))
    }

    /// What has its length at `at`, taken out with all before it.
    fn sized(&mut self, at: usize) -> Result<Option<Bytes>, Broken> {
        let Some(len) = self.number(at) else { return Ok(None) };
        let len = usize::try_from(len).ok().filter(|len| *len <= limits::PEER_MESSAGE_BYTES_MAX);
        let len = len.ok_or(Broken::TooLong)?;
        if self.received.len() < at + 8 + len {
            return Ok(None);
        }
        self.received.advance(at + 8);
        Ok(Some(self.received.split_to(len).freeze()))
    }

    fn whole(&mut self, at: usize) -> Result<Option<Message>, Broken> {
        let Some(bytes) = self.sized(at)? else { return Ok(None) };
        Message::decode(bytes).map(Some).map_err(|_| Broken::Protobuf)
    }

    fn go_on(&mut self) -> Result<Option<Said>, Broken> {
        let mut begun = self.begun.take().expect("asked for only then");
        while begun.left > 0 {
            let Some(bytes) = self.sized(0)? else {
                self.begun = Some(begun);
                return Ok(None);
            };
            begun.left -= 1;
            begun.bytes += 8 + bytes.len();
            if begun.bytes > limits::PEER_MESSAGE_BYTES_MAX {
                return Err(Broken::TooLong);
            }
            begun.entries.push(Entry::decode(bytes).map_err(|_| Broken::Protobuf)?);
        }
        let Some(commit) = self.number(0) else {
            self.begun = Some(begun);
            return Ok(None);
        };
        self.received.advance(8);
        let Position { term, index } = self.at;
        self.at.index += begun.entries.len() as u64;
        Ok(Some(Said::Message(Box::new(Message {
            from: Some(self.remote),
            to: Some(self.local),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            entries: begun.entries,
            commit: Some(commit),
            ..of_kind(MessageType::MsgApp)
        }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64, data: &[u8]) -> Entry {
        let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
        Entry { r#type: Some(0), term: Some(term), index: Some(index), data }
    }

    fn append(term: u64, log_term: u64, index: u64, entries: Vec<Entry>) -> Message {
        Message {
            from: Some(2),
            to: Some(1),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            entries,
            commit: Some(index),
            ..of_kind(MessageType::MsgApp)
        }
    }

    fn bytes(pieces: &mut Pieces) -> Vec<u8> {
        pieces.take().concat()
    }

    /// A leader's stream: it probes, goes on, is alive, has a large value, and begins another term.
    fn appends() -> Vec<Message> {
        let large = vec![7; 5000];
        vec![
            append(3, 2, 9, vec![entry(2, 10, b"a"), entry(3, 11, b"")]),
            append(3, 3, 11, vec![entry(3, 12, b"b"), entry(3, 13, &large), entry(3, 14, b"c")]),
            append(3, 3, 14, vec![]),
            append(4, 3, 14, vec![entry(4, 15, b"d")]),
            append(4, 4, 15, vec![entry(4, 16, b"e")]),
            append(4, 4, 12, vec![entry(3, 13, b"again")]),
        ]
    }

    #[test]
    fn what_was_put_is_told_however_it_is_cut() {
        for kind in [Kind::Appends, Kind::Messages] {
            let (mut encoder, mut pieces) = (Encoder::new(kind), Pieces::default());
            let mut wanted = Vec::new();
            for message in appends() {
                encoder.put(&message, &mut pieces);
                encoder.alive(&mut pieces);
                wanted.extend([Said::Message(Box::new(message)), Said::Alive]);
            }
            let sent = bytes(&mut pieces);
            for size in [1, 2, 3, 7, 64, 4096, sent.len()] {
                let mut decoder = Decoder::new(kind, 1, 2);
                let mut said = Vec::new();
                for chunk in sent.chunks(size) {
                    decoder.receive(chunk);
                    while let Some(one) = decoder.said().unwrap() {
                        said.push(one);
                    }
                }
                assert_eq!(said, wanted, "{kind:?} in pieces of {size}");
            }
        }
    }

    /// The layout that etcd's sources draw.
    #[test]
    fn appends_that_follow_are_told_shortly() {
        let (mut encoder, mut pieces) = (Encoder::new(Kind::Appends), Pieces::default());
        encoder.put(&append(3, 3, 11, vec![]), &mut pieces);
        assert_eq!(bytes(&mut pieces)[0], WHOLE);
        encoder.put(&append(3, 3, 11, vec![entry(3, 12, b"bc")]), &mut pieces);
        let wanted = [
            &[1][..],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 10],
            b"\x08\x00\x10\x03\x18\x0c\x22\x02bc",
            &[0, 0, 0, 0, 0, 0, 0, 11],
        ];
        assert_eq!(bytes(&mut pieces), wanted.concat());
        encoder.alive(&mut pieces);
        assert_eq!(bytes(&mut pieces), [0]);
    }

    #[test]
    fn large_values_are_not_copied() {
        let (mut encoder, mut pieces) = (Encoder::new(Kind::Appends), Pieces::default());
        encoder.put(&append(3, 3, 11, vec![]), &mut pieces);
        pieces.take();
        let message = append(3, 3, 11, vec![entry(3, 12, &[7; 5000])]);
        encoder.put(&message, &mut pieces);
        let value = message.entries[0].data.as_ref().unwrap();
        assert!(pieces.take().iter().any(|piece| piece.as_ptr() == value.as_ptr() && piece.len() == value.len()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let broken = |kind, bytes: &[u8]| {
            let mut decoder = Decoder::new(kind, 1, 2);
            decoder.receive(bytes);
            decoder.said()
        };
        assert_eq!(broken(Kind::Appends, &[3]), Err(Broken::Kind(3)));
        assert_eq!(broken(Kind::Appends, &[2, 255, 0, 0, 0, 0, 0, 0, 0]), Err(Broken::TooLong));
        assert_eq!(broken(Kind::Messages, &[0, 0, 0, 0, 255, 0, 0, 0]), Err(Broken::TooLong));
        assert_eq!(broken(Kind::Messages, &[0, 0, 0, 0, 0, 0, 0, 1, 7]), Err(Broken::Protobuf));
        let many = [&[1][..], &[255; 8], &[0, 0, 0, 0, 0, 0, 0, 1, 7]].concat();
        assert_eq!(broken(Kind::Appends, &many), Err(Broken::Protobuf));
        // As many entries as a number can say cost nothing until they come.
        assert_eq!(broken(Kind::Appends, &[&[1][..], &[255; 8]].concat()), Ok(None));
    }
}
