//! The tensors of a model by name.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::{Parameter, read_rows};

impl Model {
    /// Names of all tensors, as in a checkpoint.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.params.list.iter().flat_map(|parameter| &parameter.slices).map(|slice| slice.name.as_str())
    }

    /// Numbers in all tensors, and in those that are trained.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let size = |parameter: &Parameter| parameter.n * parameter.k;
        let list = &self.params.list;
        (list.iter().map(size).sum(), list.iter().filter(|parameter| parameter.trainable).map(size).sum())
    }

    /// Shape and row-major values of a tensor.
    pub fn parameter(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (index, slice) = self.find(name)?;
        let parameter = self.params.get(index);
        Ok((parameter.shape(&parameter.slices[slice]), parameter.read_rows(parameter.slices[slice].rows.clone())))
    }

    /// Overwrites a tensor.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let (index, slice) = self.find(name)?;
        let parameter = self.params.get(index);
        let expected: usize = parameter.shape(&parameter.slices[slice]).iter().product();
        if values.len() != expected {
            return Err(Error::shape("set_parameter", format!("{name} has {expected} values, given {}", values.len())));
        }
        if let Some(kind) = parameter.kinds().iter().find(|kind| !kind.can_encode()) {
            let message =
                format!("{name} is held in {kind} blocks, which only ggml makes: open the model without blocks");
            return Err(Error::state("set_parameter", message));
        }
        let rows = parameter.slices[slice].rows.clone();
        self.params.write_rows(index, rows, values);
        self.weights_replaced(0);
        Ok(())
    }

    /// The accumulated gradient of a tensor, row-major; zeros if nothing was accumulated, an error if it is frozen.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        let (index, slice) = self.find(name)?;
        let parameter = self.params.get(index);
        if !parameter.trainable {
            return Err(Error::state("gradient", format!("{name} is frozen")));
        }
        let rows = parameter.slices[slice].rows.clone();
        Ok(match self.gradients.get(index) {
            Some(gradient) => read_rows(gradient.k, rows, |row, out| gradient.get_row(row, out)),
            None => vec![0.0; rows.len() * parameter.k],
        })
    }

    /// Index of the parameter and of its slice.
    fn find(&self, name: &str) -> Result<(usize, usize)> {
        let place = self.params.list.iter().enumerate().find_map(|(index, parameter)| {
            parameter.slices.iter().position(|slice| slice.name == name).map(|slice| (index, slice))
        });
        place.ok_or_else(|| Error::shape("parameter", format!("this model has no tensor `{name}`")))
    }
}
