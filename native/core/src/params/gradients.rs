//! Gradients of the trained parameters, in the layout of the parameters.

use super::Parameter;
use crate::kernels::PackedF32;

/// One accumulator per trained parameter, allocated when it is first written.
#[derive(Default)]
pub struct Gradients {
    list: Vec<Option<PackedF32>>,
}

impl Gradients {
    /// The accumulator of a parameter of `list`; `None` if it is frozen.
    pub fn of(&mut self, list: &[Parameter], index: usize) -> Option<&mut PackedF32> {
        let Parameter { n, k, trainable, .. } = list[index];
        if self.list.len() < list.len() {
            self.list.resize_with(list.len(), || None);
        }
        trainable.then(|| self.list[index].get_or_insert_with(|| PackedF32::zeros(n, k)))
    }

    /// The accumulated gradient of a parameter; `None` if there is none.
    pub fn get(&self, index: usize) -> Option<&PackedF32> {
        self.list.get(index)?.as_ref()
    }

    /// All accumulators, in the order of the parameters.
    pub fn iter(&self) -> impl Iterator<Item = &PackedF32> {
        self.list.iter().flatten()
    }

    /// Sets all to zero.
    pub fn zero(&mut self) {
        self.list.iter_mut().flatten().for_each(|gradient| gradient.data.fill(0.0));
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.list.iter().flatten().map(|gradient| size_of_val(&*gradient.data)).sum()
    }
}
