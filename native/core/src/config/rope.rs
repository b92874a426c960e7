//! Rotary frequencies and their scaling, in the fields of both generations of `config.json`.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How the rotary frequencies differ from `rope_theta^(-2i / head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Positions are divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1: wavelengths beyond `original_max_position_embeddings / low_freq_factor` are stretched by `factor`, those
    /// below `original_max_position_embeddings / high_freq_factor` stay, those between are interpolated.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
}

impl RopeScaling {
    /// The settings of Llama 3.1 and its successors, except `factor`.
    pub(crate) fn llama3(factor: f64, original_max_position_embeddings: usize) -> Self {
        RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings }
    }

    /// A scaled frequency, computed and rounded in f32 as transformers does.
    fn scale(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                let (low, high) = (original / low_freq_factor, original / high_freq_factor);
                // PyTorch divides a number by a tensor as reciprocal times number.
                let wavelength = frequency.recip() * (2.0 * std::f64::consts::PI) as f32;
                let factor = factor as f32;
                if wavelength < high as f32 {
                    frequency
                } else if wavelength > low as f32 {
                    frequency / factor
                } else {
                    let smooth = wavelength.recip() * original as f32 - low_freq_factor as f32;
                    let smooth = smooth / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }

    fn validate(&self) -> Result<()> {
        let refuse = |field: &str, message: String| Err(Error::config(format!("rope_scaling.{field}"), message));
        let (RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. }) = *self;
        if !(factor.is_finite() && factor > 0.0) {
            return refuse("factor", format!("is {factor}, must be positive and finite"));
        }
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, original_max_position_embeddings, .. } = *self {
            if !(low_freq_factor > 0.0 && high_freq_factor.is_finite() && high_freq_factor > low_freq_factor) {
                let message = format!("is {high_freq_factor}, must be greater than low_freq_factor {low_freq_factor}");
                return refuse("high_freq_factor", message);
            }
            if original_max_position_embeddings == 0 {
                return refuse("original_max_position_embeddings", "is 0, must be positive".into());
            }
        }
        Ok(())
    }
}

/// Takes `rope_scaling` (transformers 4) or `rope_parameters` (5) out of a configuration: `rope_theta`, if it is there, and
/// the scaling.
pub(super) fn take(config: &mut Map<String, Value>) -> Result<(Option<f64>, Option<RopeScaling>)> {
    let (old, new) = (config.remove("rope_scaling"), config.remove("rope_parameters"));
    // transformers' own precedence.
    let given = [("rope_scaling", old), ("rope_parameters", new)]
        .into_iter()
        .find_map(|(field, value)| Some((field, value.filter(|v| !v.is_null() && *v != Value::Object(Map::new()))?)));
    let Some((field, value)) = given else { return Ok((None, None)) };
    let Value::Object(fields) = value else {
        return Err(Error::config(field, "is no object"));
    };
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(Error::config(format!("{field}.{name}"), format!("is {value}, must be a number"))),
        },
    };
    let needed = |name: &str| {
        number(name)?.ok_or_else(|| Error::config(format!("{field}.{name}"), "is missing, the rope type needs it"))
    };
    let refuse = |name: &str, message: String| Err(Error::config(format!("{field}.{name}"), message));
    if fields.values().any(Value::is_object) {
        return Err(Error::config(field, "differs between layers, which is not supported: one rope for all layers is"));
    }
    if let Some(share) = number("partial_rotary_factor")?.filter(|&share| share != 1.0) {
        return refuse("partial_rotary_factor", format!("is {share}, only whole heads (1) can be rotated"));
    }
    let kind = fields.get("rope_type").or(fields.get("type")).filter(|kind| !kind.is_null());
    let scaling = match kind.map(|kind| kind.as_str().unwrap_or("?")) {
        None | Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: needed("factor")? }),
        Some("llama3") => {
            let top = config.get("original_max_position_embeddings").and_then(Value::as_f64);
            let last = config.get("max_position_embeddings").and_then(Value::as_f64);
            let original = top
                .or(number("original_max_position_embeddings")?)
                .or(last)
                .unwrap_or(super::default_positions() as f64);
            if !(original >= 1.0 && original.fract() == 0.0 && original <= f64::from(i32::MAX)) {
                return refuse(
                    "original_max_position_embeddings",
                    format!("is {original}, must be a positive integer"),
                );
            }
            Some(RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position_embeddings: original as usize,
            })
        }
        Some(other) => {
            let message = format!("`{other:.40}` is not supported, only default, linear and llama3");
            return refuse("rope_type", message);
        }
    };
    scaling.as_ref().map_or(Ok(()), RopeScaling::validate)?;
    Ok((number("rope_theta")?, scaling))
}

/// The angle that each pair of a head turns by from one position to the next, rounded where transformers rounds.
///
/// ```
/// use quintain_core::config::frequencies;
/// assert_eq!(frequencies(10_000.0, 4, None), [1.0, 0.01]);
/// ```
pub fn frequencies(theta: f32, head_dim: usize, scaling: Option<&RopeScaling>) -> Vec<f32> {
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / head_dim as f32;
        // Correctly rounded powers: those of torch are within one unit in the last place of it.
        let frequency = 1.0 / (f64::from(theta).powf(f64::from(exponent)) as f32);
        scaling.map_or(frequency, |scaling| scaling.scale(frequency))
    };
    (0..head_dim / 2).map(frequency).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ROPE_INIT_FUNCTIONS[...]` of transformers 5 with rope_theta 500000 and head_dim 64: some of the 32 frequencies.
    #[test]
    fn frequencies_equal_those_of_transformers() {
        let llama3 = RopeScaling::llama3(8.0, 8192);
        let linear = RopeScaling::Linear { factor: 4.0 };
        for (scaling, expected) in [(None, &PLAIN[..]), (Some(llama3), &LLAMA3), (Some(linear), &LINEAR)] {
            let frequencies = frequencies(500_000.0, 64, scaling.as_ref());
            for &(i, expected) in expected {
                let ulps = frequencies[i].to_bits().abs_diff(f32::to_bits(expected));
                assert!(ulps <= 2, "{scaling:?} {i}: {} {expected}", frequencies[i]);
            }
        }
    }

    const PLAIN: [(usize, f32); 4] = [(1, 0.663_601_3), (10, 0.016_560_44), (17, 0.000_938_473_85), (31, 3.013_858e-6)];
    const LLAMA3: [(usize, f32); 6] = [
        (0, 1.0),
        (14, 0.003_211_446),
        (15, 0.001_371_893_7),
        (16, 0.000_524_846),
        (17, 0.000_178_507_79),
        (31, 3.767_322_6e-7),
    ];
    const LINEAR: [(usize, f32); 3] = [(0, 0.25), (15, 0.000_532_779_9), (31, 7.534_645e-7)];
}
