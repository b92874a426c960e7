//! Vectors aligned to a cache line, so that a panel row is one aligned load and never straddles two lines.
//!
//! Large ones ask for huge pages: a product walks many rows at once, and with pages of 4 KB each row costs a miss of the
//! translation cache, dear under virtualisation.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const ALIGN: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// Numbers whose all-zero bit pattern is zero, which lets [`AlignedVec`] allocate zeroed pages without touching them.
///
/// # Safety
/// The all-zero bit pattern is a valid value and the type needs no drop.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: plain numbers: zero bits are the value zero, and there is nothing to drop.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// A fixed-length, 64-byte aligned, zero-initialised buffer.
pub struct AlignedVec<T: Plain> {
    ptr: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T: Plain> AlignedVec<T> {
    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("AlignedVec: length overflows");
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { ALIGN };
        Layout::from_size_align(bytes.max(1), align).expect("AlignedVec: length overflows")
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has non-zero size.
        let raw = unsafe { alloc(layout) };
        let ptr = NonNull::new(raw.cast::<T>()).unwrap_or_else(|| handle_alloc_error(layout));
        #[cfg(target_os = "linux")]
        if layout.align() == HUGE_PAGE {
            // SAFETY: advice on whole pages of our own memory; refusal changes nothing.
            unsafe { libc::madvise(raw.cast(), layout.size() / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: just allocated; zeros are valid for `Plain`.
        unsafe { raw.write_bytes(0, layout.size()) };
        Self { ptr, len, owns: PhantomData }
    }

    /// A buffer that holds at least `len` elements, contents unspecified: scratch that only ever grows.
    pub fn reserve(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeros(len.next_power_of_two());
        }
        &mut self[..len]
    }
}

impl<T: Plain> Default for AlignedVec<T> {
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl<T: Plain> Clone for AlignedVec<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Plain> Deref for AlignedVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` points to `len` initialised elements owned by `self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with the same layout.
        unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) }
    }
}

// SAFETY: `AlignedVec` owns its memory like a `Vec`, and `T` is a plain number.
unsafe impl<T: Plain> Send for AlignedVec<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain> Sync for AlignedVec<T> {}
