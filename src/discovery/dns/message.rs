//! The one question that is asked of DNS, and what is read of an answer: bytes of anybody who can send a datagram here. Records
//! that were not asked for are passed over unread. (RFC 1035, section 4; RFC 2782; RFC 6891.)

use std::fmt;

use super::Service;
use crate::limits;

const TYPE_SRV: u16 = 33;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

const HEADER_BYTES: usize = 12;
/// Flags of a header's second word.
const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const AUTHENTIC_DATA: u16 = 0x0020;

const CODE_SUCCESS: u16 = 0;
const CODE_NO_NAME: u16 = 3;

/// The two highest bits of a label's length: the rest and the next byte say where the name goes on.
const POINTER: u8 = 0xc0;

/// A question for the SRV records of a name.
pub(super) struct Query {
    bytes: Vec<u8>,
}

impl Query {
    /// `name` has a dot at its end. None: it cannot be spelled in a message.
    pub fn new(id: u16, name: &str, trusts_ad: bool) -> Option<Self> {
        let flags = RECURSION_DESIRED | if trusts_ad { AUTHENTIC_DATA } else { 0 };
        // One question, no answers, and one addition: how much the sender takes in a datagram.
        let mut bytes: Vec<u8> = [id, flags, 1, 0, 0, 1].into_iter().flat_map(u16::to_be_bytes).collect();
        for label in name.strip_suffix('.')?.split('.').filter(|_| name != ".") {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
            bytes.push(length);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend([TYPE_SRV, CLASS_IN].into_iter().flat_map(u16::to_be_bytes));
        bytes.push(0);
        let room = limits::DNS_MESSAGE_BYTES as u16;
        bytes.extend([TYPE_OPT, room, 0, 0, 0].into_iter().flat_map(u16::to_be_bytes));
        Some(Query { bytes })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message as an answer to this question; None if it is none.
    pub fn answer(&self, message: &[u8]) -> Option<Answer> {
        let asked = Question::read(&self.bytes)?;
        let question = Question::read(message)?;
        let is_same = question.flags & RESPONSE != 0
            && question.count == 1
            && (question.id, question.kind, question.class) == (asked.id, asked.kind, asked.class)
            && question.name.eq_ignore_ascii_case(&asked.name);
        is_same.then(|| Answer {
            message: message.to_vec(),
            flags: question.flags,
            counts: question.counts,
            begin: question.end,
            is_truncated: question.flags & TRUNCATED != 0,
        })
    }
}

/// A header and the first question behind it.
struct Question {
    id: u16,
    flags: u16,
    count: u16,
    /// Answers, authorities, additions.
    counts: [u16; 3],
    name: String,
    kind: u16,
    class: u16,
    /// Where what follows begins.
    end: usize,
}

impl Question {
    fn read(message: &[u8]) -> Option<Self> {
        let mut reader = Reader { message, at: 0 };
        let [id, flags, count] = [reader.number()?, reader.number()?, reader.number()?];
        let counts = [reader.number()?, reader.number()?, reader.number()?];
        let name = reader.name()?;
        let [kind, class] = [reader.number()?, reader.number()?];
        Some(Question { id, flags, count, counts, name, kind, class, end: reader.at })
    }
}

/// An answer to a question, its records unread.
pub(super) struct Answer {
    message: Vec<u8>,
    flags: u16,
    counts: [u16; 3],
    begin: usize,
    /// There is more than fits.
    pub is_truncated: bool,
}

/// Why an answer does not count. The texts are Go's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NoSuchHost,
    Unreadable,
    Lame,
    Misbehaving,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::NoSuchHost => "no such host",
            Unfit::Unreadable => "cannot unmarshal DNS message",
            Unfit::Lame => "lame referral",
            Unfit::Misbehaving => "server misbehaving",
        })
    }
}

impl Answer {
    /// The services that it tells of; at least one.
    pub fn services(&self) -> Result<Vec<Service>, Unfit> {
        let (high_code, has_additions) = self.additions();
        match high_code << 4 | self.flags & 0xf {
            CODE_SUCCESS => {}
            CODE_NO_NAME => return Err(Unfit::NoSuchHost),
            _ => return Err(Unfit::Misbehaving),
        }
        let knows = self.flags & (AUTHORITATIVE | RECURSION_AVAILABLE) != 0;
        if !knows && self.counts[0] == 0 && !has_additions {
            return Err(Unfit::Lame);
        }
        let mut reader = Reader { message: &self.message, at: self.begin };
        let mut services = Vec::new();
        for _ in 0..self.counts[0] {
            let record = reader.record().ok_or(Unfit::Unreadable)?;
            if record.kind == TYPE_SRV {
                services.push(record.service(&self.message).ok_or(Unfit::Unreadable)?);
            }
        }
        if services.is_empty() { Err(Unfit::NoSuchHost) } else { Ok(services) }
    }

    /// The high bits of the answer's code, which an addition may hold, and whether there are additions at all.
    fn additions(&self) -> (u16, bool) {
        let mut reader = Reader { message: &self.message, at: self.begin };
        let [answers, authorities, additions] = self.counts.map(u32::from);
        for _ in 0..answers + authorities {
            if reader.record().is_none() {
                return (0, false);
            }
        }
        let mut has_additions = false;
        for _ in 0..additions {
            let Some(record) = reader.record() else { break };
            has_additions = true;
            if record.kind == TYPE_OPT {
                return ((record.ttl >> 24) as u16, true);
            }
        }
        (0, has_additions)
    }
}

struct Record {
    kind: u16,
    ttl: u32,
    /// Where its data lie.
    data: std::ops::Range<usize>,
}

impl Record {
    fn service(&self, message: &[u8]) -> Option<Service> {
        // A name in it may go on anywhere before it.
        let mut reader = Reader { message: &message[..self.data.end], at: self.data.start };
        let [priority, weight, port] = [reader.number()?, reader.number()?, reader.number()?];
        Some(Service { priority, weight, port, target: reader.name()? })
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.message.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// A name with a dot at its end. One that goes on elsewhere does so before where it stood, so that it ends.
    fn name(&mut self) -> Option<String> {
        let mut name = Vec::new();
        let mut reader = Reader { message: self.message, at: self.at };
        let mut behind = None;
        let mut begin = self.at;
        loop {
            match reader.byte()? {
                0 => break,
                length if length & POINTER == POINTER => {
                    let to = usize::from(u16::from_be_bytes([length & !POINTER, reader.byte()?]));
                    behind = behind.or(Some(reader.at));
                    if to >= begin {
                        return None;
                    }
                    (begin, reader.at) = (to, to);
                }
                length if length & POINTER == 0 => {
                    let end = reader.at + usize::from(length);
                    let label = reader.message.get(reader.at..end).filter(|label| !label.contains(&b'.'))?;
                    name.extend_from_slice(label);
                    name.push(b'.');
                    reader.at = end;
                }
                _ => return None,
            }
            if name.len() > limits::DNS_NAME_BYTES_MAX {
                return None;
            }
        }
        self.at = behind.unwrap_or(reader.at);
        if name.is_empty() {
            name.push(b'.');
        }
        // Whoever uses it looks at what is in it; what is no text is no name.
        Some(String::from_utf8_lossy(&name).into_owned())
    }

    fn record(&mut self) -> Option<Record> {
        self.name()?;
        let [kind, _class] = [self.number()?, self.number()?];
        let ttl = u32::from(self.number()?) << 16 | u32::from(self.number()?);
        let length = usize::from(self.number()?);
        let data = self.at..self.at + length;
        self.message.get(data.clone())?;
        self.at = data.end;
        Some(Record { kind, ttl, data })
    }
}

/// An answer made of any bytes, behind a header that fits the question: whatever is in it, it is read or refused.
pub fn fuzz_dns(bytes: &[u8]) {
    let query = Query::new(1, "_s._tcp.example.test.", false).expect("it is a name");
    assert!(query.answer(query.bytes()).is_none(), "a question is no answer");
    let whole = query.answer(bytes);
    let Some((counts, records)) = bytes.split_at_checked(8) else { return };
    let mut message = [&[0, 1], &counts[..2], &[0, 1], &counts[2..]].concat();
    message[2] |= 0x80;
    let begin = message.len();
    message.extend_from_slice(&query.bytes()[HEADER_BYTES..query.bytes().len() - 11]);
    message.extend_from_slice(records);
    let answer = query.answer(&message).expect("it answers the question");
    assert!(answer.begin > begin);
    for answer in whole.iter().chain([&answer]) {
        if let Ok(services) = answer.services() {
            assert!(!services.is_empty() && services.len() <= usize::from(answer.counts[0]));
            assert!(services.iter().all(|service| service.target.ends_with('.')), "{services:?}");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "_s._tcp.example.test.";

    /// An answer with this code and these records, of the priorities and targets given.
    pub fn answer(question: &[u8], code: u8, services: &[(u16, &str)]) -> Vec<u8> {
        let end = question.len() - 11;
        let mut message = question[..end].to_vec();
        message[2] |= 0x80;
        message[3] = 0x80 | code;
        message[7] = services.len() as u8;
        message[11] = 0;
        for (priority, target) in services {
            let mut data: Vec<u8> = [*priority, 0, 2380].into_iter().flat_map(u16::to_be_bytes).collect();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            message.extend_from_slice(&record(TYPE_SRV, &data));
        }
        message
    }

    /// A record of the name that was asked for.
    fn record(kind: u16, data: &[u8]) -> Vec<u8> {
        let head: Vec<u8> = [kind, CLASS_IN, 0, 60, data.len() as u16].into_iter().flat_map(u16::to_be_bytes).collect();
        [&[POINTER, HEADER_BYTES as u8], &head[..], data].concat()
    }

    fn services(message: &[u8]) -> Result<Vec<Service>, Unfit> {
        query().answer(message).expect("it answers the question").services()
    }

    fn query() -> Query {
        Query::new(0x1234, NAME, false).unwrap()
    }

    #[test]
    fn the_question_is_the_one_that_go_asks() {
        let mut wanted = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x02_s\x04_tcp\x07example\x04test\0\0\x21\0\x01".to_vec();
        wanted.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        assert_eq!(query().bytes(), wanted);
        assert_eq!(Query::new(0, NAME, true).unwrap().bytes()[3], 0x20);
        assert!(Query::new(0, &format!("{}.", "a".repeat(64)), false).is_none());
        assert!(Query::new(0, "a..", false).is_none());
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let right = answer(query().bytes(), 0, &[(1, "a.test")]);
        assert!(query().answer(&right).is_some());
        let with = |at: usize, byte: u8| {
            let mut message = right.clone();
            message[at] = byte;
            query().answer(&message)
        };
        // Another id, a question, two questions, another name, another type, another class.
        for (at, byte) in [(1, 0), (2, 1), (5, 2), (14, b'x'), (right.len() - 26 - 3, 1), (right.len() - 26 - 1, 2)] {
            assert!(with(at, byte).is_none(), "{at}");
        }
        assert!(with(14, b'S').is_some(), "case does not matter");
        assert!((0..33).all(|count| query().answer(&right[..count]).is_none()));
    }

    #[test]
    fn services_are_read_past_what_was_not_asked_for() {
        let mut message = answer(query().bytes(), 0, &[(7, "a.test")]);
        let alias = record(5, b"\x01x\0");
        let at = message.len() - 26;
        message.splice(at..at, alias);
        message[7] = 3;
        // A target that goes on in the question.
        let example = HEADER_BYTES as u8 + 3 + 5;
        message.extend(record(TYPE_SRV, &[0, 1, 0, 2, 0, 3, 1, b'b', POINTER, example]));
        let found = services(&message).unwrap();
        assert_eq!(found[0], Service { priority: 7, weight: 0, port: 2380, target: "a.test.".into() });
        assert_eq!(found[1], Service { priority: 1, weight: 2, port: 3, target: "b.example.test.".into() });
    }

    #[test]
    fn what_is_no_answer_is_told_in_gos_words() {
        let refused = |code| services(&answer(query().bytes(), code, &[])).unwrap_err().to_string();
        assert_eq!(
            [0, 2, 3, 5].map(refused),
            ["no such host", "server misbehaving", "no such host", "server misbehaving"]
        );
        let mut lame = answer(query().bytes(), 0, &[]);
        lame[3] = 0;
        assert_eq!(services(&lame).unwrap_err(), Unfit::Lame);
        // An extended code: 16, in two parts.
        let mut extended = answer(query().bytes(), 0, &[(1, "a.test")]);
        extended.extend(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
        extended[11] = 1;
        assert_eq!(services(&extended).unwrap_err(), Unfit::Misbehaving);
        let right = answer(query().bytes(), 0, &[(1, "a.test")]);
        assert_eq!(services(&right[..right.len() - 1]).unwrap_err(), Unfit::Unreadable);
    }

    #[test]
    fn a_name_that_goes_round_in_circles_ends() {
        for target in [&[POINTER, HEADER_BYTES as u8 + 100][..], &[1, b'a', POINTER, 0xff], &[0x40, 0], &[POINTER]] {
            let mut message = answer(query().bytes(), 0, &[]);
            message[7] = 1;
            let itself = message.len() as u8 + 12 + 6;
            let target: Vec<u8> =
                target.iter().map(|byte| if *byte == HEADER_BYTES as u8 + 100 { itself } else { *byte }).collect();
            message.extend(record(TYPE_SRV, &[&[0; 6], &target[..]].concat()));
            assert_eq!(services(&message).unwrap_err(), Unfit::Unreadable, "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_dns(&bytes);
        }

        /// Right ones with some bytes changed reach further in.
        #[test]
        fn damaged_answers_are_read_or_refused(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..6)) {
            let mut message = answer(query().bytes(), 0, &[(1, "a.test"), (2, "b.example.test")]);
            for (at, byte) in changes {
                let at = usize::from(at) % message.len();
                message[at] = byte;
            }
            if let Some(answer) = query().answer(&message) {
                let _ = answer.services();
            }
        }
    }
}
