//! Quantised blocks against what ggml's own Python package reads and writes (`tests/fixtures/blocks.py`).

use quintain_core::kernels::{BlockKind, f32_from_f16};

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
