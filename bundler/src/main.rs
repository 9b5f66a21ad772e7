//! The `airlock` binary: parses, runs a verb, says how it ended.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(cli::arguments()) {
        Ok(cli) => cli,
        // clap's own code for bad usage is 2, which here means "refused for trust".
        Err(error) => {
            cli::say_usage(&error);
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let printer = cli.printer();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(cli.run(&printer)),
        Err(error) => Err(bundler::Error::input("starting", error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}
