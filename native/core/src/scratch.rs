//! Buffers that are used again from call to call.

/// Numbers below which element-wise work is not worth a second thread.
pub(crate) const ROW_GRAIN: usize = 16 * 1024;

/// At least `len` numbers of unspecified value, allocated only when the buffer has to grow.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // Not `resize`: that would copy what is never read; this takes fresh zero pages from the system.
        *buffer = Vec::new();
        *buffer = vec![0.0; len];
    }
    &mut buffer[..len]
}
