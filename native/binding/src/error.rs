//! Kernel errors as JavaScript errors: `code` tells the kind, `message` what to do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::{Env, JsError, Unknown};
use quintain_core::error::{Error, Result};

/// `OutOfMemory` as `OUT_OF_MEMORY`.
fn code(error: &Error) -> String {
    let mut code = String::new();
    for letter in error.code().chars() {
        if letter.is_ascii_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    code
}

/// An `Error` with the property `code`.
pub fn to_unknown<'env>(env: &'env Env, error: &Error) -> Unknown<'env> {
    JsError::from(napi::Error::new(code(error), error.to_string())).into_unknown(*env)
}

/// The same, to throw or to reject with.
pub fn to_napi(env: &Env, error: &Error) -> napi::Error {
    napi::Error::from(to_unknown(env, error))
}

/// Runs `work`; a panic becomes [`Error::Internal`].
pub fn guard<T>(op: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::panicked(op, &*panic)))
}

/// The error of every call on a closed model.
pub fn closed(op: &'static str) -> Error {
    Error::state(op, "the model is closed")
}
