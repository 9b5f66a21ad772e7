//! A line on which each connection is slow and all of them together are not, as to a registry far away.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::Failure;

/// What a connection brings in a second, in bytes.
const RATE: f64 = 25e6;

/// Forwards connections to `to` for as long as the process runs; the address to connect to instead.
///
/// # Errors
/// When there is no port to listen at.
pub fn throttled(to: &str) -> Result<String, Failure> {
    let failed = |e| format!("setting up a slow line: {e}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let to = to.to_owned();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // A connection that can't be made is closed, and its client says so.
            if let Ok(far) = TcpStream::connect(&to)
                && let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone())
            {
                std::thread::spawn(move || forward(near, far, f64::INFINITY));
                std::thread::spawn(move || forward(far_too, near_too, RATE));
            }
        }
    });
    Ok(address)
}

/// Forwards what comes, until one of the sides has ended.
fn forward(mut from: TcpStream, mut to: TcpStream, rate: f64) {
    let mut buffer = [0; 64 << 10];
    let mut free = Instant::now();
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        // What was not used is not saved up.
        free = free.max(Instant::now()) + Duration::from_secs_f64(length as f64 / rate);
        std::thread::sleep(free.saturating_duration_since(Instant::now()));
    }
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
