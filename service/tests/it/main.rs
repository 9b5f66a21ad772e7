//! The service's own binary against a real Redis, both on loopback.

mod command;
mod counting;
mod http;
mod link;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that is ended when the test is over, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}

fn redis(port: u16, password: &str) -> Running {
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--requirepass", password, "--port", &port.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server must be installed (Debian: apt-get install redis-server)");
    let running = Running(child);
    eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    running
}

/// The service's environment is given whole: nothing of the caller's leaks in.
fn service(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.env_clear().envs(settings.iter().copied()).stdout(Stdio::piped());
    command
}

fn start(redis_port: u16, password: &str) -> (Running, u16) {
    let port = free_port();
    let child = service(&[
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &redis_port.to_string()),
        ("REDIS_PASSWORD", password),
        ("BIND_PORT", &port.to_string()),
    ])
    .spawn()
    .expect("the service starts");
    let running = Running(child);
    eventually("the service listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (running, port)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Status and whole answer of a GET.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    (status, answer)
}
