//! An inner node: its children, what is known of each, and between each two a separator: no key of the child behind it
//! is below it, every key of the child before it is.

use std::sync::Arc;

use super::{
    Measure, Node,
    leaf::{LEAF_BYTES_MAX, LEAF_BYTES_MIN, Leaf},
};

/// Few, because a copy of a node counts one more holder of each child: a write to memory that is far away in a large tree.
pub(super) const CHILDREN_MAX: usize = 16;
const CHILDREN_MIN: usize = CHILDREN_MAX / 4;

pub(super) struct Inner<M: Measure> {
    /// One less than children. Shared by copies: most changes leave them as they are.
    separators: Leaf,
    children: Vec<Child<M>>,
}

struct Child<M: Measure> {
    node: Node<M>,
    summary: M::Summary,
}

impl<M: Measure> Clone for Child<M> {
    fn clone(&self) -> Self {
        Child { node: self.node.clone(), summary: self.summary }
    }
}

impl<M: Measure> Default for Inner<M> {
    fn default() -> Self {
        Inner { separators: Leaf::default(), children: Vec::new() }
    }
}

impl<M: Measure> Clone for Inner<M> {
    fn clone(&self) -> Self {
        Inner { separators: self.separators.clone(), children: self.children.clone() }
    }
}

impl<M: Measure> Inner<M> {
    pub(super) fn len(&self) -> usize {
        self.children.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= CHILDREN_MAX
    }

    pub(super) fn child(&self, at: usize) -> &Node<M> {
        &self.children[at].node
    }

    pub(super) fn child_mut(&mut self, at: usize) -> &mut Node<M> {
        &mut self.children[at].node
    }

    pub(super) fn summary(&self, at: usize) -> M::Summary {
        self.children[at].summary
    }

    pub(super) fn set_summary(&mut self, at: usize, summary: M::Summary) {
        self.children[at].summary = summary;
    }

    /// The child that holds `key` if any does.
    pub(super) fn route(&self, key: &[u8]) -> usize {
        match self.separators.find(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// What all keys of the child at `at` are below; None for the last one.
    pub(super) fn bound(&self, at: usize) -> Option<&[u8]> {
        (at < self.separators.len()).then(|| self.separators.key(at))
    }

    /// Adds a child at the end. `separator` stands before it, unless it is the first.
    pub(super) fn push(&mut self, separator: &[u8], node: Node<M>, summary: M::Summary) {
        if self.children.is_empty() {
            self.children.push(Child { node, summary });
        } else {
            self.insert(self.len(), separator, node, summary);
        }
    }

    /// Adds a child that is not the first, behind its separator.
    pub(super) fn insert(&mut self, at: usize, separator: &[u8], node: Node<M>, summary: M::Summary) {
        self.separators.insert(at - 1, separator, &[]);
        self.children.insert(at, Child { node, summary });
    }

    fn take(&mut self, at: usize) -> Node<M> {
        if self.separators.len() > 0 {
            self.separators.remove(at.saturating_sub(1));
        }
        self.children.remove(at).node
    }

    pub(super) fn summarize(&self) -> M::Summary {
        self.children.iter().fold(M::Summary::default(), |whole, part| M::merge(whole, part.summary))
    }

    /// Splits off the right half; where it grew at its end, only the last child, so that ascending keys fill nodes.
    pub(super) fn split_if_large(&mut self) -> Option<(Vec<u8>, Inner<M>)> {
        if self.len() <= CHILDREN_MAX {
            return None;
        }
        let at = if self.right_edge_grew() { self.len() - 1 } else { self.len() / 2 };
        let separator = self.separators.key(at - 1).to_vec();
        let right = Inner {
            separators: self.separators.part(at, self.separators.len()),
            children: self.children.split_off(at),
        };
        self.separators = self.separators.part(0, at - 1);
        Some((separator, right))
    }

    /// Splits off to the right what is too much, into nodes that are full, as this one is then, or, where it has not grown at its
    /// end, into such as are equally so. Each with the separator before it.
    pub(super) fn split_into_parts(&mut self, at_end: bool) -> Vec<(Vec<u8>, Inner<M>)> {
        let len = self.len();
        if len <= CHILDREN_MAX {
            return Vec::new();
        }
        let size = if at_end { CHILDREN_MAX } else { len.div_ceil(len.div_ceil(CHILDREN_MAX)) };
        let mut parts = Vec::new();
        let mut begin = (len - 1) / size * size;
        while begin > 0 {
            let separator = self.separators.key(begin - 1).to_vec();
            let separators = self.separators.part(begin, self.separators.len());
            parts.push((separator, Inner { separators, children: self.children.split_off(begin) }));
            self.separators = self.separators.part(0, begin - 1);
            begin -= size;
        }
        parts.reverse();
        parts
    }

    /// Whether the last child is a fresh one, as an append leaves behind.
    fn right_edge_grew(&self) -> bool {
        match &self.children[self.len() - 1].node {
            Node::Leaf(leaf) => leaf.len() == 1,
            Node::Inner(inner) => inner.len() == 1,
        }
    }

    /// After the child at `at` has lost an entry: takes it out if it is empty, joins it with a neighbour if both fit
    /// into one.
    pub(super) fn mend(&mut self, at: usize) {
        if self.children[at].node.is_empty() {
            self.take(at);
            return;
        }
        if !is_small(&self.children[at].node) {
            return;
        }
        if at + 1 < self.len() && fit_together(&self.children[at].node, &self.children[at + 1].node) {
            self.join_with_next(at);
        } else if at > 0 && fit_together(&self.children[at - 1].node, &self.children[at].node) {
            self.join_with_next(at - 1);
        }
    }

    fn join_with_next(&mut self, at: usize) {
        let summary = M::merge(self.children[at].summary, self.children[at + 1].summary);
        let separator = self.separators.key(at).to_vec();
        let right = self.take(at + 1);
        match (&mut self.children[at].node, right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.join(&right),
            (Node::Inner(left), Node::Inner(right)) => {
                let left = Arc::make_mut(left);
                for child in 0..right.len() {
                    let bound = if child == 0 { &separator[..] } else { right.separators.key(child - 1) };
                    left.push(bound, right.children[child].node.clone(), right.children[child].summary);
                }
            }
            _ => unreachable!("children of one node stand on one level"),
        }
        self.children[at].summary = summary;
    }
}

fn is_small<M: Measure>(node: &Node<M>) -> bool {
    match node {
        Node::Leaf(leaf) => leaf.bytes() < LEAF_BYTES_MIN,
        Node::Inner(inner) => inner.len() < CHILDREN_MIN,
    }
}

fn fit_together<M: Measure>(left: &Node<M>, right: &Node<M>) -> bool {
    match (left, right) {
        (Node::Leaf(left), Node::Leaf(right)) => left.bytes() + right.bytes() <= LEAF_BYTES_MAX * 3 / 4,
        (Node::Inner(left), Node::Inner(right)) => left.len() + right.len() <= CHILDREN_MAX * 3 / 4,
        _ => false,
    }
}
