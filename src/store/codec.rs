//! How the indexes spell what they hold: numbers as varints, usual cases as flags, so that a key written once costs about
//! twenty bytes beside its name. The checkpoint stores states and events in the same spelling: a change here is a new
//! version of its format (`checkpoint::FORMAT_VERSION`, docs/format.md).

use super::types::{KeyMeta, Place, Revision};

const TOMBSTONE: u8 = 1;
const SUB: u8 = 2;
const CREATED_BEFORE: u8 = 4;
const VERSION: u8 = 8;
const LEASE: u8 = 16;
const PLACE: u8 = 32;
const PREV: u8 = 64;
const JUMP: u8 = 128;

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what this module has written: trusted bytes.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("an entry of the index is cut short");
        self.0 = rest;
        *first
    }

    #[inline]
    pub fn varint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }
}

/// Reads what somebody else may have written. None where the bytes end too early or are not what they should be.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A distance back from a revision, to one that is not below zero.
    fn distance(&mut self, from: i64) -> Option<()> {
        (self.varint()? <= from as u64).then_some(())
    }

    fn meta_tail(&mut self, flags: u8, main: i64) -> Option<()> {
        if flags & TOMBSTONE != 0 {
            return Some(());
        }
        if flags & CREATED_BEFORE != 0 {
            self.distance(main)?;
        }
        let others = (flags & VERSION != 0) as u8 + (flags & LEASE != 0) as u8 + 3 * (flags & PLACE != 0) as u8;
        for _ in 0..others {
            self.varint()?;
        }
        Some(())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Whether bytes of a checkpoint are a key's state: `key` can be asked then.
pub fn is_key(value: &[u8]) -> bool {
    let look = || {
        let mut rest = Fields(value);
        let flags = rest.byte()?;
        if flags & (PREV | JUMP) != 0 {
            return None;
        }
        let main = i64::try_from(rest.varint()?).ok()?;
        if flags & SUB != 0 {
            rest.varint()?;
        }
        rest.meta_tail(flags, main)?;
        rest.end()
    };
    look().is_some()
}

/// Whether bytes of a checkpoint are an event but for its key (`key_apart`): `event` can be asked then.
pub fn is_event(main: i64, [flags, tail]: [&[u8]; 2]) -> bool {
    let look = || {
        let [flags] = flags else { return None };
        let mut rest = Fields(tail);
        rest.meta_tail(*flags, main)?;
        if flags & PREV != 0 {
            // The depth, and the event before.
            rest.varint()?;
            rest.distance(main)?;
            rest.varint()?;
            if flags & JUMP != 0 {
                rest.distance(main)?;
                rest.varint()?;
            }
        }
        rest.end()
    };
    main >= 0 && look().is_some()
}

fn meta_flags(meta: &KeyMeta) -> u8 {
    if meta.is_tombstone() {
        return TOMBSTONE;
    }
    let mut flags = 0;
    if meta.create != meta.revision.main {
        flags |= CREATED_BEFORE;
    }
    if meta.version != 1 {
        flags |= VERSION;
    }
    if meta.lease != 0 {
        flags |= LEASE;
    }
    if meta.place.len != 0 {
        flags |= PLACE;
    }
    flags
}

fn put_meta_tail(out: &mut Vec<u8>, meta: &KeyMeta, flags: u8) {
    if flags & CREATED_BEFORE != 0 {
        put_varint(out, (meta.revision.main - meta.create) as u64);
    }
    if flags & VERSION != 0 {
        put_varint(out, meta.version as u64);
    }
    if flags & LEASE != 0 {
        put_varint(out, meta.lease as u64);
    }
    if flags & PLACE != 0 {
        put_varint(out, u64::from(meta.place.segment));
        put_varint(out, u64::from(meta.place.offset));
        put_varint(out, u64::from(meta.place.len));
    }
}

fn meta_tail(reader: &mut Reader<'_>, flags: u8, revision: Revision) -> KeyMeta {
    if flags & TOMBSTONE != 0 {
        return KeyMeta { revision, ..KeyMeta::default() };
    }
    let create = if flags & CREATED_BEFORE != 0 { revision.main - reader.varint() as i64 } else { revision.main };
    let version = if flags & VERSION != 0 { reader.varint() as i64 } else { 1 };
    let lease = if flags & LEASE != 0 { reader.varint() as i64 } else { 0 };
    let place = if flags & PLACE != 0 {
        Place { segment: reader.varint() as u32, offset: reader.varint() as u32, len: reader.varint() as u32 }
    } else {
        Place::EMPTY
    };
    KeyMeta { revision, create, version, lease, place }
}

/// The value of an entry of the key tree: the key's newest state, and what its next event needs of the newest one's link,
/// so that it need not be looked for: that is not in a checkpoint.
pub fn put_key(out: &mut Vec<u8>, meta: &KeyMeta, onward: Option<Onward>) {
    let mut flags = meta_flags(meta);
    if meta.revision.sub != 0 {
        flags |= SUB;
    }
    if let Some(onward) = onward {
        flags |= PREV;
        if onward.jump.sub != 0 {
            flags |= JUMP;
        }
    }
    out.push(flags);
    put_varint(out, meta.revision.main as u64);
    if flags & SUB != 0 {
        put_varint(out, meta.revision.sub as u64);
    }
    put_meta_tail(out, meta, flags);
    if let Some(onward) = onward {
        put_varint(out, onward.depth);
        put_distance(out, (meta.revision.main - onward.jump.main) as u64);
        if flags & JUMP != 0 {
            put_varint(out, onward.jump.sub as u64);
        }
    }
}

/// As a varint, of four bytes unless it is too large: it differs from one state of a key to the next, and a state of the same
/// length takes the place of the one before.
fn put_distance(out: &mut Vec<u8>, distance: u64) {
    if distance >> 28 != 0 {
        return put_varint(out, distance);
    }
    let [a, b, c] = [0, 7, 14].map(|shift| (distance >> shift) as u8 | 0x80);
    out.extend_from_slice(&[a, b, c, (distance >> 21) as u8]);
}

#[inline]
pub fn key(value: &[u8]) -> KeyMeta {
    key_in(&mut Reader(value)).1
}

#[inline]
fn key_in(reader: &mut Reader<'_>) -> (u8, KeyMeta) {
    let flags = reader.byte();
    let main = reader.varint() as i64;
    let sub = if flags & SUB != 0 { reader.varint() as i64 } else { 0 };
    (flags, meta_tail(reader, flags, Revision { main, sub }))
}

/// A key's newest state, and what is known of its newest event's link: None of one that came from a checkpoint.
#[inline]
pub fn key_and_onward(value: &[u8]) -> (KeyMeta, Option<Onward>) {
    let mut reader = Reader(value);
    let (flags, meta) = key_in(&mut reader);
    let onward = (flags & PREV != 0).then(|| {
        let depth = reader.varint();
        let main = meta.revision.main - reader.varint() as i64;
        let sub = if flags & JUMP != 0 { reader.varint() as i64 } else { 0 };
        Onward { depth, jump: Revision { main, sub } }
    });
    (meta, onward)
}

/// A key's newest state as a checkpoint has it, in two parts.
pub fn bare_key(value: &[u8]) -> ([u8; 1], &[u8]) {
    let mut reader = Reader(value);
    let (flags, _) = key_in(&mut reader);
    ([flags & !(PREV | JUMP)], &value[1..value.len() - reader.0.len()])
}

/// What a subtree's summary needs of a key's newest state: whether it lives, its main revision, and the one since which
/// that is so: the put that made it, or the delete.
#[inline]
pub fn key_summary(value: &[u8]) -> (bool, i64, i64) {
    let mut reader = Reader(value);
    let flags = reader.byte();
    let main = reader.varint() as i64;
    if flags & CREATED_BEFORE == 0 || flags & TOMBSTONE != 0 {
        return (flags & TOMBSTONE == 0, main, main);
    }
    if flags & SUB != 0 {
        reader.varint();
    }
    (true, main, main - reader.varint() as i64)
}

/// A revision as a checkpoint of version 1 spells it: main revision and sub-revision, big endian. None if it is not 12
/// bytes.
pub fn revision_of(key: &[u8]) -> Option<Revision> {
    let (main, sub) = key.split_at_checked(8)?;
    let main = i64::try_from(u64::from_be_bytes(main.try_into().ok()?)).ok()?;
    Some(Revision { main, sub: u32::from_be_bytes(sub.try_into().ok()?).into() })
}

/// How an event hangs on the history of its key: the event before it, and a farther one to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub prev: Revision,
    pub jump: Revision,
    /// Events before this one when it was made, those compacted since included.
    pub depth: u64,
}

/// What the link of a key's next event is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// As in the newest event's link.
    pub depth: u64,
    pub jump: Revision,
}

impl From<Link> for Onward {
    fn from(link: Link) -> Self {
        Onward { depth: link.depth, jump: link.jump }
    }
}

/// An event as the index holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    pub key: &'a [u8],
    pub meta: KeyMeta,
    pub link: Option<Link>,
}

fn event_flags(event: &EventRef<'_>) -> u8 {
    let mut flags = meta_flags(&event.meta);
    if let Some(link) = &event.link {
        flags |= PREV;
        if link.jump != link.prev {
            flags |= JUMP;
        }
    }
    flags
}

/// An event as the index holds it in memory, its revision aside.
pub fn put_event(out: &mut Vec<u8>, event: &EventRef<'_>) {
    let flags = event_flags(event);
    out.push(flags);
    put_varint(out, event.key.len() as u64);
    out.extend_from_slice(event.key);
    put_meta_tail(out, &event.meta, flags);
    if let Some(link) = &event.link {
        let main = event.meta.revision.main;
        put_varint(out, link.depth);
        put_varint(out, (main - link.prev.main) as u64);
        put_varint(out, link.prev.sub as u64);
        if flags & JUMP != 0 {
            put_varint(out, (main - link.jump.main) as u64);
            put_varint(out, link.jump.sub as u64);
        }
    }
}

#[inline]
pub fn event<'a>(revision: Revision, value: &'a [u8]) -> EventRef<'a> {
    let mut reader = Reader(value);
    let flags = reader.byte();
    let len = reader.varint() as usize;
    let key = reader.take(len);
    let meta = meta_tail(&mut reader, flags, revision);
    let link = (flags & PREV != 0).then(|| {
        let depth = reader.varint();
        let mut back = || Revision { main: revision.main - reader.varint() as i64, sub: reader.varint() as i64 };
        let prev = back();
        let jump = if flags & JUMP != 0 { back() } else { prev };
        Link { prev, jump, depth }
    });
    EventRef { key, meta, link }
}

/// An event's key, and the rest of its spelling in two parts: a checkpoint holds those without the key between them.
#[inline]
pub fn key_apart(event: &[u8]) -> (&[u8], [&[u8]; 2]) {
    let (flags, mut reader) = (&event[..1], Reader(&event[1..]));
    let len = reader.varint() as usize;
    (reader.take(len), [flags, reader.0])
}

/// The event again of its key and the rest of its spelling.
pub fn put_with_key(out: &mut Vec<u8>, key: &[u8], [flags, tail]: [&[u8]; 2]) {
    out.extend_from_slice(flags);
    put_varint(out, key.len() as u64);
    out.extend_from_slice(key);
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> impl Strategy<Value = KeyMeta> {
        let place = (any::<u32>(), any::<u32>(), 0u32..3_000_000)
            .prop_map(|(segment, offset, len)| if len == 0 { Place::EMPTY } else { Place { segment, offset, len } });
        (1i64..i64::MAX, 0i64..100_000, 0i64..1000, 0i64..5, any::<i64>(), place).prop_map(
            |(main, sub, before, version, lease, place)| {
                let revision = Revision { main, sub };
                if version == 0 {
                    return KeyMeta { revision, ..KeyMeta::default() };
                }
                KeyMeta { revision, create: main - before.min(main), version, lease, place }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(
            meta in meta(),
            name in prop::collection::vec(any::<u8>(), 0..300),
            link in prop::option::of((0i64..50, 0i64..9, 0i64..50, 0i64..9, any::<u64>())),
        ) {
            let mut out = Vec::new();
            put_key(&mut out, &meta, None);
            prop_assert_eq!(key_and_onward(&out), (meta, None));
            prop_assert!(is_key(&out));
            prop_assert!((0..out.len()).all(|end| !is_key(&out[..end])), "no beginning of it is whole");
            let onward = link.map(|(_, _, back, sub, depth)| Onward {
                depth,
                jump: Revision::new(meta.revision.main - (back << (back / 2)).min(meta.revision.main), sub),
            });
            let mut linked = Vec::new();
            put_key(&mut linked, &meta, onward);
            prop_assert_eq!(key_and_onward(&linked), (meta, onward));
            prop_assert_eq!(key(&linked), meta);
            prop_assert_eq!(key_summary(&linked), key_summary(&out));
            prop_assert_eq!(is_key(&linked), onward.is_none());
            let (flags, tail) = bare_key(&linked);
            prop_assert_eq!([&flags, tail].concat(), out.clone());
            let turned = if meta.is_tombstone() { meta.revision.main } else { meta.create };
            prop_assert_eq!(key_summary(&out), (!meta.is_tombstone(), meta.revision.main, turned));

            let main = meta.revision.main;
            let link = link.map(|(prev, prev_sub, jump, jump_sub, depth)| Link {
                prev: Revision::new(main - prev.min(main), prev_sub),
                jump: Revision::new(main - jump.min(main), jump_sub),
                depth,
            });
            let wanted = EventRef { key: &name, meta, link };
            let mut out = Vec::new();
            put_event(&mut out, &wanted);
            prop_assert_eq!(event(meta.revision, &out), wanted);
            let (key, rest) = key_apart(&out);
            prop_assert_eq!(key, &name[..]);
            prop_assert!(is_event(meta.revision.main, rest));
            let [flags, tail] = rest;
            prop_assert!((0..tail.len()).all(|end| !is_event(meta.revision.main, [flags, &tail[..end]])));
            let mut again = Vec::new();
            put_with_key(&mut again, key, rest);
            prop_assert_eq!(again, out);
        }
    }
}
