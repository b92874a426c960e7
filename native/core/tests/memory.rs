//! The memory formula against what the allocator has handed out.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use quintain_core::memory::Memory;
use quintain_core::model::{AdamW, AdapterConfig, Dtype, Model, Options};

static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: forwards to the system allocator; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHAPE: &str = r#"{"vocab_size": 3000, "hidden_size": 192, "intermediate_size": 500, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": true, "max_position_embeddings": 64}"#;

#[test]
fn the_plan_is_what_is_held_and_what_was_allocated() {
    let rt = runtime(best(), 1);
    let batch = Batch::new(3000);
    let positions = 10;
    for (dtype, lora) in [(Dtype::F32, false), (Dtype::F32, true), (Dtype::Bf16, false), (Dtype::Bf16, true)] {
        for activation_bytes in [0, 1 << 19, 1 << 30] {
            let mut options = Options { activation_bytes, ..options(dtype, lora) };
            if let Some(AdapterConfig::Lora(lora)) = options.adapter.as_mut().filter(|_| dtype == Dtype::F32) {
                // Layers that differ, the widest not the last, and what dropout needs beside.
                lora.targets =
                    ["layers.2.self_attn.q_proj", "layers.2.self_attn.v_proj", "up_proj"].map(String::from).into();
                lora.dropout = 0.3;
            }
            let before = HELD.load(Ordering::Relaxed);
            let mut model = Model::random(&rt, config(SHAPE), 1, options.clone()).unwrap();
            gradients(&mut model, &batch, 1.0);
            model.step(None, AdamW::default()).unwrap();
            let allocated = HELD.load(Ordering::Relaxed) - before;
            let plan = Memory::plan(&model.config, &options, batch.forest.len(), positions).unwrap();
            assert_eq!(model.memory(), plan, "{dtype:?} {lora} {activation_bytes}");
            // Names, the rope table and the kernels' scratch are not in it.
            let ratio = allocated as f64 / plan.total() as f64;
            assert!((0.99..1.1).contains(&ratio), "{dtype:?} {lora} {activation_bytes}: {ratio}");
        }
    }
}
