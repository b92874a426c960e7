//! The GGUF parser: what it reads, what it refuses, what it allocates.

use quintain_core::formats::Encoding;
use quintain_core::formats::gguf::{Gguf, Value};

use crate::files::*;

fn refusal(file: &GgufFile) -> String {
    Gguf::parse(&file.bytes()).expect_err("refused")
}

#[test]
fn every_kind_of_value_and_tensor_is_read() {
    for version in [2, 3] {
        let bytes = GgufFile { version, ..every_kind() }.bytes();
        let file = Gguf::parse(&bytes).unwrap();
        check_gguf(&bytes, &file);
        assert_eq!((file.version, file.alignment, file.tensors.len()), (version, 32, 11));
        let values = [
            ("u8", Value::Unsigned(200)),
            ("i8", Value::Signed(-56)),
            ("u16", Value::Unsigned(513)),
            ("i16", Value::Signed(-255)),
            ("i32", Value::Signed(-1)),
            ("f32", Value::F32(0.5)),
            ("bool", Value::Bool(true)),
            ("u64", Value::Unsigned(7)),
            ("i64", Value::Signed(-1)),
            ("f64", Value::F64(0.25)),
            ("general.architecture", Value::String("llama")),
        ];
        for (key, value) in values {
            assert_eq!(file.get(key), Some(value), "{key}");
        }
        let tokens: Vec<_> = file.get("tokens").unwrap().as_array().unwrap().iter().collect();
        assert_eq!(tokens, ["a", "", "Ġthe", "\0"].map(Value::String));
        let first = &file.tensors[0];
        assert_eq!((first.name, &first.shape[..], first.encoding), ("t0", &[3, 2][..], Encoding::F32));
        let last = &file.tensors[10];
        assert_eq!((last.encoding.name(), &bytes[last.range.clone()]), ("Q6_K", &[14; 1260][..]));
        let json: serde_json::Value = serde_json::from_str(&file.to_json()).unwrap();
        assert_eq!(json["metadata"]["scores"], serde_json::json!([1.0, null]));
        assert_eq!(json["tensors"][9], serde_json::json!({ "name": "t13", "shape": [3, 512], "kind": "Q5_K" }));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = every_kind().bytes();
    for len in 0..bytes.len() {
        assert!(Gguf::parse(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn a_lying_header_is_refused_by_name() {
    let one = |dims: &[u64], kind, bytes| GgufFile::new().tensor("blk.0.x", dims, kind, vec![0; bytes]);
    let cases = [
        (GgufFile { version: 1, ..every_kind() }, "version 1"),
        (GgufFile { version: 4, ..every_kind() }, "version 4"),
        (GgufFile { version: 3 << 24, ..every_kind() }, "big endian"),
        (GgufFile::new().u32("a", 1).u32("a", 2), "key `a` occurs twice"),
        (one(&[4], 0, 16).tensor("blk.0.x", &[4], 0, vec![0; 16]), "tensor `blk.0.x` occurs twice"),
        (one(&[1 << 32, 1 << 31, 4], 0, 16), "larger than memory"),
        (one(&[u64::MAX], 1, 16), "larger than memory"),
        (one(&[4, 0], 0, 16), "`blk.0.x`: has a dimension of size 0"),
        (one(&[1, 1, 1, 1, 1], 0, 4), "has 5 dimensions"),
        (one(&[], 0, 4), "has 0 dimensions"),
        (one(&[48], 8, 34), "rows of 48 are no whole Q8_0 blocks of 32"),
        (one(&[256], 23, 136), "`blk.0.x`: is of type IQ4_XS"),
        (one(&[256], 77, 136), "an unknown type (77)"),
        (one(&[64], 0, 255), "256 of the data, of which there are 255"),
        (GgufFile::new().u32("general.alignment", 0), "general.alignment"),
        (GgufFile::new().u32("general.alignment", 24), "general.alignment"),
        (GgufFile::new().u32("general.alignment", 1 << 31), "general.alignment"),
        (GgufFile::new().with("a", 13, vec![]), "key `a`: value type 13"),
        (GgufFile::new().with("a", 7, vec![2]), "a truth value is 2"),
        (GgufFile::new().with("a", STRING, vec![255; 8]), "a string takes 18446744073709551615 bytes"),
        (
            GgufFile::new()
                .with("a", STRING, [text("x").as_slice(), &[255]].concat()[..9].to_vec())
                .text("\u{7f}", "ok"),
            "",
        ),
        (GgufFile::new().with("a", STRING, [&1u64.to_le_bytes()[..], &[255]].concat()), "not UTF-8"),
        (GgufFile::new().with("a", ARRAY, array(ARRAY, &[array(U32, &[])])), "arrays of arrays"),
        (
            GgufFile::new().with("a", ARRAY, [U32.to_le_bytes().as_slice(), &[255; 8]].concat()),
            "the length of an array is",
        ),
        (
            GgufFile::new().with("a", ARRAY, [10u32.to_le_bytes().as_slice(), &(1u64 << 23).to_le_bytes()].concat()),
            "does not fit",
        ),
        (GgufFile::new().text("", "x"), "key 0 has a name of 0 bytes"),
        (GgufFile::new().text(&"k".repeat(2000), "x"), "key 0 has a name of 2000 bytes"),
    ];
    for (file, message) in cases {
        let bytes = file.bytes();
        if message.is_empty() {
            Gguf::parse(&bytes).unwrap();
            continue;
        }
        let fault = refusal(&file);
        assert!(fault.contains(message), "{fault:?} should say {message:?}");
    }
    assert!(Gguf::parse(b"PK\x03\x04").unwrap_err().contains("another format"));
}

#[test]
fn counts_and_places_are_checked_before_they_are_used() {
    let good = every_kind().bytes();
    let with = |at: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        Gguf::parse(&bytes).unwrap_err()
    };
    for huge in [u64::MAX, 1 << 40] {
        assert!(with(8, huge).contains("the number of tensors is"));
        assert!(with(16, huge).contains("the number of metadata keys is"));
    }
    assert!(with(8, 60_000).contains("do not fit"));
    let two = GgufFile::new().tensor("a", &[8], 0, vec![0; 32]).tensor("b", &[8], 0, vec![0; 32]);
    let bytes = two.bytes();
    // The offset of the last tensor ends the header.
    let at = two.header().len() - 8;
    for (offset, message) in [
        (0, "tensors `a` and `b` overlap"),
        (31, "no multiple of the alignment"),
        (64, "of the data"),
        (u64::MAX - 31, "outside"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(offset));
        let fault = Gguf::parse(&bytes).unwrap_err();
        assert!(fault.contains(message), "{offset}: {fault:?}");
    }
}

#[test]
fn any_byte_may_be_anything() {
    let file = every_kind();
    let (good, header) = (file.bytes(), file.header().len());
    for at in 0..header {
        for value in [0, 1, 2, 9, 32, 127, 128, 254, 255] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Ok(file) = Gguf::parse(&bytes) {
                check_gguf(&bytes, &file);
            }
        }
    }
}

/// A key takes at least 13 bytes in the file and 80 here (a value, its name, its place in the set of names); a tensor 32
/// there and 200 here. Faults are text.
#[test]
fn what_is_allocated_is_bounded_by_what_is_there() {
    let file = every_kind();
    let (good, header) = (file.bytes(), file.header().len());
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut bytes = good.clone();
        Mutator::new(seed).mutate(&mut bytes, header);
        let (result, peak) = counting::peak(|| Gguf::parse(&bytes));
        assert!(peak <= 16 * bytes.len() + 4096, "seed {seed}: {peak} bytes for a file of {}", bytes.len());
        match result {
            Ok(file) => {
                check_gguf(&bytes, &file);
                accepted += 1;
            }
            Err(fault) => {
                assert!(fault.len() < 4096, "seed {seed}");
                refused += 1;
            }
        }
    }
    assert!(accepted > 1000 && refused > 5000, "{accepted} accepted, {refused} refused");
}
