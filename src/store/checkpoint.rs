//! The checkpoint: the whole applied state at one raft index except values' bytes, as a stream of checksummed blocks
//! (docs/format.md; versions 2 and 3 are written, 1 is read). Encodes from an immutable state, so in the background; decodes
//! straight into new trees. Touches no file: `wal::disk` gives it something to write to and read from.

use std::io::{self, Read, Write};

use bytes::Bytes;
use prost::Message as _;

use super::{
    codec::{self, Fields, put_varint},
    events::Events,
    index::{Index, KeyMeasure, Sweep},
    lease::LeaseBook,
    membership::{Member, Membership},
    state::{Alarms, Downgrade, State},
    tree::{self, Builder, Measure, Plain, Tree},
    types::Revision,
    usage::{SegmentUse, Usage},
};
use crate::{
    auth::Auth,
    limits::CHECKPOINT_BLOCK_BYTES,
    proto::{
        authpb::{Role, User},
        raftpb,
    },
};

/// The newest version of checkpoints; this code reads it and those before. It covers the entries of `codec.rs` too.
pub const FORMAT_VERSION: u32 = 3;

/// What is written while nothing was ever done with users and roles: it differs from the newest in that it does not
/// speak of them.
const VERSION_WITHOUT_AUTH: u32 = 2;

/// A point in the log: where the record after it begins or will begin, and what proves that it is that record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Life number of the segment.
    pub life: u32,
    /// Byte offset in its file.
    pub offset: u32,
    /// Number of the write of the record before.
    pub write: u64,
    /// Header checksum of the record before.
    pub chain: u32,
}

/// How far a live segment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    pub life: u32,
    /// Byte offset behind its last record; 0 if it has none.
    pub used: u32,
}

/// What raft must remember beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// What a checkpoint says beside the state. The applied index, its term and the ConfState are the state's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointHead {
    pub hard_state: HardState,
    /// Where replay begins: no record before it is needed for what the state does not hold yet.
    pub position: LogPosition,
    /// Live segments (`Writer::extents`); those that are missing here count with their full size.
    pub extents: Vec<SegmentExtent>,
}

/// A checkpoint that has been read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub head: CheckpointHead,
    pub state: State,
}

/// Why a checkpoint cannot be read. Offsets are bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("reading failed at byte {offset}: {source}")]
    Io { offset: u64, source: io::Error },
    #[error("damaged at byte {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("it has format version {0}, this program reads up to {FORMAT_VERSION}: use a matching version of urd")]
    Version(u32),
}

const MAGIC: [u8; 8] = *b"urd-ckp\n";
const FILE_HEAD_BYTES: usize = 16;
const BLOCK_HEAD_BYTES: usize = 16;

/// What a block holds. Sections come in this order; one without entries has no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Section {
    Head = 1,
    Keys = 2,
    Events = 3,
    Leases = 4,
    /// Which key hangs on which lease.
    Attachments = 5,
    End = 6,
}

impl Section {
    fn from_number(number: u8) -> Option<Section> {
        use Section::*;
        [Head, Keys, Events, Leases, Attachments, End].into_iter().find(|section| *section as u8 == number)
    }
}

// ---- writing ----

/// Writes a checkpoint of `state`.
///
/// # Errors
/// Those of `out`.
pub fn encode(state: &State, head: &CheckpointHead, out: &mut dyn Write) -> io::Result<()> {
    let mut file_head = [0; FILE_HEAD_BYTES];
    file_head[..8].copy_from_slice(&MAGIC);
    let version = if state.auth.is_untouched() { VERSION_WITHOUT_AUTH } else { FORMAT_VERSION };
    file_head[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&file_head[..12]);
    file_head[12..].copy_from_slice(&crc.to_le_bytes());
    out.write_all(&file_head)?;

    let mut blocks = Blocks { out, block: Vec::with_capacity(CHECKPOINT_BLOCK_BYTES), number: 0, chain: crc };
    put_head(blocks.begin(), state, head);
    if version > VERSION_WITHOUT_AUTH {
        put_auth(&mut blocks.block, &state.auth);
    }
    blocks.close(Section::Head)?;
    blocks.keys(state.index.keys_tree())?;
    blocks.events(state.index.all_events())?;
    let (leases, attachments) = state.leases.trees();
    blocks.tree(Section::Leases, leases)?;
    blocks.tree(Section::Attachments, attachments)?;
    let counts = [state.index.keys_tree().len(), state.index.all_events().len(), leases.len(), attachments.len()];
    let end = blocks.begin();
    for count in counts {
        put_varint(end, count);
    }
    blocks.close(Section::End)
}

struct Blocks<'a> {
    out: &'a mut dyn Write,
    /// The block under construction, with room for its head.
    block: Vec<u8>,
    number: u32,
    chain: u32,
}

impl Blocks<'_> {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.block.clear();
        self.block.resize(BLOCK_HEAD_BYTES, 0);
        &mut self.block
    }

    fn close(&mut self, section: Section) -> io::Result<()> {
        let len = u32::try_from(self.block.len() - BLOCK_HEAD_BYTES).expect("a block is smaller than 4 GiB");
        self.block[4..8].copy_from_slice(&len.to_le_bytes());
        self.block[8..12].copy_from_slice(&self.number.to_le_bytes());
        self.block[12] = section as u8;
        self.chain = crc32c::crc32c_append(self.chain, &self.block[4..]);
        self.block[..4].copy_from_slice(&self.chain.to_le_bytes());
        self.number += 1;
        self.out.write_all(&self.block)
    }

    /// Makes room for an entry of at most so many bytes, which must not cross a block's end. True if a new block begins
    /// with it.
    fn make_room(&mut self, section: Section, bytes: usize) -> io::Result<bool> {
        if self.block.len() > BLOCK_HEAD_BYTES {
            if self.block.len() + bytes <= CHECKPOINT_BLOCK_BYTES {
                return Ok(false);
            }
            self.close(section)?;
            self.begin();
        }
        Ok(true)
    }

    /// All entries of a tree, as key and value with their lengths.
    fn tree<M: Measure>(&mut self, section: Section, tree: &Tree<M>) -> io::Result<()> {
        if tree.is_empty() {
            return Ok(());
        }
        self.begin();
        for (key, value) in tree.iter() {
            // 10: two lengths as varints of up to 5 bytes.
            self.make_room(section, key.len() + value.len() + 10)?;
            put_bytes(&mut self.block, key);
            put_bytes(&mut self.block, value);
        }
        self.close(section)
    }

    /// All keys: what a key has in common with the one before is left out.
    fn keys(&mut self, keys: &Tree<KeyMeasure>) -> io::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        self.begin();
        let mut before: &[u8] = &[];
        for (key, state) in keys.iter() {
            // 15: three lengths as varints of up to 5 bytes.
            if self.make_room(Section::Keys, key.len() + state.len() + 15)? {
                before = &[];
            }
            put_shortened(&mut self.block, before, key);
            let (flags, tail) = codec::bare_key(state);
            put_varint(&mut self.block, (flags.len() + tail.len()) as u64);
            self.block.extend_from_slice(&flags);
            self.block.extend_from_slice(tail);
            before = key;
        }
        self.close(Section::Keys)
    }

    /// All events: revisions by their distance, keys without what they have in common with the one before.
    fn events(&mut self, events: &Events) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.begin();
        let (mut main, mut before): (i64, &[u8]) = (0, &[]);
        let mut all = events.iter();
        while let Some((revision, event)) = all.next_spelled() {
            // 35: a revision as varints of up to 20 bytes, three lengths of up to 5.
            if self.make_room(Section::Events, event.len() + 35)? {
                (main, before) = (0, &[]);
            }
            put_varint(&mut self.block, ((revision.main - main) as u64) << 1 | u64::from(revision.sub != 0));
            if revision.sub != 0 {
                put_varint(&mut self.block, revision.sub as u64);
            }
            let (key, [flags, tail]) = codec::key_apart(event);
            put_shortened(&mut self.block, before, key);
            put_varint(&mut self.block, (flags.len() + tail.len()) as u64);
            self.block.extend_from_slice(flags);
            self.block.extend_from_slice(tail);
            (main, before) = (revision.main, key);
        }
        self.close(Section::Events)
    }
}

/// A key by what it shares with the one before in its block.
fn put_shortened(out: &mut Vec<u8>, before: &[u8], key: &[u8]) {
    let shared = tree::common(before, key);
    put_varint(out, shared as u64);
    put_bytes(out, &key[shared..]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Numbers that may be negative (an id of a lease, "never compacted") keep their bits.
fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, value as u64);
}

fn put_head(out: &mut Vec<u8>, state: &State, head: &CheckpointHead) {
    let HardState { term, vote, commit } = head.hard_state;
    for number in [term, vote, commit] {
        put_varint(out, number);
    }
    let LogPosition { life, offset, write, chain } = head.position;
    for number in [life.into(), offset.into(), write, chain.into()] {
        put_varint(out, number);
    }
    put_varint(out, head.extents.len() as u64);
    for extent in &head.extents {
        put_varint(out, extent.life.into());
        put_varint(out, extent.used.into());
    }

    put_varint(out, state.applied_index);
    put_varint(out, state.applied_term);
    put_signed(out, state.lease_ttl_min);
    put_bytes(out, &state.conf_state.encode_to_vec());

    put_varint(out, state.alarms.iter().count() as u64);
    for (kind, member) in state.alarms.iter() {
        put_signed(out, kind.into());
        put_varint(out, member);
    }
    put_varint(out, state.membership.members().count() as u64);
    for member in state.membership.members() {
        put_varint(out, member.id);
        put_bytes(out, member.name.as_bytes());
        out.push(u8::from(member.is_learner));
        for urls in [&member.peer_urls, &member.client_urls] {
            put_varint(out, urls.len() as u64);
            for url in urls {
                put_bytes(out, url.as_bytes());
            }
        }
    }
    put_varint(out, state.membership.removed().count() as u64);
    for id in state.membership.removed() {
        put_varint(out, id);
    }
    // An absent text differs from an empty one.
    for text in [state.cluster_version.as_deref(), state.downgrade.as_deref().map(|it| it.target.as_str())] {
        out.push(u8::from(text.is_some()));
        put_bytes(out, text.unwrap_or_default().as_bytes());
    }

    let index = &state.index;
    put_signed(out, index.current());
    put_signed(out, index.compacted());
    let Sweep { next, target } = index.sweep();
    for number in [next.main, next.sub, target] {
        put_signed(out, number);
    }
    put_varint(out, index.usage().segments().len() as u64);
    for it in index.usage().segments() {
        put_varint(out, it.segment.into());
        put_varint(out, it.live_bytes);
        put_varint(out, it.values);
        put_signed(out, it.oldest);
        put_signed(out, it.newest);
    }
}

fn put_auth(out: &mut Vec<u8>, auth: &Auth) {
    // Never turned on differs from turned off.
    out.push(auth.enabled().map_or(0, |enabled| 1 + u8::from(enabled)));
    put_varint(out, auth.revision());
    put_varint(out, auth.users().len() as u64);
    for user in auth.users() {
        put_bytes(out, &user.encode_to_vec());
    }
    put_varint(out, auth.roles().len() as u64);
    for role in auth.roles() {
        put_bytes(out, &role.encode_to_vec());
    }
}

// ---- reading ----

/// Reads a checkpoint to its end. It must be the whole of what `input` gives.
///
/// # Errors
/// Those of `input`; `Damaged` for whatever does not add up; `Version` for a sound checkpoint of another version.
pub fn decode(input: &mut dyn Read) -> Result<Checkpoint, CheckpointError> {
    let mut source = Source { input, offset: 0, number: 0, chain: 0, payload: Vec::new(), payload_at: 0 };
    let version = source.file_head()?;
    if source.block()? != Section::Head {
        return Err(source.damaged("it does not begin with the block that describes it"));
    }
    let Some((head, parts)) = Fields(&source.payload).head(version) else {
        return Err(source.damaged("the block that describes it does not decode"));
    };

    let (mut keys, mut events) = (Builder::<KeyMeasure>::new(), Events::default());
    let (mut leases, mut attachments) = (Builder::<Plain>::new(), Builder::<Plain>::new());
    let mut counts = [0u64; 4];
    let mut before = Section::Head;
    loop {
        let section = source.block()?;
        if section < before {
            return Err(source.damaged("its sections are out of order"));
        }
        before = section;
        let count = match section {
            Section::Head => None,
            Section::Keys => push_keys(&source.payload, version, &mut keys).map(|count| counts[0] += count),
            Section::Events => push_events(&source.payload, version, &mut events).map(|count| counts[1] += count),
            Section::Leases => push_all(&source.payload, &mut leases).map(|count| counts[2] += count),
            Section::Attachments => push_all(&source.payload, &mut attachments).map(|count| counts[3] += count),
            Section::End => break,
        };
        if count.is_none() {
            return Err(source.damaged("a block's entries do not decode, or are out of order"));
        }
    }
    let mut fields = Fields(&source.payload);
    if counts.into_iter().any(|count| fields.varint() != Some(count)) || !fields.0.is_empty() {
        return Err(source.damaged("the counts at its end differ from what it holds"));
    }
    source.expect_end()?;

    let index = Index::restored(
        keys.finish(),
        events,
        parts.current,
        parts.compacted,
        parts.sweep,
        Usage::from_parts(parts.usage),
    );
    let leases = LeaseBook::restored(leases.finish(), attachments.finish());
    let state = State { index, leases, ..parts.rest };
    Ok(Checkpoint { head, state })
}

/// What the first block says of the state, the trees aside.
struct StateParts {
    current: i64,
    compacted: i64,
    sweep: Sweep,
    usage: Vec<SegmentUse>,
    /// With empty trees.
    rest: State,
}

struct Source<'a> {
    input: &'a mut dyn Read,
    /// Of what is read next.
    offset: u64,
    number: u32,
    chain: u32,
    payload: Vec<u8>,
    /// Offset of the block that is being looked at.
    payload_at: u64,
}

impl Source<'_> {
    /// Of the block that is being looked at.
    fn damaged(&self, what: &'static str) -> CheckpointError {
        CheckpointError::Damaged { offset: self.payload_at, what }
    }

    fn failed(&self, source: io::Error) -> CheckpointError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                CheckpointError::Damaged { offset: self.offset, what: "it is cut short in what begins here" }
            }
            _ => CheckpointError::Io { offset: self.offset, source },
        }
    }

    /// Gives the version.
    fn file_head(&mut self) -> Result<u32, CheckpointError> {
        let mut head = [0; FILE_HEAD_BYTES];
        self.input.read_exact(&mut head).map_err(|source| self.failed(source))?;
        if head[..8] != MAGIC {
            return Err(self.damaged("it does not begin as a checkpoint does"));
        }
        let crc = crc32c::crc32c(&head[..12]);
        if head[12..] != crc.to_le_bytes() {
            return Err(self.damaged("the checksum of its first 16 bytes is wrong"));
        }
        let version = number_at(&head, 8);
        if !(1..=FORMAT_VERSION).contains(&version) {
            return Err(CheckpointError::Version(version));
        }
        self.chain = crc;
        self.offset = FILE_HEAD_BYTES as u64;
        Ok(version)
    }

    /// Reads the next block into `payload`.
    fn block(&mut self) -> Result<Section, CheckpointError> {
        self.payload_at = self.offset;
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.input.read_exact(&mut head).map_err(|source| self.failed(source))?;
        let len = number_at(&head, 4) as usize;
        // Grows with what is really there: a damaged length does not allocate.
        self.payload.clear();
        let read = self.input.take(len as u64).read_to_end(&mut self.payload);
        if read.map_err(|source| self.failed(source))? < len {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.chain, &head[4..]), &self.payload);
        if number_at(&head, 0) != crc {
            return Err(self.damaged("the checksum of a block is wrong"));
        }
        if number_at(&head, 8) != self.number {
            return Err(self.damaged("a block is out of order"));
        }
        self.offset += (BLOCK_HEAD_BYTES + len) as u64;
        self.number += 1;
        self.chain = crc;
        Section::from_number(head[12]).ok_or_else(|| self.damaged("a block is of an unknown kind"))
    }

    fn expect_end(&mut self) -> Result<(), CheckpointError> {
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                Err(CheckpointError::Damaged { offset: self.offset, what: "something follows the checkpoint's end" })
            }
            Err(source) => Err(self.failed(source)),
        }
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// Adds a block's entries to a tree. None if they do not decode or do not ascend.
fn push_all<M: Measure>(payload: &[u8], tree: &mut Builder<M>) -> Option<u64> {
    let mut fields = Fields(payload);
    let mut count = 0;
    while !fields.0.is_empty() {
        let key = fields.bytes()?;
        let value = fields.bytes()?;
        if !tree.ascends_to(key) {
            return None;
        }
        tree.push(key, value);
        count += 1;
    }
    Some(count)
}

/// The same for keys as `Blocks::keys` writes them.
fn push_keys(payload: &[u8], version: u32, tree: &mut Builder<KeyMeasure>) -> Option<u64> {
    let mut fields = Fields(payload);
    let (mut key, mut count) = (Vec::new(), 0);
    while !fields.0.is_empty() {
        if version == 1 {
            key.clear();
            key.extend_from_slice(fields.bytes()?);
        } else {
            fields.lengthen(&mut key)?;
        }
        let state = fields.bytes()?;
        if !tree.ascends_to(&key) || !codec::is_key(state) {
            return None;
        }
        tree.push(&key, state);
        count += 1;
    }
    Some(count)
}

/// Adds a block's events. None if they do not decode or do not ascend.
fn push_events(payload: &[u8], version: u32, events: &mut Events) -> Option<u64> {
    let mut fields = Fields(payload);
    let (mut last, mut main, mut key, mut count) = (events.last(), 0i64, Vec::new(), 0);
    let mut add = |revision: Revision, key: &[u8], rest: [&[u8]; 2]| {
        if last.is_some_and(|last| revision <= last) || !codec::is_event(revision.main, rest) {
            return None;
        }
        events.push_spelled(revision, key, rest);
        last = Some(revision);
        Some(())
    };
    while !fields.0.is_empty() {
        if version == 1 {
            let revision = codec::revision_of(fields.bytes()?)?;
            let event = fields.bytes()?;
            let (flags, mut key_and_tail) = (event.get(..1)?, Fields(event.get(1..)?));
            let key = key_and_tail.bytes()?;
            add(revision, key, [flags, key_and_tail.0])?;
        } else {
            let head = fields.varint()?;
            main = main.checked_add((head >> 1) as i64)?;
            let sub = if head & 1 != 0 { i64::try_from(fields.varint()?).ok()? } else { 0 };
            fields.lengthen(&mut key)?;
            let (flags, tail) = fields.bytes()?.split_at_checked(1)?;
            add(Revision { main, sub }, &key, [flags, tail])?;
        }
        count += 1;
    }
    Some(count)
}

/// Reads what `put_head` and the like have written.
impl<'a> Fields<'a> {
    fn signed(&mut self) -> Option<i64> {
        self.varint().map(|value| value as i64)
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// Makes of the key before the one that `put_shortened` has written.
    #[inline]
    fn lengthen(&mut self, key: &mut Vec<u8>) -> Option<()> {
        let shared = usize::try_from(self.varint()?).ok()?;
        let rest = self.bytes()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(rest);
        Some(())
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.varint()?;
        // Each takes a byte at least, so a damaged count does not allocate.
        let mut list = Vec::with_capacity(usize::try_from(count).ok()?.min(self.0.len()));
        for _ in 0..count {
            list.push(one(self)?);
        }
        Some(list)
    }

    fn optional_text(&mut self) -> Option<Option<&'a str>> {
        let there = self.byte()? != 0;
        let text = self.text()?;
        Some(there.then_some(text))
    }

    fn member(&mut self) -> Option<Member> {
        let id = self.varint()?;
        let name = self.text()?.to_owned();
        let is_learner = self.byte()? != 0;
        let mut urls = || self.list(|fields| fields.text().map(str::to_owned));
        Some(Member { id, name, is_learner, peer_urls: urls()?, client_urls: urls()? })
    }

    fn auth(&mut self) -> Option<Auth> {
        let enabled = match self.byte()? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return None,
        };
        let revision = self.varint()?;
        // Copied: a slice would keep the whole block.
        let users = self.list(|fields| User::decode(Bytes::copy_from_slice(fields.bytes()?)).ok())?;
        let roles = self.list(|fields| Role::decode(Bytes::copy_from_slice(fields.bytes()?)).ok())?;
        Some(Auth::from_parts(enabled, revision, users, roles))
    }

    fn head(mut self, version: u32) -> Option<(CheckpointHead, StateParts)> {
        let hard_state = HardState { term: self.varint()?, vote: self.varint()?, commit: self.varint()? };
        let position =
            LogPosition { life: self.small()?, offset: self.small()?, write: self.varint()?, chain: self.small()? };
        let extents = self.list(|fields| Some(SegmentExtent { life: fields.small()?, used: fields.small()? }))?;

        let mut state = State::new(0);
        state.applied_index = self.varint()?;
        state.applied_term = self.varint()?;
        state.lease_ttl_min = self.signed()?;
        state.set_conf_state(raftpb::ConfState::decode(self.bytes()?).ok()?);
        state.alarms =
            Alarms::from_parts(self.list(|fields| Some((fields.signed()?.try_into().ok()?, fields.varint()?)))?);
        let members = self.list(Self::member)?;
        let removed = self.list(Self::varint)?;
        state.membership = Membership::from_parts(members, removed);
        state.cluster_version = self.optional_text()?.map(Into::into);
        state.downgrade = self.optional_text()?.map(|target| Downgrade { target: target.to_owned() }.into());

        let (current, compacted) = (self.signed()?, self.signed()?);
        let next = Revision { main: self.signed()?, sub: self.signed()? };
        let sweep = Sweep { next, target: self.signed()? };
        let usage = self.list(|fields| {
            Some(SegmentUse {
                segment: fields.small()?,
                live_bytes: fields.varint()?,
                values: fields.varint()?,
                oldest: fields.signed()?,
                newest: fields.signed()?,
            })
        })?;
        if version > VERSION_WITHOUT_AUTH {
            state.auth = self.auth()?;
        }
        let ascending = usage.is_sorted_by(|a, b| a.segment < b.segment);
        if !ascending || !self.0.is_empty() {
            return None;
        }
        let head = CheckpointHead { hard_state, position, extents };
        Some((head, StateParts { current, compacted, sweep, usage, rest: state }))
    }
}

#[cfg(test)]
mod tests;
