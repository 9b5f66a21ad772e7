//! The `airlock` binary: parses, runs a verb, says how it ended.

mod cli;

use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bundler::{Error, Result, interrupt};
use clap::Parser as _;

/// Longest wait for what blocks on a disk after a verb has ended.
const LAST: Duration = Duration::from_secs(5);
/// Stack of the verb's thread, in bytes: as a main thread has it.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(cli::arguments()) {
        Ok(cli) => cli,
        // clap's own code for bad usage is 2, which here means "refused for trust".
        Err(error) => return ExitCode::from(cli::say_usage(error)),
    };
    let printer = cli.printer();
    let outcome = run(cli, printer.clone());
    interrupt::restore_terminal();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            ExitCode::from(cli::exit_code(&error))
        }
    }
}

/// Runs the verb in a thread of its own: work that blocks can't keep the process from ending.
fn run(cli: cli::Cli, printer: cli::Printer) -> Result<()> {
    let starting = |e: std::io::Error| Error::input("starting", e);
    let (end, ended) = channel();
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let outcome = verb(&cli, &printer, &end).map_err(starting).and_then(|outcome| outcome);
        // The process is ending already if nobody waits.
        let _ = end.send(outcome);
    });
    thread.map_err(starting)?;
    ended.recv().unwrap_or_else(|_| Err(Error::input("running", "the verb's thread panicked")))
}

fn verb(cli: &cli::Cli, printer: &cli::Printer, end: &Sender<Result<()>>) -> std::io::Result<Result<()>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(cli.run(printer, end.clone()));
    runtime.shutdown_timeout(LAST);
    Ok(outcome)
}
