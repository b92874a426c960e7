//! Requests to the sampler, and its events.

use std::sync::Arc;

use super::choose::Choice;
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// More samples than this are a mistake, which would otherwise exhaust memory.
const MAX_SAMPLES: u32 = 1 << 20;

/// `samples` continuations of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub prompt: Vec<u32>,
    pub samples: u32,
    /// The run's seed. A token is a function of the weights, its prefix and `(seed, stream, sample index, position)`, where
    /// the position counts the prompt: the turns of a conversation draw other numbers.
    pub seed: u64,
    /// A key of the task.
    pub stream: u64,
    /// The index of the first sample, so that a group may be asked for in parts.
    pub first_index: u32,
    pub max_tokens: u32,
    pub choice: Choice,
    /// Any of these ends a sample; it is the sample's last token.
    pub stop_tokens: Vec<u32>,
    /// The token that completes any of these ends a sample; it is the sample's last token.
    pub stop_strings: Vec<Vec<u8>>,
    /// An update will read these samples: what `backward` needs of them is kept, as far as there is room, until the weights
    /// change. It changes no result.
    pub for_training: bool,
    /// An adapter's name, or [`BASE`](crate::model::BASE); none: the adapter [`DEFAULT`](crate::model::DEFAULT) if there is
    /// one, else the base.
    pub adapter: Option<String>,
}

impl Request {
    /// One greedy or drawn continuation, for tests and as a start.
    pub fn new(prompt: Vec<u32>, samples: u32, max_tokens: u32, choice: Choice) -> Self {
        Self {
            prompt,
            samples,
            seed: 0,
            stream: 0,
            first_index: 0,
            max_tokens,
            choice,
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            for_training: false,
            adapter: None,
        }
    }

    /// Refuses what the model cannot continue.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        let fail = |message: String| Err(Error::shape("sample", message));
        let (length, context) = (self.prompt.len(), config.max_position_embeddings);
        if length == 0 {
            return fail("the prompt is empty: give at least one token".into());
        }
        if length >= context {
            return fail(format!("a prompt of {length} tokens leaves no room in the model's context of {context}"));
        }
        if let Some(at) = self.prompt.iter().position(|&token| token as usize >= config.vocab_size) {
            let token = self.prompt[at];
            return fail(format!("prompt token {token} at {at} is not below vocab_size {}", config.vocab_size));
        }
        for (name, value) in [("samples", self.samples), ("max_tokens", self.max_tokens)] {
            if value == 0 {
                return fail(format!("{name} is 0: use at least 1"));
            }
        }
        if self.samples > MAX_SAMPLES {
            return fail(format!("samples is {}: ask for at most {MAX_SAMPLES} at once", self.samples));
        }
        if self.first_index.checked_add(self.samples - 1).is_none() {
            return fail(format!("first_index {} + samples {} exceeds 32 bits", self.first_index, self.samples));
        }
        let choice = &self.choice;
        let ranges = [
            (
                "temperature",
                choice.temperature,
                choice.temperature == 0.0 || choice.temperature >= 1e-3,
                "0 or at least 0.001",
            ),
            ("top_p", choice.top_p, choice.top_p > 0.0 && choice.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", choice.min_p, (0.0..=1.0).contains(&choice.min_p), "between 0 and 1"),
        ];
        for (name, value, fine, range) in ranges {
            if !(fine && value.is_finite()) {
                return fail(format!("{name} is {value}: must be {range}"));
            }
        }
        if self.stop_strings.iter().any(Vec::is_empty) {
            return fail("a stop string is empty".into());
        }
        Ok(())
    }

    /// The most tokens a sample can come to have, prompt included.
    pub(super) fn longest(&self, context: usize) -> usize {
        context.min(self.prompt.len().saturating_add(self.max_tokens as usize))
    }
}

/// Why a sample ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A stop token or stop string.
    Stop,
    /// `max_tokens` were drawn.
    Length,
    /// The model's context is full.
    Context,
    /// The request was cancelled.
    Abort,
}

/// Results of one step for one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// The weights that the tokens were drawn from.
    pub version: u64,
    /// Offset of the sample in its request, for each token.
    pub samples: Vec<u32>,
    pub tokens: Vec<u32>,
    /// `log_softmax(logits / temperature)[token]`, of the whole vocabulary (at temperature 1 where the choice is greedy).
    pub logprobs: Vec<f32>,
    /// Samples that ended with this step.
    pub finished: Vec<(u32, Reason)>,
    /// No more events come.
    pub done: bool,
    /// Why the request failed as a whole; `done` is then set.
    pub error: Option<Error>,
}

/// Receives a request's events, at most once for each step, on the engine's thread.
pub type Sink = Box<dyn FnMut(Events) + Send>;

/// The bytes of each token: what stop strings are matched on.
#[derive(Debug)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

impl Vocabulary {
    /// Token `i` is `bytes[offsets[i]..offsets[i + 1]]`. Ids beyond the table have no bytes.
    pub fn new(bytes: Vec<u8>, offsets: Vec<u32>) -> Result<Arc<Self>> {
        let ends_well = offsets.first() == Some(&0) && offsets.last().map(|&end| end as usize) == Some(bytes.len());
        if !ends_well || !offsets.is_sorted() {
            let message = format!("offsets must ascend from 0 to the {} bytes there are", bytes.len());
            return Err(Error::shape("set_vocabulary", message));
        }
        Ok(Arc::new(Self { bytes, offsets }))
    }

    /// The bytes of `token`.
    pub fn bytes(&self, token: u32) -> &[u8] {
        match self.offsets.get(token as usize..token as usize + 2) {
            Some(&[start, end]) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }
}

/// The end of a sample's text: as much as a stop string that is not complete yet can need.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// Appends a token's bytes; true when they complete one of `strings`.
    pub fn completes(&mut self, bytes: &[u8], strings: &[Vec<u8>]) -> bool {
        let before = self.0.len();
        self.0.extend_from_slice(bytes);
        let found = strings.iter().any(|string| {
            // A match has to end in the new bytes.
            let start = (before + 1).saturating_sub(string.len());
            self.0[start..].windows(string.len()).any(|window| window == string)
        });
        let keep = strings.iter().map(Vec::len).max().unwrap_or(1) - 1;
        self.0.drain(..self.0.len().saturating_sub(keep));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_match_across_tokens_and_only_at_their_end() {
        let strings = [b"ab\n\n".to_vec(), "é".as_bytes().to_vec()];
        let mut tail = Tail::default();
        let told: Vec<bool> =
            [&b"xa"[..], b"b", b"\n", b"", b"\nyyy"].iter().map(|t| tail.completes(t, &strings)).collect();
        assert_eq!(told, [false, false, false, false, true]);
        assert!(!tail.completes(b"\n\n", &strings), "a finished match does not count twice");
        assert!(!tail.completes(&[0xC3], &strings));
        assert!(tail.completes(&[0xA9], &strings), "half a character is bytes like any other");
    }

    #[test]
    fn vocabulary_offsets_are_checked() {
        let vocabulary = Vocabulary::new(b"abc".to_vec(), vec![0, 1, 1, 3]).unwrap();
        assert_eq!([0, 1, 2, 3].map(|id| vocabulary.bytes(id)), [&b"a"[..], b"", b"bc", b""]);
        for offsets in [vec![], vec![0, 2], vec![1, 3], vec![0, 2, 1, 3]] {
            assert_eq!(Vocabulary::new(b"abc".to_vec(), offsets).unwrap_err().code(), "Shape");
        }
    }
}
