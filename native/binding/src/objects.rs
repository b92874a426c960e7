//! Arguments and results as JavaScript objects; their types are stated in `src/engines/internal/nativeModel.ts`.

use napi::bindgen_prelude::{Float32Array, Int32Array, Uint8Array, Uint32Array};
use napi_derive::napi;

/// A batch: token trees, and the targets in them.
#[napi(object, object_to_js = false)]
pub struct Batch {
    pub tokens: Uint32Array,
    pub segment_start: Uint32Array,
    pub segment_length: Uint32Array,
    pub segment_parent: Int32Array,
    pub target_position: Uint32Array,
    pub target_token: Uint32Array,
}

#[napi(object, object_to_js = false)]
pub struct LogprobSettings {
    pub temperature: f64,
    pub entropy: bool,
    pub keep: bool,
    pub weights: String,
    pub adapter: Option<String>,
}

#[napi(object, object_from_js = false)]
pub struct Forward {
    pub id: f64,
    pub logprobs: Float32Array,
    pub entropy: Float32Array,
    pub recorded: bool,
}

#[napi(object, object_to_js = false)]
pub struct StepSettings {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub adapter: Option<String>,
}

#[napi(object, object_from_js = false)]
pub struct StepReport {
    pub grad_norm: f64,
    pub clipped: bool,
    pub skipped: bool,
    pub version: f64,
}

#[napi(object, object_to_js = false)]
pub struct SaveSettings {
    pub optimizer: bool,
    pub adapter: Option<String>,
}

#[napi(object, object_to_js = false)]
pub struct ExportSettings {
    pub adapter: Option<String>,
    pub dtype: String,
    pub shard_bytes: Option<f64>,
}

#[napi(object, object_from_js = false)]
pub struct Tensor {
    pub shape: Vec<u32>,
    pub values: Float32Array,
}

/// A shape for JavaScript.
pub fn shape(dimensions: &[usize]) -> Vec<u32> {
    dimensions.iter().map(|&size| size as u32).collect()
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct BlockTensor {
    pub kind: &'static str,
    pub shape: Vec<u32>,
    pub group: u32,
    pub zero: u32,
    pub codes: Uint8Array,
    pub scales: Float32Array,
    pub offsets: Option<Float32Array>,
}

#[napi(object, object_from_js = false)]
pub struct Moments {
    pub first: Float32Array,
    pub second: Float32Array,
}

#[napi(object, object_from_js = false)]
pub struct Counters {
    pub steps: f64,
    pub version: f64,
    pub forwards: f64,
}

#[napi(object, object_to_js = false)]
pub struct GivenCounters {
    pub steps: Option<f64>,
    pub version: Option<f64>,
    pub forwards: Option<f64>,
}
