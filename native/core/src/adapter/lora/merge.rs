//! The product of the factors, added to a weight of the base.

use std::ops::Range;

use super::Lora;
use crate::kernels::{Runtime, SharedMut};
use crate::params::{Parameter, Slice};

/// The factors of one module.
pub(crate) struct Delta<'a> {
    a: (&'a Parameter, &'a Slice),
    b: (&'a Parameter, &'a Slice),
    scale: f32,
}

impl Lora {
    /// The factors that add to a weight of the base, if there are any.
    pub fn delta<'a>(&self, list: &'a [Parameter], weight: &Slice) -> Option<Delta<'a>> {
        let module = weight.name.strip_suffix(".weight")?;
        let find = |factor: &str| {
            let name = format!("base_model.model.{module}.{factor}.weight");
            let slices = list.iter().flat_map(|p| p.slices.iter().map(move |slice| (p, slice)));
            slices.into_iter().find(|(_, slice)| slice.name == name)
        };
        Some(Delta { a: find("lora_A")?, b: find("lora_B")?, scale: self.config.scale() })
    }
}

impl Delta<'_> {
    /// `values += scale · B[rows] · A`
    pub fn add(&self, rt: &Runtime, rows: Range<usize>, values: &mut [f32]) {
        let (rank, width, count) = (self.b.0.k, self.a.0.k, rows.len());
        let a = self.a.0.read_rows(self.a.1.rows.clone());
        let b = self.b.0.read_rows(self.b.1.within(rows));
        let values = SharedMut::new(values);
        rt.parallel_ranges(count, 16, |range| {
            let mut sum = vec![0.0f32; width];
            for row in range {
                sum.fill(0.0);
                for (factor, a) in b[row * rank..][..rank].iter().zip(a.chunks_exact(width)) {
                    sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
                }
                // SAFETY: each row is written by one task.
                let out = unsafe { values.range(row * width..(row + 1) * width) };
                out.iter_mut().zip(&sum).for_each(|(value, sum)| *value += self.scale * sum);
            }
        });
    }
}
