//! Takes a database apart while it comes, page by page, if its sender says which pages hold the one bucket that most of it
//! is, as `write` lays it out. The entries of that bucket's leaves are shown at once, and those pages are gone then; all
//! others are kept. What leads to the leaves comes behind them: whether they are that bucket, all of it, and in the order in
//! which they came, is found when the rest is read (`read::Database::open_kept`). Believes nothing either.

use std::{io, ops::Range};

use super::{
    BUCKET_ELEMENT, LEAF_PAGE, PAGE_BYTES, PageHead,
    read::{ReadError, Source, leaf_element},
};

/// A database on its way in.
#[derive(Debug)]
pub struct Arriving {
    /// The pages of the bucket that is shown.
    bucket: Range<u64>,
    /// The page that comes next.
    next: u64,
    /// What has come of a page that has not come whole.
    begun: Vec<u8>,
    shown: Shown,
    kept: Kept,
}

/// Leaves of a bucket that were shown as they came: in order of page, and of key.
#[derive(Debug, Default)]
pub struct Shown {
    pub(super) leaves: Vec<ShownLeaf>,
    /// The first and the last key of each.
    keys: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct ShownLeaf {
    pub page: u64,
    /// The page after it.
    pub end: u64,
    keys_at: usize,
    first_bytes: usize,
}

/// Which pages were kept, and where in what was kept.
#[derive(Debug, Default)]
pub struct Kept {
    runs: Vec<Run>,
    pages: u64,
}

/// Pages that follow each other.
#[derive(Debug)]
struct Run {
    first: u64,
    pages: u64,
    /// The place of the first among all that were kept, in pages.
    at: u64,
}

/// Is shown a key and its value; says if it will not have them.
pub type Show<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), String> + 'v;

/// Takes the bytes of pages that are kept, in their order.
pub type Keep<'k> = dyn FnMut(&[u8]) -> io::Result<()> + 'k;

impl Arriving {
    /// `bucket`: the pages of the one bucket that is shown.
    pub fn new(bucket: Range<u64>) -> Self {
        Arriving { bucket, next: 0, begun: Vec::new(), shown: Shown::default(), kept: Kept::default() }
    }

    /// Takes the bytes that come next.
    ///
    /// # Errors
    /// Where a page of the bucket is damaged or out of order; `Refused` with what `visit` has said; what `keep` says.
    pub fn take(&mut self, mut bytes: &[u8], visit: &mut Show<'_>, keep: &mut Keep<'_>) -> Result<(), ReadError> {
        while !self.begun.is_empty() {
            let missing = self.page_bytes(&self.begun)? - self.begun.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.begun.extend_from_slice(now);
            bytes = later;
            if now.len() < missing {
                return Ok(());
            }
            // A page's head may say that there is more of it.
            if self.page_bytes(&self.begun)? == self.begun.len() {
                let mut page = std::mem::take(&mut self.begun);
                self.page(&page, visit, keep)?;
                page.clear();
                self.begun = page;
            }
        }
        while !bytes.is_empty() {
            let whole = self.page_bytes(bytes)?;
            if bytes.len() < whole {
                self.begun.extend_from_slice(bytes);
                return Ok(());
            }
            let (page, later) = bytes.split_at(whole);
            self.page(page, visit, keep)?;
            bytes = later;
        }
        Ok(())
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// If something should.
    pub fn finish(self) -> Result<(Shown, Kept), ReadError> {
        if !self.begun.is_empty() || self.next < self.bucket.end {
            return Err(damaged(self.next, "it has not come"));
        }
        Ok((self.shown, self.kept))
    }

    /// How long the page is that begins so, as far as that can be told: what goes on over several is of the bucket, others
    /// are kept one by one.
    fn page_bytes(&self, begun: &[u8]) -> Result<usize, ReadError> {
        let Some(head) = PageHead::decode(begun).filter(|_| self.bucket.contains(&self.next)) else {
            return Ok(PAGE_BYTES);
        };
        if head.id != self.next {
            return Err(damaged(self.next, &format!("it says that it is page {}", head.id)));
        }
        if self.bucket.end - self.next <= u64::from(head.overflow) {
            return Err(damaged(self.next, "it goes on behind its bucket"));
        }
        Ok(PAGE_BYTES * (1 + head.overflow as usize))
    }

    fn page(&mut self, page: &[u8], visit: &mut Show<'_>, keep: &mut Keep<'_>) -> Result<(), ReadError> {
        let (id, pages) = (self.next, (page.len() / PAGE_BYTES) as u64);
        self.next += pages;
        let head = PageHead::decode(page).filter(|head| self.bucket.contains(&id) && head.flags == LEAF_PAGE);
        if let Some(head) = head {
            return self.leaf(id, usize::from(head.count), page, visit);
        }
        self.kept.add(id, pages);
        keep(page).map_err(|source| ReadError::Io { name: NAME.into(), page: id, source })
    }

    fn leaf(&mut self, id: u64, count: usize, page: &[u8], visit: &mut Show<'_>) -> Result<(), ReadError> {
        let mut first: Option<&[u8]> = None;
        let mut before = self.shown.last_key().unwrap_or_default();
        for at in 0..count {
            let Some((flags, key, value)) = leaf_element(page, at) else {
                return Err(damaged(id, &format!("its entry {at} does not lie in it")));
            };
            if key <= before {
                return Err(damaged(id, &format!("the key of its entry {at} is out of order")));
            }
            if flags & BUCKET_ELEMENT != 0 {
                return Err(damaged(id, &format!("its entry {at} is a bucket")));
            }
            visit(key, value).map_err(ReadError::Refused)?;
            (first, before) = (first.or(Some(key)), key);
        }
        let first = first.ok_or_else(|| damaged(id, "it is empty"))?;
        let (first_bytes, last) = (first.len(), before.to_vec());
        let keys_at = self.shown.keys.len();
        self.shown.keys.extend_from_slice(first);
        self.shown.keys.extend_from_slice(&last);
        self.shown.leaves.push(ShownLeaf { page: id, end: self.next, keys_at, first_bytes });
        Ok(())
    }
}

/// What errors call a database that is still coming.
const NAME: &str = "the database that comes";

fn damaged(page: u64, what: &str) -> ReadError {
    ReadError::Damaged { name: NAME.into(), page, what: what.into() }
}

impl Shown {
    /// The first and the last key of a leaf.
    pub(super) fn keys(&self, at: usize) -> (&[u8], &[u8]) {
        let ShownLeaf { keys_at, first_bytes, .. } = self.leaves[at];
        let end = self.leaves.get(at + 1).map_or(self.keys.len(), |next| next.keys_at);
        self.keys[keys_at..end].split_at(first_bytes)
    }

    fn last_key(&self) -> Option<&[u8]> {
        let last = self.leaves.len().checked_sub(1)?;
        Some(self.keys(last).1)
    }

    /// The leaf that begins with a page.
    pub(super) fn find(&self, page: u64) -> Option<usize> {
        self.leaves.binary_search_by_key(&page, |leaf| leaf.page).ok()
    }
}

impl Kept {
    fn add(&mut self, first: u64, pages: u64) {
        match self.runs.last_mut() {
            Some(run) if run.first + run.pages == first => run.pages += pages,
            _ => self.runs.push(Run { first, pages, at: self.pages }),
        }
        self.pages += pages;
    }

    /// Where bytes of the database are among what was kept.
    fn place(&self, offset: u64, len: usize) -> Option<u64> {
        let page_bytes = PAGE_BYTES as u64;
        let run = self.runs.partition_point(|run| run.first * page_bytes <= offset).checked_sub(1)?;
        let Run { first, pages, at } = self.runs[run];
        let within = offset - first * page_bytes;
        (within + len as u64 <= pages * page_bytes).then_some(at * page_bytes + within)
    }
}

/// A database of which only those pages are there that were kept.
pub struct KeptPages<S> {
    kept: Kept,
    /// What was kept.
    source: S,
    bytes: u64,
}

impl<S: Source> KeptPages<S> {
    /// `shown`: what was not kept.
    pub fn new(kept: Kept, shown: &Shown, source: S) -> Self {
        let gone: u64 = shown.leaves.iter().map(|leaf| leaf.end - leaf.page).sum();
        KeptPages { bytes: (kept.pages + gone) * PAGE_BYTES as u64, kept, source }
    }
}

impl<S: Source> Source for KeptPages<S> {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::InvalidData, "it was shown as it came, and leads nowhere");
        self.source.read_at(self.kept.place(offset, into.len()).ok_or_else(gone)?, into)
    }
}
