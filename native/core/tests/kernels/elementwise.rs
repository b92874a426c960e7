//! Norms, rotary embeddings, the gated activation and softmax statistics.

use crate::common::{Rng, assert_close, bits, check_gradient, every_runtime, isas};
use quintain_core::kernels::{
    Isa, RopeTable, RowStats, Runtime, add, column_sum, dlogits, linear_dw, reference, rmsnorm, rmsnorm_backward, rope,
    row_stats, silu_mul, silu_mul_backward,
};

/// Widths around whole vectors.
const WIDTHS: [usize; 7] = [1, 8, 15, 16, 33, 64, 576];

/// `u = 2^-24`, the unit roundoff of f32.
const U: f32 = 1.0 / (1 << 24) as f32;

fn oracle() -> std::sync::Arc<Runtime> {
    Runtime::new(Some(1), Some(Isa::Reference)).unwrap()
}

/// Norms: the mean of squares errs by at most 40 roundings in sixteen lanes, an element by 4 more.
#[test]
fn rmsnorm_agrees_with_the_oracle() {
    let mut rng = Rng::new(1);
    for h in WIDTHS {
        let rows = 37;
        let (x, dy, weight) = (rng.normal(rows * h), rng.normal(rows * h), rng.normal(h));
        let run = |rt: &Runtime| {
            let (mut y, mut dx, mut dw) = (vec![0.0; rows * h], vec![0.5; rows * h], vec![0.5; h]);
            rmsnorm(rt, &x, &weight, 1e-5, &mut y, rows, h);
            rmsnorm_backward(rt, &dy, &x, &weight, 1e-5, &mut dx, Some(&mut dw), rows, h);
            (y, dx, dw)
        };
        let slow = run(&oracle());
        for rt in every_runtime() {
            let (y, dx, dw) = run(&rt);
            assert_close(&y, &slow.0, 200.0 * U, &format!("y {h} {}", rt.isa));
            // At h = 1 the gradient of a norm is a difference of equal terms as large as 1 / |x|.
            let largest = x.iter().fold(1.0_f32, |most, x| most.max(1.0 / x.abs()));
            assert_close(&dx, &slow.1, 800.0 * U * if h == 1 { largest } else { 1.0 }, &format!("dx {h} {}", rt.isa));
            assert_close(&dw, &slow.2, 400.0 * U, &format!("dw {h} {}", rt.isa));
            let mut one = vec![0.0; h];
            rmsnorm(&rt, &x[5 * h..6 * h], &weight, 1e-5, &mut one, 1, h);
            assert_eq!(bits(&one), bits(&y[5 * h..6 * h]), "a row alone {h} {}", rt.isa);
        }
    }
}

#[test]
fn rope_agrees_with_the_oracle_and_turns_back() {
    let mut rng = Rng::new(2);
    for (head_dim, heads, pad) in [(2, 1, 0), (16, 3, 5), (64, 9, 0), (34, 2, 1)] {
        let table = RopeTable::new(quintain_core::config::frequencies(10_000.0, head_dim, None), 300);
        let positions: Vec<u32> = (0..50).map(|_| rng.below(300) as u32).collect();
        let stride = heads * head_dim + pad;
        let x = rng.normal(positions.len() * stride);
        let run = |rt: &Runtime, x: &[f32], inverse| {
            let mut x = x.to_vec();
            rope(rt, &mut x, stride, heads, &positions, &table, inverse);
            x
        };
        let slow = run(&oracle(), &x, false);
        for rt in every_runtime() {
            let fast = run(&rt, &x, false);
            assert_close(&fast, &slow, 8.0 * U, &format!("rope {head_dim} {}", rt.isa));
            assert_close(&run(&rt, &fast, true), &x, 16.0 * U, &format!("rope back {head_dim} {}", rt.isa));
        }
    }
}

/// The exponential errs by 2^-22.5, the quotient and products by a few roundings of values below 20.
#[test]
fn silu_agrees_with_the_oracle() {
    let mut rng = Rng::new(3);
    let gate: Vec<f32> = rng.normal(1003).into_iter().map(|x| x * 6.0).collect();
    let (up, dout) = (rng.normal(1003), rng.normal(1003));
    let run = |rt: &Runtime| {
        let (mut out, mut dgate, mut dup) = (vec![0.0; 1003], vec![0.0; 1003], vec![0.0; 1003]);
        silu_mul(rt, &gate, &up, &mut out);
        silu_mul_backward(rt, &gate, &up, &dout, &mut dgate, &mut dup);
        (out, dgate, dup)
    };
    let slow = run(&oracle());
    for rt in every_runtime() {
        let fast = run(&rt);
        assert_close(&fast.0, &slow.0, 40.0 * 20.0 * U, "silu");
        assert_close(&fast.1, &slow.1, 40.0 * 20.0 * U, "dgate");
        assert_close(&fast.2, &slow.2, 40.0 * 20.0 * U, "dup");
        let mut part = vec![0.0; 100];
        silu_mul(&rt, &gate[7..107], &up[7..107], &mut part);
        assert_eq!(bits(&part), bits(&fast.0[7..107]), "an element's place {}", rt.isa);
    }
}

/// Statistics are sums of `n` terms in sixteen lanes: `n / 16` roundings of a relative error each.
#[test]
fn row_stats_agree_with_f64() {
    let mut rng = Rng::new(4);
    for n in [1, 5, 16, 100, 1000, 49_152] {
        for inverse_temperature in [1.0, 0.7] {
            let logits: Vec<f32> = rng.normal(n).into_iter().map(|x| x * 4.0).collect();
            let exact: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
            let (max, lse, entropy) = reference::row_stats(&exact, f64::from(inverse_temperature));
            let tolerance = (16.0 + n as f32 / 16.0) * 2.0 * U + 32.0 * 2.0 * U;
            for isa in Isa::supported() {
                let stats = row_stats(isa, &logits, inverse_temperature);
                let (fast, slow) = ([stats.max, stats.lse, stats.entropy], [max, lse, entropy]);
                assert_close(&fast, &slow.map(|x| x as f32), 8.0 * tolerance, &format!("row_stats {n} {isa}"));
                let mut gradient = logits.clone();
                let targets = [(0, 0.5), ((n - 1) as u32, -1.25), (0, 0.25)];
                dlogits(isa, &mut gradient, inverse_temperature, &stats, &targets, 0.3);
                let mut slow = exact.clone();
                let targets = targets.map(|(token, g)| (token, f64::from(g)));
                let (t, d) = (f64::from(inverse_temperature), f64::from(0.3_f32));
                reference::dlogits(&mut slow, t, (lse, entropy), &targets, d);
                let slow: Vec<f32> = slow.into_iter().map(|x| x as f32).collect();
                assert_close(&gradient, &slow, 8.0 * tolerance, &format!("dlogits {n} {isa}"));
            }
        }
    }
}

#[test]
fn hopeless_logits_stay_finite() {
    let logits = [0.0, -1e30, f32::NEG_INFINITY, 3.0];
    for isa in isas() {
        let stats = row_stats(isa, &logits, 1.0);
        assert!(stats.lse.is_finite() && stats.entropy.is_finite(), "{isa}: {stats:?}");
        let mut gradient = logits;
        dlogits(isa, &mut gradient, 1.0, &stats, &[(0, 1.0)], 0.5);
        assert!(gradient.iter().all(|x| x.is_finite()), "{isa}: {gradient:?}");
        assert!(row_stats(isa, &[1.0, f32::NAN, 0.0], 1.0).lse.is_nan(), "{isa}: NaN must not vanish");
    }
}

#[test]
fn sums_over_rows() {
    let mut rng = Rng::new(5);
    let (m, n, ld) = (70, 37, 40);
    let x = rng.normal(m * ld);
    for rt in every_runtime() {
        let mut sum = vec![1.0; n];
        column_sum(&rt, &x, m, ld, &mut sum);
        for (at, sum) in sum.iter().enumerate() {
            assert_eq!(*sum, (0..m).fold(1.0, |sum, row| sum + x[row * ld + at]));
        }
        let mut y = x.clone();
        add(&rt, &mut y, &x);
        assert!(y.iter().zip(&x).all(|(y, x)| *y == 2.0 * x));
    }
}

#[test]
fn backward_is_the_derivative() {
    let mut rng = Rng::new(6);
    let mut numbers = |n: usize| rng.normal(n).into_iter().map(f64::from).collect::<Vec<_>>();
    let h = 7;
    let (x, weight, dy) = (numbers(h), numbers(h), numbers(h));
    let weigh = |y: &[f64]| y.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>();
    let loss = |x: &[f64], weight: &[f64]| {
        let mut y = vec![0.0; h];
        reference::rmsnorm(x, weight, 1e-3, &mut y);
        weigh(&y)
    };
    let (mut dx, mut dweight) = (vec![0.0; h], vec![0.0; h]);
    reference::rmsnorm_backward(&dy, &x, &weight, 1e-3, &mut dx, Some(&mut dweight));
    check_gradient(&x, &dx, |x| loss(x, &weight));
    check_gradient(&weight, &dweight, |weight| loss(&x, weight));

    let (gate, up) = (numbers(h), numbers(h));
    let loss = |gate: &[f64], up: &[f64]| {
        weigh(&gate.iter().zip(up).map(|(gate, up)| reference::silu_mul(*gate, *up)).collect::<Vec<_>>())
    };
    let backward = |i: usize| reference::silu_mul_backward(gate[i], up[i], dy[i]);
    let (dgate, dup): (Vec<f64>, Vec<f64>) = (0..h).map(backward).unzip();
    check_gradient(&gate, &dgate, |gate| loss(gate, &up));
    check_gradient(&up, &dup, |up| loss(&gate, up));

    let (angle, head, dhead) = (numbers(3), numbers(6), numbers(6));
    let (sin, cos): (Vec<f64>, Vec<f64>) = angle.iter().map(|angle| angle.sin_cos()).unzip();
    let mut back = dhead.clone();
    reference::rope(&mut back, &cos, &sin, true);
    check_gradient(&head, &back, |head| {
        let mut head = head.to_vec();
        reference::rope(&mut head, &cos, &sin, false);
        head.iter().zip(&dhead).map(|(a, b)| a * b).sum()
    });

    let (logits, t, dentropy) = (numbers(9), 0.8, 0.7);
    let targets = [(2, 0.5), (7, -1.5), (2, 0.25)];
    let loss = |logits: &[f64]| {
        let (_, lse, entropy) = reference::row_stats(logits, t);
        let logp = |token: u32| logits[token as usize] * t - lse;
        targets.iter().map(|(token, g)| g * logp(*token)).sum::<f64>() + dentropy * entropy
    };
    let (_, lse, entropy) = reference::row_stats(&logits, t);
    let mut gradient = logits.clone();
    reference::dlogits(&mut gradient, t, (lse, entropy), &targets, dentropy);
    check_gradient(&logits, &gradient, loss);
}

#[test]
fn products_have_the_right_gradients() {
    let mut rng = Rng::new(7);
    let mut numbers = |n: usize| rng.normal(n).into_iter().map(f64::from).collect::<Vec<_>>();
    let (m, n, k) = (3, 4, 5);
    let (x, w, dy) = (numbers(m * k), numbers(n * k), numbers(m * n));
    let loss = |x: &[f64], w: &[f64]| {
        let mut y = vec![0.0; m * n];
        reference::linear(x, w, &mut y, n, k);
        y.iter().zip(&dy).map(|(a, b)| a * b).sum()
    };
    let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
    reference::linear_dx(&dy, &w, &mut dx, n, k);
    reference::linear_dw(&dy, &x, &mut dw, n, k);
    check_gradient(&x, &dx, |x| loss(x, &w));
    check_gradient(&w, &dw, |w| loss(&x, w));
}

#[test]
fn empty_input_is_no_work() {
    for rt in every_runtime() {
        let mut dw = quintain_core::kernels::PackedF32::zeros(5, 3);
        linear_dw(&rt, &[], 5, &[], 3, 0, &mut dw, false);
        linear_dw(&rt, &[], 5, &[], 3, 0, &mut dw, true);
        assert!(dw.data.iter().all(|x| *x == 0.0));
        rmsnorm(&rt, &[], &[1.0; 4], 1e-5, &mut [], 0, 4);
        silu_mul(&rt, &[], &[], &mut []);
        assert_eq!(row_stats(rt.isa, &[2.0], 1.0), RowStats { max: 2.0, lse: 2.0, entropy: 0.0 });
    }
}
