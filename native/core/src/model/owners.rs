//! The owner of the weights that a call uses, and the present weights.

use super::Model;
use crate::adapter::{Adapter, BASE, Chosen, DEFAULT};
use crate::error::{Error, Result};
use crate::params::Parameter;
use crate::training::Training;

impl Model {
    /// The owner called `name`; absent, the adapter [`DEFAULT`] if there is one, else the base.
    pub(crate) fn choose(&self, op: &'static str, name: Option<&str>) -> Result<Chosen> {
        let place = |name: &str| self.adapters.iter().position(|adapter| adapter.name == name).map(Chosen::Adapter);
        match name {
            None => Ok(place(DEFAULT).unwrap_or(Chosen::Base)),
            Some(BASE) => Ok(Chosen::Base),
            Some(name) => place(name).ok_or_else(|| {
                let names: Vec<_> = self.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                Error::state(op, format!("there is no adapter `{}` (there are: {known})", name.escape_debug()))
            }),
        }
    }

    /// The same, refused where nothing is trained.
    pub(crate) fn choose_trained(&self, op: &'static str, name: Option<&str>) -> Result<Chosen> {
        let chosen = self.choose(op, name)?;
        if self.trains(chosen) {
            return Ok(chosen);
        }
        Err(Error::state(op, "the base is frozen: name an adapter, add one first, or open the model with `adapter`"))
    }

    /// Whether a call with these weights can train them.
    pub(crate) fn trains(&self, chosen: Chosen) -> bool {
        chosen != Chosen::Base || self.options.trains_base()
    }

    /// Whether an update can read what sampling keeps: not where dropout makes a training forward another.
    pub(crate) fn records(&self, chosen: Chosen) -> bool {
        self.trains(chosen) && self.adapter(chosen).is_none_or(|adapter| !adapter.drops())
    }

    /// The adapter, if one is chosen.
    pub(crate) fn adapter(&self, chosen: Chosen) -> Option<&Adapter> {
        match chosen {
            Chosen::Base => None,
            Chosen::Adapter(index) => Some(&self.adapters[index]),
        }
    }

    /// The state of what is chosen.
    pub(crate) fn training(&self, chosen: Chosen) -> &Training {
        match chosen {
            Chosen::Base => &self.base,
            Chosen::Adapter(index) => &self.adapters[index].training,
        }
    }

    /// The parameters and the state of what is chosen.
    pub(crate) fn trained(&mut self, chosen: Chosen) -> (&mut Vec<Parameter>, &mut Training) {
        match chosen {
            Chosen::Base => (&mut self.params.list, &mut self.base),
            Chosen::Adapter(index) => {
                let adapter = &mut self.adapters[index];
                (&mut adapter.list, &mut adapter.training)
            }
        }
    }

    /// The owner's place, if it still has one.
    pub(crate) fn owned(&self, owner: u64) -> Option<Chosen> {
        if self.base.owner == owner {
            return Some(Chosen::Base);
        }
        self.adapters.iter().position(|adapter| adapter.training.owner == owner).map(Chosen::Adapter)
    }

    /// Which weights there are now: the base's and those of every adapter.
    pub(crate) fn present_weights(&self) -> Vec<u64> {
        let adapters = self.adapters.iter().map(|adapter| adapter.training.weights);
        std::iter::once(self.base.weights).chain(adapters).collect()
    }

    /// A number not given before.
    pub(crate) fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// Notes that weights have changed: what was computed from the old ones is theirs alone. A new base is new weights for
    /// every adapter too.
    pub(crate) fn weights_changed(&mut self, chosen: Chosen, version: u64) {
        let stamp = self.stamp();
        let training = self.trained(chosen).1;
        (training.version, training.weights) = (version, stamp);
        let owner = training.owner;
        self.kept.retain(|kept| kept.owner != owner);
        if chosen == Chosen::Base {
            self.kept.clear();
            for index in 0..self.adapters.len() {
                let stamp = self.stamp();
                let training = &mut self.adapters[index].training;
                (training.version, training.weights) = (training.version + 1, stamp);
            }
        }
    }

    /// New weights came from outside: gradients of the old ones are dropped, and the version is one not had before,
    /// `version` itself if it is.
    pub(crate) fn weights_replaced(&mut self, chosen: Chosen, version: u64) {
        let training = self.trained(chosen).1;
        training.zero_grad();
        let version = version.max(training.version + 1);
        if chosen == Chosen::Base {
            self.adapters.iter_mut().for_each(|adapter| adapter.training.zero_grad());
        }
        self.weights_changed(chosen, version);
    }
}
