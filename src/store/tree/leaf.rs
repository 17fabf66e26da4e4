//! A run of entries in order of key, in one block of memory that is shared by who holds it: a leaf, or the separators of
//! an inner node. Changing one makes a new block, unless only a value of the same length changes and nobody else holds
//! it: a block is about a kilobyte, so making it anew costs what moving half of it would.
//!
//! The block: how many entries there are; how many bytes all keys begin with alike; of each entry, where it begins and the
//! four bytes of its key behind those, by which a search mostly finds its way without looking at the keys; the entries. An
//! entry is the key's length as a varint, the key, the value to the entry's end.

use std::{cmp::Ordering, sync::Arc};

use super::Measure;

/// A leaf splits when its entries take more bytes than this (unless it holds one entry only).
pub(super) const LEAF_BYTES_MAX: usize = 1536;

/// A leaf with fewer bytes looks for a neighbour to join.
pub(super) const LEAF_BYTES_MIN: usize = LEAF_BYTES_MAX / 4;

/// Count, and length of the common beginning: 4 bytes each.
const HEAD_BYTES: usize = 8;

/// A slot: 4 bytes where an entry begins behind the slots, 4 bytes of its key.
const SLOT_BYTES: usize = 8;

#[derive(Clone)]
pub(super) struct Leaf(Arc<[u8]>);

impl Default for Leaf {
    fn default() -> Self {
        Leaf([0; HEAD_BYTES].into())
    }
}

/// The shortest key above `left` and not above `right`.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    debug_assert!(left < right);
    right[..common(left, right) + 1].to_vec()
}

/// How many bytes two keys begin with alike.
pub(in crate::store) fn common(left: &[u8], right: &[u8]) -> usize {
    let (left_words, _) = left.as_chunks::<8>();
    let (right_words, _) = right.as_chunks::<8>();
    let words = left_words.iter().zip(right_words).take_while(|(a, b)| a == b).count() * 8;
    words + left[words..].iter().zip(&right[words..]).take_while(|(a, b)| a == b).count()
}

/// The first four bytes as a number: of two that differ, the smaller one's bytes are less.
#[inline]
fn head(bytes: &[u8]) -> u32 {
    match bytes.first_chunk() {
        Some(head) => u32::from_be_bytes(*head),
        None => {
            let mut head = [0; 4];
            head[..bytes.len()].copy_from_slice(bytes);
            u32::from_be_bytes(head)
        }
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

/// Reads a length; gives it and the bytes it takes.
#[inline]
fn read_len(bytes: &[u8]) -> (usize, usize) {
    let (mut len, mut at) = (0usize, 0);
    loop {
        let byte = bytes[at];
        len |= ((byte & 0x7f) as usize) << (7 * at);
        at += 1;
        if byte < 0x80 {
            return (len, at);
        }
    }
}

/// Writes a length; gives the bytes it takes.
fn put_len(out: &mut [u8; 5], mut len: usize) -> usize {
    let mut at = 0;
    while len >= 0x80 {
        out[at] = len as u8 | 0x80;
        len >>= 7;
        at += 1;
    }
    out[at] = len as u8;
    at + 1
}

/// What an entry takes.
pub(super) fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    put_len(&mut [0; 5], key.len()) + key.len() + value.len()
}

impl Leaf {
    #[inline]
    pub(super) fn len(&self) -> usize {
        u32_at(&self.0, 0)
    }

    /// Bytes of the entries.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() - HEAD_BYTES - SLOT_BYTES * self.len()
    }

    #[inline]
    fn parts(&self) -> (&[[u8; SLOT_BYTES]], &[u8]) {
        let (slots, entries) = self.0[HEAD_BYTES..].split_at(SLOT_BYTES * self.len());
        (slots.as_chunks().0, entries)
    }

    fn entries(&self) -> &[u8] {
        self.parts().1
    }

    #[inline]
    fn start(&self, at: usize) -> usize {
        u32_at(&self.0, HEAD_BYTES + SLOT_BYTES * at)
    }

    /// Where the entry at `at` ends, or what is before it.
    fn end(&self, at: usize) -> usize {
        if at + 1 < self.len() { self.start(at + 1) } else { self.bytes() }
    }

    #[inline]
    pub(super) fn key(&self, at: usize) -> &[u8] {
        let (slots, entries) = self.parts();
        let entry = &entries[u32_at(&slots[at], 0)..];
        let (len, from) = read_len(entry);
        &entry[from..from + len]
    }

    #[inline]
    pub(super) fn entry(&self, at: usize) -> (&[u8], &[u8]) {
        let (slots, entries) = self.parts();
        let end = slots.get(at + 1).map_or(entries.len(), |slot| u32_at(slot, 0));
        let entry = &entries[u32_at(&slots[at], 0)..end];
        let (len, from) = read_len(entry);
        entry[from..].split_at(len)
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    pub(super) fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// How many bytes all keys begin with alike.
    fn alike(&self) -> usize {
        u32_at(&self.0, 4)
    }

    /// Where the key is, or where it would go.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (slots, _) = self.parts();
        let (mut low, mut high) = (0, slots.len());
        if high == 0 {
            return Err(0);
        }
        let alike = self.alike();
        if alike > 0 {
            let shown = key.len().min(alike);
            match key[..shown].cmp(&self.key(0)[..shown]) {
                Ordering::Equal if shown == alike => {}
                Ordering::Greater => return Err(high),
                _ => return Err(0),
            }
        }
        let rest = &key[alike..];
        let rest_head = head(rest);
        while low < high {
            let middle = (low + high) / 2;
            let mut order = (u32_at(&slots[middle], 4) as u32).cmp(&rest_head);
            if order == Ordering::Equal {
                order = self.key(middle)[alike..].cmp(rest);
            }
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// A block of entries out of others; `starts` are where each begins in what `parts` are together. `heads` are those of
    /// the slots, if keys begin with `alike` bytes in common as they did.
    fn build(count: usize, slots: impl Iterator<Item = (usize, u32)>, alike: usize, parts: &[&[u8]]) -> Leaf {
        let len = HEAD_BYTES + SLOT_BYTES * count + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut block: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        let bytes = Arc::get_mut(&mut block).expect("just made");
        bytes[..4].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(alike as u32).to_le_bytes());
        let (table, mut entries) = bytes[HEAD_BYTES..].split_at_mut(SLOT_BYTES * count);
        for (slot, (start, head)) in table.as_chunks_mut::<SLOT_BYTES>().0.iter_mut().zip(slots) {
            *slot = (u64::from(head) << 32 | start as u64).to_le_bytes();
        }
        for part in parts {
            let (to, rest) = entries.split_at_mut(part.len());
            to.copy_from_slice(part);
            entries = rest;
        }
        let leaf = Leaf(block);
        if count == 0 {
            return leaf;
        }
        let now_alike = common(leaf.first_key(), leaf.last_key());
        if now_alike == alike { leaf } else { leaf.with_alike(now_alike) }
    }

    /// The same entries, with slots for keys that have so many bytes in common.
    fn with_alike(mut self, alike: usize) -> Leaf {
        let heads: Vec<u32> = (0..self.len()).map(|at| head(&self.key(at)[alike..])).collect();
        let bytes = Arc::get_mut(&mut self.0).expect("just made");
        bytes[4..8].copy_from_slice(&(alike as u32).to_le_bytes());
        for (slot, head) in bytes[HEAD_BYTES..].as_chunks_mut::<SLOT_BYTES>().0.iter_mut().zip(heads) {
            slot[4..].copy_from_slice(&head.to_le_bytes());
        }
        self
    }

    fn slot(&self, at: usize) -> (usize, u32) {
        let at = HEAD_BYTES + SLOT_BYTES * at;
        (u32_at(&self.0, at), u32_at(&self.0, at + 4) as u32)
    }

    /// Puts an entry in the place of `gone` entries from `at` on.
    fn splice(&mut self, at: usize, gone: usize, entry: Option<(&[u8], &[u8])>) {
        let (count, entries) = (self.len(), self.entries());
        let from = if at < count { self.start(at) } else { entries.len() };
        let to = if gone > 0 { self.end(at + gone - 1) } else { from };
        let mut len = [0; 5];
        let (mut new_len, mut new_head, mut parts) = (0, None, [&[][..]; 3]);
        if let Some((key, value)) = entry {
            let len_len = put_len(&mut len, key.len());
            new_len = len_len + key.len() + value.len();
            // Where it is shorter than what the others have in common, that will be found to have changed.
            new_head = Some(head(key.get(self.alike()..).unwrap_or_default()));
            parts = [&len[..len_len], key, value];
        }
        let slots = (0..at).map(|at| self.slot(at)).chain(new_head.map(|head| (from, head))).chain(
            (at + gone..count).map(|at| self.slot(at)).map(|(start, head)| (start + new_len - (to - from), head)),
        );
        let [len, key, value] = parts;
        let count = count - gone + usize::from(entry.is_some());
        *self = Leaf::build(count, slots, self.alike(), &[&entries[..from], len, key, value, &entries[to..]]);
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], value: &[u8]) {
        self.splice(at, 0, Some((key, value)));
    }

    pub(super) fn replace(&mut self, at: usize, key: &[u8], value: &[u8]) {
        let to = self.end(at);
        let from = to - self.entry(at).1.len();
        if to - from != value.len() {
            return self.splice(at, 1, Some((key, value)));
        }
        if Arc::get_mut(&mut self.0).is_none() {
            self.0 = (&*self.0).into();
        }
        let base = self.0.len() - self.bytes();
        let block = Arc::get_mut(&mut self.0).expect("just made unique");
        block[base + from..base + to].copy_from_slice(value);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.splice(at, 1, None);
    }

    /// The entries from `from` to before `to`.
    pub(super) fn part(&self, from: usize, to: usize) -> Leaf {
        if from == to {
            return Leaf::default();
        }
        let (base, end) = (self.start(from), self.end(to - 1));
        let slots = (from..to).map(|at| self.slot(at)).map(|(start, head)| (start - base, head));
        Leaf::build(to - from, slots, self.alike(), &[&self.entries()[base..end]])
    }

    /// Splits in two halves by bytes, or, where the last entry made it too large, leaves the left part full: keys that
    /// ascend then fill their leaves.
    pub(super) fn split_if_large(&mut self) -> Option<Leaf> {
        if self.bytes() <= LEAF_BYTES_MAX || self.len() < 2 {
            return None;
        }
        let last = self.len() - 1;
        let at = if self.start(last) > LEAF_BYTES_MAX * 7 / 8 {
            last
        } else {
            let half = self.bytes() / 2;
            (1..last).find(|at| self.start(*at) >= half).unwrap_or(last)
        };
        let right = self.part(at, self.len());
        *self = self.part(0, at);
        Some(right)
    }

    /// Takes over all entries of its right neighbour.
    pub(super) fn join(&mut self, right: &Leaf) {
        let base = self.bytes();
        let left = (0..self.len()).map(|at| self.start(at));
        let slots = left.chain((0..right.len()).map(|at| right.start(at) + base)).map(|start| (start, 0));
        *self = Leaf::build(self.len() + right.len(), slots, UNKNOWN, &[self.entries(), right.entries()]);
    }

    pub(super) fn summarize<M: Measure>(&self) -> M::Summary {
        let mut summary = M::Summary::default();
        for at in 0..self.len() {
            let (key, value) = self.entry(at);
            summary = M::merge(summary, M::of(key, value));
        }
        summary
    }
}

/// In place of how many bytes are alike: the slots have no bytes of keys yet.
const UNKNOWN: usize = u32::MAX as usize;

/// A leaf under construction from entries in ascending order.
#[derive(Default)]
pub(super) struct Filling {
    starts: Vec<usize>,
    entries: Vec<u8>,
    last_key: (usize, usize),
}

impl Filling {
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub(super) fn last_key(&self) -> &[u8] {
        &self.entries[self.last_key.0..self.last_key.1]
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn would_be_large(&self, key: &[u8], value: &[u8]) -> bool {
        self.entries.len() + key.len() + value.len() + 2 > LEAF_BYTES_MAX
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.starts.push(self.entries.len());
        let mut len = [0; 5];
        let len_len = put_len(&mut len, key.len());
        self.entries.extend_from_slice(&len[..len_len]);
        self.entries.extend_from_slice(key);
        self.last_key = (self.entries.len() - key.len(), self.entries.len());
        self.entries.extend_from_slice(value);
    }

    /// What was gathered, and begins anew.
    pub(super) fn take(&mut self) -> Leaf {
        let slots = self.starts.iter().map(|start| (*start, 0));
        let leaf = Leaf::build(self.starts.len(), slots, UNKNOWN, &[&self.entries]);
        self.starts.clear();
        self.entries.clear();
        leaf
    }
}
