//! Entries in order, from any key on.

use super::{Measure, Node, inner::Inner, leaf::Leaf};

/// Borrowed entries in ascending order of key. Holds a path, not a copy.
pub struct Iter<'a, M: Measure> {
    path: Vec<(&'a Inner<M>, usize)>,
    leaf: Option<(&'a Leaf, usize)>,
}

impl<'a, M: Measure> Iter<'a, M> {
    pub(super) fn new(root: &'a Node<M>, from: &[u8]) -> Self {
        let mut iter = Iter { path: Vec::new(), leaf: None };
        let mut node = root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = if from.is_empty() { 0 } else { leaf.find(from).unwrap_or_else(|at| at) };
                    iter.leaf = Some((leaf, at));
                    return iter;
                }
                Node::Inner(inner) => {
                    let at = if from.is_empty() { 0 } else { inner.route(from) };
                    iter.path.push((inner, at));
                    node = inner.child(at);
                }
            }
        }
    }

    fn next_leaf(&mut self) -> bool {
        while let Some((inner, at)) = self.path.last_mut() {
            *at += 1;
            if *at == inner.len() {
                self.path.pop();
                continue;
            }
            let mut node = inner.child(*at);
            loop {
                match node {
                    Node::Leaf(leaf) => {
                        self.leaf = Some((leaf, 0));
                        return true;
                    }
                    Node::Inner(inner) => {
                        self.path.push((inner, 0));
                        node = inner.child(0);
                    }
                }
            }
        }
        self.leaf = None;
        false
    }

    /// Passes over the rest of the current leaf and all following subtrees for which `skip` says so of their summary.
    /// For ranges in which most entries are of no use.
    pub fn skip_subtrees(&mut self, skip: impl Fn(M::Summary) -> bool) {
        if self.leaf.is_some_and(|(leaf, at)| at < leaf.len()) {
            return;
        }
        while let Some((inner, at)) = self.path.last_mut() {
            while *at + 1 < inner.len() && skip(inner.summary(*at + 1)) {
                *at += 1;
            }
            if *at + 1 < inner.len() {
                return;
            }
            self.path.pop();
        }
    }
}

impl<'a, M: Measure> Iterator for Iter<'a, M> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (leaf, at) = self.leaf.as_mut()?;
            if *at < leaf.len() {
                let entry = leaf.entry(*at);
                *at += 1;
                return Some(entry);
            }
            if !self.next_leaf() {
                return None;
            }
        }
    }
}
