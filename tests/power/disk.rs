//! A disk for one directory, in memory, behind FUSE: it keeps what was synced apart from what was only written. On
//! command it loses power (of what was not synced any part may be gone, block by block), fails, fills up, or stalls.
//!
//! What is durable is what POSIX promises and no more: a file's bytes by fsync or fdatasync of that file, or by a write
//! through a descriptor with O_DSYNC, which covers the bytes of that write; names by fsync of the directory. Names are
//! lost in order, from some point on, as a journal loses them; a file's blocks in any order, each whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL, TimeOrNow,
    WriteFlags,
};

use urd::random::Random;

use crate::server::PATIENCE;

const BLOCK: usize = 4096;

/// A request of the kernel carries this much of a write at most, so that larger ones can be torn between requests too.
const WRITE_BYTES: u32 = 64 * 1024;

const TTL: Duration = Duration::from_secs(1);

/// None: zeros.
type Block = Option<Arc<[u8; BLOCK]>>;

#[derive(Clone, Default)]
struct Content {
    blocks: Vec<Block>,
    len: u64,
}

impl Content {
    fn resize(&mut self, len: u64) {
        let blocks = (len as usize).div_ceil(BLOCK);
        self.blocks.resize(blocks, None);
        if len < self.len && !(len as usize).is_multiple_of(BLOCK) {
            let mut last = self.block(blocks - 1);
            last[len as usize % BLOCK..].fill(0);
            self.blocks[blocks - 1] = Some(Arc::new(last));
        }
        self.len = len;
    }

    fn block(&self, at: usize) -> [u8; BLOCK] {
        self.blocks.get(at).and_then(|block| block.as_deref().copied()).unwrap_or([0; BLOCK])
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset + len as u64);
        let mut bytes = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let block = self.block(at as usize / BLOCK);
            let from = at as usize % BLOCK;
            let to = BLOCK.min(from + (end - at) as usize);
            bytes.extend_from_slice(&block[from..to]);
            at += (to - from) as u64;
        }
        bytes
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> std::ops::Range<usize> {
        let end = offset + data.len() as u64;
        if end > self.len {
            self.resize(end);
        }
        let mut at = offset as usize;
        let mut rest = data;
        while !rest.is_empty() {
            let from = at % BLOCK;
            let (now, after) = rest.split_at(rest.len().min(BLOCK - from));
            let mut block = self.block(at / BLOCK);
            block[from..from + now.len()].copy_from_slice(now);
            self.blocks[at / BLOCK] = block.iter().any(|byte| *byte != 0).then(|| Arc::new(block));
            at += now.len();
            rest = after;
        }
        offset as usize / BLOCK..(end as usize).div_ceil(BLOCK)
    }
}

#[derive(Default)]
struct File {
    now: Content,
    durable: Content,
    /// Blocks that may differ.
    dirty: BTreeSet<usize>,
    mode: u32,
}

impl File {
    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.dirty.clear();
    }

    /// The bytes of some blocks, and the length that they need.
    fn sync_range(&mut self, blocks: std::ops::Range<usize>) {
        self.durable.resize(self.now.len.max(self.durable.len));
        for at in blocks {
            self.durable.blocks[at] = self.now.blocks[at].clone();
            self.dirty.remove(&at);
        }
    }

    /// What is left of it without power.
    fn lose(&mut self, random: &mut Random) -> u64 {
        let mut lost = 0;
        let mut left = self.durable.clone();
        if self.now.len != left.len && random.below(2) == 0 {
            left.resize(self.now.len);
        }
        // Everything, nothing, or each block for itself.
        let manner = random.below(4);
        for &at in &self.dirty {
            let kept = match manner {
                0 => false,
                1 => true,
                _ => random.below(2) == 0,
            };
            match left.blocks.get_mut(at) {
                Some(block) if kept => *block = self.now.blocks.get(at).cloned().flatten(),
                _ => lost += 1,
            }
        }
        self.now = left;
        self.sync();
        lost
    }
}

#[derive(Clone)]
enum NameChange {
    Put(String, u64),
    Remove(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Put(name, ino) => drop(names.insert(name.clone(), *ino)),
            NameChange::Remove(name) => drop(names.remove(name)),
            NameChange::Rename(from, to) => {
                if let Some(ino) = names.remove(from) {
                    names.insert(to.clone(), ino);
                }
            }
        }
    }
}

/// What can be made to fail, counted from when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Write,
    /// fsync or fdatasync of a file, or a write that was to be durable.
    Sync,
}

/// An operation whose answer is held back.
enum Held {
    Write { ino: u64, offset: u64, data: Vec<u8>, durable: bool, reply: ReplyWrite },
    Sync { ino: u64, reply: ReplyEmpty },
    SyncNames { reply: ReplyEmpty },
    Create(ReplyCreate),
    Other(ReplyEmpty),
    Read(ReplyData),
}

/// What has been asked of the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    /// Of these, through descriptors with O_DSYNC.
    pub durable_writes: u64,
    pub syncs: u64,
    pub name_syncs: u64,
    pub power_losses: u64,
    /// Blocks that were written, not synced, and gone after a loss of power.
    pub blocks_lost: u64,
    /// Changes of names of that kind.
    pub names_lost: u64,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
    next: u64,
    /// Writes and syncs until the power goes.
    cut_after: Option<u64>,
    dead: bool,
    /// Whoever still asks is told that there is no disk any more, instead of waiting for it.
    abandoned: bool,
    stalled: bool,
    /// Says that it has synced, and has not.
    lies: bool,
    held: Vec<Held>,
    fail: Option<(What, u64, Errno)>,
    /// Bytes that fit.
    capacity: Option<u64>,
    counts: Counts,
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| file.now.len).sum()
    }

    fn hold(&mut self, held: Held) {
        match self.abandoned {
            true => self.release(held),
            false => self.held.push(held),
        }
    }

    /// Whether this operation is the one that is to fail.
    fn fails(&mut self, what: What) -> Option<Errno> {
        let (which, left, errno) = self.fail.as_mut()?;
        if *which != what {
            return None;
        }
        match left {
            // From then on all do: a disk that is broken stays so.
            0 => Some(*errno),
            left => {
                *left -= 1;
                None
            }
        }
    }

    /// Whether the power goes with this operation.
    fn goes_dark(&mut self) -> bool {
        if let Some(left) = &mut self.cut_after {
            if *left == 0 {
                self.dead = true;
            } else {
                *left -= 1;
            }
        }
        self.dead
    }

    fn write(&mut self, ino: u64, offset: u64, data: &[u8], durable: bool) -> Result<u32, Errno> {
        self.counts.writes += 1;
        self.counts.durable_writes += u64::from(durable);
        if let Some(errno) = self.fails(What::Write) {
            return Err(errno);
        }
        let grows = (offset + data.len() as u64).saturating_sub(self.files.get(&ino).map_or(0, |file| file.now.len));
        if self.capacity.is_some_and(|capacity| grows > 0 && self.used() + grows > capacity) {
            return Err(Errno::ENOSPC);
        }
        let durable = durable && !self.lies;
        let fails = durable.then(|| self.fails(What::Sync)).flatten();
        let file = self.files.get_mut(&ino).ok_or(Errno::ENOENT)?;
        let blocks = file.now.write(offset, data);
        file.dirty.extend(blocks.clone());
        match fails {
            Some(errno) => Err(errno),
            None => {
                if durable {
                    file.sync_range(blocks);
                }
                Ok(data.len() as u32)
            }
        }
    }

    fn sync(&mut self, ino: u64) -> Result<(), Errno> {
        self.counts.syncs += 1;
        if let Some(errno) = self.fails(What::Sync) {
            return Err(errno);
        }
        let file = self.files.get_mut(&ino).ok_or(Errno::ENOENT)?;
        if !self.lies {
            file.sync();
        }
        Ok(())
    }

    fn sync_names(&mut self) {
        self.counts.name_syncs += 1;
        self.durable_names = self.names.clone();
        self.changes.clear();
        let (names, durable) = (&self.names, &self.durable_names);
        let named: BTreeSet<u64> = names.values().chain(durable.values()).copied().collect();
        // The kernel may hold a file without a name for a while: the server never writes to one.
        self.files.retain(|ino, _| named.contains(ino));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn lose_power(&mut self, random: &mut Random) {
        self.counts.power_losses += 1;
        for file in self.files.values_mut() {
            self.counts.blocks_lost += file.lose(random);
        }
        let kept = random.below(self.changes.len() as u64 + 1) as usize;
        self.counts.names_lost += (self.changes.len() - kept) as u64;
        let mut names = self.durable_names.clone();
        self.changes[..kept].iter().for_each(|change| change.apply(&mut names));
        self.names = names;
        self.sync_names();
        (self.dead, self.abandoned, self.stalled) = (false, false, false);
        (self.cut_after, self.fail) = (None, None);
    }

    fn release(&mut self, held: Held) {
        match held {
            _ if self.dead => match held {
                Held::Write { reply, .. } => reply.error(Errno::EIO),
                Held::Sync { reply, .. } | Held::SyncNames { reply } | Held::Other(reply) => reply.error(Errno::EIO),
                Held::Create(reply) => reply.error(Errno::EIO),
                Held::Read(reply) => reply.error(Errno::EIO),
            },
            Held::Write { ino, offset, data, durable, reply } => match self.write(ino, offset, &data, durable) {
                Ok(len) => reply.written(len),
                Err(errno) => reply.error(errno),
            },
            Held::Sync { ino, reply } => answer(reply, self.sync(ino)),
            Held::SyncNames { reply } => {
                self.sync_names();
                reply.ok();
            }
            Held::Create(reply) => reply.error(Errno::EIO),
            Held::Other(reply) => reply.error(Errno::EIO),
            Held::Read(reply) => reply.error(Errno::EIO),
        }
    }

    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let (kind, size, perm) = match ino {
            1 => (FileType::Directory, 0, 0o700),
            _ => self.files.get(&ino).map(|file| (FileType::RegularFile, file.now.len, file.mode as u16 & 0o777))?,
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The disk. Its contents outlive being unmounted.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

/// A disk that is mounted; unmounted when dropped.
pub struct Mounted {
    session: Option<BackgroundSession>,
    disk: Disk,
    at: PathBuf,
}

impl Disk {
    pub fn new() -> Self {
        let disk = Disk::default();
        disk.state().next = 2;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    /// Mounts it over a directory.
    ///
    /// # Panics
    /// Where that is not possible: what the tests here need is not there, and that is a failure, not a reason to pass.
    pub fn mount(&self, at: &Path) -> Mounted {
        std::fs::create_dir_all(at).expect("a directory to mount on");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("urd-test-disk".into()), MountOption::DefaultPermissions];
        config.acl = SessionACL::Owner;
        let session = fuser::spawn_mount(self.clone(), at, &config).unwrap_or_else(|cause| {
            panic!(
                "cannot mount a FUSE file system: {cause}. This test needs /dev/fuse (modprobe fuse) and the right to \
                 mount (root, or CAP_SYS_ADMIN)"
            )
        });
        Mounted { session: Some(session), disk: self.clone(), at: at.to_owned() }
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// The power goes with the operation after so many more writes and syncs: it is not answered any more.
    pub fn cut_after(&self, operations: u64) {
        self.state().cut_after = Some(operations);
    }

    /// From now on it acknowledges syncs of files and does nothing, as if nobody had asked for them.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    pub fn cut_now(&self) {
        self.state().dead = true;
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// So many more succeed, then each fails.
    pub fn fail(&self, what: What, after: u64, errno: Errno) {
        self.state().fail = Some((what, after, errno));
    }

    /// A disk that is replaced by a good one with the same contents.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.fail, state.capacity) = (None, None);
    }

    /// Nothing more fits but so many bytes.
    pub fn leave_room(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = Some(state.used() + bytes);
    }

    /// Holds back the answers to all writes and syncs; reads go on.
    pub fn stall(&self) {
        self.state().stalled = true;
    }

    pub fn go_on(&self) {
        let mut state = self.state();
        state.stalled = false;
        for held in std::mem::take(&mut state.held) {
            state.release(held);
        }
    }

    pub fn held(&self) -> usize {
        self.state().held.len()
    }
}

impl Mounted {
    /// Ends all requests that hang, unmounts, and gives the disk as it is after the loss. Whoever used it is dead, or
    /// dies of it.
    pub fn lose_power(mut self, random: &mut Random) -> Disk {
        self.abandon();
        self.unmount();
        self.disk.state().lose_power(random);
        self.disk.clone()
    }

    /// Answers with errors what has hung since the power went.
    pub fn abandon(&self) {
        let mut state = self.disk.state();
        (state.dead, state.abandoned) = (true, true);
        for held in std::mem::take(&mut state.held) {
            state.release(held);
        }
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        let begin = Instant::now();
        // The kernel may take a moment to close what a killed process had open.
        while let Err(cause) = umount(&self.at, 0) {
            assert!(begin.elapsed() < PATIENCE, "somebody still uses the disk: {cause}");
            std::thread::sleep(Duration::from_millis(1));
        }
        match session.join() {
            // The kernel's other word for a disk that is unmounted.
            Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionAborted => {}
            ended => ended.expect("a disk ends well"),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.abandon();
            // Whoever still has something open there keeps it alive until then.
            let _ = umount(&self.at, libc::MNT_DETACH);
        }
    }
}

fn umount(at: &Path, flags: i32) -> std::io::Result<()> {
    let path = std::ffi::CString::new(at.as_os_str().as_bytes()).expect("a path without zeros");
    // SAFETY: a string that ends with a zero and lives longer than the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.set_max_write(WRITE_BYTES).expect("a size that the kernel takes");
        // Or else the kernel would have who submits a direct write to a ring wait for it on the spot.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).expect("kernels have that since 3.13");
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        let found = name.to_str().and_then(|name| state.names.get(name)).and_then(|ino| state.attributes(*ino));
        match found {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let Some(file) = state.files.get_mut(&ino.0) {
            if let Some(mode) = mode {
                file.mode = mode;
            }
            if let Some(size) = size {
                let blocks =
                    (size.min(file.now.len) as usize / BLOCK)..(size.max(file.now.len) as usize).div_ceil(BLOCK);
                file.now.resize(size);
                file.dirty.extend(blocks);
            }
        }
        match state.attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.dead {
            return state.hold(Held::Other(reply));
        }
        match name.to_str().filter(|name| state.names.contains_key(*name)) {
            Some(name) => {
                state.change(NameChange::Remove(name.to_owned()));
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rename(&self, _: &Request, _: INodeNo, from: &OsStr, _: INodeNo, to: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.dead {
            return state.hold(Held::Other(reply));
        }
        match (from.to_str().filter(|from| state.names.contains_key(*from)), to.to_str()) {
            (Some(from), Some(to)) => {
                state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
                reply.ok();
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut state = self.state();
        if state.dead {
            return state.hold(Held::Create(reply));
        }
        let Some(name) = name.to_str() else { return reply.error(Errno::EIO) };
        let ino = state.next;
        state.next += 1;
        state.files.insert(ino, File { mode, ..File::default() });
        state.change(NameChange::Put(name.to_owned(), ino));
        let attributes = state.attributes(ino).expect("just made");
        reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        if state.dead {
            return state.hold(Held::Read(reply));
        }
        match state.files.get(&ino.0) {
            Some(file) => reply.data(&file.now.read(offset, size as usize)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        // O_SYNC holds the bit of O_DSYNC.
        let durable = flags.0 & libc::O_DSYNC != 0;
        let was_dead = state.dead;
        let ino = ino.0;
        if state.goes_dark() {
            // Of the write that the power goes in, any block may have got through: none is durable, none was promised.
            if !was_dead {
                let _ = state.write(ino, offset, data, false);
            }
            return state.hold(Held::Write { ino, offset, data: Vec::new(), durable, reply });
        }
        if state.stalled {
            return state.hold(Held::Write { ino, offset, data: data.to_vec(), durable, reply });
        }
        match state.write(ino, offset, data, durable) {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.goes_dark() || state.stalled {
            return state.hold(Held::Sync { ino: ino.0, reply });
        }
        answer(reply, state.sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.goes_dark() || state.stalled {
            return state.hold(Held::SyncNames { reply });
        }
        state.sync_names();
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.state();
        let dots = [(".".to_owned(), 1, FileType::Directory), ("..".to_owned(), 1, FileType::Directory)];
        let names = state.names.iter().map(|(name, ino)| (name.clone(), *ino, FileType::RegularFile));
        for (at, (name, ino, kind)) in dots.into_iter().chain(names).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.state();
        let free = state.capacity.map_or(1 << 20, |capacity| capacity.saturating_sub(state.used()) / BLOCK as u64);
        reply.statfs(1 << 20, free, free, 1 << 20, 1 << 20, BLOCK as u32, 255, BLOCK as u32);
    }
}
