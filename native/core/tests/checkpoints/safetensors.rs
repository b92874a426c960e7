//! The safetensors parser, beside the format's own reader.

use quintain_core::formats::safetensors::Header;

use crate::files::*;

#[test]
fn headers_are_read() {
    let bytes = some_tensors();
    let header = Header::parse(&bytes).unwrap();
    check_safetensors(&bytes, &header);
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.tensors.len(), 5);
    for len in 0..bytes.len() {
        assert!(Header::parse(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn lying_headers_are_refused_by_name() {
    let entry = |shape: &str, from: usize, to: usize| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| with_header(&format!(r#"{{"a":{a},"b":{b}}}"#), 16);
    let one = |entry: String| with_header(&format!(r#"{{"a":{entry}}}"#), 16);
    let cases = [
        (vec![0; 7], "7 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "at most 33554432"),
        ([&9u64.to_le_bytes()[..], b"{}"].concat(), "9 bytes long, 2 are there"),
        (with_header("[]", 0), "no JSON object"),
        (with_header(" {}", 0), "no JSON object"),
        (with_header("{", 0), "not a safetensors header"),
        (with_header(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0), "not a safetensors header"),
        (two(entry("[2]", 0, 8), entry("[2]", 4, 12)), "b: its data overlaps"),
        (two(entry("[1]", 0, 4), entry("[2]", 8, 16)), "b: its data leaves a hole"),
        (one(entry("[2]", 0, 8)), "take 8 bytes and 16 are there"),
        (one(entry("[8]", 0, 32)), "take 32 bytes and 16 are there"),
        (one(entry("[3]", 0, 16)), "its shape [3] takes 12 bytes"),
        (one(entry("[4]", 16, 0)), "a: data_offsets are 16..0"),
        (one(entry("[4294967296,4294967296]", 0, 16)), "larger than memory"),
        (one(entry("[4611686018427387904]", 0, 16)), "larger than memory"),
        (one(entry("[1,1,1,1,1,1,1,1,4]", 0, 16)), "at most 8 dimensions"),
        (one(entry("[-4]", 0, 16)), "invalid value"),
        (one(entry("[4.0]", 0, 16)), "invalid type"),
        (one(entry("[4]", 0, 16).replace("F32", "I32")), "a is I32"),
        (one(r#"{"dtype":"F32","shape":[4]}"#.into()), "missing field `data_offsets`"),
        (with_header(&format!(r#"{{"a":{0},"a":{0}}}"#, entry("[4]", 0, 16)), 16), "`a` occurs twice"),
        (with_header(r#"{"__metadata__":{"x":1}}"#, 0), "expected a string"),
    ];
    for (bytes, message) in cases {
        let fault = Header::parse(&bytes).expect_err(message);
        assert!(fault.contains(message), "{fault:?} should say {message:?}");
        assert!(fault.len() < 1000, "{message}");
    }
}

/// An entry takes at least 60 bytes in the file; here a name twice, an entry and its place: less than 400.
#[test]
fn what_is_allocated_is_bounded_by_what_is_there() {
    let good = some_tensors();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut bytes = good.clone();
        Mutator::new(seed).mutate(&mut bytes, header);
        let (result, peak) = counting::peak(|| Header::parse(&bytes));
        assert!(peak <= 16 * bytes.len() + 4096, "seed {seed}: {peak} bytes for a file of {}", bytes.len());
        match result {
            Ok(header) => {
                check_safetensors(&bytes, &header);
                accepted += 1;
            }
            Err(fault) => {
                assert!(fault.len() < 4096, "seed {seed}");
                refused += 1;
            }
        }
    }
    assert!(accepted > 100 && refused > 5000, "{accepted} accepted, {refused} refused");
}
