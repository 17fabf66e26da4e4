//! Space, as the core sees it: what the background work that gives it back asks of the core. Decides nothing about when
//! or which segment; that is `raft/space.rs`.

use super::*;

impl Core {
    /// The next turn that can hands out a capture.
    pub fn want_capture(&mut self, roll: Roll) {
        self.capture_wanted = Some(0);
        if let Roll::Past(life) = roll {
            self.capture_wanted = Some(life + 1);
            // Later captures neither, though other members may ask for entries that lie before.
            self.marks.retain(|mark| mark.position.life > life);
        }
        self.roll_wanted = roll == Roll::Over;
    }

    /// None is wanted any more; one that has begun a segment has begun it.
    pub fn want_no_capture(&mut self) {
        (self.capture_wanted, self.roll_wanted) = (None, false);
    }

    /// Whether a replay may begin behind a segment now, and a capture with `Roll::Past` need not wait for what is not committed
    /// yet.
    pub fn may_replay_past(&self, life: u32) -> bool {
        let applied = self.state.applied().0;
        self.marks.iter().any(|mark| mark.last_index <= applied && mark.position.life > life)
    }

    /// A checkpoint is durable: of the raft log, what it has applied is no longer needed but for members that are a little
    /// behind; of the segments, those into which neither it, nor the present state, nor the raft log points. They are taken
    /// out of the log and given to the caller, whose files they are to recycle once nobody reads from them.
    ///
    /// Why nothing else can point there: entries behind the checkpoint lie behind its position, the present state
    /// points where the checkpoint does or behind its position, and a replay from the checkpoint does too. Views hold
    /// their segments themselves, and where values of a state that is still to be lie is known (`keeps_from`).
    pub fn checkpointed(&mut self, checkpoint: &Covered) -> Vec<Arc<Segment>> {
        assert!(checkpoint.applied <= self.state.applied().0, "a checkpoint is ahead of the state");
        let until = self.superfluous_until(checkpoint.applied);
        self.node.mut_store().compact(until);
        let usage = self.state.index.usage();
        let covered = |life: u32| checkpoint.usage.of(life).is_some();
        #[cfg(any(test, feature = "sim"))]
        let covered = |life: u32| covered(life) && !self.has(Planted::RecyclesTooEarly);
        let log_from = self.node.store().first_place().map_or(u32::MAX, |place| place.segment);
        let unused: Vec<u32> = sealed(&self.writer)
            .map(|segment| segment.life())
            .filter(|life| *life < checkpoint.replay_from.min(log_from).min(self.keeps_from()))
            .filter(|life| !covered(*life) && usage.of(*life).is_none())
            .collect();
        let mut retired = Vec::with_capacity(unused.len());
        for life in unused {
            let moving = self.in_flight.iter().flat_map(|write| &write.moves).chain(&self.moves_gathering);
            let pending = self.moves_recovered.iter().flat_map(|(_, moves)| moves);
            assert!(moving.chain(pending).all(|one| one.to.segment != life), "values are on their way into {life}");
            retired.push(self.writer.retire(life));
        }
        // Where a write began that had no room in its segment any more nothing of the log lies, and a later checkpoint must not
        // name it all the same as the place to replay from: it would not be there.
        let is_gone = |life: u32| retired.iter().any(|segment| segment.life() == life);
        #[cfg(any(test, feature = "sim"))]
        let is_kept = self.has(Planted::ReplaysFromRecycled);
        #[cfg(any(test, feature = "sim"))]
        let is_gone = |life: u32| is_gone(life) && !is_kept;
        self.marks.retain(|mark| !is_gone(mark.position.life));
        self.dirty |= !retired.is_empty();
        // A table of before would pin what has just been taken out.
        let table = Arc::new(self.writer.table().clone());
        self.node.mut_store().set_values(table);
        retired
    }

    /// Writes values anew at the log's end; once they are durable their events point there. Those whose events have
    /// gone or moved meanwhile are left out.
    pub fn relocate(&mut self, mut values: Vec<MovedValue>) {
        let index = &self.state.index;
        values.retain(|value| index.event(value.revision).is_some_and(|event| event.meta.place == value.from));
        if values.is_empty() {
            return;
        }
        let places: Vec<Place> = self.writer.append_moved(self.state.applied().0, &values);
        let moves = values.iter().zip(places);
        self.moves_gathering.extend(moves.map(|(value, to)| Move { revision: value.revision, from: value.from, to }));
    }

    /// Whether values are still on their way to a new place.
    pub fn relocating(&self) -> bool {
        !self.moves_gathering.is_empty() || self.in_flight.as_ref().is_some_and(|it| !it.moves.is_empty())
    }

    /// Compactions that have been applied since this was last asked.
    pub fn take_compactions(&mut self) -> Vec<Compaction> {
        std::mem::take(&mut self.compactions)
    }

    /// Removes one slice of what compaction has made obsolete. Gives the number of events removed, and whether there
    /// is more.
    pub fn compaction_slice(&mut self, budget: usize) -> (u64, bool) {
        if !self.state.index.compacting() {
            return (0, false);
        }
        self.dirty = true;
        let before = self.state.index.event_count();
        let more = self.state.index.compaction_step(budget, &mut |_| {}) == Progress::More;
        (before - self.state.index.event_count(), more)
    }

    /// Whether somebody waits for compaction's removals to be over.
    pub fn somebody_waits_for_compaction(&self) -> bool {
        !self.compaction_waits.is_empty() || self.wants_space()
    }

    /// Whether somebody waits for space to be given back.
    pub fn wants_space(&self) -> bool {
        !self.defragment_waits.is_empty() || !self.defragmenting.is_empty()
    }

    /// Space begins to be given back for those who wait for it now, if there are any: true then.
    pub fn begin_giving_back(&mut self) -> bool {
        self.defragmenting.append(&mut self.defragment_waits);
        !self.defragmenting.is_empty()
    }

    /// All space that could be given back, when that was begun, has been.
    pub fn space_given_back(&mut self, result: &Result<(), Status>) {
        for caller in std::mem::take(&mut self.defragmenting) {
            let outcome = match result {
                Ok(()) => Outcome::Done,
                Err(status) => Outcome::Failed(status.clone()),
            };
            self.outcomes[caller.shard as usize].push((caller.token, outcome));
        }
    }
}
