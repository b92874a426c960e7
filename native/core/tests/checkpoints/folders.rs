//! Hugging Face folders: shards, and what is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use quintain_core::error::Error;
use quintain_core::model::{Dtype, Model, Options};
use serde_json::{Map, Value, json};

use crate::common::{QWEN3, best, bits, model, options, runtime};
use crate::files::*;

/// A folder that is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quintain-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn open(path: &Path) -> Result<Model, Error> {
    Model::open(&runtime(best(), 1), path, 0, Options::default())
}

pub fn same(a: &Model, b: &Model) {
    let names: Vec<_> = a.parameter_names().map(String::from).collect();
    assert_eq!(names, b.parameter_names().collect::<Vec<_>>());
    for name in names {
        let ((shape, values), (other_shape, others)) =
            (a.parameter(&name, None).unwrap(), b.parameter(&name, None).unwrap());
        assert_eq!((shape, bits(&values)), (other_shape, bits(&others)), "{name}");
    }
}

/// Splits the weights of a folder into shards of `per` tensors; gives the map of its index.
fn split(folder: &Folder, per: usize) -> Map<String, Value> {
    let whole = fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut named: Vec<_> = tensors.iter().collect();
    named.sort_by_key(|(name, _)| name.to_string());
    let shards = named.len().div_ceil(per);
    let mut map = Map::new();
    for (index, part) in named.chunks(per).enumerate() {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", index + 1);
        part.iter().for_each(|(name, _)| drop(map.insert(name.to_string(), json!(file))));
        let views = part.iter().map(|(name, view)| (name, view));
        folder.write(&file, ::safetensors::serialize(views, None).unwrap());
    }
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    map
}

fn index(folder: &Folder, map: &Map<String, Value>) {
    let json = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    folder.write("model.safetensors.index.json", json.to_string());
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = Folder::new("shards");
    let whole = model(&runtime(best(), 1), QWEN3, options(Dtype::F32, false));
    whole.save(folder.path(), None, false).unwrap();
    same(&open(folder.path()).unwrap(), &whole);
    let map = split(&folder, 5);
    index(&folder, &map);
    same(&open(folder.path()).unwrap(), &whole);

    let refused = |change: &dyn Fn(&mut Map<String, Value>), message: &str| {
        let mut changed = map.clone();
        change(&mut changed);
        index(&folder, &changed);
        let error = open(folder.path()).err().expect(message);
        assert!(matches!(&error, Error::Format { .. } | Error::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(message), "{error} should say {message}");
    };
    let shard = map["model.norm.weight"].as_str().unwrap().to_string();
    let other = map.values().find(|file| **file != json!(shard)).unwrap().clone();
    for path in [
        "../model.safetensors",
        "/etc/model.safetensors",
        "..",
        ".",
        "",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "model.safetensors.index.json",
        "model.bin",
        "a\0.safetensors",
    ] {
        refused(&|map| drop(map.insert("model.norm.weight".into(), json!(path))), "no name of a .safetensors file");
    }
    for odd in [json!(7), json!(null), json!(["a.safetensors"]), json!({ "a.safetensors": {} })] {
        refused(&|map| drop(map.insert("model.norm.weight".into(), odd.clone())), "no name of a .safetensors file");
    }
    refused(&|map| drop(map.insert("x".into(), json!("absent.safetensors"))), "absent.safetensors");
    refused(&|map| drop(map.insert("model.norm.weight".into(), other.clone())), "model.norm.weight should be in");
    refused(&|map| drop(map.insert("x".into(), json!(shard))), "x should be in");
    refused(&|map| map.clear(), "weight_map is missing, empty");
    // A shard that repeats a tensor of another.
    let bytes = fs::read(folder.path().join(&shard)).unwrap();
    folder.write("again.safetensors", bytes);
    refused(&|map| drop(map.insert("x".into(), json!("again.safetensors"))), "is here and in");
    // A folder, and a pipe that nobody writes to, under the name of a shard.
    fs::create_dir(folder.path().join("folder.safetensors")).unwrap();
    refused(&|map| drop(map.insert("x".into(), json!("folder.safetensors"))), "not a regular file");
    #[cfg(unix)]
    {
        let pipe = std::ffi::CString::new(folder.path().join("pipe.safetensors").to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with a zero byte.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        refused(&|map| drop(map.insert("x".into(), json!("pipe.safetensors"))), "not a regular file");
    }
    folder.write("model.safetensors.index.json", "[".repeat(1 << 20));
    assert_eq!(open(folder.path()).err().unwrap().code(), "Format");
}

#[test]
fn a_config_that_promises_more_than_the_files_hold_allocates_nothing() {
    let folder = Folder::new("promises");
    let whole = model(&runtime(best(), 1), QWEN3, options(Dtype::F32, false));
    whole.save(folder.path(), None, false).unwrap();
    let config: Value = serde_json::from_str(&whole.config.to_json()).unwrap();
    let rt = runtime(best(), 1);
    for (field, value) in [
        ("num_hidden_layers", json!(2_000_000_000)),
        ("num_hidden_layers", json!(4000)),
        ("vocab_size", json!(2_147_483_647)),
        ("hidden_size", json!(2_147_483_646)),
        ("head_dim", json!(2_147_483_646)),
        ("intermediate_size", json!(2_147_483_647)),
    ] {
        let mut config = config.clone();
        config[field] = value;
        folder.write("config.json", config.to_string());
        let (result, peak) = counting::peak(|| Model::open(&rt, folder.path(), 0, Options::default()));
        let error = result.err().expect(field);
        assert!(matches!(error.code(), "Format" | "Config"), "{error:?}");
        assert!(peak < 16 << 20, "{field}: {peak} bytes");
    }
    // Frequencies that the tables of a context cover need not be there.
    let mut config = config.clone();
    config["max_position_embeddings"] = json!(i32::MAX);
    folder.write("config.json", config.to_string());
    let (result, peak) = counting::peak(|| Model::open(&rt, folder.path(), 0, Options::default()));
    assert!(result.is_ok() && peak < 32 << 20, "{peak} bytes");
}

#[test]
fn a_folder_without_weights_says_what_to_do() {
    let folder = Folder::new("absent");
    folder.write("config.json", QWEN3);
    let message = |name: &str| {
        let path = folder.write(name, "");
        let error = open(folder.path()).err().unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(error.code(), "Io");
        error.to_string()
    };
    assert!(message("model.gguf").contains("open that file"));
    assert!(message("pytorch_model.bin").contains("save the model with safetensors"));
    assert!(message("README.md").contains("does not exist"));
    folder.write("config.json", "{".repeat(1 << 20));
    assert_eq!(open(folder.path()).err().unwrap().code(), "Config");
}
