//! Requests from JavaScript, and the events that go back: one call per request and decode step.

use std::ptr;

use napi::bindgen_prelude::{BigInt, Function, JsValuesTupleIntoVec, ToNapiValue, Uint32Array};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, check_status, sys};
use napi_derive::napi;
use quintain_core::error::{Error, Result};
use quintain_core::sampler::{Choice, Events, Reason, Request, Sink};

use crate::error::to_unknown;

/// A request as JavaScript states it; `SampleRequest` in `src/engines/internal/nativeModel.ts`.
#[napi(object, object_to_js = false)]
pub struct SampleRequest {
    pub prompt: Uint32Array,
    pub count: f64,
    pub seed: BigInt,
    pub stream: BigInt,
    pub first_index: f64,
    pub max_tokens: f64,
    pub temperature: f64,
    pub top_k: f64,
    pub top_p: f64,
    pub min_p: f64,
    pub stop_tokens: Uint32Array,
    pub stop_strings: Vec<String>,
    pub for_training: bool,
    pub adapter: Option<String>,
}

fn whole(name: &str, value: f64) -> Result<u32> {
    if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) {
        return Ok(value as u32);
    }
    Err(Error::shape("sample", format!("{name} is {value}: must be a whole number of 32 bits")))
}

fn unsigned(name: &str, value: &BigInt) -> Result<u64> {
    match value.get_u64() {
        (false, value, true) => Ok(value),
        _ => Err(Error::shape("sample", format!("{name} must lie between 0 and 2^64 - 1"))),
    }
}

impl SampleRequest {
    /// The kernel's form.
    pub fn convert(self) -> Result<Request> {
        Ok(Request {
            prompt: self.prompt.to_vec(),
            samples: whole("count", self.count)?,
            seed: unsigned("seed", &self.seed)?,
            stream: unsigned("stream", &self.stream)?,
            first_index: whole("firstIndex", self.first_index)?,
            max_tokens: whole("maxTokens", self.max_tokens)?,
            choice: Choice {
                temperature: self.temperature as f32,
                top_k: whole("topK", self.top_k)?,
                top_p: self.top_p as f32,
                min_p: self.min_p as f32,
            },
            stop_tokens: self.stop_tokens.to_vec(),
            stop_strings: self.stop_strings.into_iter().map(String::into_bytes).collect(),
            for_training: self.for_training,
            adapter: self.adapter,
        })
    }
}

/// The arguments `(error, events)` of the callback.
pub struct Arguments(Events);

/// A sink that calls `callback` on its own thread. The event loop stays alive until the last events, or until the sink is
/// dropped. `keep` lives as long.
pub fn sink(callback: &Function<Arguments, napi::Unknown<'static>>, keep: impl Send + 'static) -> napi::Result<Sink> {
    let call = callback.build_threadsafe_function::<Events>().build_callback(|context| Ok(Arguments(context.value)))?;
    Ok(Box::new(move |events| {
        let _ = &keep;
        // The queue is unbounded. It closes only with the environment, and then nobody listens.
        call.call(events, ThreadsafeFunctionCallMode::NonBlocking);
    }))
}

impl JsValuesTupleIntoVec for Arguments {
    fn into_vec(self, env: sys::napi_env) -> napi::Result<Vec<sys::napi_value>> {
        let js = Env::from_raw(env);
        if let Some(error) = &self.0.error {
            return Ok(vec![napi::JsValue::raw(&to_unknown(&js, error))]);
        }
        // SAFETY: napi calls this on the thread of `env`, within a scope for handles.
        unsafe { Ok(vec![<Option<u32>>::to_napi_value(env, None)?, events_object(env, &self.0)?]) }
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Length => "length",
        Reason::Context => "context",
        Reason::Abort => "abort",
    }
}

/// `{ version, sample, token, logprob, finished, done }`. The three arrays are views of one buffer, which is a good deal
/// cheaper than three external ones.
///
/// # Safety
/// On the thread of `env`, within a scope for handles.
unsafe fn events_object(env: sys::napi_env, events: &Events) -> napi::Result<sys::napi_value> {
    let count = events.tokens.len();
    let (mut buffer, mut data, mut object) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the results are valid places to write to, and `env` is current.
    unsafe {
        check_status!(sys::napi_create_object(env, &mut object))?;
        check_status!(sys::napi_create_arraybuffer(env, count * 12, &mut data, &mut buffer))?;
    }
    let fields: [(&[u8], &[u8], i32); 3] = [
        (b"sample\0", bytes(&events.samples), sys::TypedarrayType::uint32_array),
        (b"token\0", bytes(&events.tokens), sys::TypedarrayType::uint32_array),
        (b"logprob\0", bytes(&events.logprobs), sys::TypedarrayType::float32_array),
    ];
    for (index, (name, values, kind)) in fields.into_iter().enumerate() {
        let (offset, mut array) = (index * count * 4, ptr::null_mut());
        // SAFETY: the buffer has 12 bytes for each token, of which this field takes the 4 per token from `offset` on; a
        // buffer of no bytes may be null, then nothing is copied.
        unsafe {
            if count > 0 {
                ptr::copy_nonoverlapping(values.as_ptr(), data.cast::<u8>().add(offset), count * 4);
            }
            check_status!(sys::napi_create_typedarray(env, kind, count, buffer, offset, &mut array))?;
            set(env, object, name, array)?;
        }
    }
    let finished = events.finished.iter().map(|&(sample, why)| Finished { sample, reason: reason(why) });
    // SAFETY: as above.
    unsafe {
        set(env, object, b"version\0", f64::to_napi_value(env, events.version as f64)?)?;
        set(env, object, b"finished\0", Vec::to_napi_value(env, finished.collect())?)?;
        set(env, object, b"done\0", bool::to_napi_value(env, events.done)?)?;
    }
    Ok(object)
}

/// A sample that ended, and why.
#[napi(object, object_from_js = false)]
pub struct Finished {
    pub sample: u32,
    pub reason: &'static str,
}

/// # Safety
/// The values belong to `env`; `name` ends with a zero.
unsafe fn set(env: sys::napi_env, object: sys::napi_value, name: &[u8], value: sys::napi_value) -> napi::Result<()> {
    // SAFETY: promised by the caller.
    check_status!(unsafe { sys::napi_set_named_property(env, object, name.as_ptr().cast(), value) })
}

fn bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: only called with numbers, any byte of which may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
