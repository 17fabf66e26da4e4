//! An inner node: for each child a separator (no key of the child is below it), the child, its summary. The first
//! separator is never compared: what is below the second goes to the first child.

use std::sync::Arc;

use super::{
    Measure, Node,
    leaf::{self, LEAF_BYTES_MAX, LEAF_BYTES_MIN},
};

pub(super) const CHILDREN_MAX: usize = 32;
const CHILDREN_MIN: usize = CHILDREN_MAX / 4;

/// Separators in one blob, so that copying a node copies two vectors and no boxes.
#[derive(Clone, Default)]
struct Separators {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Separators {
    fn span(&self, at: usize) -> (usize, usize) {
        let from = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        (from, self.ends[at] as usize)
    }

    fn get(&self, at: usize) -> &[u8] {
        let (from, to) = self.span(at);
        &self.bytes[from..to]
    }

    fn insert(&mut self, at: usize, separator: &[u8]) {
        let from = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        self.bytes.splice(from..from, separator.iter().copied());
        self.ends.insert(at, (from + separator.len()) as u32);
        for end in &mut self.ends[at + 1..] {
            *end += separator.len() as u32;
        }
    }

    fn remove(&mut self, at: usize) {
        let (from, to) = self.span(at);
        self.bytes.drain(from..to);
        self.ends.remove(at);
        for end in &mut self.ends[at..] {
            *end -= (to - from) as u32;
        }
    }

    fn split_off(&mut self, at: usize) -> Separators {
        let (from, _) = self.span(at);
        let bytes = self.bytes.split_off(from);
        let ends = self.ends.split_off(at).into_iter().map(|end| end - from as u32).collect();
        Separators { ends, bytes }
    }
}

pub(super) struct Inner<M: Measure> {
    separators: Separators,
    children: Vec<Node<M>>,
    summaries: Vec<M::Summary>,
}

impl<M: Measure> Default for Inner<M> {
    fn default() -> Self {
        Inner { separators: Separators::default(), children: Vec::new(), summaries: Vec::new() }
    }
}

impl<M: Measure> Clone for Inner<M> {
    fn clone(&self) -> Self {
        Inner {
            separators: self.separators.clone(),
            children: self.children.clone(),
            summaries: self.summaries.clone(),
        }
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
        &self.children[at]
    }

    pub(super) fn child_mut(&mut self, at: usize) -> &mut Node<M> {
        &mut self.children[at]
    }

    pub(super) fn summary(&self, at: usize) -> M::Summary {
        self.summaries[at]
    }

    pub(super) fn set_summary(&mut self, at: usize, summary: M::Summary) {
        self.summaries[at] = summary;
    }

    /// The child that holds `key` if any does.
    pub(super) fn route(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (1, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.separators.get(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low - 1
    }

    pub(super) fn push(&mut self, separator: &[u8], node: Node<M>, summary: M::Summary) {
        self.insert(self.len(), separator, node, summary);
    }

    pub(super) fn insert(&mut self, at: usize, separator: &[u8], node: Node<M>, summary: M::Summary) {
        self.separators.insert(at, separator);
        self.children.insert(at, node);
        self.summaries.insert(at, summary);
    }

    fn take(&mut self, at: usize) -> Node<M> {
        self.separators.remove(at);
        self.summaries.remove(at);
        self.children.remove(at)
    }

    pub(super) fn summarize(&self) -> M::Summary {
        self.summaries.iter().fold(M::Summary::default(), |whole, part| M::merge(whole, *part))
    }

    /// Splits off the right half; where it grew at its end, only the last child, so that ascending keys fill nodes.
    pub(super) fn split_if_large(&mut self) -> Option<(Vec<u8>, Inner<M>)> {
        if self.len() <= CHILDREN_MAX {
            return None;
        }
        let at = if self.right_edge_grew() { self.len() - 1 } else { self.len() / 2 };
        let separator = self.separators.get(at).to_vec();
        let right = Inner {
            separators: self.separators.split_off(at),
            children: self.children.split_off(at),
            summaries: self.summaries.split_off(at),
        };
        Some((separator, right))
    }

    /// Whether the last child is a fresh one, as an append leaves behind.
    fn right_edge_grew(&self) -> bool {
        match &self.children[self.len() - 1] {
            Node::Leaf(leaf) => leaf.len() == 1,
            Node::Inner(inner) => inner.len() == 1,
        }
    }

    /// After the child at `at` has lost an entry: takes it out if it is empty, joins it with a neighbour if both fit
    /// into one.
    pub(super) fn mend(&mut self, at: usize) {
        if self.children[at].is_empty() {
            self.take(at);
            return;
        }
        if !is_small(&self.children[at]) {
            return;
        }
        if at + 1 < self.len() && fit_together(&self.children[at], &self.children[at + 1]) {
            self.join_with_next(at);
        } else if at > 0 && fit_together(&self.children[at - 1], &self.children[at]) {
            self.join_with_next(at - 1);
        }
    }

    fn join_with_next(&mut self, at: usize) {
        let summary = M::merge(self.summaries[at], self.summaries[at + 1]);
        let separator = self.separators.get(at + 1).to_vec();
        let right = self.take(at + 1);
        match (&mut self.children[at], right) {
            (Node::Leaf(left), Node::Leaf(right)) => leaf::own(left, right.bytes()).join(&right),
            (Node::Inner(left), Node::Inner(right)) => {
                let left = Arc::make_mut(left);
                for child in 0..right.len() {
                    // The first separator of the right node may be unset: its parent knew the bound.
                    let bound = if child == 0 { &separator[..] } else { right.separators.get(child) };
                    left.push(bound, right.children[child].clone(), right.summaries[child]);
                }
            }
            _ => unreachable!("children of one node stand on one level"),
        }
        self.summaries[at] = summary;
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
