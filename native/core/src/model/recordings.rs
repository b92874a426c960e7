//! The activations that sampling recorded.

use std::sync::{MutexGuard, PoisonError};

use super::Model;
use crate::adapter::Chosen;
use crate::forest::Forest;
use crate::network::Shape;
use crate::passes::{Recording, Recordings, Work};

impl Model {
    /// All recordings.
    pub(crate) fn recordings(&self) -> MutexGuard<'_, Recordings> {
        self.recordings.lock().unwrap_or_else(|poisoned| {
            self.recordings.clear_poison();
            let mut recordings = PoisonError::into_inner(poisoned);
            recordings.clear();
            recordings
        })
    }

    /// The recording of the present weights that are chosen.
    pub(crate) fn recording<'a>(&self, recordings: &'a mut Recordings, chosen: Chosen) -> &'a mut Recording {
        let training = self.training(chosen);
        let key = (training.owner, training.weights);
        recordings.of(&self.config, key, self.shape(chosen), self.options.activation_bytes)
    }

    /// Widths of the activations of all layers.
    pub(super) fn shape(&self, chosen: Chosen) -> Shape {
        Shape::new(&self.config, self.adapter(chosen))
    }

    /// The rows of `forest` that sampling has recorded, if it has all of them. Memory of the other kind, for forwards that
    /// are computed or for those that are not, is freed if both together would exceed the bound.
    pub(super) fn recorded(
        &self,
        chosen: Chosen,
        forest: &Forest,
        first_kept: usize,
        work: &mut Work,
    ) -> Option<Vec<u32>> {
        let mut recordings = self.recordings();
        let rows = self.recording(&mut recordings, chosen).rows_of(forest);
        let row = self.config.num_hidden_layers * self.config.hidden_size + self.shape(chosen).kept(first_kept);
        let computed = if rows.is_some() { work.bytes().0 } else { forest.len() * row * size_of::<f32>() };
        if recordings.bytes() + computed > self.options.activation_bytes {
            if rows.is_some() {
                work.drop_kept();
            } else {
                recordings.clear();
            }
        }
        rows
    }
}
