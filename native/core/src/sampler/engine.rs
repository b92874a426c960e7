//! The engine's thread: takes requests between steps, and holds the model only while it computes one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use super::batch::{Batch, Options, page_layout};
use super::kv_cache::PageCounts;
use super::request::{Request, Sink, Vocabulary};
use super::sequence::pages_for;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Model;

enum Command {
    Submit(u64, Box<Request>, Option<Arc<Vocabulary>>, Sink),
    Cancel(u64),
    Count(Sender<PageCounts>),
    Close,
}

/// Samples from a model that others train meanwhile: each step holds the read lock, so a training call waits for at most
/// one step, and a request that outlives a weight update continues with the new weights (over keys and values of the old
/// ones; [`Events::version`](super::Events) tells which weights drew a token).
pub struct Sampler {
    commands: Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    config: ModelConfig,
    options: Options,
    vocabulary: Mutex<Option<Arc<Vocabulary>>>,
    next: AtomicU64,
    cache_taken: Arc<AtomicUsize>,
}

impl Sampler {
    /// Starts the thread. The cache is reserved, not yet taken.
    pub fn start(model: Arc<RwLock<Model>>, options: Options) -> Result<Self> {
        if options.max_sequences == 0 || options.prefill_rows == 0 {
            return Err(Error::config("sampler", "max_sequences and prefill_rows must be at least 1"));
        }
        let config = model.read().map_err(|_| broken())?.config.clone();
        let batch = Batch::new(&config, options)?;
        let (commands, inbox) = channel();
        let cache_taken = Arc::new(AtomicUsize::new(0));
        let taken = cache_taken.clone();
        let thread = std::thread::Builder::new()
            .name("quintain-sampler".into())
            .spawn(move || Engine { model, batch, inbox, cache_taken: taken }.run())
            .map_err(|error| Error::Internal { op: "sampler", message: error.to_string() })?;
        let (vocabulary, next) = (Mutex::new(None), AtomicU64::new(1));
        Ok(Self { commands, thread: Mutex::new(Some(thread)), config, options, vocabulary, next, cache_taken })
    }

    /// Gives the bytes of the tokens, which stop strings need. Counts for requests submitted from now on.
    pub fn set_vocabulary(&self, vocabulary: Arc<Vocabulary>) {
        *self.vocabulary.lock().unwrap_or_else(PoisonError::into_inner) = Some(vocabulary);
    }

    /// Queues a request; `sink` receives its tokens. Gives the request's id.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<u64> {
        request.check(&self.config)?;
        let vocabulary = self.vocabulary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !request.stop_strings.is_empty() && vocabulary.is_none() {
            return Err(Error::state("sample", "stop strings need the bytes of the tokens: call set_vocabulary first"));
        }
        let page = page_layout(&self.config).bytes();
        // The last token drawn is never stored.
        let needed = pages_for(request.longest(self.config.max_position_embeddings) - 1) * page;
        let limit = self.options.cache_bytes / page * page;
        if needed > limit {
            return Err(Error::OutOfMemory { op: "sample: key-value cache for one sample", needed, limit });
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let vocabulary = vocabulary.filter(|_| !request.stop_strings.is_empty());
        self.send(Command::Submit(id, Box::new(request), vocabulary, sink))?;
        Ok(id)
    }

    /// Ends a request; what is left of it finishes with [`Reason::Abort`](super::Reason::Abort). An unknown id is ignored:
    /// it may just have ended.
    pub fn cancel(&self, id: u64) {
        let _ = self.send(Command::Cancel(id));
    }

    /// How the cache is used, after the step under way.
    pub fn counts(&self) -> Result<PageCounts> {
        let (reply, answer) = channel();
        self.send(Command::Count(reply))?;
        answer.recv().map_err(|_| closed())
    }

    /// Bytes of the cache that were ever used; the rest is only reserved.
    pub fn cache_taken(&self) -> usize {
        self.cache_taken.load(Ordering::Relaxed)
    }

    /// Aborts every request and joins the thread.
    pub fn close(&self) {
        let _ = self.send(Command::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| closed())
    }
}

impl Drop for Sampler {
    /// Tells the thread to end, without waiting for it.
    fn drop(&mut self) {
        let _ = self.send(Command::Close);
    }
}

fn closed() -> Error {
    Error::state("sample", "the model is closed")
}

fn broken() -> Error {
    Error::state("sample", "an earlier internal error left the weights undefined: load a checkpoint")
}

struct Engine {
    model: Arc<RwLock<Model>>,
    batch: Batch,
    inbox: Receiver<Command>,
    cache_taken: Arc<AtomicUsize>,
}

impl Engine {
    fn run(mut self) {
        while self.listen() {
            self.step();
        }
        self.batch.fail_all(&closed());
    }

    /// Takes what was sent; waits while there is nothing to compute. False ends the thread.
    fn listen(&mut self) -> bool {
        loop {
            let command = if self.batch.is_idle() { self.inbox.recv().ok() } else { self.inbox.try_recv().ok() };
            match command {
                Some(Command::Submit(id, request, vocabulary, sink)) => self.batch.add(id, *request, vocabulary, sink),
                Some(Command::Cancel(id)) => self.batch.cancel(id),
                Some(Command::Count(reply)) => drop(reply.send(self.batch.counts())),
                Some(Command::Close) => return false,
                None => return !self.batch.is_idle(),
            }
        }
    }

    fn step(&mut self) {
        let Ok(model) = self.model.read() else {
            return self.batch.fail_all(&broken());
        };
        let result = catch_unwind(AssertUnwindSafe(|| self.batch.step(&model)));
        if let Err(panic) = &result {
            self.batch.reset(&model.config, &Error::panicked("sample", &**panic));
        }
        self.cache_taken.store(self.batch.counts().touched * page_layout(&model.config).bytes(), Ordering::Relaxed);
        drop(model);
        match result {
            Ok(Err(error)) => self.batch.fail_all(&error),
            _ => self.batch.deliver(),
        }
    }
}
