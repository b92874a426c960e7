//! Whole rows of logits: for comparisons with other engines. Training and sampling never hold them for a batch.

use super::Model;
use crate::abort::AbortFlag;
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::network::{HeadPlan, Targets};
use crate::passes::{Wanted, evaluate};

impl Model {
    /// The logits after each of `positions` of the forest, `vocab_size` a position, in that order. `adapter` as in
    /// [`LogprobOptions`](crate::model::LogprobOptions).
    ///
    /// # Errors
    /// `Shape` where the positions are not ascending or lie beyond the forest, or it does not fit the model; `Config`
    /// where there is no such adapter; whatever ends a forward.
    pub fn logits(
        &mut self,
        forest: &Forest,
        positions: &[u32],
        adapter: Option<&str>,
        abort: &AbortFlag,
    ) -> Result<Vec<f32>> {
        forest.check(&self.config)?;
        let chosen = self.choose("logits", adapter)?;
        let vocab = self.config.vocab_size;
        if !positions.is_sorted_by(|a, b| a < b) {
            return Err(Error::shape("logits", "positions must be ascending, each once"));
        }
        let position: Vec<u32> = positions.iter().flat_map(|&at| std::iter::repeat_n(at, vocab)).collect();
        let token: Vec<u32> = positions.iter().flat_map(|_| 0..vocab as u32).collect();
        let plan = HeadPlan::new(forest, &Targets { position: &position, token: &token }, vocab)?;
        let wanted = Wanted { plan: &plan, inverse_temperature: 1.0, entropy: false };
        let mut work = std::mem::take(&mut self.work);
        let net = self.net(chosen);
        let result = self.rt.run(|| evaluate(&net, forest, &wanted, &mut work, abort));
        self.work = work;
        let (mut logits, _, stats) = result?;
        for (row, stats) in logits.chunks_exact_mut(vocab).zip(stats) {
            row.iter_mut().for_each(|logit| *logit += stats.lse);
        }
        Ok(logits)
    }
}
