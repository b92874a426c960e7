//! Tokens out of prompts: continuous batching over a paged key-value cache, on a thread of its own.

mod batch;
mod choose;
mod draw;
mod engine;
mod job;
mod kv_cache;
mod outcome;
mod paged_attention;
mod record;
mod request;
mod sequence;

pub use batch::Options;
pub use choose::Choice;
pub use engine::Sampler;
pub use kv_cache::PageCounts;
pub use request::{Events, Reason, Request, Sink, Vocabulary};
