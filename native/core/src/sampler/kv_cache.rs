//! The key-value cache in pages of 16 positions: counted references, and an index of full pages by the tokens that led to
//! them, so that a prompt seen before (another sample, the next turn of a conversation) is not computed again.

use std::alloc::{Layout, alloc_zeroed};
use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};

/// Positions in a page.
pub const PAGE: usize = 16;

/// A page's number in the cache.
pub type PageId = u32;

/// The identity of a chain of full pages from the start of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainId {
    /// The chain of no pages, under the weights of this number.
    Root(u64),
    /// The chain that ended with the page published as this number.
    Page(u64),
}

impl Default for ChainId {
    fn default() -> Self {
        ChainId::Root(0)
    }
}

/// The layout of a page: keys `[head_dim][16]` (transposed: one load reads a coordinate of 16 positions) followed by values
/// `[16][head_dim]`, for each layer and key-value head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl PageLayout {
    /// Numbers in one page.
    pub fn floats(&self) -> usize {
        self.layers * self.kv_heads * 2 * PAGE * self.head_dim
    }

    /// Bytes of one page.
    pub fn bytes(&self) -> usize {
        self.floats() * size_of::<f32>()
    }

    /// Where in a page the keys of `(layer, head)` begin; its values follow `16 * head_dim` later.
    pub fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * PAGE * self.head_dim
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    parent: ChainId,
    tokens: [u32; PAGE],
}

/// A page in the index: `chain` names the chain that ends with it, `stamp` when it was last released.
#[derive(Debug)]
struct Published {
    key: Key,
    /// The weights it was computed with.
    weights: u64,
    chain: ChainId,
    stamp: u64,
}

/// Counts of pages, for tests and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCounts {
    /// All there are.
    pub total: usize,
    /// Held by a sequence.
    pub used: usize,
    /// Held by none, kept for a later prompt that begins alike.
    pub cached: usize,
    /// Ever written to: memory actually taken.
    pub touched: usize,
}

/// The key-value cache.
pub struct KvCache {
    layout: PageLayout,
    storage: Vec<f32>,
    first: usize,
    references: Vec<u32>,
    /// Last in, first out, so that memory already touched is used first.
    free: Vec<PageId>,
    published: Vec<Option<Published>>,
    index: HashMap<Key, PageId>,
    /// Published pages that no sequence holds, the least recently used first: those to evict.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
    chains: u64,
    touched: usize,
}

impl KvCache {
    /// As many pages as fit into `bytes`. The memory is only reserved: a page costs nothing until it is used.
    pub fn new(layout: PageLayout, bytes: usize) -> Result<Self> {
        const LINE: usize = 64 / size_of::<f32>();
        let count = (bytes / layout.bytes()).min(u32::MAX as usize);
        let storage = reserve(count * layout.floats() + LINE).ok_or(Error::OutOfMemory {
            op: "key-value cache",
            needed: bytes,
            limit: isize::MAX as usize,
        })?;
        let first = storage.as_ptr().align_offset(64).min(LINE);
        Ok(Self {
            layout,
            storage,
            first,
            references: vec![0; count],
            free: (0..count as u32).rev().collect(),
            published: (0..count).map(|_| None).collect(),
            index: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            chains: 0,
            touched: 0,
        })
    }

    /// The layout of each page.
    pub fn layout(&self) -> PageLayout {
        self.layout
    }

    /// All pages there are.
    pub fn total(&self) -> usize {
        self.references.len()
    }

    /// Pages that [`allocate`](Self::allocate) can still give.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// How the pages are used.
    pub fn counts(&self) -> PageCounts {
        let (total, cached) = (self.total(), self.idle.len());
        PageCounts { total, used: total - self.available(), cached, touched: self.touched }
    }

    /// The numbers of a page.
    pub fn page(&self, page: PageId) -> &[f32] {
        let start = self.start(page);
        &self.storage[start..start + self.layout.floats()]
    }

    /// The numbers of a page, to write.
    pub fn page_mut(&mut self, page: PageId) -> &mut [f32] {
        let start = self.start(page);
        &mut self.storage[start..start + self.layout.floats()]
    }

    fn start(&self, page: PageId) -> usize {
        self.first + page as usize * self.layout.floats()
    }

    /// A page that no other sequence holds; its contents are whatever they were. If none is free, it evicts the least
    /// recently used published page. `None` if every page is held.
    pub fn allocate(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                self.unpublish(page);
                page
            }
        };
        self.references[page as usize] = 1;
        self.touched = self.touched.max(page as usize + 1);
        Some(page)
    }

    /// One more holder of a page that has one.
    pub fn retain(&mut self, page: PageId) {
        self.references[page as usize] += 1;
    }

    /// One holder fewer. The last one leaves a published page in the index and frees any other.
    pub fn release(&mut self, page: PageId) {
        let references = &mut self.references[page as usize];
        *references -= 1;
        if *references > 0 {
            return;
        }
        match &mut self.published[page as usize] {
            Some(published) => {
                self.clock += 1;
                published.stamp = self.clock;
                self.idle.insert(self.clock, page);
            }
            None => self.free.push(page),
        }
    }

    /// Releases a sequence's pages, the last first: a chain is evicted from its end, and no page is kept that cannot be
    /// reached from the start.
    pub fn release_all(&mut self, pages: &mut Vec<PageId>) {
        for page in pages.drain(..).rev() {
            self.release(page);
        }
    }

    /// Holds the published page that continues `parent` with `tokens`, if there is one.
    pub fn find(&mut self, parent: ChainId, tokens: &[u32; PAGE]) -> Option<(PageId, ChainId)> {
        let page = *self.index.get(&Key { parent, tokens: *tokens })?;
        let published = self.published[page as usize].as_ref()?;
        let references = &mut self.references[page as usize];
        if *references == 0 {
            self.idle.remove(&published.stamp);
        }
        *references += 1;
        Some((page, published.chain))
    }

    /// Offers a full page to later prompts. When an equal one is already there (two sequences computed it at once: the bits
    /// are the same), `page` is released in its favour. Gives the page to hold from now on.
    pub fn publish(&mut self, page: PageId, weights: u64, parent: ChainId, tokens: &[u32; PAGE]) -> (PageId, ChainId) {
        if let Some(existing) = self.find(parent, tokens) {
            self.release(page);
            return existing;
        }
        let key = Key { parent, tokens: *tokens };
        self.chains += 1;
        let chain = ChainId::Page(self.chains);
        self.index.insert(key.clone(), page);
        self.published[page as usize] = Some(Published { key, weights, chain, stamp: 0 });
        (page, chain)
    }

    /// Drops from the index what was computed under weights that are not among `present`: it must not be found. Pages in
    /// use stay with their holders.
    pub fn forget_all_but(&mut self, present: &[u64]) {
        for page in (0..self.total() as PageId).rev() {
            let stale = self.published[page as usize].as_ref().filter(|it| !present.contains(&it.weights));
            let Some(stamp) = stale.map(|it| it.stamp) else { continue };
            self.unpublish(page);
            if self.references[page as usize] == 0 {
                self.idle.remove(&stamp);
                self.free.push(page);
            }
        }
    }

    /// Copies the contents of a page.
    pub fn copy(&mut self, from: PageId, to: PageId) {
        let (start, floats) = (self.start(from), self.layout.floats());
        let target = self.start(to);
        self.storage.copy_within(start..start + floats, target);
    }

    fn unpublish(&mut self, page: PageId) {
        if let Some(published) = self.published[page as usize].take() {
            self.index.remove(&published.key);
        }
    }
}

/// `len` zeros that take no memory until touched (which rules out an allocation aligned to a cache line: the standard
/// allocator clears those by hand). `None` where the system has no such room; `vec!` would abort.
fn reserve(len: usize) -> Option<Vec<f32>> {
    let layout = Layout::array::<f32>(len).ok()?;
    // SAFETY: `len` is at least a cache line, so the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
    if start.is_null() {
        return None;
    }
    // SAFETY: `start` came from the global allocator with the layout of `len` `f32`, and all of it is initialised to zero.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: ChainId = ChainId::Root(1);

    fn pages(count: usize) -> KvCache {
        let layout = PageLayout { layers: 1, kv_heads: 1, head_dim: 2 };
        KvCache::new(layout, count * layout.bytes()).unwrap()
    }

    #[test]
    fn counts_references_and_reuses_pages() {
        let mut pages = pages(2);
        let first = pages.allocate().unwrap();
        let second = pages.allocate().unwrap();
        assert_eq!(pages.allocate(), None);
        pages.retain(first);
        pages.release(first);
        assert_eq!(pages.available(), 0);
        pages.release(first);
        assert_eq!(pages.allocate(), Some(first));
        pages.release(first);
        pages.release(second);
        assert_eq!(pages.counts(), PageCounts { total: 2, used: 0, cached: 0, touched: 2 });
    }

    #[test]
    fn refuses_a_size_no_machine_has() {
        let layout = PageLayout { layers: 1, kv_heads: 1, head_dim: 1 << 20 };
        assert_eq!(KvCache::new(layout, isize::MAX as usize / 2).err().map(|error| error.code()), Some("OutOfMemory"));
    }

    #[test]
    fn finds_published_chains_and_evicts_them_from_the_end() {
        let mut pages = pages(3);
        let (one, two) = ([1; PAGE], [2; PAGE]);
        let (first, chain) = {
            let page = pages.allocate().unwrap();
            pages.publish(page, 1, ROOT, &one)
        };
        let (second, _) = {
            let page = pages.allocate().unwrap();
            pages.publish(page, 1, chain, &two)
        };
        pages.release_all(&mut vec![first, second]);
        assert_eq!(pages.counts().cached, 2);
        assert_eq!(pages.find(ROOT, &two), None);
        assert_eq!(pages.find(ROOT, &one), Some((first, chain)));
        pages.release(first);
        // Two allocations: the free page, then the end of the chain. Its start can still be found.
        let third = pages.allocate().unwrap();
        assert_eq!(pages.allocate(), Some(second));
        assert_eq!(pages.find(chain, &two), None);
        assert_eq!(pages.find(ROOT, &one), Some((first, chain)));
        pages.release_all(&mut vec![first, second, third]);
        pages.forget_all_but(&[]);
        assert_eq!(pages.find(ROOT, &one), None);
        assert_eq!(pages.counts(), PageCounts { total: 3, used: 0, cached: 0, touched: 3 });
    }

    #[test]
    fn equal_pages_become_one() {
        let mut pages = pages(2);
        let (first, second) = (pages.allocate().unwrap(), pages.allocate().unwrap());
        let held = pages.publish(first, 1, ROOT, &[7; PAGE]);
        assert_eq!(pages.publish(second, 1, ROOT, &[7; PAGE]), held);
        assert_eq!(pages.available(), 1);
    }

    #[test]
    fn weights_have_chains_of_their_own() {
        let mut pages = pages(3);
        let other = ChainId::Root(2);
        let (first, second) = (pages.allocate().unwrap(), pages.allocate().unwrap());
        let held = pages.publish(first, 1, ROOT, &[7; PAGE]);
        assert_eq!(pages.find(other, &[7; PAGE]), None);
        let theirs = pages.publish(second, 2, other, &[7; PAGE]);
        assert!(held.0 != theirs.0 && held.1 != theirs.1);
        pages.release_all(&mut vec![held.0, theirs.0]);
        pages.forget_all_but(&[2]);
        assert_eq!(pages.find(ROOT, &[7; PAGE]), None);
        assert_eq!(pages.find(other, &[7; PAGE]), Some(theirs));
        assert_eq!(pages.counts(), PageCounts { total: 3, used: 1, cached: 0, touched: 2 });
    }

    #[test]
    fn forgetting_keeps_the_pages_in_use() {
        let mut pages = pages(2);
        let page = pages.allocate().unwrap();
        pages.publish(page, 1, ROOT, &[7; PAGE]);
        pages.forget_all_but(&[]);
        assert_eq!(pages.available(), 1);
        pages.release(page);
        assert_eq!(pages.available(), 2);
    }
}
