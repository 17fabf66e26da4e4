//! Reads a database as bbolt left it: any page size, either meta page, with a list of free pages or without, pages that
//! go on over several, branch pages of any depth, buckets within buckets, small buckets as values. Believes nothing:
//! whatever does not add up is refused with file and page, and no file makes it fall over, run in circles, or take more
//! memory than the file has bytes: of a sound one, it holds a page of each level and one bit a page.
//!
//! A page has no checksum: bytes that have changed within a key or a value are told by a digest over the file if there is
//! one, and not by this.

use std::{cell::RefCell, fs::File, io, os::unix::fs::FileExt};

use super::{
    BRANCH_PAGE, BUCKET_ELEMENT, BUCKET_HEAD_BYTES, ELEMENT_BYTES, FREELIST_PAGE, LEAF_PAGE, META_PAGE, Meta,
    PAGE_BYTES, PAGE_HEAD_BYTES, PageHead,
    arriving::{KeptPages, Shown},
    u32_at, u64_at,
};

/// Branch pages one upon another. A database of a branch page's least, two children, has so many levels when its pages no
/// longer fit any disk.
const DEPTH_MAX: usize = 48;

/// What a file's bytes come from.
pub trait Source {
    fn bytes(&self) -> io::Result<u64>;

    /// Reads all of `into` from an offset. It lies within `bytes`.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

impl Source for [u8] {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.get(from..).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn bytes(&self) -> io::Result<u64> {
        (**self).bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
}

/// A file that is mostly read as it lies: what follows on what was read before is read in large pieces.
pub struct Onward {
    file: File,
    ahead: RefCell<Ahead>,
}

#[derive(Default)]
struct Ahead {
    /// Where `bytes` lie in the file.
    from: u64,
    bytes: Vec<u8>,
    /// Where what was asked for last ends.
    next: u64,
}

const AHEAD_BYTES: u64 = 256 * 1024;

impl From<File> for Onward {
    fn from(file: File) -> Self {
        Onward { file, ahead: RefCell::default() }
    }
}

impl Source for Onward {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let ahead = &mut *self.ahead.borrow_mut();
        let end = offset + into.len() as u64;
        let follows = std::mem::replace(&mut ahead.next, end) == offset;
        let holds = |ahead: &Ahead| offset >= ahead.from && end <= ahead.from + ahead.bytes.len() as u64;
        if !holds(ahead) {
            if !follows || into.len() as u64 > AHEAD_BYTES {
                return self.file.read_exact_at(into, offset);
            }
            let room = AHEAD_BYTES.min(self.bytes()?.saturating_sub(offset));
            ahead.bytes.resize(usize::try_from(room).map_err(io::Error::other)?, 0);
            ahead.from = offset;
            if let Err(cause) = self.file.read_exact_at(&mut ahead.bytes, offset) {
                ahead.bytes.clear();
                return Err(cause);
            }
            if !holds(ahead) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let at = (offset - ahead.from) as usize;
        into.copy_from_slice(&ahead.bytes[at..at + into.len()]);
        Ok(())
    }
}

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read page {page} of {name}: {source}")]
    Io { name: String, page: u64, source: io::Error },
    #[error("page {page} of {name} is damaged: {what}")]
    Damaged { name: String, page: u64, what: String },
    #[error("{name} is no database of etcd: neither of its first two pages is what such a file begins with")]
    NoDatabase { name: String },
    /// What the one who was shown the entries has said.
    #[error("{0}")]
    Refused(String),
}

/// A database, opened.
pub struct Database<S> {
    source: S,
    name: String,
    meta: Meta,
    /// A bucket, and its leaves that were shown before this was opened.
    shown: Option<(&'static str, Shown)>,
}

/// Where a bucket's entries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// The page that its tree begins with.
    Tree(u64),
    /// Its one page, as it lay in the page of that number.
    Inline { within: u64, page: Vec<u8> },
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Value(&'a [u8]),
    Bucket(Bucket),
}

/// Is shown a key and what it stands for; says if it will not have it.
pub type ShownEntry<'v> = dyn FnMut(&[u8], Entry<'_>) -> Result<(), String> + 'v;

/// The same with the bucket's name first.
pub type ShownEntryOf<'v> = dyn FnMut(&[u8], &[u8], Entry<'_>) -> Result<(), String> + 'v;

impl<S: Source> Database<KeptPages<S>> {
    /// Opens what was kept of a database as it came; `shown` are leaves of `bucket`. `each_bucket` does not show them again,
    /// and finds whether they are where that bucket's tree leads to, all of them, in its order.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_kept(source: KeptPages<S>, name: &str, bucket: &'static str, shown: Shown) -> Result<Self, ReadError> {
        let database = Database::open(source, name)?;
        if database.meta.page_bytes as usize != PAGE_BYTES {
            return Err(database.damaged(0, format!("its pages are not of {PAGE_BYTES} bytes, as they were taken")));
        }
        Ok(Database { shown: Some((bucket, shown)), ..database })
    }
}

impl<S: Source> Database<S> {
    /// Opens a database. `name` is what errors call it.
    ///
    /// # Errors
    /// Where it is none, or its pages do not all lie in the file.
    pub fn open(source: S, name: &str) -> Result<Database<S>, ReadError> {
        let failed = |page| move |source| ReadError::Io { name: name.to_owned(), page, source };
        let bytes = source.bytes().map_err(failed(0))?;
        let meta = find_meta(&source, bytes).map_err(failed(0))?;
        let Some(meta) = meta else { return Err(ReadError::NoDatabase { name: name.into() }) };
        let database = Database { source, name: name.into(), meta, shown: None };
        let held = bytes / u64::from(meta.page_bytes);
        if meta.pages > held {
            let what = format!("the database has {} pages, the file holds {held} of them", meta.pages);
            return Err(database.damaged(held, what));
        }
        Ok(database)
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the pages in use.
    pub fn bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// The buckets at the top, in order of name.
    ///
    /// # Errors
    /// Where the pages that list them are damaged, or list anything else.
    pub fn buckets(&self) -> Result<Vec<(Vec<u8>, Bucket)>, ReadError> {
        let mut buckets = Vec::new();
        self.walk_top(&mut self.seen()?, &mut buckets)?;
        Ok(buckets)
    }

    fn walk_top(&self, seen: &mut Seen, buckets: &mut Vec<(Vec<u8>, Bucket)>) -> Result<(), ReadError> {
        self.walk(&Bucket::Tree(self.meta.root), seen, &mut |page, key, entry| match entry {
            Entry::Bucket(bucket) => {
                buckets.push((key.to_vec(), bucket));
                Ok(())
            }
            Entry::Value(_) => Err(self.damaged(page, "an entry at the top is no bucket".into())),
        })
    }

    /// Shows every entry of a bucket in order of key.
    ///
    /// # Errors
    /// Where its pages are damaged; `Refused` with what `visit` has said.
    pub fn each(&self, bucket: &Bucket, visit: &mut ShownEntry<'_>) -> Result<(), ReadError> {
        self.walk(bucket, &mut self.seen()?, &mut |_, key, entry| visit(key, entry).map_err(ReadError::Refused))
    }

    /// Shows every entry of every bucket at the top: of each bucket all entries, by its name. No page may belong to two
    /// of them.
    ///
    /// # Errors
    /// As `each`.
    pub fn each_bucket(&self, visit: &mut ShownEntryOf<'_>) -> Result<(), ReadError> {
        let (mut seen, mut buckets) = (self.seen()?, Vec::new());
        self.walk_top(&mut seen, &mut buckets)?;
        let mut passed = 0;
        for (name, bucket) in &buckets {
            let shown = self.shown.as_ref().filter(|(of, _)| of.as_bytes() == name).map(|(_, shown)| shown);
            let visit: &mut Visit<'_> = &mut |_, key, entry| visit(name, key, entry).map_err(ReadError::Refused);
            let mut walk = Walk { seen: &mut seen, visit, memory: Vec::new(), shown, passed: 0 };
            self.walk_bucket(bucket, &mut walk)?;
            passed += walk.passed;
        }
        match self.shown.as_ref().and_then(|(_, shown)| shown.leaves.get(passed)) {
            Some(leaf) => Err(self.damaged(leaf.page, "nothing leads to it, and its entries were shown".into())),
            None => Ok(()),
        }
    }

    fn damaged(&self, page: u64, what: String) -> ReadError {
        ReadError::Damaged { name: self.name.clone(), page, what }
    }

    // ---- pages ----

    /// The pages that no entry may be in: those that are free, and the file's first.
    fn seen(&self) -> Result<Seen, ReadError> {
        let mut seen = Seen::new(self.meta.pages);
        seen.mark(0);
        seen.mark(1);
        let Some(freelist) = self.meta.freelist else { return Ok(seen) };
        let mut page = Vec::new();
        let head = self.page(freelist, &mut seen, &mut page)?;
        if head.flags != FREELIST_PAGE {
            return Err(self.damaged(freelist, "the list of free pages should be here".into()));
        }
        // A count that does not fit its field stands before the list.
        let (count, from) = match head.count {
            0xffff => (u64_at(&page, PAGE_HEAD_BYTES), PAGE_HEAD_BYTES + 8),
            count => (Some(u64::from(count)), PAGE_HEAD_BYTES),
        };
        let ids = count.and_then(|count| {
            let bytes = usize::try_from(count).ok()?.checked_mul(8)?;
            page.get(from..from.checked_add(bytes)?)
        });
        let Some(ids) = ids else {
            return Err(self.damaged(freelist, "the list of free pages is longer than its pages".into()));
        };
        for id in ids.chunks_exact(8).filter_map(|id| u64_at(id, 0)) {
            if id >= self.meta.pages || !seen.mark(id) {
                return Err(self.damaged(freelist, format!("it lists page {id} as free, which cannot be")));
            }
        }
        Ok(seen)
    }

    /// Reads a page with those that belong to it. Each may be asked for once.
    fn page(&self, id: u64, seen: &mut Seen, page: &mut Vec<u8>) -> Result<PageHead, ReadError> {
        if id >= self.meta.pages {
            let what = format!("something is said to be here, but the database has {} pages", self.meta.pages);
            return Err(self.damaged(id, what));
        }
        let page_bytes = self.meta.page_bytes as usize;
        page.resize(page_bytes, 0);
        let failed = |source| ReadError::Io { name: self.name.clone(), page: id, source };
        self.source.read_at(id * page_bytes as u64, page).map_err(failed)?;
        let head = PageHead::decode(page).ok_or_else(|| self.damaged(id, "it is too short".into()))?;
        if head.id != id {
            return Err(self.damaged(id, format!("it says that it is page {}", head.id)));
        }
        let end = id + 1 + u64::from(head.overflow);
        if end > self.meta.pages {
            return Err(self.damaged(id, format!("it goes on to page {end}, of {}", self.meta.pages)));
        }
        if (id..end).any(|one| !seen.mark(one)) {
            return Err(self.damaged(id, "it is free, or belongs to something else as well".into()));
        }
        // Room is taken as bytes are read: a page's number of others is believed as far as the file goes.
        page.resize(page_bytes * (end - id) as usize, 0);
        if let Some(rest) = page.get_mut(page_bytes..).filter(|rest| !rest.is_empty()) {
            self.source.read_at((id + 1) * page_bytes as u64, rest).map_err(failed)?;
        }
        Ok(head)
    }

    // ---- trees ----

    fn walk(&self, bucket: &Bucket, seen: &mut Seen, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        self.walk_bucket(bucket, &mut Walk { seen, visit, memory: Vec::new(), shown: None, passed: 0 })
    }

    fn walk_bucket(&self, bucket: &Bucket, walk: &mut Walk<'_, '_>) -> Result<(), ReadError> {
        match bucket {
            Bucket::Tree(root) => self.walk_page(*root, &Bounds::default(), 0, walk),
            Bucket::Inline { within, page } => {
                let head = PageHead::decode(page).filter(|head| head.flags == LEAF_PAGE && head.overflow == 0);
                let Some(head) = head else {
                    return Err(self.damaged(*within, "a bucket in it is none".into()));
                };
                self.walk_leaf(*within, head, page, &Bounds::default(), walk)
            }
        }
    }

    fn walk_page(&self, id: u64, bounds: &Bounds, depth: usize, walk: &mut Walk<'_, '_>) -> Result<(), ReadError> {
        if depth > DEPTH_MAX {
            return Err(self.damaged(id, format!("more than {DEPTH_MAX} pages lead here")));
        }
        if let Some(at) = walk.shown.and_then(|shown| shown.find(id)) {
            return self.pass_shown(id, at, bounds, walk);
        }
        let mut page = walk.memory.pop().unwrap_or_default();
        let head = self.page(id, walk.seen, &mut page)?;
        let walked = match head.flags {
            LEAF_PAGE => self.walk_leaf(id, head, &page, bounds, walk),
            BRANCH_PAGE if head.count == 0 => Err(self.damaged(id, "it leads nowhere".into())),
            BRANCH_PAGE => {
                let mut before: Option<&[u8]> = None;
                for at in 0..usize::from(head.count) {
                    let Some((key, child)) = branch_element(&page, at) else {
                        return Err(self.damaged(id, format!("its entry {at} does not lie in it")));
                    };
                    self.check_key(id, at, key, before, bounds)?;
                    before = Some(key);
                    let next = branch_element(&page, at + 1).filter(|_| at + 1 < usize::from(head.count));
                    let below = next.map(|(key, _)| key.to_vec()).or_else(|| bounds.below.clone());
                    self.walk_page(child, &Bounds { from: key.to_vec(), below }, depth + 1, walk)?;
                }
                Ok(())
            }
            other => Err(self.damaged(id, format!("it should hold keys, and its kind is {other:#x}"))),
        };
        walk.memory.push(page);
        walked
    }

    /// A leaf whose entries were shown as it came: it must be the one that comes next.
    fn pass_shown(&self, id: u64, at: usize, bounds: &Bounds, walk: &mut Walk<'_, '_>) -> Result<(), ReadError> {
        let shown = walk.shown.expect("it was found there");
        let (first, last) = shown.keys(at);
        let is_next = walk.passed == at;
        walk.passed += 1;
        if !is_next || !bounds.hold(first) || !bounds.hold(last) {
            return Err(self.damaged(id, "it is not where its entries belong, and they were shown".into()));
        }
        match (id..shown.leaves[at].end).all(|one| one < self.meta.pages && walk.seen.mark(one)) {
            true => Ok(()),
            false => Err(self.damaged(id, "it is free, or belongs to something else as well".into())),
        }
    }

    fn walk_leaf(
        &self,
        id: u64,
        head: PageHead,
        page: &[u8],
        bounds: &Bounds,
        walk: &mut Walk<'_, '_>,
    ) -> Result<(), ReadError> {
        let mut before: Option<&[u8]> = None;
        for at in 0..usize::from(head.count) {
            let Some((flags, key, value)) = leaf_element(page, at) else {
                return Err(self.damaged(id, format!("its entry {at} does not lie in it")));
            };
            self.check_key(id, at, key, before, bounds)?;
            before = Some(key);
            let entry = match flags & BUCKET_ELEMENT != 0 {
                false => Entry::Value(value),
                true => Entry::Bucket(self.bucket(id, at, value)?),
            };
            (walk.visit)(id, key, entry)?;
        }
        Ok(())
    }

    fn bucket(&self, id: u64, at: usize, value: &[u8]) -> Result<Bucket, ReadError> {
        let Some(root) = u64_at(value, 0).filter(|_| value.len() >= BUCKET_HEAD_BYTES) else {
            return Err(self.damaged(id, format!("the bucket at its entry {at} is cut short")));
        };
        Ok(match root {
            0 => Bucket::Inline { within: id, page: value[BUCKET_HEAD_BYTES..].to_vec() },
            root => Bucket::Tree(root),
        })
    }

    fn check_key(
        &self,
        id: u64,
        at: usize,
        key: &[u8],
        before: Option<&[u8]>,
        bounds: &Bounds,
    ) -> Result<(), ReadError> {
        let ascends = before.is_none_or(|before| before < key);
        match ascends && bounds.hold(key) && !key.is_empty() {
            true => Ok(()),
            false => Err(self.damaged(id, format!("the key of its entry {at} is out of order"))),
        }
    }
}

/// Is shown an entry: the page it is in, its key, what the key stands for.
type Visit<'v> = dyn FnMut(u64, &[u8], Entry<'_>) -> Result<(), ReadError> + 'v;

/// What a walk through trees carries along.
struct Walk<'a, 'v> {
    seen: &'a mut Seen,
    visit: &'a mut Visit<'v>,
    /// Of pages that are done with: one a level at most.
    memory: Vec<Vec<u8>>,
    /// Leaves of this bucket that were shown before, and how many of them the walk has come by.
    shown: Option<&'a Shown>,
    passed: usize,
}

/// What the keys of a page lie between.
#[derive(Default)]
struct Bounds {
    from: Vec<u8>,
    below: Option<Vec<u8>>,
}

impl Bounds {
    fn hold(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.below.as_deref().is_none_or(|below| key < below)
    }
}

/// One bit a page.
struct Seen(Vec<u64>);

impl Seen {
    fn new(pages: u64) -> Seen {
        Seen(vec![0; pages.div_ceil(64) as usize])
    }

    /// False if it was marked before.
    fn mark(&mut self, page: u64) -> bool {
        let (word, bit) = (&mut self.0[(page / 64) as usize], 1 << (page % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Flags, key and value.
pub(super) fn leaf_element(page: &[u8], at: usize) -> Option<(u32, &[u8], &[u8])> {
    let element = PAGE_HEAD_BYTES + at * ELEMENT_BYTES;
    let [flags, place, key, value] = [0, 4, 8, 12].map(|field| u32_at(page, element + field));
    let begin = element.checked_add(place? as usize)?;
    let middle = begin.checked_add(key? as usize)?;
    let end = middle.checked_add(value? as usize)?;
    Some((flags?, page.get(begin..middle)?, page.get(middle..end)?))
}

/// Key and page.
fn branch_element(page: &[u8], at: usize) -> Option<(&[u8], u64)> {
    let element = PAGE_HEAD_BYTES + at * ELEMENT_BYTES;
    let (place, key) = (u32_at(page, element)?, u32_at(page, element + 4)?);
    let begin = element.checked_add(place as usize)?;
    Some((page.get(begin..begin.checked_add(key as usize)?)?, u64_at(page, element + 8)?))
}

/// The meta that counts: of the first two pages, the sound one of the later transaction. The first says how large pages
/// are; if it is broken, the second is looked for wherever it can be.
fn find_meta(source: &impl Source, bytes: u64) -> io::Result<Option<Meta>> {
    let at = |offset: u64| -> io::Result<Option<Meta>> {
        let mut head = [0; PAGE_HEAD_BYTES + super::META_BYTES];
        if offset + head.len() as u64 > bytes {
            return Ok(None);
        }
        source.read_at(offset, &mut head)?;
        let is_meta = PageHead::decode(&head).is_some_and(|page| page.flags == META_PAGE);
        Ok(Meta::decode(&head[PAGE_HEAD_BYTES..]).filter(|meta| is_meta && meta_holds(meta, bytes)))
    };
    if let Some(first) = at(0)? {
        let second = at(first.page_bytes.into())?;
        let later =
            second.filter(|second| second.page_bytes == first.page_bytes && second.transaction > first.transaction);
        return Ok(Some(later.unwrap_or(first)));
    }
    for size in PAGE_SIZES {
        if let Some(second) = at(size)?.filter(|second| u64::from(second.page_bytes) == size) {
            return Ok(Some(second));
        }
    }
    Ok(None)
}

/// The sizes of pages that bbolt looks for: 1 KiB to 16 MiB.
const PAGE_SIZES: [u64; 15] = {
    let mut sizes = [1024; 15];
    let mut at = 1;
    while at < sizes.len() {
        sizes[at] = 2 * sizes[at - 1];
        at += 1;
    }
    sizes
};

/// Whether numbers can be what they say they are in a file of so many bytes. More pages than the file has are told later,
/// by name.
fn meta_holds(meta: &Meta, bytes: u64) -> bool {
    PAGE_SIZES.contains(&meta.page_bytes.into())
        && meta.root < meta.pages
        && meta.freelist.is_none_or(|page| page < meta.pages)
        && meta.pages <= u64::MAX / u64::from(meta.page_bytes)
        && bytes >= u64::from(meta.page_bytes)
}
