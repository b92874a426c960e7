//! One error type for the whole kernel. Every variant names where it happened and its text says what to do about it.

use std::fmt;
use std::path::PathBuf;

/// An error of the kernel. [`Error::code`] is stable and crosses the binding; the text is for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// Arguments do not fit each other or the model.
    Shape { op: &'static str, message: String },
    /// A configuration field has no meaning this kernel can give it.
    Config { field: String, message: String },
    /// The operating system refused a file operation.
    Io { path: PathBuf, message: String },
    /// A file was read, but does not hold what it should.
    Format { path: PathBuf, message: String },
    /// The caller raised the abort flag.
    Aborted { op: &'static str },
    /// An argument is infinite or not a number.
    NonFinite { op: &'static str, message: String },
    /// A stated memory bound would be exceeded.
    OutOfMemory { op: &'static str, needed: usize, limit: usize },
    /// The call is legal, but not now.
    State { op: &'static str, message: String },
    /// A fault of the kernel itself (a caught panic).
    Internal { op: &'static str, message: String },
}

/// The result of every fallible kernel function.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The stable name of the variant, as seen by JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Shape { .. } => "Shape",
            Error::Config { .. } => "Config",
            Error::Io { .. } => "Io",
            Error::Format { .. } => "Format",
            Error::Aborted { .. } => "Aborted",
            Error::NonFinite { .. } => "NonFinite",
            Error::OutOfMemory { .. } => "OutOfMemory",
            Error::State { .. } => "State",
            Error::Internal { .. } => "Internal",
        }
    }

    /// A [`Error::Shape`].
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }

    /// A [`Error::Config`].
    pub fn config(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { field: field.into(), message: message.into() }
    }

    /// A [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, cause: &std::io::Error) -> Self {
        Error::Io { path: path.into(), message: cause.to_string() }
    }

    /// A [`Error::Format`] for `path`.
    pub fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Format { path: path.into(), message: message.into() }
    }

    /// A [`Error::Internal`] from what a caught panic carried.
    pub fn panicked(op: &'static str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into());
        Error::Internal { op, message }
    }

    /// A [`Error::State`].
    pub fn state(op: &'static str, message: impl Into<String>) -> Self {
        Error::State { op, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { op, message } => write!(f, "{op}: {message}"),
            Error::Config { field, message } => write!(f, "config field `{field}`: {message}"),
            Error::Io { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Format { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Aborted { op } => write!(f, "{op}: aborted by the caller"),
            Error::NonFinite { op, message } => write!(f, "{op}: {message}"),
            Error::OutOfMemory { op, needed, limit } => {
                write!(f, "{op}: needs {needed} bytes, the limit is {limit}: raise the limit or make the batch smaller")
            }
            Error::State { op, message } => write!(f, "{op}: {message}"),
            Error::Internal { op, message } => write!(f, "{op}: internal error, please report it: {message}"),
        }
    }
}

impl std::error::Error for Error {}
