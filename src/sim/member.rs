//! One member: a core, the disk under it, its clock, its watches and lease deadlines, and a process that may be killed,
//! stopped for a while, or be slow.

use std::{collections::BTreeMap, os::unix::fs::FileExt, path::Path, sync::Arc};

use super::{Waiter, disk::Disk, snapshots::Exchange, watcher};
use crate::{
    limits::{self, LOG_BLOCK_BYTES},
    raft::{
        bootstrap::Founder,
        core::{Capture, Core, Covered, Effects, Installing, Planted, sealed},
        identity,
        mail::Kept,
        start::{self, Manner, Resumed},
        view::View,
    },
    random::Random,
    shard::{lease::Deadlines, watch::Watches},
    store::{
        checkpoint::CheckpointHead,
        types::{Place, Revision, Values as _},
    },
    wal::{
        bulk::Pace,
        disk::{Dir, Recycled},
        mend::{Ask, Gift, Given, Wanted},
        record::MovedValue,
        recovery::{self, Options, RecoveryError},
        replay::TRUSTS_TORN_WRITES,
        segment::Segment,
        writer::PendingWrite,
    },
};

/// Small, so that segments come and go.
const SEGMENT_BYTES: u32 = 48 * 1024;
const RECENT_BYTES: u64 = 64 * 1024;

/// Few, so that members that lag are sent snapshots.
const CATCH_UP_ENTRIES: u64 = 20;

/// So few that a run has many spans.
const SPAN_ENTRIES: u64 = 16;

pub const ELECTION_TICKS: usize = 10;
/// Ticks after which a member gives up what it was asked.
pub const REQUEST_TICKS: u64 = 70;

/// A member's clock, which may go at another speed than time does.
#[derive(Clone, Copy)]
pub struct Clock {
    at_us: u64,
    since: u64,
    /// How long a heartbeat interval takes by it.
    pub tick_us: u64,
}

impl Clock {
    fn new() -> Self {
        Clock { at_us: 0, since: 0, tick_us: super::TICK_US }
    }

    pub fn ms(&self, now: u64) -> u64 {
        self.us(now) / 1000
    }

    fn us(&self, now: u64) -> u64 {
        self.at_us + (now - self.since) * super::TICK_US / self.tick_us
    }

    pub fn set_pace(&mut self, now: u64, tick_us: u64) {
        *self = Clock { at_us: self.us(now), since: now, tick_us };
    }
}

/// The clock that tells the time of day, by which nothing may go: it may be set at any time.
#[derive(Clone, Copy, Default)]
pub struct Wall {
    /// How far it has been set ahead, or back.
    pub shift_ms: i64,
    /// What it said when the process began.
    began_ms: u64,
    /// The machine has no other clock while it is off: the next process begins when this one did.
    pub begins_anew: bool,
}

impl Wall {
    /// A day in the year 2027.
    const EPOCH_MS: u64 = 1_800_000_000_000;

    fn ms(self, now: u64) -> u64 {
        (Self::EPOCH_MS + now / 1000).saturating_add_signed(self.shift_ms)
    }

    /// A process begins.
    fn begin(&mut self, now: u64) -> u64 {
        if std::mem::take(&mut self.begins_anew) && self.began_ms > 0 {
            self.shift_ms += self.began_ms as i64 - self.ms(now) as i64;
        }
        self.began_ms = self.ms(now);
        self.began_ms
    }
}

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
    /// Who waits, by token.
    pub waiting: BTreeMap<u32, Waiter>,
    pub deadlines: Deadlines,
    pub watches: Watches<Arc<View>>,
    covered: Covered,
    capture: Option<Box<Capture>>,
    /// A state from another member, on its way in.
    pub exchange: Exchange,
    retired: Vec<Arc<Segment>>,
    /// The process stands still until then.
    pub still_until: u64,
    pub clock: Clock,
    pub wall: Wall,
    /// The last id that this process has given a request.
    ids: u64,
    /// How long a write takes at most.
    pub write_us: u64,
    pub disk: Disk,
    /// Its last start has mended its log.
    pub mended: bool,
    /// It does not come back: it was removed, or its disk was lost.
    pub gone: bool,
    /// It knows that it was removed, and is about to stop.
    pub retiring: bool,
}

impl Member {
    /// `founders`: none for a member that joins.
    pub fn new(root: &Path, id: u64, founders: &[Founder], planted: Option<Planted>) -> Member {
        let path = root.join(format!("member-{id:x}"));
        std::fs::create_dir_all(&path).expect("a folder for a member");
        Member {
            id,
            dir: Dir::open(&path).expect("a member's folder"),
            founders: founders.to_vec(),
            planted,
            core: None,
            life: 0,
            write: None,
            view: None,
            next_revision: 0,
            waiting: BTreeMap::new(),
            deadlines: Deadlines::default(),
            watches: Watches::new(watcher::settings(id), 0),
            covered: Covered::default(),
            capture: None,
            exchange: Exchange::default(),
            retired: Vec::new(),
            still_until: 0,
            clock: Clock::new(),
            wall: Wall::default(),
            ids: 0,
            write_us: super::WRITE_US,
            disk: Disk::default(),
            mended: false,
            gone: false,
            retiring: false,
        }
    }

    /// Whether it has to be replaced: it is not there, or its disk does not hold what was written, or will not.
    pub fn is_broken(&self) -> bool {
        self.gone || self.disk.damaged || self.disk.misdirects
    }

    /// Whether it has heard that a member was removed.
    pub fn knows_removed(&self, id: u64) -> bool {
        self.view.as_ref().is_some_and(|view| view.state.membership.is_removed(id))
    }

    pub fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// The clock that deadlines are kept by.
    pub fn ms(&self, now: u64) -> u64 {
        let ms = self.clock.ms(now);
        if self.has(Planted::DeadlinesByWallClock) { self.wall.ms(0) + ms } else { ms }
    }

    /// An id for a request, of no other.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The term in which it leads and may serve.
    pub fn leads(&self) -> Option<u64> {
        let core = self.core.as_ref()?;
        (core.is_leader() && core.serves()).then(|| core.standing().term)
    }

    /// The process starts, with what the disk has kept. False if it refuses to.
    pub fn start(&mut self, now: u64, random: &mut Random, others: &[&Member]) -> bool {
        let misread = std::mem::take(&mut self.disk.misreads).then(|| self.disk.flip(&self.dir, random)).flatten();
        let (drawn, began_ms) = (random.draw(), self.wall.begin(now));
        let drawn = if self.has(Planted::IdsByWallClock) { began_ms } else { drawn };
        let started = self.try_start(misread.is_some(), drawn, others);
        misread.into_iter().for_each(|flip| flip.take_back());
        started
    }

    /// Committed entries that this member has, for one that has lost them.
    fn give(&self, from: u64, to: u64) -> Option<Gift> {
        let core = self.core.as_ref()?;
        let table = core.writer().table();
        let given = core.kept(from, to)?.into_iter().map(|Kept { index, term, kind, place }| {
            Some(Given { index, term, kind, data: table.entry(place, index).ok()? })
        });
        let entries: Vec<Given> = given.collect::<Option<_>>()?;
        (!entries.is_empty()).then(|| Gift { entries, giver: format!("{:x}", self.id) })
    }

    fn try_start(&mut self, misread: bool, drawn: u64, others: &[&Member]) -> bool {
        self.life += 1;
        self.ids = identity::first_id(self.id, drawn);
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
            life: self.ids,
            quota_bytes: None,
            catch_up_entries: CATCH_UP_ENTRIES,
            span_entries: SPAN_ENTRIES,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        TRUSTS_TORN_WRITES.set(self.has(Planted::TrustsTornWrites));
        let mut ask = |wanted: &Wanted<'_>| {
            let given = others.iter().find_map(|other| other.give(wanted.from, wanted.to));
            given.ok_or_else(|| "nobody has them".to_owned())
        };
        // What is only read wrongly would be mended for good.
        let mends = !misread && self.disk.damaged;
        self.mended = mends && matches!(recovery::read(&self.dir), Err(RecoveryError::Damaged { .. }));
        let resumed = start::resume(&self.dir, &options, manner, mends.then_some(&mut ask as &mut Ask<'_>));
        TRUSTS_TORN_WRITES.set(false);
        let Resumed { parts, covered, .. } = match resumed {
            Ok(resumed) => resumed,
            Err(_) if self.disk.damaged || misread => {
                self.mended = false;
                return false;
            }
            Err(why) => panic!("the log of a sound disk is refused: {why}"),
        };
        let mut core = Core::new(parts).expect("the log suits the crate");
        core.plant(self.planted);
        self.next_revision = core.state().index.current() + 1;
        self.watches = Watches::new(watcher::settings(self.id), core.state().index.current());
        self.covered = covered;
        self.retired = core.checkpointed(&self.covered);
        self.core = Some(core);
        true
    }

    /// The process ends at once. Of the write under way any blocks may be on the disk: of its first pieces all, of one
    /// some, of those after none. Gives who has sent a snapshot that is being taken in.
    pub fn kill(&mut self, random: &mut Random) -> Option<(usize, u64)> {
        let core = self.core.take()?;
        if let Some(write) = self.write.take() {
            let reached = random.below(write.pieces.len() as u64 + 1) as usize;
            for (at, piece) in write.pieces.iter().enumerate().take(reached + 1) {
                if self.disk.full && !piece.segment.path().exists() {
                    break;
                }
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
        self.retired.clear();
        self.still_until = 0;
        self.deadlines.demote();
        // Nothing on the disk shows that a part of it is missing: what it has promised it would not know.
        self.gone |= self.disk.hides_damage;
        std::mem::take(&mut self.exchange).sender
    }

    /// None if the process ends because its disk gives it what it did not write.
    pub fn turn(&mut self) -> Option<Effects> {
        let core = self.core.as_mut().expect("a process that runs");
        let mut effects = match core.turn() {
            Ok(effects) => effects,
            Err(_) if self.disk.damaged => return None,
            Err(cause) => panic!("a sound disk cannot be read: {cause}"),
        };
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
                self.exchange.waits = false;
                self.exchange.begun = Some(capture);
                // It would be a state of before.
                self.capture = None;
            }
            Some(Installing::Ignored) => {
                self.exchange.waits = false;
                self.exchange.is_over = true;
            }
            None => {}
        }
        Some(effects)
    }

    /// The write under way has reached the disk. False if it has failed, with which the process is to end.
    pub fn written(&mut self, random: &mut Random) -> bool {
        let core = self.core.as_mut().expect("a process that runs");
        let write = self.write.as_ref().expect("a write that is under way");
        if !self.disk.takes(&self.dir, write) {
            return false;
        }
        for piece in &write.pieces {
            let header = core.writer().segment_header(piece.segment.life());
            self.dir.ensure_segment(&header, Pace::Hurried).expect("a segment");
        }
        self.disk.write(&self.dir, write, random);
        self.write = None;
        core.written();
        true
    }

    /// Follows the core's lead with the deadlines of leases, and gives those whose time has passed, with the term in which
    /// that was found.
    pub fn expired(&mut self, now: u64) -> (Option<u64>, Vec<i64>) {
        self.follow_lead(now);
        let Some(term) = self.leads() else { return (None, Vec::new()) };
        let due = self.deadlines.due(self.ms(now), limits::LEASE_REVOKES_IN_FLIGHT);
        (if self.has(Planted::KeepsOldDeadlines) { Some(term) } else { self.deadlines.term() }, due)
    }

    /// As a shard follows its member.
    pub fn follow_lead(&mut self, now: u64) {
        let Some(view) = &self.view else { return };
        let leads = match self.leads() {
            Some(_) if self.has(Planted::KeepsOldDeadlines) => Some(1),
            None if self.has(Planted::KeepsOldDeadlines) => return,
            leads => leads,
        };
        let extend_ms = ELECTION_TICKS as u64 * super::TICK_US / 1000;
        match leads {
            Some(_) if leads == self.deadlines.term() => {}
            Some(term) => self.deadlines.promote(term, view.state.leases.iter(), extend_ms, self.ms(now)),
            None => self.deadlines.demote(),
        }
    }

    /// Writes a checkpoint, if there is a state for it and room, and recycles what it makes useless.
    pub fn checkpoint(&mut self) -> bool {
        let capture = self.capture.take_if(|_| !self.disk.full);
        let done = capture.is_some();
        if let Some(capture) = capture {
            self.write_checkpoint(*capture);
            self.recycle_after();
        }
        for segment in std::mem::take(&mut self.retired) {
            if let Recycled::Pinned(segment) = self.dir.recycle(segment, Pace::Hurried).expect("a segment") {
                self.retired.push(segment);
            }
        }
        done
    }

    /// Moves some of the values of a segment that lies before the checkpoint to the log's end, as the work does that gives
    /// space back (raft/space.rs); all of them, and a later checkpoint frees it. Gives how many.
    pub fn repack(&mut self, random: &mut Random) -> u64 {
        let core = self.core.as_mut().expect("a process that runs");
        // One job at a time.
        if core.relocating() || self.exchange.waits || self.exchange.begun.is_some() {
            return 0;
        }
        let index = &core.state().index;
        let before =
            sealed(core.writer()).map(|segment| segment.life()).filter(|life| *life < self.covered.replay_from);
        let lives: Vec<u32> = before.filter(|life| index.usage().of(*life).is_some()).collect();
        if lives.is_empty() {
            return 0;
        }
        let (life, most) = (*random.pick(&lives), random.between(1, 60) as usize);
        let events = index.event_refs(Revision::default(), i64::MAX);
        let live = events.filter(|event| event.meta.place.len > 0 && event.meta.place.segment == life);
        let places: Vec<(Revision, Place)> =
            live.map(|event| (event.meta.revision, event.meta.place)).take(most).collect();
        let read = |(revision, from): (Revision, Place)| {
            Some(MovedValue { revision, from, value: core.writer().table().value(from).ok()? })
        };
        let Some(values) = places.into_iter().map(read).collect::<Option<Vec<MovedValue>>>() else {
            assert!(self.disk.damaged, "a sound disk cannot be read");
            return 0;
        };
        let count = values.len() as u64;
        core.relocate(values);
        count
    }

    pub(super) fn write_checkpoint(&mut self, capture: Capture) {
        let core = self.core.as_ref().expect("a process that runs");
        let Capture { state, hard_state, position, extents } = capture;
        self.dir.ensure_segment(&core.writer().segment_header(position.life), Pace::Hurried).expect("a segment");
        self.covered =
            Covered { applied: state.applied().0, replay_from: position.life, usage: state.index.usage().clone() };
        let head = CheckpointHead { hard_state, position, extents };
        self.dir.write_checkpoint(&state, &head, Pace::Hurried).expect("a checkpoint");
    }

    /// What the last checkpoint has made useless is to be recycled.
    pub(super) fn recycle_after(&mut self) {
        let core = self.core.as_mut().expect("a process that runs");
        self.retired.extend(core.checkpointed(&self.covered));
    }

    /// A bit of what has been written changes. False if there is none that would be noticed.
    pub fn flip(&mut self, random: &mut Random) -> bool {
        let flipped = self.disk.flip(&self.dir, random).is_some();
        self.disk.damaged |= flipped;
        flipped
    }
}
