//! The threads and the instruction set that every operation runs with.

use super::Isa;
use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::sync::Arc;

/// Threads and instruction set; made once and shared.
pub struct Runtime {
    /// Which kernels run.
    pub isa: Isa,
    /// How many threads work on one operation. Never changes a result.
    pub threads: usize,
    pool: rayon::ThreadPool,
}

impl Runtime {
    /// `threads`: all cores unless given. `isa`: [`Isa::detect`] unless given.
    pub fn new(threads: Option<usize>, isa: Option<Isa>) -> Result<Arc<Runtime>> {
        let isa = isa.map_or_else(Isa::detect, Isa::check)?;
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        if threads == 0 {
            return Err(Error::config("threads", "0; use at least 1"));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| Error::Internal { op: "Runtime::new", message: error.to_string() })?;
        Ok(Arc::new(Runtime { isa, threads, pool }))
    }

    /// Runs `work` on one of the runtime's threads. Within it, [`parallel`](Self::parallel) starts without a handover: for
    /// many short operations in a row.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Runs `body(0) .. body(tasks - 1)`, in any order, on the runtime's threads; returns when all are done.
    pub fn parallel(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        use rayon::prelude::*;
        if tasks <= 1 || self.threads == 1 {
            return (0..tasks).for_each(body);
        }
        self.pool.install(|| (0..tasks).into_par_iter().for_each(&body));
    }

    /// Splits `0..len` into ranges of at least `grain` (all but the last a multiple of it) and runs `body` on each.
    pub fn parallel_ranges(&self, len: usize, grain: usize, body: impl Fn(std::ops::Range<usize>) + Sync) {
        let grain = grain.max(1) * len.div_ceil(grain.max(1) * self.threads * 4).max(1);
        self.parallel(len.div_ceil(grain), |task| body(task * grain..len.min((task + 1) * grain)));
    }
}

/// A mutable slice that several tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is through `range`, whose caller promises disjoint parts.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares `slice` among tasks.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two live parts overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "SharedMut: {range:?} of {}", self.len);
        // SAFETY: in bounds; unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// The start of the slice, for kernels that take pointers.
    pub fn as_ptr(&self) -> *mut T {
        self.ptr
    }
}
