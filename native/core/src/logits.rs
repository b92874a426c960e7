//! Whole rows of logits: for comparisons with other engines. Training and sampling never hold them for a batch.

use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::head::HeadPlan;
use crate::model::{AbortFlag, LogprobOptions, Model, Targets};

impl Model {
    /// The logits after each of `positions` of the forest, `vocab_size` a position, in the order given.
    ///
    /// # Errors
    /// [`Error::Shape`] if a position lies beyond the forest or the forest does not fit the model; whatever ends a forward.
    pub fn logits(&mut self, forest: &Forest, positions: &[u32], adapter: bool, abort: &AbortFlag) -> Result<Vec<f32>> {
        forest.check(&self.config)?;
        let vocab = self.config.vocab_size;
        if !positions.is_sorted_by(|a, b| a < b) {
            return Err(Error::shape("logits", "positions must be ascending, each once"));
        }
        let position: Vec<u32> = positions.iter().flat_map(|&at| std::iter::repeat_n(at, vocab)).collect();
        let token: Vec<u32> = positions.iter().flat_map(|_| 0..vocab as u32).collect();
        let plan = HeadPlan::new(forest, &Targets { position: &position, token: &token }, vocab)?;
        let options = LogprobOptions { adapter, ..LogprobOptions::default() };
        let mut work = std::mem::take(&mut self.work);
        let layers = self.config.num_hidden_layers;
        let result = self.rt.run(|| self.evaluate(forest, &plan, options, None, layers, &mut work, abort));
        self.work = work;
        let (mut logits, _, stats) = result?;
        for (row, stats) in logits.chunks_exact_mut(vocab).zip(stats) {
            row.iter_mut().for_each(|logit| *logit += stats.lse);
        }
        Ok(logits)
    }
}
