//! Threads that share one operation at a time.
//!
//! A decode step is hundreds of operations of some ten microseconds, one after another. Threads that sleep in between
//! cost more than the operations: these stay awake for a moment, then yield, and sleep only when nothing comes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle thread stays awake, and for how much of it it keeps its core to itself.
const AWAKE: Duration = Duration::from_micros(200);
const ALERT_SPINS: u32 = 2000;

type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// What the members work on. `open` is the number of the operation under way, 0 between operations.
struct Shared {
    body: UnsafeCell<Option<*const Body<'static>>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    open: AtomicU64,
    /// Members that may be looking at `body`.
    inside: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `body` is written only while no member is inside, and read only inside; see `Team::run` and `Shared::join_in`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes tasks of operation `number` until none are left. The order of all these atomics is one order: a member that
    /// finds the operation still open after it said that it is inside is waited for.
    fn join_in(&self, number: u64) {
        self.inside.fetch_add(1, SeqCst);
        if self.open.load(SeqCst) == number {
            // SAFETY: the operation is open and cannot end while this member is inside.
            let body = unsafe { *self.body.get() };
            if let Some(body) = body {
                // SAFETY: as above: what it points to lives until the operation has ended.
                let body = unsafe { &*body };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take(body))) {
                    self.next.store(usize::MAX / 2, SeqCst);
                    lock(&self.panic).get_or_insert(panic);
                }
            }
        }
        self.inside.fetch_sub(1, SeqCst);
    }

    fn take(&self, body: &Body) {
        let tasks = self.tasks.load(SeqCst);
        loop {
            let task = self.next.fetch_add(1, SeqCst);
            if task >= tasks {
                return;
            }
            body(task);
        }
    }

    /// A member's life.
    fn serve(&self) {
        let mut done = 0;
        loop {
            let number = self.wait(done);
            if self.stop.load(SeqCst) {
                return;
            }
            self.join_in(number);
            done = number;
        }
    }

    /// Waits for an operation other than `done`.
    fn wait(&self, done: u64) -> u64 {
        let news = || {
            let open = self.open.load(SeqCst);
            (self.stop.load(SeqCst) || (open != 0 && open != done)).then_some(open)
        };
        for _ in 0..ALERT_SPINS {
            if let Some(number) = news() {
                return number;
            }
            std::hint::spin_loop();
        }
        let start = Instant::now();
        while start.elapsed() < AWAKE {
            if let Some(number) = news() {
                return number;
            }
            std::thread::yield_now();
        }
        let mut asleep = lock(&self.asleep);
        *asleep += 1;
        loop {
            if let Some(number) = news() {
                *asleep -= 1;
                return number;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn rouse(&self) {
        if *lock(&self.asleep) > 0 {
            self.wake.notify_all();
        }
    }
}

/// Some threads, and whoever calls [`Team::run`].
pub struct Team {
    shared: Arc<Shared>,
    /// Held during an operation.
    busy: AtomicBool,
    operations: AtomicU64,
    members: Vec<JoinHandle<()>>,
}

impl Team {
    /// `threads` in all, the caller's included.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let shared = Arc::new(Shared {
            body: UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            open: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut team =
            Team { shared, busy: AtomicBool::new(false), operations: AtomicU64::new(0), members: Vec::new() };
        for _ in 1..threads {
            let shared = team.shared.clone();
            let member = std::thread::Builder::new().name("quintain".into()).spawn(move || shared.serve())?;
            team.members.push(member);
        }
        Ok(team)
    }

    /// Runs `body(0) .. body(tasks - 1)`, in any order. An operation within an operation, or beside one of another thread,
    /// runs on the calling thread alone. A panic in a task comes out here, after the others have ended.
    pub fn run(&self, tasks: usize, body: &Body) {
        if tasks <= 1 || self.members.is_empty() || self.busy.swap(true, SeqCst) {
            return (0..tasks).for_each(body);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes: `body` outlives the operation, which ends below, whatever happens.
        let body: *const Body<'static> = unsafe { std::mem::transmute::<*const Body, *const Body<'static>>(body) };
        // SAFETY: nobody is inside: the last operation waited for that, and none has been opened since.
        unsafe { *shared.body.get() = Some(body) };
        shared.tasks.store(tasks, SeqCst);
        shared.next.store(0, SeqCst);
        let number = self.operations.fetch_add(1, SeqCst) + 1;
        shared.open.store(number, SeqCst);
        shared.rouse();
        shared.join_in(number);
        shared.open.store(0, SeqCst);
        for spins in 0.. {
            if shared.inside.load(SeqCst) == 0 {
                break;
            }
            if spins < ALERT_SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = lock(&shared.panic).take();
        self.busy.store(false, SeqCst);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            // Whoever is about to sleep has the lock, and looks again after this.
            let _asleep = lock(&self.shared.asleep);
            self.shared.wake.notify_all();
        }
        for member in self.members.drain(..) {
            let _ = member.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads).unwrap();
            for round in 0..2000_usize {
                let tasks = round % 23;
                let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.run(tasks, &|task| _ = ran[task].fetch_add(1, SeqCst));
                assert!(ran.iter().all(|count| count.load(SeqCst) == 1), "{threads} threads, {tasks} tasks");
                if round % 500 == 0 {
                    // Long enough for the others to fall asleep.
                    std::thread::sleep(2 * AWAKE);
                }
            }
        }
    }

    #[test]
    fn operations_nest_and_run_beside_each_other() {
        let team = Team::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        team.run(4, &|outer| team.run(5, &|inner| _ = sum.fetch_add(outer * inner, SeqCst)));
                    }
                });
            }
        });
        assert_eq!(sum.load(SeqCst), 900 * (1 + 2 + 3) * (1 + 2 + 3 + 4));
    }

    #[test]
    fn a_panic_comes_out_and_leaves_a_usable_team() {
        let team = Team::new(2).unwrap();
        for task in [0, 7, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| team.run(100, &|at| assert_ne!(at, task, "task {task}"))));
            assert!(outcome.is_err());
            let ran = AtomicUsize::new(0);
            team.run(50, &|_| _ = ran.fetch_add(1, SeqCst));
            assert_eq!(ran.load(SeqCst), 50);
        }
    }
}
