//! What a command cost, as only its parent is told; and how soon a server serves.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::parts::Running;
use crate::sh::shown;

/// Longest wait for something that is measured.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a command between two files, and says: exit status, time, CPU time, largest resident set, 512-byte blocks written.
const MEASURE: &str = "import os, sys, time
i, o = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
dup, begin = os.POSIX_SPAWN_DUP2, time.monotonic()
pid = os.posix_spawnp(sys.argv[3], sys.argv[3:], os.environ, file_actions=[(dup, i, 0), (dup, o, 1)])
_, status, used = os.wait4(pid, 0)
print(status, time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss, used.ru_oublock)";

/// What a command and those that it waited for used.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// From start to end, in seconds.
    pub seconds: f64,
    /// User and system time, in seconds.
    pub cpu: f64,
    /// Largest resident set of one process, in KiB. Never less than python's own, some 8 MiB: the kernel counts what was there
    /// before the command.
    pub memory: f64,
    /// What was to be written to disk, also in files that are gone, in bytes.
    pub written: f64,
}

/// Runs a command to its end, its stdin and stdout being files.
///
/// # Errors
/// When it can't be started, or fails: with what it said.
pub fn measure(job: &Command, input: &Path, out: &Path) -> Result<Used, Failure> {
    let mut python = Command::new("python3");
    python.args(["-IS", "-c", MEASURE]).args([input, out]).arg(job.get_program()).args(job.get_args());
    python.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = job.get_current_dir() {
        python.current_dir(dir);
    }
    let done = python.output().map_err(|e| format!("starting python3: {e}"))?;
    let told = String::from_utf8_lossy(&done.stdout);
    let figures: Vec<f64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match figures[..] {
        [0.0, seconds, cpu, memory, blocks] => Ok(Used { seconds, cpu, memory, written: blocks * 512.0 }),
        _ => Err(format!("{}: it failed\n{}", shown(job), String::from_utf8_lossy(&done.stderr))),
    }
}

/// What a running process was to write to disk so far, in bytes.
///
/// # Errors
/// When it has ended.
pub fn written(pid: u32) -> Result<f64, Failure> {
    let file = format!("/proc/{pid}/io");
    let told = fs::read_to_string(&file).map_err(|e| format!("reading {file}: {e}"))?;
    let bytes = told.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    bytes.ok_or_else(|| format!("{file} says nothing of write_bytes"))
}

/// Starts a server, and asks for a blob until its first byte comes; the server, and how many seconds that took.
///
/// # Errors
/// When it ends before, or it takes too long.
pub fn start_to_first_byte(
    serve: &Command,
    log: &Path,
    host: &str,
    path: &str,
) -> Result<(Running, f64), Failure> {
    let begin = Instant::now();
    let mut server = Running::start(serve, log)?;
    while !first_byte(host, path) {
        server.still_runs()?;
        if begin.elapsed() > PATIENCE {
            return Err(format!("not in time: {} sends the first byte of a blob", shown(serve)));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok((server, begin.elapsed().as_secs_f64()))
}

/// Whether a registry sends the first byte of a blob.
fn first_byte(host: &str, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(host) else { return false };
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    if write!(stream, "GET /v2/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").is_err() {
        return false;
    }
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..length]);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if end.is_some_and(|end| answer.len() > end + 4) {
            return answer.starts_with(b"HTTP/1.1 200");
        }
    }
    false
}
