//! The hashes by which members are compared: etcd's, byte for byte, over what etcd would have in its backend. Computed
//! from an immutable state, on a thread that may wait for the disk. (etcd: mvcc/hash.go, backend/backend.go Hash.)

use std::{io, sync::Mutex};

use prost::Message;

use super::{
    index::Index,
    state::State,
    types::{KeyMeta, KeyRange, Revision, Values},
};
use crate::proto::{etcdserverpb::AlarmMember, leasepb, mvccpb::KeyValue};

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
    let mut hash = crc32c::crc32c(b"key");
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
        hash = append_entry(hash, event.key, &meta, values)?;
    }
    Ok(KvHash { hash, compacted, revision: at })
}

/// One entry of etcd's bucket `key`: the revision, the key-value.
fn append_entry(hash: u32, key: &[u8], meta: &KeyMeta, values: &dyn Values) -> io::Result<u32> {
    let mut name = [0; 18];
    let len = revision_bytes(meta, &mut name);
    let kv = KeyValue {
        key: key.to_vec().into(),
        create_revision: meta.create,
        mod_revision: if meta.is_tombstone() { 0 } else { meta.revision.main },
        version: meta.version,
        value: if meta.place.len == 0 { Default::default() } else { values.read(meta.place)? },
        lease: meta.lease,
    };
    let hash = crc32c::crc32c_append(hash, &name[..len]);
    Ok(crc32c::crc32c_append(hash, &kv.encode_to_vec()))
}

/// A revision as etcd's backend spells it: main, `_`, sub, and `t` for a tombstone. Gives the length.
fn revision_bytes(meta: &KeyMeta, name: &mut [u8; 18]) -> usize {
    *name = [0; 18];
    name[..17].copy_from_slice(&main_sub(meta.revision));
    if meta.is_tombstone() {
        name[17] = b't';
        return 18;
    }
    17
}

fn main_sub(revision: Revision) -> [u8; 17] {
    let mut name = [b'_'; 17];
    name[..8].copy_from_slice(&revision.main.to_be_bytes());
    name[9..].copy_from_slice(&revision.sub.to_be_bytes());
    name
}

/// Hashes everything that etcd has in its backend, bucket by bucket in order of name, but for what differs between
/// members or moments: consistent index, term and storage version.
///
/// # Errors
/// If a value cannot be read.
pub fn hash(state: &State, values: &dyn Values) -> io::Result<u32> {
    let mut buckets = Buckets(0);
    buckets.open("alarm");
    let mut alarms: Vec<Vec<u8>> =
        state.alarms.iter().map(|(alarm, member_id)| AlarmMember { member_id, alarm }.encode_to_vec()).collect();
    alarms.sort_unstable();
    for alarm in &alarms {
        buckets.entry(alarm, b"");
    }
    buckets.open("auth");
    if let Some(enabled) = state.auth.enabled() {
        buckets.entry(b"authEnabled", &[u8::from(enabled)]);
    }
    buckets.entry(b"authRevision", &state.auth.revision().to_be_bytes());
    buckets.open("authRoles");
    for role in state.auth.roles() {
        buckets.entry(&role.name, &role.encode_to_vec());
    }
    buckets.open("authUsers");
    for user in state.auth.users() {
        buckets.entry(&user.name, &user.encode_to_vec());
    }
    buckets.open("cluster");
    if let Some(version) = &state.cluster_version {
        buckets.entry(b"clusterVersion", version.as_bytes());
    }
    if let Some(downgrade) = &state.downgrade {
        let json = format!("{{\"target-version\":\"{}\",\"enabled\":true}}", downgrade.target);
        buckets.entry(b"downgrade", json.as_bytes());
    }
    buckets.open("key");
    for event in state.index.event_refs(Revision::ZERO, i64::MAX) {
        buckets.0 = append_entry(buckets.0, event.key, &event.meta, values)?;
    }
    buckets.open("lease");
    let mut leases: Vec<_> = state.leases.iter().collect();
    leases.sort_unstable_by_key(|lease| lease.id as u64);
    for lease in leases {
        let value = leasepb::Lease { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining };
        buckets.entry(&lease.id.to_be_bytes(), &value.encode_to_vec());
    }
    buckets.open("members");
    let mut members: Vec<(String, String)> = state
        .membership
        .members()
        .map(|member| (format!("{:x}", member.id), go_json(&serde_json::to_string(member).expect("plain strings"))))
        .collect();
    members.sort_unstable();
    for (id, json) in &members {
        buckets.entry(id.as_bytes(), json.as_bytes());
    }
    buckets.open("members_removed");
    let mut removed: Vec<String> = state.membership.removed().map(|id| format!("{id:x}")).collect();
    removed.sort_unstable();
    for id in &removed {
        buckets.entry(id.as_bytes(), b"removed");
    }
    buckets.open("meta");
    if let Some(json) = conf_state_json(state) {
        buckets.entry(b"confState", json.as_bytes());
    }
    let compacted = state.index.compacted();
    if compacted >= 0 {
        let revision = main_sub(Revision::new(compacted, 0));
        if !state.index.compacting() {
            buckets.entry(b"finishedCompactRev", &revision);
        }
        buckets.entry(b"scheduledCompactRev", &revision);
    }
    Ok(buckets.0)
}

struct Buckets(u32);

impl Buckets {
    fn open(&mut self, name: &str) {
        self.0 = crc32c::crc32c_append(self.0, name.as_bytes());
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.0 = crc32c::crc32c_append(crc32c::crc32c_append(self.0, key), value);
    }
}

/// Go's JSON encoder escapes what HTML would take for markup.
fn go_json(json: &str) -> String {
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// The configuration as etcd's backend keeps it; lists that are empty are left out.
fn conf_state_json(state: &State) -> Option<String> {
    let conf_state = state.conf_state();
    let lists = [
        ("voters", &conf_state.voters),
        ("learners", &conf_state.learners),
        ("voters_outgoing", &conf_state.voters_outgoing),
        ("learners_next", &conf_state.learners_next),
    ];
    let mut fields = Vec::new();
    for (name, ids) in lists.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        fields.push(format!("\"{name}\":[{}]", ids.join(",")));
    }
    if fields.is_empty() {
        return None;
    }
    fields.push(format!("\"auto_leave\":{}", conf_state.auto_leave.unwrap_or_default()));
    Some(format!("{{{}}}", fields.join(",")))
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

    pub fn get(&self, revision: i64) -> Option<KvHash> {
        self.0.lock().expect("no holder of the lock panics").iter().find(|hash| hash.revision == revision).copied()
    }
}

#[cfg(test)]
mod tests;
