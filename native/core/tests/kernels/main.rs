//! The kernels against their oracle.

mod attention;
mod common;
mod elementwise;
mod gemm;
