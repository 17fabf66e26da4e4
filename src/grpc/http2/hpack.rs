//! Header blocks as a client compresses them: integers, strings, the static and the dynamic table. It gives out fields
//! one by one and bounds what it keeps; what a request may consist of is told elsewhere. (RFC 7541.)

use std::{collections::VecDeque, rc::Rc};

use super::{
    field::{self, Field, Kind, Text},
    huffman,
};

/// Most bytes of the dynamic table, each field counted with 32 more: what a client may take for granted.
pub const TABLE_BYTES: usize = 4096;

/// A block that cannot be decoded: both sides disagree on the table from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

/// The client's side of the compression as this side has to follow it.
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    /// What the client wants to use of `TABLE_BYTES`.
    size_max: usize,
    scratch: Vec<u8>,
}

impl Decoder {
    pub fn new() -> Self {
        Decoder { table: VecDeque::new(), size: 0, size_max: TABLE_BYTES, scratch: Vec::new() }
    }

    /// Decodes a whole block, field by field.
    pub fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(&Field)) -> Result<(), Undecodable> {
        let mut begun = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                // Section 6.1: a field of the tables.
                match integer(&mut block, 7)? {
                    0 => return Err(Undecodable),
                    index @ ..=STATIC_LEN => each(&fixed(index)),
                    index => each(self.table.get(index - STATIC_LEN - 1).ok_or(Undecodable)?),
                }
            } else if first & 0xc0 == 0x40 {
                // Section 6.2.1: a literal that is put into the table.
                let field = self.literal(&mut block, 6)?;
                each(&field);
                self.insert(field);
            } else if first & 0xe0 == 0x20 {
                // Section 6.3: how much of the table is used; said before any field (section 4.2).
                let size = integer(&mut block, 5)?;
                if begun || size > TABLE_BYTES {
                    return Err(Undecodable);
                }
                self.size_max = size;
                self.evict(0);
                continue;
            } else {
                // Sections 6.2.2 and 6.2.3: a literal that is not.
                let field = self.literal(&mut block, 4)?;
                each(&field);
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Result<Field, Undecodable> {
        let (kind, name) = match integer(block, prefix)? {
            0 => {
                let bytes = string(block, &mut self.scratch)?;
                field::name(bytes)
            }
            index @ ..=STATIC_LEN => {
                let field = fixed(index);
                (field.kind, field.name)
            }
            index => {
                let field = self.table.get(index - STATIC_LEN - 1).ok_or(Undecodable)?;
                // Its value may have been what was wrong with it.
                match field.kind {
                    Kind::Forbidden => field::name(&field.name),
                    kind => (kind, field.name.clone()),
                }
            }
        };
        let value = string(block, &mut self.scratch)?;
        let value = if value.is_empty() { Text::EMPTY } else { Text::Shared(Rc::from(value)) };
        Ok(Field::new(kind, name, value))
    }

    /// A field larger than the table empties it (section 4.4).
    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.size_max {
            self.size += size;
            self.table.push_front(field);
        }
    }

    /// Makes room for `more` bytes.
    fn evict(&mut self, more: usize) {
        while self.size + more > self.size_max {
            let Some(field) = self.table.pop_back() else { return };
            self.size -= field.size();
        }
    }
}

/// Section 5.1. Numbers beyond 2^28 are nothing that a header needs.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Undecodable> {
    let mut next = || {
        let (&byte, rest) = block.split_first().ok_or(Undecodable)?;
        *block = rest;
        Ok(byte)
    };
    let mask = (1u8 << prefix) - 1;
    let first = next()? & mask;
    let mut value = usize::from(first);
    if first < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Undecodable)
}

/// Section 5.2. The result is in the block or in `scratch`.
fn string<'a, 'b: 'a>(block: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Undecodable> {
    let coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(Undecodable)?;
    *block = rest;
    if !coded {
        return Ok(bytes);
    }
    scratch.clear();
    huffman::decode(bytes, scratch).ok_or(Undecodable)?;
    Ok(scratch)
}

const STATIC_LEN: usize = 61;

/// A field of the static table, `index` from 1 on.
fn fixed(index: usize) -> Field {
    let (name, value) = STATIC[index - 1];
    let kind = match index {
        1 => Kind::Authority,
        2 | 3 => Kind::Method,
        4 | 5 => Kind::Path,
        6 | 7 => Kind::Scheme,
        8..=14 => Kind::Pseudo,
        28 => Kind::ContentLength,
        31 => Kind::ContentType,
        38 => Kind::Host,
        57 => Kind::Forbidden,
        _ => Kind::Metadata,
    };
    Field { kind, name: Text::Fixed(name.as_bytes()), value: Text::Fixed(value.as_bytes()) }
}

/// Appendix A.
const STATIC: [(&str, &str); STATIC_LEN] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
