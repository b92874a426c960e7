//! Parameters on their way into files.

use super::file::Outgoing;
use crate::params::Parameter;

/// The tensors of parameters, row by row.
pub(crate) fn outgoing(parameters: &[Parameter]) -> Vec<Outgoing<'_>> {
    let slices = parameters.iter().flat_map(|parameter| parameter.slices.iter().map(move |slice| (parameter, slice)));
    slices
        .map(|(parameter, slice)| Outgoing {
            name: slice.name.clone(),
            shape: parameter.shape(slice),
            rows: Box::new(|rows| parameter.read_rows(slice.within(rows))),
        })
        .collect()
}
