//! What has changed in a range since a revision, found by key: the cost is that of the answer, not that of the history
//! since. For watches that are behind, most of which want few of the events they are behind by, or none.

use super::{
    super::{
        codec,
        tree::Step,
        types::{KeyRange, Revision},
    },
    Index, KeySummary,
};

impl Index {
    /// The revisions of the events of `range` from main revision `from` on, in order; None if they are more than
    /// `most`. O(log n) for each of them and for each key they change. `from` must not lie below what is compacted.
    pub fn changes(&self, range: KeyRange<'_>, from: i64, most: usize) -> Option<Vec<Revision>> {
        debug_assert!(from >= self.compacted, "events from {from} on are asked for, compacted is {}", self.compacted);
        let mut found = Vec::new();
        // False once there are too many.
        let mut history = |newest: Revision| {
            let mut next = Some(newest);
            while let Some(revision) = next.filter(|revision| revision.main >= from) {
                // None: superseded within the very revision that is compacted to.
                let Some(event) = self.event_ref(revision) else { break };
                if found.len() == most {
                    return false;
                }
                found.push(revision);
                next = event.link.map(|link| link.prev);
            }
            true
        };
        let mut complete = true;
        let (start, end) = match range {
            KeyRange::One(key) => {
                if let Some(value) = self.keys.get(key) {
                    complete = history(codec::key(value).revision);
                }
                return sorted(found, complete);
            }
            KeyRange::Between(start, end) => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        self.keys.descend(
            start,
            end,
            &mut |summary: KeySummary| if summary.newest < from { Step::Skip } else { Step::Enter },
            &mut |_, value| {
                complete = history(codec::key(value).revision);
                complete
            },
        );
        sorted(found, complete)
    }
}

fn sorted(mut found: Vec<Revision>, complete: bool) -> Option<Vec<Revision>> {
    found.sort_unstable();
    complete.then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::types::Place;

    proptest! {
        #[test]
        fn changes_by_key_are_the_events_by_revision(
            ops in prop::collection::vec((0u8..12, any::<bool>()), 1..80),
            compact in 0i64..60,
            from in 0i64..90,
            range in (0u8..13, 0u8..14),
            most in 0usize..40,
        ) {
            let mut index = Index::new();
            for (key, put) in ops {
                let revision = Revision::new(index.current() + 1, 0);
                let changed = if put {
                    index.put(revision, &[key], 0, Place::EMPTY);
                    true
                } else {
                    index.delete(revision, &[key]).is_some()
                };
                if changed {
                    index.set_current(revision.main);
                }
            }
            if compact > 0 && index.begin_compaction(compact).is_ok() {
                while index.compacting() {
                    index.compaction_step(7, &mut |_| {});
                }
            }
            let from = from.max(index.compacted());
            let (start, end) = ([range.0], [range.1]);
            let range = match range.1 {
                0 => KeyRange::One(&start),
                13 => KeyRange::From(&start),
                _ => KeyRange::Between(&start, &end),
            };
            let wanted: Vec<Revision> = index
                .event_refs(Revision::new(from, 0), i64::MAX)
                .filter(|event| range.contains(event.key))
                .map(|event| event.meta.revision)
                .collect();
            let wanted = (wanted.len() <= most).then_some(wanted);
            prop_assert_eq!(index.changes(range, from, most), wanted);
        }
    }
}
