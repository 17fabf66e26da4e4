//! The event index: every retained change in order of revision. One writer adds at the end, and takes out what compaction
//! has made obsolete; a clone is O(1) and an immutable view. Knows no keys' order and no values: the index above does.
//!
//! Events lie in pages of about 64, pages in a tree whose nodes know the first revision beneath each child. Only the
//! newest page changes while the store grows, so it stands beside the tree: what a batch copies of this index is that
//! page.

mod page;

use std::sync::Arc;

use self::page::{PAGE_BYTES, Page};
use super::{
    codec::{self, EventRef},
    types::Revision,
};

/// Children of an inner node: a million events are three levels.
const CHILDREN_MAX: usize = 32;

#[derive(Clone)]
enum Node {
    Page(Arc<Page>),
    Inner(Arc<Inner>),
}

/// Children and, of each, a revision that is not above any beneath it and above all beneath the child before.
#[derive(Clone, Default)]
struct Inner {
    firsts: Vec<Revision>,
    children: Vec<Node>,
}

#[derive(Clone, Default)]
pub struct Events {
    /// All pages but the newest. Every page is equally deep.
    root: Arc<Inner>,
    newest: Arc<Page>,
    len: u64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events({})", self.len)
    }
}

impl Events {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The event of a revision, if it is retained.
    pub fn get(&self, revision: Revision) -> Option<EventRef<'_>> {
        let mut page = &*self.newest;
        if page.len() == 0 || revision < page.revision(0) {
            let mut inner = &*self.root;
            page = loop {
                match inner.children.get(inner.route(revision)?)? {
                    Node::Page(page) => break page,
                    Node::Inner(child) => inner = child,
                }
            };
        }
        page.find(revision).ok().map(|at| page.event(at))
    }

    /// The newest revision that has an event.
    pub fn last(&self) -> Option<Revision> {
        if self.newest.len() > 0 {
            return Some(self.newest.revision(self.newest.len() - 1));
        }
        let mut inner = &*self.root;
        loop {
            match inner.children.last()? {
                Node::Page(page) => return Some(page.revision(page.len() - 1)),
                Node::Inner(child) => inner = child,
            }
        }
    }

    /// Adds an event; its revision must be above all others'.
    pub fn push(&mut self, event: &EventRef<'_>) {
        debug_assert!(self.last().is_none_or(|last| last < event.meta.revision), "events come in order of revision");
        self.page_for(event.key.len() + EVENT_BYTES_BESIDE_KEY).push(event);
    }

    /// Adds an event by its spelling (`codec::key_apart`); its revision must be above all others'.
    pub fn push_spelled(&mut self, revision: Revision, key: &[u8], rest: [&[u8]; 2]) {
        debug_assert!(self.last().is_none_or(|last| last < revision), "events come in order of revision");
        self.page_for(key.len() + EVENT_BYTES_BESIDE_KEY).push_spelled(revision, key, rest);
    }

    /// The newest page, for one more event of so many bytes.
    fn page_for(&mut self, bytes: usize) -> &mut Page {
        if !self.newest.has_room_for(bytes) {
            self.close_newest();
        }
        self.len += 1;
        own_growing(&mut self.newest)
    }

    fn close_newest(&mut self) {
        let mut page = std::mem::take(&mut self.newest);
        if let Some(page) = Arc::get_mut(&mut page) {
            page.shrink();
        }
        self.newest = Arc::new(Page::default().growing());
        let root = Arc::make_mut(&mut self.root);
        if let Some((first, node)) = root.push_page(page.revision(0), page) {
            let left_first = root.firsts[0];
            let left = Node::Inner(std::mem::take(&mut self.root));
            self.root = Arc::new(Inner { firsts: vec![left_first, first], children: vec![left, node] });
        }
    }

    /// Puts another event of the same revision in an event's place. False if there is none of that revision.
    pub fn replace(&mut self, event: &EventRef<'_>) -> bool {
        let revision = event.meta.revision;
        if self.get(revision).is_none() {
            return false;
        }
        if self.newest.len() > 0 && revision >= self.newest.revision(0) {
            let page = own_growing(&mut self.newest);
            page.replace(page.find(revision).expect("just seen"), event);
            return true;
        }
        let mut inner = Arc::make_mut(&mut self.root);
        loop {
            let at = inner.route(revision).expect("just seen");
            match &mut inner.children[at] {
                Node::Page(page) => {
                    let page = Arc::make_mut(page);
                    page.replace(page.find(revision).expect("just seen"), event);
                    return true;
                }
                Node::Inner(child) => inner = Arc::make_mut(child),
            }
        }
    }

    /// Takes events out. `revisions` ascend; those without an event are passed over. `gone` sees each event before it
    /// goes.
    pub fn remove(&mut self, revisions: &[Revision], gone: &mut dyn FnMut(EventRef<'_>)) {
        debug_assert!(revisions.is_sorted());
        let before_newest = match self.newest.len() {
            0 => revisions.len(),
            _ => revisions.partition_point(|revision| *revision < self.newest.revision(0)),
        };
        let (old, new) = revisions.split_at(before_newest);
        let mut removed = 0;
        if !old.is_empty() && !self.root.children.is_empty() {
            removed += Arc::make_mut(&mut self.root).remove(old, gone);
            while let [Node::Inner(only)] = &self.root.children[..] {
                self.root = only.clone();
            }
        }
        if let Some(page) = page_without(&self.newest, new, gone) {
            removed += self.newest.len() - page.len();
            self.newest = Arc::new(page);
        }
        self.len -= removed as u64;
    }

    /// The events from a revision on, in order.
    pub fn iter_from(&self, from: Revision) -> Iter<'_> {
        Iter::new(self, from)
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter::new(self, Revision::ZERO)
    }
}

/// What an event takes at most beside its key: the numbers of its revision, place and links at their longest, which only
/// a store near the end of its revisions has, so that this errs by some bytes of a page and no more.
const EVENT_BYTES_BESIDE_KEY: usize = 24;

/// The page to change: itself if nobody else holds it, else a copy with room to grow.
fn own_growing(page: &mut Arc<Page>) -> &mut Page {
    if Arc::get_mut(page).is_none() {
        *page = Arc::new(page.growing());
    }
    Arc::get_mut(page).expect("just made unique")
}

/// A page without events of these revisions. None if it has none of them.
fn page_without(page: &Page, revisions: &[Revision], gone: &mut dyn FnMut(EventRef<'_>)) -> Option<Page> {
    let mut places: Vec<usize> = revisions.iter().filter_map(|revision| page.find(*revision).ok()).collect();
    places.dedup();
    if places.is_empty() {
        return None;
    }
    places.iter().for_each(|at| gone(page.event(*at)));
    let mut next = places.into_iter().peekable();
    Some(page.without(|at| next.next_if_eq(&at).is_some()))
}

impl Inner {
    /// The child that holds a revision if any does.
    #[inline]
    fn route(&self, revision: Revision) -> Option<usize> {
        self.firsts.partition_point(|first| *first <= revision).checked_sub(1)
    }

    /// Adds a page at the end. Gives a node to stand behind this one if this one is full.
    fn push_page(&mut self, first: Revision, page: Arc<Page>) -> Option<(Revision, Node)> {
        let (first, node) = match self.children.last_mut() {
            Some(Node::Inner(last)) => Arc::make_mut(last).push_page(first, page)?,
            Some(Node::Page(_)) | None => (first, Node::Page(page)),
        };
        if self.children.len() == CHILDREN_MAX {
            return Some((first, Node::Inner(Arc::new(Inner { firsts: vec![first], children: vec![node] }))));
        }
        self.firsts.push(first);
        self.children.push(node);
        None
    }

    /// Gives how many events have gone.
    fn remove(&mut self, mut revisions: &[Revision], gone: &mut dyn FnMut(EventRef<'_>)) -> usize {
        let mut removed = 0;
        let mut at = 0;
        while let Some(first) = revisions.first() {
            // Nothing is before the first child.
            at = self.route(*first).unwrap_or(at);
            let here = match self.firsts.get(at + 1) {
                Some(next) => revisions.partition_point(|revision| revision < next),
                None => revisions.len(),
            };
            let (mine, rest) = revisions.split_at(here);
            revisions = rest;
            match &mut self.children[at] {
                Node::Page(page) => {
                    if let Some(without) = page_without(page, mine, gone) {
                        removed += page.len() - without.len();
                        *page = Arc::new(without);
                    }
                }
                Node::Inner(child) => removed += Arc::make_mut(child).remove(mine, gone),
            }
        }
        if removed > 0 {
            self.mend();
        }
        removed
    }

    /// Leaves out empty children and joins neighbours that fit into one: pages never grow again, so nothing is kept free.
    fn mend(&mut self) {
        let firsts = std::mem::take(&mut self.firsts);
        let children = std::mem::take(&mut self.children);
        for (first, child) in firsts.into_iter().zip(children) {
            if child.is_empty() {
                continue;
            }
            if let Some(joined) = self.children.last().and_then(|last| last.joined(&child)) {
                *self.children.last_mut().expect("just seen") = joined;
                continue;
            }
            self.firsts.push(first);
            self.children.push(child);
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        match self {
            Node::Page(page) => page.len() == 0,
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// This and the node behind it in one, if they fit.
    fn joined(&self, right: &Node) -> Option<Node> {
        match (self, right) {
            (Node::Page(left), Node::Page(right)) => {
                let fits = left.bytes() + right.bytes() <= PAGE_BYTES * 7 / 8;
                fits.then(|| Node::Page(Arc::new(left.joined(right))))
            }
            (Node::Inner(left), Node::Inner(right)) => {
                let fits = left.children.len() + right.children.len() <= CHILDREN_MAX;
                fits.then(|| {
                    let mut joined = Inner::clone(left);
                    joined.firsts.extend_from_slice(&right.firsts);
                    joined.children.extend_from_slice(&right.children);
                    Node::Inner(Arc::new(joined))
                })
            }
            _ => unreachable!("every page is equally deep"),
        }
    }
}

/// Borrowed events in order of revision.
pub struct Iter<'a> {
    /// Nodes, each with the place of its next child.
    path: Vec<(&'a Inner, usize)>,
    page: &'a Page,
    at: usize,
    /// The newest page, until it is reached.
    newest: Option<&'a Page>,
}

impl<'a> Iter<'a> {
    fn new(events: &'a Events, from: Revision) -> Self {
        let newest = &*events.newest;
        let place_in = |page: &Page| page.find(from).unwrap_or_else(|at| at);
        if newest.len() > 0 && from >= newest.revision(0) {
            return Iter { path: Vec::new(), page: newest, at: place_in(newest), newest: None };
        }
        let mut path = Vec::new();
        let mut inner = &*events.root;
        let page = loop {
            let at = inner.route(from).unwrap_or(0);
            path.push((inner, at + 1));
            match inner.children.get(at) {
                Some(Node::Inner(child)) => inner = child,
                Some(Node::Page(page)) => break &**page,
                // There are no pages but the newest.
                None => return Iter { path: Vec::new(), page: newest, at: place_in(newest), newest: None },
            }
        };
        Iter { path, page, at: place_in(page), newest: Some(newest) }
    }

    fn next_page(&mut self) -> Option<&'a Page> {
        while let Some((inner, next)) = self.path.last_mut() {
            let Some(mut node) = inner.children.get(*next) else {
                self.path.pop();
                continue;
            };
            *next += 1;
            loop {
                match node {
                    Node::Page(page) => return Some(page),
                    Node::Inner(inner) => {
                        self.path.push((inner, 1));
                        node = &inner.children[0];
                    }
                }
            }
        }
        self.newest.take()
    }
}

impl<'a> Iter<'a> {
    /// The next event by its spelling.
    #[inline]
    pub fn next_spelled(&mut self) -> Option<(Revision, &'a [u8])> {
        while self.at == self.page.len() {
            (self.page, self.at) = (self.next_page()?, 0);
        }
        self.at += 1;
        Some(self.page.entry(self.at - 1))
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        self.next_spelled().map(|(revision, event)| codec::event(revision, event))
    }
}

#[cfg(test)]
mod tests;
