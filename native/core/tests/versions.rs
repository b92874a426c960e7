//! Events of the sampler name the version of the weights that drew their tokens.

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};

use common::*;
use quintain_core::forest::Forest;
use quintain_core::model::{AdamW, Dtype, LogprobOptions, Model, Targets};
use quintain_core::sampler::{Choice, Events, Options as SamplerOptions, Request, Sampler};

fn train(model: &mut Model) {
    let tokens: Vec<u32> = (0..8).collect();
    let positions: Vec<u32> = (0..7).collect();
    let targets = Targets { position: &positions, token: &tokens[1..] };
    let options = LogprobOptions { keep: true, ..LogprobOptions::default() };
    let (forest, abort) = (Forest::sequences(&[&tokens]).unwrap(), Arc::new(AtomicBool::new(false)));
    let forward = model.logprobs(&forest, &targets, options, &abort).unwrap();
    model.backward(forward.id, &[-1.0; 7], None, &abort).unwrap();
    model.step(None, AdamW::default()).unwrap();
}

#[test]
fn a_request_that_spans_a_step_has_two_versions() {
    const BEFORE: usize = 3;
    const TOKENS: u32 = 8;
    let model = Arc::new(RwLock::new(model(&runtime(best(), 2), LLAMA_TIED, options(Dtype::F32, false))));
    let options = SamplerOptions { cache_bytes: 16 << 20, ..SamplerOptions::default() };
    let sampler = Sampler::start(model.clone(), options).unwrap();
    let first = model.read().unwrap().version();
    let (sender, events) = channel();
    let (trained, mut received) = (model.clone(), 0);
    // Events are delivered between two steps of the sampler: weights may change here.
    let sink = Box::new(move |events: Events| {
        received += 1;
        if received == BEFORE {
            train(&mut trained.write().unwrap());
        }
        sender.send(events).unwrap();
    });
    sampler.submit(Request::new(vec![1, 2, 3], 2, TOKENS, Choice::temperature(1.0)), sink).unwrap();
    let mut versions = [Vec::new(), Vec::new()];
    for events in events {
        assert_eq!(events.error, None);
        events.samples.iter().for_each(|&sample| versions[sample as usize].push(events.version));
    }
    let expected: Vec<u64> = (0..TOKENS as usize).map(|token| first + u64::from(token >= BEFORE)).collect();
    assert_eq!(versions, [expected.clone(), expected]);
    assert_eq!(model.read().unwrap().version(), first + 1);
}
