//! The header of a GGUF file for JavaScript, which builds the tokenizer and the chat template from it.

use std::path::PathBuf;

use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;
use quintain_core::checkpoint::gguf_json;

use crate::engine::Worker;
use crate::error::to_napi;
use crate::promise;

/// Metadata and tensors of a file, as JSON.
#[napi]
pub fn read_gguf(env: &Env, path: String) -> napi::Result<Object<'_>> {
    let worker = Worker::start().map_err(|error| to_napi(env, &error))?;
    promise(env, &worker, "readGguf", move || gguf_json(&PathBuf::from(path)))
}
