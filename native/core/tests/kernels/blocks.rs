//! Quantised blocks against what ggml's own Python package reads and writes (`tests/fixtures/blocks.py`), and products of
//! quantised weights against those of the weights they stand for: equal bit for bit, so that the tolerances of
//! `gemm.rs` hold for them too.

use crate::common::{Rng, bits, every_runtime};
use quintain_core::kernels::{
    BlockKind, Isa, PackedBf16, PackedBlocks, PackedF32, Runtime, Weight, f16_from_f32, f32_from_f16, linear, linear_dx,
};

/// A record of the fixture.
struct Record {
    kind: BlockKind,
    encode: bool,
    values: Vec<f32>,
    blocks: Vec<u8>,
}

fn fixture() -> Vec<Record> {
    let bytes = include_bytes!("../fixtures/blocks.bin");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let (weights, size) = (word(at + 8) as usize, word(at + 12) as usize);
        let start = at + 16 + weights * 4;
        records.push(Record {
            kind: BlockKind::from_ggml(word(at)).unwrap(),
            encode: word(at + 4) == 1,
            values: (0..weights).map(|i| f32::from_bits(word(at + 16 + i * 4))).collect(),
            blocks: bytes[start..start + size].to_vec(),
        });
        at = start + size;
    }
    records
}

#[test]
fn every_kind_decodes_as_ggml_does() {
    let records: Vec<_> = fixture().into_iter().filter(|record| !record.encode).collect();
    assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), BlockKind::ALL);
    for Record { kind, values, blocks, .. } in records {
        let mut decoded = vec![f32::NAN; values.len()];
        kind.decode(&blocks, &mut decoded);
        assert_eq!(decoded, values, "{kind}");
    }
}

#[test]
fn kinds_know_their_sizes() {
    assert_eq!(BlockKind::from_ggml(0), None);
    assert_eq!(BlockKind::from_ggml(9), None);
    assert_eq!(BlockKind::Q4_1.row_bytes(96), Some(60));
    assert_eq!(BlockKind::Q4_1.row_bytes(100), None);
    assert_eq!(BlockKind::Q4K.row_bytes(288), None);
    assert_eq!(BlockKind::Q6K.row_bytes(512), Some(420));
    assert_eq!(BlockKind::Q8_0.row_bytes(usize::MAX - 31), None, "overflows");
    for kind in BlockKind::ALL {
        assert_eq!(BlockKind::from_ggml(kind.ggml()), Some(kind));
    }
}

#[test]
fn half_precision_is_exact() {
    for (bits, value) in
        [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f32.powi(-24)), (0x83ff, -1023.0 * 2f32.powi(-24)), (0x7bff, 65504.0)]
    {
        assert_eq!(f32_from_f16(bits), value);
    }
    assert_eq!(f32_from_f16(0xfc00), f32::NEG_INFINITY);
    assert!(f32_from_f16(0x7e01).is_nan());
    assert!(f32_from_f16(0x8000).is_sign_negative());
}

#[test]
fn rounding_to_half_precision_is_ieee() {
    for bits in (0..=0x7c00).chain(0x8000..=0xfc00) {
        assert_eq!(f16_from_f32(f32_from_f16(bits)), bits);
    }
    for bits in 0..0x7bff_u16 {
        let (below, above) = (f32_from_f16(bits), f32_from_f16(bits + 1));
        let middle = (below + above) / 2.0;
        assert_eq!(f16_from_f32(middle), bits + (bits & 1), "a tie goes to the even neighbour");
        assert_eq!(f16_from_f32(f32::from_bits(middle.to_bits() + 1)), bits + 1);
        assert_eq!(f16_from_f32(-f32::from_bits(middle.to_bits() - 1)), bits | 0x8000);
    }
    assert_eq!(f16_from_f32(65519.0), 0x7bff);
    assert_eq!(f16_from_f32(65520.0), 0x7c00);
    assert_eq!(f16_from_f32(f32::NEG_INFINITY), 0xfc00);
    assert!(f32_from_f16(f16_from_f32(f32::NAN)).is_nan());
}

#[test]
fn rows_are_quantised_as_ggml_does() {
    let records: Vec<_> = fixture().into_iter().filter(|record| record.encode).collect();
    assert_eq!(records.len(), BlockKind::ALL.iter().filter(|kind| kind.can_encode()).count());
    for Record { kind, values, blocks, .. } in records {
        let mut encoded = vec![0xaa; blocks.len()];
        kind.encode(&values, &mut encoded);
        assert_eq!(encoded, blocks, "{kind}");
    }
}

/// Random blocks: any bytes, with scales of ordinary size where a block has its numbers of half precision.
fn random_rows(rng: &mut Rng, kind: BlockKind, n: usize, k: usize) -> Vec<Vec<u8>> {
    let halves: &[usize] = match kind {
        BlockKind::Q6K => &[208],
        BlockKind::Q8_0 | BlockKind::Q4_0 | BlockKind::Q5_0 => &[0],
        _ => &[0, 2],
    };
    (0..n)
        .map(|_| {
            let mut row: Vec<u8> = (0..kind.row_bytes(k).unwrap()).map(|_| rng.bits() as u8).collect();
            for block in row.chunks_exact_mut(kind.block_bytes()) {
                for at in halves {
                    block[*at..at + 2].copy_from_slice(&f16_from_f32(rng.one() * 0.01).to_le_bytes());
                }
            }
            row
        })
        .collect()
}

#[test]
fn rows_are_taken_apart_exactly() {
    let mut rng = Rng::new(23);
    for kind in BlockKind::ALL {
        let (n, k) = (96, 512);
        let rows = random_rows(&mut rng, kind, n, k);
        let mut packed = PackedBlocks::new(k, vec![kind; n / 32], false);
        rows.iter().enumerate().for_each(|(row, blocks)| packed.set_row(row, blocks));
        // Within a panel, across two, all.
        for range in [3..9, 20..70, 0..n] {
            let apart = packed.rows(range.clone());
            assert_eq!(apart.kind, kind);
            assert_eq!(apart.offsets.is_some(), apart.zero == 0, "{kind}");
            assert_eq!(apart.scales.len() * apart.group, range.len() * k);
            let value = |at: usize| {
                let offset = apart.offsets.as_ref().map_or(0.0, |offsets| offsets[at / apart.group]);
                (f32::from(apart.codes[at]) - f32::from(apart.zero)) * apart.scales[at / apart.group] + offset
            };
            for (place, row) in range.enumerate() {
                let mut expected = vec![0.0; k];
                kind.decode(&rows[row], &mut expected);
                let values: Vec<f32> = (place * k..(place + 1) * k).map(value).collect();
                assert_eq!(values, expected, "{kind}, row {row}");
            }
        }
    }
}

struct Case {
    n: usize,
    k: usize,
    f32: PackedF32,
    bf16: PackedBf16,
    /// For products in f32 and in bf16.
    blocks: [PackedBlocks; 2],
}

impl Case {
    /// Panels of the given kinds.
    fn new(rng: &mut Rng, kinds: &[BlockKind], k: usize) -> Case {
        let n = kinds.len() * 32;
        let mut blocks = [false, true].map(|bf16| PackedBlocks::new(k, kinds.iter().copied(), bf16));
        let mut f32 = PackedF32::zeros(n, k);
        for (panel, kind) in kinds.iter().enumerate() {
            for (row, bytes) in random_rows(rng, *kind, 32, k).iter().enumerate() {
                let row = panel * 32 + row;
                blocks.iter_mut().for_each(|blocks| blocks.set_row(row, bytes));
                let mut values = vec![0.0; k];
                kind.decode(bytes, &mut values);
                f32.set_row(row, &values);
            }
        }
        Case { n, k, bf16: PackedBf16::from_packed_f32(&f32), f32, blocks }
    }

    /// The weights as blocks, and as what they stand for.
    fn weights(&self, bf16: bool) -> [Weight<'_>; 2] {
        let plain = if bf16 { Weight::Bf16(&self.bf16) } else { Weight::F32(&self.f32) };
        [Weight::Blocks(&self.blocks[usize::from(bf16)]), plain]
    }
}

/// Every kind alone, and kinds side by side; widths around the blocks of steps.
fn cases() -> impl Iterator<Item = Case> {
    let mut rng = Rng::new(11);
    let alone = BlockKind::ALL.map(|kind| (vec![kind; 3], if kind.block_len() == 256 { 512 } else { 96 }));
    let mixed = [
        (vec![BlockKind::Q4K, BlockKind::Q4K, BlockKind::Q6K, BlockKind::Q4_1, BlockKind::Q8_0], 768),
        (vec![BlockKind::Q4_1, BlockKind::Q5_0, BlockKind::Q5_1], 1312),
        (vec![BlockKind::Q4_0; 18], 288),
    ];
    alone.into_iter().chain(mixed).map(move |(kinds, k)| Case::new(&mut rng, &kinds, k))
}

/// Around one and two tiles, what still streams, and more.
const ROWS: [usize; 12] = [1, 2, 5, 8, 12, 13, 17, 32, 33, 48, 49, 130];

#[test]
fn rows_of_blocks_are_their_values() {
    for case in cases() {
        let mut row = vec![0.0; case.k];
        for (at, values) in case.f32.to_rows().chunks_exact(case.k).enumerate() {
            case.blocks[0].get_row(at, &mut row);
            assert_eq!(row, values, "{} row {at}", case.blocks[0].kind(at));
            case.blocks[1].get_row_rounded(at, &mut row);
            let mut rounded = vec![0.0; case.k];
            case.bf16.get_row(at, &mut rounded);
            assert_eq!(row, rounded, "{} rounded row {at}", case.blocks[0].kind(at));
        }
    }
}

#[test]
fn products_of_blocks_are_those_of_their_values() {
    let mut rng = Rng::new(12);
    let oracle = Runtime::new(Some(1), Some(Isa::Reference)).unwrap();
    for case in cases() {
        for (at, rows) in ROWS.into_iter().enumerate() {
            let (pad, accumulate) = (at % 3 * 5, at % 2 == 1);
            let (ldx, ldy) = (case.k + pad, case.n + pad);
            let (x, y) = (rng.normal(rows * ldx), rng.normal(rows * ldy));
            let mut runtimes = every_runtime();
            if rows < 8 {
                runtimes.push(oracle.clone());
            }
            for rt in runtimes {
                for bf16 in [false, true] {
                    let what = format!("{} {} x {rows} {bf16} {}", case.blocks[0].kind(0), case.k, rt.isa);
                    let [got, want] = case.weights(bf16).map(|weight| {
                        let mut y = y.clone();
                        linear(&rt, &x, rows, ldx, weight, &mut y, ldy, accumulate);
                        y
                    });
                    assert_eq!(bits(&got), bits(&want), "linear {what}");
                    let [got, want] = case.weights(bf16).map(|weight| {
                        let mut dx = x.clone();
                        linear_dx(&rt, &y, rows, ldy, weight, &mut dx, ldx, accumulate);
                        dx
                    });
                    assert_eq!(bits(&got), bits(&want), "linear_dx {what}");
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_company() {
    let mut rng = Rng::new(13);
    for case in cases() {
        let x = rng.normal(130 * case.k);
        for rt in every_runtime() {
            for bf16 in [false, true] {
                let run = |rows: usize| {
                    let mut y = vec![0.0; rows * case.n];
                    linear(&rt, &x, rows, case.k, case.weights(bf16)[0], &mut y, case.n, false);
                    y
                };
                let all = run(130);
                for rows in ROWS {
                    assert_eq!(bits(&run(rows)), bits(&all[..rows * case.n]), "{rows} rows {bf16} {}", rt.isa);
                }
            }
        }
    }
}

#[test]
fn blocks_take_the_bytes_they_say() {
    for (kind, bits) in BlockKind::ALL.into_iter().zip([8.5, 4.5, 5.0, 8.5, 9.0, 4.625, 8.625, 8.5625]) {
        let blocks = PackedBlocks::new(1024, [kind; 2], true);
        assert_eq!(blocks.bytes() as f64 * 8.0, bits * 1024.0 * 64.0, "{kind}");
        assert_eq!(blocks.bytes(), PackedBlocks::bytes_of(64, 1024, kind));
    }
    assert!(!PackedBlocks::fits(33, 64, BlockKind::Q4_0));
    assert!(!PackedBlocks::fits(32, 48, BlockKind::Q4_0));
    assert!(!PackedBlocks::fits(32, 96, BlockKind::Q4K));
    assert!(PackedBlocks::fits(32, 96, BlockKind::Q5_1));
}
