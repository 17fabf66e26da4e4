use proptest::prelude::*;

use super::*;

/// Every event there ever was, and the rules applied to the list each time anew.
#[derive(Default)]
struct Naive {
    events: Vec<(Vec<u8>, KeyMeta)>,
    current: i64,
    compacted: i64,
}

impl Naive {
    fn at(&self, at: i64) -> impl Iterator<Item = &(Vec<u8>, KeyMeta)> {
        self.events.iter().filter(move |(_, meta)| meta.revision.main <= at)
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyMeta> {
        let last = self.at(at).filter(|(name, _)| name == key).last()?.1;
        (!last.is_tombstone()).then_some(last)
    }

    fn list(&self, at: i64) -> Vec<(Vec<u8>, KeyMeta)> {
        let mut keys: Vec<_> = self.events.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter_map(|key| self.get(&key, at).map(|meta| (key, meta))).collect()
    }

    /// What compaction must leave: everything above, and of each key the newest at or below unless it is a tombstone
    /// below.
    fn retained(&self) -> Vec<(Vec<u8>, KeyMeta)> {
        let keep = |at: usize| {
            let (key, meta) = &self.events[at];
            let main = meta.revision.main;
            if main > self.compacted {
                return true;
            }
            let superseded =
                self.events[at + 1..].iter().any(|(other, o)| other == key && o.revision.main <= self.compacted);
            !(superseded || meta.is_tombstone() && main < self.compacted)
        };
        (0..self.events.len()).filter(|at| keep(*at)).map(|at| self.events[at].clone()).collect()
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, u32),
    Delete(u8),
}

#[derive(Clone, Debug)]
enum Op {
    Txn(Vec<Change>),
    Compact(u8),
    Sweep(usize),
    Relocate(usize),
    Read(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![3 => (0u8..12, 0u32..50).prop_map(|(k, len)| Change::Put(k, len)), 1 => (0u8..12).prop_map(Change::Delete)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => prop::collection::vec(change(), 1..4).prop_map(Op::Txn),
        1 => any::<u8>().prop_map(Op::Compact),
        3 => (1usize..6).prop_map(Op::Sweep),
        2 => any::<usize>().prop_map(Op::Relocate),
        4 => any::<u8>().prop_map(Op::Read),
    ]
}

fn name(key: u8) -> Vec<u8> {
    // Some names are prefixes of others.
    vec![b'a' + key % 4; 1 + (key / 4) as usize]
}

fn check_reads(index: &Index, naive: &Naive, at: i64) {
    let list = naive.list(at);
    assert!(index.iter(KeyRange::From(b""), at).map(|(k, m)| (k.to_vec(), m)).eq(list.iter().cloned()), "at {at}");
    assert_eq!(index.count(KeyRange::From(b""), at), list.len() as u64);
    for key in (0..12).map(name) {
        assert_eq!(index.get(&key, at), naive.get(&key, at), "{key:?} at {at}");
    }
    let range = KeyRange::Between(b"b", b"cc");
    let inside: Vec<_> = list.iter().filter(|(key, _)| range.contains(key)).cloned().collect();
    assert!(index.iter(range, at).map(|(k, m)| (k.to_vec(), m)).eq(inside.iter().cloned()));
    assert_eq!(index.count(range, at), inside.len() as u64);
}

fn run(ops: Vec<Op>) {
    let mut index = Index::new();
    let mut naive = Naive { current: 1, compacted: -1, ..Naive::default() };
    let mut snapshots = Vec::new();
    let mut offset = 0;
    for op in ops {
        match op {
            Op::Txn(changes) => {
                let main = naive.current + 1;
                let mut sub = 0;
                for change in changes {
                    let revision = Revision::new(main, sub);
                    match change {
                        Change::Put(key, len) => {
                            let key = name(key);
                            offset += len;
                            let place = match len {
                                0 => Place::EMPTY,
                                len => Place { segment: 1 + offset / 200, offset, len },
                            };
                            let before = naive.get(&key, main);
                            assert_eq!(index.put(revision, &key, i64::from(len % 3), place), before);
                            let meta = KeyMeta {
                                revision,
                                create: before.map_or(main, |meta| meta.create),
                                version: before.map_or(1, |meta| meta.version + 1),
                                lease: i64::from(len % 3),
                                place,
                            };
                            naive.events.push((key, meta));
                            sub += 1;
                        }
                        Change::Delete(key) => {
                            let key = name(key);
                            let before = naive.get(&key, main);
                            assert_eq!(index.delete(revision, &key), before);
                            if before.is_some() {
                                naive.events.push((key, KeyMeta { revision, ..KeyMeta::default() }));
                                sub += 1;
                            }
                        }
                    }
                }
                if sub > 0 {
                    naive.current = main;
                    index.set_current(main);
                }
            }
            Op::Compact(part) => {
                let at = naive.current * i64::from(part) / 255;
                let wanted = at > naive.compacted;
                assert_eq!(index.begin_compaction(at).is_ok(), wanted);
                if wanted {
                    naive.compacted = at;
                }
                assert_eq!(index.begin_compaction(naive.current + 1), Err(error::FUTURE_REV));
                assert_eq!(index.begin_compaction(naive.compacted), Err(error::COMPACTED));
            }
            Op::Sweep(budget) => {
                index.compaction_step(budget, &mut |_| {});
            }
            Op::Relocate(nth) => {
                let at: Vec<_> = index.event_refs(Revision::ZERO, i64::MAX).map(|event| event.meta).collect();
                let Some(meta) = at.get(nth % at.len().max(1)).filter(|meta| meta.place.len > 0) else { continue };
                offset += meta.place.len;
                let to = Place { segment: 1 + offset / 200, offset, ..meta.place };
                assert!(index.relocate(meta.revision, meta.place, to));
                assert!(!index.relocate(meta.revision, meta.place, to), "moved twice");
                for (_, known) in &mut naive.events {
                    if known.revision == meta.revision {
                        known.place = to;
                    }
                }
            }
            Op::Read(part) => {
                let low = naive.compacted.max(1);
                let at = low + (naive.current - low) * i64::from(part) / 255;
                check_reads(&index, &naive, at);
                check_reads(&index, &naive, naive.current);
                assert_eq!(index.check_revision(naive.current + 1), Err(error::FUTURE_REV));
                assert_eq!(index.check_revision(at), Ok(()));
                if naive.compacted > 1 {
                    assert_eq!(index.check_revision(naive.compacted - 1), Err(error::COMPACTED));
                }
                if part % 8 == 0 {
                    snapshots.push((index.clone(), naive.current, naive.compacted, naive.events.clone()));
                }
            }
        }
    }
    while index.compacting() {
        index.compaction_step(3, &mut |_| {});
    }
    let retained = naive.retained();
    let events: Vec<_> = index.events(Revision::ZERO, i64::MAX).collect();
    assert!(events.iter().map(|event| (event.key.to_vec(), event.meta)).eq(retained.iter().cloned()));
    for event in &events {
        let main = event.meta.revision.main;
        let has_one = main > naive.compacted && event.meta.create != main;
        let wanted = if has_one { naive.get(&event.key, main - 1) } else { None };
        assert_eq!(index.prev_of(event), wanted, "before {event:?}");
        assert_eq!(index.event(event.meta.revision).as_ref(), Some(event));
    }
    let mut usage = Usage::default();
    for (_, meta) in retained.iter().filter(|(_, meta)| meta.place.len > 0) {
        usage.add(meta.place, meta.revision.main);
    }
    let bytes = |usage: &Usage| usage.segments().iter().map(|it| (it.segment, it.live_bytes)).collect::<Vec<_>>();
    assert_eq!(bytes(index.usage()), bytes(&usage));
    assert_eq!(index.usage().live_bytes(), usage.live_bytes());
    for at in naive.compacted.max(1)..=naive.current {
        check_reads(&index, &naive, at);
    }
    for (index, current, compacted, events) in snapshots {
        let naive = Naive { events, current, compacted };
        check_reads(&index, &naive, naive.current);
        check_reads(&index, &naive, naive.compacted.max(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_list_of_all_events(ops in prop::collection::vec(op(), 0..120)) {
        run(ops);
    }
}

/// A key with a million revisions is read at an old one in a few steps, not a million.
#[test]
fn a_long_history_is_read_in_few_steps() {
    let mut index = Index::new();
    for main in 2..200_002 {
        index.put(Revision::new(main, 0), b"hot", 0, Place::EMPTY);
        index.set_current(main);
    }
    let steps = |at: i64| {
        let mut event = index.event_ref(Revision::new(index.current(), 0)).unwrap();
        let mut steps = 0;
        while event.meta.revision.main > at {
            let link = event.link.unwrap();
            event = index.event_ref(if link.jump.main > at { link.jump } else { link.prev }).unwrap();
            steps += 1;
        }
        steps
    };
    for at in [2, 3, 777, 100_000, 199_999] {
        assert_eq!(index.get(b"hot", at).unwrap().revision.main, at);
        assert!(steps(at) < 80, "{} steps to {at}", steps(at));
    }
}

/// The same after compactions have cut the chain again and again.
#[test]
fn a_compacted_history_keeps_its_jumps() {
    let mut index = Index::new();
    for main in 2..50_002 {
        index.put(Revision::new(main, 0), b"hot", 0, Place::EMPTY);
        index.set_current(main);
        if main % 1000 == 0 {
            index.begin_compaction((main - 20_000).max(index.compacted() + 1)).unwrap();
            while index.compaction_step(100, &mut |_| {}) == Progress::More {}
        }
    }
    let oldest = index.compacted();
    let mut event = index.event_ref(Revision::new(index.current(), 0)).unwrap();
    let mut steps = 0;
    while event.meta.revision.main > oldest {
        let link = event.link.unwrap();
        event = index.event_ref(if link.jump.main > oldest { link.jump } else { link.prev }).unwrap();
        steps += 1;
    }
    assert_eq!(event.meta.revision.main, oldest);
    assert!(steps < 100, "{steps} steps");
}

#[test]
fn compaction_to_zero_is_allowed_once() {
    let mut index = Index::new();
    assert_eq!(index.begin_compaction(0), Ok(()));
    assert_eq!(index.begin_compaction(0), Err(error::COMPACTED));
    assert_eq!(index.begin_compaction(-5), Err(error::COMPACTED));
}

#[test]
fn a_jump_is_as_long_as_its_depth_says() {
    // By the rule itself: two jumps of one length are taken in one, else a jump goes to the event before.
    let mut lens = vec![0u64];
    for depth in 1..5000u64 {
        let near = lens[depth as usize - 1];
        let far = lens[(depth - 1 - near) as usize];
        lens.push(if depth > 1 && near == far { 1 + near + far } else { 1 });
        assert_eq!(super::jump_len(depth), lens[depth as usize], "depth {depth}");
    }
    assert!(super::jump_len(u64::MAX - 1) > 0);
}

#[test]
fn many_changes_at_once_are_as_one_after_another() {
    let key = |at: i64| format!("/k/{:03}{}", at * 37 % 211, if at % 5 == 0 { "/longer" } else { "" });
    let changes: Vec<(String, KeyMeta)> = (2..2000i64)
        .map(|at| {
            let (revision, place) = (Revision::new(at / 2, at % 2), Place { segment: 1, offset: at as u32, len: 1 });
            let meta = match at % 11 {
                0 => KeyMeta { revision, ..KeyMeta::default() },
                _ => KeyMeta { revision, create: 1, version: 1, lease: 0, place },
            };
            (key(at), meta)
        })
        .collect();
    let mut single = Index::new();
    changes.iter().for_each(|(key, meta)| single.adopt(key.as_bytes(), *meta));
    for at_once in [1, 2, 100, 700, 5000] {
        let mut many = Index::new();
        for part in changes.chunks(at_once) {
            many.adopt_all(&part.iter().map(|(key, meta)| (key.as_bytes(), *meta)).collect::<Vec<_>>());
        }
        assert!(many.all_events().iter().eq(single.all_events().iter()), "{at_once}");
        // What a key's next event needs is found in its newest one where the state does not say it.
        let states = |index: &Index| {
            index.keys_tree().iter().map(|(key, state)| (key.to_vec(), codec::key(state))).collect::<Vec<_>>()
        };
        assert_eq!(states(&many), states(&single), "{at_once}");
        assert_eq!(many.live_keys(), single.live_keys());
        assert_eq!((many.usage(), many.current()), (single.usage(), single.current()));
    }
}
