//! Files as memory, read-only.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A mapped file.
pub(crate) struct FileMap {
    pub path: PathBuf,
    map: Mmap,
}

impl FileMap {
    /// Maps a regular file. (A pipe or a device would make the caller wait, or never end.)
    pub fn open(path: &Path) -> Result<Self> {
        let io = |cause| Error::io(path, &cause);
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::format(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only; that nobody truncates a checkpoint while it is loaded is the usual contract of
        // mapped weights, and our own writer replaces files instead of changing them.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(FileMap { path: path.to_path_buf(), map })
    }

    /// Frees the pages of these bytes; reading them again reads the file again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // Whole pages: the neighbours may still be wanted. 64 KiB is a multiple of every page size in use.
            const PAGE: usize = 1 << 16;
            let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
            if start < end {
                // SAFETY: the map is a read-only one of a file: pages that are dropped come back with the same bytes.
                // Refused advice (an unusual file system) costs memory only.
                let _ =
                    unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
