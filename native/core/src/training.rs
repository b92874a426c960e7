//! The state of whatever is trained: the base, or an adapter.

use crate::optimizer::Moments;
use crate::params::Gradients;

/// Gradients, moments, and which weights they belong to.
#[derive(Default)]
pub(crate) struct Training {
    /// Number of the owner of the weights: never given to another.
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

/// The counters that a resumed run continues from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Version of the weights.
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
