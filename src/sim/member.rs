//! One member: a core, the disk under it, and a process that may be killed, stopped for a while, or be slow.

use std::{collections::BTreeMap, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::Bytes;

use crate::{
    bolt::read::Database,
    limits::LOG_BLOCK_BYTES,
    proto::raftpb,
    raft::{
        bootstrap::Founder,
        core::{Capture, Core, Covered, Effects, Incoming, Installing, Planted},
        install::Numbering,
        start::{self, Manner, Resumed},
        translate::messages,
        view::View,
    },
    random::Random,
    store::{
        backend::import::{self, KeepValues},
        checkpoint::CheckpointHead,
        types::{Place, Revision},
    },
    wal::{
        bulk::Pace,
        disk::{Dir, Recycled},
        recovery::Options,
        segment::Segment,
        writer::PendingWrite,
    },
};

/// Small, so that segments come and go.
const SEGMENT_BYTES: u32 = 48 * 1024;
const RECENT_BYTES: u64 = 64 * 1024;

/// Few, so that members that lag are sent snapshots.
const CATCH_UP_ENTRIES: u64 = 20;

pub const ELECTION_TICKS: usize = 10;
/// Ticks after which a member gives up what it was asked.
pub const REQUEST_TICKS: u64 = 70;

pub struct Member {
    pub id: u64,
    dir: Dir,
    founders: Vec<Founder>,
    planted: Option<Planted>,
    /// None while the process is not there.
    pub core: Option<Core>,
    /// Counts processes: what was meant for one that has gone does not reach the next.
    pub life: u64,
    pub write: Option<PendingWrite>,
    pub view: Option<Arc<View>>,
    /// The revision that is to be told next.
    pub next_revision: i64,
    /// Of clients that wait, by token.
    pub waiting: BTreeMap<u32, usize>,
    covered: Covered,
    capture: Option<Box<Capture>>,
    /// A state from another member whose values are on their way into the log.
    incoming: Option<Box<Incoming>>,
    /// One whose checkpoint is being written.
    installing: Option<Box<Capture>>,
    /// Member and life of the process that sent it.
    install_from: Option<(usize, u64)>,
    is_installed: bool,
    retired: Vec<Arc<Segment>>,
    /// The process stands still until then.
    pub still_until: u64,
    /// How long a heartbeat interval takes by this member's clock.
    pub tick_us: u64,
    /// How long a write takes at most.
    pub write_us: u64,
}

impl Member {
    pub fn new(root: &Path, founders: &[Founder], at: usize, planted: Option<Planted>) -> Member {
        let path = root.join(format!("member-{at}"));
        std::fs::create_dir_all(&path).expect("a folder for a member");
        Member {
            id: founders[at].id,
            dir: Dir::open(&path).expect("a member's folder"),
            founders: founders.to_vec(),
            planted,
            core: None,
            life: 0,
            write: None,
            view: None,
            next_revision: 0,
            waiting: BTreeMap::new(),
            covered: Covered::default(),
            capture: None,
            incoming: None,
            installing: None,
            install_from: None,
            is_installed: false,
            retired: Vec::new(),
            still_until: 0,
            tick_us: super::TICK_US,
            write_us: super::WRITE_US,
        }
    }

    /// The process starts, with what the disk has kept.
    pub fn start(&mut self) {
        self.life += 1;
        let options =
            Options { segment_bytes: SEGMENT_BYTES, recent_bytes: RECENT_BYTES, cluster_id: 0xc1, member_id: self.id };
        let manner = Manner {
            founders: |_| self.founders.clone(),
            force_new_cluster: false,
            lease_ttl_min: 1,
            shards: 1,
            election_ticks: ELECTION_TICKS,
            pre_vote: true,
            request_ticks: REQUEST_TICKS,
            retry_ticks: 5,
            life: self.id << 48 | self.life << 24,
            quota_bytes: None,
            catch_up_entries: CATCH_UP_ENTRIES,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        let Resumed { parts, covered, .. } = start::resume(&self.dir, &options, manner).expect("the log is sound");
        let mut core = Core::new(parts).expect("the log suits the crate");
        core.plant(self.planted);
        self.next_revision = core.state().index.current() + 1;
        self.covered = covered;
        self.retired = core.checkpointed(&self.covered);
        self.core = Some(core);
    }

    /// The process ends at once. Of the write under way any blocks may be on the disk: of its first pieces all, of one
    /// some, of those after none.
    /// Gives who has sent a snapshot that is being taken in.
    pub fn kill(&mut self, random: &mut Random) -> Option<(usize, u64)> {
        let core = self.core.take()?;
        if let Some(write) = self.write.take() {
            let reached = random.below(write.pieces.len() as u64 + 1) as usize;
            for (at, piece) in write.pieces.iter().enumerate().take(reached + 1) {
                let header = core.writer().segment_header(piece.segment.life());
                self.dir.ensure_segment(&header, Pace::Hurried).expect("a segment");
                let file = std::fs::OpenOptions::new().write(true).open(piece.segment.path()).expect("a segment");
                for (block, bytes) in piece.bytes().chunks(LOG_BLOCK_BYTES as usize).enumerate() {
                    if at < reached || random.below(2) == 0 {
                        let offset = u64::from(piece.offset) + block as u64 * u64::from(LOG_BLOCK_BYTES);
                        file.write_all_at(bytes, offset).expect("a block");
                    }
                }
            }
        }
        self.view = None;
        self.capture = None;
        self.incoming = None;
        self.installing = None;
        self.is_installed = false;
        self.retired.clear();
        self.still_until = 0;
        self.install_from.take()
    }

    pub fn turn(&mut self) -> Effects {
        let core = self.core.as_mut().expect("a process that runs");
        let mut effects = core.turn().expect("values can be read");
        if let Some(view) = &effects.view {
            if let Some(before) = &self.view {
                assert!(before.revision() <= view.revision(), "the published state goes back");
            }
            self.view = Some(view.clone());
        }
        if let Some(write) = &effects.write {
            assert!(self.write.replace(write.clone()).is_none(), "two writes at once");
        }
        if let Some(capture) = effects.capture.take() {
            self.capture = Some(capture);
        }
        match effects.installing.take() {
            Some(Installing::Begun(capture)) => {
                self.installing = Some(capture);
                // It would be a state of before.
                self.capture = None;
            }
            Some(Installing::Ignored) => self.is_installed = true,
            None => {}
        }
        effects
    }

    /// Whether a checkpoint of a state from another member waits to be written.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// The write under way has reached the disk.
    pub fn written(&mut self) {
        let core = self.core.as_mut().expect("a process that runs");
        let write = self.write.take().expect("a write that is under way");
        for piece in &write.pieces {
            let header = core.writer().segment_header(piece.segment.life());
            self.dir.ensure_segment(&header, Pace::Hurried).expect("a segment");
        }
        self.dir.write(&write).expect("a write");
        core.written();
    }

    /// Writes a checkpoint, if there is a state for it, and recycles what it makes useless.
    pub fn checkpoint(&mut self) -> bool {
        let capture = self.capture.take();
        let done = capture.is_some();
        if let Some(capture) = capture {
            self.write_checkpoint(*capture);
            let core = self.core.as_mut().expect("a process that runs");
            self.retired.extend(core.checkpointed(&self.covered));
        }
        for segment in std::mem::take(&mut self.retired) {
            if let Recycled::Pinned(segment) = self.dir.recycle(segment, Pace::Hurried).expect("a segment") {
                self.retired.push(segment);
            }
        }
        done
    }

    fn write_checkpoint(&mut self, capture: Capture) {
        let core = self.core.as_ref().expect("a process that runs");
        let Capture { state, hard_state, position, extents } = capture;
        self.dir.ensure_segment(&core.writer().segment_header(position.life), Pace::Hurried).expect("a segment");
        self.covered =
            Covered { applied: state.applied().0, replay_from: position.life, usage: state.index.usage().clone() };
        let head = CheckpointHead { hard_state, position, extents };
        self.dir.write_checkpoint(&state, &head, Pace::Hurried).expect("a checkpoint");
    }

    // ---- snapshots ----

    /// Takes a snapshot in: its values are on their way into the log then. False if there is one already.
    pub fn receive(&mut self, message: raftpb::Message, database: &[u8], from: (usize, u64)) -> bool {
        if self.incoming.is_some() || self.installing.is_some() {
            return false;
        }
        let core = self.core.as_mut().expect("a process that runs");
        let message = messages::message_for_crate(message).expect("a message between members");
        self.install_from = Some(from);
        if !core.wants_snapshot(&message) {
            core.step(message);
            self.is_installed = true;
            return true;
        }
        core.begin_keeping();
        let index = message.get_snapshot().get_metadata().index;
        let database = Database::open(database, "snapshot").expect("a database");
        let mut keeper = Keeper { core, numbering: Numbering::default() };
        let imported = import::import(&database, 1, &mut keeper).expect("a sound database");
        assert_eq!(imported.consistent_index, index, "the state is that of the message");
        self.incoming = Some(Box::new(Incoming { message, state: imported.state }));
        true
    }

    /// Goes on with a snapshot whose values are durable.
    pub fn install_if_kept(&mut self) {
        let Some(core) = self.core.as_mut() else { return };
        if self.incoming.is_some() && core.has_kept() && !core.relocating() {
            core.install(self.incoming.take().expect("just seen"));
        }
    }

    /// The checkpoint of a state from another member is on the disk, under its name. `dies`: and the process gets no further.
    pub fn exchange(&mut self, dies: bool) {
        let Some(capture) = self.installing.take() else { return };
        self.write_checkpoint(*capture);
        if !dies {
            let core = self.core.as_mut().expect("a process that runs");
            core.installed();
            self.retired.extend(core.checkpointed(&self.covered));
            self.is_installed = true;
        }
    }

    /// Whose process sent a snapshot that has been dealt with since this was last asked.
    pub fn take_installed(&mut self) -> Option<(usize, u64)> {
        std::mem::take(&mut self.is_installed).then(|| self.install_from.take()).flatten()
    }
}

struct Keeper<'a> {
    core: &'a mut Core,
    numbering: Numbering,
}

impl KeepValues for Keeper<'_> {
    fn keep(&mut self, values: Vec<(Revision, Bytes)>) -> io::Result<Vec<Place>> {
        Ok(self.core.keep_values(&self.numbering.moved(values)?))
    }
}
