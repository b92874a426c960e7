//! The tensors of a model by name. Those of the base are called as in a checkpoint, those of an adapter as in PEFT's files:
//! `base_model.model.<module>.lora_A.weight`. Where a call does not say whose tensor it means, tensors of adapters other
//! than [`DEFAULT`](crate::adapter::DEFAULT) are called as in PEFT's models: `....lora_A.<adapter>.weight`.

use std::borrow::Cow;
use std::ops::Range;

use super::Model;
use crate::adapter::{BASE, Chosen, DEFAULT};
use crate::error::{Error, Result};
use crate::kernels::{BlockRows, PackedF32};
use crate::params::{Parameter, read_rows};

/// Some rows of a parameter.
struct Place {
    chosen: Chosen,
    parameter: usize,
    rows: Range<usize>,
    shape: Vec<usize>,
}

impl Place {
    /// Refuses values that are not as many as the tensor's.
    fn check(&self, op: &'static str, name: &str, values: &[f32]) -> Result<()> {
        let expected: usize = self.shape.iter().product();
        match values.len() == expected {
            true => Ok(()),
            false => Err(Error::shape(op, format!("{name} has {expected} values, given {}", values.len()))),
        }
    }
}

/// The name of an adapter's tensor among those of others.
fn qualified<'a>(adapter: &str, name: &'a str) -> Cow<'a, str> {
    match name.strip_suffix("weight") {
        Some(stem) if adapter != DEFAULT => Cow::Owned(format!("{stem}{adapter}.weight")),
        _ => Cow::Borrowed(name),
    }
}

fn names(list: &[Parameter]) -> impl Iterator<Item = &str> {
    list.iter().flat_map(|parameter| &parameter.slices).map(|slice| slice.name.as_str())
}

impl Model {
    /// Names of all tensors: those of the base, then those of each adapter.
    pub fn parameter_names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let base = names(&self.params.list).map(Cow::Borrowed);
        base.chain(
            self.adapters.iter().flat_map(|adapter| names(&adapter.list).map(|name| qualified(&adapter.name, name))),
        )
    }

    /// Names of the tensors of an adapter or of the base, to call them by with it.
    pub fn names_of(&self, adapter: &str) -> Result<impl Iterator<Item = &str>> {
        self.choose("parameter_names", Some(adapter)).map(|chosen| names(self.list(chosen)))
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
    pub fn parameter(&self, name: &str, adapter: Option<&str>) -> Result<(Vec<usize>, Vec<f32>)> {
        let place = self.find("parameter", name, adapter)?;
        let values = self.list(place.chosen)[place.parameter].read_rows(place.rows);
        Ok((place.shape, values))
    }

    /// A tensor's shape, and the tensor as it is held in blocks; `None` where it is not.
    pub fn blocks(&self, name: &str, adapter: Option<&str>) -> Result<Option<(Vec<usize>, BlockRows)>> {
        let place = self.find("blocks", name, adapter)?;
        let blocks = self.list(place.chosen)[place.parameter].read_blocks(place.rows);
        Ok(blocks.map(|blocks| (place.shape, blocks)))
    }

    /// Overwrites a tensor.
    pub fn set_parameter(&mut self, name: &str, adapter: Option<&str>, values: &[f32]) -> Result<()> {
        let place = self.find("set_parameter", name, adapter)?;
        place.check("set_parameter", name, values)?;
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
    pub fn gradient(&self, name: &str, adapter: Option<&str>) -> Result<Vec<f32>> {
        let place = self.find_trained("gradient", name, adapter)?;
        let k = self.list(place.chosen)[place.parameter].k;
        Ok(match self.training(place.chosen).gradients.get(place.parameter) {
            Some(gradient) => read_rows(k, place.rows, |row, out| gradient.get_row(row, out)),
            None => vec![0.0; place.rows.len() * k],
        })
    }

    /// AdamW's first and second moments of a tensor, row-major; `None` where there are none.
    pub fn moments(&self, name: &str, adapter: Option<&str>) -> Result<Option<[Vec<f32>; 2]>> {
        let place = self.find("moments", name, adapter)?;
        let moments = self.training(place.chosen).moments.list.get(place.parameter).and_then(Option::as_ref);
        let read = |moment: &PackedF32| read_rows(moment.k, place.rows.clone(), |row, out| moment.get_row(row, out));
        Ok(moments.map(|moments| moments.each_ref().map(read)))
    }

    /// Overwrites the moments of a tensor that is trained. Where there were none, those of the owner's other tensors are
    /// zeros.
    pub fn set_moments(&mut self, name: &str, adapter: Option<&str>, moments: [&[f32]; 2]) -> Result<()> {
        let place = self.find_trained("set_moments", name, adapter)?;
        for (kind, values) in ["first", "second"].into_iter().zip(moments) {
            place.check("set_moments", name, values)?;
            let bad = values.iter().position(|value| !value.is_finite() || kind == "second" && *value < 0.0);
            if let Some(at) = bad {
                let message = format!("the {kind} moment of {name} is {} at {at}, which AdamW cannot use", values[at]);
                return Err(Error::NonFinite { op: "set_moments", message });
            }
        }
        let (list, training) = self.trained(place.chosen);
        training.moments.ensure(list);
        for (target, values) in training.moments.list[place.parameter].iter_mut().flatten().zip(moments) {
            for (row, values) in place.rows.clone().zip(values.chunks_exact(target.k)) {
                target.set_row(row, values);
            }
        }
        Ok(())
    }

    /// The parameters of the base or of an adapter.
    pub(crate) fn list(&self, chosen: Chosen) -> &[Parameter] {
        self.adapter(chosen).map_or(&self.params.list, |adapter| &adapter.list)
    }

    /// A tensor of an adapter or of the base, or of any of them by a name that says whose it is.
    fn find(&self, op: &'static str, name: &str, adapter: Option<&str>) -> Result<Place> {
        let within = |chosen: Chosen, owner: &str| {
            self.list(chosen).iter().enumerate().find_map(|(index, parameter)| {
                let slice = parameter.slices.iter().find(|slice| qualified(owner, &slice.name) == name)?;
                let shape = parameter.shape(slice);
                Some(Place { chosen, parameter: index, rows: slice.rows.clone(), shape })
            })
        };
        if adapter.is_some() {
            let found = within(self.choose(op, adapter)?, DEFAULT);
            let owner =
                adapter.filter(|adapter| *adapter != BASE).map_or("the base".into(), |a| format!("adapter `{a}`"));
            return found.ok_or_else(|| Error::shape(op, format!("{owner} has no tensor `{}`", name.escape_debug())));
        }
        let adapters =
            self.adapters.iter().enumerate().map(|(index, adapter)| (Chosen::Adapter(index), &*adapter.name));
        std::iter::once((Chosen::Base, DEFAULT))
            .chain(adapters)
            .find_map(|(chosen, adapter)| within(chosen, adapter))
            .ok_or_else(|| Error::shape(op, format!("this model has no tensor `{}`", name.escape_debug())))
    }

    /// The same, refused where the tensor is not trained.
    fn find_trained(&self, op: &'static str, name: &str, adapter: Option<&str>) -> Result<Place> {
        let place = self.find(op, name, adapter)?;
        match self.list(place.chosen)[place.parameter].trainable {
            true => Ok(place),
            false => Err(Error::state(op, format!("{name} is frozen"))),
        }
    }
}
