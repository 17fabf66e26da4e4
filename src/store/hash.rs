//! The hashes by which members are compared: etcd's, byte for byte, over what etcd would have in its backend. Computed
//! from an immutable state, on a thread that may wait for the disk. (etcd: mvcc/hash.go, backend/backend.go Hash.)

pub mod spans;

use std::{io, sync::Mutex};

use super::{
    backend::{self, ChangeValue, Content, change_name},
    index::Index,
    state::State,
    types::{KeyMeta, KeyRange, Revision, Values},
};

/// A hash of the keys up to `revision`, of a store compacted to `compacted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    pub compacted: i64,
    pub revision: i64,
}

/// Hashes every retained change up to `at`, in order. What a compaction has made superfluous counts as gone whether
/// it is gone already or not, and so does a tombstone exactly at the compacted revision.
///
/// # Errors
/// If a value cannot be read.
pub fn hash_kv(index: &Index, at: i64, values: &dyn Values) -> io::Result<KvHash> {
    // Where no key lives at `at`, etcd's set of what is to be kept is empty, and an empty set leaves nothing out.
    let any_kept = at > 0 && index.count(KeyRange::From(&[]), at) > 0;
    hash_keeping(index, at, any_kept, values)
}

/// The hash that belongs to a compaction up to `at`; `before` is the index when it begins.
///
/// # Errors
/// If a value cannot be read.
pub fn hash_compaction(before: &Index, at: i64, values: &dyn Values) -> io::Result<KvHash> {
    // A compaction keeps the tombstones of its own revision, so that they too make the set not empty.
    let any_kept = before.count(KeyRange::From(&[]), at) > 0
        || before.event_refs(Revision::new(at, 0), at).any(|event| event.meta.is_tombstone());
    hash_keeping(before, at, any_kept, values)
}

fn hash_keeping(index: &Index, at: i64, any_kept: bool, values: &dyn Values) -> io::Result<KvHash> {
    let compacted = index.compacted();
    let (mut hash, mut value) = (crc32c::crc32c(b"key"), ChangeValue::default());
    for event in index.event_refs(Revision::ZERO, at) {
        let meta = event.meta;
        if meta.revision.main <= compacted && any_kept {
            let kept = index.get(event.key, at).is_some_and(|kept| kept.revision == meta.revision);
            if !kept {
                continue;
            }
        }
        if meta.revision.main == compacted && meta.is_tombstone() {
            continue;
        }
        hash = append_entry(hash, &mut value, event.key, &meta, values)?;
    }
    Ok(KvHash { hash, compacted, revision: at })
}

/// One entry of etcd's bucket `key`: the revision, the key-value.
fn append_entry(
    hash: u32,
    value: &mut ChangeValue,
    key: &[u8],
    meta: &KeyMeta,
    values: &dyn Values,
) -> io::Result<u32> {
    let (name, len) = change_name(meta);
    value.set(key, meta);
    let mut hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &name[..len]), &value.head);
    if meta.place.len > 0 {
        hash = crc32c::crc32c_append(hash, &values.read(meta.place)?);
    }
    Ok(crc32c::crc32c_append(hash, &value.tail))
}

/// Hashes every retained change, whatever compaction has made of it: by that two stores are told to hold the same.
///
/// # Errors
/// If a value cannot be read.
pub fn hash_changes(index: &Index, values: &dyn Values) -> io::Result<u32> {
    let (mut hash, mut value) = (crc32c::crc32c(b"key"), ChangeValue::default());
    for event in index.event_refs(Revision::ZERO, i64::MAX) {
        hash = append_entry(hash, &mut value, event.key, &event.meta, values)?;
    }
    Ok(hash)
}

/// Hashes everything that etcd has in its backend, bucket by bucket in order of name, but for what differs between
/// members or moments: consistent index, term and storage version.
///
/// # Errors
/// If a value cannot be read.
pub fn hash(state: &State, values: &dyn Values) -> io::Result<u32> {
    let mut hash = 0;
    let mut value = ChangeValue::default();
    for (name, content) in backend::buckets(state) {
        hash = crc32c::crc32c_append(hash, name.as_bytes());
        match content {
            Content::Entries(entries) => {
                let counts = |key: &[u8]| name != "meta" || !backend::is_of_the_moment(key);
                for (key, value) in entries.iter().filter(|(key, _)| counts(key)) {
                    hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
                }
            }
            Content::Changes => {
                for event in state.index.event_refs(Revision::ZERO, i64::MAX) {
                    hash = append_entry(hash, &mut value, event.key, &event.meta, values)?;
                }
            }
            Content::Leases => {
                for lease in state.leases.iter_as_unsigned(0) {
                    let (key, value) = backend::lease_entry(&lease);
                    hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
                }
            }
        }
    }
    Ok(hash)
}

/// Hashes taken when compactions began, each of the store as it was just before: by those members compare what each
/// compacted. The ten newest are kept. (etcd: mvcc/hash.go, hashStorage.)
#[derive(Debug, Default)]
pub struct CompactionHashes(Mutex<Vec<KvHash>>);

impl CompactionHashes {
    const KEPT: usize = 10;

    /// `hash`: what `hash_compaction` gave.
    pub fn keep(&self, hash: KvHash) {
        let mut hashes = self.0.lock().expect("no holder of the lock panics");
        hashes.push(hash);
        hashes.sort_by_key(|hash| hash.revision);
        if hashes.len() > Self::KEPT {
            hashes.remove(0);
        }
    }

    /// Of revisions beyond `revision`, the newest first.
    pub fn after(&self, revision: i64) -> Vec<KvHash> {
        let hashes = self.0.lock().expect("no holder of the lock panics");
        hashes.iter().rev().take_while(|hash| hash.revision > revision).copied().collect()
    }

    pub fn get(&self, revision: i64) -> Option<KvHash> {
        self.0.lock().expect("no holder of the lock panics").iter().find(|hash| hash.revision == revision).copied()
    }
}

#[cfg(test)]
mod tests;
