//! A model as a Hugging Face folder that every tool reads: the base, with an adapter merged into it or without.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::shards::{INDEX, MODEL};
use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::formats::{FileDtype, Outgoing, write_tensors, write_text};
use crate::model::Model;
use crate::params::{Parameter, Slice};

/// How [`Model::export`] writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExportOptions<'a> {
    /// The adapter to merge; [`BASE`](crate::model::BASE): none; absent: the adapter that calls without a name use, if any.
    pub adapter: Option<&'a str>,
    pub dtype: FileDtype,
    /// A file holds no more bytes of weights than this, unless one tensor is larger.
    pub shard_bytes: usize,
}

impl Default for ExportOptions<'_> {
    fn default() -> Self {
        ExportOptions { adapter: None, dtype: FileDtype::F32, shard_bytes: 5_000_000_000 }
    }
}

impl Model {
    /// Writes `config.json` and the weights, `W + scale · B · A` where an adapter is merged: in one file, or in shards with
    /// an index. Sums are f32 and rounded once. Quantised weights are written as the numbers they stand for. Memory is
    /// needed for some rows only; files appear whole or not at all, `config.json` last.
    ///
    /// # Errors
    /// `State` for an unknown adapter, `Io` where the folder cannot be written.
    pub fn export(&self, dir: &Path, options: &ExportOptions) -> Result<()> {
        let adapter = self.adapter(self.choose("export", options.adapter)?);
        std::fs::create_dir_all(dir).map_err(|cause| Error::io(dir, &cause))?;
        let slices = self.params.list.iter().flat_map(|p| p.slices.iter().map(move |slice| (p, slice)));
        let mut tensors: Vec<_> = slices.map(|(parameter, slice)| self.merged(adapter, parameter, slice)).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut shards: Vec<(usize, Vec<Outgoing>)> = Vec::new();
        for tensor in tensors {
            let bytes = tensor.bytes(options.dtype);
            match shards.last_mut() {
                Some((size, shard)) if *size + bytes <= options.shard_bytes => {
                    *size += bytes;
                    shard.push(tensor);
                }
                _ => shards.push((bytes, vec![tensor])),
            }
        }
        self.write_shards(dir, shards, options.dtype)?;
        let mut config: Value = serde_json::from_str(&self.config.to_json()).unwrap_or_default();
        config["torch_dtype"] = json!(match options.dtype {
            FileDtype::F32 => "float32",
            FileDtype::Bf16 => "bfloat16",
            FileDtype::F16 => "float16",
        });
        write_text(&dir.join("config.json"), &format!("{config:#}"))
    }

    fn write_shards(&self, dir: &Path, shards: Vec<(usize, Vec<Outgoing>)>, dtype: FileDtype) -> Result<()> {
        let metadata = [("format", "pt")];
        // A file that an earlier export left under the other name would be read instead of this one.
        let remove = |name: &str| match std::fs::remove_file(dir.join(name)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir.join(name), &cause)),
            _ => Ok(()),
        };
        let (count, total) = (shards.len(), shards.iter().map(|(bytes, _)| bytes).sum::<usize>());
        let mut map = Map::new();
        for (at, (_, shard)) in shards.into_iter().enumerate() {
            if count == 1 {
                write_tensors(&dir.join(MODEL), shard, dtype, &metadata)?;
                return remove(INDEX);
            }
            let name = format!("model-{:05}-of-{count:05}.safetensors", at + 1);
            map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
            write_tensors(&dir.join(&name), shard, dtype, &metadata)?;
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_text(&dir.join(INDEX), &format!("{index:#}"))?;
        remove(MODEL)
    }

    /// A tensor of the base with what the adapter adds to it.
    fn merged<'a>(&'a self, adapter: Option<&'a Adapter>, parameter: &'a Parameter, slice: &'a Slice) -> Outgoing<'a> {
        let delta = adapter.and_then(|adapter| adapter.delta(slice));
        let rows = move |rows: Range<usize>| {
            let mut values = parameter.read_rows(slice.within(rows.clone()));
            if let Some(delta) = &delta {
                delta.add(&self.rt, rows, &mut values);
            }
            values
        };
        Outgoing { name: slice.name.clone(), shape: parameter.shape(slice), rows: Box::new(rows) }
    }
}
