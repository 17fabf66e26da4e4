//! Leases as applied state: which exist, for how long they were granted, which keys hang on each. Deadlines are the
//! shards' business; a key's lease is forgotten here when the key goes or changes leases.

use bytes::Bytes;

use super::{
    codec::{self, Reader},
    tree::{Plain, Tree},
};

/// A granted lease. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    pub ttl: i64,
    /// What a checkpoint said was left; 0 if none was taken.
    pub remaining: i64,
}

/// All leases, and which key hangs on which. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct LeaseBook {
    leases: Tree<Plain>,
    /// Lease id and key, one entry a key; no value.
    keys: Tree<Plain>,
}

/// Ids in order as bytes, negative ones first.
fn id_bytes(id: i64) -> [u8; 8] {
    (id as u64 ^ 1 << 63).to_be_bytes()
}

fn id_of(bytes: &[u8]) -> i64 {
    (u64::from_be_bytes(bytes[..8].try_into().expect("8 bytes")) ^ 1 << 63) as i64
}

fn attachment(id: i64, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + key.len());
    bytes.extend_from_slice(&id_bytes(id));
    bytes.extend_from_slice(key);
    bytes
}

impl LeaseBook {
    /// Leases, and which key hangs on which.
    pub(super) fn trees(&self) -> (&Tree<Plain>, &Tree<Plain>) {
        (&self.leases, &self.keys)
    }

    /// Put together again from a checkpoint.
    pub(super) fn restored(leases: Tree<Plain>, keys: Tree<Plain>) -> Self {
        LeaseBook { leases, keys }
    }

    pub fn len(&self) -> u64 {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn get(&self, id: i64) -> Option<Lease> {
        self.leases.get(&id_bytes(id)).map(|value| decode(id, value))
    }

    pub fn contains(&self, id: i64) -> bool {
        self.leases.get(&id_bytes(id)).is_some()
    }

    pub fn grant(&mut self, lease: Lease) {
        let mut value = Vec::with_capacity(12);
        codec::put_varint(&mut value, lease.ttl as u64);
        codec::put_varint(&mut value, lease.remaining as u64);
        self.leases.insert(&id_bytes(lease.id), &value);
    }

    /// Forgets a lease. Its keys must have gone before.
    pub fn revoke(&mut self, id: i64) {
        debug_assert_eq!(self.keys(id).count(), 0, "a lease goes after its keys");
        self.leases.remove(&id_bytes(id));
    }

    pub fn attach(&mut self, id: i64, key: &[u8]) {
        self.keys.insert(&attachment(id, key), &[]);
    }

    pub fn detach(&mut self, id: i64, key: &[u8]) {
        self.keys.remove(&attachment(id, key));
    }

    /// The keys that hang on a lease, in byte order.
    pub fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        let prefix = id_bytes(id);
        self.keys
            .iter_from(&prefix)
            .map(|(entry, _)| entry)
            .take_while(move |entry| entry[..8] == prefix)
            .map(|e| &e[8..])
    }

    /// The first key that hangs on a lease, from a key on.
    pub fn first_key(&self, id: i64, from: &[u8]) -> Option<&[u8]> {
        let (entry, _) = self.keys.iter_from(&attachment(id, from)).next()?;
        (entry[..8] == id_bytes(id)).then(|| &entry[8..])
    }

    /// All of them, copied out.
    pub fn keys_owned(&self, id: i64) -> Vec<Bytes> {
        self.keys(id).map(Bytes::copy_from_slice).collect()
    }

    /// The leases from an id on, in the order of ids as unsigned numbers, which is that of etcd's backend.
    pub fn iter_as_unsigned(&self, from: u64) -> impl Iterator<Item = Lease> + '_ {
        let signed = from as i64;
        let at_or_above =
            move |id: i64| self.leases.iter_from(&id_bytes(id)).map(|(key, value)| decode(id_of(key), value));
        let positive = at_or_above(signed.max(0)).take_while(move |_| signed >= 0);
        let negative = at_or_above(if signed < 0 { signed } else { i64::MIN }).take_while(|lease| lease.id < 0);
        positive.chain(negative)
    }

    /// All leases in order of id.
    pub fn iter(&self) -> impl Iterator<Item = Lease> + '_ {
        self.leases.iter().map(|(key, value)| decode(id_of(key), value))
    }
}

fn decode(id: i64, value: &[u8]) -> Lease {
    let mut reader = Reader(value);
    Lease { id, ttl: reader.varint() as i64, remaining: reader.varint() as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_neighbouring_ids_do_not_mix() {
        let mut book = LeaseBook::default();
        for id in [-1, 0, 1, 255, 256, i64::MIN, i64::MAX] {
            book.grant(Lease { id, ttl: 10, remaining: 0 });
            book.attach(id, b"b");
            book.attach(id, b"a");
        }
        for id in [-1, 0, 1, 255, 256, i64::MIN, i64::MAX] {
            assert_eq!(book.keys_owned(id), ["a", "b"]);
        }
        assert_eq!(book.first_key(255, b""), Some(&b"a"[..]));
        assert_eq!(book.first_key(255, b"a\0"), Some(&b"b"[..]));
        assert_eq!(book.first_key(255, b"c"), None);
        book.detach(1, b"a");
        book.detach(1, b"b");
        book.revoke(1);
        assert_eq!(book.first_key(1, b""), None);
        assert!(!book.contains(1));
        assert_eq!(book.keys_owned(255), ["a", "b"]);
        assert!(book.iter().map(|lease| lease.id).eq([i64::MIN, -1, 0, 255, 256, i64::MAX]));
        let unsigned = [0, 255, 256, i64::MAX, i64::MIN, -1];
        let ids = |from: u64| book.iter_as_unsigned(from).map(|lease| lease.id).collect::<Vec<_>>();
        for (at, id) in unsigned.into_iter().enumerate() {
            assert_eq!(ids(id as u64), unsigned[at..]);
            assert_eq!(ids((id as u64).wrapping_add(1)), if id == -1 { &unsigned[..] } else { &unsigned[at + 1..] });
        }
    }
}
