//! Holds what clients were told against the one history that there is. Pure: no server, no clock but the times it is given.
//!
//! etcd's answers carry the store's revision, so nothing has to be searched for: an answer's revision is its place in the
//! order of all operations. Each write stands at its revision, each read behind the write of its revision. The history is
//! linearizable if every answer is what the state at its place gives, and if places never go back in time: who asks after
//! another was answered comes behind it, and nobody is told of what has not been asked for yet.
//! (etcd, API guarantees: "KV API guarantees", strict serializability.)

use std::collections::{BTreeMap, HashMap};

/// Microseconds since the run began, of one clock for all.
pub type Micros = u64;

/// A key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub value: String,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// A change of a key as a watch tells it. None: a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: i64,
    pub key: String,
    pub now: Option<Kv>,
}

/// Values are unique, so that no write can be taken for another.
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
    Get {
        key: String,
    },
    /// A serializable read: any state that there was, but a whole one.
    Stale {
        key: String,
    },
    /// All keys with this prefix.
    List {
        prefix: String,
    },
    /// A transaction: if the key's revision is `expected`, put it and delete another; else read it.
    Swap {
        key: String,
        expected: i64,
        value: String,
        delete: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub at: Micros,
    /// Of its header.
    pub revision: i64,
    /// Whether it says that something was changed.
    pub changed: bool,
    /// What it found, of those that look.
    pub found: Vec<(String, Kv)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub what: What,
    pub asked: Micros,
    /// None: nobody knows whether it was done, or will be.
    pub answer: Option<Answer>,
}

/// A lease with one key, and until when it was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    pub key: String,
    /// When each grant or keep-alive that was answered was asked for, and for how long it was promised then.
    pub promises: Vec<(Micros, Micros)>,
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: usize,
    pub reads: usize,
    pub stale_reads: usize,
    pub unknown: usize,
    pub unknown_done: usize,
    pub revisions: i64,
}

/// Every state of every key.
pub struct History {
    changes: Vec<Change>,
    keys: BTreeMap<String, Vec<(i64, Option<Kv>)>>,
    /// The revision that each value was written at.
    written: HashMap<String, i64>,
    last: i64,
}

impl History {
    /// Of a watch of everything from the first revision on.
    ///
    /// # Errors
    /// What is wrong with it by itself: revisions left out or twice, keys whose counts do not follow from their changes.
    pub fn new(changes: &[Change]) -> Result<Self, String> {
        let mut keys: BTreeMap<String, Vec<(i64, Option<Kv>)>> = BTreeMap::new();
        let mut written = HashMap::new();
        let mut at = 1;
        for change in changes {
            if change.revision != at + 1 && !(change.revision == at && at > 1) {
                return Err(format!("revision {} follows {at}", change.revision));
            }
            at = change.revision;
            let states = keys.entry(change.key.clone()).or_default();
            let before = states.last().and_then(|(_, kv)| kv.as_ref());
            if states.last().is_some_and(|(revision, _)| *revision == at) {
                return Err(format!("{:?} changes twice at {at}", change.key));
            }
            match &change.now {
                None if before.is_none() => return Err(format!("{change:?}: it was not there")),
                None => {}
                Some(kv) => {
                    let (created, version) = before.map_or((at, 1), |kv| (kv.created, kv.version + 1));
                    if (kv.created, kv.modified, kv.version) != (created, at, version) {
                        return Err(format!("{change:?}: created at {created}, version {version} were due"));
                    }
                    if let Some(other) = written.insert(kv.value.clone(), at) {
                        return Err(format!("{:?} is written twice, at {other} and at {at}", kv.value));
                    }
                }
            }
            states.push((at, change.now.clone()));
        }
        Ok(History { changes: changes.to_vec(), keys, written, last: at })
    }

    pub fn last(&self) -> i64 {
        self.last
    }

    /// A key's state at a revision.
    pub fn at(&self, key: &str, revision: i64) -> Option<&Kv> {
        let states = self.keys.get(key)?;
        let after = states.partition_point(|(at, _)| *at <= revision);
        states[..after].last()?.1.as_ref()
    }

    /// All keys with a prefix, in order.
    pub fn list(&self, prefix: &str, revision: i64) -> Vec<(String, Kv)> {
        let keys = self.keys.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        keys.filter_map(|(key, _)| Some((key.clone(), self.at(key, revision)?.clone()))).collect()
    }

    /// What happened at a revision.
    fn group(&self, revision: i64) -> &[Change] {
        let from = self.changes.partition_point(|change| change.revision < revision);
        let to = self.changes.partition_point(|change| change.revision <= revision);
        &self.changes[from..to]
    }
}

/// What every member's watch saw is what happened: all of it, once, in order. `seen` may stand behind nothing.
pub fn watched(history: &History, who: &str, seen: &[Change]) -> Result<(), String> {
    let mut due = history.changes.iter();
    for change in seen {
        match due.next() {
            Some(next) if next == change => {}
            next => return Err(format!("{who}: its watch saw {change:?} where {next:?} was due")),
        }
    }
    due.next().map_or(Ok(()), |next| Err(format!("{who}: its watch never saw {next:?}")))
}

/// Every operation has its place in the history, and every change somebody who asked for it. `seen`: revisions that watches
/// told of, and when. Gives all that is wrong.
pub fn check(history: &History, ops: &[Op], leases: &[Lease], seen: &[(Micros, i64)]) -> Result<Counts, Vec<String>> {
    let mut judge = Judge { history, wrong: Vec::new(), made: HashMap::new(), counts: Counts::default() };
    let floors = floors(ops, seen);
    for (at, (op, floor)) in ops.iter().zip(&floors).enumerate() {
        judge.place(at, op, *floor);
    }
    judge.deletes(ops, &floors, leases);
    judge.nothing_from_the_future(ops, seen);
    judge.leases(leases, seen);
    judge.counts.revisions = history.last;
    if judge.wrong.is_empty() { Ok(judge.counts) } else { Err(judge.wrong) }
}

/// For each operation the highest revision that anybody had been told of before it was asked for.
fn floors(ops: &[Op], seen: &[(Micros, i64)]) -> Vec<i64> {
    let answers = ops.iter().filter_map(|op| op.answer.as_ref()).map(|answer| (answer.at, answer.revision));
    let mut told: Vec<(Micros, i64)> = answers.chain(seen.iter().copied()).collect();
    told.sort_unstable();
    let mut order: Vec<usize> = (0..ops.len()).collect();
    order.sort_unstable_by_key(|at| ops[*at].asked);
    let mut floors = vec![0; ops.len()];
    let (mut next, mut highest) = (0, 0);
    for at in order {
        while next < told.len() && told[next].0 < ops[at].asked {
            highest = highest.max(told[next].1);
            next += 1;
        }
        floors[at] = highest;
    }
    floors
}

struct Judge<'a> {
    history: &'a History,
    wrong: Vec<String>,
    /// Revisions whose maker is known.
    made: HashMap<i64, usize>,
    counts: Counts,
}

impl Judge<'_> {
    fn place(&mut self, number: usize, op: &Op, floor: i64) {
        let Some(answer) = &op.answer else {
            self.counts.unknown += 1;
            if let What::Put { value, .. } | What::Swap { value, .. } = &op.what
                && let Some(&revision) = self.history.written.get(value)
            {
                self.counts.unknown_done += 1;
                self.written(number, op, revision, floor);
            }
            return;
        };
        let revision = answer.revision;
        if revision > self.history.last {
            return self.say(op, format!("it is at {revision}, and the history ends at {}", self.history.last));
        }
        if answer.changed {
            self.counts.writes += 1;
            return self.written(number, op, revision, floor);
        }
        let is_stale = matches!(op.what, What::Stale { .. });
        match is_stale {
            true => self.counts.stale_reads += 1,
            false => self.counts.reads += 1,
        }
        if revision < floor && !is_stale {
            self.say(op, format!("it is at {revision}, and {floor} had been told of before it was asked for"));
        }
        let one = |key: &str| self.history.at(key, revision).map(|kv| (key.to_owned(), kv.clone()));
        let due = match &op.what {
            What::Get { key } | What::Stale { key } => one(key).into_iter().collect(),
            What::List { prefix } => self.history.list(prefix, revision),
            What::Swap { key, expected, .. } => {
                let found: Vec<_> = one(key).into_iter().collect();
                if found.first().map_or(0, |(_, kv)| kv.modified) == *expected {
                    self.say(op, format!("{key:?} was as expected"));
                }
                found
            }
            What::Delete { key } => {
                if let Some((_, kv)) = one(key) {
                    self.say(op, format!("there was {kv:?} to be deleted"));
                }
                Vec::new()
            }
            What::Put { .. } => return self.say(op, "a put always changes something".to_owned()),
        };
        if due != answer.found {
            self.say(op, format!("at {revision} there was {due:?}"));
        }
    }

    /// A write that stands at a revision.
    fn written(&mut self, number: usize, op: &Op, revision: i64, floor: i64) {
        if revision <= floor {
            self.say(op, format!("it stands at {revision}, and {floor} had been told of before it was asked for"));
        }
        if let Some(other) = self.made.insert(revision, number) {
            self.say(op, format!("it stands at {revision}, where operation {other} stands"));
        }
        let there = |key: &str| self.history.at(key, revision - 1);
        let mut due: Vec<(&str, Option<(&str, i64)>)> = Vec::new();
        match &op.what {
            What::Put { key, value, lease } => due.push((key, Some((value, *lease)))),
            What::Delete { key } => due.push((key, None)),
            What::Swap { key, expected, value, delete } => {
                if there(key).map_or(0, |kv| kv.modified) != *expected {
                    self.say(op, format!("before {revision} there was {:?}", there(key)));
                }
                due.push((key, Some((value, 0))));
                due.extend(delete.as_ref().filter(|key| there(key).is_some()).map(|key| (key.as_str(), None)));
            }
            What::Get { .. } | What::Stale { .. } | What::List { .. } => {
                return self.say(op, "a read that changes something".to_owned());
            }
        }
        let group = self.history.group(revision);
        let mut was: Vec<_> = group
            .iter()
            .map(|change| (change.key.as_str(), change.now.as_ref().map(|kv| (kv.value.as_str(), kv.lease))))
            .collect();
        was.sort_unstable();
        due.sort_unstable();
        if was != due {
            let text = format!("it is lost or another: at {revision} there is {group:?}");
            self.say(op, text);
        }
    }

    /// Changes that no answer and no value has explained: deletes of whose end nobody heard, and those of leases.
    fn deletes(&mut self, ops: &[Op], floors: &[i64], leases: &[Lease]) {
        let mut unheard: HashMap<&str, Vec<i64>> = HashMap::new();
        for (op, floor) in ops.iter().zip(floors) {
            if let (What::Delete { key }, None) = (&op.what, &op.answer) {
                unheard.entry(key).or_default().push(*floor);
            }
        }
        unheard.values_mut().for_each(|floors| floors.sort_unstable_by(|one, other| other.cmp(one)));
        let leased: HashMap<&str, i64> = leases.iter().map(|lease| (lease.key.as_str(), lease.id)).collect();
        let mut wrong = Vec::new();
        for change in &self.history.changes {
            if self.made.contains_key(&change.revision) {
                continue;
            }
            let of_lease = leased.contains_key(change.key.as_str());
            let mut of_somebody = || {
                let floors = unheard.get_mut(change.key.as_str())?;
                // The lowest floor is the last; the earliest delete may have any that is below it.
                floors.last().is_some_and(|floor| *floor < change.revision).then(|| floors.pop())
            };
            if change.now.is_some() || (!of_lease && of_somebody().is_none()) {
                wrong.push(format!("nobody asked for {change:?}"));
            } else if !of_lease {
                self.counts.unknown_done += 1;
            }
        }
        self.wrong.extend(wrong);
    }

    /// Whatever an answer or a watch tells of had been asked for by then.
    fn nothing_from_the_future(&mut self, ops: &[Op], seen: &[(Micros, i64)]) {
        let mut asked = vec![0; self.history.last as usize + 1];
        for (revision, op) in &self.made {
            if let Some(place) = asked.get_mut(*revision as usize) {
                *place = ops[*op].asked;
            }
        }
        for at in 1..asked.len() {
            asked[at] = asked[at].max(asked[at - 1]);
        }
        let answers = ops.iter().filter_map(|op| op.answer.as_ref()).map(|answer| (answer.at, answer.revision));
        for (at, revision) in answers.chain(seen.iter().copied()) {
            if asked.get(revision as usize).is_some_and(|asked| *asked > at) {
                self.wrong.push(format!("revision {revision} was told of at {at} µs, before it was asked for"));
            }
        }
    }

    /// No key goes before its lease's time. When it went is known by who saw it first.
    fn leases(&mut self, leases: &[Lease], seen: &[(Micros, i64)]) {
        let mut first: HashMap<i64, Micros> = HashMap::new();
        for (at, revision) in seen {
            first.entry(*revision).and_modify(|first| *first = (*first).min(*at)).or_insert(*at);
        }
        for lease in leases {
            let states = self.history.keys.get(&lease.key).map_or(&[][..], Vec::as_slice);
            let Some((gone, _)) = states.iter().find(|(_, kv)| kv.is_none()) else { continue };
            let Some(at) = first.get(gone) else { continue };
            for (asked, long) in &lease.promises {
                if *at < asked + long {
                    self.wrong.push(format!(
                        "{:?} of lease {} went at {at} µs (revision {gone}); asked for at {asked} µs it was promised {long} µs",
                        lease.key, lease.id
                    ));
                }
            }
        }
    }

    fn say(&mut self, op: &Op, what: String) {
        self.wrong.push(format!("{op:?}: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &str, created: i64, modified: i64, version: i64) -> Kv {
        Kv { value: value.into(), created, modified, version, lease: 0 }
    }

    fn put(key: &str, kv: Kv) -> Change {
        Change { revision: kv.modified, key: key.into(), now: Some(kv) }
    }

    fn gone(revision: i64, key: &str) -> Change {
        Change { revision, key: key.into(), now: None }
    }

    fn history() -> Vec<Change> {
        vec![
            put("a", kv("1", 2, 2, 1)),
            put("b", kv("2", 3, 3, 1)),
            put("a", kv("3", 2, 4, 2)),
            gone(4, "b"),
            gone(5, "a"),
            put("l", Kv { lease: 7, ..kv("4", 6, 6, 1) }),
            gone(7, "l"),
        ]
    }

    /// When an answer came, its revision, whether it succeeded, and what it read.
    type Came = (Micros, i64, bool, Vec<(String, Kv)>);

    fn op(asked: Micros, what: What, answer: Option<Came>) -> Op {
        let answer = answer.map(|(at, revision, changed, found)| Answer { at, revision, changed, found });
        Op { what, asked, answer }
    }

    fn asked_put(key: &str, value: &str, lease: i64) -> What {
        What::Put { key: key.into(), value: value.into(), lease }
    }

    fn swap(expected: i64, value: &str) -> What {
        What::Swap { key: "a".into(), expected, value: value.into(), delete: Some("b".into()) }
    }

    /// With a put and a delete that nobody heard of and that were done, and a transaction that was not.
    fn ops() -> Vec<Op> {
        let a = |kv| vec![("a".to_owned(), kv)];
        vec![
            op(10, asked_put("a", "1", 0), Some((20, 2, true, vec![]))),
            op(15, asked_put("b", "2", 0), None),
            op(30, What::Get { key: "a".into() }, Some((40, 2, false, a(kv("1", 2, 2, 1))))),
            op(50, swap(2, "3"), Some((60, 4, true, vec![]))),
            op(61, swap(2, "x"), Some((70, 4, false, a(kv("3", 2, 4, 2))))),
            op(62, swap(4, "y"), None),
            op(71, What::Delete { key: "a".into() }, None),
            op(80, What::Delete { key: "a".into() }, Some((90, 5, false, vec![]))),
            op(81, What::Stale { key: "b".into() }, Some((90, 3, false, vec![("b".into(), kv("2", 3, 3, 1))]))),
            op(95, asked_put("l", "4", 7), Some((99, 6, true, vec![]))),
            op(1200, What::List { prefix: String::new() }, Some((1300, 7, false, vec![]))),
        ]
    }

    fn leases() -> Vec<Lease> {
        vec![Lease { id: 7, key: "l".into(), promises: vec![(94, 500), (200, 900)] }]
    }

    fn run(changes: &[Change], ops: &[Op], seen: &[(Micros, i64)]) -> Result<Counts, Vec<String>> {
        check(&History::new(changes).map_err(|cause| vec![cause])?, ops, &leases(), seen)
    }

    const SEEN: [(Micros, i64); 3] = [(25, 2), (1150, 7), (1170, 7)];

    #[test]
    fn a_sound_history_passes() {
        let counts = run(&history(), &ops(), &SEEN).unwrap();
        let due = Counts { writes: 3, reads: 4, stale_reads: 1, unknown: 3, unknown_done: 2, revisions: 7 };
        assert_eq!(counts, due);
        watched(&History::new(&history()).unwrap(), "m1", &history()).unwrap();
    }

    #[test]
    fn whatever_is_left_out_of_the_history_or_comes_twice_is_found() {
        let whole = history();
        for at in 0..whole.len() {
            let mut less = whole.clone();
            less.remove(at);
            run(&less, &ops(), &SEEN).expect_err(&format!("without {:?}", whole[at]));
            let known = History::new(&whole).unwrap();
            watched(&known, "m1", &less).expect_err("a watch that missed it");
            let mut more = whole.clone();
            more.insert(at, whole[at].clone());
            run(&more, &ops(), &SEEN).expect_err(&format!("twice {:?}", whole[at]));
            watched(&known, "m1", &more).expect_err("a watch that saw it twice");
            if at + 1 < whole.len() {
                let mut other = whole.clone();
                other.swap(at, at + 1);
                watched(&known, "m1", &other).expect_err("a watch that saw it out of order");
            }
        }
    }

    #[test]
    fn every_operation_that_is_needed_is_needed_and_every_answer_looked_at() {
        let all = ops();
        for at in 0..all.len() {
            let mut less = all.clone();
            let removed = less.remove(at);
            let explains = matches!(
                (&removed.what, &removed.answer),
                (What::Put { .. } | What::Swap { .. }, Some(Answer { changed: true, .. }))
            ) || at == 1
                || at == 6;
            assert_eq!(run(&history(), &less, &SEEN).is_err(), explains, "without {removed:?}");
            if let Some(answer) = &all[at].answer {
                let with = |change: &dyn Fn(&mut Answer)| {
                    let mut other = all.clone();
                    let mut changed = answer.clone();
                    change(&mut changed);
                    other[at].answer = Some(changed);
                    run(&history(), &other, &SEEN)
                };
                with(&|answer| answer.revision += 10).expect_err("an answer beyond the history");
                if !answer.changed {
                    with(&|answer| answer.found.push(("z".into(), kv("z", 1, 1, 1)))).expect_err("what was not there");
                }
            }
        }
    }

    #[test]
    fn answers_that_go_back_in_time_are_found() {
        let with = |more: Op| {
            let mut all = ops();
            all.push(more);
            run(&history(), &all, &SEEN)
        };
        let found = |kv| vec![("a".to_owned(), kv)];
        let old = || op(65, What::Get { key: "a".into() }, Some((66, 2, false, found(kv("1", 2, 2, 1)))));
        let told = with(old()).unwrap_err();
        assert!(told[0].contains("4 had been told of"), "{told:?}");
        // The same as a serializable read is allowed to be old.
        with(Op { what: What::Stale { key: "a".into() }, ..old() }).unwrap();
        // What a watch told counts as well.
        let before = op(26, What::Get { key: "a".into() }, Some((27, 1, false, vec![])));
        with(before.clone()).unwrap_err();
        with(Op { asked: 24, ..before }).unwrap_err();
        with(op(18, What::Get { key: "a".into() }, Some((19, 1, false, vec![])))).unwrap();
        // Revision 4 was asked for at 50.
        with(op(18, What::Get { key: "a".into() }, Some((45, 4, false, found(kv("3", 2, 4, 2)))))).unwrap_err();
    }

    #[test]
    fn a_swap_that_should_have_been_the_other_way_is_found() {
        let mut all = ops();
        all[3].what = swap(3, "3");
        run(&history(), &all, &SEEN).unwrap_err();
        let mut all = ops();
        all[4].what = swap(4, "x");
        run(&history(), &all, &SEEN).unwrap_err();
    }

    #[test]
    fn a_lease_that_ends_early_is_found() {
        let early = [(25, 2), (1050, 7), (1170, 7)];
        let told = run(&history(), &ops(), &early).unwrap_err();
        assert!(told[0].contains("lease 7 went at 1050"), "{told:?}");
    }
}
