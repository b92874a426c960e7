//! The flag that ends a call early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Raised by the caller to end a call early; it then returns [`Error::Aborted`].
pub type AbortFlag = Arc<AtomicBool>;

/// [`Error::Aborted`] if the flag is raised.
pub(crate) fn check_abort(abort: &AbortFlag, op: &'static str) -> Result<()> {
    if abort.load(Ordering::Relaxed) { Err(Error::Aborted { op }) } else { Ok(()) }
}
