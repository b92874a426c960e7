//! Attention: against the oracle, against finite differences, and independence of cut and company.

use crate::common::{Rng, assert_close, bits, isas};
use quintain_core::kernels::{
    GradSpan, Isa, KeySpan, Queries, attend, attend_backward, attend_rows, attend_rows_backward, reference,
};

/// One key-value head: keys transposed with some slack, values with a stride, in spans of given lengths.
struct Cache {
    dim: usize,
    lens: Vec<usize>,
    kt: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

const SLACK: usize = 3;

impl Cache {
    fn new(keys: &[f32], values: &[f32], dim: usize, lens: Vec<usize>) -> Cache {
        let (mut kt, mut v, mut first) = (Vec::new(), Vec::new(), 0);
        for len in &lens {
            // Slack holds NaN: reading it would show.
            let mut span = vec![f32::NAN; dim * (len + SLACK) - SLACK];
            let mut rows = vec![f32::NAN; len * (dim + SLACK)];
            for at in 0..*len {
                for d in 0..dim {
                    span[d * (len + SLACK) + at] = keys[(first + at) * dim + d];
                    rows[at * (dim + SLACK) + d] = values[(first + at) * dim + d];
                }
            }
            kt.push(span);
            v.push(rows);
            first += len;
        }
        Cache { dim, lens, kt, v }
    }

    fn spans(&self) -> Vec<KeySpan> {
        let parts = self.lens.iter().zip(self.kt.iter().zip(&self.v));
        let span = |(len, (kt, v)): (&usize, (&Vec<f32>, &Vec<f32>))| KeySpan {
            kt: kt.as_ptr(),
            kt_stride: len + SLACK,
            v: v.as_ptr(),
            v_stride: self.dim + SLACK,
            len: *len,
        };
        parts.map(span).collect()
    }
}

fn cut(rng: &mut Rng, positions: usize) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut left = positions;
    while left > 0 {
        let (_, len) = rng.range(left);
        lens.push(len);
        left -= len;
    }
    lens
}

struct Case {
    heads: usize,
    dim: usize,
    positions: usize,
    visible: Vec<usize>,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, heads: usize, dim: usize, rows: usize, before: usize) -> Case {
        let positions = before + rows;
        let visible = (before + 1..=positions).collect();
        let (q, keys) = (rng.normal(rows * heads * dim), rng.normal(positions * dim));
        Case { heads, dim, positions, visible, q, keys, values: rng.normal(positions * dim) }
    }

    fn all(rng: &mut Rng) -> Vec<Case> {
        let shapes = [
            (1, 8, 1, 0),
            (3, 64, 40, 9),
            (3, 64, 1, 200),
            (2, 16, 5, 30),
            (4, 32, 33, 0),
            (1, 128, 3, 17),
            (2, 10, 7, 3),
        ];
        shapes.into_iter().map(|(heads, dim, rows, before)| Case::new(rng, heads, dim, rows, before)).collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn cache(&self, lens: Vec<usize>) -> Cache {
        Cache::new(&self.keys, &self.values, self.dim, lens)
    }

    fn queries(&self) -> Queries<'_> {
        Queries {
            q: self.q.as_ptr(),
            q_stride: self.heads * self.dim,
            visible: &self.visible,
            heads: self.heads,
            head_dim: self.dim,
            scale: self.scale(),
        }
    }

    /// `(out, lse)` of all rows at once.
    fn forward(&self, isa: Isa, cache: &Cache) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut lse) = (vec![0.0; self.q.len()], vec![0.0; self.visible.len() * self.heads]);
        let width = self.heads * self.dim;
        // SAFETY: the cache outlives the call and covers all positions.
        unsafe {
            let (out, lse) = (out.as_mut_ptr(), lse.as_mut_ptr());
            attend_rows(isa, &self.queries(), &cache.spans(), &mut Vec::new(), out, width, lse, self.heads);
        }
        (out, lse)
    }

    /// `(dq, dk, dv)` of all rows at once, on top of what is given.
    fn backward(
        &self,
        isa: Isa,
        cache: &Cache,
        dout: &[f32],
        (out, lse): (&[f32], &[f32]),
        start: f32,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let size = self.positions * self.dim;
        let (mut dq, mut dk, mut dv) = (vec![start; self.q.len()], vec![start; size], vec![start; size]);
        let width = self.heads * self.dim;
        let grads = grads(cache, &mut dk, &mut dv);
        // SAFETY: as above; the gradients cover all positions.
        unsafe {
            let (queries, spans) = (self.queries(), cache.spans());
            let (dout, out, lse, dq) = (dout.as_ptr(), out.as_ptr(), lse.as_ptr(), dq.as_mut_ptr());
            let scratch = &mut vec![f32::NAN; 7];
            let heads = self.heads;
            attend_rows_backward(isa, &queries, dout, out, width, lse, heads, &spans, &grads, scratch, dq, width);
        }
        (dq, dk, dv)
    }
}

fn grads(cache: &Cache, dk: &mut [f32], dv: &mut [f32]) -> Vec<GradSpan> {
    let mut first = 0;
    let mut grad = |len: &usize| {
        let at = first * cache.dim;
        first += len;
        let (dk, dv) = (dk[at..].as_mut_ptr(), dv[at..].as_mut_ptr());
        GradSpan { dk, dk_stride: cache.dim, dv, dv_stride: cache.dim }
    };
    cache.lens.iter().map(&mut grad).collect()
}

/// Scores of unit variance and outputs below 4 carry a few roundings per step: `(dim + positions) u` with
/// `u = 2^-24`, times a margin of 16 for the exponential (2^-22.5) and for gradients, which multiply three such terms.
fn tolerance(case: &Case) -> f32 {
    16.0 * (case.dim + case.positions * case.heads) as f32 * 2f32.powi(-24)
}

#[test]
fn every_isa_agrees_with_the_oracle() {
    let mut rng = Rng::new(1);
    for case in Case::all(&mut rng) {
        let cache = case.cache(cut(&mut rng, case.positions));
        let (out, lse) = case.forward(Isa::Reference, &cache);
        let dout = rng.normal(out.len());
        let (dq, dk, dv) = case.backward(Isa::Reference, &cache, &dout, (&out, &lse), 0.5);
        for isa in isas() {
            let what = format!("{isa} heads {} dim {} positions {}", case.heads, case.dim, case.positions);
            let fast = case.forward(isa, &cache);
            assert_close(&fast.0, &out, tolerance(&case), &format!("out {what}"));
            assert_close(&fast.1, &lse, tolerance(&case), &format!("lse {what}"));
            let fast = case.backward(isa, &cache, &dout, (&out, &lse), 0.5);
            assert_close(&fast.0, &dq, tolerance(&case), &format!("dq {what}"));
            assert_close(&fast.1, &dk, tolerance(&case), &format!("dk {what}"));
            assert_close(&fast.2, &dv, tolerance(&case), &format!("dv {what}"));
        }
    }
}

#[test]
fn neither_cut_nor_company_matters() {
    let mut rng = Rng::new(2);
    for case in Case::all(&mut rng) {
        let whole = case.cache(vec![case.positions]);
        let width = case.heads * case.dim;
        for isa in Isa::supported() {
            let (out, lse) = case.forward(isa, &whole);
            let dout = rng.normal(out.len());
            let (dq, dk, dv) = case.backward(isa, &whole, &dout, (&out, &lse), 0.25);
            let cache = case.cache(cut(&mut rng, case.positions));
            let (out2, lse2) = case.forward(isa, &cache);
            assert_eq!((bits(&out2), bits(&lse2)), (bits(&out), bits(&lse)), "{isa} cut");
            let (dq2, dk2, dv2) = case.backward(isa, &cache, &dout, (&out, &lse), 0.25);
            assert_eq!((bits(&dq2), bits(&dk2), bits(&dv2)), (bits(&dq), bits(&dk), bits(&dv)), "{isa} cut backward");
            // One row at a time, with exactly the positions it sees.
            let size = case.positions * case.dim;
            let (mut dk2, mut dv2) = (vec![0.25; size], vec![0.25; size]);
            for (row, visible) in case.visible.iter().enumerate() {
                let cache = case.cache(cut(&mut rng, *visible));
                let at = row * width..(row + 1) * width;
                let heads = row * case.heads..(row + 1) * case.heads;
                let (mut o, mut l, mut d) = (vec![0.0; width], vec![0.0; case.heads], vec![0.25; width]);
                let q = &case.q[at.clone()];
                let scratch = &mut Vec::new();
                let grads = grads(&cache, &mut dk2, &mut dv2);
                // SAFETY: the cache holds what the row sees, the gradients as much.
                unsafe {
                    let (spans, scale) = (cache.spans(), case.scale());
                    attend(isa, q, case.heads, case.dim, scale, &spans, scratch, &mut o, &mut l);
                    let dout = &dout[at.clone()];
                    attend_backward(isa, q, dout, &o, &l, case.heads, case.dim, scale, &spans, &grads, scratch, &mut d);
                }
                assert_eq!((bits(&o), bits(&l)), (bits(&out[at.clone()]), bits(&lse[heads])), "{isa} row {row}");
                assert_eq!(bits(&d), bits(&dq[at]), "{isa} dq of row {row}");
            }
            if isa != Isa::Reference {
                assert_eq!((bits(&dk2), bits(&dv2)), (bits(&dk), bits(&dv)), "{isa} dk, dv row by row");
            }
        }
    }
}

/// In f64 a central difference with step 1e-5 errs by about 1e-10.
#[test]
fn backward_is_the_derivative() {
    let (dim, positions) = (6, 9);
    let mut rng = Rng::new(3);
    let mut numbers = |n: usize| rng.normal(n).into_iter().map(f64::from).collect::<Vec<_>>();
    let (q, k, v, dout) = (numbers(dim), numbers(positions * dim), numbers(positions * dim), numbers(dim));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| {
        let mut out = vec![0.0; dim];
        let lse = reference::attend(q, k, v, 0.4, &mut out);
        (out.iter().zip(&dout).map(|(a, b)| a * b).sum::<f64>(), out, lse)
    };
    let (_, out, lse) = loss(&q, &k, &v);
    let (mut dq, mut dk, mut dv) = (vec![0.0; dim], vec![0.0; k.len()], vec![0.0; v.len()]);
    reference::attend_backward((&q, &k, &v), (&out, lse, &dout), 0.4, (&mut dq, &mut dk, &mut dv));
    crate::common::check_gradient(&q, &dq, |q| loss(q, &k, &v).0);
    crate::common::check_gradient(&k, &dk, |k| loss(&q, k, &v).0);
    crate::common::check_gradient(&v, &dv, |v| loss(&q, &k, v).0);
}
