//! Tokens out of prompts: continuous batching over a paged key-value cache.

pub mod choose;
pub mod pages;
