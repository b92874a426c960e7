//! Models in GGUF files: the same as in a folder; and what is refused of them.

use quintain_core::config::RopeScaling;
use quintain_core::model::{Dtype, Model, Options};

use crate::common::{Batch, LLAMA_TIED, QWEN2, QWEN3, best, bits, keep, model, options, quiet, runtime};
use crate::files::*;
use crate::folders::{Folder, open, same};

/// The model as llama.cpp's converter writes it, all tensors F32.
fn convert(model: &Model) -> GgufFile {
    let config = &model.config;
    let arch = config.model_type.as_str();
    let key = |name: &str| format!("{arch}.{name}");
    let mut file = GgufFile::new()
        .text("general.architecture", arch)
        .u32(&key("block_count"), config.num_hidden_layers as u32)
        .u32(&key("context_length"), config.max_position_embeddings as u32)
        .u32(&key("embedding_length"), config.hidden_size as u32)
        .u32(&key("feed_forward_length"), config.intermediate_size as u32)
        .u32(&key("attention.head_count"), config.num_attention_heads as u32)
        .u32(&key("attention.head_count_kv"), config.kv_heads() as u32)
        .u32(&key("attention.key_length"), config.head_dim() as u32)
        .u32(&key("attention.value_length"), config.head_dim() as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps)
        .f32(&key("rope.freq_base"), config.rope_theta);
    for name in model.parameter_names().map(String::from) {
        let (shape, mut values) = model.parameter(&name, None).unwrap();
        if arch == "llama" && (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight")) {
            values = permute(&values, shape[0] / config.head_dim(), config.head_dim());
        }
        let dims: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
        let ours = match name.as_str() {
            "model.embed_tokens.weight" => "token_embd.weight".to_string(),
            "model.norm.weight" => "output_norm.weight".to_string(),
            "lm_head.weight" => "output.weight".to_string(),
            _ => name
                .replace("model.layers.", "blk.")
                .replace("self_attn.o_proj", "attn_output")
                .replace("self_attn.q_norm", "attn_q_norm")
                .replace("self_attn.k_norm", "attn_k_norm")
                .replace("self_attn.", "attn_")
                .replace("mlp.", "ffn_")
                .replace("_proj", "")
                .replace("input_layernorm", "attn_norm")
                .replace("post_attention_layernorm", "ffn_norm"),
        };
        file = file.tensor(&ours, &dims, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }
    file
}

/// `w.reshape(heads, 2, dim / 2, k).swapaxes(1, 2).reshape(w.shape)`
fn permute(values: &[f32], heads: usize, dim: usize) -> Vec<f32> {
    let k = values.len() / (heads * dim);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for pair in 0..dim / 2 {
            for half in 0..2 {
                let row = head * dim + half * dim / 2 + pair;
                out.extend(&values[row * k..(row + 1) * k]);
            }
        }
    }
    out
}

#[test]
fn a_converted_model_is_the_same_model() {
    let folder = Folder::new("converted");
    for json in [LLAMA_TIED, QWEN2, QWEN3] {
        let mut original = model(&runtime(best(), 1), json, options(Dtype::F32, false));
        let path = folder.write("model.gguf", convert(&original).bytes());
        let mut opened = open(&path).unwrap();
        assert_eq!(opened.config.difference(&original.config), None);
        assert_eq!(opened.config.max_position_embeddings, 64);
        same(&opened, &original);
        let batch = Batch::new(original.config.vocab_size);
        let logprobs = |model: &mut Model| {
            bits(&model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet()).unwrap().logprobs)
        };
        assert_eq!(logprobs(&mut opened), logprobs(&mut original));
    }
}

#[test]
fn the_factors_of_llama_3_are_recognised() {
    let folder = Folder::new("factors");
    let json = LLAMA_TIED.replace("16, \"inter", "16, \"head_dim\": 64, \"rope_theta\": 500000, \"inter");
    let original = model(&runtime(best(), 1), &json, options(Dtype::F32, false));
    // The factors as `LlamaModel.generate_extra_tensors` of the converter computes them.
    let factors = |factor: f64, low: f64, original: f64| -> Vec<u8> {
        let one = |i: u32| {
            let wavelength = 2.0 * std::f64::consts::PI * 500_000f64.powf(f64::from(2 * i) / 64.0);
            if wavelength < original / 4.0 {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                let smooth = (original / wavelength - low) / (4.0 - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        (0..32).flat_map(|i| (one(i) as f32).to_le_bytes()).collect()
    };
    let with = |factors: Vec<u8>| {
        let file = convert(&original).tensor("rope_freqs.weight", &[factors.len() as u64 / 4], 0, factors);
        open(&folder.write("model.gguf", file.bytes()))
    };
    for original_max_position_embeddings in [8192, 3000] {
        let opened = with(factors(32.0, 1.0, original_max_position_embeddings as f64)).unwrap();
        let expected = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings,
        };
        assert_eq!(opened.config.rope_scaling, Some(expected));
        same(&opened, &original);
    }
    for unusual in [factors(32.0, 2.0, 8192.0), vec![0; 128], factors(8.0, 1.0, 8192.0)[..64].to_vec(), vec![255; 128]]
    {
        let error = with(unusual).err().unwrap();
        assert!(error.to_string().contains("rope_freqs.weight"), "{error}");
    }
}

#[test]
fn what_a_model_cannot_be_is_refused_by_name() {
    let folder = Folder::new("refused");
    let original = model(&runtime(best(), 1), LLAMA_TIED, options(Dtype::F32, false));
    let refused = |change: &dyn Fn(&mut GgufFile), code: &str, message: &str| {
        let mut file = convert(&original);
        change(&mut file);
        let error = open(&folder.write("model.gguf", file.bytes())).err().expect(message);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(message), "{error} should say {message}");
    };
    let set = |file: &mut GgufFile, key: &str, kind: u32, value: Vec<u8>| {
        file.metadata.retain(|(name, ..)| name != key);
        file.metadata.push((key.into(), kind, value));
    };
    let texts = [
        ("general.architecture", "gemma3", "`gemma3`, which is not supported"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type is `yarn`"),
        ("llama.block_count", "two", "llama.block_count is no count"),
        ("llama.attention.layer_norm_rms_epsilon", "x", "is no finite number"),
    ];
    for (key, value, message) in texts {
        refused(&|file| set(file, key, STRING, text(value)), "Format", message);
    }
    let counts = [
        ("llama.expert_count", 8, "Format", "llama.expert_count is 8"),
        ("llama.attention.sliding_window", 4096, "Format", "llama.attention.sliding_window is 4096"),
        ("llama.rope.dimension_count", 2, "Format", "llama.rope.dimension_count is 2"),
        ("llama.attention.head_count", 0, "Config", "num_attention_heads"),
        ("llama.attention.head_count_kv", 3, "Config", "num_key_value_heads"),
        ("llama.block_count", u32::MAX, "Config", "num_hidden_layers"),
        ("llama.block_count", 3, "Format", "model.layers.2.input_layernorm.weight is missing"),
        ("llama.block_count", 1, "Format", "is no tensor of this model"),
        ("llama.embedding_length", u32::MAX, "Config", "hidden_size"),
        ("llama.attention.key_length", 6, "Format", "llama.attention.value_length"),
    ];
    for (key, value, code, message) in counts {
        refused(&|file| set(file, key, U32, value.to_le_bytes().to_vec()), code, message);
    }
    let layers = |values: [u32; 2]| array(U32, &values.map(|value| value.to_le_bytes().to_vec()));
    let key = "llama.attention.head_count_kv";
    refused(&|file| set(file, key, ARRAY, layers([2, 4])), "Format", "differs between layers");
    refused(
        &|file| file.metadata.retain(|(name, ..)| name != "llama.block_count"),
        "Format",
        "llama.block_count is missing",
    );
    refused(&|file| file.metadata.clear(), "Format", "general.architecture is missing");
    refused(&|file| file.tensors.clear(), "Format", "token_embd.weight is missing");
    for name in ["blk.0.ffn_gate_inp.weight", "blk.00.attn_q.weight", "blk.99999999999.attn_q.weight", "v.blk.0.x"] {
        let message = format!("tensor {name} is none that");
        refused(&|file| file.tensors.push((name.into(), vec![4], 0, vec![0; 16])), "Format", &message);
    }
    refused(
        &|file| file.tensors.push(("blk.1.attn_q.scale".into(), vec![4], 0, vec![0; 16])),
        "Format",
        "blk.1.attn_q.scale",
    );
    refused(&|file| file.tensors.iter_mut().for_each(|tensor| tensor.1.reverse()), "Format", "has shape");
    // The same count for every layer is one count.
    let mut file = convert(&original);
    set(&mut file, key, ARRAY, layers([2, 2]));
    same(&open(&folder.write("model.gguf", file.bytes())).unwrap(), &original);
}

/// Whatever is changed in a file, opening it gives a model or a typed error, and takes no more memory than the model: the
/// tables of a context of 2^31 tokens are the largest thing that a number alone can ask for.
#[test]
fn a_damaged_model_is_opened_or_refused() {
    let folder = Folder::new("damaged");
    let rt = runtime(best(), 1);
    let file = convert(&model(&rt, QWEN3, options(Dtype::F32, false)));
    let (good, header) = (file.bytes(), file.header().len());
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..1000 {
        let mut bytes = good.clone();
        Mutator::new(seed).mutate(&mut bytes, header);
        let path = folder.write("model.gguf", &bytes);
        let (result, peak) = counting::peak(|| Model::open(&rt, &path, 0, Options::default()));
        assert!(peak < 32 << 20, "seed {seed}: {peak} bytes");
        match result {
            Ok(_) => opened += 1,
            Err(error) => {
                assert!(matches!(error.code(), "Format" | "Config"), "seed {seed}: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(opened > 30 && refused > 300, "{opened} opened, {refused} refused");
}
