//! Attention over a token forest: every segment's keys are stored once, and each query reads the spans of its path.

use std::cell::RefCell;
use std::ops::Range;

use super::{KeyValues, Projections};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::forest::Forest;
use crate::kernels::{GradSpan, KeySpan, Queries, Runtime, SharedMut, attend_rows, attend_rows_backward};
use crate::scratch::sized;

/// Query rows of one task: enough to reuse a loaded key, few enough to balance the threads.
const ROWS: usize = 32;
/// Multiply-adds below which a second thread does not pay.
const SERIAL_WORK: usize = 100_000;

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Spans and tasks of a forest's attention, made once per batch; the transposed keys of one layer at a time.
pub(crate) struct ForestAttention<'a> {
    forest: &'a Forest,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// Number of positions each row sees.
    visible: Vec<usize>,
    /// Segments from the root to each segment.
    paths: Vec<Vec<usize>>,
    /// `(segment, rows)`
    tasks: Vec<(usize, Range<usize>)>,
    /// Transposed keys: segment after segment, `[kv_heads][head_dim][len]` each.
    keys: &'a mut Vec<f32>,
    serial: bool,
}

impl<'a> ForestAttention<'a> {
    /// `keys` is a buffer to reuse between batches.
    pub fn new(config: &ModelConfig, forest: &'a Forest, keys: &'a mut Vec<f32>) -> Self {
        let visible: Vec<usize> = forest.positions().iter().map(|&position| position as usize + 1).collect();
        let mut tasks = Vec::new();
        for (index, segment) in forest.segments().iter().enumerate() {
            let rows = segment.start..segment.start + segment.len;
            tasks.extend(rows.clone().step_by(ROWS).map(|first| (index, first..rows.end.min(first + ROWS))));
        }
        let serial = visible.iter().sum::<usize>() * config.q_width() < SERIAL_WORK;
        let (heads, kv_heads, dim) = (config.num_attention_heads, config.kv_heads(), config.head_dim());
        let paths = (0..forest.segments().len()).map(|segment| forest.path(segment)).collect();
        ForestAttention { forest, heads, kv_heads, dim, visible, paths, tasks, keys, serial }
    }

    fn run(&self, rt: &Runtime, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.serial {
            (0..tasks).for_each(body);
        } else {
            rt.parallel(tasks, body);
        }
    }

    /// Transposes the keys of a layer.
    fn store(&mut self, rt: &Runtime, k: &[f32], stride: usize) {
        let (dim, kv_heads) = (self.dim, self.kv_heads);
        let mut keys = std::mem::take(self.keys);
        sized(&mut keys, self.forest.len() * kv_heads * dim);
        let shared = SharedMut::new(&mut keys);
        self.run(rt, self.forest.segments().len() * kv_heads, |task| {
            let (segment, head) = (self.forest.segments()[task / kv_heads], task % kv_heads);
            let len = segment.len;
            let start = (segment.start * kv_heads + head * len) * dim;
            // SAFETY: the blocks of segments and heads are disjoint.
            let block = unsafe { shared.range(start..start + len * dim) };
            for row in 0..len {
                let key = &k[(segment.start + row) * stride + head * dim..][..dim];
                key.iter().enumerate().for_each(|(d, value)| block[d * len + row] = *value);
            }
        });
        *self.keys = keys;
    }

    /// The keys and values that a query of `segment` reads, of one head: the segments of its path.
    fn spans(&self, path: &[usize], head: usize, v: &[f32], stride: usize) -> Vec<KeySpan> {
        path.iter()
            .map(|&index| {
                let segment = self.forest.segments()[index];
                let start = (segment.start * self.kv_heads + head * segment.len) * self.dim;
                KeySpan {
                    kt: self.keys[start..].as_ptr(),
                    kt_stride: segment.len,
                    v: v[segment.start * stride + head * self.dim..].as_ptr(),
                    v_stride: stride,
                    len: segment.len,
                }
            })
            .collect()
    }

    fn queries(&self, q: &[f32], stride: usize, rows: Range<usize>, head: usize) -> Queries<'_> {
        let group = self.heads / self.kv_heads;
        Queries {
            q: q[rows.start * stride + head * group * self.dim..].as_ptr(),
            q_stride: stride,
            visible: &self.visible[rows],
            heads: group,
            head_dim: self.dim,
            scale: 1.0 / (self.dim as f32).sqrt(),
        }
    }

    /// Gradients of [`KeyValues::attend`]: overwrites `dqkv`, which has the layout of the projections.
    ///
    /// One task per tree and key-value head: within it rows follow one another, so sums have one order.
    pub fn backward(
        &mut self,
        rt: &Runtime,
        rows: &Projections,
        (out, lse): (&[f32], &[f32]),
        dout: &[f32],
        dqkv: &mut [f32],
    ) {
        let (dim, kv_heads, heads, stride) = (self.dim, self.kv_heads, self.heads, rows.stride);
        let (group, q_width) = (heads / kv_heads, heads * dim);
        dqkv[..rows.rows * stride].fill(0.0);
        self.store(rt, rows.k, stride);
        let base = SharedMut::new(dqkv);
        self.run(rt, self.forest.trees().len() * kv_heads, |task| {
            let (tree, head) = (&self.forest.trees()[task / kv_heads], task % kv_heads);
            for &index in tree {
                let segment = self.forest.segments()[index];
                let path = &self.paths[index];
                let spans = self.spans(path, head, rows.v, stride);
                let first = segment.start;
                let queries = self.queries(rows.q, stride, first..first + segment.len, head);
                let at = first * q_width + head * group * dim;
                let grads: Vec<GradSpan> = path
                    .iter()
                    .map(|&ancestor| {
                        let row = self.forest.segments()[ancestor].start * stride + q_width + head * dim;
                        // SAFETY: within `dqkv`: the row and column exist.
                        let (dk, dv) = unsafe { (base.as_ptr().add(row), base.as_ptr().add(row + kv_heads * dim)) };
                        GradSpan { dk, dk_stride: stride, dv, dv_stride: stride }
                    })
                    .collect();
                SCORES.with_borrow_mut(|scratch| {
                    // SAFETY: the spans cover rows of the forest within the buffers; a task writes only the rows of its
                    // tree and the columns of its head, which no other task touches.
                    unsafe {
                        let dq = base.as_ptr().add(first * stride + head * group * dim);
                        let (dout, out) = (dout[at..].as_ptr(), out[at..].as_ptr());
                        let lse = lse[first * heads + head * group..].as_ptr();
                        attend_rows_backward(
                            rt.isa, &queries, dout, out, q_width, lse, heads, &spans, &grads, scratch, dq, stride,
                        );
                    }
                });
            }
        });
    }
}

impl KeyValues for ForestAttention<'_> {
    fn attend(&mut self, rt: &Runtime, _: usize, rows: &Projections, out: &mut [f32], lse: &mut [f32]) -> Result<()> {
        let (dim, kv_heads, heads) = (self.dim, self.kv_heads, self.heads);
        let (group, q_width) = (heads / kv_heads, heads * dim);
        self.store(rt, rows.k, rows.stride);
        let (out, lse) = (SharedMut::new(out), SharedMut::new(lse));
        self.run(rt, self.tasks.len() * kv_heads, |task| {
            let ((segment, range), head) = (&self.tasks[task / kv_heads], task % kv_heads);
            let spans = self.spans(&self.paths[*segment], head, rows.v, rows.stride);
            let queries = self.queries(rows.q, rows.stride, range.clone(), head);
            SCORES.with_borrow_mut(|scratch| {
                // SAFETY: the spans cover rows of the forest within the buffers; a task writes only its rows of its head.
                unsafe {
                    let out = out.as_ptr().add(range.start * q_width + head * group * dim);
                    let lse = lse.as_ptr().add(range.start * heads + head * group);
                    attend_rows(rt.isa, &queries, &spans, scratch, out, q_width, lse, heads);
                }
            });
        });
        Ok(())
    }
}
