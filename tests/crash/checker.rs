//! Holds what clients were told against the history that the server has in the end. Pure: no server, no clock.

use std::collections::{BTreeMap, HashMap};

/// A change of a key as a watch tells it. `value` None: a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: i64,
    pub key: String,
    pub value: Option<String>,
    pub lease: i64,
}

/// What a writer asked for. Values are unique, so that no change can be taken for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Put {
        key: String,
        value: String,
        lease: i64,
    },
    Delete {
        key: String,
    },
    /// Puts, then a delete, in one transaction.
    Txn {
        puts: Vec<(String, String)>,
        delete: String,
    },
    Grant {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub what: What,
    /// None if none came.
    pub answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The revision in its header.
    pub revision: i64,
    /// Whether it says that something was changed. The answer to a revoke does not say.
    pub changed: bool,
}

/// What was checked, for the closing line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acknowledged: usize,
    /// Not acknowledged, and done.
    pub done_unheard: usize,
    /// Not acknowledged, and not done.
    pub not_done: usize,
}

/// The revisions of a history follow each other, none left out, none twice apart.
pub fn contiguous(history: &[Change], first: i64, last: i64) -> Result<(), String> {
    let mut at = first - 1;
    for change in history {
        if change.revision != at && change.revision != at + 1 {
            return Err(format!("revision {} follows {at}", change.revision));
        }
        at = change.revision;
    }
    if at != last { Err(format!("history ends at {at}, the store at {last}")) } else { Ok(()) }
}

/// The keys that lived at a revision.
pub fn replay(history: &[Change], revision: i64) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for change in history.iter().take_while(|change| change.revision <= revision) {
        match &change.value {
            Some(value) => state.insert(change.key.clone(), value.clone()),
            None => state.remove(&change.key),
        };
    }
    state
}

/// A watcher that resumed after every crash saw what there was: nothing missed, nothing twice, in order.
pub fn watched(history: &[Change], prefix: &str, seen: &[Change]) -> Result<(), String> {
    let mut wanted = history.iter().filter(|change| change.key.starts_with(prefix));
    for change in seen {
        match wanted.next() {
            Some(next) if next == change => {}
            Some(next) => return Err(format!("a watch of {prefix:?} saw {change:?} where {next:?} was due")),
            None => return Err(format!("a watch of {prefix:?} saw {change:?} that never was")),
        }
    }
    wanted.next().map_or(Ok(()), |next| Err(format!("a watch of {prefix:?} never saw {next:?}")))
}

/// Explains the changes of one writer's keys by what it asked for, in its order: every acknowledged request at the
/// revision of its answer, every other at most once, and not a change beyond them.
pub fn explain(history: &[Change], prefix: &str, ops: &[Op]) -> Result<Counts, String> {
    let mut groups: Vec<Vec<Change>> = Vec::new();
    for change in history.iter().filter(|change| change.key.starts_with(prefix)) {
        match groups.last_mut() {
            Some(group) if group[0].revision == change.revision => group.push(change.clone()),
            _ => groups.push(vec![change.clone()]),
        }
    }
    // Values and leases of the keys that live.
    let mut state: BTreeMap<String, i64> = BTreeMap::new();
    let mut groups = groups.into_iter().peekable();
    let claimed = claims(ops);
    let mut counts = Counts::default();
    for (at, op) in ops.iter().enumerate() {
        let wanted = effect(&state, &op.what);
        let next = groups.peek().map_or(0, |group| group[0].revision);
        let done = match op.answer {
            Some(Answer { changed: true, .. }) if wanted.is_empty() => {
                return Err(format!("{op:?} of {prefix:?} says it changed what was not there"));
            }
            _ if wanted.is_empty() => {
                counts.acknowledged += usize::from(op.answer.is_some());
                continue;
            }
            Some(Answer { revision, .. }) => {
                counts.acknowledged += 1;
                if next != revision {
                    return Err(format!("{op:?} of {prefix:?} is lost: the next change there is at {next}"));
                }
                true
            }
            // What a later request was told it did is not this one's.
            None => {
                let same = groups.peek().is_some_and(|group| bare(group) == wanted);
                let taken = claimed.get(&next).is_some_and(|owner| *owner > at);
                if same && !taken {
                    counts.done_unheard += 1;
                } else {
                    counts.not_done += 1;
                }
                same && !taken
            }
        };
        if done {
            let group = groups.next().expect("it was looked at");
            if bare(&group) != wanted {
                return Err(format!("{op:?} of {prefix:?} did {group:?}"));
            }
            for change in group {
                match change.value {
                    Some(_) => state.insert(change.key, change.lease),
                    None => state.remove(&change.key),
                };
            }
        }
    }
    groups.next().map_or(Ok(counts), |group| Err(format!("nobody asked for {group:?}")))
}

/// The revisions that answers say were theirs, and whose.
fn claims(ops: &[Op]) -> HashMap<i64, usize> {
    let answered = ops.iter().enumerate().filter_map(|(at, op)| Some((at, op.answer?)));
    answered.filter(|(_, answer)| answer.changed).map(|(at, answer)| (answer.revision, at)).collect()
}

/// Changes without their revision, in the order in which a request makes them.
type Effect = Vec<(String, Option<String>, i64)>;

fn bare(group: &[Change]) -> Effect {
    group.iter().map(|change| (change.key.clone(), change.value.clone(), change.lease)).collect()
}

fn effect(state: &BTreeMap<String, i64>, what: &What) -> Effect {
    let gone = |key: &String| (key.clone(), None, 0);
    match what {
        What::Put { key, value, lease } => vec![(key.clone(), Some(value.clone()), *lease)],
        What::Delete { key } => state.contains_key(key).then(|| gone(key)).into_iter().collect(),
        What::Txn { puts, delete } => {
            let mut all: Effect = puts.iter().map(|(key, value)| (key.clone(), Some(value.clone()), 0)).collect();
            all.extend(state.contains_key(delete).then(|| gone(delete)));
            all
        }
        What::Grant { .. } => vec![],
        What::Revoke { lease } => state.iter().filter(|(_, on)| *on == lease).map(|(key, _)| gone(key)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: i64, key: &str, value: &str) -> Change {
        Change { revision, key: key.into(), value: Some(value.into()), lease: 0 }
    }

    fn gone(revision: i64, key: &str) -> Change {
        Change { revision, key: key.into(), value: None, lease: 0 }
    }

    fn op(what: What, revision: Option<i64>) -> Op {
        let answer = revision.map(|revision| Answer { revision, changed: true });
        Op { what, answer }
    }

    fn unchanged(what: What, revision: i64) -> Op {
        Op { what, answer: Some(Answer { revision, changed: false }) }
    }

    fn asked_put(key: &str, value: &str) -> What {
        What::Put { key: key.into(), value: value.into(), lease: 0 }
    }

    fn asked_delete(key: &str) -> What {
        What::Delete { key: key.into() }
    }

    /// A history without a fault, with one request unheard but done, and one not done.
    fn sound() -> (Vec<Change>, Vec<Op>) {
        let history = vec![
            put(2, "w/a", "1"),
            put(3, "x/other", "0"),
            put(4, "w/a", "2"),
            put(4, "w/b", "2"),
            gone(5, "w/a"),
            put(6, "w/c", "4"),
            Change { lease: 9, ..put(7, "w/d", "6") },
            gone(8, "w/d"),
        ];
        let both = vec![("w/a".into(), "2".into()), ("w/b".into(), "2".into())];
        let ops = vec![
            op(asked_put("w/a", "1"), Some(2)),
            op(What::Txn { puts: both, delete: "w/z".into() }, Some(4)),
            op(asked_delete("w/a"), None),
            op(asked_put("w/c", "4"), Some(6)),
            op(asked_put("w/c", "5"), None),
            unchanged(asked_delete("w/absent"), 6),
            unchanged(What::Grant { lease: 9 }, 6),
            op(What::Put { key: "w/d".into(), value: "6".into(), lease: 9 }, Some(7)),
            unchanged(What::Revoke { lease: 9 }, 8),
        ];
        (history, ops)
    }

    #[test]
    fn a_sound_history_passes() {
        let (history, ops) = sound();
        let counts = Counts { acknowledged: 7, done_unheard: 1, not_done: 1 };
        assert_eq!(explain(&history, "w/", &ops), Ok(counts));
        assert_eq!(contiguous(&history, 2, 8), Ok(()));
        assert_eq!(watched(&history, "", &history), Ok(()));
        assert_eq!(replay(&history, 5).into_keys().collect::<Vec<_>>(), ["w/b", "x/other"]);
    }

    #[test]
    fn every_change_that_is_planted_or_taken_away_is_found() {
        let (history, ops) = sound();
        for at in 0..history.len() {
            if history[at].key.starts_with("w/") && at != 4 {
                let mut lost = history.clone();
                lost.remove(at);
                explain(&lost, "w/", &ops).expect_err(&format!("loss of {:?}", history[at]));
            }
            let mut lost = history.clone();
            lost.remove(at);
            watched(&lost, "", &history).expect_err("a watch saw what is not there");
            watched(&history, "", &lost).expect_err("a watch missed a change");
            let mut twice = history.clone();
            twice.insert(at, history[at].clone());
            watched(&history, "", &twice).expect_err("a watch saw a change twice");
            if history[at].key.starts_with("w/") {
                explain(&twice, "w/", &ops).expect_err("a change made twice");
                let mut again = history.clone();
                again.push(Change { revision: 9, ..history[at].clone() });
                explain(&again, "w/", &ops).expect_err("a change made again later");
            }
            let mut wrong = history.clone();
            wrong[at].value = Some("wrong".into());
            if history[at].key.starts_with("w/") {
                explain(&wrong, "w/", &ops).expect_err("a value that nobody wrote");
            }
        }
        // The delete that nobody heard of need not have been done: without it the rest still explains itself.
        let mut undone = history.clone();
        undone.remove(4);
        assert_eq!(explain(&undone, "w/", &ops).map(|counts| counts.not_done), Ok(2));
    }

    #[test]
    fn gaps_and_ends_are_found() {
        let (history, _) = sound();
        let mut gap = history.clone();
        gap.remove(4);
        assert!(contiguous(&gap, 2, 8).is_err(), "revision 5 is missing");
        assert!(contiguous(&history, 2, 9).is_err(), "the store is ahead of its history");
        assert!(contiguous(&history, 1, 8).is_err(), "history begins late");
        let mut back = history.clone();
        back.push(put(7, "w/a", "again"));
        assert!(contiguous(&back, 2, 7).is_err(), "a revision comes twice");
    }

    #[test]
    fn a_delete_belongs_to_the_request_that_was_told_of_it() {
        let history = [put(2, "w/a", "1"), gone(3, "w/a")];
        let ops = [op(asked_put("w/a", "1"), Some(2)), op(asked_delete("w/a"), None), op(asked_delete("w/a"), Some(3))];
        let counts = Counts { acknowledged: 2, done_unheard: 0, not_done: 1 };
        assert_eq!(explain(&history, "w/", &ops), Ok(counts));
    }

    #[test]
    fn an_answer_that_changed_nothing_claims_no_revision() {
        let history = [put(2, "w/a", "1"), put(3, "w/b", "2")];
        let ops =
            [op(asked_put("w/a", "1"), Some(2)), op(asked_put("w/b", "2"), None), unchanged(asked_delete("w/c"), 3)];
        let counts = Counts { acknowledged: 2, done_unheard: 1, not_done: 0 };
        assert_eq!(explain(&history, "w/", &ops), Ok(counts));
        let lying = [ops[0].clone(), ops[1].clone(), op(asked_delete("w/c"), Some(3))];
        assert!(explain(&history, "w/", &lying).is_err());
    }
}
