//! Where the parts of a panel of blocks are.

use super::super::packed::NR;
use super::BlockKind;

/// Steps of a group, whose codes stand together.
pub const GROUP: usize = 32;

/// Bytes of a panel's parts.
#[derive(Clone, Copy)]
pub struct Form {
    /// Before every eight groups.
    pub head: usize,
    /// Scales and minima of a group.
    pub scales: usize,
    /// A group with its codes.
    pub group: usize,
}

impl Form {
    #[inline(always)]
    pub fn of(kind: BlockKind) -> Form {
        let halves = if kind.has_minimum() { 4 * NR } else { 2 * NR };
        let (head, scales) = if kind.is_super() { (halves, 2 * NR) } else { (0, halves) };
        let codes = if kind.is_narrow() { GROUP * NR / 2 } else { GROUP * NR };
        Form { head, scales, group: scales + codes }
    }

    /// Where the head of a group starts, and the group.
    #[inline(always)]
    pub fn places(self, group: usize) -> (usize, usize) {
        let head = group / 8 * (self.head + 8 * self.group);
        // Without heads eight groups are as good as any number.
        (head, head + self.head + group % 8 * self.group)
    }

    /// Bytes of a panel of `groups`.
    pub fn panel(self, groups: usize) -> usize {
        groups.div_ceil(8) * self.head + groups * self.group
    }
}
