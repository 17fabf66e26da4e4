use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Counts entries and keeps the largest first byte of a value: a sum and a bound, as the indexes use them.
struct Probe;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    largest: u8,
}

impl Measure for Probe {
    type Summary = Sum;

    fn of(_: &[u8], value: &[u8]) -> Sum {
        Sum { count: 1, largest: value.first().copied().unwrap_or(0) }
    }

    fn merge(left: Sum, right: Sum) -> Sum {
        Sum { count: left.count + right.count, largest: left.largest.max(right.largest) }
    }

    fn replace(whole: Sum, old: Option<Sum>, new: Option<Sum>) -> Sum {
        Sum {
            count: whole.count - old.map_or(0, |old| old.count) + new.map_or(0, |new| new.count),
            largest: whole.largest.max(new.map_or(0, |new| new.largest)),
        }
    }
}

type Naive = BTreeMap<Vec<u8>, Vec<u8>>;

fn check(tree: &Tree<Probe>, naive: &Naive) {
    assert_eq!(tree.len(), naive.len() as u64);
    assert!(tree.iter().eq(naive.iter().map(|(k, v)| (&k[..], &v[..]))));
    assert_eq!(tree.summary().count, naive.len() as u64);
    let largest = naive.values().map(|v| v.first().copied().unwrap_or(0)).max().unwrap_or(0);
    assert!(tree.summary().largest >= largest);
}

fn count(tree: &Tree<Probe>, from: &[u8], to: Option<&[u8]>) -> (u64, usize) {
    let (mut counted, mut entered) = (0, 0);
    let mut inside = 0;
    tree.descend(
        from,
        to,
        &mut |sum| {
            counted += sum.count;
            Step::Skip
        },
        &mut |_, _| {
            inside += 1;
            entered += 1;
            true
        },
    );
    (counted + inside, entered)
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, Vec<u8>),
    Merge(Naive),
    Remove(Vec<u8>),
    RemoveNth(usize),
    Snapshot,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(0u8..4, 0..7),
        2 => (0u32..500).prop_map(|n| format!("/registry/pods/default/pod-{n:05}").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..5000),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(k, v)| Op::Insert(k, v)),
        2 => prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 0..200), 0..60).prop_map(Op::Merge),
        // Behind all others.
        1 => (0u32..400).prop_map(|len| Op::Merge((0..len).map(|n| (vec![255, 255, n as u8], vec![7; 9])).collect())),
        2 => key().prop_map(Op::Remove),
        4 => any::<usize>().prop_map(Op::RemoveNth),
        1 => Just(Op::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn does_what_a_map_does_and_snapshots_stand_still(ops in prop::collection::vec(op(), 0..800)) {
        let (mut tree, mut naive) = (Tree::<Probe>::new(), Naive::new());
        let mut snapshots = Vec::new();
        for op in ops {
            match op {
                Op::Insert(key, value) => {
                    let had = naive.insert(key.clone(), value.clone()).is_some();
                    prop_assert_eq!(tree.insert(&key, &value), had);
                    prop_assert_eq!(tree.get(&key), Some(&value[..]));
                }
                Op::Merge(new) => {
                    let keys: Vec<&[u8]> = new.keys().map(|key| &key[..]).collect();
                    let mut next = 0;
                    tree.merge(&keys, &mut |at, before, out| {
                        assert_eq!(at, next);
                        next += 1;
                        assert_eq!(before, naive.get(keys[at]).map(|value| &value[..]));
                        out.extend_from_slice(&new[keys[at]]);
                    });
                    prop_assert_eq!(next, keys.len());
                    naive.extend(new.clone());
                    prop_assert!(keys.iter().all(|key| tree.get(key) == Some(&new[*key][..])));
                }
                Op::Remove(key) => prop_assert_eq!(tree.remove(&key), naive.remove(&key).is_some()),
                Op::RemoveNth(n) if !naive.is_empty() => {
                    let key = naive.keys().nth(n % naive.len()).unwrap().clone();
                    naive.remove(&key);
                    prop_assert!(tree.remove(&key));
                }
                Op::RemoveNth(_) => {}
                Op::Snapshot => snapshots.push((tree.clone(), naive.clone())),
            }
        }
        snapshots.push((tree, naive));
        for (tree, naive) in &snapshots {
            check(tree, naive);
            let built = Tree::<Probe>::build(naive.iter().map(|(k, v)| (&k[..], &v[..])));
            check(&built, naive);
        }
    }

    #[test]
    fn seeks_and_counts_ranges(
        keys in prop::collection::btree_set(key(), 0..600),
        from in key(),
        to in key(),
    ) {
        let naive: Naive = keys.into_iter().map(|k| (k.clone(), k)).collect();
        let mut tree = Tree::<Probe>::new();
        for (key, value) in &naive {
            tree.insert(key, value);
        }
        let above: Vec<_> = naive.range(from.clone()..).map(|(k, _)| &k[..]).collect();
        prop_assert!(tree.iter_from(&from).map(|(k, _)| k).eq(above.iter().copied()));
        prop_assert_eq!(count(&tree, &from, None).0, above.len() as u64);
        let inside = above.iter().filter(|key| **key < &to[..]).count();
        prop_assert_eq!(count(&tree, &from, Some(&to)).0, inside as u64);
    }

    #[test]
    fn whole_subtrees_are_passed_over(keep in 0u32..4000) {
        let mut tree = Tree::<Probe>::new();
        for n in 0..4000u32 {
            let value = if n == keep { [1] } else { [0] };
            tree.insert(format!("key {n:08}").as_bytes(), &value);
        }
        let mut iter = tree.iter();
        let (mut seen, mut found) = (0, 0);
        loop {
            iter.skip_subtrees(|sum| sum.largest == 0);
            let Some((_, value)) = iter.next() else { break };
            seen += 1;
            found += usize::from(value[0] == 1);
        }
        prop_assert_eq!(found, 1);
        prop_assert!(seen < 800, "{} entries of 4000 were looked at", seen);
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut tree = Tree::<Plain>::new();
    for n in 0..100_000u64 {
        tree.insert(&n.to_be_bytes(), b"value");
    }
    let (mut leaves, mut bytes) = (0, 0);
    visit(&tree.root, &mut |leaf| {
        leaves += 1;
        bytes += leaf.bytes();
    });
    assert!(bytes as f64 / (leaves as f64 * leaf::LEAF_BYTES_MAX as f64) > 0.95, "{bytes} bytes in {leaves} leaves");
}

#[test]
fn a_range_of_a_large_tree_is_counted_in_few_steps() {
    let mut tree = Tree::<Probe>::new();
    for n in 0..100_000u32 {
        tree.insert(format!("key {n:08}").as_bytes(), b"");
    }
    let (counted, entered) = count(&tree, b"key 00012345", Some(b"key 00087654"));
    assert_eq!(counted, 87654 - 12345);
    assert!(entered < 500, "{entered} entries were looked at");
}

#[test]
fn removing_everything_leaves_nothing() {
    let mut tree = Tree::<Probe>::new();
    for n in 0..20_000u32 {
        tree.insert(&n.to_be_bytes(), &[n as u8]);
    }
    for n in 0..20_000u32 {
        assert!(tree.remove(&n.wrapping_mul(7919).rem_euclid(20_000).to_be_bytes()));
    }
    assert!(tree.is_empty());
    assert_eq!(tree.iter().count(), 0);
    assert!(matches!(tree.root, Node::Leaf(_)));
}

fn visit<M: Measure>(node: &Node<M>, leaf: &mut dyn FnMut(&Leaf)) {
    match node {
        Node::Leaf(it) => leaf(it),
        Node::Inner(inner) => (0..inner.len()).for_each(|at| visit(inner.child(at), leaf)),
    }
}
