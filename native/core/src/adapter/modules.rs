//! The modules that an adapter can sit on, by their paths.

use crate::config::ModelConfig;

/// The linear layers of a decoder layer, by the product that computes them: q|k|v, o, gate|up, down.
pub(super) const PRODUCTS: [(&str, &[&str]); 4] = [
    ("self_attn", &["q_proj", "k_proj", "v_proj"]),
    ("self_attn", &["o_proj"]),
    ("mlp", &["gate_proj", "up_proj"]),
    ("mlp", &["down_proj"]),
];

/// The path of a module.
pub(super) fn path(layer: usize, parent: &str, module: &str) -> String {
    format!("model.layers.{layer}.{parent}.{module}")
}

/// The paths of all modules that an adapter can sit on, in the order of the layers.
pub fn module_paths(config: &ModelConfig) -> Vec<String> {
    let products = (0..config.num_hidden_layers).flat_map(|layer| PRODUCTS.map(|product| (layer, product)));
    products.flat_map(|(layer, (parent, modules))| modules.iter().map(move |name| path(layer, parent, name))).collect()
}

/// PEFT's rule for an entry of a list of targets.
pub(super) fn matches(entry: &str, path: &str) -> bool {
    entry == "all-linear" || path.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
