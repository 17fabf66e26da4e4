//! A leaf: its entries one after another in one blob, and where each begins.
//! An entry is the key's length as a varint, the key, the value to the entry's end.

use std::sync::Arc;

use super::Measure;

/// A leaf splits when its entries take more bytes than this (unless it holds one entry only).
pub(super) const LEAF_BYTES_MAX: usize = 3072;

/// A leaf with fewer bytes looks for a neighbour to join.
pub(super) const LEAF_BYTES_MIN: usize = LEAF_BYTES_MAX / 4;

/// Room kept for further entries when a leaf grows: enough for two usual ones, little beside the leaf.
const SLACK_BYTES: usize = 192;

#[derive(Default)]
pub(super) struct Leaf {
    starts: Vec<u32>,
    bytes: Vec<u8>,
}

/// The leaf to change: itself if nobody else holds it, else a copy with room for `more` bytes.
pub(super) fn own(leaf: &mut Arc<Leaf>, more: usize) -> &mut Leaf {
    if Arc::get_mut(leaf).is_none() {
        *leaf = Arc::new(leaf.copy(more));
    }
    Arc::get_mut(leaf).expect("just made unique")
}

/// The shortest key above `left` and not above `right`.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    debug_assert!(left < right);
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..common + 1].to_vec()
}

fn put_varint(out: &mut [u8; 5], mut value: u32) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

impl Leaf {
    fn copy(&self, more: usize) -> Leaf {
        let mut bytes = Vec::with_capacity(self.bytes.len() + if more == 0 { 0 } else { more + 8 });
        bytes.extend_from_slice(&self.bytes);
        let mut starts = Vec::with_capacity(self.starts.len() + 2);
        starts.extend_from_slice(&self.starts);
        Leaf { starts, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn end(&self, at: usize) -> usize {
        self.starts.get(at + 1).map_or(self.bytes.len(), |start| *start as usize)
    }

    fn key_span(&self, at: usize) -> (usize, usize) {
        let mut from = self.starts[at] as usize;
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let byte = self.bytes[from];
            from += 1;
            len |= ((byte & 0x7f) as usize) << shift;
            if byte < 0x80 {
                return (from, from + len);
            }
            shift += 7;
        }
    }

    pub(super) fn key(&self, at: usize) -> &[u8] {
        let (from, to) = self.key_span(at);
        &self.bytes[from..to]
    }

    pub(super) fn entry(&self, at: usize) -> (&[u8], &[u8]) {
        let (from, to) = self.key_span(at);
        (&self.bytes[from..to], &self.bytes[to..self.end(at)])
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    pub(super) fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// Where the key is, or where it would go.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve_exact(more + SLACK_BYTES);
        }
    }

    /// Replaces `bytes[from..to]` by `new` and moves what lies behind.
    fn splice(&mut self, from: usize, to: usize, parts: [&[u8]; 3]) {
        let new_len: usize = parts.iter().map(|part| part.len()).sum();
        let old_len = to - from;
        let tail = self.bytes.len();
        if new_len > old_len {
            self.reserve(new_len - old_len);
            self.bytes.resize(tail + new_len - old_len, 0);
        }
        self.bytes.copy_within(to..tail, from + new_len);
        self.bytes.truncate(tail - old_len + new_len);
        let mut at = from;
        for part in parts {
            self.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    fn shift_starts(&mut self, from: usize, delta: isize) {
        for start in &mut self.starts[from..] {
            *start = (*start as isize + delta) as u32;
        }
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], value: &[u8]) {
        let mut head = [0; 5];
        let head_len = put_varint(&mut head, key.len() as u32);
        let from = self.starts.get(at).map_or(self.bytes.len(), |start| *start as usize);
        self.splice(from, from, [&head[..head_len], key, value]);
        self.starts.insert(at, from as u32);
        self.shift_starts(at + 1, (head_len + key.len() + value.len()) as isize);
    }

    /// Adds an entry at the end. For leaves that are built whole and then copied out by `take_copy`: takes room for all.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        let mut head = [0; 5];
        let head_len = put_varint(&mut head, key.len() as u32);
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(&head[..head_len]);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    /// The entries in memory of just their size; this is empty then and keeps its room.
    pub(super) fn take_copy(&mut self) -> Leaf {
        let copy = Leaf { starts: self.starts.as_slice().into(), bytes: self.bytes.as_slice().into() };
        self.starts.clear();
        self.bytes.clear();
        copy
    }

    pub(super) fn replace(&mut self, at: usize, value: &[u8]) {
        let (_, from) = self.key_span(at);
        let to = self.end(at);
        self.splice(from, to, [value, &[], &[]]);
        self.shift_starts(at + 1, value.len() as isize - (to - from) as isize);
    }

    pub(super) fn remove(&mut self, at: usize) {
        let (from, to) = (self.starts[at] as usize, self.end(at));
        self.splice(from, to, [&[], &[], &[]]);
        self.starts.remove(at);
        self.shift_starts(at, from as isize - to as isize);
    }

    pub(super) fn would_be_large(&self, key: &[u8], value: &[u8]) -> bool {
        self.bytes.len() + key.len() + value.len() + 2 > LEAF_BYTES_MAX
    }

    /// Splits in two halves by bytes, or, where the last entry made it too large, leaves the left part full: keys that
    /// ascend then fill their leaves.
    pub(super) fn split_if_large(&mut self) -> Option<Leaf> {
        if self.bytes.len() <= LEAF_BYTES_MAX || self.len() < 2 {
            return None;
        }
        let last = self.len() - 1;
        let at = if (self.starts[last] as usize) > LEAF_BYTES_MAX * 7 / 8 {
            last
        } else {
            let half = self.bytes.len() / 2;
            self.starts.partition_point(|start| (*start as usize) < half).clamp(1, last)
        };
        let cut = self.starts[at] as usize;
        let mut right = Leaf { starts: self.starts[at..].to_vec(), bytes: self.bytes[cut..].to_vec() };
        right.shift_starts(0, -(cut as isize));
        self.bytes.truncate(cut);
        self.starts.truncate(at);
        self.shrink();
        Some(right)
    }

    /// Takes over all entries of its right neighbour.
    pub(super) fn join(&mut self, right: &Leaf) {
        let base = self.bytes.len() as u32;
        self.bytes.reserve_exact(right.bytes.len());
        self.bytes.extend_from_slice(&right.bytes);
        self.starts.extend(right.starts.iter().map(|start| start + base));
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
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
