//! The state as etcd keeps it in its backend: which buckets there are, what lies in each, byte for byte as 3.7.3 writes
//! it. One place says it for all who need it: the hash over everything (`hash.rs`), the database that a snapshot is
//! (`export.rs`), and the way back (`import.rs`). (etcd: server/storage/schema.)

pub mod export;
pub mod import;

use prost::Message as _;

use super::{
    codec::put_varint,
    state::State,
    types::{KeyMeta, Revision},
};
use crate::{
    auth::Auth,
    proto::{etcdserverpb::AlarmMember, leasepb},
    version,
};

/// A bucket's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In order of key.
    Entries(Vec<(Vec<u8>, Vec<u8>)>),
    /// Every retained change (`change_name`, `ChangeValue`), in order of revision.
    Changes,
    /// Every lease (`lease_entry`), in order of id as an unsigned number.
    Leases,
}

/// All buckets in order of name.
pub fn buckets(state: &State) -> [(&'static str, Content); 10] {
    [
        ("alarm", Content::Entries(alarms(state))),
        ("auth", Content::Entries(auth(&state.auth))),
        ("authRoles", Content::Entries(roles(&state.auth))),
        ("authUsers", Content::Entries(users(&state.auth))),
        ("cluster", Content::Entries(cluster(state))),
        ("key", Content::Changes),
        ("lease", Content::Leases),
        ("members", Content::Entries(members(state))),
        ("members_removed", Content::Entries(members_removed(state))),
        ("meta", Content::Entries(meta(state))),
    ]
}

/// Names of what buckets `auth`, `cluster` and `meta` hold.
mod names {
    pub const AUTH_ENABLED: &[u8] = b"authEnabled";
    pub const AUTH_REVISION: &[u8] = b"authRevision";
    pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
    pub const DOWNGRADE: &[u8] = b"downgrade";
    pub const CONF_STATE: &[u8] = b"confState";
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
    pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
    pub const TERM: &[u8] = b"term";
}

/// Whether an entry of bucket `meta` differs between members or moments, so that hashes leave it out.
pub fn is_of_the_moment(meta_key: &[u8]) -> bool {
    [names::CONSISTENT_INDEX, names::TERM, names::STORAGE_VERSION].contains(&meta_key)
}

// ---- changes ----

/// A revision's main number, `_`, its sub-revision.
pub fn revision_name(revision: Revision) -> [u8; 17] {
    let mut name = [b'_'; 17];
    name[..8].copy_from_slice(&revision.main.to_be_bytes());
    name[9..].copy_from_slice(&revision.sub.to_be_bytes());
    name
}

/// The key of a change in bucket `key`: its revision, and `t` behind it if it is a tombstone.
pub fn change_name(meta: &KeyMeta) -> ([u8; 18], usize) {
    let mut name = [b't'; 18];
    name[..17].copy_from_slice(&revision_name(meta.revision));
    (name, if meta.is_tombstone() { 18 } else { 17 })
}

/// The value of a change in bucket `key`, a `mvccpb.KeyValue`, but for the bytes of the key's own value, which belong
/// between the two halves.
///
/// A change of the empty key is no client's: it is the mark that `etcdutl snapshot restore --bump-revision` leaves at
/// the revision it goes on from, and has no value at all.
#[derive(Debug, Default)]
pub struct ChangeValue {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
}

impl ChangeValue {
    /// Makes another one in the same memory.
    pub fn set(&mut self, key: &[u8], meta: &KeyMeta) {
        let ChangeValue { head, tail } = self;
        head.clear();
        tail.clear();
        if key.is_empty() {
            return;
        }
        put_varint(head, 1 << 3 | 2);
        put_varint(head, key.len() as u64);
        head.extend_from_slice(key);
        if meta.is_tombstone() {
            return;
        }
        for (field, number) in [(2, meta.create), (3, meta.revision.main), (4, meta.version)] {
            put_number(head, field, number);
        }
        if meta.place.len > 0 {
            put_varint(head, 5 << 3 | 2);
            put_varint(head, meta.place.len.into());
        }
        put_number(tail, 6, meta.lease);
    }

    /// Bytes of it all, the key's value included, without making it.
    pub fn len(key: &[u8], meta: &KeyMeta) -> usize {
        let len = meta.place.len as usize;
        if key.is_empty() {
            return len;
        }
        let name = 1 + varint_bytes(key.len() as u64) + key.len();
        if meta.is_tombstone() {
            return name + len;
        }
        let numbers = [meta.create, meta.revision.main, meta.version, meta.lease];
        let numbers = numbers.into_iter().filter(|number| *number != 0);
        let value = if len > 0 { 1 + varint_bytes(len as u64) + len } else { 0 };
        name + numbers.map(|number| 1 + varint_bytes(number as u64)).sum::<usize>() + value
    }
}

/// What a number takes as a varint.
fn varint_bytes(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// A field of wire type 0; zeros are left out.
fn put_number(out: &mut Vec<u8>, field: u64, number: i64) {
    if number != 0 {
        put_varint(out, field << 3);
        put_varint(out, number as u64);
    }
}

// ---- the other buckets ----

fn alarms(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entry = |(alarm, member_id)| (AlarmMember { member_id, alarm }.encode_to_vec(), Vec::new());
    sorted(state.alarms.iter().map(entry))
}

fn cluster(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    if let Some(version) = &state.cluster_version {
        entries.push((names::CLUSTER_VERSION.to_vec(), version.as_bytes().to_vec()));
    }
    if let Some(downgrade) = &state.downgrade {
        let target = go_json(&serde_json::to_string(&downgrade.target).expect("a plain string"));
        let json = format!("{{\"target-version\":{target},\"enabled\":true}}");
        entries.push((names::DOWNGRADE.to_vec(), json.into_bytes()));
    }
    entries
}

/// A lease's entry in bucket `lease`.
pub fn lease_entry(lease: &super::lease::Lease) -> ([u8; 8], Vec<u8>) {
    let value = leasepb::Lease { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining };
    (lease.id.to_be_bytes(), value.encode_to_vec())
}

fn members(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    sorted(state.membership.members().map(|member| {
        let json = serde_json::to_string(member).expect("plain strings");
        (member_name(member.id), go_json(&json).into_bytes())
    }))
}

fn members_removed(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    sorted(state.membership.removed().map(|id| (member_name(id), REMOVED.to_vec())))
}

const REMOVED: &[u8] = b"removed";

fn member_name(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

fn meta(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (index, term) = state.applied();
    let mut entries = Vec::new();
    let mut put = |name: &[u8], value: &[u8]| entries.push((name.to_vec(), value.to_vec()));
    if let Some(json) = conf_state_json(state) {
        put(names::CONF_STATE, json.as_bytes());
    }
    put(names::CONSISTENT_INDEX, &index.to_be_bytes());
    let compacted = state.index.compacted();
    if compacted >= 0 {
        let revision = revision_name(Revision::new(compacted, 0));
        // One that is under way is not finished: who starts from this goes on with it.
        if !state.index.compacting() {
            put(names::FINISHED_COMPACTION, &revision);
        }
        put(names::SCHEDULED_COMPACTION, &revision);
    }
    put(names::STORAGE_VERSION, schema_version(state).as_bytes());
    put(names::TERM, &term.to_be_bytes());
    entries
}

/// The schema follows the cluster's version: an etcd 3.6 does not start with what says that it is of 3.7. Older ones do not
/// know that a database says so.
fn schema_version(state: &State) -> &str {
    let stated =
        state.storage_version().filter(|stated| version::parse(stated) >= version::parse(version::OLDEST_SCHEMA));
    stated.unwrap_or(version::STORAGE)
}

fn sorted(entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries
}

/// Go's JSON encoder escapes what HTML would take for markup.
pub(super) fn go_json(json: &str) -> String {
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

// ---- users and roles ----

fn auth(auth: &Auth) -> Vec<(Vec<u8>, Vec<u8>)> {
    // Only from when it was first turned on is a word kept of whether it is.
    let enabled = auth.enabled().map(|enabled| (names::AUTH_ENABLED.to_vec(), vec![u8::from(enabled)]));
    let revision = (names::AUTH_REVISION.to_vec(), auth.revision().to_be_bytes().to_vec());
    enabled.into_iter().chain([revision]).collect()
}

fn roles(auth: &Auth) -> Vec<(Vec<u8>, Vec<u8>)> {
    auth.roles().map(|role| (role.name.to_vec(), role.encode_to_vec())).collect()
}

fn users(auth: &Auth) -> Vec<(Vec<u8>, Vec<u8>)> {
    auth.users().map(|user| (user.name.to_vec(), user.encode_to_vec())).collect()
}

#[cfg(test)]
mod tests;
