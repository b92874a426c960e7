//! The policy kernel: `sample`, `logprobs`, `backward`, `step`. It knows nothing of Node; see `native/README.md`.

mod activations;
pub mod adapter;
mod attention;
mod backward;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod forest;
pub mod forward;
mod head;
pub mod kernels;
mod logits;
pub mod memory;
pub mod model;
pub mod optimizer;
pub mod params;
mod passes;
pub mod philox;
mod recording;
pub mod sampler;
mod tensors;
mod training;
