//! Requests to stop: SIGINT, SIGTERM and SIGHUP, as one flag that all stages see.
//!
//! The program listens for signals and calls [`ask`]. Asynchronous work is dropped then, and removes its files. Blocking loops
//! ask [`check`]. Work that must not break off in the middle holds an [`Unbroken`]. Waits for a person or a pipe, which nothing
//! can end, run in [`idle`]: the process may exit during them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// A signal by which a process is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// Signal that `kill`, systemd and `timeout` send.
    Terminate,
    /// The terminal is gone.
    HangUp,
}

impl Signal {
    /// Its name, as `kill -l` lists it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// The exit code of a process that it stopped: 128 and its number, as shells have it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::HangUp => 129,
        }
    }
}

static ASKED: LazyLock<watch::Sender<Option<Signal>>> = LazyLock::new(|| watch::Sender::new(None));
static UNBROKEN: AtomicUsize = AtomicUsize::new(0);
static IDLE: AtomicUsize = AtomicUsize::new(0);
/// The terminal's settings while a password is typed.
static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Asks everything to stop.
pub fn ask(signal: Signal) {
    ASKED.send_replace(Some(signal));
}

/// The signal by which this process was asked to stop, if it was.
#[must_use]
pub fn asked() -> Option<Signal> {
    *ASKED.borrow()
}

/// Returns when this process is asked to stop.
pub async fn wait() -> Signal {
    let mut asked = ASKED.subscribe();
    loop {
        if let Some(signal) = *asked.borrow_and_update() {
            return signal;
        }
        // The sender is a static.
        let _ = asked.changed().await;
    }
}

/// Ends a blocking loop when this process was asked to stop, and no [`Unbroken`] is held.
///
/// # Errors
/// When it is so.
pub(crate) fn check(doing: &str) -> Result<()> {
    asked()
        .filter(|_| !is_unbroken())
        .map_or(Ok(()), |by| Err(Error::input(doing, format!("stopped by {}", by.name()))))
}

/// Counts something that goes on, from its making to its end.
struct Counted(&'static AtomicUsize);

impl Counted {
    fn new(count: &'static AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Held by work that sees to its own end when it is asked to stop: nothing drops it in the middle.
pub struct Unbroken {
    _counted: Counted,
}

impl Unbroken {
    /// Begins such work.
    #[must_use]
    pub fn begin() -> Self {
        Self { _counted: Counted::new(&UNBROKEN) }
    }
}

/// Reports whether an [`Unbroken`] is held.
#[must_use]
pub fn is_unbroken() -> bool {
    UNBROKEN.load(Ordering::SeqCst) > 0
}

/// Runs a wait that can't be ended, such as for input. The process may exit in it: there must be no file to remove.
pub fn idle<T>(wait: impl FnOnce() -> T) -> T {
    let _counted = Counted::new(&IDLE);
    wait()
}

/// Reports whether the process waits in [`idle`].
#[must_use]
pub fn is_idle() -> bool {
    IDLE.load(Ordering::SeqCst) > 0
}

/// As [`idle`], for a password that is typed at the terminal without echo.
pub(crate) fn prompt<T>(ask: impl FnOnce() -> T) -> T {
    let terminal = || TERMINAL.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::fs::File::open("/dev/tty").ok().and_then(|tty| tcgetattr(tty).ok());
    *terminal() = before;
    let answer = idle(ask);
    terminal().take();
    answer
}

/// Puts the terminal's echo back, if a password was being typed. For the process's exit.
pub fn restore_terminal() {
    let before = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(before), Ok(tty)) = (before, std::fs::File::open("/dev/tty")) {
        let _ = tcsetattr(tty, OptionalActions::Now, &before);
    }
}
