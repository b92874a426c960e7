//! The tensors of a model by name. Those of the base are called as in a checkpoint. Those of an adapter are called as PEFT
//! calls them: `base_model.model.<module>.lora_A.<adapter>.weight`, without the name for the adapter
//! [`DEFAULT`](crate::adapter::DEFAULT).

use std::borrow::Cow;
use std::ops::Range;

use crate::adapter::{Chosen, DEFAULT};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::{Parameter, read_rows};

/// Some rows of a parameter.
struct Place {
    chosen: Chosen,
    parameter: usize,
    rows: Range<usize>,
    shape: Vec<usize>,
}

/// The name of an adapter's tensor among those of others.
fn qualified<'a>(adapter: &str, name: &'a str) -> Cow<'a, str> {
    match name.strip_suffix("weight") {
        Some(stem) if adapter != DEFAULT => Cow::Owned(format!("{stem}{adapter}.weight")),
        _ => Cow::Borrowed(name),
    }
}

impl Model {
    /// Names of all tensors: those of the base, then those of each adapter.
    pub fn parameter_names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        fn names(list: &[Parameter]) -> impl Iterator<Item = &str> {
            list.iter().flat_map(|parameter| &parameter.slices).map(|slice| slice.name.as_str())
        }
        let base = names(&self.params.list).map(Cow::Borrowed);
        base.chain(
            self.adapters.iter().flat_map(|adapter| names(&adapter.list).map(|name| qualified(&adapter.name, name))),
        )
    }

    /// Numbers in all tensors, and in those that calls which name no adapter train.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let size = |list: &[Parameter]| list.iter().map(|parameter| parameter.n * parameter.k).sum::<usize>();
        let base = size(&self.params.list);
        let all = base + self.adapters.iter().map(|adapter| size(&adapter.list)).sum::<usize>();
        let trained = match self.choose("parameter_counts", None) {
            Ok(Chosen::Adapter(index)) => size(&self.adapters[index].list),
            _ if self.options.trains_base() => base,
            _ => 0,
        };
        (all, trained)
    }

    /// Shape and row-major values of a tensor.
    pub fn parameter(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let place = self.find(name)?;
        let values = self.list(place.chosen)[place.parameter].read_rows(place.rows);
        Ok((place.shape, values))
    }

    /// Overwrites a tensor.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let place = self.find(name)?;
        let expected: usize = place.shape.iter().product();
        if values.len() != expected {
            return Err(Error::shape("set_parameter", format!("{name} has {expected} values, given {}", values.len())));
        }
        let parameter = &self.list(place.chosen)[place.parameter];
        if let Some(kind) = parameter.kinds().iter().find(|kind| !kind.can_encode()) {
            let message =
                format!("{name} is held in {kind} blocks, which only ggml makes: open the model without blocks");
            return Err(Error::state("set_parameter", message));
        }
        self.trained(place.chosen).0[place.parameter].write_rows(place.rows, values);
        self.weights_replaced(place.chosen, 0);
        Ok(())
    }

    /// The accumulated gradient of a tensor, row-major; zeros if nothing was accumulated, an error if it is frozen.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        let place = self.find(name)?;
        let parameter = &self.list(place.chosen)[place.parameter];
        if !parameter.trainable {
            return Err(Error::state("gradient", format!("{name} is frozen")));
        }
        Ok(match self.training(place.chosen).gradients.get(place.parameter) {
            Some(gradient) => read_rows(gradient.k, place.rows, |row, out| gradient.get_row(row, out)),
            None => vec![0.0; place.rows.len() * parameter.k],
        })
    }

    /// The parameters of the base or of an adapter.
    pub(crate) fn list(&self, chosen: Chosen) -> &[Parameter] {
        self.adapter(chosen).map_or(&self.params.list, |adapter| &adapter.list)
    }

    fn find(&self, name: &str) -> Result<Place> {
        let adapters =
            self.adapters.iter().enumerate().map(|(index, adapter)| (Chosen::Adapter(index), &*adapter.name));
        std::iter::once((Chosen::Base, DEFAULT))
            .chain(adapters)
            .find_map(|(chosen, adapter)| {
                self.list(chosen).iter().enumerate().find_map(|(index, parameter)| {
                    let slice = parameter.slices.iter().find(|slice| qualified(adapter, &slice.name) == name)?;
                    let shape = parameter.shape(slice);
                    Some(Place { chosen, parameter: index, rows: slice.rows.clone(), shape })
                })
            })
            .ok_or_else(|| Error::shape("parameter", format!("this model has no tensor `{name}`")))
    }
}
