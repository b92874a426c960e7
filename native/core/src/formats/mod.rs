//! Files of tensors: safetensors and GGUF, read from a map and written to a temporary name that is renamed.

mod encoding;
mod file;
pub mod gguf;
mod map;
mod parameters;
pub mod safetensors;
mod source;

pub use encoding::Encoding;
pub use file::FileDtype;
pub(crate) use file::{Outgoing, read_json, read_text, write_tensors, write_text};
pub(crate) use map::FileMap;
pub(crate) use parameters::outgoing;
pub(crate) use source::{Order, TensorSource};
