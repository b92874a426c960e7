//! Weights in panels of [`NR`] outputs that stay quantised.
//!
//! A panel is one group of 32 steps after the other: scales and minima of its lanes as the file has them, then codes in
//! the order of bf16 panels (pairs of steps of 32 lanes, `[16][32][2]`), so that a vector of codes becomes a vector of
//! bf16 pairs without rearranging. Codes of 4 bits lie as in ggml: of every 32, the low halves of 16 bytes are the
//! first, the high halves the others. Codes of 5, 6 and 8 bits are bytes.
//!
//! | kind | before every 8 groups | group | bits per weight |
//! |---|---|---|---|
//! | Q4_0 | | scale f16, codes | 4.5 |
//! | Q4_1 | | scale f16, minimum f16, codes | 5 |
//! | Q5_0, Q8_0 | | scale f16, codes | 8.5 |
//! | Q5_1 | | scale f16, minimum f16, codes | 9 |
//! | Q4_K | scale f16, minimum f16 | scale u8, minimum u8, codes | 4.625 |
//! | Q5_K | scale f16, minimum f16 | scale u8, minimum u8, codes | 8.625 |
//! | Q6_K | scale f16 | two scales i8, codes | 8.5625 |

use super::super::Isa;
use super::super::aligned::AlignedVec;
use super::super::packed::{NR, bf16_from_f32, f32_from_bf16};
use super::form::{Form, GROUP};
use super::{BLOCK, BlockKind, fields, unpack};
use std::ops::Range;

/// Quantised weights `W[n, k]`, for products in bf16 or f32.
#[derive(Clone)]
pub struct PackedBlocks {
    /// Outputs, whole panels.
    pub n: usize,
    /// Inputs, whole groups.
    pub k: usize,
    /// Whether products round weights and inputs to bf16; else they are f32 throughout.
    pub bf16: bool,
    panels: Vec<Panel>,
    data: AlignedVec<u8>,
}

#[derive(Clone, Copy)]
struct Panel {
    kind: BlockKind,
    start: usize,
}

/// Quantised rows taken apart: a weight is `(code - zero) * scale + offset`, rounded once.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockRows {
    pub kind: BlockKind,
    /// Neighbours in a row that share a scale.
    pub group: usize,
    /// The code of zero; 0 where there are offsets.
    pub zero: u8,
    /// Row-major, as are the others.
    pub codes: Vec<u8>,
    /// One for each group.
    pub scales: Vec<f32>,
    /// The same; none: all zero.
    pub offsets: Option<Vec<f32>>,
}

impl PackedBlocks {
    /// Whether a tensor of `n` outputs, `k` inputs can be held in `kind`.
    pub fn fits(n: usize, k: usize, kind: BlockKind) -> bool {
        n.is_multiple_of(NR) && k > 0 && k.is_multiple_of(kind.block_len())
    }

    /// Bytes of `n` rows of `k` inputs in `kind`.
    pub fn bytes_of(n: usize, k: usize, kind: BlockKind) -> usize {
        n / NR * Form::of(kind).panel(k / GROUP)
    }

    /// Room for panels of the given kinds, all of which [fit](Self::fits).
    pub fn new(k: usize, kinds: impl IntoIterator<Item = BlockKind>, bf16: bool) -> Self {
        let mut end = 0;
        let place = |kind: BlockKind| {
            assert!(Self::fits(NR, k, kind), "PackedBlocks: {k} inputs in {kind}");
            let start = end;
            end += Self::bytes_of(NR, k, kind);
            Panel { kind, start }
        };
        let panels: Vec<Panel> = kinds.into_iter().map(place).collect();
        PackedBlocks { n: panels.len() * NR, k, bf16, panels, data: AlignedVec::zeros(end) }
    }

    /// The kind of a row.
    pub fn kind(&self, row: usize) -> BlockKind {
        self.panels[row / NR].kind
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Kind and bytes of a panel.
    pub fn panel(&self, panel: usize) -> (BlockKind, &[u8]) {
        let Panel { kind, start } = self.panels[panel];
        (kind, &self.data[start..start + Self::bytes_of(NR, self.k, kind)])
    }

    /// Overwrites row `row` with blocks of its kind.
    pub fn set_row(&mut self, row: usize, blocks: &[u8]) {
        let Panel { kind, start } = self.panels[row / NR];
        assert_eq!(Some(blocks.len()), kind.row_bytes(self.k), "PackedBlocks::set_row");
        let (panel, lane) = (&mut self.data[start..], row % NR);
        let mut codes = [0; BLOCK];
        let codes = &mut codes[..kind.block_len()];
        for (at, block) in blocks.chunks_exact(kind.block_bytes()).enumerate() {
            fields::codes(kind, block, codes);
            for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
                set_group(panel, (kind, at * kind.block_len() / GROUP + group), lane, (block, group), codes);
            }
        }
    }

    /// Row `row`: the values of [`BlockKind::decode`].
    pub fn get_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "PackedBlocks::get_row: row {row} of {} x {}", self.n, self.k);
        let (kind, panel) = self.panel(row / NR);
        for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
            unpack::lane(kind, panel, group, row % NR, out);
        }
    }

    /// Rows of one kind taken apart.
    pub fn rows(&self, rows: Range<usize>) -> BlockRows {
        let kind = self.kind(rows.start);
        let group = kind.group_len();
        let mut codes = vec![0; rows.len() * self.k];
        let mut scales = vec![0.0; rows.len() * self.k / group];
        let mut offsets = kind.has_minimum().then(|| scales.clone());
        for at in rows.start / NR..rows.end.div_ceil(NR) {
            let (own, panel) = self.panel(at);
            assert_eq!(own, kind, "PackedBlocks::rows: {rows:?} are of several kinds");
            for step in 0..self.k / GROUP {
                let s = unpack::scales(kind, panel, step);
                for row in rows.start.max(at * NR)..rows.end.min((at + 1) * NR) {
                    let (first, lane) = ((row - rows.start) * self.k + step * GROUP, row % NR);
                    unpack::codes(kind, panel, step, lane, &mut codes[first..first + GROUP]);
                    for part in 0..GROUP / group {
                        scales[first / group + part] = s.scale[part][lane];
                        if let Some(offsets) = &mut offsets {
                            offsets[first / group + part] = s.offset[part][lane];
                        }
                    }
                }
            }
        }
        BlockRows { kind, group, zero: kind.zero() as u8, codes, scales, offsets }
    }

    /// Row `row` as products read it: rounded if they are in bf16.
    pub fn get_row_rounded(&self, row: usize, out: &mut [f32]) {
        self.get_row(row, out);
        if self.bf16 {
            out.iter_mut().for_each(|value| *value = f32_from_bf16(bf16_from_f32(*value)));
        }
    }

    /// Steps `ks` (whole groups) of a panel as bf16: `[ks / 2][32][2]`.
    pub fn unpack_pairs(&self, isa: Isa, panel: usize, ks: Range<usize>, out: &mut [u16]) {
        let (kind, bytes) = self.panel(panel);
        assert!(ks.end <= self.k && out.len() >= ks.len() * NR, "PackedBlocks::unpack_pairs: steps {ks:?}");
        // SAFETY: the runtime's instruction set is supported; the panel has these groups, `out` their values.
        unsafe { unpack::pairs(isa, kind, bytes, ks.start / GROUP..ks.end / GROUP, out.as_mut_ptr()) };
    }

    /// Steps `ks` (whole groups) of a panel as f32: `[ks][32]`.
    pub fn unpack_f32(&self, isa: Isa, panel: usize, ks: Range<usize>, out: &mut [f32]) {
        let (kind, bytes) = self.panel(panel);
        assert!(ks.end <= self.k && out.len() >= ks.len() * NR, "PackedBlocks::unpack_f32: steps {ks:?}");
        // SAFETY: as above.
        unsafe { unpack::singles(isa, kind, bytes, ks.start / GROUP..ks.end / GROUP, out.as_mut_ptr()) };
    }
}

/// Writes one lane of a group: the codes and scales of `from.1`, the group of block `from.0`.
fn set_group(
    panel: &mut [u8],
    (kind, group): (BlockKind, usize),
    lane: usize,
    (block, part): (&[u8], usize),
    codes: &[u8],
) {
    let form = Form::of(kind);
    let (head, start) = form.places(group);
    let (scale, minimum) = fields::halves(kind);
    let halves = if kind.is_super() { head } else { start };
    let mut put_half = |at: usize, from: usize| {
        panel[halves + (at + lane) * 2..][..2].copy_from_slice(&block[from..from + 2]);
    };
    put_half(0, scale);
    if let Some(minimum) = minimum {
        put_half(NR, minimum);
    }
    if kind == BlockKind::Q6K {
        for half in [0, 1] {
            panel[start + half * NR + lane] = fields::sub_scales(kind, block, part * 2 + half).0;
        }
    } else if kind.is_super() {
        (panel[start + lane], panel[start + NR + lane]) = fields::sub_scales(kind, block, part);
    }
    let to = &mut panel[start + form.scales..start + form.group];
    for (step, code) in codes.iter().enumerate() {
        let at = step / 2 * NR * 2 + lane * 2 + step % 2;
        if kind.is_narrow() {
            let (byte, shift) = (at / 32 * 16 + at % 16, at % 32 / 16 * 4);
            to[byte] = to[byte] & !(15 << shift) | code << shift;
        } else {
            to[at] = *code;
        }
    }
}
