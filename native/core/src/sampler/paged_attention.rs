//! Paged attention: the rows of one step over the key-value cache.

use std::cell::RefCell;

use super::kv_cache::{KvCache, PAGE, PageId};
use crate::adapter::Chosen;
use crate::error::Result;
use crate::kernels::{KeySpan, Queries, Runtime, SharedMut, attend_rows};
use crate::network::{KeyValues, Projections};

/// Consecutive rows of a step that belong to one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Index in the batch's running sequences.
    pub sequence: usize,
    /// The owner of the weights that its rows go through.
    pub chosen: Chosen,
    /// First row of the step.
    pub row: usize,
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// Where the sequence's block table begins among those of the step.
    pub table: usize,
}

/// The cache and the block tables of one step.
pub(super) struct PagedAttention<'a> {
    pub cache: &'a mut KvCache,
    pub work: &'a [Work],
    /// The block tables of the step's sequences, one after another.
    pub tables: &'a [PageId],
    /// Query heads per key-value head.
    pub group: usize,
    /// The tasks of a layer; memory kept between steps.
    pub tasks: &'a mut Vec<Place>,
}

/// Rows of one sequence that a task attends for at once.
const TASK_ROWS: usize = 32;

/// Below this many multiplications a layer's attention is not worth a second thread.
const PARALLEL_WORK: usize = 1 << 19;

#[derive(Default)]
struct Scratch {
    spans: Vec<KeySpan>,
    visible: Vec<usize>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl PagedAttention<'_> {
    fn store(&mut self, layer: usize, rows: &Projections) {
        let layout = self.cache.layout();
        let dim = layout.head_dim;
        for work in self.work {
            for step in 0..work.rows {
                let (row, position) = (work.row + step, work.position + step);
                let slot = position % PAGE;
                let page = self.cache.page_mut(self.tables[work.table + position / PAGE]);
                for head in 0..layout.kv_heads {
                    let source = row * rows.stride + head * dim;
                    let (key_page, value_page) = page[layout.offset(layer, head)..].split_at_mut(PAGE * dim);
                    for (d, &key) in rows.k[source..source + dim].iter().enumerate() {
                        key_page[d * PAGE + slot] = key;
                    }
                    value_page[slot * dim..][..dim].copy_from_slice(&rows.v[source..source + dim]);
                }
            }
        }
    }

    /// Attention of up to [`TASK_ROWS`] rows of one sequence, for the query heads of one key-value head.
    fn attend_task(&self, rt: &Runtime, place: Place, from: &Projections, to: Outputs, scratch: &mut Scratch) {
        let Place { layer, head, work, first } = place;
        let layout = self.cache.layout();
        let (dim, heads) = (layout.head_dim, layout.kv_heads * self.group);
        let start = work.position + first;
        let end = start + TASK_ROWS.min(work.rows - first);
        let Scratch { spans, visible, scores } = scratch;
        spans.clear();
        for (index, &page) in self.tables[work.table..work.table + end.div_ceil(PAGE)].iter().enumerate() {
            let (keys, values) = self.cache.page(page)[layout.offset(layer, head)..].split_at(PAGE * dim);
            let len = PAGE.min(end - index * PAGE);
            spans.push(KeySpan { kt: keys.as_ptr(), kt_stride: PAGE, v: values.as_ptr(), v_stride: dim, len });
        }
        visible.clear();
        visible.extend(start + 1..=end);
        let (row, query_head) = (work.row + first, head * self.group);
        let queries = Queries {
            q: from.q[row * from.stride + query_head * dim..].as_ptr(),
            q_stride: from.stride,
            visible,
            heads: self.group,
            head_dim: dim,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        // SAFETY: the pages outlive the call and hold `len` positions each (stored before this), `end` together; the
        // queries and the outputs have the rows named, and every task writes other rows or other heads.
        unsafe {
            let out = to.out.as_ptr().add((row * heads + query_head) * dim);
            let lse = to.lse.as_ptr().add(row * heads + query_head);
            attend_rows(rt.isa, &queries, spans, scores, out, heads * dim, lse, heads);
        }
    }
}

#[derive(Clone, Copy)]
struct Outputs<'a> {
    out: SharedMut<'a, f32>,
    lse: SharedMut<'a, f32>,
}

/// A task of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    layer: usize,
    head: usize,
    work: Work,
    first: usize,
}

impl KeyValues for PagedAttention<'_> {
    fn attend(
        &mut self,
        rt: &Runtime,
        layer: usize,
        rows: &Projections,
        out: &mut [f32],
        lse: &mut [f32],
    ) -> Result<()> {
        self.store(layer, rows);
        let layout = self.cache.layout();
        let heads = layout.kv_heads * self.group;
        assert!(out.len() == rows.rows * heads * layout.head_dim && lse.len() == rows.rows * heads, "attend: outputs");
        self.tasks.clear();
        let mut multiplications = 0;
        for &work in self.work {
            multiplications += work.rows * (work.position + work.rows) * heads * layout.head_dim;
            for first in (0..work.rows).step_by(TASK_ROWS) {
                self.tasks.extend((0..layout.kv_heads).map(|head| Place { layer, head, work, first }));
            }
        }
        let outputs = Outputs { out: SharedMut::new(out), lse: SharedMut::new(lse) };
        let this = &*self;
        let task = |index: usize| {
            SCRATCH.with_borrow_mut(|scratch| this.attend_task(rt, this.tasks[index], rows, outputs, scratch));
        };
        if multiplications < PARALLEL_WORK {
            (0..self.tasks.len()).for_each(task);
        } else {
            rt.parallel(self.tasks.len(), task);
        }
        Ok(())
    }
}
