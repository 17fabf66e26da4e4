//! A state from etcd's database: what `export` makes, and what etcd itself has written since 3.0. Every retained change is
//! taken over as it is, compaction or not; what an entry says is believed only if writing it anew gives the same bytes.
//! Values are handed to whoever keeps them. A database is read where it lies (`import`), or as it comes (`Arrival`).

use std::{io, ops::Range};

use bytes::Bytes;
use prost::{Message as _, encoding::decode_varint};
use serde::Deserialize;

use super::{ChangeValue, REMOVED, member_name, names, revision_name};
use crate::{
    auth::Auth,
    bolt::{
        arriving::{Arriving, Keep, KeptPages},
        read::{Database, Entry, ReadError, Source},
    },
    proto::{
        authpb::{Role, User},
        etcdserverpb::AlarmMember,
        leasepb, raftpb,
    },
    store::{
        index::Index,
        lease::{Lease, LeaseBook},
        membership::{Member, Membership},
        state::{Alarms, Downgrade, State},
        types::{KeyMeta, KeyRange, Place, Revision, Values},
    },
    version,
};

/// Bytes of values that are handed over together, or as many values as would take that with what is known of each.
const BATCH_BYTES: usize = 1 << 20;

/// Takes values in.
pub trait KeepValues {
    /// Keeps values, each with the revision whose value it is, and says where each lies now.
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> io::Result<Vec<Place>>;
}

/// A value, and the revision whose value it is.
pub type RevisionValue<'a> = (Revision, &'a [u8]);

/// Values kept in memory, each a segment of its own: of databases that are only looked into.
#[derive(Debug, Default)]
pub struct InMemory(Vec<Bytes>);

impl InMemory {
    /// Gives the number of the segment that these bytes are now.
    pub fn add(&mut self, segment: Bytes) -> u32 {
        self.0.push(segment);
        self.0.len() as u32
    }
}

impl KeepValues for InMemory {
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> io::Result<Vec<Place>> {
        let mut keep = |(_, value): &RevisionValue<'_>| {
            let len = value.len() as u32;
            Place { segment: self.add(Bytes::copy_from_slice(value)), offset: 0, len }
        };
        Ok(values.iter().map(&mut keep).collect())
    }
}

impl Values for InMemory {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        let from = place.offset as usize;
        Ok(self.0[place.segment as usize - 1].slice(from..from + place.len as usize))
    }
}

/// What a database holds.
#[derive(Clone, Debug)]
pub struct Imported {
    pub state: State,
    /// The raft entry up to which it holds everything, and that entry's term; 0 where it does not say.
    pub consistent_index: u64,
    pub term: u64,
    /// Of the schema; None before etcd 3.6.
    pub storage_version: Option<String>,
    /// CRC-32C over `key` and every entry of that bucket: `hash::hash_changes` of the state must give the same. 0 where it was
    /// not asked for.
    pub changes_hash: u32,
}

/// Whether `Imported::changes_hash` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    Changes,
    Nothing,
}

/// What is to be known before a database is taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The raft entry up to which it holds everything.
    pub consistent_index: u64,
    /// Bytes of the longest value, with what etcd stores beside it.
    pub longest_value: usize,
}

/// Looks through a database whole, and so says whether it is sound before anything is made of it.
///
/// # Errors
/// Where it is damaged.
pub fn survey<S: Source>(database: &Database<S>) -> Result<Survey, ReadError> {
    let mut survey = Survey::default();
    database.each_bucket(&mut |bucket, key, entry| {
        if let Entry::Value(value) = entry {
            match (bucket, key) {
                (b"key", _) => survey.longest_value = survey.longest_value.max(value.len()),
                (b"meta", names::CONSISTENT_INDEX) => survey.consistent_index = number(value).unwrap_or(0),
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(survey)
}

/// The raft entry up to which a database holds everything, by what it says itself; 0 if it does not.
///
/// # Errors
/// Where what says so is damaged.
pub fn consistent_index<S: Source>(database: &Database<S>) -> Result<u64, ReadError> {
    let mut index = 0;
    let buckets = database.buckets()?;
    if let Some((_, meta)) = buckets.iter().find(|(name, _)| name == b"meta") {
        database.each(meta, &mut |key, entry| {
            if let (names::CONSISTENT_INDEX, Entry::Value(value)) = (key, entry) {
                index = number(value).unwrap_or(0);
            }
            Ok(())
        })?;
    }
    Ok(index)
}

/// Reads a database whole, the hash of its changes with it. `lease_ttl_min`: see `State`.
///
/// # Errors
/// Where it is damaged, or holds what this version does not know; of `keep`, as `ReadError::Refused`.
pub fn import<S: Source>(
    database: &Database<S>,
    lease_ttl_min: i64,
    keep: &mut dyn KeepValues,
) -> Result<Imported, ReadError> {
    import_hashing(Hashing::Changes, database, lease_ttl_min, keep)
}

/// The same where the hash may not be asked for.
///
/// # Errors
/// As `import`.
pub fn import_hashing<S: Source>(
    hashing: Hashing,
    database: &Database<S>,
    lease_ttl_min: i64,
    keep: &mut dyn KeepValues,
) -> Result<Imported, ReadError> {
    let mut importer = Importer::new(hashing);
    read_whole(database, &mut importer, &mut |importer| {
        if importer.batch.is_full() { keep_batch(importer, keep) } else { Ok(()) }
    })?;
    keep_batch(&mut importer, keep).map_err(ReadError::Refused)?;
    importer.finish(lease_ttl_min).map_err(ReadError::Refused)
}

/// Shows an importer every entry of a database; `then` is called after each.
fn read_whole<S: Source>(
    database: &Database<S>,
    importer: &mut Importer,
    then: &mut dyn FnMut(&mut Importer) -> Result<(), String>,
) -> Result<(), ReadError> {
    database.each_bucket(&mut |bucket, key, entry| {
        let Entry::Value(value) = entry else {
            return Err(format!("bucket {:?} holds a bucket, which etcd's never do", text(bucket)));
        };
        importer.entry(bucket, key, value)?;
        then(importer)
    })
}

fn keep_batch(importer: &mut Importer, keep: &mut dyn KeepValues) -> Result<(), String> {
    let values: Vec<RevisionValue<'_>> = importer.batch.values().collect();
    let places = keep.keep(&values).map_err(|cause| cause.to_string())?;
    importer.kept(&places)
}

/// A database that is taken over as it comes, from a sender that says which pages its changes are on. Their values wait for
/// whoever keeps them, who is to ask after each part that has come.
pub struct Arrival {
    pages: Option<Arriving>,
    importer: Importer,
}

impl Arrival {
    /// `changes`: the pages of bucket `key`, if it has any of its own.
    pub fn new(changes: Range<u64>) -> Self {
        Arrival { pages: Some(Arriving::new(changes)), importer: Importer::new(Hashing::Nothing) }
    }

    /// Takes the bytes that come next; `keep` takes those that are needed at the end.
    ///
    /// # Errors
    /// Where they are damaged, or hold what this version does not know; of `keep`.
    pub fn take(&mut self, bytes: &[u8], keep: &mut Keep<'_>) -> Result<(), ReadError> {
        let pages = self.pages.as_mut().expect("nothing comes behind the end");
        let importer = &mut self.importer;
        pages.take(bytes, &mut |key, value| importer.entry(b"key", key, value), keep)
    }

    /// All has come: reads what was kept of it.
    ///
    /// # Errors
    /// Where it is damaged, or does not go with what came before.
    pub fn end<S: Source>(&mut self, kept: S, name: &str) -> Result<(), ReadError> {
        let (shown, pages) = self.pages.take().expect("it ends once").finish()?;
        let source = KeptPages::new(pages, &shown, kept);
        let database = Database::open_kept(source, name, "key", shown)?;
        read_whole(&database, &mut self.importer, &mut |importer| match importer.batch.is_full() {
            // The changes of a small store lie beside the other buckets: they are a page at most.
            true => Err("its changes are not where its sender says".into()),
            false => Ok(()),
        })
    }

    /// The values that wait, in order of revision.
    pub fn values(&self) -> impl Iterator<Item = RevisionValue<'_>> {
        self.importer.batch.values()
    }

    /// Where those that waited lie now.
    ///
    /// # Errors
    /// If these are not as many.
    pub fn kept(&mut self, places: &[Place]) -> Result<(), String> {
        self.importer.kept(places)
    }

    /// All has come, and all values are kept. `lease_ttl_min`: see `State`.
    ///
    /// # Errors
    /// If it holds what this version does not know.
    pub fn finish(self, lease_ttl_min: i64) -> Result<Imported, String> {
        self.importer.finish(lease_ttl_min)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Changes before their values have places. A million of them come: their keys and values lie behind each other, in memory
/// that is used again.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

/// What is known of a change, and where its key and its value lie in the batch.
struct Change {
    meta: KeyMeta,
    key: Range<usize>,
    value: Range<usize>,
}

impl Batch {
    fn push(&mut self, meta: KeyMeta, key: &[u8], value: &[u8]) {
        let begin = self.bytes.len();
        let middle = begin + key.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.changes.push(Change { meta, key: begin..middle, value: middle..self.bytes.len() });
    }

    /// Those that are not empty.
    fn values(&self) -> impl Iterator<Item = RevisionValue<'_>> {
        let values = self.changes.iter().filter(|change| !change.value.is_empty());
        values.map(|change| (change.meta.revision, &self.bytes[change.value.clone()]))
    }

    /// A change is some hundred bytes beside its value.
    fn is_full(&self) -> bool {
        self.bytes.len() + 96 * self.changes.len() >= BATCH_BYTES
    }
}

/// What a key-value says, its key and its value, if spelling it anew gives the same bytes.
fn spelled_change<'a>(
    spelled: &mut ChangeValue,
    revision: Revision,
    is_tombstone: bool,
    raw: &'a [u8],
) -> Option<(KeyMeta, &'a [u8], &'a [u8])> {
    let main = revision.main;
    let mut meta = KeyMeta { revision, ..KeyMeta::default() };
    let kv = Fields::read(raw)?;
    if is_tombstone {
    } else if raw.is_empty() {
        // The mark of a revision that was bumped.
        (meta.create, meta.version) = (main, 1);
    } else {
        let sound = kv.modified == main && (1..=main).contains(&kv.create) && kv.version >= 1;
        meta.place.len = u32::try_from(kv.value.len()).ok().filter(|_| sound)?;
        (meta.create, meta.version, meta.lease) = (kv.create, kv.version, kv.lease);
    }
    if kv.key.is_empty() != raw.is_empty() {
        return None;
    }
    spelled.set(kv.key, &meta);
    let ChangeValue { head, tail } = spelled;
    let value = raw.strip_prefix(&head[..])?.strip_suffix(&tail[..])?;
    (value.len() == meta.place.len as usize).then_some((meta, kv.key, value))
}

/// A `mvccpb.KeyValue` where it lies. What it makes of bytes that etcd does not write does not matter, as they are spelled anew.
#[derive(Default)]
struct Fields<'a> {
    key: &'a [u8],
    create: i64,
    modified: i64,
    version: i64,
    value: &'a [u8],
    lease: i64,
}

impl<'a> Fields<'a> {
    fn read(mut raw: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::default();
        while !raw.is_empty() {
            let tag = decode_varint(&mut raw).ok()?;
            let number = decode_varint(&mut raw).ok()?;
            let mut bytes = || {
                let bytes;
                (bytes, raw) = raw.split_at_checked(usize::try_from(number).ok()?)?;
                Some(bytes)
            };
            match (tag >> 3, tag & 7) {
                (1, 2) => fields.key = bytes()?,
                (2, 0) => fields.create = number as i64,
                (3, 0) => fields.modified = number as i64,
                (4, 0) => fields.version = number as i64,
                (5, 2) => fields.value = bytes()?,
                (6, 0) => fields.lease = number as i64,
                _ => return None,
            }
        }
        Some(fields)
    }
}

struct Importer {
    index: Index,
    last: Revision,
    hashing: Hashing,
    hash: u32,
    /// Changes whose values wait to be kept.
    batch: Batch,
    spelled: ChangeValue,
    leases: LeaseBook,
    alarms: Vec<(i32, u64)>,
    members: Vec<Member>,
    removed: Vec<u64>,
    auth_enabled: Option<bool>,
    auth_revision: u64,
    users: Vec<User>,
    roles: Vec<Role>,
    cluster_version: Option<String>,
    downgrade: Option<String>,
    conf_state: Option<raftpb::ConfState>,
    consistent_index: u64,
    term: u64,
    scheduled: Option<i64>,
    finished: Option<i64>,
    storage_version: Option<String>,
}

impl Importer {
    fn new(hashing: Hashing) -> Self {
        Importer {
            index: Index::new(),
            last: Revision::ZERO,
            hashing,
            hash: if hashing == Hashing::Changes { crc32c::crc32c(b"key") } else { 0 },
            batch: Batch::default(),
            spelled: ChangeValue::default(),
            leases: LeaseBook::default(),
            alarms: Vec::new(),
            members: Vec::new(),
            removed: Vec::new(),
            auth_enabled: None,
            auth_revision: 0,
            users: Vec::new(),
            roles: Vec::new(),
            cluster_version: None,
            downgrade: None,
            conf_state: None,
            consistent_index: 0,
            term: 0,
            scheduled: None,
            finished: None,
            storage_version: None,
        }
    }

    fn entry(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), String> {
        self.entry_of(bucket, key, value)
            .map_err(|what| format!("{what} (key {} of bucket {:?})", key.escape_ascii(), text(bucket)))
    }

    fn entry_of(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), String> {
        match bucket {
            b"key" => self.change(key, value),
            b"lease" => self.lease(key, value),
            b"alarm" => {
                let alarm = AlarmMember::decode(key).ok().filter(|alarm| alarm.encode_to_vec() == key);
                let alarm = alarm.ok_or("this is no alarm")?;
                self.alarms.push((alarm.alarm, alarm.member_id));
                Ok(())
            }
            b"auth" => self.auth(key, value),
            b"authUsers" => {
                self.users.push(user(key, value).ok_or("this is no user as etcd writes it")?);
                Ok(())
            }
            b"authRoles" => {
                self.roles.push(role(key, value).ok_or("this is no role as etcd writes it")?);
                Ok(())
            }
            b"cluster" => self.cluster(key, value),
            b"members" => self.member(key, value),
            b"members_removed" => {
                let id = member_id(key).filter(|_| value == REMOVED).ok_or("this is no removed member")?;
                self.removed.push(id);
                Ok(())
            }
            b"meta" => self.meta(key, value),
            _ => Err("this version knows no bucket of that name".into()),
        }
    }

    // ---- changes ----

    fn change(&mut self, name: &[u8], raw: &[u8]) -> Result<(), String> {
        let (revision, is_tombstone) = revision_of(name).ok_or("this is no revision")?;
        if revision <= self.last {
            return Err(format!("revision {}.{} is there twice", revision.main, revision.sub));
        }
        if u32::try_from(revision.sub).is_err() {
            return Err("no transaction has so many changes".into());
        }
        self.last = revision;
        if self.hashing == Hashing::Changes {
            self.hash = crc32c::crc32c_append(crc32c::crc32c_append(self.hash, name), raw);
        }
        let (meta, key, value) = spelled_change(&mut self.spelled, revision, is_tombstone, raw)
            .ok_or("this is no change as etcd writes it")?;
        self.batch.push(meta, key, value);
        Ok(())
    }

    /// Where the values of the batch lie now.
    fn kept(&mut self, places: &[Place]) -> Result<(), String> {
        let mut places = places.iter();
        let Batch { bytes, changes } = &mut self.batch;
        let mut placed = Vec::with_capacity(changes.len());
        for Change { mut meta, key, value } in changes.drain(..) {
            if !value.is_empty() {
                meta.place = *places.next().ok_or("a value was kept nowhere")?;
            }
            placed.push((&bytes[key], meta));
        }
        self.index.adopt_all(&placed);
        bytes.clear();
        Ok(())
    }

    // ---- the other buckets ----

    fn lease(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let lease = leasepb::Lease::decode(value).map_err(|_| "this is no lease")?;
        if key != lease.id.to_be_bytes() || lease.ttl < 0 || lease.remaining_ttl < 0 {
            return Err("this is no lease".into());
        }
        self.leases.grant(Lease { id: lease.id, ttl: lease.ttl, remaining: lease.remaining_ttl });
        Ok(())
    }

    fn auth(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match (key, value) {
            (names::AUTH_ENABLED, [enabled @ (0 | 1)]) => self.auth_enabled = Some(*enabled == 1),
            (names::AUTH_REVISION, _) => self.auth_revision = number(value).ok_or("this is no number")?,
            _ => return Err("this version does not know it".into()),
        }
        Ok(())
    }

    fn cluster(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Json {
            #[serde(rename = "target-version", default)]
            target: String,
            #[serde(default)]
            enabled: bool,
        }
        match key {
            names::CLUSTER_VERSION => self.cluster_version = Some(text(value)),
            names::DOWNGRADE => {
                let json: Json = serde_json::from_slice(value).map_err(|_| "this is no downgrade")?;
                self.downgrade = json.enabled.then_some(json.target);
            }
            _ => return Err("this version does not know it".into()),
        }
        Ok(())
    }

    fn member(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let member: Option<Member> = serde_json::from_slice(value).ok();
        let member = member.filter(|member| Some(member.id) == member_id(key)).ok_or("this is no member")?;
        self.members.push(member);
        Ok(())
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let revision = || match revision_of(value) {
            Some((revision, false)) => Ok(revision.main),
            _ => Err("this is no revision"),
        };
        match key {
            names::CONSISTENT_INDEX => self.consistent_index = number(value).ok_or("this is no number")?,
            names::TERM => self.term = number(value).ok_or("this is no number")?,
            names::FINISHED_COMPACTION => self.finished = Some(revision()?),
            names::SCHEDULED_COMPACTION => self.scheduled = Some(revision()?),
            names::STORAGE_VERSION => self.storage_version = Some(known_version(text(value))?),
            names::CONF_STATE => self.conf_state = Some(conf_state(value).ok_or("this is no configuration")?),
            _ => return Err("this version does not know it".into()),
        }
        Ok(())
    }

    fn finish(self, lease_ttl_min: i64) -> Result<Imported, String> {
        debug_assert!(self.batch.changes.is_empty(), "all values are kept");
        let Importer { mut index, mut leases, members, removed, .. } = self;
        // What was compacted, whether or not the removals got done. (etcd: mvcc/kvstore.go, restore.)
        if let Some(finished) = self.finished {
            index.adopt_compacted(finished);
        }
        if let Some(scheduled) = self.scheduled.filter(|scheduled| *scheduled > index.compacted()) {
            index.set_current(index.current().max(scheduled));
            index.begin_compaction(scheduled).map_err(|status| status.to_string())?;
        }
        let keys = (!leases.is_empty()).then(|| index.iter(KeyRange::From(&[]), 0));
        for (key, meta) in keys.into_iter().flatten() {
            // A lease that is not there holds nothing. (etcd: the same, keyToLease.)
            if meta.lease != 0 && leases.contains(meta.lease) {
                leases.attach(meta.lease, key);
            }
        }
        let voters = members.iter().filter(|member| !member.is_learner).map(|member| member.id);
        let conf_state = self.conf_state.unwrap_or_else(|| raftpb::ConfState {
            voters: voters.collect(),
            auto_leave: Some(false),
            ..Default::default()
        });
        let mut state = State::new(lease_ttl_min);
        state.index = index;
        state.leases = leases;
        state.alarms = Alarms::from_parts(self.alarms);
        state.cluster_version = self.cluster_version.map(Into::into);
        state.downgrade = self.downgrade.map(|target| Downgrade { target }.into());
        state.membership = Membership::from_parts(members, removed);
        // Of a store that has never counted, the revision is 0. (etcd: auth/store.go, NewAuthStore.)
        state.auth = Auth::from_parts(self.auth_enabled, self.auth_revision.max(1), self.users, self.roles);
        state.set_conf_state(conf_state);
        if self.consistent_index > 0 {
            state.apply_empty(self.consistent_index, self.term);
        }
        Ok(Imported {
            state,
            consistent_index: self.consistent_index,
            term: self.term,
            storage_version: self.storage_version,
            changes_hash: self.hash,
        })
    }
}

/// A revision as a name in bucket `key`, and whether it is a tombstone's.
fn revision_of(name: &[u8]) -> Option<(Revision, bool)> {
    let is_tombstone = name.get(17) == Some(&b't');
    let plain = if is_tombstone { name.strip_suffix(b"t")? } else { name };
    let main = i64::from_be_bytes(*plain.first_chunk()?);
    let sub = i64::from_be_bytes(*plain.last_chunk()?);
    let revision = Revision::new(main, sub);
    // There is one after it.
    let sound = (0..i64::MAX).contains(&main) && sub >= 0 && revision_name(revision) == plain;
    sound.then_some((revision, is_tombstone))
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn member_id(name: &[u8]) -> Option<u64> {
    let id = u64::from_str_radix(std::str::from_utf8(name).ok()?, 16).ok()?;
    (member_name(id) == name).then_some(id)
}

/// Both are told by their names; what they hold is in order.
fn user(name: &[u8], value: &[u8]) -> Option<User> {
    let user = User::decode(value).ok().filter(|user| user.encode_to_vec() == value)?;
    (is_name(name, &user.name) && user.roles.is_sorted()).then_some(user)
}

fn role(name: &[u8], value: &[u8]) -> Option<Role> {
    let role = Role::decode(value).ok().filter(|role| role.encode_to_vec() == value)?;
    let in_order = role.key_permission.is_sorted_by(|a, b| a.key <= b.key);
    (is_name(name, &role.name) && in_order).then_some(role)
}

fn is_name(key: &[u8], name: &[u8]) -> bool {
    key == name && std::str::from_utf8(name).is_ok()
}

/// A storage version that this version reads: as with etcd, none that is newer than its own.
fn known_version(stated: String) -> Result<String, String> {
    let parts = |text: &str| {
        let mut numbers = text.split('.').map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let own = parts(version::STORAGE).expect("the own version is one");
    match parts(&stated) {
        Some(version) if version <= own => Ok(stated),
        Some(_) => Err(format!(
            "it was written by an etcd of storage version {stated}, and {} is the latest that is read",
            version::STORAGE
        )),
        None => Err("this is no version".into()),
    }
}

/// The configuration as etcd's backend keeps it.
fn conf_state(json: &[u8]) -> Option<raftpb::ConfState> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Json {
        #[serde(default)]
        voters: Vec<u64>,
        #[serde(default)]
        learners: Vec<u64>,
        #[serde(default)]
        voters_outgoing: Vec<u64>,
        #[serde(default)]
        learners_next: Vec<u64>,
        #[serde(default)]
        auto_leave: bool,
    }
    let Json { voters, learners, voters_outgoing, learners_next, auto_leave } = serde_json::from_slice(json).ok()?;
    (!voters.is_empty()).then_some(raftpb::ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave: Some(auto_leave),
    })
}
