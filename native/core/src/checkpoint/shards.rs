//! Which files hold the weights of a Hugging Face folder.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::formats::{TensorSource, read_json};

pub(super) const MODEL: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 4096;

/// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
pub(super) fn open(dir: &Path) -> Result<TensorSource> {
    let (single, index) = (dir.join(MODEL), dir.join(INDEX));
    if single.exists() {
        return TensorSource::safetensors(&[single]);
    }
    if !index.exists() {
        return Err(absent(dir));
    }
    let json = read_json(&index)?;
    let fail = |message: String| Err(Error::format(&index, message));
    let Some(map) = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return fail("weight_map is missing, empty or no object".into());
    };
    let files = shard_names(&index, map)?;
    let source = TensorSource::safetensors(&files.into_iter().map(|name| dir.join(name)).collect::<Vec<_>>())?;
    for (tensor, file) in map {
        let found = source.file(tensor).and_then(Path::file_name);
        if found.and_then(|name| name.to_str()) != file.as_str() {
            let place = found.map_or_else(|| "nowhere".into(), |name| format!("in {}", name.display()));
            return fail(format!("{tensor} should be in {file}, and is {place}: the download is incomplete or mixed"));
        }
    }
    Ok(source)
}

fn shard_names<'a>(index: &Path, map: &'a Map<String, Value>) -> Result<BTreeSet<&'a str>> {
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or("");
        let mut parts = Path::new(name).components();
        // One plain name: nothing outside the folder, nothing that another system takes for a path.
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
            && !name.contains(['/', '\\', ':', '\0'])
            && name.ends_with(".safetensors");
        if !plain {
            let message = format!("weight_map puts {tensor} into {file}, which is no name of a .safetensors file");
            return Err(Error::format(index, message));
        }
        names.insert(name);
        if names.len() > MAX_SHARDS {
            return Err(Error::format(index, format!("weight_map names more than {MAX_SHARDS} files")));
        }
    }
    Ok(names)
}

/// Advice for a folder without weights.
fn absent(dir: &Path) -> Error {
    let message = "does not exist, nor does an index of shards beside it";
    let names = || std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let ends = |end: &str| names().any(|name| name.to_string_lossy().ends_with(end));
    let remedy = match () {
        () if ends(".gguf") => "; the folder has a .gguf file: open that file",
        () if ends(".bin") => "; .bin files (pickle) are not read: save the model with safetensors",
        () => "",
    };
    Error::Io { path: dir.join(MODEL), message: format!("{message}{remedy}") }
}
