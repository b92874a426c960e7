//! The kernels against their oracle.

mod common;
mod gemm;
