"""The peer of step.ts: the same GRPO step in TRL on PyTorch, on the CPU. Not run by CI or npm.

    pip install "torch==2.13.*" "trl==1.13.*" peft requests
    python tests/bench/trlStep.py f32|bf16 [steps]

A random model of the shape of SmolLM2-135M, LoRA rank 16 on all linear layers, 2 prompts of 128 tokens x 8 completions
of 64 (an end of text is never sampled early). Prints one line of JSON: seconds to generate and to update, best of the
steps, and the peak memory of the process in GB.
"""

import json
import os
import random
import resource
import sys
import tempfile
import time

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

dtype = sys.argv[1] if len(sys.argv) > 1 else "f32"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 2
VOCABULARY, PROMPT, COMPLETION = 49152, 128, 64

words = {f"w{i}": i for i in range(VOCABULARY - 3)}
words |= {"<pad>": VOCABULARY - 3, "<eos>": VOCABULARY - 2, "<unk>": VOCABULARY - 1}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=VOCABULARY - 3, eos_token_id=VOCABULARY - 2, bos_token_id=None,
    )
)
draw = random.Random(0)
prompts = [{"prompt": " ".join(f"w{draw.randrange(VOCABULARY - 3)}" for _ in range(PROMPT))} for _ in range(2 * steps)]

generate, update = [], []


class TimedTrainer(GRPOTrainer):
    """Generation happens inside training_step; its seconds are taken out of the update's."""

    def _generate_and_score_completions(self, *args, **kwargs):
        begun = time.perf_counter()
        result = super()._generate_and_score_completions(*args, **kwargs)
        generate.append(time.perf_counter() - begun)
        return result

    def training_step(self, *args, **kwargs):
        begun, generated = time.perf_counter(), sum(generate)
        result = super().training_step(*args, **kwargs)
        update.append(time.perf_counter() - begun - (sum(generate) - generated))
        return result


class TimeOptimizer(TrainerCallback):
    def on_pre_optimizer_step(self, *args, **kwargs):
        self.begun = time.perf_counter()

    def on_optimizer_step(self, *args, **kwargs):
        update[-1] += time.perf_counter() - self.begun


with tempfile.TemporaryDirectory() as directory:
    trainer = TimedTrainer(
        model=model,
        reward_funcs=lambda completion_ids, **_: [sum(ids) % 97 / 97 for ids in completion_ids],
        args=GRPOConfig(
            directory, per_device_train_batch_size=16, gradient_accumulation_steps=1, num_generations=8,
            max_completion_length=COMPLETION, temperature=1.0, max_steps=steps, learning_rate=1e-5, bf16=dtype == "bf16",
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            activation_checkpointing=False, generation_kwargs={"min_new_tokens": COMPLETION},
        ),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.add_callback(TimeOptimizer())
    trainer.train()

print(json.dumps({
    "dtype": dtype,
    "generateSeconds": round(min(generate), 2),
    "updateSeconds": round(min(update), 2),
    "stepSeconds": round(min(g + u for g, u in zip(generate, update)), 2),
    "peakGB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    "threads": torch.get_num_threads(),
    "torch": torch.__version__,
}))
