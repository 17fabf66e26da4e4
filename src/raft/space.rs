//! Gives space back while the member serves: removes what compaction has made obsolete, moves live values out of
//! mostly dead segments, writes checkpoints, recycles what nothing points into any more. One job at a time, in slices;
//! the reading and encoding happen on a thread for long work.

use std::{
    future::Future,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    core::{Capture, Compaction, Covered, Installing, Roll, sealed},
    driver::{Driver, stop_for},
    install::Waiting,
    segments::io_of,
};
use crate::{
    error::Status,
    limits, log,
    observe::{log::shown, metrics::Stage},
    runtime,
    store::{checkpoint::CheckpointHead, hash, types::Revision, usage::SegmentUse},
    wal::{
        bulk::Pace,
        record::{MOVED_ITEM_BYTES, MovedValue},
        scrub,
        segment::Segment,
    },
};

/// How much of a segment's file its live values may take at most for it to be repacked: this many of `OF`.
#[derive(Clone, Copy)]
struct Share(u64);

const OF: u64 = 100;

/// In the background: half. See `limits::REPACK_BELOW_PERCENT`.
const REPACK_BELOW: Share = Share(limits::REPACK_BELOW_PERCENT);

/// By Defragment, which is asked for to make the store small: what is left is what the end of a segment may waste.
const DEFRAGMENT_BELOW: Share = Share(limits::DEFRAGMENT_BELOW_PERCENT);

pub struct Space {
    driver: Rc<Driver>,
    /// Bytes of the log, ever written, when the last checkpoint was taken.
    logged_at_checkpoint: u64,
    /// The last durable checkpoint.
    covered: Covered,
    /// Segments whose values cannot all be read: the others have been moved, and these are left where they are.
    damaged: Vec<u32>,
    /// Segments in which damage was found, and out of which everything is to be moved.
    leaving: Vec<u32>,
}

/// Values of a segment that cannot be read there, as other members have them; none once that is all, and the segment is to
/// be left.
pub(super) struct Mended {
    life: u32,
    values: Vec<MovedValue>,
    done: oneshot::Sender<()>,
}

/// There is no room for them now.
#[derive(Debug)]
pub(super) struct NotMoved;

impl Mended {
    /// And what tells once their events point at the log's end.
    pub fn new(life: u32, values: Vec<MovedValue>) -> (Self, impl Future<Output = Result<(), NotMoved>>) {
        let (done, is_done) = oneshot::channel();
        (Mended { life, values, done }, async move { is_done.await.map_err(|_gone| NotMoved) })
    }
}

impl Space {
    /// `covered`: of the checkpoint that the member began with.
    pub fn new(driver: Rc<Driver>, covered: Covered) -> Self {
        Space { driver, logged_at_checkpoint: 0, covered, damaged: Vec::new(), leaving: Vec::new() }
    }

    /// Runs until the executor ends.
    pub async fn run(mut self) {
        // What the checkpoint had made superfluous when a former process ended.
        self.retire();
        loop {
            self.driver.space_work().await;
            if let Err(cause) = self.work().await {
                // The log itself is whole: what fails here is tried again, and a full disk stops the member at the
                // next write of the log.
                log!(Error, "cannot give space back; trying again", "error" = shown(&cause));
                runtime::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// The log goes first, unless somebody waits for space.
    fn pace(&self) -> Pace {
        if self.driver.core().wants_space() { Pace::Hurried } else { Pace::Resting }
    }

    /// Does something long that may block, where nobody prompt waits behind it unless somebody waits for space too.
    async fn beside<T: Send + 'static>(&self, pace: Pace, work: impl FnOnce(Pace) -> T + Send + 'static) -> T {
        match pace {
            Pace::Hurried => runtime::background(|| work(Pace::Hurried)).await,
            Pace::Resting => runtime::bulk(|| work(Pace::Resting)).await,
        }
    }

    async fn work(&mut self) -> io::Result<()> {
        self.install().await?;
        self.remove_superseded().await?;
        while self.driver.with_core(|core| core.begin_giving_back()) {
            let began = runtime::now();
            self.driver.member().metrics.core.defrag_inflight.set(1);
            let result = self.give_back_all().await.map_err(|cause| Status::internal(cause.to_string()));
            let metrics = &self.driver.member().metrics.core;
            metrics.defrag_inflight.set(0);
            metrics.defrag_duration.observe(runtime::now() - began);
            self.driver.with_core(|core| core.space_given_back(&result));
            // Those who came meanwhile may have compacted before.
            self.remove_superseded().await?;
        }
        self.checkpoint_if_due().await?;
        self.leave_damaged().await?;
        while let Some(life) = self.sparsest(REPACK_BELOW) {
            self.repack(life).await?;
            self.checkpoint_if_due().await?;
            let core = self.driver.core();
            if core.wants_space() || core.state().index.compacting() {
                drop(core);
                self.driver.kick_space();
                break;
            }
        }
        self.driver.files.reclaim(self.pace()).await
    }

    /// Compaction's removals, a slice at a time; in a hurry if somebody waits for them.
    async fn remove_superseded(&mut self) -> io::Result<()> {
        let started = runtime::now();
        self.hash_compactions().await;
        if !self.driver.core().state().index.compacting() {
            return Ok(());
        }
        let config = &self.driver.member().config;
        let (batch, pause_ms) = (config.compaction_batch_limit, config.compaction_sleep_interval_ms);
        loop {
            if !self.remove_batch(batch).await {
                break;
            }
            if !self.driver.core().somebody_waits_for_compaction() {
                runtime::sleep(Duration::from_millis(pause_ms)).await;
            }
            // A long one must not hold checkpoints up: the log goes on growing.
            self.checkpoint_if_due().await?;
        }
        let metrics = &self.driver.member().metrics.core;
        metrics.compaction_total_ms.observe_value((runtime::now() - started).as_secs_f64() * 1e3);
        metrics.compaction_last.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs() as i64));
        let revision = self.driver.core().state().index.compacted();
        log!(
            Info,
            "finished scheduled compaction",
            "compact-revision" = revision,
            "took" = shown(format!("{:?}", started.elapsed()))
        );
        Ok(())
    }

    /// Looks at a batch of events in parts, so that requests need not wait for a whole one. False once compaction is done.
    async fn remove_batch(&self, batch: usize) -> bool {
        let metrics = &self.driver.member().metrics.core;
        let mut left = batch;
        loop {
            let began = runtime::now();
            let part = left.min(limits::COMPACTION_SLICE_EVENTS);
            let (removed, more) = self.driver.with_core(|core| core.compaction_slice(part));
            metrics.compaction_keys.add(removed);
            metrics.compaction_pause_ms.observe_value((runtime::now() - began).as_secs_f64() * 1e3);
            left -= part;
            if !more {
                return false;
            }
            match self.pace() {
                Pace::Hurried => runtime::yield_now().await,
                // As long as it took: half of the core is the requests'.
                Pace::Resting => runtime::sleep(runtime::recent() - began).await,
            }
            if left == 0 {
                return true;
            }
        }
    }

    /// The hash at a compaction's own revision is told as of the moment before it, as etcd's is.
    async fn hash_compactions(&self) {
        for Compaction { before, revision, segments } in self.driver.with_core(|core| core.take_compactions()) {
            match runtime::bulk(move || hash::hash_compaction(&before, revision, &segments)).await {
                Ok(hash) => self.driver.member().compaction_hashes.keep(hash),
                Err(cause) => log!(Warn, "cannot hash the store at a compaction", "error" = shown(&cause)),
            }
        }
    }

    /// The sealed segment whose live values would take the fewest bytes elsewhere, if those are a small enough share
    /// of its file. Empty ones need no repacking: a checkpoint frees them.
    fn sparsest(&self, below: Share) -> Option<u32> {
        let core = self.driver.core();
        let usage = core.state().index.usage();
        sealed(core.writer())
            // Before the last checkpoint only: the tail is needed for a restart anyhow.
            .filter(|segment| segment.life() < self.covered.replay_from)
            .filter(|segment| !self.damaged.contains(&segment.life()))
            .filter_map(|segment| {
                let moved = moved_bytes(&usage.of(segment.life())?);
                is_sparse(moved, segment, below).then_some((moved, segment.life()))
            })
            .min()
            .map(|(_, life)| life)
    }

    /// Moves everything that lives in a segment to the log's end, but for what is not what was written.
    async fn repack(&mut self, life: u32) -> io::Result<()> {
        let (usage, segment, seed) = {
            let core = self.driver.core();
            let (usage, segment) = (core.state().index.usage().of(life), core.writer().table().get(life));
            let (Some(usage), Some(segment)) = (usage, segment) else { return Ok(()) };
            (usage, (segment.size(), segment.used()), segment.seed())
        };
        let dir = self.driver.files.dir().clone();
        // Read whole: what was damaged since it was written must not get a checksum of its own.
        let (bytes, findings) = self
            .beside(self.pace(), move |pace| {
                let bytes = Bytes::from(dir.read_segment_at(life, pace)?);
                let (size, used) = segment;
                let findings = Arc::new(scrub::check(&bytes, life, size, seed, Some(used)));
                Ok((bytes, findings))
            })
            .await
            .map_err(io_of)?;
        let mut unsound = 0;
        let mut from = Revision::new(usage.oldest, 0);
        loop {
            let (index, bytes) = (self.driver.core().state().index.clone(), bytes.clone());
            let findings = findings.clone();
            let slice = self
                .beside(self.pace(), move |_| {
                    let mut slice = Slice::default();
                    for event in index.event_refs(from, usage.newest) {
                        let place = event.meta.place;
                        if place.len == 0 || place.segment != life {
                            continue;
                        }
                        if slice.bytes >= limits::REPACK_SLICE_BYTES {
                            slice.next = Some(event.meta.revision);
                            return slice;
                        }
                        if !findings.vouch_for(place) {
                            slice.unsound += 1;
                            continue;
                        }
                        let end = place.offset + place.len;
                        slice.bytes += place.len as usize + MOVED_ITEM_BYTES;
                        slice.values.push(MovedValue {
                            revision: event.meta.revision,
                            from: place,
                            value: bytes.slice(place.offset as usize..end as usize),
                        });
                    }
                    slice
                })
                .await;
            unsound += slice.unsound;
            self.move_all(slice.values).await?;
            match slice.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if unsound > 0 {
            log!(
                Error,
                "a segment of the log is damaged; values in damaged records are left where they are until another member \
                 gives them",
                "file" = shown(self.driver.files.dir().segment_path(life).display()),
                "values" = unsound
            );
            self.damaged.push(life);
            self.driver.core().writer().table().doubts().tell(life);
        }
        Ok(())
    }

    /// A part of them at a time.
    async fn move_all(&self, values: Vec<MovedValue>) -> io::Result<()> {
        let mut values = values.into_iter();
        while values.len() > 0 {
            self.prepare_next_segment().await?;
            let at_once = match self.pace() {
                Pace::Resting => limits::REPACK_SLICE_VALUES,
                Pace::Hurried => limits::REPACK_SLICE_VALUES_HURRIED,
            };
            self.move_values(values.by_ref().take(at_once).collect()).await;
        }
        Ok(())
    }

    /// Writes what other members had anew.
    async fn move_mended(&mut self) -> io::Result<()> {
        while let Some(Mended { life, values, done }) = self.driver.take_mended() {
            match values.is_empty() {
                true if !self.leaving.contains(&life) => self.leaving.push(life),
                true => {}
                false => {
                    self.move_all(values).await?;
                    self.damaged.retain(|damaged| *damaged != life);
                }
            }
            // Nobody may wait any more.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Sees to it that nothing depends on segments in which damage was found: a restart begins behind them, and what can be
    /// read of them is moved elsewhere.
    async fn leave_damaged(&mut self) -> io::Result<()> {
        let mut postponed = Vec::new();
        while let Some(life) = self.leaving.last().copied() {
            if life < self.covered.replay_from {
                self.repack(life).await?;
            } else if self.driver.core().may_replay_past(life) {
                self.checkpoint(Roll::Past(life)).await?;
                continue;
            } else {
                postponed.push(life);
            }
            self.leaving.retain(|left| *left != life);
        }
        self.leaving = postponed;
        Ok(())
    }

    /// The segment in which the log may have to go on for what is about to be written must be there first: where there is
    /// no room for it this job fails, and not the next write of the log, which would end the member.
    async fn prepare_next_segment(&self) -> io::Result<()> {
        let active = self.driver.core().writer().active_life();
        self.driver.files.prepare(active + 1).await
    }

    /// Writes values anew and waits until their events point there.
    async fn move_values(&self, values: Vec<MovedValue>) {
        let (count, bytes) = (values.len(), values.iter().map(|it| it.value.len() + MOVED_ITEM_BYTES).sum());
        self.driver.with_core(|core| core.relocate(values));
        while self.driver.core().relocating() {
            self.driver.after_write().await;
        }
        if !self.driver.core().wants_space() {
            runtime::sleep(pause_after(bytes, count)).await;
        }
    }

    /// A checkpoint, if so much was logged that a restart would take long, or so much lies unused that it is worth it.
    /// Between two jobs, so also the place for a state that has come from another member.
    async fn checkpoint_if_due(&mut self) -> io::Result<()> {
        self.install().await?;
        self.move_mended().await?;
        let due = self.checkpoint_due();
        if self.logged_since() >= due || self.unused_bytes() >= due {
            self.checkpoint(Roll::No).await?;
        }
        Ok(())
    }

    /// Bytes of log that a restart would read, or so many lying unused, that make a checkpoint worth it.
    fn checkpoint_due(&self) -> u64 {
        limits::CHECKPOINT_LOG_BYTES.max(self.driver.checkpoint_bytes.get())
    }

    /// Bytes of log since the last checkpoint.
    fn logged_since(&self) -> u64 {
        self.driver.logged_bytes() - self.logged_at_checkpoint
    }

    /// Bytes of segments into which no value points.
    fn unused_bytes(&self) -> u64 {
        let core = self.driver.core();
        let (usage, kept) = (core.state().index.usage(), core.keeps_from());
        let unused = sealed(core.writer())
            .filter(|segment| segment.life() < kept)
            .filter(|segment| usage.of(segment.life()).is_none());
        unused.map(|segment| u64::from(segment.size())).sum()
    }

    /// Writes a checkpoint and takes out the segments that it and the present state leave without use.
    async fn checkpoint(&mut self, roll: Roll) -> io::Result<()> {
        let Capture { state, hard_state, position, extents } = loop {
            match self.driver.next_capture(roll).await {
                Some(capture) => break *capture,
                None => self.install().await?,
            }
        };
        let logged = self.driver.logged_bytes();
        let (applied, _) = state.applied();
        let covered = Covered { applied, replay_from: position.life, usage: state.index.usage().clone() };
        // A log that has just been rolled over may have nothing of its new segment on disk yet.
        self.driver.files.prepare(position.life).await?;
        let dir = self.driver.files.dir().clone();
        let began = runtime::now();
        // A member that never gets to the end of one, as it dies before, would have more to read at each start.
        let pace = match self.logged_since() >= limits::CHECKPOINT_OVERDUE * self.checkpoint_due() {
            true => Pace::Hurried,
            false => self.pace(),
        };
        let bytes = self
            .beside(pace, move |pace| {
                dir.write_checkpoint(&state, &CheckpointHead { hard_state, position, extents }, pace)
            })
            .await
            .map_err(io_of)?;
        self.driver.member().metrics.core.stages.observe(Stage::Checkpoint, runtime::now() - began);
        self.logged_at_checkpoint = logged;
        self.covered = covered;
        self.driver.checkpoint_bytes.set(bytes);
        self.retire();
        log!(Info, "wrote a checkpoint", "applied-index" = applied, "bytes" = bytes);
        Ok(())
    }

    /// Makes a state that has come from another member this member's own, if there is one. In a hurry: until its checkpoint
    /// is durable nothing is written to the log.
    async fn install(&mut self) -> io::Result<()> {
        if !self.driver.has_waiting_install() {
            return Ok(());
        }
        self.prepare_next_segment().await?;
        let Some(Waiting { incoming, done }) = self.driver.take_waiting_install() else { return Ok(()) };
        self.driver.with_core(|core| core.install(incoming));
        if let Installing::Begun(capture) = self.driver.next_installing().await {
            let Capture { state, hard_state, position, extents } = *capture;
            let (applied, revision) = (state.applied().0, state.index.current());
            let covered = Covered { applied, replay_from: position.life, usage: state.index.usage().clone() };
            let dir = self.driver.files.dir().clone();
            self.driver.files.prepare(position.life).await.unwrap_or_else(|cause| cannot_install(&cause));
            let written = self.beside(Pace::Hurried, move |pace| {
                dir.write_checkpoint(&state, &CheckpointHead { hard_state, position, extents }, pace).map_err(io_of)
            });
            let bytes = written.await.unwrap_or_else(|cause| cannot_install(&cause));
            self.logged_at_checkpoint = self.driver.logged_bytes();
            self.covered = covered;
            self.driver.checkpoint_bytes.set(bytes);
            self.driver.with_core(|core| core.installed());
            self.driver.turn();
            self.retire();
            log!(
                Info,
                "applied snapshot",
                "applied-index" = applied,
                "revision" = revision,
                "checkpoint-bytes" = bytes
            );
        }
        // Nobody may wait any more.
        let _ = done.send(());
        Ok(())
    }

    fn retire(&self) {
        for segment in self.driver.with_core(|core| core.checkpointed(&self.covered)) {
            self.driver.files.retire(segment);
        }
        // The view that is published must not be what pins them.
        self.driver.turn();
    }

    /// Defragment: everything that compaction has freed goes back. (etcd API, Maintenance.Defragment.)
    async fn give_back_all(&mut self) -> io::Result<()> {
        self.prepare_next_segment().await?;
        // So that all that was written so far lies before the checkpoint and may be repacked.
        self.checkpoint(Roll::Over).await?;
        let mut repacked = false;
        while let Some(life) = self.sparsest(DEFRAGMENT_BELOW) {
            self.repack(life).await?;
            repacked = true;
        }
        if repacked {
            self.checkpoint(Roll::No).await?;
        }
        self.driver.files.reclaim(self.pace()).await
    }
}

/// Raft has taken the snapshot, and this member's disk has not: it goes on from the disk.
fn cannot_install(cause: &io::Error) -> ! {
    let what =
        "a state that came from another member cannot be written; the member stops, nothing acknowledged is lost";
    stop_for(cause, what, "free space or mend the disk, then start again");
}

/// How long repacking rests after it has moved values: by what it has taken of the disk or of the core, whichever is more.
fn pause_after(bytes: usize, values: usize) -> Duration {
    let full = Duration::from_millis(limits::REPACK_PAUSE_MS);
    let of_disk = full.mul_f64(bytes as f64 / limits::REPACK_SLICE_BYTES as f64);
    // As long as the core was held up: half of it is the others'.
    let of_core = Duration::from_micros(4 * values as u64);
    of_disk.max(of_core)
}

/// Values that are moved in one write.
#[derive(Default)]
struct Slice {
    values: Vec<MovedValue>,
    bytes: usize,
    /// Values that are not what was written.
    unsound: u64,
    /// Where to go on.
    next: Option<Revision>,
}

/// What a segment's live values take where they are moved to: more than their bytes, or small values would look sparse
/// however densely they lie, and be moved for ever.
fn moved_bytes(usage: &SegmentUse) -> u64 {
    usage.live_bytes + usage.values * MOVED_ITEM_BYTES as u64
}

/// Against the file, not what is written of it: the whole of it is given back.
fn is_sparse(moved: u64, segment: &Segment, below: Share) -> bool {
    moved * OF < u64::from(segment.size()) * below.0
}
