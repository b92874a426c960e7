//! `logprobs` and `backward`.

use super::Model;
use crate::abort::AbortFlag;
use crate::adapter::{Adapted, Chosen, Dropout};
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::network::{HeadPlan, Net, Targets};
use crate::passes::{self, Gradient, Kept, Pass, Recorded, Wanted, first_kept};

/// Settings of [`Model::logprobs`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogprobOptions<'a> {
    /// Logits are divided by it.
    pub temperature: f32,
    /// Whether to return entropies.
    pub entropy: bool,
    /// Whether to keep what `backward` needs.
    pub keep: bool,
    /// The reference policy: the base without adapters, or the frozen copy of a fully trained one.
    pub reference: bool,
    /// An adapter's name, or [`BASE`]; none: the adapter [`DEFAULT`] if there is one, else the base.
    pub adapter: Option<&'a str>,
}

impl Default for LogprobOptions<'_> {
    fn default() -> Self {
        LogprobOptions { temperature: 1.0, entropy: false, keep: false, reference: false, adapter: None }
    }
}

/// Result of [`Model::logprobs`].
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Per target: `log softmax(logits / temperature)[token]`.
    pub logprobs: Vec<f32>,
    /// Per target: entropy of its position's distribution; empty unless asked for.
    pub entropy: Vec<f32>,
    /// Names the kept forward for [`Model::backward`].
    pub id: u64,
    /// Whether all activations were read from those that sampling recorded: no layer was computed.
    pub recorded: bool,
}

impl LogprobOptions<'_> {
    fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let message = format!("is {}, must be positive and finite", self.temperature);
            return Err(Error::config("temperature", message));
        }
        if self.keep && self.reference {
            let message = "the reference policy has no gradient: use either keep or reference";
            return Err(Error::state("logprobs", message));
        }
        Ok(())
    }
}

/// Refuses gradients that are not one finite number per target.
fn check_gradient(targets: usize, gradient: &Gradient) -> Result<()> {
    for (name, values) in [("dlogprob", Some(gradient.logprob)), ("dentropy", gradient.entropy)] {
        let Some(values) = values else { continue };
        if values.len() != targets {
            let message = format!("{name} has {} values for {targets} targets", values.len());
            return Err(Error::shape("backward", message));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let message = format!("{name}[{at}] is {}", values[at]);
            return Err(Error::NonFinite { op: "backward", message });
        }
    }
    Ok(())
}

impl Model {
    /// Log-probabilities of the targets. With `keep`, a former forward of the same adapter that was kept is dropped; those
    /// of others are computed again when their turn comes.
    pub fn logprobs(
        &mut self,
        forest: &Forest,
        targets: &Targets,
        options: LogprobOptions,
        abort: &AbortFlag,
    ) -> Result<Forward> {
        forest.check(&self.config)?;
        options.check()?;
        let chosen = match options.keep {
            true => self.choose_trained("logprobs with keep", options.adapter)?,
            false => self.choose("logprobs", options.adapter)?,
        };
        HeadPlan::new(forest, targets, self.config.vocab_size)?;
        let trimmed = forest.trimmed(targets.position);
        let (forest, position) = trimmed.as_ref().map_or((forest, targets.position), |(forest, at)| (forest, at));
        let plan = HeadPlan::new(forest, &Targets { position, ..*targets }, self.config.vocab_size)?;
        let id = self.next_id;
        self.next_id += 1;
        if options.keep {
            return self.forward_kept(id, chosen, forest, plan, &options, abort);
        }
        let wanted = Wanted { plan: &plan, inverse_temperature: 1.0 / options.temperature, entropy: options.entropy };
        let mut work = std::mem::take(&mut self.work);
        // One handover to the pool for the whole pass: a small model's operations are shorter than a handover each.
        let net = if options.reference { self.reference_net(chosen) } else { Ok(self.net(chosen)) };
        let result = net.and_then(|net| self.rt.run(|| passes::evaluate(&net, forest, &wanted, &mut work, abort)));
        self.work = work;
        result.map(|(logprobs, entropy, _)| Forward { logprobs, entropy, id, recorded: false })
    }

    /// A forward that waits for its backward.
    fn forward_kept(
        &mut self,
        id: u64,
        chosen: Chosen,
        forest: &Forest,
        plan: HeadPlan,
        options: &LogprobOptions,
        abort: &AbortFlag,
    ) -> Result<Forward> {
        let inverse_temperature = 1.0 / options.temperature;
        let wanted = Wanted { plan: &plan, inverse_temperature, entropy: options.entropy };
        let owner = self.training(chosen).owner;
        self.kept.retain(|kept| kept.owner != owner);
        let dropout = self.begin_dropout(chosen);
        let shape = self.shape(chosen);
        let first_kept = first_kept(self.config.hidden_size, &shape, forest.len(), self.options.activation_bytes);
        let mut work = std::mem::take(&mut self.work);
        // Sampling applies no dropout to the activations that it keeps.
        let rows = match dropout {
            None => self.recorded(chosen, forest, first_kept, &mut work),
            Some(_) => None,
        };
        let mut recordings = self.recordings();
        let recorded = rows.as_ref().map(|rows| Recorded { recording: self.recording(&mut recordings, chosen), rows });
        let net = Net { dropout, ..self.net(chosen) };
        let evaluate = || passes::evaluate_kept(&net, forest, &wanted, first_kept, recorded, &mut work, abort);
        let result = self.rt.run(evaluate);
        drop(recordings);
        work.holds = if result.is_ok() { id } else { 0 };
        self.work = work;
        let (logprobs, entropy, stats) = result?;
        let pass = Pass { first_kept, dropout, recorded: rows.is_some() };
        self.kept.push(Kept { id, owner, forest: forest.clone(), plan, stats, inverse_temperature, pass });
        Ok(Forward { logprobs, entropy, id, recorded: pass.recorded })
    }

    /// The network of the reference policy.
    fn reference_net(&self, chosen: Chosen) -> Result<Net<'_>> {
        let params = match &self.reference {
            Some(reference) => reference,
            None if chosen != Chosen::Base || !self.trains(chosen) => &self.params,
            None => {
                let message = "there is no reference policy: call freeze_reference first";
                return Err(Error::state("logprobs", message));
            }
        };
        Ok(self.net_of(params, Adapted::All(None)))
    }

    /// The masks of a training forward, and one forward more.
    fn begin_dropout(&mut self, chosen: Chosen) -> Option<Dropout> {
        let Chosen::Adapter(index) = chosen else { return None };
        let adapter = &mut self.adapters[index];
        let dropout = adapter.dropout()?;
        adapter.forwards += 1;
        Some(dropout)
    }

    /// Adds the gradient of `sum dlogprob · logprob (+ sum dentropy · entropy)` of the kept forward `id` to the
    /// accumulated gradients, and drops that forward. If it is aborted, all accumulated gradients are dropped.
    pub fn backward(&mut self, id: u64, dlogprob: &[f32], dentropy: Option<&[f32]>, abort: &AbortFlag) -> Result<()> {
        let Some(index) = self.kept.iter().position(|kept| kept.id == id) else {
            let message = format!("forward {id} is not kept: it was used, superseded, or made with keep: false");
            return Err(Error::state("backward", message));
        };
        let gradient = Gradient { logprob: dlogprob, entropy: dentropy };
        check_gradient(self.kept[index].plan.targets(), &gradient)?;
        let kept = self.kept.remove(index);
        // Adapters removed since have moved the others.
        let Some(chosen) = self.owned(kept.owner) else {
            return Err(Error::state("backward", "the adapter of this forward was removed"));
        };
        let mut work = std::mem::take(&mut self.work);
        let mut gradients = std::mem::take(&mut self.trained(chosen).1.gradients);
        let mut recordings = self.recordings();
        let recording = kept.pass.recorded.then(|| &*self.recording(&mut recordings, chosen));
        let found = recording.and_then(|recording| Some((recording, recording.rows_of(&kept.forest)?)));
        let recorded = found.as_ref().map(|(recording, rows)| Recorded { recording, rows });
        let net = Net { dropout: kept.pass.dropout, ..self.net(chosen) };
        let run = || passes::backward(&net, &kept, gradient, recorded, &mut work, &mut gradients, abort);
        let result = self.rt.run(run);
        drop(recordings);
        self.work = work;
        let training = self.trained(chosen).1;
        training.gradients = gradients;
        match result {
            Ok(()) => training.accumulated += 1,
            Err(_) => training.zero_grad(),
        }
        result
    }

    /// Drops the kept forward `id`, if it is still kept.
    pub fn release(&mut self, id: u64) {
        self.kept.retain(|kept| kept.id != id);
    }
}
