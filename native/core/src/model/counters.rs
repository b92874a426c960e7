//! The counters of what is trained.

use super::Model;
use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::optimizer::Moments;
use crate::training::Counters;

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
