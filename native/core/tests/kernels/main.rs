//! The kernels against their oracle.

mod attention;
mod blocks;
mod common;
mod elementwise;
mod gemm;
