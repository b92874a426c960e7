//! The policy kernel: `sample`, `logprobs`, `backward`, `step`. It knows nothing of Node; see `native/README.md`.

mod abort;
pub mod adapter;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod forest;
pub mod formats;
pub mod kernels;
pub mod memory;
pub mod model;
mod network;
pub mod optimizer;
pub mod params;
mod passes;
pub mod philox;
pub mod sampler;
mod scratch;
mod training;
