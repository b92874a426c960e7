//! LoRA in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::modules::{matches, module_paths};
use super::config::{LoraConfig, decimal};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::formats::{FileDtype, TensorSource, outgoing, write_tensors, write_text};
use crate::params::Parameter;

/// The factors.
const ADAPTER: &str = "adapter_model.safetensors";
/// Their shape, scale and place.
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The method's name in PEFT.
const PEFT_TYPE: &str = "LORA";
/// More entries are no list of modules.
const MAX_TARGETS: usize = 1 << 16;
/// PEFT's prefix of a module's path.
const PREFIX: &str = "base_model.model.";

/// Fields that say how an adapter was started, trained or found, not what it computes.
const HARMLESS: [&str; 22] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Writes the factors, as f32, and what PEFT needs to know of them.
pub(in crate::adapter) fn save(
    lora: &LoraConfig,
    list: &[Parameter],
    base_name: Option<&str>,
    dir: &Path,
    model: &ModelConfig,
    state: &str,
) -> Result<()> {
    write_tensors(&dir.join(ADAPTER), outgoing(list), FileDtype::F32, &[("format", "pt"), ("quintain", state)])?;
    let config = json!({
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": decimal(lora.alpha),
        "lora_dropout": decimal(lora.dropout),
        "use_rslora": lora.rs_lora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": lora.listed(model),
    });
    write_text(&dir.join(ADAPTER_CONFIG), &format!("{config:#}"))
}

/// A folder that holds LoRA's factors.
pub(crate) struct Folder {
    /// Targets are the paths of the modules that have factors.
    pub config: LoraConfig,
    pub files: TensorSource,
    pub base_name: Option<String>,
    path: PathBuf,
    /// The names that the factors have in the file.
    names: HashMap<String, String>,
}

impl Folder {
    /// Reads the configuration (`saved`, from `path`) and finds the factors.
    pub fn open(dir: &Path, path: PathBuf, saved: &Map<String, Value>, model: &ModelConfig) -> Result<Self> {
        let fields = Fields { path: &path, fields: saved };
        fields.refuse_unsupported()?;
        let files = TensorSource::safetensors(&[dir.join(ADAPTER)])?;
        let (names, modules) = factors(&files, model)?;
        fields.check_targets(&modules, model)?;
        let config = LoraConfig {
            rank: fields.rank()?,
            alpha: fields.number("lora_alpha")?,
            targets: modules,
            rs_lora: fields.flag("use_rslora")?,
            dropout: if fields.given("lora_dropout").is_some() { fields.number("lora_dropout")? } else { 0.0 },
        };
        let base_name = fields.given("base_model_name_or_path").and_then(Value::as_str).map(String::from);
        Ok(Folder { config, files, base_name, path, names })
    }

    /// Refuses an adapter whose factors differ in shape, scale or place from what the model has.
    pub fn check_same(&self, own: &LoraConfig, model: &ModelConfig) -> Result<()> {
        let differs = |field: &str, saved: Value, own: Value| {
            Err(Error::format(&self.path, format!("{field} is {saved}, the model has {own}")))
        };
        let saved = &self.config;
        if saved.rank != own.rank {
            return differs("r", json!(saved.rank), json!(own.rank));
        }
        if saved.alpha != own.alpha {
            return differs("lora_alpha", json!(saved.alpha), json!(own.alpha));
        }
        if saved.rs_lora != own.rs_lora {
            return differs("use_rslora", json!(saved.rs_lora), json!(own.rs_lora));
        }
        let (saved, own) = (saved.listed(model), own.listed(model));
        if saved != own {
            return differs("target_modules", json!(saved), json!(own));
        }
        Ok(())
    }

    /// Every factor must be there in its shape.
    pub fn check(&self, list: &[Parameter]) -> Result<()> {
        for parameter in list {
            for slice in &parameter.slices {
                match self.names.get(&slice.name) {
                    Some(name) => self.files.expect(name, &parameter.shape(slice))?,
                    None => return Err(Error::format(self.files.path(), format!("{} is missing", slice.name))),
                }
            }
        }
        Ok(())
    }

    /// Reads factors that have been checked.
    pub fn read(&self, list: &mut [Parameter]) {
        for parameter in list {
            parameter.allocate();
            for slice in parameter.slices.clone() {
                let first = slice.rows.start;
                self.files.read(&self.names[&slice.name], |row, values| parameter.put_row(first + row, values));
            }
        }
    }
}

fn wrong(path: &Path, message: impl Into<String>) -> Error {
    Error::format(path, message)
}

/// The names of the factors by those that we give them, and the modules that have them, in the order of the layers.
fn factors(files: &TensorSource, model: &ModelConfig) -> Result<(HashMap<String, String>, Vec<String>)> {
    let known = module_paths(model);
    let places: HashMap<&str, usize> = known.iter().enumerate().map(|(at, path)| (path.as_str(), at)).collect();
    let (mut names, mut modules) = (HashMap::new(), BTreeSet::new());
    for name in files.names() {
        let refused = |what: &str| Err(Error::format(files.path(), format!("{name} {what}")));
        // Older versions of PEFT also wrote the adapter's name.
        let stem = name.strip_suffix(".default.weight").or_else(|| name.strip_suffix(".weight"));
        let split = stem.and_then(|stem| stem.rsplit_once('.'));
        let Some((path, factor @ ("lora_A" | "lora_B"))) = split else {
            return refused("is no factor of a linear layer: only lora_A.weight and lora_B.weight can be read");
        };
        let path = path.strip_prefix(PREFIX).unwrap_or(path);
        let Some(&index) = places.get(path) else {
            return refused("belongs to no linear layer of this model's decoder");
        };
        modules.insert(index);
        if names.insert(format!("{PREFIX}{path}.{factor}.weight"), name.to_string()).is_some() {
            return refused("is there twice under different names");
        }
    }
    if modules.is_empty() {
        return Err(Error::format(files.path(), "holds no factors"));
    }
    Ok((names, modules.into_iter().map(|index| known[index].clone()).collect()))
}

/// The fields of an `adapter_config.json`.
struct Fields<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn error<T>(&self, message: String) -> Result<T> {
        Err(wrong(self.path, message))
    }

    /// A field that says something.
    fn given(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(values) => !values.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        })
    }

    fn number(&self, name: &str) -> Result<f32> {
        match self.given(name).and_then(Value::as_f64).map(|value| value as f32).filter(|value| value.is_finite()) {
            Some(value) => Ok(value),
            None => self.error(format!("{name} must be a finite number")),
        }
    }

    fn rank(&self) -> Result<usize> {
        match self.given("r").and_then(Value::as_u64) {
            Some(rank @ 1..=4096) => Ok(rank as usize),
            _ => self.error("r must be a whole number from 1 to 4096".into()),
        }
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.given(name) {
            None => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(other) => self.error(format!("{name} is {other}, must be true or false")),
        }
    }

    /// Refuses, by its name, every field that would change what the adapter computes.
    fn refuse_unsupported(&self) -> Result<()> {
        for name in self.fields.keys() {
            let Some(value) = self.given(name) else { continue };
            let fine = match name.as_str() {
                "bias" => value == "none",
                // The others start from a changed base, which is not in the folder.
                "init_lora_weights" => {
                    value.as_bool().is_some()
                        || ["gaussian", "orthogonal", "eva", "loftq"].iter().any(|kind| value == kind)
                }
                name => HARMLESS.contains(&name),
            };
            if !fine {
                return self.error(format!("{name} is {value}, which is not supported: merge the adapter with PEFT"));
            }
        }
        Ok(())
    }

    /// The modules that have factors must be those that a list of targets names; an expression says it in another language.
    fn check_targets(&self, modules: &[String], model: &ModelConfig) -> Result<()> {
        let entries = match self.given("target_modules") {
            Some(Value::Array(entries)) => entries.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
            Some(Value::String(_)) => return Ok(()),
            _ => None,
        };
        let Some(entries) = entries.filter(|entries| entries.len() <= MAX_TARGETS) else {
            return self.error(format!("target_modules must be a string, or a list of at most {MAX_TARGETS} names"));
        };
        let named = |module: &&String| entries.iter().any(|entry| matches(entry, module));
        if let Some(stranger) = modules.iter().find(|module| !named(module)) {
            return self.error(format!("target_modules does not name {stranger}, which has factors"));
        }
        let selected = ["layers_to_transform", "exclude_modules"].iter().any(|name| self.given(name).is_some());
        match module_paths(model).iter().filter(named).find(|module| !modules.contains(module)) {
            Some(module) if !selected => self.error(format!("target_modules names {module}, which has no factors")),
            _ => Ok(()),
        }
    }
}
