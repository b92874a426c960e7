//! Opening a model: a Hugging Face folder or a GGUF file, streamed from the mapped files into the parameters.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{gguf_model, shards};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::formats::gguf::Gguf;
use crate::formats::{Encoding, FileMap, TensorSource, read_text};
use crate::kernels::Runtime;
use crate::model::{Model, Options};
use crate::params::{Blocks, Parameter, Params};

impl Model {
    /// Opens a Hugging Face folder (`config.json` and one or several safetensors files) or a GGUF file. Adapters start from
    /// `seed`.
    ///
    /// # Errors
    /// `Io` and `Format` name the file, and the tensor or key that is wrong in it; `Config` names a field that this kernel
    /// cannot compute.
    pub fn open(rt: &Arc<Runtime>, path: &Path, seed: u64, options: Options) -> Result<Model> {
        let facts = std::fs::metadata(path).map_err(|cause| Error::io(path, &cause))?;
        let (source, config) = if facts.is_dir() {
            let config = read_config(&path.join("config.json"))?;
            (shards::open(path)?, config)
        } else {
            gguf_model::open(path)?
        };
        let mut params = Params::empty(&config, options.dtype, options.trains_base(), options.blocks)?;
        if options.blocks == Some(Blocks::File) {
            params.hold(Blocks::File, |name| source.kind(name));
        }
        check(&source, &params.list)?;
        params.list.iter_mut().for_each(|parameter| fill(&source, parameter));
        Model::assemble(rt, config, params, seed, options)
    }
}

/// Metadata and tensors of a GGUF file as JSON: `{ version, alignment, metadata, tensors: [{ name, shape, kind }] }`.
///
/// # Errors
/// `Io` and `Format`, which names the key or tensor that is wrong.
pub fn gguf_json(path: &Path) -> Result<String> {
    let map = FileMap::open(path)?;
    Gguf::parse(&map).map(|file| file.to_json()).map_err(|fault| Error::format(path, fault))
}

pub(super) fn read_config(path: &Path) -> Result<ModelConfig> {
    ModelConfig::from_json(&read_text(path)?)
}

/// Gives a parameter the values of its tensors, which `check` has seen.
pub(super) fn fill(source: &TensorSource, parameter: &mut Parameter) {
    parameter.allocate();
    for slice in parameter.slices.clone() {
        let first = slice.rows.start;
        if parameter.vector {
            source.read(&slice.name, |row, values| parameter.put_row(first + row, values));
            continue;
        }
        let mut values = vec![0.0; parameter.k];
        source.rows(&slice.name, |place, row| match row.encoding {
            Encoding::Blocks(kind) => parameter.put_blocks(first + place, kind, row.bytes),
            _ => {
                row.decode(&mut values);
                parameter.put_row(first + place, &values);
            }
        });
    }
}

/// Every tensor of `parameters` must be there in its shape, and nothing else.
pub(super) fn check(files: &TensorSource, parameters: &[Parameter]) -> Result<()> {
    let mut known = BTreeSet::new();
    for parameter in parameters {
        for slice in &parameter.slices {
            files.expect(&slice.name, &parameter.shape(slice))?;
            known.insert(slice.name.as_str());
        }
    }
    let unexpected = files.names().find(|name| {
        // Tied checkpoints may repeat the head; old ones list the rotary frequencies.
        !known.contains(name) && *name != "lm_head.weight" && !name.ends_with("rotary_emb.inv_freq")
    });
    match unexpected {
        Some(name) => Err(Error::format(files.path(), format!("{name} is no tensor of this model"))),
        None => Ok(()),
    }
}
