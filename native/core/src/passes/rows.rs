//! The forward pass over a step of the sampler.

use super::recording::{Plan, Recordings};
use crate::error::{Error, Result};
use crate::network::{KeyValues, Net, Scratch};
use crate::scratch::sized;

/// Runs `tokens`, one row each, through the model; `hidden` receives the rows after the final norm.
/// Rows that `record` names, by the owner of the weights, are kept for an update.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward_rows(
    net: &Net,
    tokens: &[u32],
    positions: &[u32],
    kv: &mut dyn KeyValues,
    scratch: &mut Scratch,
    mut record: Option<(&mut Recordings, &[(u64, Plan)])>,
    hidden: &mut Vec<f32>,
) -> Result<()> {
    let (rows, width) = (tokens.len(), net.config.hidden_size);
    if positions.len() != rows || !net.adapted.covers(rows) {
        return Err(Error::shape("forward", format!("{rows} tokens, {} positions", positions.len())));
    }
    let Scratch { x: [x, next], normed, act, layer } = scratch;
    let (mut x, mut next) = (sized(x, rows * width), sized(next, rows * width));
    net.embed(tokens, x);
    for index in 0..net.config.num_hidden_layers {
        net.attention(index, x, positions, kv, layer, normed)?;
        net.gate_up(index, rows, layer, normed);
        net.down(index, rows, layer, act, next);
        if let Some((recordings, plans)) = &mut record {
            recordings.store(net.config, index, plans, x, layer, &net.widths(index));
        }
        std::mem::swap(&mut x, &mut next);
    }
    if let Some((recordings, plans)) = &mut record {
        recordings.store_last(net.config, plans, x);
    }
    net.norm(net.params.layout.norm, x, rows, sized(hidden, rows * width));
    hidden.truncate(rows * width);
    Ok(())
}
