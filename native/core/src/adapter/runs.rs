//! Which rows of a pass go through which adapter.

use std::ops::Range;

use super::Adapter;
use crate::params::Linear;

/// Consecutive rows with one adapter, or with none.
pub(crate) struct Run<'a> {
    pub rows: Range<usize>,
    pub adapter: Option<&'a Adapter>,
}

/// The adapters of a pass.
#[derive(Clone, Copy)]
pub(crate) enum Adapted<'a> {
    /// All rows alike.
    All(Option<&'a Adapter>),
    /// All rows, in their order.
    Runs(&'a [Run<'a>]),
}

impl<'a> Adapted<'a> {
    /// The adapted ones of the first `rows` rows.
    pub fn runs(self, rows: usize) -> impl Iterator<Item = (Range<usize>, &'a Adapter)> {
        let (all, runs): (_, &[Run]) = match self {
            Adapted::All(adapter) => (adapter, &[]),
            Adapted::Runs(runs) => (None, runs),
        };
        let runs = runs.iter().filter_map(move |run| {
            let range = run.rows.start..run.rows.end.min(rows);
            run.adapter.filter(|_| !range.is_empty()).map(|adapter| (range, adapter))
        });
        all.map(|adapter| (0..rows, adapter)).into_iter().chain(runs)
    }

    /// Whether every one of `rows` rows has its place.
    pub fn covers(self, rows: usize) -> bool {
        match self {
            Adapted::All(_) => true,
            Adapted::Runs(runs) => runs.last().map(|run| run.rows.end) == Some(rows),
        }
    }

    /// The one adapter of a training pass.
    pub fn one(self) -> Option<&'a Adapter> {
        match self {
            Adapted::All(adapter) => adapter,
            Adapted::Runs(_) => None,
        }
    }

    /// Widths of the inner activations of a layer: the widest of any row.
    pub fn low_widths(self, layer: usize) -> [usize; 4] {
        self.runs(usize::MAX).fold([0; 4], |widest, (_, adapter)| {
            let widths = adapter.widths(layer);
            [0, 1, 2, 3].map(|product| widths[product].max(widest[product]))
        })
    }

    /// The width for one product.
    pub fn low_width(self, linear: &Linear) -> usize {
        self.runs(usize::MAX).map(|(_, adapter)| adapter.inner_width(linear)).max().unwrap_or(0)
    }
}
