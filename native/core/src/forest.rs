//! The packed token trees of a batch: a group's shared prompt is one segment, its completions hang from it.

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// A run of consecutive tokens. Its first token follows the last token of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: usize,
    pub len: usize,
    pub parent: Option<usize>,
}

/// Validated token trees. Segments lie in the order of their tokens, parents before children, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forest {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    /// Segment indices of each tree, ascending.
    trees: Vec<Vec<usize>>,
}

impl Forest {
    /// Checks and packs. A segment is `(start, len, parent)`, parent `-1` for none.
    pub fn new(tokens: Vec<u32>, segments: &[(u32, u32, i32)]) -> Result<Self> {
        let mut forest = Forest {
            positions: Vec::with_capacity(tokens.len()),
            segments: Vec::with_capacity(segments.len()),
            trees: Vec::new(),
            tokens,
        };
        let mut tree_of = Vec::with_capacity(segments.len());
        for (index, &(start, len, parent)) in segments.iter().enumerate() {
            let fail = |message: String| Err(Error::shape("forest", format!("segment {index} {message}")));
            let (start, len) = (start as usize, len as usize);
            if len == 0 {
                return fail("is empty".into());
            }
            if start != forest.positions.len() {
                return fail(format!("starts at {start}, expected {}: no gaps, no overlap", forest.positions.len()));
            }
            if start + len > forest.tokens.len() {
                return fail(format!("ends at {}, beyond the {} tokens", start + len, forest.tokens.len()));
            }
            let parent = match parent {
                -1 => None,
                p if p >= 0 && (p as usize) < index => Some(p as usize),
                p => return fail(format!("has parent {p}: give an earlier segment, or -1")),
            };
            let depth = parent.map_or(0, |p| {
                let parent = forest.segments[p];
                forest.positions[parent.start] + parent.len as u32
            });
            forest.positions.extend(depth..depth + len as u32);
            forest.segments.push(Segment { start, len, parent });
            let tree = match parent {
                Some(p) => tree_of[p],
                None => {
                    forest.trees.push(Vec::new());
                    forest.trees.len() - 1
                }
            };
            forest.trees[tree].push(index);
            tree_of.push(tree);
        }
        if forest.positions.len() != forest.tokens.len() {
            let message = format!("{} tokens, but the segments cover {}", forest.tokens.len(), forest.positions.len());
            return Err(Error::shape("forest", message));
        }
        if forest.tokens.is_empty() {
            return Err(Error::shape("forest", "there are no tokens"));
        }
        Ok(forest)
    }

    /// Independent sequences, one segment each.
    pub fn sequences(sequences: &[&[u32]]) -> Result<Self> {
        let mut segments = Vec::with_capacity(sequences.len());
        let mut start = 0;
        for sequence in sequences {
            segments.push((start, sequence.len() as u32, -1));
            start += sequence.len() as u32;
        }
        Forest::new(sequences.concat(), &segments)
    }

    /// Refuses tokens and depths the model does not know.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        if let Some(at) = self.tokens.iter().position(|&t| t as usize >= config.vocab_size) {
            let message = format!("token {} at {at} is not below vocab_size {}", self.tokens[at], config.vocab_size);
            return Err(Error::shape("forest", message));
        }
        let depth = self.positions.iter().max().map_or(0, |&p| p as usize + 1);
        if depth > config.max_position_embeddings {
            let message =
                format!("a path of {depth} tokens, max_position_embeddings {}", config.max_position_embeddings);
            return Err(Error::shape("forest", message));
        }
        Ok(())
    }

    /// Without the rows that no row of `targets` depends on: the last token of most sequences. Gives the forest and where
    /// each target went; none if all rows are needed.
    pub fn trimmed(&self, targets: &[u32]) -> Option<(Forest, Vec<u32>)> {
        let mut kept = vec![0; self.segments.len()];
        for &row in targets {
            let index = self.segments.partition_point(|segment| segment.start <= row as usize) - 1;
            kept[index] = kept[index].max(row as usize - self.segments[index].start + 1);
        }
        for (index, segment) in self.segments.iter().enumerate().rev() {
            if let Some(parent) = segment.parent.filter(|_| kept[index] > 0) {
                kept[parent] = self.segments[parent].len;
            }
        }
        if kept.iter().all(|&kept| kept == 0)
            || self.segments.iter().zip(&kept).all(|(segment, &kept)| segment.len == kept)
        {
            return None;
        }
        let (mut tokens, mut segments) = (Vec::new(), Vec::new());
        let (mut starts, mut places) = (Vec::new(), Vec::new());
        for (segment, &len) in self.segments.iter().zip(&kept) {
            starts.push(tokens.len());
            places.push(segments.len() as i32);
            if len > 0 {
                let parent = segment.parent.map_or(-1, |parent| places[parent]);
                segments.push((tokens.len() as u32, len as u32, parent));
                tokens.extend_from_slice(&self.tokens[segment.start..segment.start + len]);
            }
        }
        let moved = |&row: &u32| {
            let index = self.segments.partition_point(|segment| segment.start <= row as usize) - 1;
            (starts[index] + row as usize - self.segments[index].start) as u32
        };
        let targets = targets.iter().map(moved).collect();
        Some((Forest::new(tokens, &segments).ok()?, targets))
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Depth of each token in its tree.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segment indices of each tree, parents before children.
    pub fn trees(&self) -> &[Vec<usize>] {
        &self.trees
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: an empty forest is refused.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The segments from the root down to and including `segment`.
    pub fn path(&self, segment: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(segment), |&s| self.segments[s].parent).collect();
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_depths() {
        let forest = Forest::new((0..9).collect(), &[(0, 3, -1), (3, 2, 0), (5, 1, 1), (6, 2, 0), (8, 1, -1)]).unwrap();
        assert_eq!(forest.positions(), [0, 1, 2, 3, 4, 5, 3, 4, 0]);
        assert_eq!(forest.trees(), [vec![0, 1, 2, 3], vec![4]]);
        assert_eq!(forest.path(2), [0, 1, 2]);
    }

    #[test]
    fn rows_that_no_target_depends_on_are_trimmed() {
        let segments = [(0, 3, -1), (3, 2, 0), (5, 2, 1), (7, 2, 0), (9, 1, -1)];
        let forest = Forest::new((10..20).collect(), &segments).unwrap();
        let (trimmed, targets) = forest.trimmed(&[5, 2]).unwrap();
        assert_eq!(trimmed.tokens(), [10, 11, 12, 13, 14, 15]);
        assert_eq!(trimmed.positions(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(targets, [5, 2]);
        let (trimmed, targets) = forest.trimmed(&[9, 7]).unwrap();
        assert_eq!(trimmed.tokens(), [10, 11, 12, 17, 19]);
        assert_eq!((trimmed.path(1), trimmed.trees().len()), (vec![0, 1], 2));
        assert_eq!(targets, [4, 3]);
        assert_eq!(forest.trimmed(&[6, 8, 9]), None);
        assert_eq!(forest.trimmed(&[]), None);
    }

    #[test]
    fn malformed_forests_are_refused() {
        for segments in [
            vec![(0, 2, -1)],
            vec![(0, 3, 0)],
            vec![(0, 3, -2)],
            vec![(1, 2, -1)],
            vec![(0, 4, -1)],
            vec![(0, 0, -1), (0, 3, -1)],
            vec![(0, u32::MAX, -1)],
            vec![(0, 2, -1), (1, 2, -1)],
        ] {
            assert_eq!(Forest::new(vec![0, 1, 2], &segments).unwrap_err().code(), "Shape", "{segments:?}");
        }
        assert!(Forest::new(vec![], &[]).is_err());
    }
}
