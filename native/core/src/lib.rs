//! The policy kernel: `sample`, `logprobs`, `backward`, `step`. It knows nothing of Node; see `native/README.md`.

pub mod config;
pub mod error;
pub mod forest;
pub mod kernels;
pub mod philox;
