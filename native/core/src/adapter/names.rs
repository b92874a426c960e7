//! Names of adapters, and whose weights a call works with.

use crate::error::{Error, Result};

/// The name of the adapter that a model is opened with, which serves calls that name none.
pub const DEFAULT: &str = "default";

/// Names the model without adapters.
pub const BASE: &str = "base";

/// The owner of the weights that a call uses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chosen {
    #[default]
    Base,
    /// The adapter at this place of the model's list.
    Adapter(usize),
}

/// Refuses what cannot name an adapter.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        let message = format!("`{}` must be 1 to 64 letters, digits, `-` or `_`", name.escape_debug());
        return Err(Error::config("adapter", message));
    }
    if name == BASE {
        return Err(Error::config("adapter", "`base` means the model without adapters: choose another name"));
    }
    Ok(())
}
