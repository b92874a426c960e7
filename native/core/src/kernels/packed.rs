//! Weights `W[n, k]` in panels of [`NR`] outputs: the layout that every product streams through in order.

use super::aligned::AlignedVec;

/// Outputs per panel: two AVX-512 registers of f32, two AMX tiles of bf16.
pub const NR: usize = 32;

/// f32 panels `[ceil(n/32)][k][32]`, padding zero. Weights, gradients and AdamW moments share this layout.
#[derive(Clone, Default)]
pub struct PackedF32 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// The panels.
    pub data: AlignedVec<f32>,
}

/// bf16 panels `[ceil(n/32)][ceil(k/2)][32][2]`: pairs along `k`, padding zero.
#[derive(Clone, Default)]
pub struct PackedBf16 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// The panels.
    pub data: AlignedVec<u16>,
}

/// Rounds to nearest even; NaN stays NaN.
#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Exact.
#[inline(always)]
pub fn f32_from_bf16(value: u16) -> f32 {
    f32::from_bits((value as u32) << 16)
}

impl PackedF32 {
    /// All zero.
    pub fn zeros(n: usize, k: usize) -> Self {
        Self { n, k, data: AlignedVec::zeros(n.div_ceil(NR) * k * NR) }
    }

    /// From row-major `W[n, k]`.
    pub fn from_rows(rows: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(rows.len(), n * k, "PackedF32::from_rows: {n} x {k}");
        let mut packed = Self::zeros(n, k);
        for (row, values) in rows.chunks_exact(k.max(1)).enumerate() {
            packed.set_row(row, values);
        }
        packed
    }

    /// Row-major `W[n, k]`.
    pub fn to_rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.n * self.k];
        for (row, values) in rows.chunks_exact_mut(self.k.max(1)).enumerate() {
            self.get_row(row, values);
        }
        rows
    }

    /// Elements of panel `panel`: `[k][32]`.
    pub fn panel(&self, panel: usize) -> &[f32] {
        &self.data[panel * self.k * NR..(panel + 1) * self.k * NR]
    }

    /// Row `row` (an embedding lookup).
    pub fn get_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "PackedF32::get_row: row {row} of {} x {}", self.n, self.k);
        let lanes = self.panel(row / NR)[row % NR..].iter().step_by(NR);
        out.iter_mut().zip(lanes).for_each(|(out, value)| *out = *value);
    }

    /// Overwrites row `row`.
    pub fn set_row(&mut self, row: usize, values: &[f32]) {
        self.lanes_mut(row, values.len()).zip(values).for_each(|(lane, value)| *lane = *value);
    }

    /// Overwrites inputs `first..` of row `row`.
    pub fn set_part(&mut self, row: usize, first: usize, values: &[f32]) {
        assert!(row < self.n && first + values.len() <= self.k, "PackedF32: row {row} of {} x {}", self.n, self.k);
        let start = row / NR * self.k * NR + first * NR;
        let lanes = self.data[start..start + values.len() * NR].iter_mut().skip(row % NR).step_by(NR);
        lanes.zip(values).for_each(|(lane, value)| *lane = *value);
    }

    /// Adds to row `row` (the gradient of an embedding lookup).
    pub fn add_to_row(&mut self, row: usize, values: &[f32]) {
        self.lanes_mut(row, values.len()).zip(values).for_each(|(lane, value)| *lane += *value);
    }

    fn lanes_mut(&mut self, row: usize, len: usize) -> impl Iterator<Item = &mut f32> {
        assert!(row < self.n && len == self.k, "PackedF32: row {row} of {} x {}", self.n, self.k);
        let start = row / NR * self.k * NR;
        self.data[start..start + self.k * NR].iter_mut().skip(row % NR).step_by(NR)
    }
}

impl PackedBf16 {
    /// All zero.
    pub fn zeros(n: usize, k: usize) -> Self {
        Self { n, k, data: AlignedVec::zeros(n.div_ceil(NR) * k.div_ceil(2) * NR * 2) }
    }

    /// From row-major f32, rounded.
    pub fn from_rows(rows: &[f32], n: usize, k: usize) -> Self {
        Self::from_packed_f32(&PackedF32::from_rows(rows, n, k))
    }

    /// The rounded copy of an f32 weight.
    pub fn from_packed_f32(source: &PackedF32) -> Self {
        let mut packed = Self::zeros(source.n, source.k);
        packed.assign(source);
        packed
    }

    /// Rounds `source`, of the same shape, into `self`: what an optimiser step does to the compute copy.
    pub fn assign(&mut self, source: &PackedF32) {
        assert_eq!((self.n, self.k), (source.n, source.k), "PackedBf16::assign");
        for panel in 0..self.n.div_ceil(NR) {
            self.assign_panel(source, panel);
        }
    }

    fn assign_panel(&mut self, source: &PackedF32, panel: usize) {
        let len = self.panel_len();
        let target = &mut self.data[panel * len..(panel + 1) * len];
        for (k, lanes) in source.panel(panel).chunks_exact(NR).enumerate() {
            let pairs = &mut target[k / 2 * NR * 2..][..NR * 2];
            for (lane, value) in lanes.iter().enumerate() {
                pairs[lane * 2 + k % 2] = bf16_from_f32(*value);
            }
        }
    }

    /// Numbers in one panel.
    pub fn panel_len(&self) -> usize {
        self.k.div_ceil(2) * NR * 2
    }

    /// Elements of panel `panel`: `[ceil(k/2)][32][2]`.
    pub fn panel(&self, panel: usize) -> &[u16] {
        &self.data[panel * self.panel_len()..(panel + 1) * self.panel_len()]
    }

    /// Overwrites inputs `first..` of row `row`, rounded.
    pub fn set_part(&mut self, row: usize, first: usize, values: &[f32]) {
        assert!(row < self.n && first + values.len() <= self.k, "PackedBf16: row {row} of {} x {}", self.n, self.k);
        let len = self.panel_len();
        let panel = &mut self.data[row / NR * len..][..len];
        for (k, value) in (first..).zip(values) {
            panel[(k / 2 * NR + row % NR) * 2 + k % 2] = bf16_from_f32(*value);
        }
    }

    /// Row `row`, widened.
    pub fn get_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "PackedBf16::get_row: row {row} of {} x {}", self.n, self.k);
        let panel = self.panel(row / NR);
        for (k, out) in out.iter_mut().enumerate() {
            *out = f32_from_bf16(panel[(k / 2 * NR + row % NR) * 2 + k % 2]);
        }
    }

    /// Row-major `W[n, k]`, widened.
    pub fn to_rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.n * self.k];
        for (row, values) in rows.chunks_exact_mut(self.k.max(1)).enumerate() {
            self.get_row(row, values);
        }
        rows
    }
}
