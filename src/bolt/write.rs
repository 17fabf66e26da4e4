//! Makes a database in two passes that take the same steps: the first knows sizes only and gives the layout, so that the
//! file's length and what it begins with are known; the second has the entries and gives pages in their order. What is
//! held is one leaf and, of each level above, one branch page under construction.
//!
//! Pages are numbered as they become full: a leaf, then the branch page that it fills, if it fills one, and so on. Leaves
//! are filled to the brim. A branch page has two children at least: bbolt relies on that when it removes entries.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::{
    BRANCH_PAGE, BUCKET_ELEMENT, BUCKET_HEAD_BYTES, ELEMENT_BYTES, FREELIST_PAGE, LEAF_PAGE, META_PAGE, Meta,
    PAGE_BYTES, PAGE_HEAD_BYTES, PageHead,
};

/// The page of the list of free pages. There are none, and with this nobody has to look for them.
const FREELIST: u64 = 2;

/// The first page of a bucket's.
const FIRST: u64 = 3;

/// A bucket whose one page takes no more than this is a value in the root bucket, as in bbolt.
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;

/// What is left over when a branch page is closed, and so what every branch page has at least.
const CHILDREN_MIN: usize = 2;

/// Where a bucket's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the root bucket, as a value of so many bytes.
    Inline(usize),
    /// In a tree that begins with this page.
    Tree(u64),
}

impl Place {
    /// Bytes of its value in the root bucket.
    fn bytes(self) -> usize {
        match self {
            Place::Inline(bytes) => bytes,
            Place::Tree(_) => BUCKET_HEAD_BYTES,
        }
    }
}

/// What the first pass knows of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Names and places of the buckets, in order.
    buckets: Vec<(Vec<u8>, Place)>,
    root: u64,
    pages: u64,
}

impl Layout {
    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

// ---- the first pass ----

/// Is told the sizes of all entries, bucket by bucket.
#[derive(Debug)]
pub struct Planner {
    buckets: Vec<(Vec<u8>, Place)>,
    pages: Counted,
}

impl Default for Planner {
    fn default() -> Self {
        Planner { buckets: Vec::new(), pages: Counted { next: FIRST } }
    }
}

impl Planner {
    /// A bucket by its name and the lengths of its entries' keys and values. Buckets come in order of name, entries in
    /// order of key. Gives the pages that it alone takes, all of them leaves and branches of its tree.
    pub fn bucket(&mut self, name: &str, entries: impl IntoIterator<Item = (usize, usize)>) -> Range<u64> {
        let first = self.pages.next;
        let in_order = self.buckets.last().is_none_or(|(last, _)| last[..] < *name.as_bytes());
        assert!(in_order, "bucket {name} comes out of order");
        let mut tree = Tree::default();
        for (key, value) in entries {
            tree.entry(key + value, || key, &mut self.pages);
        }
        let place = match tree.inline_bytes() {
            Some(bytes) => Place::Inline(BUCKET_HEAD_BYTES + bytes),
            None => Place::Tree(tree.finish(&mut self.pages)),
        };
        self.buckets.push((name.into(), place));
        first..self.pages.next
    }

    pub fn finish(self) -> Layout {
        let Planner { buckets, mut pages } = self;
        let mut tree = Tree::default();
        for (name, place) in &buckets {
            tree.entry(name.len() + place.bytes(), || name.len(), &mut pages);
        }
        let root = tree.finish(&mut pages);
        Layout { buckets, root, pages: pages.next }
    }
}

/// Pages by their number alone.
#[derive(Debug)]
struct Counted {
    next: u64,
}

impl Counted {
    /// Room for so many bytes; gives the page that it begins with.
    fn take(&mut self, bytes: usize) -> u64 {
        let page = self.next;
        self.next += bytes.div_ceil(PAGE_BYTES) as u64;
        page
    }
}

impl Pages<usize> for Counted {
    fn leaf(&mut self, bytes: usize) -> u64 {
        self.take(bytes)
    }

    fn branch(&mut self, _: &[Child<usize>], bytes: usize) -> u64 {
        self.take(bytes)
    }
}

// ---- what both passes have in common ----

/// What becomes of pages that are full. Both give the page's number.
trait Pages<K> {
    fn leaf(&mut self, bytes: usize) -> u64;

    fn branch(&mut self, children: &[Child<K>], bytes: usize) -> u64;
}

/// A key, or no more than its length.
trait Key {
    fn bytes(&self) -> usize;
}

impl Key for usize {
    fn bytes(&self) -> usize {
        *self
    }
}

impl Key for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// A page by its first key.
#[derive(Debug)]
struct Child<K> {
    key: K,
    page: u64,
}

/// A tree as it grows: the leaf that is being filled, and of each level above the branch page that is.
#[derive(Debug)]
struct Tree<K> {
    /// Of the leaf.
    count: usize,
    bytes: usize,
    first: Option<K>,
    levels: Vec<Vec<Child<K>>>,
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Tree { count: 0, bytes: PAGE_HEAD_BYTES, first: None, levels: Vec::new() }
    }
}

impl<K: Key> Tree<K> {
    /// Makes room for an entry whose key and value have so many bytes together, and counts it in.
    fn entry(&mut self, bytes: usize, key: impl FnOnce() -> K, pages: &mut impl Pages<K>) {
        let bytes = ELEMENT_BYTES + bytes;
        if self.count > 0 && self.bytes + bytes > PAGE_BYTES {
            self.close_leaf(pages);
        }
        if self.count == 0 {
            self.first = Some(key());
        }
        self.count += 1;
        self.bytes += bytes;
    }

    /// The bytes of its one page, if it has no more than one and that is small.
    fn inline_bytes(&self) -> Option<usize> {
        (self.levels.is_empty() && self.bytes <= INLINE_BYTES_MAX).then_some(self.bytes)
    }

    fn close_leaf(&mut self, pages: &mut impl Pages<K>) {
        let page = pages.leaf(self.bytes);
        let key = self.first.take().expect("a leaf that is not alone has an entry");
        (self.count, self.bytes) = (0, PAGE_HEAD_BYTES);
        self.push(0, Child { key, page }, pages);
    }

    fn push(&mut self, level: usize, child: Child<K>, pages: &mut impl Pages<K>) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let children = &mut self.levels[level];
        children.push(child);
        if children.len() >= 2 * CHILDREN_MIN && branch_bytes(children) > PAGE_BYTES {
            let rest = children.split_off(children.len() - CHILDREN_MIN);
            let full = std::mem::replace(children, rest);
            let parent = close_branch(full, pages);
            self.push(level + 1, parent, pages);
        }
    }

    /// Closes what is open and gives the page that the tree begins with.
    fn finish(mut self, pages: &mut impl Pages<K>) -> u64 {
        if self.levels.is_empty() {
            return pages.leaf(self.bytes);
        }
        self.close_leaf(pages);
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            assert!(children.len() >= CHILDREN_MIN, "a branch page has two children");
            let parent = close_branch(children, pages);
            level += 1;
            if level == self.levels.len() {
                return parent.page;
            }
            self.push(level, parent, pages);
        }
    }
}

fn branch_bytes<K: Key>(children: &[Child<K>]) -> usize {
    PAGE_HEAD_BYTES + children.iter().map(|child| ELEMENT_BYTES + child.key.bytes()).sum::<usize>()
}

fn close_branch<K: Key>(children: Vec<Child<K>>, pages: &mut impl Pages<K>) -> Child<K> {
    let page = pages.branch(&children, branch_bytes(&children));
    let first = children.into_iter().next().expect("a branch page has children");
    Child { key: first.key, page }
}

// ---- the second pass ----

/// A part of a value.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a, T> {
    Bytes(&'a [u8]),
    /// So many bytes that are put in later.
    Later(T, usize),
}

impl<T> Part<'_, T> {
    fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Later(_, len) => *len,
        }
    }
}

/// Bytes that are to be put in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole<T> {
    pub at: usize,
    pub len: usize,
    pub what: T,
}

/// Is told all entries in the order in which a `Planner` was told their sizes, and makes the pages.
#[derive(Debug)]
pub struct Writer<T> {
    layout: Layout,
    tree: Tree<Vec<u8>>,
    pages: Written<T>,
    /// The buckets that are done, as values of the root bucket.
    done: Vec<Unfilled<T>>,
}

/// Bytes with their holes.
type Unfilled<T> = (BytesMut, Vec<Hole<T>>);

impl<T: Copy> Writer<T> {
    /// Begins a file: its first pages are there at once.
    pub fn new(layout: Layout) -> Self {
        let mut out = BytesMut::with_capacity(FIRST as usize * PAGE_BYTES);
        for id in [0, 1] {
            let meta = Meta {
                page_bytes: PAGE_BYTES as u32,
                root: layout.root,
                freelist: Some(FREELIST),
                pages: layout.pages,
                // The lower bit is the page's number: a later transaction overwrites the one before the last.
                transaction: 2 - id,
            };
            out.put_slice(&PageHead { id, flags: META_PAGE, count: 0, overflow: 0 }.encode());
            out.put_slice(&meta.encode());
            fill_page(&mut out);
        }
        out.put_slice(&PageHead { id: FREELIST, flags: FREELIST_PAGE, count: 0, overflow: 0 }.encode());
        fill_page(&mut out);
        let pages = Written { next: FIRST, out, holes: Vec::new(), leaf: Gathered::default() };
        Writer { layout, tree: Tree::default(), pages, done: Vec::new() }
    }

    /// Adds an entry to the bucket that is being written: the first, or the one after the last that was ended.
    pub fn entry(&mut self, key: &[u8], value: &[Part<'_, T>]) {
        self.put(0, key, value);
    }

    fn put(&mut self, flags: u32, key: &[u8], value: &[Part<'_, T>]) {
        assert!(!key.is_empty(), "no key is empty");
        let len: usize = value.iter().map(Part::len).sum();
        self.tree.entry(key.len() + len, || key.to_vec(), &mut self.pages);
        self.pages.leaf.push(flags, key, value, len);
    }

    /// Ends the bucket that is being written.
    ///
    /// # Panics
    /// If it has not turned out as it was planned.
    pub fn end_bucket(&mut self) {
        let tree = std::mem::take(&mut self.tree);
        let (name, place) = &self.layout.buckets[self.done.len()];
        let (mut value, mut holes) = (BytesMut::new(), Vec::new());
        match *place {
            Place::Inline(bytes) => {
                assert_eq!(tree.inline_bytes(), Some(bytes - BUCKET_HEAD_BYTES), "a bucket is as it was planned");
                value.put_bytes(0, BUCKET_HEAD_BYTES);
                self.pages.leaf.write(0, 0, &mut value, &mut holes);
            }
            Place::Tree(root) => {
                assert_eq!(tree.finish(&mut self.pages), root, "bucket {name:?} is as it was planned");
                value.put_u64_le(root);
                value.put_u64_le(0);
            }
        }
        self.done.push((value, holes));
    }

    /// Ends the file.
    ///
    /// # Panics
    /// If it has not turned out as it was planned.
    pub fn finish(&mut self) {
        let (buckets, done) = (std::mem::take(&mut self.layout.buckets), std::mem::take(&mut self.done));
        assert_eq!(buckets.len(), done.len(), "all buckets are written");
        for ((name, _), (value, holes)) in buckets.iter().zip(&done) {
            let mut parts = Vec::with_capacity(2 * holes.len() + 1);
            let mut from = 0;
            for hole in holes {
                parts.extend([Part::Bytes(&value[from..hole.at]), Part::Later(hole.what, hole.len)]);
                from = hole.at + hole.len;
            }
            parts.push(Part::Bytes(&value[from..]));
            self.put(BUCKET_ELEMENT, name, &parts);
        }
        let root = std::mem::take(&mut self.tree).finish(&mut self.pages);
        assert_eq!((root, self.pages.next), (self.layout.root, self.layout.pages), "a file is as it was planned");
    }

    /// What has been made and not been taken: whole pages.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.pages.out
    }

    /// The places in it where something is still to be put. It must be put there before any of `out` is taken.
    pub fn take_holes(&mut self) -> Vec<Hole<T>> {
        std::mem::take(&mut self.pages.holes)
    }
}

/// Pages with their bytes.
#[derive(Debug)]
struct Written<T> {
    next: u64,
    out: BytesMut,
    holes: Vec<Hole<T>>,
    /// The entries of the leaf that is being filled.
    leaf: Gathered<T>,
}

impl<T> Written<T> {
    fn begin(&mut self, bytes: usize) -> (u64, u32) {
        let (page, pages) = (self.next, bytes.div_ceil(PAGE_BYTES) as u64);
        self.next += pages;
        (page, u32::try_from(pages - 1).expect("a page is smaller than 16 TiB"))
    }
}

impl<T: Copy> Pages<Vec<u8>> for Written<T> {
    fn leaf(&mut self, bytes: usize) -> u64 {
        let (page, overflow) = self.begin(bytes);
        let at = self.out.len();
        self.leaf.write(page, overflow, &mut self.out, &mut self.holes);
        debug_assert_eq!(self.out.len() - at, bytes);
        fill_page(&mut self.out);
        page
    }

    fn branch(&mut self, children: &[Child<Vec<u8>>], bytes: usize) -> u64 {
        let (id, overflow) = self.begin(bytes);
        let head = PageHead { id, flags: BRANCH_PAGE, count: count_of(children.len()), overflow };
        self.out.put_slice(&head.encode());
        let mut place = children.len() * ELEMENT_BYTES;
        for Child { key, page } in children {
            self.out.put_u32_le(place as u32);
            self.out.put_u32_le(key.len() as u32);
            self.out.put_u64_le(*page);
            place = place - ELEMENT_BYTES + key.len();
        }
        for child in children {
            self.out.put_slice(&child.key);
        }
        fill_page(&mut self.out);
        id
    }
}

fn count_of(elements: usize) -> u16 {
    u16::try_from(elements).expect("a page of 4 KiB has fewer elements than 65,536")
}

/// Fills up to the end of the page: nothing before a page's end is left as it was.
fn fill_page(out: &mut BytesMut) {
    out.put_bytes(0, out.len().next_multiple_of(PAGE_BYTES) - out.len());
}

/// Entries of a leaf, their keys and values one after another.
#[derive(Debug)]
struct Gathered<T> {
    /// Flags, length of the key, length of the value.
    elements: Vec<(u32, u32, u32)>,
    data: BytesMut,
    /// Places in `data`.
    holes: Vec<Hole<T>>,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Gathered { elements: Vec::new(), data: BytesMut::new(), holes: Vec::new() }
    }
}

impl<T: Copy> Gathered<T> {
    fn push(&mut self, flags: u32, key: &[u8], value: &[Part<'_, T>], len: usize) {
        let lens = [key.len(), len].map(|len| u32::try_from(len).expect("an entry is smaller than 4 GiB"));
        self.elements.push((flags, lens[0], lens[1]));
        self.data.put_slice(key);
        for part in value {
            match *part {
                Part::Bytes(bytes) => self.data.put_slice(bytes),
                Part::Later(_, 0) => {}
                Part::Later(what, len) => {
                    self.holes.push(Hole { at: self.data.len(), len, what });
                    self.data.put_bytes(0, len);
                }
            }
        }
    }

    /// As a leaf page, its end not filled up; the next one is gathered in the same memory.
    fn write(&mut self, id: u64, overflow: u32, out: &mut BytesMut, holes: &mut Vec<Hole<T>>) {
        let head = PageHead { id, flags: LEAF_PAGE, count: count_of(self.elements.len()), overflow };
        out.put_slice(&head.encode());
        // An element names the place of its key from where it begins itself.
        let mut place = self.elements.len() * ELEMENT_BYTES;
        for (flags, key, value) in self.elements.drain(..) {
            out.put_u32_le(flags);
            out.put_u32_le(u32::try_from(place).expect("a page is smaller than 4 GiB"));
            out.put_u32_le(key);
            out.put_u32_le(value);
            place = place - ELEMENT_BYTES + key as usize + value as usize;
        }
        let base = out.len();
        holes.extend(self.holes.drain(..).map(|hole| Hole { at: base + hole.at, ..hole }));
        out.put_slice(&self.data);
        self.data.clear();
    }
}
