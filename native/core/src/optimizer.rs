//! AdamW with decoupled weight decay, and the global gradient norm. Element-wise over panels, so threads change nothing.

use crate::error::{Error, Result};
use crate::kernels::{NR, PackedBf16, PackedF32, Runtime, SharedMut, bf16_from_f32};
use crate::params::{Gradients, Parameter};

/// Settings of one step. As in the transformers trainer, weight decay leaves out norms and biases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// Gradients longer than this are scaled down to it; none: no clipping.
    pub max_grad_norm: Option<f32>,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { lr: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    pub clipped: bool,
    /// The norm was not finite: nothing was updated and the gradients were dropped.
    pub skipped: bool,
    /// Version of the weights after the step.
    pub version: u64,
}

impl AdamW {
    /// Refuses settings that would destroy weights.
    pub fn validate(&self) -> Result<()> {
        let within = |name, value: f32, valid: bool| match valid && value.is_finite() {
            true => Ok(()),
            false => Err(Error::config(name, format!("is {value}, which AdamW cannot use"))),
        };
        within("lr", self.lr, self.lr >= 0.0)?;
        within("beta1", self.beta1, (0.0..1.0).contains(&self.beta1))?;
        within("beta2", self.beta2, (0.0..1.0).contains(&self.beta2))?;
        within("eps", self.eps, self.eps > 0.0)?;
        within("weight_decay", self.weight_decay, self.weight_decay >= 0.0)?;
        within("max_grad_norm", self.max_grad_norm.unwrap_or(1.0), self.max_grad_norm.is_none_or(|norm| norm > 0.0))
    }
}

/// First and second moments of the trained parameters and the number of steps taken.
#[derive(Default)]
pub struct Moments {
    pub(crate) steps: u64,
    pub(crate) list: Vec<Option<[PackedF32; 2]>>,
}

impl Moments {
    /// Allocates what is missing.
    pub(crate) fn ensure(&mut self, list: &[Parameter]) {
        self.list.resize_with(list.len(), || None);
        for (slot, p) in self.list.iter_mut().zip(list) {
            if p.trainable && slot.is_none() {
                *slot = Some([PackedF32::zeros(p.n, p.k), PackedF32::zeros(p.n, p.k)]);
            }
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.list.iter().flatten().flatten().map(|moment| size_of_val(&*moment.data)).sum()
    }
}

/// Numbers summed by one task: fixed, so the order of the sum is too.
const BLOCK: usize = 64 * 1024;

/// Euclidean norm of all gradients, in f64: blocks of fixed size, added in order.
pub fn global_norm(rt: &Runtime, gradients: &Gradients) -> f64 {
    let mut total = 0.0;
    for gradient in gradients.iter() {
        let mut sums = vec![0.0; gradient.data.len().div_ceil(BLOCK)];
        let shared = SharedMut::new(&mut sums);
        rt.parallel(gradient.data.len().div_ceil(BLOCK), |block| {
            let values = &gradient.data[block * BLOCK..gradient.data.len().min((block + 1) * BLOCK)];
            // SAFETY: each block has its own sum.
            let sum = unsafe { shared.range(block..block + 1) };
            sum[0] = squares(values);
        });
        total += sums.iter().sum::<f64>();
    }
    total.sqrt()
}

/// Sum of squares in eight lanes.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for chunk in values.chunks(8) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}

/// Constants of one step, as PyTorch computes them.
struct Update {
    gradient_scale: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    step_size: f32,
    correction2_sqrt: f32,
    eps: f32,
}

/// One AdamW step on the trained parameters of a list; gradients are multiplied by `gradient_scale`.
pub fn apply(
    rt: &Runtime,
    list: &mut [Parameter],
    gradients: &Gradients,
    moments: &mut Moments,
    settings: &AdamW,
    gradient_scale: f32,
) {
    moments.ensure(list);
    moments.steps += 1;
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(moments.steps as f64);
    let update = Update {
        gradient_scale,
        decay: 1.0,
        beta1: settings.beta1,
        beta2: settings.beta2,
        step_size: (f64::from(settings.lr) / correction(settings.beta1)) as f32,
        correction2_sqrt: correction(settings.beta2).sqrt() as f32,
        eps: settings.eps,
    };
    for (index, parameter) in list.iter_mut().enumerate() {
        let (Some(gradient), Some(moments)) = (gradients.get(index), &mut moments.list[index]) else { continue };
        let decay = if parameter.vector { 1.0 } else { 1.0 - settings.lr * settings.weight_decay };
        let (values, compute) = parameter.values_mut();
        apply_one(rt, &Update { decay, ..update }, values, compute, gradient, moments);
    }
}

fn apply_one(
    rt: &Runtime,
    update: &Update,
    values: &mut PackedF32,
    mut compute: Option<&mut PackedBf16>,
    gradient: &PackedF32,
    [first, second]: &mut [PackedF32; 2],
) {
    let panel = values.k * NR;
    let panels = values.n.div_ceil(NR);
    let bf16_panel = compute.as_ref().map_or(0, |c| c.panel_len());
    let (values, first) = (SharedMut::new(&mut values.data), SharedMut::new(&mut first.data));
    let second = SharedMut::new(&mut second.data);
    let compute = compute.as_mut().map(|c| SharedMut::new(&mut c.data));
    rt.parallel_ranges(panels, BLOCK.div_ceil(panel), |range| {
        for index in range {
            let at = index * panel..(index + 1) * panel;
            // SAFETY: each panel belongs to one task.
            let (values, first, second) =
                unsafe { (values.range(at.clone()), first.range(at.clone()), second.range(at.clone())) };
            for (((value, m), v), g) in values.iter_mut().zip(first).zip(second).zip(&gradient.data[at]) {
                let g = g * update.gradient_scale;
                *value *= update.decay;
                *m += (1.0 - update.beta1) * (g - *m);
                *v = update.beta2 * *v + (1.0 - update.beta2) * g * g;
                *value -= update.step_size * *m / (v.sqrt() / update.correction2_sqrt + update.eps);
            }
            if let Some(compute) = &compute {
                // SAFETY: as above.
                let target = unsafe { compute.range(index * bf16_panel..(index + 1) * bf16_panel) };
                round_panel(values, target);
            }
        }
    });
}

/// Rounds a panel `[k][32]` into its bf16 form `[k / 2][32][2]`.
fn round_panel(values: &[f32], target: &mut [u16]) {
    for (k, lanes) in values.chunks_exact(NR).enumerate() {
        let pairs = &mut target[k / 2 * NR * 2..][..NR * 2];
        for (lane, value) in lanes.iter().enumerate() {
            pairs[lane * 2 + k % 2] = bf16_from_f32(*value);
        }
    }
}
