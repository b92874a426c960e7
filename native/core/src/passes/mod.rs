//! Passes of the network over a batch or over a step of the sampler, and what is kept of them. They know no model: a caller
//! gives the network, the buffers, and what sampling has recorded.

mod recording;
mod rows;
mod training;
mod workspace;

pub(crate) use recording::{Plan, ROOT, Recording, Recordings};
pub(crate) use rows::forward_rows;
pub(crate) use training::{Gradient, Recorded, backward, evaluate, evaluate_kept};
pub(crate) use workspace::{Kept, Pass, Wanted, Work, first_kept};
