//! The arithmetic of the policy kernel.
//!
//! Every operation exists at least twice: naively in [`reference`], the oracle, and in fast forms chosen once by
//! [`Isa::detect`]. All of them keep one reduction order per output element (see `native/README.md`), so a row's result
//! depends on neither its batch nor the number of threads.
//!
//! Functions check shapes with `assert!`: a wrong shape here is a defect of the caller, never of a user's input.

mod aligned;
mod attention;
mod blocks;
mod elementwise;
mod gemm;
mod isa;
mod packed;
pub mod reference;
mod rows;
mod runtime;
mod simd;
mod tile;
mod tile_pairs;
mod transpose;
mod weight;

pub use aligned::AlignedVec;
pub use attention::{GradSpan, KeySpan, Queries, attend, attend_backward, attend_rows, attend_rows_backward};
pub use blocks::{BlockKind, BlockRows, PackedBlocks, f16_from_f32, f32_from_f16};
pub use elementwise::{
    RopeTable, RowStats, add, column_sum, dlogits, rmsnorm, rmsnorm_backward, rope, row_stats, silu_mul,
    silu_mul_backward,
};
pub use gemm::{linear, linear_dw, linear_dx};
pub use isa::Isa;
pub use packed::{NR, PackedBf16, PackedF32, bf16_from_f32, f32_from_bf16};
pub use runtime::{Runtime, SharedMut};
pub use weight::Weight;
