//! A sample under way: its tokens, and which pages hold its keys and values.

use super::kv_cache::{ChainId, KvCache, PAGE, PageId};
use super::request::Tail;
use crate::adapter::Chosen;

/// Pages that `tokens` positions take.
pub(super) fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// Where a sequence's stored tokens are in the recording of the model.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Recorded {
    /// To be looked up.
    #[default]
    Unknown,
    /// The last of them is this row.
    Row(u32),
    /// Not all of them are there.
    Not,
}

/// One sample.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub job: u64,
    /// Offset in its request.
    pub sample: u32,
    /// The prompt and what was drawn.
    pub tokens: Vec<u32>,
    /// Positions whose keys and values are in the cache.
    pub stored: usize,
    /// The pages, in the order of the positions.
    pub block_table: Vec<PageId>,
    /// Full pages published so far, and the chain they make.
    pub published: usize,
    pub chain: ChainId,
    /// The owner of the weights it is drawn from, and the present weights.
    pub chosen: Chosen,
    pub weights: u64,
    /// The weights that its pages were first computed with.
    pub begun: u64,
    pub recorded: Recorded,
    pub tail: Tail,
    /// Computes the prompt for its siblings, which wait.
    pub leads: bool,
    pub finished: bool,
}

impl Sequence {
    /// The full page of tokens from `stored` on, where a page begins there and can be shared.
    pub fn next_page(&self) -> Option<[u32; PAGE]> {
        let shared = self.begun == self.weights && self.stored.is_multiple_of(PAGE);
        let tokens = self.tokens.get(self.stored..self.stored + PAGE).filter(|_| shared)?;
        tokens.try_into().ok()
    }

    /// Another sample of the same prompt, which has been computed: shares the full pages, and copies the last, partial one
    /// to `own`.
    pub fn fork(&self, mut sibling: Sequence, own: Option<PageId>, cache: &mut KvCache) -> Sequence {
        let shared = &self.block_table[..self.stored / PAGE];
        shared.iter().for_each(|&page| cache.retain(page));
        sibling.block_table.extend_from_slice(shared);
        if let (Some(own), Some(&last)) = (own, self.block_table.last()) {
            cache.copy(last, own);
            sibling.block_table.push(own);
        }
        let (stored, published, chain, recorded) = (self.stored, self.published, self.chain, self.recorded);
        let (chosen, weights, begun) = (self.chosen, self.weights, self.begun);
        Sequence { stored, published, chain, recorded, chosen, weights, begun, ..sibling }
    }

    /// Takes published pages that continue it; its last token is always computed, for its logits.
    pub fn reuse(&mut self, cache: &mut KvCache) {
        while self.stored + PAGE < self.tokens.len()
            && let Some(tokens) = self.next_page()
            && let Some((page, chain)) = cache.find(self.chain, &tokens)
        {
            self.block_table.push(page);
            self.chain = chain;
            self.published += 1;
            self.stored += PAGE;
            self.recorded = Recorded::Unknown;
        }
    }

    /// Notes that `rows` more positions are stored, and publishes the pages that they filled.
    pub fn advance(&mut self, rows: usize, cache: &mut KvCache) {
        self.stored += rows;
        while (self.published + 1) * PAGE <= self.stored && self.begun == self.weights {
            let start = self.published * PAGE;
            let Ok(tokens) = self.tokens[start..start + PAGE].try_into() else { break };
            let page = &mut self.block_table[self.published];
            (*page, self.chain) = cache.publish(*page, self.weights, self.chain, tokens);
            self.published += 1;
        }
    }

    /// Begins without pages, under these weights.
    pub fn begin(&mut self, chosen: Chosen, weights: u64) {
        (self.chosen, self.weights, self.begun, self.chain) = (chosen, weights, weights, ChainId::Root(weights));
    }

    /// Frees its pages: they are computed again later.
    pub fn release_pages(&mut self, cache: &mut KvCache) {
        cache.release_all(&mut self.block_table);
        (self.stored, self.published, self.recorded) = (0, 0, Recorded::Unknown);
    }
}

/// Free pages, less what each running sequence will need for its tokens and one more.
pub(super) fn room_for(cache: &KvCache, running: &[Sequence]) -> isize {
    let owed = |sequence: &Sequence| pages_for(sequence.tokens.len() + 1).saturating_sub(sequence.block_table.len());
    cache.available() as isize - running.iter().map(owed).sum::<usize>() as isize
}
