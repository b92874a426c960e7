//! The optimiser's step.

use super::Model;
use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::optimizer::{AdamW, StepReport, apply, global_norm};

impl Model {
    /// One AdamW step on the accumulated gradients of an adapter (or of the base), which are then zero. A non-finite norm
    /// skips the step.
    pub fn step(&mut self, adapter: Option<&str>, settings: AdamW) -> Result<StepReport> {
        settings.validate()?;
        let chosen = self.choose_trained("step", adapter)?;
        if self.training(chosen).accumulated == 0 {
            return Err(Error::state("step", "there are no gradients: call backward first"));
        }
        let rt = self.rt.clone();
        Ok(rt.run(|| self.update(chosen, &settings)))
    }

    fn update(&mut self, chosen: Chosen, settings: &AdamW) -> StepReport {
        let rt = self.rt.clone();
        let (list, training) = self.trained(chosen);
        let grad_norm = global_norm(&rt, &training.gradients);
        let skipped = !grad_norm.is_finite();
        let scale = settings.max_grad_norm.map_or(1.0, |max| (f64::from(max) / (grad_norm + 1e-6)).min(1.0));
        if !skipped {
            apply(&rt, list, &training.gradients, &mut training.moments, settings, scale as f32);
        }
        training.zero_grad();
        let version = training.version + u64::from(!skipped);
        if !skipped {
            self.weights_changed(chosen, version);
        }
        StepReport { grad_norm, clipped: !skipped && scale < 1.0, skipped, version }
    }

    /// Whether gradients of an adapter (or of the base) wait for a step.
    pub fn has_gradients(&self, adapter: Option<&str>) -> Result<bool> {
        Ok(self.training(self.choose("has_gradients", adapter)?).accumulated > 0)
    }

    /// Drops the accumulated gradients of an adapter (or of the base).
    pub fn zero_grad(&mut self, adapter: Option<&str>) -> Result<()> {
        let chosen = self.choose("zero_grad", adapter)?;
        self.trained(chosen).1.zero_grad();
        Ok(())
    }
}
