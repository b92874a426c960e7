//! Checkpoints from outside: what is read from them, and what is refused.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod folders;
mod gguf;
mod models;
mod safetensors;

#[global_allocator]
static ALLOCATOR: files::counting::Counting = files::counting::Counting;
