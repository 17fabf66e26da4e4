//! Gives space back while the member serves: removes what compaction has made obsolete, moves live values out of
//! mostly dead segments, writes checkpoints, recycles what nothing points into any more. One job at a time, in slices;
//! the reading and encoding happen on a background thread.

use std::{
    io,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    core::{Capture, Core},
    driver::Driver,
    segments::io_of,
};
use crate::{
    error::Status,
    limits, log,
    observe::{log::shown, metrics::Stage},
    runtime,
    store::{
        checkpoint::CheckpointHead,
        hash,
        types::{Revision, Values},
        usage::Usage,
    },
    wal::record::MovedValue,
};

pub struct Space {
    driver: Rc<Driver>,
    /// Bytes of the log, ever written, when the last checkpoint was taken.
    logged_at_checkpoint: u64,
    /// The first segment that a restart would read, by the last checkpoint.
    replay_from: u32,
}

impl Space {
    pub fn new(driver: Rc<Driver>) -> Self {
        let logged = driver.logged_bytes();
        Space { driver, logged_at_checkpoint: logged, replay_from: 0 }
    }

    /// Runs until the executor ends.
    pub async fn run(mut self) {
        loop {
            self.driver.space_work().await;
            self.remove_superseded().await;
            if self.driver.core().wants_space() {
                let began = runtime::now();
                self.driver.member().metrics.core.defrag_inflight.set(1);
                let result = self.give_back_all().await.map_err(|cause| Status::internal(cause.to_string()));
                let metrics = &self.driver.member().metrics.core;
                metrics.defrag_inflight.set(0);
                metrics.defrag_duration.observe(runtime::now() - began);
                self.driver.with_core(|core| core.space_given_back(&result));
                continue;
            }
            if let Err(cause) = self.housekeeping().await {
                // The log itself is whole: what fails here is tried again, and a full disk stops the member at the
                // next write of the log.
                log!(Error, "cannot give space back; trying again", "error" = shown(&cause));
                runtime::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn housekeeping(&mut self) -> io::Result<()> {
        if let Some(life) = self.sparsest(1, 2) {
            self.repack(life).await?;
        }
        let logged = self.driver.logged_bytes() - self.logged_at_checkpoint;
        if logged >= limits::CHECKPOINT_LOG_BYTES.max(self.driver.checkpoint_bytes.get()) {
            self.checkpoint().await?;
        }
        self.driver.files.reclaim().await
    }

    /// Compaction's removals, a slice at a time; in a hurry if somebody waits for them.
    async fn remove_superseded(&self) {
        let started = runtime::now();
        self.hash_compactions().await;
        if !self.driver.core().state().index.compacting() {
            return;
        }
        let config = &self.driver.member().config;
        let (batch, pause_ms) = (config.compaction_batch_limit, config.compaction_sleep_interval_ms);
        let metrics = &self.driver.member().metrics.core;
        loop {
            let began = runtime::now();
            let (removed, more) = self.driver.with_core(|core| core.compaction_slice(batch));
            metrics.compaction_keys.add(removed);
            metrics.compaction_pause_ms.observe_value((runtime::now() - began).as_secs_f64() * 1e3);
            if !more {
                break;
            }
            if self.driver.core().somebody_waits_for_compaction() {
                runtime::yield_now().await;
            } else {
                runtime::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        metrics.compaction_total_ms.observe_value((runtime::now() - started).as_secs_f64() * 1e3);
        metrics.compaction_last.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs() as i64));
        let revision = self.driver.core().state().index.compacted();
        log!(
            Info,
            "finished scheduled compaction",
            "compact-revision" = revision,
            "took" = shown(format!("{:?}", started.elapsed()))
        );
    }

    /// The hash at a compaction's own revision is told as of the moment before it, as etcd's is.
    async fn hash_compactions(&self) {
        for (before, revision) in self.driver.with_core(|core| core.take_compactions()) {
            let segments = self.driver.core().writer().table().clone();
            match runtime::background(move || hash::hash_compaction(&before, revision, &segments)).await {
                Ok(hash) => self.driver.member().compaction_hashes.keep(hash),
                Err(cause) => log!(Warn, "cannot hash the store at a compaction", "error" = shown(&cause)),
            }
        }
    }

    /// The sealed segment whose live bytes are the smallest share of what was written to it, if that share is below
    /// `numerator / denominator`. Empty ones need no repacking: a checkpoint frees them.
    fn sparsest(&self, numerator: u64, denominator: u64) -> Option<u32> {
        let core = self.driver.core();
        let usage = core.state().index.usage();
        let sparse = |life: u32, written: u64| {
            // Before the last checkpoint only: the tail is needed for a restart anyhow.
            let live = usage.of(life)?.live_bytes;
            (life < self.replay_from && live * denominator < written * numerator).then_some((live, life))
        };
        sealed(&core).filter_map(|(life, written)| sparse(life, written)).min().map(|(_, life)| life)
    }

    /// Moves everything that lives in a segment to the log's end.
    async fn repack(&self, life: u32) -> io::Result<()> {
        let Some(usage) = self.driver.core().state().index.usage().of(life) else { return Ok(()) };
        let mut from = Revision::new(usage.oldest, 0);
        loop {
            let (index, segments) = {
                let core = self.driver.core();
                (core.state().index.clone(), core.writer().table().clone())
            };
            let through = usage.newest;
            let (values, next) = runtime::background(move || {
                let (mut values, mut bytes) = (Vec::new(), 0);
                for event in index.event_refs(from, through) {
                    let place = event.meta.place;
                    if place.len == 0 || place.segment != life {
                        continue;
                    }
                    if bytes >= limits::REPACK_SLICE_BYTES {
                        return Ok((values, Some(event.meta.revision)));
                    }
                    bytes += place.len as usize + 64;
                    values.push(MovedValue {
                        revision: event.meta.revision,
                        from: place,
                        value: segments.read(place)?,
                    });
                }
                Ok::<_, io::Error>((values, None))
            })
            .await?;
            self.driver.with_core(|core| core.relocate(values));
            while self.driver.core().relocating() {
                self.driver.after_write().await;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Writes a checkpoint and takes out the segments that it and the present state leave without use.
    pub async fn checkpoint(&mut self) -> io::Result<()> {
        let Capture { state, hard_state, position, extents } = *self.driver.next_capture().await;
        let logged = self.driver.logged_bytes();
        let usage: Usage = state.index.usage().clone();
        let (applied, _) = state.applied();
        let replay_from = position.life;
        // A log that has just been rolled over may have nothing of its new segment on disk yet.
        self.driver.files.prepare(position.life).await?;
        let dir = self.driver.files.dir().clone();
        let began = runtime::now();
        let bytes = runtime::background(move || {
            dir.write_checkpoint(&state, &CheckpointHead { hard_state, position, extents })
        })
        .await
        .map_err(io_of)?;
        self.driver.member().metrics.core.stages.observe(Stage::Checkpoint, runtime::now() - began);
        self.logged_at_checkpoint = logged;
        self.replay_from = replay_from;
        self.driver.checkpoint_bytes.set(bytes);
        let files = self.driver.files.clone();
        self.driver.with_core(|core| {
            core.checkpointed(applied);
            // The present state points only where the checkpoint does, or behind it.
            let unused: Vec<u32> = sealed(core)
                .map(|(life, _)| life)
                .filter(|life| *life < replay_from && usage.of(*life).is_none())
                .filter(|life| core.state().index.usage().of(*life).is_none())
                .collect();
            for life in unused {
                files.retire(core.retire(life));
            }
        });
        log!(Info, "wrote a checkpoint", "applied-index" = applied, "bytes" = bytes);
        Ok(())
    }

    /// Defragment: everything that compaction has freed goes back. (etcd API, Maintenance.Defragment.)
    async fn give_back_all(&mut self) -> io::Result<()> {
        while !self.driver.with_core(|core| core.roll()) {
            // Something is always in flight on a busy member: between two writes there is a moment when nothing is.
            self.driver.after_write().await;
        }
        // So that all sealed segments lie before the checkpoint and may be repacked.
        self.checkpoint().await?;
        let mut repacked = false;
        while let Some(life) = self.sparsest(9, 10) {
            self.repack(life).await?;
            repacked = true;
        }
        if repacked {
            self.checkpoint().await?;
        }
        self.driver.files.reclaim().await
    }
}

/// Segments that are not written any more, and the bytes that were written to each.
fn sealed(core: &Core) -> impl Iterator<Item = (u32, u64)> {
    let active = core.writer().active_life();
    core.writer()
        .table()
        .iter()
        .filter(move |segment| segment.life() != active)
        .map(|segment| (segment.life(), u64::from(segment.used())))
}
