//! The model as a store of tensors: weights, gradients and the optimiser's state by name.

use napi::Env;
use napi::bindgen_prelude::{Float32Array, Object};
use napi_derive::napi;
use quintain_core::error::{Error, Result};

use crate::NativeModel;
use crate::objects::{BlockTensor, Counters, GivenCounters, Moments, Tensor, shape};

/// The greatest whole number that JavaScript counts to.
const MOST: f64 = 9_007_199_254_740_991.0;

fn count(name: &str, given: Option<f64>, present: u64) -> Result<u64> {
    match given {
        None => Ok(present),
        Some(value) if value.fract() == 0.0 && (0.0..=MOST).contains(&value) => Ok(value as u64),
        Some(value) => {
            let message = format!("{name} is {value}: must be a whole number that is not negative");
            Err(Error::shape("setCounters", message))
        }
    }
}

#[napi]
impl NativeModel {
    #[napi]
    pub fn parameter_names<'env>(&self, env: &'env Env, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "parameterNames", move |engine| {
            let model = engine.read("parameterNames")?;
            Ok(match &adapter {
                None => model.parameter_names().map(String::from).collect::<Vec<_>>(),
                Some(adapter) => model.names_of(adapter)?.map(String::from).collect(),
            })
        })
    }

    #[napi]
    pub fn parameter<'env>(&self, env: &'env Env, name: String, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "parameter", move |engine| {
            let (dimensions, values) = engine.read("parameter")?.parameter(&name, adapter.as_deref())?;
            Ok(Tensor { shape: shape(&dimensions), values: values.into() })
        })
    }

    #[napi]
    pub fn set_parameter<'env>(
        &self,
        env: &'env Env,
        name: String,
        values: Float32Array,
        adapter: Option<String>,
    ) -> napi::Result<Object<'env>> {
        let values = values.to_vec();
        self.run(env, "setParameter", move |engine| {
            engine.write("setParameter")?.set_parameter(&name, adapter.as_deref(), &values)
        })
    }

    #[napi]
    pub fn gradient<'env>(&self, env: &'env Env, name: String, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "gradient", move |engine| {
            Ok(Float32Array::from(engine.read("gradient")?.gradient(&name, adapter.as_deref())?))
        })
    }

    /// A tensor as it is held in blocks.
    #[napi]
    pub fn blocks<'env>(&self, env: &'env Env, name: String, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "blocks", move |engine| {
            let blocks = engine.read("blocks")?.blocks(&name, adapter.as_deref())?;
            Ok(blocks.map(|(dimensions, rows)| BlockTensor {
                kind: rows.kind.name(),
                shape: shape(&dimensions),
                group: rows.group as u32,
                zero: rows.zero.into(),
                codes: rows.codes.into(),
                scales: rows.scales.into(),
                offsets: rows.offsets.map(Into::into),
            }))
        })
    }

    #[napi]
    pub fn moments<'env>(&self, env: &'env Env, name: String, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "moments", move |engine| {
            let moments = engine.read("moments")?.moments(&name, adapter.as_deref())?;
            Ok(moments.map(|[first, second]| Moments { first: first.into(), second: second.into() }))
        })
    }

    #[napi]
    pub fn set_moments<'env>(
        &self,
        env: &'env Env,
        name: String,
        first: Float32Array,
        second: Float32Array,
        adapter: Option<String>,
    ) -> napi::Result<Object<'env>> {
        let (first, second) = (first.to_vec(), second.to_vec());
        self.run(env, "setMoments", move |engine| {
            engine.write("setMoments")?.set_moments(&name, adapter.as_deref(), [&first, &second])
        })
    }

    #[napi]
    pub fn counters<'env>(&self, env: &'env Env, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "counters", move |engine| {
            let counters = engine.read("counters")?.counters(adapter.as_deref())?;
            let [steps, version, forwards] =
                [counters.steps, counters.version, counters.forwards].map(|count| count as f64);
            Ok(Counters { steps, version, forwards })
        })
    }

    /// Sets the counters that are given.
    #[napi]
    pub fn set_counters<'env>(
        &self,
        env: &'env Env,
        given: GivenCounters,
        adapter: Option<String>,
    ) -> napi::Result<Object<'env>> {
        self.run(env, "setCounters", move |engine| {
            let mut model = engine.write("setCounters")?;
            let mut counters = model.counters(adapter.as_deref())?;
            counters.steps = count("steps", given.steps, counters.steps)?;
            counters.version = count("version", given.version, counters.version)?;
            counters.forwards = count("forwards", given.forwards, counters.forwards)?;
            model.set_counters(adapter.as_deref(), counters)
        })
    }
}
