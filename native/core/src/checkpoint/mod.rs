//! Checkpoints in the formats of Hugging Face and PEFT:
//!
//! | file | what |
//! |---|---|
//! | `model.safetensors`, `config.json` | all weights of a fully trained model, or the base |
//! | `adapter_model.safetensors`, `adapter_config.json` | the factors of a model with adapters |
//! | `optimizer.safetensors` | moments, step count, version of the weights |
//!
//! Weights are saved as f32 masters, so that resuming is exact.

mod export;
mod gguf_model;
mod open;
mod save;
mod shards;

pub use export::ExportOptions;
pub use open::gguf_json;
