//! A copy-on-write B+tree of bytes: keys in memcmp order to values, with a summary of what lies beneath each node.
//!
//! Cloning a tree is O(1) and gives an immutable snapshot that any core may read. The one writer changes inner nodes
//! that it alone holds in place and copies those that a snapshot shares. Holds no locks and knows nothing of what its bytes mean: that is `Measure` and the index above.
//!
//! Sizes: a leaf is one block of about 1.5 KiB, so copying one costs a memcpy; an inner node has at most 16 children, so
//! copying one costs 16 reference counts. What a random put into a large tree costs is what it touches of memory that is
//! not in the processor's caches; both sizes are the best of those tried for that. A million keys of 32 bytes make a tree
//! of five levels.

mod inner;
mod iter;
mod leaf;
mod merge;

use std::sync::Arc;

use self::{
    inner::Inner,
    leaf::{Filling, Leaf},
};

pub(super) use self::leaf::common;

pub use self::iter::Iter;

/// What an inner node knows of each child without descending.
pub trait Measure: 'static {
    type Summary: Copy + Default + Send + Sync + std::fmt::Debug;

    /// The summary of one entry.
    fn of(key: &[u8], value: &[u8]) -> Self::Summary;

    /// The summary of two neighbours together.
    fn merge(left: Self::Summary, right: Self::Summary) -> Self::Summary;

    /// The summary of a subtree in which `old` gave way to `new`. It may be an upper bound where the exact value would
    /// need a descent; what is derived from it must then still be right.
    fn replace(whole: Self::Summary, old: Option<Self::Summary>, new: Option<Self::Summary>) -> Self::Summary;
}

/// A tree whose subtrees need no summary.
pub struct Plain;

impl Measure for Plain {
    type Summary = ();

    fn of(_: &[u8], _: &[u8]) {}
    fn merge(_: (), _: ()) {}
    fn replace(_: (), _: Option<()>, _: Option<()>) {}
}

/// What `Tree::descend` does with a subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The summary said enough.
    Skip,
    /// Look inside.
    Enter,
}

enum Node<M: Measure> {
    Leaf(Leaf),
    Inner(Arc<Inner<M>>),
}

impl<M: Measure> Clone for Node<M> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf(leaf) => Node::Leaf(leaf.clone()),
            Node::Inner(inner) => Node::Inner(inner.clone()),
        }
    }
}

/// Writes a key's new value behind what is in the buffer, given the one that is there.
pub type Make<'a> = dyn FnMut(Option<&[u8]>, &mut Vec<u8>) + 'a;

/// What a buffer for values may take while no value is in it.
const SCRATCH_BYTES_MAX: usize = 256;

/// A value on its way to its key.
struct Change<'a> {
    key: &'a [u8],
    make: &'a mut Make<'a>,
    /// Known once `make` was called.
    value: Vec<u8>,
}

/// A node that has split off to the right of the one it grew in: its separator, itself, its summary.
struct Split<M: Measure> {
    separator: Vec<u8>,
    node: Node<M>,
    summary: M::Summary,
}

pub struct Tree<M: Measure> {
    root: Node<M>,
    summary: M::Summary,
    len: u64,
    /// For the value that is being put, the writer's.
    scratch: Vec<u8>,
}

impl<M: Measure> Clone for Tree<M> {
    fn clone(&self) -> Self {
        Tree { root: self.root.clone(), summary: self.summary, len: self.len, scratch: Vec::new() }
    }
}

impl<M: Measure> Default for Tree<M> {
    fn default() -> Self {
        Tree { root: Node::Leaf(Leaf::default()), summary: M::Summary::default(), len: 0, scratch: Vec::new() }
    }
}

impl<M: Measure> std::fmt::Debug for Tree<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({} entries, {:?})", self.len, self.summary)
    }
}

impl<M: Measure> Tree<M> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn summary(&self) -> M::Summary {
        self.summary
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.find(key).ok().map(|at| leaf.entry(at).1),
                Node::Inner(inner) => node = inner.child(inner.route(key)),
            }
        }
    }

    /// Puts a value, replacing the one that was there. True if there was one.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.update(key, &mut |_, new| new.extend_from_slice(value))
    }

    /// Puts what `change` makes of the value that is there, if there is one: it writes the new one into the buffer that it is
    /// given, which is empty. It is called once. True if there was a value.
    pub fn update(&mut self, key: &[u8], change: &mut Make) -> bool {
        let mut change = Change { key, make: change, value: std::mem::take(&mut self.scratch) };
        let (old, split) = self.root.update(&mut change);
        self.summary = M::replace(self.summary, old, Some(M::of(key, &change.value)));
        if let Some(split) = split {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Leaf::default()));
            let left_summary = left.summarize();
            let mut inner = Inner::default();
            inner.push(&[], left, left_summary);
            inner.push(&split.separator, split.node, split.summary);
            self.root = Node::Inner(Arc::new(inner));
        }
        self.len += u64::from(old.is_none());
        if change.value.capacity() <= SCRATCH_BYTES_MAX {
            change.value.clear();
            self.scratch = change.value;
        }
        old.is_some()
    }

    /// Takes a key out. True if it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        // Without this look, removing what is not there would copy the path to it.
        if self.get(key).is_none() {
            return false;
        }
        let old = self.root.remove(key);
        self.summary = M::replace(self.summary, Some(old), None);
        self.len -= 1;
        while let Node::Inner(inner) = &self.root {
            match inner.len() {
                0 => self.root = Node::Leaf(Leaf::default()),
                1 => self.root = inner.child(0).clone(),
                _ => break,
            }
        }
        if self.len == 0 {
            self.summary = M::Summary::default();
        }
        true
    }

    /// Entries from `key` on, in order.
    pub fn iter_from(&self, key: &[u8]) -> Iter<'_, M> {
        Iter::new(&self.root, key)
    }

    pub fn iter(&self) -> Iter<'_, M> {
        Iter::new(&self.root, &[])
    }

    /// Walks the entries of `[from, to)` (to the end if `to` is None). `subtree` sees the summary of each subtree that
    /// lies wholly inside and may settle it there; `entry` sees what it enters, and ends the walk by returning false.
    pub fn descend(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        subtree: &mut dyn FnMut(M::Summary) -> Step,
        entry: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let whole = from.is_empty() && to.is_none();
        if whole && subtree(self.summary) == Step::Skip {
            return;
        }
        self.root.descend((!from.is_empty()).then_some(from), to, subtree, entry);
    }

    /// Builds a tree from entries in ascending order of key, each key once.
    ///
    /// # Panics
    /// If the keys do not ascend.
    pub fn build<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut builder = Builder::new();
        for (key, value) in entries {
            builder.push(key, value);
        }
        builder.finish()
    }
}

impl<M: Measure> Node<M> {
    fn summarize(&self) -> M::Summary {
        match self {
            Node::Leaf(leaf) => leaf.summarize::<M>(),
            Node::Inner(inner) => inner.summarize(),
        }
    }

    fn update(&mut self, change: &mut Change<'_>) -> (Option<M::Summary>, Option<Split<M>>) {
        match self {
            Node::Leaf(leaf) => {
                let old = match leaf.find(change.key) {
                    Ok(at) => {
                        let old = leaf.entry(at).1;
                        (change.make)(Some(old), &mut change.value);
                        let old = M::of(change.key, old);
                        leaf.replace(at, change.key, &change.value);
                        Some(old)
                    }
                    Err(at) => {
                        (change.make)(None, &mut change.value);
                        leaf.insert(at, change.key, &change.value);
                        None
                    }
                };
                let split = leaf.split_if_large().map(|right| {
                    let separator = leaf::separator(leaf.last_key(), right.first_key());
                    let summary = right.summarize::<M>();
                    Split { separator, node: Node::Leaf(right), summary }
                });
                (old, split)
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.route(change.key);
                let (old, split) = inner.child_mut(at).update(change);
                match split {
                    None => {
                        let summary = M::replace(inner.summary(at), old, Some(M::of(change.key, &change.value)));
                        inner.set_summary(at, summary);
                    }
                    Some(split) => {
                        let left = inner.child(at).summarize();
                        inner.set_summary(at, left);
                        inner.insert(at + 1, &split.separator, split.node, split.summary);
                    }
                }
                let split = inner.split_if_large().map(|(separator, right)| {
                    let summary = right.summarize();
                    Split { separator, node: Node::Inner(Arc::new(right)), summary }
                });
                (old, split)
            }
        }
    }

    /// Removes a key that is there and gives its summary.
    fn remove(&mut self, key: &[u8]) -> M::Summary {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.find(key).expect("the key was just seen");
                let old = M::of(key, leaf.entry(at).1);
                leaf.remove(at);
                old
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.route(key);
                let old = inner.child_mut(at).remove(key);
                let summary = M::replace(inner.summary(at), Some(old), None);
                inner.set_summary(at, summary);
                inner.mend(at);
                old
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.len() == 0,
            Node::Inner(inner) => inner.len() == 0,
        }
    }

    /// False if the walk was ended.
    fn descend(
        &self,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        subtree: &mut dyn FnMut(M::Summary) -> Step,
        entry: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> bool {
        match self {
            Node::Leaf(leaf) => {
                let first = from.map_or(0, |from| leaf.find(from).unwrap_or_else(|at| at));
                let end = to.map_or(leaf.len(), |to| leaf.find(to).unwrap_or_else(|at| at));
                (first..end).all(|at| {
                    let (key, value) = leaf.entry(at);
                    entry(key, value)
                })
            }
            Node::Inner(inner) => {
                let first = from.map_or(0, |from| inner.route(from));
                let last = to.map_or(inner.len() - 1, |to| inner.route(to));
                for at in first..=last {
                    let from = if at == first { from } else { None };
                    let to = if at == last { to } else { None };
                    if from.is_none() && to.is_none() && subtree(inner.summary(at)) == Step::Skip {
                        continue;
                    }
                    if !inner.child(at).descend(from, to, subtree, entry) {
                        return false;
                    }
                }
                true
            }
        }
    }
}

/// Builds a tree of full nodes from ascending entries, level by level at the right edge.
pub struct Builder<M: Measure> {
    leaf: Filling,
    /// The separator of the leaf under construction.
    separator: Vec<u8>,
    levels: Vec<(Vec<u8>, Inner<M>)>,
    len: u64,
}

impl<M: Measure> Default for Builder<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Measure> Builder<M> {
    pub fn new() -> Self {
        Builder { leaf: Filling::default(), separator: Vec::new(), levels: Vec::new(), len: 0 }
    }

    /// Whether `key` may be pushed next: whether it is above the one before.
    pub fn ascends_to(&self, key: &[u8]) -> bool {
        self.leaf.is_empty() || self.leaf.last_key() < key
    }

    /// # Panics
    /// If `key` is not above the one before.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        if !self.leaf.is_empty() {
            assert!(self.leaf.last_key() < key, "a tree is built from ascending keys");
            if self.leaf.would_be_large(key, value) {
                let next = leaf::separator(self.leaf.last_key(), key);
                self.close_leaf();
                self.separator = next;
            }
        }
        self.leaf.push(key, value);
        self.len += 1;
    }

    fn close_leaf(&mut self) {
        let leaf = self.leaf.take();
        let summary = leaf.summarize::<M>();
        let separator = std::mem::take(&mut self.separator);
        self.attach(0, separator, Node::Leaf(leaf), summary);
    }

    fn attach(&mut self, level: usize, separator: Vec<u8>, node: Node<M>, summary: M::Summary) {
        if level == self.levels.len() {
            self.levels.push((separator.clone(), Inner::default()));
        }
        if self.levels[level].1.is_full() {
            let (first, full) = std::mem::replace(&mut self.levels[level], (separator.clone(), Inner::default()));
            let full_summary = full.summarize();
            self.attach(level + 1, first, Node::Inner(Arc::new(full)), full_summary);
        }
        self.levels[level].1.push(&separator, node, summary);
    }

    pub fn finish(mut self) -> Tree<M> {
        if self.len == 0 {
            return Tree::default();
        }
        self.close_leaf();
        let mut level = 0;
        loop {
            let (separator, inner) = std::mem::take(&mut self.levels[level]);
            let summary = inner.summarize();
            level += 1;
            if level == self.levels.len() {
                let root = if inner.len() == 1 { inner.child(0).clone() } else { Node::Inner(Arc::new(inner)) };
                return Tree { root, summary, len: self.len, scratch: Vec::new() };
            }
            self.attach(level, separator, Node::Inner(Arc::new(inner)), summary);
        }
    }
}

#[cfg(test)]
mod tests;
