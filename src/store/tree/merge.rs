//! Many keys at once, in ascending order: a node is entered once for all keys that belong beneath it, and a leaf made anew
//! once.

use std::sync::Arc;

use super::{
    Change, Measure, Node, Split, Tree,
    inner::Inner,
    leaf::{self, Filling, LEAF_BYTES_MAX, Leaf},
};

/// As `Make`, of the key at a place in the list of keys.
pub type MakeOf<'a> = dyn FnMut(usize, Option<&[u8]>, &mut Vec<u8>) + 'a;

/// Keys on their way to their leaves.
struct Changes<'a, 'm> {
    keys: &'a [&'a [u8]],
    make: &'a mut MakeOf<'m>,
    /// How many were not there.
    added: u64,
}

/// What a node has become beside itself.
struct Grown<M: Measure> {
    /// Nodes to its right.
    siblings: Vec<Split<M>>,
    /// All that is new lies behind all that was there: nodes that grow so are left full.
    at_end: bool,
}

impl<M: Measure> Tree<M> {
    /// Puts what `make` makes of the values that are there, for keys in ascending order: it is called once for each, in that
    /// order, and writes behind what is in the buffer that it is given.
    ///
    /// # Panics
    /// If the keys do not ascend.
    pub fn merge(&mut self, keys: &[&[u8]], make: &mut MakeOf<'_>) {
        assert!(keys.is_sorted_by(|a, b| a < b), "keys are merged in ascending order");
        if keys.is_empty() {
            return;
        }
        let mut changes = Changes { keys, make, added: 0 };
        let mut grown = self.root.merge(0, keys.len(), &mut changes);
        while !grown.siblings.is_empty() {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Leaf::default()));
            let summary = left.summarize();
            let mut inner = Inner::default();
            inner.push(&[], left, summary);
            for Split { separator, node, summary } in grown.siblings {
                inner.push(&separator, node, summary);
            }
            grown.siblings = split(&mut inner, grown.at_end);
            self.root = Node::Inner(Arc::new(inner));
        }
        self.summary = self.root.summarize();
        self.len += changes.added;
    }
}

impl<M: Measure> Node<M> {
    /// Takes the keys from `from` to before `to`, at least one.
    fn merge(&mut self, from: usize, to: usize, changes: &mut Changes<'_, '_>) -> Grown<M> {
        match self {
            Node::Leaf(leaf) if to - from == 1 && leaf.len() > 0 => {
                let at_end = leaf.last_key() < changes.keys[from];
                let mut make = |before: Option<&[u8]>, out: &mut Vec<u8>| (changes.make)(from, before, out);
                let mut change = Change { key: changes.keys[from], make: &mut make, value: Vec::new() };
                let (old, split) = self.update(&mut change);
                changes.added += u64::from(old.is_none());
                Grown { siblings: split.into_iter().collect(), at_end }
            }
            Node::Leaf(leaf) => merge_leaf(leaf, from, to, changes),
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let (mut from, mut at_end) = (from, false);
                while from < to {
                    let at = inner.route(changes.keys[from]);
                    let rest = &changes.keys[from..to];
                    let mine = inner.bound(at).map_or(rest.len(), |bound| rest.partition_point(|key| *key < bound));
                    let is_last = at + 1 == inner.len();
                    let grown = inner.child_mut(at).merge(from, from + mine, changes);
                    let summary = inner.child(at).summarize();
                    inner.set_summary(at, summary);
                    at_end = is_last && grown.at_end;
                    for (after, Split { separator, node, summary }) in (at + 1..).zip(grown.siblings) {
                        inner.insert(after, &separator, node, summary);
                    }
                    from += mine;
                }
                Grown { siblings: split(inner, at_end), at_end }
            }
        }
    }
}

fn merge_leaf<M: Measure>(leaf: &mut Leaf, from: usize, to: usize, changes: &mut Changes<'_, '_>) -> Grown<M> {
    let old = std::mem::take(leaf);
    let at_end = old.len() == 0 || old.last_key() < changes.keys[from];
    // Values that are made, one after another; what is merged names them by where they lie.
    let mut values = Vec::with_capacity(32 * (to - from));
    let mut made = Vec::with_capacity(to - from);
    let mut places = Vec::with_capacity(to - from);
    for (key, at) in changes.keys[from..to].iter().zip(from..) {
        let place = old.find(key);
        let before = place.ok().map(|place| old.entry(place).1);
        changes.added += u64::from(before.is_none());
        let begin = values.len();
        (changes.make)(at, before, &mut values);
        made.push(begin..values.len());
        places.push(place);
    }
    let mut entries: Vec<(&[u8], &[u8])> = Vec::with_capacity(old.len() + made.len());
    let mut next = 0;
    for ((key, value), place) in changes.keys[from..to].iter().zip(&made).zip(places) {
        let (Ok(until) | Err(until)) = place;
        entries.extend((next..until).map(|at| old.entry(at)));
        entries.push((key, &values[value.clone()]));
        next = until + usize::from(place.is_ok());
    }
    entries.extend((next..old.len()).map(|at| old.entry(at)));

    let bytes: usize = entries.iter().map(|(key, value)| leaf::entry_bytes(key, value)).sum();
    // What is put in between is spread, so that there is room for more.
    let most = if at_end { LEAF_BYTES_MAX } else { bytes.div_ceil(bytes.div_ceil(LEAF_BYTES_MAX).max(1)) };
    let mut filling = Filling::default();
    let mut leaves: Vec<Split<M>> = Vec::new();
    let mut close = |filling: &mut Filling, before: Option<&[u8]>| {
        let leaf = filling.take();
        let separator = before.map_or_else(Vec::new, |before| leaf::separator(before, leaf.first_key()));
        let summary = leaf.summarize::<M>();
        leaves.push(Split { separator, node: Node::Leaf(leaf), summary });
    };
    // The last key of the leaf before.
    let (mut before, mut last): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    for (key, value) in entries {
        let is_full = filling.bytes() >= most || filling.bytes() + leaf::entry_bytes(key, value) > LEAF_BYTES_MAX;
        if is_full && !filling.is_empty() {
            close(&mut filling, before);
            before = last;
        }
        filling.push(key, value);
        last = Some(key);
    }
    close(&mut filling, before);
    let mut leaves = leaves.into_iter();
    if let Some(Split { node: Node::Leaf(first), .. }) = leaves.next() {
        *leaf = first;
    }
    Grown { siblings: leaves.collect(), at_end }
}

/// Splits off what an inner node holds too much.
fn split<M: Measure>(inner: &mut Inner<M>, at_end: bool) -> Vec<Split<M>> {
    let parts = inner.split_into_parts(at_end);
    let sibling = |(separator, part): (Vec<u8>, Inner<M>)| {
        let summary = part.summarize();
        Split { separator, node: Node::Inner(Arc::new(part)), summary }
    };
    parts.into_iter().map(sibling).collect()
}
