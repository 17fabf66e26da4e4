use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::types::{KeyMeta, Place};

type Naive = BTreeMap<Revision, (Vec<u8>, u32)>;

fn event<'a>(revision: Revision, key: &'a [u8], len: u32) -> EventRef<'a> {
    let place = if len == 0 { Place::EMPTY } else { Place { segment: 1, offset: len * 1000, len } };
    EventRef { key, meta: KeyMeta { revision, create: revision.main, version: 1, lease: 0, place }, link: None }
}

fn check(events: &Events, naive: &Naive) {
    assert_eq!(events.len(), naive.len() as u64);
    assert_eq!(events.last(), naive.keys().next_back().copied());
    assert!(events.iter().eq(naive.iter().map(|(revision, (key, len))| event(*revision, key, *len))));
    for (revision, (key, len)) in naive {
        assert_eq!(events.get(*revision), Some(event(*revision, key, *len)));
    }
    check_depth(&events.root);
}

/// Gives how deep the pages are.
fn check_depth(inner: &Inner) -> usize {
    assert_eq!(inner.firsts.len(), inner.children.len());
    assert!(inner.firsts.is_sorted_by(|a, b| a < b) && inner.children.len() <= CHILDREN_MAX);
    let depths: Vec<usize> = inner
        .children
        .iter()
        .map(|child| match child {
            Node::Page(page) => {
                assert!(page.len() > 0);
                0
            }
            Node::Inner(inner) => {
                assert!(!inner.children.is_empty());
                check_depth(inner)
            }
        })
        .collect();
    assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
    depths.first().map_or(0, |depth| depth + 1)
}

#[derive(Clone, Debug)]
enum Op {
    /// How far the revision goes on, how many sub-revisions it has, bytes of the keys.
    Push(i64, i64, usize),
    Remove(Vec<prop::sample::Index>),
    Replace(prop::sample::Index, u32),
    Snapshot,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => (prop_oneof![8 => Just(1i64), 1 => 1i64..1_000_000], prop_oneof![8 => Just(1i64), 1 => 1i64..300],
            prop_oneof![20 => 0usize..60, 1 => 0usize..5000, 1 => 60_000usize..70_000])
            .prop_map(|(gap, subs, key)| Op::Push(gap, subs, key)),
        2 => prop::collection::vec(any::<prop::sample::Index>(), 1..400).prop_map(Op::Remove),
        5 => (any::<prop::sample::Index>(), 0u32..100_000).prop_map(|(at, len)| Op::Replace(at, len)),
        1 => Just(Op::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn holds_what_a_map_holds_and_snapshots_stand_still(
        ops in prop::collection::vec(op(), 0..400),
        from in (0i64..500, 0i64..3),
    ) {
        let (mut events, mut naive) = (Events::default(), Naive::new());
        let (mut main, mut snapshots) = (1, Vec::new());
        for op in ops {
            match op {
                Op::Push(gap, subs, key) => {
                    main += gap;
                    for sub in 0..subs {
                        let (revision, key) = (Revision::new(main, sub), vec![main as u8; key]);
                        events.push(&event(revision, &key, sub as u32));
                        naive.insert(revision, (key, sub as u32));
                    }
                }
                Op::Remove(which) if !naive.is_empty() => {
                    let all: Vec<Revision> = naive.keys().copied().collect();
                    let mut going: Vec<Revision> = which.iter().map(|at| all[at.index(all.len())]).collect();
                    // Some that are not there.
                    going.push(Revision::new(main + 1, 0));
                    going.push(Revision::ZERO);
                    going.sort_unstable();
                    let mut gone = Vec::new();
                    events.remove(&going, &mut |event| gone.push(event.meta.revision));
                    going.dedup();
                    going.retain(|revision| naive.remove(revision).is_some());
                    prop_assert_eq!(gone, going);
                }
                Op::Replace(which, len) if !naive.is_empty() => {
                    let revision = *naive.keys().nth(which.index(naive.len())).unwrap();
                    let entry = naive.get_mut(&revision).unwrap();
                    entry.1 = len;
                    prop_assert!(events.replace(&event(revision, &entry.0, len)));
                    prop_assert!(!events.replace(&event(Revision::new(main + 1, 0), b"", len)));
                }
                Op::Remove(_) | Op::Replace(..) => {}
                Op::Snapshot => snapshots.push((events.clone(), naive.clone())),
            }
        }
        let from = Revision::new(from.0, from.1);
        snapshots.push((events, naive));
        for (events, naive) in &snapshots {
            check(events, naive);
            let wanted = naive.range(from..).map(|(revision, _)| *revision);
            prop_assert!(events.iter_from(from).map(|event| event.meta.revision).eq(wanted));
        }
    }
}

#[test]
fn what_is_left_of_many_lies_close_together() {
    let mut events = Events::default();
    for main in 1..=100_000 {
        events.push(&event(Revision::new(main, 0), b"a key of some length", 7));
    }
    let going: Vec<Revision> = (1..=99_000).filter(|main| main % 50 != 0).map(|main| Revision::new(main, 0)).collect();
    for slice in going.chunks(1000) {
        events.remove(slice, &mut |_| {});
    }
    let (mut pages, mut bytes) = (0, 0);
    visit(&events.root, &mut |page| {
        pages += 1;
        bytes += page.bytes();
    });
    assert!(events.len() == 2980 && bytes * 2 > pages * PAGE_BYTES, "{bytes} bytes in {pages} pages");
    assert!(events.iter().map(|event| event.meta.revision.main).eq((50..=99_000).step_by(50).chain(99_001..=100_000)));
}

fn visit(inner: &Inner, page: &mut dyn FnMut(&Page)) {
    for child in &inner.children {
        match child {
            Node::Page(it) => page(it),
            Node::Inner(inner) => visit(inner, page),
        }
    }
}
