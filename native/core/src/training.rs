//! The state of whatever is trained: the base, or an adapter.

use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::optimizer::Moments;
use crate::params::Gradients;

/// Gradients, moments, and which weights they belong to.
#[derive(Default)]
pub(crate) struct Training {
    /// Whose weights: never given to another.
    pub owner: u64,
    /// Which weights: never given to others. What is computed from weights (keys and values, activations, a forward that
    /// waits for its backward) is kept under this number.
    pub weights: u64,
    /// Counts changes of the weights.
    pub version: u64,
    pub gradients: Gradients,
    pub moments: Moments,
    /// Backward passes since the last step.
    pub accumulated: u64,
}

/// What a resumed run goes on counting from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Of the optimiser.
    pub steps: u64,
    /// Of the weights.
    pub version: u64,
    /// Training forwards of an adapter with dropout.
    pub forwards: u64,
}

impl Training {
    /// Drops the accumulated gradients.
    pub fn zero_grad(&mut self) {
        self.gradients.zero();
        self.accumulated = 0;
    }
}

impl Model {
    /// The counters of an adapter, or of the base.
    pub fn counters(&self, adapter: Option<&str>) -> Result<Counters> {
        self.choose("counters", adapter).map(|chosen| self.counters_of(chosen))
    }

    pub(crate) fn counters_of(&self, chosen: Chosen) -> Counters {
        let training = self.training(chosen);
        let forwards = self.adapter(chosen).map_or(0, |adapter| adapter.forwards);
        Counters { steps: training.moments.steps, version: training.version, forwards }
    }

    /// Sets the counters of an adapter, or of the base. Without steps there are no moments; with steps, there are moments of
    /// everything trained, zeros where none were set.
    ///
    /// # Errors
    /// `State` where nothing is trained, or the base is to have counted forwards.
    pub fn set_counters(&mut self, adapter: Option<&str>, counters: Counters) -> Result<()> {
        let chosen = self.choose_trained("set_counters", adapter)?;
        match chosen {
            Chosen::Adapter(index) => self.adapters[index].forwards = counters.forwards,
            Chosen::Base if counters.forwards == 0 => {}
            Chosen::Base => {
                let message = format!("the base has no dropout: forwards is {}, must be 0", counters.forwards);
                return Err(Error::state("set_counters", message));
            }
        }
        let (list, training) = self.trained(chosen);
        if counters.steps == 0 {
            training.moments = Moments::default();
        } else {
            training.moments.ensure(list);
            training.moments.steps = counters.steps;
        }
        training.version = counters.version;
        Ok(())
    }
}
