//! The end of a verb that is asked to stop: its temporary files go, one sentence says what stays, and the exit code names the
//! signal.

use std::sync::mpsc::Sender;
use std::time::Duration;

use bundler::interrupt::{self, Signal};
use bundler::{Error, Kind, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for work that does not end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// Longest wait for the signal after a failure: Ctrl-C reaches helm too, which may end before it is heard here.
const ECHO: Duration = Duration::from_millis(50);
/// Time between two looks at the work that is to end.
const LOOK: Duration = Duration::from_millis(20);
/// Signals that ask a process to stop.
const SIGNALS: [(Signal, SignalKind); 3] = [
    (Signal::Interrupt, SignalKind::interrupt()),
    (Signal::Terminate, SignalKind::terminate()),
    (Signal::HangUp, SignalKind::hangup()),
];

/// A verb's work, for the sentence that is said when it is stopped.
#[derive(Clone, Copy)]
pub struct Doing {
    /// Its name, such as `verifying`.
    pub work: &'static str,
    /// The state that it leaves, and what the same command does next.
    pub left: &'static str,
}

impl Doing {
    fn stopped(self, by: Signal) -> Error {
        Error::input(self.work, format!("stopped by {}; {}", by.name(), self.left))
    }
}

/// Does the work of a verb until it ends, or the process is asked to stop. `end` ends the process, whatever the work does.
pub async fn stoppable(
    doing: Doing,
    end: Sender<Result<()>>,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (heard, signals) = tokio::sync::mpsc::unbounded_channel();
    for (name, kind) in listened() {
        let mut signal = signal(kind).map_err(|e| Error::input("waiting for signals", e))?;
        let heard = heard.clone();
        tokio::spawn(async move { while signal.recv().await.is_some() && heard.send(name).is_ok() {} });
    }
    tokio::spawn(watch(signals, doing, end));
    let outcome = tokio::select! {
        biased;
        outcome = work => outcome,
        signal = asked() => return Err(doing.stopped(signal)),
    };
    let Err(error) = outcome else { return Ok(()) };
    Err(match tokio::time::timeout(ECHO, interrupt::wait()).await {
        // Work that ends in its own way tells more: what became of each release.
        Ok(_) if error.kind() == Kind::Cluster && error.to_string().contains("stopped by ") => error,
        Ok(signal) => doing.stopped(signal),
        Err(_) => error,
    })
}

/// The signals that are not ignored: `nohup` and shells' background jobs are to go on as they would without us.
fn listened() -> impl Iterator<Item = (Signal, SignalKind)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    SIGNALS.into_iter().filter(move |(_, kind)| ignored >> (kind.as_raw_value() - 1) & 1 == 0)
}

/// Returns when the process is asked to stop, and no work is left that ends in its own way.
async fn asked() -> Signal {
    let signal = interrupt::wait().await;
    while interrupt::is_unbroken() {
        tokio::time::sleep(LOOK).await;
    }
    signal
}

/// Passes the first signal on. Ends the process where the work can't: in a wait for input, at the second signal, and where the
/// work does not end in time.
async fn watch(
    mut signals: tokio::sync::mpsc::UnboundedReceiver<Signal>,
    doing: Doing,
    end: Sender<Result<()>>,
) {
    let Some(first) = signals.recv().await else { return };
    interrupt::ask(first);
    let mut left = GRACE;
    while !left.is_zero() {
        tokio::select! {
            Some(second) = signals.recv() => {
                interrupt::ask(second);
                break;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if interrupt::is_idle() {
            break;
        }
        if !interrupt::is_unbroken() {
            left = left.saturating_sub(LOOK);
        }
    }
    // Nobody waits any more where the work has ended.
    let _ = end.send(Err(doing.stopped(interrupt::asked().unwrap_or(first))));
}
